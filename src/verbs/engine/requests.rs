//! Work requests: checked, queued and issued.

use super::super::types::{Errno, Result, SendWr, Sge};
use super::Engine;
use crate::native::Nic;
use crate::rc;
use kernel_abi::verbs::{qps, qpt, send_flag, wr_opcode};

impl<N: Nic> Engine<N> {
    #[inline]
    pub fn post_send(&mut self, handle: u32, wr: &SendWr<'_>) -> Result<()> {
        let Some(Some(qp)) = self.qps.get_mut(handle as usize) else {
            return Err(Errno::EINVAL);
        };
        match qp.state {
            qps::RTS | qps::SQD | qps::SQE | qps::ERR => {}
            _ => return Err(Errno::EINVAL),
        }
        check_send(wr)?;
        if qp.qp_type != qpt::RC {
            check_type(qp.qp_type, wr)?;
        }
        if qp.native.connected && qp.sq.tail == qp.sq.head && !qp.active {
            self.active.push(handle);
            qp.active = true;
        }
        let qp = match self.qps.get_mut(handle as usize) {
            Some(Some(q)) => q,
            _ => return Err(Errno::EINVAL),
        };
        qp.sq.push(wr)?;
        qp.idle = 0;
        self.env.provide_all(wr.sges);
        Ok(())
    }

    /// Where the send queue of a QP ends now, for `unpost`.
    pub fn posted(&mut self, handle: u32) -> Result<u32> {
        Ok(self.qp(handle)?.sq.tail)
    }

    /// Takes back what was posted since `posted` answered `tail`, before any `kick`.
    pub fn unpost(&mut self, handle: u32, tail: u32) {
        if let Ok(qp) = self.qp(handle) {
            qp.sq.tail = tail;
        }
    }

    /// True when a message waits for it: `kick` then.
    #[inline]
    pub fn post_recv(&mut self, handle: u32, wr_id: u64, sges: &[Sge]) -> Result<bool> {
        let mut blocked = false;
        let Some(Some(qp)) = self.qps.get_mut(handle as usize) else {
            return Err(Errno::EINVAL);
        };
        if qp.state == qps::RESET || qp.source.is_some() || qp.qp_type == qpt::XRC_INI {
            return Err(Errno::EINVAL);
        }
        qp.rq.push(wr_id, sges)?;
        self.env.provide_all(sges);
        match &mut qp.conn {
            Some(c) => {
                c.posted = c.posted.wrapping_add(1);
                c.drop_at = 0;
                blocked = c.rnr_blocked;
                if blocked {
                    self.activate(handle);
                }
            }
            None if qp.state == qps::ERR => {
                qp.flush(&mut self.env);
                self.settle();
            }
            None if qp.ud.as_ref().is_some_and(|p| p.hungry) => blocked = true,
            None => {}
        }
        Ok(blocked)
    }

    /// After a list of work requests: issue them.
    #[inline]
    pub fn kick(&mut self, handle: u32) {
        if let Some(Some(qp)) = self.qps.get_mut(handle as usize) {
            if qp.state == qps::ERR || qp.state == qps::SQE {
                qp.flush(&mut self.env);
            } else if qp.conn.as_ref().is_some_and(|c| c.rnr_blocked) {
                rc::pump(qp, &mut self.env);
            } else if qp.conn.is_some() {
                rc::push(qp, &mut self.env);
            } else if qp.ud.is_some() {
                self.kick_datagram(handle);
            } else {
                self.send_without_peer(handle);
            }
        }
        if !self.env.raise.is_empty() || !self.env.revoke.is_empty() {
            self.settle();
        }
    }
}

#[inline]
fn check_send(wr: &SendWr<'_>) -> Result<()> {
    let known = send_flag::FENCE | send_flag::SIGNALED | send_flag::SOLICITED | send_flag::INLINE;
    if wr.flags & !known != 0 {
        return Err(Errno::EINVAL);
    }
    let inline = wr.flags & send_flag::INLINE != 0;
    match wr.opcode {
        wr_opcode::SEND
        | wr_opcode::SEND_WITH_IMM
        | wr_opcode::RDMA_WRITE
        | wr_opcode::RDMA_WRITE_WITH_IMM => Ok(()),
        wr_opcode::RDMA_READ | wr_opcode::ATOMIC_CMP_AND_SWP | wr_opcode::ATOMIC_FETCH_AND_ADD
            if !inline =>
        {
            Ok(())
        }
        wr_opcode::SEND_WITH_INV | wr_opcode::ATOMIC_WRITE => Ok(()),
        wr_opcode::LOCAL_INV | wr_opcode::BIND_MW if !inline && wr.sges.is_empty() => Ok(()),
        _ => Err(Errno::EINVAL),
    }
}

/// What the other connected types can do: no READs and atomics on UC, nothing at all on XRC receive QPs.
#[cold]
fn check_type(qp_type: u32, wr: &SendWr<'_>) -> Result<()> {
    let known = match qp_type {
        qpt::UC => matches!(
            wr.opcode,
            wr_opcode::SEND
                | wr_opcode::SEND_WITH_IMM
                | wr_opcode::SEND_WITH_INV
                | wr_opcode::RDMA_WRITE
                | wr_opcode::RDMA_WRITE_WITH_IMM
                | wr_opcode::BIND_MW
                | wr_opcode::LOCAL_INV
        ),
        qpt::XRC_TGT => false,
        _ => true,
    };
    if known { Ok(()) } else { Err(Errno::EINVAL) }
}
