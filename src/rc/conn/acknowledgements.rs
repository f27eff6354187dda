//! The ack line, the promise to look, and the abort word.

use super::Conn;
use crate::native::{NativeQp, Nic, Write};
use crate::rc::msg::{self, AckLine};

impl Conn {
    /// The peer is cold and has no notification on its way: request `seq` must carry one. Both marks lie behind `seq`, perhaps by more than half of
    /// the circle when neither end rests for long, so it is their distances that are compared.
    #[inline]
    pub(super) fn must_notify(&self, seq: u32) -> bool {
        let armed = (self.win.load64(msg::ACK + 8) >> 32) as u32;
        seq.wrapping_sub(self.notified) >= seq.wrapping_sub(armed)
    }

    /// Keeps the mark of the newest notification from being overtaken by the circle. It may move up to where the peer cannot have armed
    /// unseen: the ring is shorter than that.
    #[inline]
    pub(super) fn age_notified(&mut self, seq: u32) {
        const OLD: u32 = 1 << 30;
        if seq.wrapping_sub(self.notified) > OLD {
            self.notified = seq.wrapping_sub(OLD / 2);
        }
    }

    /// After ringing: did the peer turn cold behind our back? Then a notification by itself (design, "Hot and armed").
    #[inline]
    pub fn recheck<N: Nic>(&mut self, nic: &mut N, qp: &mut NativeQp) {
        let armed = (self.win.load64(msg::ACK + 8) >> 32) as u32;
        if armed != self.tx_seq
            && self.tx_seq.wrapping_sub(self.notified) >= self.tx_seq.wrapping_sub(armed)
            && qp.free_slots() > 1
        {
            self.notified = self.tx_seq;
            self.poke(nic, qp);
        }
    }

    /// A notification without a message: the ack line once more, with a responder CQE.
    fn poke<N: Nic>(&mut self, nic: &mut N, qp: &mut NativeQp) {
        self.stage_ack();
        let (l, r) = (
            self.base + msg::STAGE_ACK as u64,
            self.peer + msg::ACK as u64,
        );
        self.write(nic, qp, l, r, msg::ACK_BYTES as u32, self.peer_number, true);
        nic.ring(qp);
        self.unrung = false;
    }

    /// Does the peer still answer, and is it still the same? All that we sent has been written, and yet it may have gone before it looked, or
    /// have been reset after we wrote. The device knows the one, once it has something to write again; of the other the peer's HELLO will
    /// tell, when ours comes again. Needs three native slots.
    pub fn probe<N: Nic>(&mut self, nic: &mut N, qp: &mut NativeQp) {
        if self.is_unheeded() {
            self.repeat_requests(nic, qp);
        }
        self.hello_sent = false;
        self.say_hello(nic, qp);
        self.stage_ack();
        self.ask_for_completion(nic, qp);
        nic.ring(qp);
        self.unrung = false;
    }

    /// Writes the ack line as it was last staged, for the sake of the completion: what was posted before is done by then.
    pub fn ask_for_completion<N: Nic>(&mut self, nic: &mut N, qp: &mut NativeQp) {
        nic.post(
            qp,
            &Write {
                local: self.base + msg::STAGE_ACK as u64,
                remote: self.peer + msg::ACK as u64,
                len: msg::ACK_BYTES as u32,
                tag: 0,
                notify_remote: false,
                notify_local: true,
            },
        );
        self.unrung = true;
    }

    fn stage_ack(&self) {
        let echo = self.hello.map_or(0, |h| h.nonce);
        let line = AckLine {
            acked: self.executed,
            freed: self.freed,
            posted: self.posted,
            armed: self.armed,
            nak_code: self.nak.0,
            nak_timer: self.nak.1,
            nak_seq: self.nak.2,
            echo,
        };
        line.stage(&self.win);
    }

    /// Writes our ack line to the peer, if there is news and a native slot.
    #[inline]
    pub fn flush_ack<N: Nic>(&mut self, nic: &mut N, qp: &mut NativeQp) {
        if !self.ack_dirty || qp.free_slots() == 0 || self.hello.is_none() {
            return;
        }
        self.stage_ack();
        let wake = std::mem::take(&mut self.ack_wake);
        let (l, r) = (
            self.base + msg::STAGE_ACK as u64,
            self.peer + msg::ACK as u64,
        );
        self.write(nic, qp, l, r, msg::ACK_BYTES as u32, self.peer_number, wake);
        self.ack_dirty = false;
    }

    /// Cold, and the promise is for the next request: one that was held back at the head of the ring (no receive, no room for an
    /// answer) was notified long ago, so that executing it later must renew the promise.
    #[inline]
    pub fn rests(&self) -> bool {
        self.cold && self.armed == self.rx_seq
    }

    /// Turning cold: the peer must notify us from the next request on. The caller scans once more afterwards.
    pub fn go_cold<N: Nic>(&mut self, nic: &mut N, qp: &mut NativeQp) {
        if self.rests() || qp.free_slots() == 0 || self.hello.is_none() {
            return;
        }
        self.cold = true;
        self.armed = self.rx_seq;
        self.ack_dirty = true;
        self.flush_ack(nic, qp);
        nic.ring(qp);
        self.unrung = false;
    }

    /// Marks requests from `seq` on as void: the responder must not execute them any more.
    pub fn abort_from<N: Nic>(&mut self, nic: &mut N, qp: &mut NativeQp, seq: u32) {
        if qp.free_slots() == 0 {
            return;
        }
        self.win.store64(
            msg::STAGE_ABORT,
            (self.nonce & !0xffff_ffff) | u64::from(seq),
        );
        let (l, r) = (
            self.base + msg::STAGE_ABORT as u64,
            self.peer + msg::ABORT as u64,
        );
        self.write(nic, qp, l, r, 8, self.peer_number, false);
        nic.ring(qp);
        self.unrung = false;
    }

    /// The peer gave up on this request.
    pub fn aborted(&self, seq: u32) -> bool {
        let w = self.win.load64(msg::ABORT);
        let Some(h) = self.hello else { return false };
        w != 0 && w >> 32 == h.nonce >> 32 && msg::reached(seq, w as u32)
    }
}
