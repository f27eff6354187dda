//! Memory regions: registration, and deregistration in two steps.

use super::super::mr::{Kind, Mr, check_access};
use super::super::queue::Stage;
use super::super::types::{Errno, MrInfo, Result};
use super::{Engine, limits};
use crate::native::Nic;
use crate::rc::msg;
use kernel_abi::verbs::{access, wr_opcode};

impl<N: Nic> Engine<N> {
    pub fn reg_mr(
        &mut self,
        pd: u32,
        addr: u64,
        len: u64,
        iova: u64,
        access: u32,
    ) -> Result<MrInfo> {
        check_access(access, self.env.nic.features().no_pin)?;
        if addr == 0 && len == u64::MAX && access & access::ON_DEMAND != 0 {
            return self.reg_implicit(pd, access);
        }
        if len == 0
            || len > limits::MAX_MR_SIZE
            || addr.checked_add(len).is_none()
            || iova.checked_add(len).is_none()
        {
            return Err(Errno::EINVAL);
        }
        self.use_pd(pd, true)?;
        let made = self.make_mr(pd, addr, len, iova, access);
        if made.is_err() {
            self.use_pd(pd, false)?;
        }
        made
    }

    fn make_mr(&mut self, pd: u32, addr: u64, len: u64, iova: u64, access: u32) -> Result<MrInfo> {
        let key = self.env.mrs.reserve()?;
        let device = match self
            .env
            .nic
            .map(addr, len, access & access::LOCAL_WRITE != 0)
        {
            Ok(d) => d,
            Err(e) => {
                self.env.mrs.release(key >> 8);
                return Err(e);
            }
        };
        let iova = if access & access::ZERO_BASED != 0 {
            0
        } else {
            iova
        };
        let mr = Mr {
            kind: Kind::Plain,
            windows: 0,
            pd,
            addr,
            len,
            iova,
            access,
            key,
            device,
            dying: false,
            resolvers: Vec::new(),
            revoking: 0,
        };
        let handle = self.env.mrs.insert(Box::new(mr));
        Ok(MrInfo {
            handle,
            lkey: key,
            rkey: key,
        })
    }

    /// First step of deregistration: no new use, and the peers are told. `dereg_done` says when the second may follow.
    pub fn dereg_begin(&mut self, handle: u32) -> Result<()> {
        let mr = self.env.mrs.get_mut(handle)?;
        if mr.windows != 0 {
            return Err(Errno::EBUSY);
        }
        if mr.dying {
            // A window that is being unbound goes all the same; its peers have been told.
            return match mr.kind {
                Kind::Window(_) => Ok(()),
                _ => Err(Errno::EINVAL),
            };
        }
        mr.dying = true;
        let key = mr.key;
        let resolvers = std::mem::take(&mut mr.resolvers);
        let mut told = 0;
        for r in resolvers {
            if let Some(Some(qp)) = self.qps.get_mut(r as usize)
                && let Some(c) = qp.conn.as_mut()
            {
                c.revoke_queue.push_back(key);
                told += 1;
                self.activate(r);
            }
        }
        if let Ok(mr) = self.env.mrs.get_mut(handle) {
            mr.revoking = told;
        }
        if told != 0 {
            self.progress();
        }
        Ok(())
    }

    /// Nobody uses the key any more: no peer, and no request of ours that is under way (hazards 6 and 7).
    pub fn dereg_done(&self, handle: u32) -> bool {
        let Ok(mr) = self.env.mrs.get(handle) else {
            return true;
        };
        mr.revoking == 0 && !self.key_under_way(mr.key)
    }

    fn key_under_way(&self, key: u32) -> bool {
        self.qps
            .iter()
            .flatten()
            .filter(|q| q.native.connected)
            .any(|q| {
                let mut i = q.sq.head;
                while i != q.sq.issued {
                    let e = q.sq.at(i);
                    // A copied SEND needs its memory no more; payload of a large one and data before an IMM may still be on their way.
                    let reads = match e.stage {
                        Stage::Native | Stage::Rendezvous | Stage::Answer => true,
                        Stage::Ack => {
                            e.len > msg::EAGER_MAX as u64
                                || e.opcode == wr_opcode::RDMA_WRITE_WITH_IMM
                        }
                        _ => false,
                    };
                    if reads && q.sq.sges(i).iter().any(|s| s.lkey == key && s.length != 0) {
                        return true;
                    }
                    i = i.wrapping_add(1);
                }
                // Receives whose addresses a peer has been given.
                q.conn.as_ref().is_some_and(|c| {
                    c.inbound
                        .iter()
                        .filter(|x| !x.finished)
                        .any(|x| q.rq.sges(x.receive).iter().any(|s| s.lkey == key))
                })
            })
    }

    pub fn dereg_finish(&mut self, handle: u32) -> Result<()> {
        self.env.finish_unbind(handle);
        let mr = self.env.mrs.release(handle).ok_or(Errno::EINVAL)?;
        self.use_pd(mr.pd, false)?;
        self.drop_region(*mr)
    }
}
