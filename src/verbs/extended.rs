//! The context's verbs beyond the plain ones: extended CQs, windows, re-registration, device memory and the other kinds of memory.

use super::context::Context;
use super::cq::{Moderation, Stamp};
use super::engine::Engine;
use super::regions::{self, Rereg};
use super::types::{CqInfo, CqOptions, Errno, MrInfo, Result, Sge, Wc};
use crate::native::{DeviceMemory, kernel};
use std::os::fd::RawFd;

/// Device memory as the provider holds it.
#[derive(Clone, Copy, Debug)]
pub struct DmInfo {
    pub handle: u32,
    memory: DeviceMemory,
}

/// Handle of the device memory of a forked child, which has no device.
const ORPHAN: u32 = u32::MAX;

impl Context {
    pub fn create_cq_ex(
        &self,
        cqe: u32,
        channel_fd: Option<RawFd>,
        comp_vector: u32,
        cookie: u64,
        options: CqOptions,
    ) -> Result<CqInfo> {
        let info = self.create_cq(cqe, channel_fd, comp_vector, cookie)?;
        self.with(|e| e.cq_options(info.handle, options))?;
        Ok(info)
    }

    /// The oldest completion, and when it came.
    #[inline]
    pub fn poll_one(&self, cq: u32) -> Result<Option<(Wc, Stamp)>> {
        self.move_bulk();
        self.polling(|e| e.poll_one(cq))
    }

    pub fn moderate_cq(&self, cq: u32, count: u16, period: u16) -> Result<()> {
        self.with(|e| e.moderate_cq(cq, Moderation { count, period }))
    }

    /// The clock of completion timestamps, in nanoseconds.
    pub fn device_clock(&self) -> u64 {
        kernel::now_ns()
    }

    /// A parent domain is one more user of its PD, which it stands for.
    pub fn share_pd(&self, pd: u32, more: bool) -> Result<()> {
        self.with(|e| e.use_pd(pd, more))
    }

    pub fn alloc_mw(&self, pd: u32, type_2: bool) -> Result<MrInfo> {
        self.with(|e| e.alloc_mw(pd, type_2))
    }

    pub fn dealloc_mw(&self, mw: u32) -> Result<()> {
        self.with(|e| e.dealloc_mw_begin(mw))?;
        self.await_revocation(mw)?;
        self.with(|e| e.dereg_finish(mw))
    }

    pub fn rereg_mr(&self, mr: u32, r: &Rereg) -> Result<()> {
        self.with(|e| e.rereg_begin(mr, r))?;
        self.await_revocation(mr)?;
        self.with(|e| e.rereg_finish(mr, r))
    }

    pub fn reg_dmabuf_mr(
        &self,
        pd: u32,
        fd: RawFd,
        offset: u64,
        len: u64,
        iova: u64,
        access: u32,
    ) -> Result<MrInfo> {
        self.with(|e| e.reg_dmabuf_mr(pd, fd, offset, len, iova, access))
    }

    pub fn alloc_null_mr(&self, pd: u32) -> Result<MrInfo> {
        self.with(|e| e.alloc_null_mr(pd))
    }

    pub fn advise_mr(&self, pd: u32, advice: u32, flags: u32, sges: &[Sge]) -> Result<()> {
        let (ranges, write) = self.with(|e| e.advise_mr(pd, advice, flags, sges))?;
        // Pages may have to come from a disk: not under the lock.
        ranges
            .into_iter()
            .try_for_each(|(addr, len)| regions::touch(addr, len, write))
    }

    /// A forked child gets ordinary memory of its own: it has no device, so it can neither register nor reach it by anything but copies.
    pub fn alloc_dm(&self, len: u64, log_align: u32) -> Result<DmInfo> {
        if self.max_dm_size() == 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        if !self.in_owner() {
            return orphan(len);
        }
        let (handle, memory) = self.with(|e| e.alloc_dm(len, log_align))?;
        Ok(DmInfo { handle, memory })
    }

    pub fn free_dm(&self, dm: &DmInfo) -> Result<()> {
        if dm.handle == ORPHAN {
            kernel::unmap(dm.memory.window);
            return Ok(());
        }
        self.with(|e: &mut Engine<_>| e.free_dm(dm.handle))
    }

    pub fn reg_dm_mr(
        &self,
        pd: u32,
        dm: &DmInfo,
        offset: u64,
        len: u64,
        access: u32,
    ) -> Result<MrInfo> {
        self.with(|e| e.reg_dm_mr(pd, dm.handle, offset, len, access))
    }

    /// Copies between the program's memory at `addr` and device memory.
    pub fn copy_dm(
        &self,
        dm: &DmInfo,
        offset: u64,
        addr: u64,
        len: u64,
        to_device: bool,
    ) -> Result<()> {
        regions::dm_copy(&dm.memory, offset, addr, len, to_device)
    }
}

fn orphan(len: u64) -> Result<DmInfo> {
    if len == 0 || len > regions::MAX_DM {
        return Err(if len == 0 {
            Errno::EINVAL
        } else {
            Errno::ENOMEM
        });
    }
    let window = kernel::map_anonymous(len as usize)?;
    let memory = DeviceMemory {
        window,
        device: 0,
        len,
        token: 0,
    };
    Ok(DmInfo {
        handle: ORPHAN,
        memory,
    })
}
