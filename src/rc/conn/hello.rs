//! The greeting: who we are, and whether the peer fits.

use super::Conn;
use crate::native::{NativeQp, Nic};
use crate::rc::msg::{self, Hello};
use crate::verbs::types::Errno;

impl Conn {
    /// HELLO goes before anything else that we say. Needs a native slot.
    pub fn say_hello<N: Nic>(&mut self, nic: &mut N, qp: &mut NativeQp) {
        if self.hello_sent {
            return;
        }
        let h = Hello {
            version: msg::VERSION,
            nonce: self.nonce,
            from: self.my_number,
            to: self.peer_number,
            request_lines: self.lines,
            response_lines: msg::RESPONSE_LINES,
            eager_max: msg::EAGER_MAX as u32,
            max_recv_sge: self.max_recv_sge,
            max_dest_rd_atomic: self.max_dest_rd_atomic,
            features: self.features,
        };
        h.stage(&self.win);
        let (l, r) = (
            self.base + msg::STAGE_HELLO as u64,
            self.peer + msg::HELLO as u64,
        );
        self.write(
            nic,
            qp,
            l,
            r,
            msg::HELLO_BYTES as u32,
            self.peer_number,
            true,
        );
        self.hello_sent = true;
    }

    /// Looks for the peer's HELLO. Err when it does not fit ours.
    #[inline]
    pub fn hear_hello(&mut self) -> Result<bool, Errno> {
        if self.hello.is_some() {
            return Ok(true);
        }
        self.look_for_hello()
    }

    #[cold]
    fn look_for_hello(&mut self) -> Result<bool, Errno> {
        let Some(h) = Hello::load(&self.win) else {
            return Ok(false);
        };
        if h.from != self.peer_number || h.to != self.my_number {
            // Left over from an earlier owner of one of the numbers: not ours.
            return Ok(false);
        }
        let fits = h.version == msg::VERSION
            && h.request_lines == self.lines
            && h.response_lines == msg::RESPONSE_LINES
            && h.eager_max as usize == msg::EAGER_MAX
            && msg::feature::fit(self.features, h.features);
        if !fits || h.max_recv_sge as usize > msg::MAX_SGE {
            log::error!(
                "QP {:#x}: the peer {:#x} is of another type, or its protocol version {} has another geometry; ours is {}",
                self.my_number,
                self.peer_number,
                h.version,
                msg::VERSION
            );
            return Err(Errno::EPROTO);
        }
        let lines = Conn::slot_lines(h.max_recv_sge);
        self.in_slots = (lines, msg::RESPONSE_LINES / lines);
        self.hello = Some(h);
        Ok(true)
    }
}
