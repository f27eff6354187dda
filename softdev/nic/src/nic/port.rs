//! What a context has on a port.

use super::context::NicContext;
use super::cq::{CqAt, MAX_ENTRIES, MIN_ENTRIES};
use super::rdma_layout::CQS;
use crate::fabric::attach::lock;
use crate::{CqInfo, Errno, Result};
use kernel_abi::gaudi2::{cq_offset, cq_page};
use std::collections::BTreeMap;
use std::sync::MutexGuard;

/// CQ 0 belongs to raw Ethernet, CQ 1 swallows the completions of QPs without one.
const FIRST_CQ: u32 = 2;
const MIN_WQS: u32 = 2;
const MAX_WQS: u32 = 1 << 24;
const MIN_WQES: u32 = 16;
const MAX_WQES: u32 = 32768;

#[derive(Default)]
pub(crate) struct PortState {
    pub(super) ready: Option<PortSetup>,
    cqs: [CqSlot; CQS as usize],
    pub(super) qps: BTreeMap<u32, QpControl>,
}

/// `set_port_ex`.
#[derive(Clone, Copy, Debug)]
pub(super) struct PortSetup {
    pub(super) wqs: u32,
    pub(super) wqes: u32,
    pub(super) device_mem: bool,
}

#[derive(Clone, Copy, Default)]
struct CqSlot {
    entries: u32,
    /// QP halves that use it.
    users: u32,
}

/// Control state of a QP number that the context owns.
#[derive(Clone, Copy, Default)]
pub(super) struct QpControl {
    pub(super) res_cq: u32,
    pub(super) req_cq: u32,
    /// Offset and length of send and receive ring.
    pub(super) rings: Option<[(u64, u64); 2]>,
    pub(super) requester_set: bool,
}

impl PortState {
    /// Whether a context may name this CQ: one that exists, or none.
    pub(super) fn accepts_cq(&self, cq: u32) -> bool {
        cq < FIRST_CQ || self.entries(cq) != 0
    }

    fn entries(&self, cq: u32) -> u32 {
        self.cqs.get(cq as usize).map_or(0, |c| c.entries)
    }

    pub(super) fn use_cq(&mut self, cq: u32) {
        if let Some(slot) = self.cqs.get_mut(cq as usize) {
            slot.users += 1;
        }
    }

    pub(super) fn unuse_cq(&mut self, cq: u32) {
        if let Some(slot) = self.cqs.get_mut(cq as usize) {
            slot.users = slot.users.saturating_sub(1);
        }
    }
}

impl NicContext {
    /// Control state of a port of this context; EINVAL for another.
    pub(super) fn port(&self, port: u32) -> Result<MutexGuard<'_, PortState>> {
        self.check_usable()?;
        if port == 0 || port > 63 || self.ports_mask() >> port & 1 == 0 {
            return Err(Errno::EINVAL);
        }
        let slot = self.ports.get(port as usize - 1).ok_or(Errno::EINVAL)?;
        Ok(lock(slot))
    }

    /// EPERM for the second time, EINVAL. Counts of zero skip the work queue arrays.
    pub fn set_port_ex(
        &self,
        port: u32,
        wqs: u32,
        wqes: u32,
        granularity: u8,
        device_mem: bool,
        advanced: bool,
    ) -> Result<()> {
        let _ = advanced;
        let mut state = self.port(port)?;
        if state.ready.is_some() {
            return Err(Errno::EPERM);
        }
        let skipped = wqs == 0 || wqes == 0;
        let good = (MIN_WQS..=MAX_WQS).contains(&wqs)
            && wqes.is_power_of_two()
            && (MIN_WQES..=MAX_WQES).contains(&wqes)
            && granularity <= 1;
        if !skipped && !good {
            return Err(Errno::EINVAL);
        }
        state.ready = Some(if skipped {
            PortSetup {
                wqs: 0,
                wqes: 0,
                device_mem,
            }
        } else {
            PortSetup {
                wqs,
                wqes,
                device_mem,
            }
        });
        Ok(())
    }

    pub fn port_ready(&self, port: u32) -> bool {
        self.port(port).is_ok_and(|p| p.ready.is_some())
    }

    /// EPERM before `set_port_ex`, EINVAL for a bad size, EBUSY when no number is free.
    pub fn cq_create(&self, port: u32, entries: u32) -> Result<CqInfo> {
        let mut state = self.port(port)?;
        if state.ready.is_none() {
            return Err(Errno::EPERM);
        }
        if !entries.is_power_of_two() || !(MIN_ENTRIES..=MAX_ENTRIES).contains(&entries) {
            return Err(Errno::EINVAL);
        }
        let id = (FIRST_CQ..CQS)
            .find(|cq| state.entries(*cq) == 0)
            .ok_or(Errno::EBUSY)?;
        let size = (16 * u64::from(entries)).next_multiple_of(super::rdma_layout::PAGE);
        let (ring, page) = (self.layout.cq_ring(port, id), self.layout.cq_page(port, id));
        let umr = cq_page(id).ok_or(Errno::EBUSY)? as u64;
        self.rdma.file.reserve(ring, size)?;
        self.rdma.file.reserve(page, super::rdma_layout::PAGE)?;
        CqAt::new(self.layout, port, id).open(&self.map, entries);
        if let Some(slot) = state.cqs.get_mut(id as usize) {
            *slot = CqSlot { entries, users: 0 };
        }
        Ok(CqInfo {
            id,
            mem_handle: ring,
            mem_size: size as u32,
            pi_handle: page,
            regs_handle: self.layout.umr_page(port, umr),
            regs_offset: cq_offset(id),
        })
    }

    /// EBUSY while QPs use it.
    pub fn cq_destroy(&self, port: u32, cq: u32) -> Result<()> {
        let mut state = self.port(port)?;
        let slot = state
            .cqs
            .get_mut(cq as usize)
            .filter(|s| s.entries != 0)
            .ok_or(Errno::EINVAL)?;
        if slot.users != 0 {
            return Err(Errno::EBUSY);
        }
        *slot = CqSlot::default();
        CqAt::new(self.layout, port, cq).shut(&self.map);
        // Zeroes for the next user of the number: an entry of lap 1 is told from an old one only by a slot that was cleared.
        self.rdma
            .file
            .punch(self.layout.cq_ring(port, cq), super::rdma_layout::CQ_SLOT);
        self.rdma
            .file
            .punch(self.layout.cq_page(port, cq), super::rdma_layout::PAGE);
        Ok(())
    }

    pub fn cq_exists(&self, port: u32, cq: u32) -> bool {
        self.port(port).is_ok_and(|p| p.entries(cq) != 0)
    }

    /// The CQ consumer index register.
    pub fn cq_ci(&self, port: u32, cq: u32, ci: u32) {
        if self.usable() && cq < CQS && (1..=self.fabric.opts.ports).contains(&port) {
            CqAt::new(self.layout, port, cq).set_ci(&self.map, ci);
        }
    }

    /// The next entry at or behind `ci` bumps and wakes the event word, once. 1 (and not armed) when one is there already.
    pub fn cq_arm(&self, port: u32, cq: u32, ci: u32) -> u32 {
        if !self.usable() || cq >= CQS || !(1..=self.fabric.opts.ports).contains(&port) {
            return 0;
        }
        u32::from(!CqAt::new(self.layout, port, cq).arm(&self.map, ci))
    }
}
