//! Memory windows: a key of its own for a part of an MR, bound and invalidated by work requests.
//!
//! Type 2 windows are 2B (IBTA 10.6.7.2.2): they are reached only through the QP that bound them. An unbind is complete when
//! nobody can use the old key any more: who had resolved it has acknowledged its revocation, and the window's own mapping of
//! the pages is gone (hazard 6).

use super::engine::Engine;
use super::mr::{Bind, Kind, Mr};
use super::qp::Env;
use super::srq::NONE;
use super::types::{Errno, MrInfo, Result};
use crate::native::Nic;
use kernel_abi::verbs::access;

/// How long an unbind waits for acknowledgements; after that whoever owes one loses the connection.
const UNBIND_BOUND_NS: u64 = 5_000_000_000;
/// What a window may allow.
const RIGHTS: u32 = access::REMOTE_WRITE | access::REMOTE_READ | access::REMOTE_ATOMIC;

/// Verdict on a bind or an invalidation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Done,
    /// Peers have to forget the old key first: try again.
    Wait,
    Refused,
}

/// What a bind asks for.
#[derive(Clone, Copy, Debug)]
pub struct BindRequest {
    pub new_key: u32,
    /// Key of the MR; unused when `len` is 0.
    pub mr_key: u32,
    pub addr: u64,
    pub len: u64,
    pub access: u32,
}

impl<N: Nic> Env<N> {
    fn window(&self, index: u32) -> Option<(Bind, u32, u32)> {
        match self.mrs.get(index) {
            Ok(Mr {
                kind: Kind::Window(b),
                pd,
                key,
                ..
            }) => Some((*b, *pd, *key)),
            _ => None,
        }
    }

    /// Executes a bind that came through QP `qp` of domain `pd` (IBTA 10.6.6.2).
    pub fn bind(&mut self, qp: u32, pd: u32, r: &BindRequest) -> Step {
        let index = r.new_key >> 8;
        let Some((b, window_pd, key)) = self.window(index) else {
            return Step::Refused;
        };
        if window_pd != pd
            || (b.type_2 && (r.len == 0 || r.new_key & 0xff == key & 0xff && b.bound))
        {
            return Step::Refused;
        }
        if b.bound {
            if b.type_2 {
                // Must be invalidated first.
                return Step::Refused;
            }
            match self.unbind(index, None) {
                Step::Done => {}
                other => return other,
            }
        }
        if r.len == 0 {
            self.mrs.rekey(index, r.new_key);
            return Step::Done;
        }
        match self.attach(index, qp, pd, b.type_2, r) {
            Ok(()) => Step::Done,
            Err(_) => Step::Refused,
        }
    }

    fn attach(
        &mut self,
        index: u32,
        qp: u32,
        pd: u32,
        type_2: bool,
        r: &BindRequest,
    ) -> Result<()> {
        let no = |_| Errno::EINVAL;
        let mr = self.mrs.by_key(r.mr_key).map_err(no)?;
        let place = mr.place(pd, r.addr, r.len, access::MW_BIND).map_err(no)?;
        let writes = r.access & (access::REMOTE_WRITE | access::REMOTE_ATOMIC) != 0;
        let zero_based = r.access & access::ZERO_BASED != 0;
        let fits = !writes || mr.access & access::LOCAL_WRITE != 0;
        if !fits
            || matches!(
                mr.kind,
                Kind::Window(_) | Kind::Null { .. } | Kind::Implicit(_)
            )
            || mr.access & access::ZERO_BASED != 0
            || (zero_based && !type_2)
        {
            return Err(Errno::EINVAL);
        }
        let parent = mr.key >> 8;
        let (device, mapped) = if matches!(mr.kind, Kind::Device(_)) {
            (place.device, false)
        } else {
            (self.nic.map(place.host, r.len, writes)?, true)
        };
        if let Ok(mr) = self.mrs.get_mut(parent) {
            mr.windows += 1;
        }
        self.mrs.rekey(index, r.new_key);
        if let Ok(w) = self.mrs.get_mut(index) {
            w.addr = place.host;
            w.len = r.len;
            w.iova = if zero_based { 0 } else { r.addr };
            w.access = r.access & RIGHTS;
            w.device = device;
            w.dying = false;
            w.kind = Kind::Window(Bind {
                type_2,
                bound: true,
                parent,
                qp,
                mapped,
                deadline: 0,
            });
        }
        Ok(())
    }

