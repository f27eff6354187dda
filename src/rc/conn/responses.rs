//! The two response rings.

use super::Conn;
use crate::native::{NativeQp, Nic};
use crate::rc::msg::{self, Header, LINE};

impl Conn {
    /// As `request_waits`, for the response ring.
    #[inline]
    pub(super) fn response_waits(&self) -> bool {
        let off = msg::RESPONSE + (self.in_slot * self.in_slots.0) as usize * LINE;
        self.win.load32(off) == self.in_seq.wrapping_add(1)
    }

    /// The next response, and where its payload begins.
    #[inline]
    pub fn next_response(&self) -> Option<(Header, usize)> {
        let hello = self.hello?;
        let seq = self.in_seq.wrapping_add(1);
        let off = msg::RESPONSE + (self.in_slot * self.in_slots.0) as usize * LINE;
        let h = msg::arrived(
            &self.win,
            off,
            msg::RESPONSE + msg::RESPONSE_LINES as usize * LINE,
            seq,
            hello.nonce,
            true,
        )?;
        Some((h, off + msg::HEADER))
    }

    /// Steps over the response that `next_response` showed.
    pub fn consumed_response(&mut self, h: &Header) {
        self.in_seq = h.seq;
        self.in_slot = (self.in_slot + 1) % self.in_slots.1;
    }

    /// A place in staging for a response.
    pub fn begin_response<N: Nic>(&mut self, nic: &mut N, qp: &mut NativeQp) -> Option<usize> {
        if qp.free_slots() < 2 {
            return None;
        }
        self.say_hello(nic, qp);
        Some(msg::STAGE_RESPONSE + (self.out_slot * self.out_slots().0) as usize * LINE)
    }

    /// Sends it. Who waits for a response looks by itself; `notify` is for the others.
    pub fn commit_response<N: Nic>(
        &mut self,
        nic: &mut N,
        qp: &mut NativeQp,
        off: usize,
        kind: u8,
        len: u32,
        aux: u32,
        bytes: usize,
        notify: bool,
    ) {
        let lines = msg::lines_for(bytes);
        self.out_seq = self.out_seq.wrapping_add(1);
        self.out_slot = (self.out_slot + 1) % self.out_slots().1;
        let h = Header {
            seq: self.out_seq,
            kind,
            flags: 0,
            lines: lines as u16,
            len,
            aux,
        };
        msg::seal(&self.win, off, &h, self.nonce, true);
        let remote = self.peer + (off - msg::STAGE_RESPONSE + msg::RESPONSE) as u64;
        self.write(
            nic,
            qp,
            self.base + off as u64,
            remote,
            lines * LINE as u32,
            self.peer_number,
            notify,
        );
    }
}
