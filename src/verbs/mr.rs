//! Memory regions and their keys. GAUDI has none: index and tag are the shim's, checked to the byte on every use.

use std::collections::VecDeque;

use super::types::{Errno, Result, Sge};
use crate::native::Window;
use kernel_abi::verbs::access;

/// What stands behind a key.
#[derive(Debug)]
pub enum Kind {
    /// Memory of the program.
    Plain,
    /// A mapping of a dma-buf that the registration owns.
    Dmabuf(Window),
    /// Device memory, by its handle.
    Device(u32),
    /// Reads give zeros (at `addr`), writes vanish here; no remote use.
    Null { sink: u64, sink_device: u64 },
    /// The whole address space, on demand: the pieces that have been used so far.
    Implicit(Vec<Piece>),
    /// A memory window.
    Window(Bind),
}

/// A used part of an implicit registration.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    pub start: u64,
    pub end: u64,
    pub device: u64,
}

/// State of a memory window.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bind {
    pub type_2: bool,
    pub bound: bool,
    /// Index of the MR below.
    pub parent: u32,
    /// Type 2B: the QP through which it was bound, and the only one through which it may be reached.
    pub qp: u32,
    /// The pages have a mapping of the window's own, which an unbind takes away.
    pub mapped: bool,
    /// An unbind does not wait longer (ns).
    pub deadline: u64,
}

/// Registered memory.
#[derive(Debug)]
pub struct Mr {
    pub kind: Kind,
    /// Windows that are bound to it.
    pub windows: u32,
    pub pd: u32,
    pub addr: u64,
    pub len: u64,
    pub iova: u64,
    pub access: u32,
    pub key: u32,
    /// Device address of `addr`.
    pub device: u64,
    /// Being deregistered: no new use.
    pub dying: bool,
    /// QPs whose peers have resolved this key and must hear of its end.
    pub resolvers: Vec<u32>,
    /// Revocations sent and not acknowledged.
    pub revoking: u32,
}

/// Where a key's range lies for a request that was checked.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Address in this program.
    pub host: u64,
    pub device: u64,
}

/// Why a key cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denied;

impl Mr {
    /// Checks a range in the MR's own address terms.
    pub fn place(
        &self,
        pd: u32,
        addr: u64,
        len: u64,
        need: u32,
    ) -> core::result::Result<Place, Denied> {
        let off = addr.wrapping_sub(self.iova);
        let inside = addr >= self.iova && off.checked_add(len).is_some_and(|end| end <= self.len);
        if self.dying || self.pd != pd || !inside || self.access & need != need {
            return Err(Denied);
        }
        let device = match &self.kind {
            Kind::Implicit(pieces) => pieces
                .iter()
                .rev()
                .find(|p| p.start <= addr && addr + len <= p.end)
                .map(|p| p.device + (addr - p.start))
                .ok_or(Denied)?,
            Kind::Window(b) if !b.bound => return Err(Denied),
            _ => self.device + off,
        };
        Ok(Place {
            host: self.addr + off,
            device,
        })
    }

    /// The place of a local SGE.
    fn local(&self, pd: u32, sge: &Sge, write: bool) -> core::result::Result<Place, Denied> {
        let (addr, len) = (sge.addr, u64::from(sge.length));
        match self.kind {
            // The key of a window is a remote key only (IBTA 10.6.7.2).
            Kind::Window(_) => Err(Denied),
            Kind::Null { sink, sink_device } => {
                let place = self.place(pd, 0, len, 0)?;
                Ok(if write {
                    Place {
                        host: sink,
                        device: sink_device,
                    }
                } else {
                    place
                })
            }
            _ => self.place(pd, addr, len, if write { access::LOCAL_WRITE } else { 0 }),
        }
    }

    /// The place of a range that a peer names through QP `qp`.
    pub fn remote(
        &self,
        pd: u32,
        qp: u32,
        addr: u64,
        len: u64,
        need: u32,
    ) -> core::result::Result<Place, Denied> {
        match self.kind {
            Kind::Null { .. } => Err(Denied),
            Kind::Window(b) if b.type_2 && b.qp != qp => Err(Denied),
            _ => self.place(pd, addr, len, need),
        }
    }

    /// What a peer that resolves the key is told: (first address, length, device address).
    pub fn extent(&self, addr: u64, len: u64) -> (u64, u64, u64) {
        match &self.kind {
            Kind::Implicit(pieces) => pieces
                .iter()
                .rev()
                .find(|p| p.start <= addr && addr + len <= p.end)
                .map_or((addr, 0, 0), |p| (p.start, p.end - p.start, p.device)),
            _ => (self.iova, self.len, self.device),
        }
    }
}

/// Indices below this are never keys.
const FIRST: usize = 1;

/// All MRs of a context. A key is index << 8 | tag; the tag changes with each reuse of the index, and indices are reused first-in
/// first-out, so that a stale key stays wrong for as long as possible (hazard 6).
#[derive(Debug)]
pub struct MrTable {
    slots: Vec<(u8, Option<Box<Mr>>)>,
    free: VecDeque<u32>,
    max: usize,
    max_windows: usize,
    live: usize,
    /// Implicit registrations: only with one does posting look for pieces to map.
    pub implicit: u32,
    windows: usize,
}

