//! The two request rings: credit, sending, taking.

use super::Conn;
use crate::native::{NativeQp, Nic};
use crate::rc::msg::{self, Header, LINE, flag, kind};

impl Conn {
    /// Lines that may be sent now.
    fn credit(&self) -> u32 {
        self.lines - self.tx_lines.wrapping_sub(self.ack.freed).min(self.lines)
    }

    /// Finds room for a request with `len` bytes behind the header: its offset in staging. None: no credit or no native slots now.
    #[inline]
    pub fn begin<N: Nic>(&mut self, nic: &mut N, qp: &mut NativeQp, len: usize) -> Option<usize> {
        let lines = msg::lines_for(len);
        let rest = self.lines - self.tx_line;
        // What skips to the start goes as soon as it can: together with a long message it may want more than the whole ring.
        let first = if lines > rest { rest } else { lines };
        if self.credit() < first || qp.free_for_requests() < 3 || self.repeats(qp) {
            return None;
        }
        self.say_hello(nic, qp);
        if lines > rest {
            let off = msg::STAGE_REQUEST + self.tx_line as usize * LINE;
            self.tx_seq = self.tx_seq.wrapping_add(1);
            let h = Header {
                seq: self.tx_seq,
                kind: kind::PAD,
                lines: rest as u16,
                ..Header::default()
            };
            self.send_sealed(nic, qp, off, &h, LINE as u32, rest);
            if self.credit() < lines {
                return None;
            }
        }
        Some(msg::STAGE_REQUEST + self.tx_line as usize * LINE)
    }

    /// Sends the request whose payload stands in staging at `off` (from `begin`): its sequence number.
    #[inline]
    pub fn commit<N: Nic>(
        &mut self,
        nic: &mut N,
        qp: &mut NativeQp,
        off: usize,
        kind: u8,
        flags: u8,
        len: u32,
        aux: u32,
        bytes: usize,
    ) -> u32 {
        let lines = msg::lines_for(bytes);
        if self.outstanding() == 0 {
            self.waiting_since = 0;
        }
        self.tx_seq = self.tx_seq.wrapping_add(1);
        let h = Header {
            seq: self.tx_seq,
            kind,
            flags,
            lines: lines as u16,
            len,
            aux,
        };
        self.send_sealed(nic, qp, off, &h, lines * LINE as u32, lines);
        self.tx_seq
    }

    fn send_sealed<N: Nic>(
        &mut self,
        nic: &mut N,
        qp: &mut NativeQp,
        off: usize,
        h: &Header,
        bytes: u32,
        lines: u32,
    ) {
        msg::seal(&self.win, off, h, self.nonce, false);
        let notify = self.must_notify(h.seq);
        if notify {
            self.notified = h.seq;
        } else {
            self.age_notified(h.seq);
        }
        let remote = self.peer + (off - msg::STAGE_REQUEST + msg::REQUEST) as u64;
        self.write(
            nic,
            qp,
            self.base + off as u64,
            remote,
            bytes,
            self.peer_number,
            notify,
        );
        self.tx_lines = self.tx_lines.wrapping_add(lines);
        self.tx_line += lines;
        if self.tx_line >= self.lines {
            self.tx_line = 0;
        }
    }

    /// Not one request has been consumed.
    pub(super) fn is_unheeded(&self) -> bool {
        self.ack.acked == 0 && self.ack.freed == 0
    }

    /// Writes all requests again where they were written before, when none has been heeded: perhaps they came to an earlier connection of
    /// the peer's number and went with it. A peer that has them finds the same bytes.
    pub(super) fn repeat_requests<N: Nic>(&mut self, nic: &mut N, qp: &mut NativeQp) {
        let mut line = 0;
        while line < self.tx_lines.min(self.lines) && qp.free_for_requests() > 3 {
            let at = line as usize * LINE;
            let h = Header::from_words(self.win.load64(msg::STAGE_REQUEST + at), 0);
            let lines = u32::from(h.lines).clamp(1, self.lines - line);
            let bytes = if h.kind == kind::PAD { 1 } else { lines } * LINE as u32;
            let (from, to) = (
                self.base + (msg::STAGE_REQUEST + at) as u64,
                self.peer + (msg::REQUEST + at) as u64,
            );
            self.write(nic, qp, from, to, bytes, self.peer_number, false);
            line += lines;
            self.repeated = Some(qp.pi);
        }
    }

    /// What was written a second time is still on its way.
    #[inline]
    fn repeats(&mut self, qp: &NativeQp) -> bool {
        let Some(end) = self.repeated else {
            return false;
        };
        if qp.is_under_way(end) {
            return true;
        }
        self.repeated = None;
        false
    }

    /// The next request, if it has wholly arrived, and where its payload begins in the mailbox.
    #[inline]
    pub fn next_request(&self) -> Option<(Header, usize)> {
        let off = msg::REQUEST + self.rx_line as usize * LINE;
        let nonce = self.hello?.nonce;
        let h = msg::arrived(
            &self.win,
            off,
            msg::REQUEST + self.lines as usize * LINE,
            self.rx_seq.wrapping_add(1),
            nonce,
            false,
        )?;
        Some((h, off + msg::HEADER))
    }

    /// A request lies at the head of the ring (cheap look, without its trailer).
    #[inline]
    pub fn request_waits(&self) -> bool {
        self.win.load32(msg::REQUEST + self.rx_line as usize * LINE) == self.rx_seq.wrapping_add(1)
    }

    /// Steps over the request that `next_request` showed.
    #[inline]
    pub fn consumed(&mut self, h: &Header) {
        self.rx_seq = h.seq;
        let lines = u32::from(h.lines);
        self.freed = self.freed.wrapping_add(lines);
        self.rx_line += lines;
        if self.rx_line >= self.lines {
            self.rx_line = 0;
        }
        self.ack_dirty = true;
        self.ack_wake |= h.flags & flag::WAKE != 0;
        self.executed = match self.inbound.front() {
            Some(i) => i.seq.wrapping_sub(1),
            None => self.rx_seq,
        };
    }
}