    /// A work request or a peer invalidates `key` through QP `qp` of domain `pd`. `forgets`: the peer of this QP has already dropped the key.
    pub fn invalidate(&mut self, key: u32, qp: u32, pd: u32, forgets: Option<u32>) -> Step {
        let index = key >> 8;
        match self.window(index) {
            Some((b, window_pd, current))
                if b.type_2 && b.bound && current == key && window_pd == pd && b.qp == qp =>
            {
                self.unbind(index, forgets)
            }
            _ => Step::Refused,
        }
    }

    /// Takes a bound window's memory away: told first, then, when all have answered, done.
    pub fn unbind(&mut self, index: u32, forgets: Option<u32>) -> Step {
        let now = self.nic.now();
        let Ok(w) = self.mrs.get_mut(index) else {
            return Step::Refused;
        };
        let (key, was_dying) = (w.key, w.dying);
        if !was_dying {
            w.dying = true;
            let resolvers = std::mem::take(&mut w.resolvers);
            for qp in resolvers.into_iter().filter(|q| Some(*q) != forgets) {
                w.revoking += 1;
                self.revoke.push((qp, key));
            }
            if let Kind::Window(b) = &mut w.kind {
                b.deadline = now.saturating_add(UNBIND_BOUND_NS);
            }
        }
        let late = matches!(w.kind, Kind::Window(b) if now >= b.deadline);
        if w.revoking != 0 {
            if late {
                self.revoke.push((NONE, key));
            }
            return Step::Wait;
        }
        self.finish_unbind(index);
        Step::Done
    }

    /// The window has no memory any more.
    pub fn finish_unbind(&mut self, index: u32) {
        let Ok(w) = self.mrs.get_mut(index) else {
            return;
        };
        let device = w.device;
        w.dying = false;
        w.revoking = 0;
        let Kind::Window(b) = &mut w.kind else { return };
        if !std::mem::take(&mut b.bound) {
            return;
        }
        let (parent, mapped) = (b.parent, std::mem::take(&mut b.mapped));
        if let Ok(mr) = self.mrs.get_mut(parent) {
            mr.windows = mr.windows.saturating_sub(1);
        }
        if mapped && let Err(e) = self.nic.unmap(device) {
            log::warn!("unmapping a memory window: {e}");
        }
    }

    /// A QP goes: so do the windows that only it could reach.
    pub fn unbind_all_of(&mut self, qp: u32) {
        if !self.mrs.has_windows() {
            return;
        }
        let gone: Vec<u32> = self
            .mrs
            .indices()
            .filter(
                |i| matches!(self.window(*i), Some((b, ..)) if b.type_2 && b.bound && b.qp == qp),
            )
            .collect();
        for index in gone {
            self.finish_unbind(index);
        }
    }
}

impl<N: Nic> Engine<N> {
    /// An unbound window. Its key is `rkey` until the first bind; type 2 programs choose the low 8 bits of later ones.
    pub fn alloc_mw(&mut self, pd: u32, type_2: bool) -> Result<MrInfo> {
        self.use_pd(pd, true)?;
        let key = match self.env.mrs.reserve(true) {
            Ok(k) => k,
            Err(e) => {
                self.use_pd(pd, false)?;
                return Err(e);
            }
        };
        let mr = Mr {
            kind: Kind::Window(Bind {
                type_2,
                ..Bind::default()
            }),
            windows: 0,
            pd,
            addr: 0,
            len: 0,
            iova: 0,
            access: 0,
            key,
            device: 0,
            dying: false,
            resolvers: Vec::new(),
            revoking: 0,
        };
        self.env.mrs.count_window(true);
        let handle = self.env.mrs.insert(Box::new(mr));
        Ok(MrInfo {
            handle,
            lkey: key,
            rkey: key,
        })
    }

    /// The program takes a window away: no new use. `dereg_done` and `dereg_finish` follow.
    pub fn dealloc_mw_begin(&mut self, mw: u32) -> Result<()> {
        match self.env.mrs.get(mw)?.kind {
            Kind::Window(_) => self.dereg_begin(mw),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Tells the peers behind `env.revoke` to forget their keys.
    pub(super) fn spread_revocations(&mut self) {
        while let Some((qp, key)) = self.env.revoke.pop() {
            if qp == NONE {
                self.cut_off(key);
                continue;
            }
            let conn = match self.qp(qp) {
                Ok(q) => q.conn.as_mut(),
                Err(_) => None,
            };
            match conn {
                Some(c) => {
                    c.revoke_queue.push_back(key);
                    self.activate(qp);
                }
                None => self.env.revocation_done(key),
            }
        }
    }
}
