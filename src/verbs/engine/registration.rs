//! Memory regions: registration, and deregistration in two steps.

use super::super::mr::{Kind, Mr, check_access};
use super::super::qp::Qp;
use super::super::types::{Errno, MrInfo, Result};
use super::{Engine, limits};
use crate::native::Nic;
use crate::rc::conn::Conn;
use crate::rc::requester;
use kernel_abi::verbs::{access, wc_status};

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
        let key = self.env.mrs.reserve(false)?;
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
            mr.revoking += told;
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
        self.qps.iter().flatten().any(|q| q.uses(key))
    }

    /// The key goes although somebody still holds it, a process that stands still: the device addresses behind it may soon be
    /// those of other memory, so whoever could still use it loses the connection (hazard 6).
    pub fn dereg_give_up(&mut self, handle: u32) {
        if let Ok(mr) = self.env.mrs.get(handle) {
            let key = mr.key;
            self.cut_off(key);
            self.settle();
        }
    }

    pub(in crate::verbs) fn cut_off(&mut self, key: u32) {
        for qp in self.qps.iter_mut().flatten() {
            let holds = |c: &Conn| c.revoking == Some(key) || c.revoke_queue.contains(&key);
            if !(qp.conn.as_deref().is_some_and(holds) || qp.uses(key)) {
                continue;
            }
            log::warn!(
                "QP {:#x}: cut off, the peer did not give key {key:#x} up in time",
                qp.number()
            );
            if let Some(mut c) = qp.conn.take() {
                requester::fatal(qp, &mut c, &mut self.env, wc_status::RETRY_EXC_ERR);
                qp.conn = Some(c);
                qp.connection_over(&mut self.env);
            }
        }
        // The request that unbinds a window may have gone with its connection.
        let window = |w: &Mr| w.dying && matches!(w.kind, Kind::Window(_));
        if self.env.mrs.by_key(key).is_ok_and(window) {
            self.env.finish_unbind(key >> 8);
        }
    }

    /// A QP no longer grants RDMA WRITE: its peer must forget the keys that it resolved through it.
    pub(super) fn withdraw_keys(&mut self, qp: &mut Qp) {
        let Some(c) = qp.conn.as_mut() else { return };
        for mr in self.env.mrs.all_mut() {
            if let Some(at) = mr.resolvers.iter().position(|&r| r == qp.handle) {
                mr.resolvers.swap_remove(at);
                mr.revoking += 1;
                c.revoke_queue.push_back(mr.key);
            }
        }
    }

    /// No peer of the QP is still to forget a key.
    pub fn forgotten(&mut self, handle: u32) -> bool {
        let conn = self.qp(handle).ok().and_then(|q| q.conn.as_deref());
        conn.is_none_or(|c| c.revoke_queue.is_empty() && c.revoking.is_none())
    }

    pub fn dereg_finish(&mut self, handle: u32) -> Result<()> {
        self.env.finish_unbind(handle);
        let mr = self.env.mrs.release(handle).ok_or(Errno::EINVAL)?;
        self.use_pd(mr.pd, false)?;
        self.drop_region(*mr)
    }
}
