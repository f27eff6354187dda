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
            echo: self.hello.map_or(0, |h| msg::mark(h.nonce)),
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

    /// Looks for the peer's HELLO. True when somebody speaks to us; Err when what it says does not fit.
    #[inline]
    pub fn hear_hello(&mut self) -> Result<bool, Errno> {
        if self.hello.is_some() {
            return Ok(true);
        }
        self.look_for_hello()
    }

    #[cold]
    fn look_for_hello(&mut self) -> Result<bool, Errno> {
        let Some(h) = self.greeting() else {
            return Ok(false);
        };
        if self.is_meant(&h) {
            self.agree(h)?;
        }
        // Who speaks to an earlier connection of this number must hear that there is another one now.
        Ok(true)
    }

    /// What lies in the mailbox, from the peer's number to ours.
    fn greeting(&self) -> Option<Hello> {
        // Others are left over from an earlier owner of one of the numbers.
        Hello::load(&self.win)
            .filter(|h| h.from == self.peer_number && h.to == self.my_number && h.nonce != 0)
    }

    /// Its sender knows of no connection of ours, or of this one.
    fn is_meant(&self, h: &Hello) -> bool {
        h.echo == 0 || h.echo == msg::mark(self.nonce)
    }

    /// Takes the peer as `h` describes it.
    fn agree(&mut self, h: Hello) -> Result<(), Errno> {
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
        // A peer that has not heard of this connection does not know who answers it. (Our HELLO may have come before it was there.)
        self.hello_sent &= h.echo == msg::mark(self.nonce);
        Ok(())
    }

    /// The peer's QP has been reset and connected again since we agreed with it: its HELLO.
    #[inline]
    pub fn newcomer(&self) -> Option<Hello> {
        let known = self.hello?.nonce;
        if self.win.load64(msg::HELLO + 8) == known {
            return None;
        }
        self.greeting()
            .filter(|h| h.nonce != known && self.is_meant(h))
    }

    /// Goes on with a peer that began anew, as if there had not been another one. False when something has passed between us and that.
    pub fn adopt(&mut self, h: Hello) -> Result<bool, Errno> {
        let untouched = self.is_unheeded() && self.rx_seq == 0 && self.in_seq == 0;
        if untouched {
            self.agree(h)?;
            // The count of receives in our mailbox may be the other one's.
            if let Some(h) = &mut self.hello {
                h.features |= msg::feature::SHARED_RECEIVES;
            }
            self.ack_dirty = true;
        }
        Ok(untouched)
    }

    /// A new connection in place of one whose peer began anew.
    pub fn succeed(&mut self, h: Hello, lines: u32) -> Result<(), Errno> {
        self.lines = lines;
        self.agree(h)?;
        self.hello_sent = false;
        Ok(())
    }
}
