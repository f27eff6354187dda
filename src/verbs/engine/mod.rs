//! The engine of a context: all objects behind one lock, the fast paths, and progress. Generic over the device, so that tests drive
//! it with a scripted one.

mod attributes;
mod completions;
#[cfg(test)]
mod digest;
mod pairs;
mod progress;
mod registration;
mod requests;

use std::collections::{HashMap, VecDeque};

use super::datagrams::Datagrams;
use super::mr::MrTable;
use super::qp::{Env, Pd, Qp};
use super::regions::{Dm, NullMemory};
use super::types::{Errno, Result};
use super::xrc::Xrcd;
use crate::native::{NativeEvent, Nic};
pub(super) use attributes::{Paths, check_path};

/// What the shim grants at most; query_device says the same.
pub mod limits {
    pub const MAX_QP_WR: u32 = 16384;
    pub const MAX_SGE: u32 = 16;
    pub const MAX_INLINE: u32 = 256;
    pub const MAX_CQ: usize = 8192;
    pub const MAX_CQE: u32 = 1 << 20;
    pub const MAX_MR: usize = 32768;
    /// Each bound one takes device addresses of its own, of which there are 61439 pieces (docs/design.md, Device addresses).
    pub const MAX_MW: usize = 16384;
    pub const MAX_PD: usize = 8192;
    pub const MAX_AH: usize = 8192;
    /// A power of two: SRQ numbers hold the index in their low bits.
    pub const MAX_SRQ: usize = 8192;
    pub const MAX_XRCD: usize = 4096;
    pub const MAX_MCAST_GRP: usize = 256;
    /// QPs in a group.
    pub const MAX_MCAST_QP: usize = 64;
    pub const MAX_RD_ATOMIC: u8 = 16;
    pub const MAX_MSG: u64 = 1 << 30;
    pub const MAX_MR_SIZE: u64 = 1 << 40;
}

pub struct Engine<N: Nic> {
    pub env: Env<N>,
    pub(super) qps: Vec<Option<Box<Qp>>>,
    pub(super) xrcds: Vec<Option<Xrcd>>,
    /// QP handle + 1 by port and native id.
    by_native: Vec<Vec<u32>>,
    /// QPs that progress looks at.
    active: Vec<u32>,
    pub(super) ud: Datagrams,
    pub(super) null: Option<NullMemory>,
    pub(super) dms: Vec<Option<Dm>>,
    /// Native events that were read and not yet heeded.
    held: VecDeque<NativeEvent>,
    /// Polls of the program, for the agent: does it look by itself?
    pub looks: u64,
    /// The device is gone; every call fails.
    pub broken: bool,
}

pub(super) fn slot_of<T>(v: &mut Vec<Option<T>>, max: usize) -> Result<usize> {
    if let Some(i) = v.iter().position(Option::is_none) {
        return Ok(i);
    }
    if v.len() >= max {
        return Err(Errno::ENOMEM);
    }
    v.push(None);
    Ok(v.len() - 1)
}

impl<N: Nic> Engine<N> {
    pub fn new(nic: N) -> Engine<N> {
        Engine {
            env: Env {
                nic,
                cqs: Vec::new(),
                mrs: MrTable::new(limits::MAX_MR, limits::MAX_MW),
                pds: Vec::new(),
                srqs: Vec::new(),
                srq_generation: 0,
                events: Vec::new(),
                raise: Vec::new(),
                timers: false,
                revoked: Vec::new(),
                revoke: Vec::new(),
                moderated: Vec::new(),
                told: HashMap::new(),
            },
            qps: Vec::new(),
            xrcds: Vec::new(),
            by_native: Vec::new(),
            active: Vec::new(),
            ud: Datagrams::default(),
            null: None,
            dms: Vec::new(),
            held: VecDeque::new(),
            looks: 0,
            broken: false,
        }
    }

    // Protection domains.

    pub fn alloc_pd(&mut self) -> Result<u32> {
        let i = slot_of(&mut self.env.pds, limits::MAX_PD)?;
        self.env.pds[i] = Some(Pd::default());
        Ok(i as u32)
    }

    pub fn dealloc_pd(&mut self, pd: u32) -> Result<()> {
        let slot = self.env.pds.get_mut(pd as usize).ok_or(Errno::EINVAL)?;
        match slot {
            Some(p) if p.users == 0 => {
                *slot = None;
                Ok(())
            }
            Some(_) => Err(Errno::EBUSY),
            None => Err(Errno::EINVAL),
        }
    }

    pub(super) fn use_pd(&mut self, pd: u32, add: bool) -> Result<()> {
        let p = self
            .env
            .pds
            .get_mut(pd as usize)
            .and_then(Option::as_mut)
            .ok_or(Errno::EINVAL)?;
        p.users = if add {
            p.users + 1
        } else {
            p.users.saturating_sub(1)
        };
        Ok(())
    }

    pub fn qp(&mut self, qp: u32) -> Result<&mut Qp> {
        self.qps
            .get_mut(qp as usize)
            .and_then(|q| q.as_deref_mut())
            .ok_or(Errno::EINVAL)
    }

    /// The context ends: nothing is left behind at the device.
    pub fn shut_down(&mut self) {
        for h in 0..self.qps.len() as u32 {
            if self.qp(h).is_ok()
                && let Err(e) = self.destroy_qp(h)
            {
                log::debug!("closing: QP {h}: {e}");
            }
        }
        for s in 0..self.env.srqs.len() as u32 {
            if self.env.srq(s).is_ok()
                && let Err(e) = self.destroy_srq(s)
            {
                log::debug!("closing: SRQ {s}: {e}");
            }
        }
        let all: Vec<u32> = self.env.mrs.indices().collect();
        for m in all {
            if let Err(e) = self.dereg_finish(m) {
                log::debug!("closing: MR {m}: {e}");
            }
        }
        for d in std::mem::take(&mut self.dms).into_iter().flatten() {
            if let Err(e) = self.env.nic.dm_free(d.memory) {
                log::debug!("closing: device memory: {e}");
            }
        }
        self.broken = true;
    }
}