impl MrTable {
    pub fn new(max: usize, max_windows: usize) -> MrTable {
        MrTable {
            max_windows,
            implicit: 0,
            windows: 0,
            slots: (0..FIRST).map(|_| (0, None)).collect(),
            free: VecDeque::new(),
            max,
            live: 0,
        }
    }

    /// A free index and the key that its next MR will have.
    pub fn reserve(&mut self, window: bool) -> Result<u32> {
        let full = if window {
            self.windows >= self.max_windows
        } else {
            self.live - self.windows >= self.max
        };
        if full {
            return Err(Errno::ENOMEM);
        }
        // Fresh indices first: a freed one rests while there are others.
        let index = if self.slots.len() < FIRST + (self.max + self.max_windows).min(1 << 23) {
            self.slots.push((0x11, None));
            (self.slots.len() - 1) as u32
        } else {
            self.free.pop_front().ok_or(Errno::ENOMEM)?
        };
        self.live += 1;
        let tag = self.slots[index as usize].0;
        Ok(index << 8 | u32::from(tag))
    }

    pub fn insert(&mut self, mr: Box<Mr>) -> u32 {
        let index = mr.key >> 8;
        if let Some(slot) = self.slots.get_mut(index as usize) {
            slot.1 = Some(mr);
        }
        index
    }

    /// Gives a reserved index back.
    pub fn release(&mut self, index: u32) -> Option<Box<Mr>> {
        let slot = self.slots.get_mut(index as usize)?;
        let mr = slot.1.take();
        slot.0 = slot.0.wrapping_add(1);
        self.free.push_back(index);
        self.live -= 1;
        mr
    }

    /// A window's key changes with each bind.
    pub fn rekey(&mut self, index: u32, key: u32) {
        if let Some(slot) = self.slots.get_mut(index as usize)
            && let Some(mr) = &mut slot.1
        {
            mr.key = key;
            slot.0 = key as u8;
        }
    }

    pub fn count_window(&mut self, more: bool) {
        self.windows = if more {
            self.windows + 1
        } else {
            self.windows.saturating_sub(1)
        };
    }

    pub fn has_windows(&self) -> bool {
        self.windows != 0
    }

    pub fn get(&self, index: u32) -> Result<&Mr> {
        self.slots
            .get(index as usize)
            .and_then(|s| s.1.as_deref())
            .ok_or(Errno::EINVAL)
    }

    pub fn get_mut(&mut self, index: u32) -> Result<&mut Mr> {
        self.slots
            .get_mut(index as usize)
            .and_then(|s| s.1.as_deref_mut())
            .ok_or(Errno::EINVAL)
    }

    #[inline]
    pub fn by_key(&self, key: u32) -> core::result::Result<&Mr, Denied> {
        match self.slots.get((key >> 8) as usize) {
            Some((_, Some(mr))) if mr.key == key => Ok(mr),
            _ => Err(Denied),
        }
    }

    /// The place of a local SGE. Empty ones need no key.
    #[inline]
    pub fn local(&self, pd: u32, sge: &Sge, write: bool) -> core::result::Result<Place, Denied> {
        if sge.length == 0 {
            return Ok(Place {
                host: sge.addr,
                device: 0,
            });
        }
        self.by_key(sge.lkey)?.local(pd, sge, write)
    }

    pub fn in_pd(&self, pd: u32) -> bool {
        self.slots
            .iter()
            .any(|s| s.1.as_ref().is_some_and(|m| m.pd == pd))
    }

    pub fn live(&self) -> usize {
        self.live
    }

    pub fn indices(&self) -> impl Iterator<Item = u32> + '_ {
        self.slots
            .iter()
            .enumerate()
            .filter(|(_, s)| s.1.is_some())
            .map(|(i, _)| i as u32)
    }

    pub fn all_mut(&mut self) -> impl Iterator<Item = &mut Mr> {
        self.slots.iter_mut().filter_map(|s| s.1.as_deref_mut())
    }

    /// Forgets a QP that is gone; answers the MRs that had waited only for it.
    pub fn forget_resolver(&mut self, qp: u32) {
        for (_, slot) in &mut self.slots {
            if let Some(mr) = slot {
                mr.resolvers.retain(|&r| r != qp);
            }
        }
    }
}

/// The access rules of `ibv_reg_mr(3)`: remote write and remote atomics need local write; unknown bits are refused.
pub fn check_access(bits: u32, odp: bool) -> Result<()> {
    let optional = access::OPTIONAL_RANGE;
    let known = access::LOCAL_WRITE
        | access::REMOTE_WRITE
        | access::REMOTE_READ
        | access::REMOTE_ATOMIC
        | access::MW_BIND
        | access::ZERO_BASED
        | access::HUGETLB
        | optional;
    let on_demand = bits & access::ON_DEMAND != 0;
    if bits & !(known | access::ON_DEMAND) != 0 {
        return Err(Errno::EINVAL);
    }
    if on_demand && !odp {
        return Err(Errno::EOPNOTSUPP);
    }
    if bits & (access::REMOTE_WRITE | access::REMOTE_ATOMIC) != 0 && bits & access::LOCAL_WRITE == 0
    {
        return Err(Errno::EINVAL);
    }
    Ok(())
}
