//! An open `/dev/accel/accelN`: the owner's side of an ASID's MMU tables, and device memory.

use super::context::NicContext;
use super::mmu::{self, Entry, Place, Table};
use super::ranges::Ranges;
use super::rdma_layout::ARENA;
use crate::fabric::Fabric;
use crate::fabric::attach::lock;
use crate::shm::fabric_file::state;
use crate::shm::memfd::MemFile;
use crate::shm::user;
use crate::{Errno, Result};
use std::collections::BTreeMap;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::atomic::Ordering::*;
use std::sync::{Arc, Mutex, Weak};

const PAGE: u64 = 4096;
/// Six HBMs of 16 GiB; less only where address space is short.
const DRAM_SIZES: [u64; 3] = [96 << 30, 8 << 30, 256 << 20];
const DEFAULT_DRAM_PAGE: u64 = 2 << 20;
const MAX_DRAM_PAGE: u64 = 1 << 30;

pub struct AccelFile {
    fabric: Arc<Fabric>,
    device: u32,
    pub(crate) file: MemFile,
    dram: u64,
    state: Mutex<State>,
    bound: Mutex<Weak<NicContext>>,
}

struct State {
    closed: bool,
    /// By exact address, as UNMAP names it.
    maps: BTreeMap<u64, Mapped>,
    host: Slots,
    hbm: Slots,
    list: Slots,
    memory: Ranges,
    used: u64,
    allocations: BTreeMap<u64, Allocation>,
    next_handle: u64,
}

struct Mapped {
    size: u64,
    table: Table,
    first: u64,
    count: u64,
    handle: Option<u64>,
}

struct Allocation {
    at: u64,
    size: u64,
    maps: u32,
}

/// Slots of a table: next fit, so that an address is not used again soon.
struct Slots {
    taken: Vec<bool>,
    next: usize,
}

impl Slots {
    fn new(count: u64, reserved: usize) -> Slots {
        let mut taken = vec![false; count as usize];
        taken.iter_mut().take(reserved).for_each(|t| *t = true);
        Slots {
            taken,
            next: reserved,
        }
    }

    fn take(&mut self, count: u64) -> Option<u64> {
        let count = usize::try_from(count).ok()?;
        let len = self.taken.len();
        let mut run = 0;
        let ahead = (self.next..len).chain(0..len);
        for i in ahead {
            // A run does not go on from the last slot to the first.
            let before = if i == 0 { 0 } else { run };
            run = if self.taken.get(i).is_none_or(|taken| *taken) {
                0
            } else {
                before + 1
            };
            if run == count {
                let first = i + 1 - count;
                self.next = i + 1;
                self.set(first as u64, count as u64, true);
                return Some(first as u64);
            }
        }
        None
    }

    fn is_free(&self, first: u64, count: u64) -> bool {
        let range = first as usize..first.saturating_add(count) as usize;
        self.taken
            .get(range)
            .is_some_and(|slots| slots.iter().all(|t| !t))
    }

    fn set(&mut self, first: u64, count: u64, taken: bool) {
        let range = first as usize..first.saturating_add(count) as usize;
        if let Some(slots) = self.taken.get_mut(range) {
            slots.fill(taken);
        }
    }
}

impl AccelFile {
    /// Strict: EBUSY while another process has the device open.
    pub fn create(fabric: &Arc<Fabric>, device: u32) -> Result<Arc<AccelFile>> {
        if device >= fabric.opts.devices {
            return Err(Errno::ENXIO);
        }
        if !fabric.is_ours() {
            return Err(Errno::EIO);
        }
        if fabric.opts.strict {
            claim_device(fabric, device)?;
        }
        let made = Self::make(fabric, device);
        if made.is_err() && fabric.opts.strict {
            release_device(fabric, device);
        }
        made.map(Arc::new)
    }

    fn make(fabric: &Arc<Fabric>, device: u32) -> Result<AccelFile> {
        let mut last = Errno::ENOMEM;
        for dram in DRAM_SIZES {
            let file = match MemFile::create("gaudi-accel", mmu::DRAM + dram) {
                Ok(file) => file,
                Err(e @ (Errno::ENOMEM | Errno::EFBIG | Errno::EINVAL)) => {
                    last = e;
                    continue;
                }
                Err(e) => return Err(e),
            };
            file.map
                .w64(mmu::HEAD_VERSION)
                .store(u64::from(mmu::VERSION), Relaxed);
            file.map.w64(mmu::HEAD_DRAM).store(dram, Relaxed);
            file.map.w64(mmu::HEAD_MAGIC).store(mmu::MAGIC, Release);
            let state = State {
                closed: false,
                maps: BTreeMap::new(),
                host: Slots::new(mmu::HOST_SLOTS, 1),
                hbm: Slots::new(mmu::HBM_SLOTS, 0),
                list: Slots::new(mmu::LIST, 0),
                memory: Ranges::new(mmu::DRAM, dram),
                used: 0,
                allocations: BTreeMap::new(),
                next_handle: 1,
            };
            let (fabric, state, bound) = (fabric.clone(), Mutex::new(state), Mutex::default());
            return Ok(AccelFile {
                fabric,
                device,
                file,
                dram,
                state,
                bound,
            });
        }
        Err(last)
    }

    /// A descriptor for the program, close-on-exec.
    pub fn dup_fd(&self) -> Result<OwnedFd> {
        self.file.fd.dup()
    }

    /// The number of the descriptor that the device keeps for itself.
    pub fn own_fd(&self) -> RawFd {
        self.file.fd.raw()
    }

    /// (st_dev, st_ino)
    pub fn inode(&self) -> (u64, u64) {
        (self.file.dev, self.file.ino)
    }

    pub(crate) fn device(&self) -> u32 {
        self.device
    }

    pub(crate) fn belongs_to(&self, fabric: &Arc<Fabric>) -> bool {
        Arc::ptr_eq(&self.fabric, fabric)
    }

    /// Ties the file to the context whose NIC uses its tables; EBUSY if it is tied.
    pub(crate) fn bind(&self, context: &Arc<NicContext>) -> Result<()> {
        let mut bound = lock(&self.bound);
        if bound.upgrade().is_some_and(|c| !c.is_closed()) {
            return Err(Errno::EBUSY);
        }
        *bound = Arc::downgrade(context);
        Ok(())
    }

    fn open_state(&self) -> Result<std::sync::MutexGuard<'_, State>> {
        if !self.fabric.is_ours() {
            return Err(Errno::EIO);
        }
        let state = lock(&self.state);
        if state.closed {
            Err(Errno::EBADF)
        } else {
            Ok(state)
        }
    }

    /// Device memory. EINVAL for a size of 0 or a page size that is no power of two or none of ours; ENOMEM.
    pub fn alloc(&self, size: u64, page_size: u64, _flags: u32) -> Result<u64> {
        let page = if page_size == 0 {
            DEFAULT_DRAM_PAGE
        } else {
            page_size
        };
        if size == 0 || !page.is_power_of_two() || !(PAGE..=MAX_DRAM_PAGE).contains(&page) {
            return Err(Errno::EINVAL);
        }
        let size = size.checked_next_multiple_of(page).ok_or(Errno::ENOMEM)?;
        let mut state = self.open_state()?;
        let at = state.memory.take(size).ok_or(Errno::ENOMEM)?;
        let handle = state.next_handle;
        state.next_handle += 1;
        state.used += size;
        state
            .allocations
            .insert(handle, Allocation { at, size, maps: 0 });
        Ok(handle)
    }

    /// EINVAL if unknown or still mapped.
    pub fn free(&self, handle: u64) -> Result<()> {
        let mut state = self.open_state()?;
        if state.allocations.get(&handle).is_none_or(|a| a.maps != 0) {
            return Err(Errno::EINVAL);
        }
        let Some(gone) = state.allocations.remove(&handle) else {
            return Err(Errno::EINVAL);
        };
        self.file.punch(gone.at, gone.size);
        state.memory.give(gone.at, gone.size);
        state.used -= gone.size;
        Ok(())
    }

    /// EFAULT when the range is not mapped, EINVAL, ENOMEM.
    pub fn map_host(&self, host_va: u64, size: u64, hint: u64, force: bool) -> Result<u64> {
        if size == 0 || host_va.checked_add(size).is_none_or(|end| end > 1 << 63) {
            return Err(Errno::EINVAL);
        }
        user::check_mapped(host_va, size)?;
        self.map(
            Place::Host(host_va),
            host_va % PAGE,
            size,
            hint,
            force,
            None,
        )
    }

    /// A range of the bound context's arena, for which memory is taken now.
    pub fn map_arena(&self, rdma_off: u64, size: u64, hint: u64, force: bool) -> Result<u64> {
        let context = lock(&self.bound)
            .upgrade()
            .filter(|c| !c.is_closed())
            .ok_or(Errno::EINVAL)?;
        let rdma = context.rdma();
        let end = rdma_off.checked_add(size).ok_or(Errno::EINVAL)?;
        if size == 0 || end > rdma.layout.usable || self.fabric.opts.strict {
            return Err(Errno::EINVAL);
        }
        rdma.file.reserve(ARENA + rdma_off, size)?;
        self.map(
            Place::Rdma(ARENA + rdma_off),
            rdma_off % PAGE,
            size,
            hint,
            force,
            None,
        )
    }

    pub fn map_device(&self, handle: u64, hint: u64, force: bool) -> Result<u64> {
        let (at, size) = match self.open_state()?.allocations.get_mut(&handle) {
            Some(a) => {
                // Counted before the state is let go, so that FREE cannot come between.
                a.maps += 1;
                (a.at, a.size)
            }
            None => return Err(Errno::EINVAL),
        };
        let mapped = self.map(Place::Dram(at), 0, size, hint, force, Some(handle));
        if mapped.is_err()
            && let Some(a) = lock(&self.state).allocations.get_mut(&handle)
        {
            a.maps -= 1;
        }
        mapped
    }

    fn map(
        &self,
        place: Place,
        into_page: u64,
        size: u64,
        hint: u64,
        force: bool,
        handle: Option<u64>,
    ) -> Result<u64> {
        let mut state = self.open_state()?;
        let hinted = match hint {
            0 => None,
            h if h % PAGE == 0 => state.place_at(h, into_page, size, place),
            _ if force => return Err(Errno::EINVAL),
            _ => None,
        };
        let found = match hinted {
            None if force && hint != 0 => None,
            None => state.place_anywhere(into_page, size, place),
            some => some,
        };
        let (va, table, first, count) = found.ok_or(Errno::ENOMEM)?;
        if table == Table::List {
            self.file.map.w32(mmu::HEAD_LIST_HIGH).max(first as u32 + 1);
        }
        let entry = Entry { va, size, place };
        for index in first..first + count {
            mmu::publish(&self.file.map, table.offset(index), &entry);
        }
        state.maps.insert(
            va,
            Mapped {
                size,
                table,
                first,
                count,
                handle,
            },
        );
        Ok(va)
    }

    /// Waits for accesses in flight. EINVAL unless it is exactly an address that a MAP returned.
    pub fn unmap(&self, dva: u64) -> Result<()> {
        let gone = {
            let mut state = self.open_state()?;
            let gone = state.maps.remove(&dva).ok_or(Errno::EINVAL)?;
            self.invalidate(&gone);
            gone
        };
        self.wait_unused();
        // Only now may the slots mean something else.
        lock(&self.state).release(&gone);
        Ok(())
    }

    fn invalidate(&self, gone: &Mapped) {
        for index in gone.first..gone.first + gone.count {
            mmu::invalidate(&self.file.map, gone.table.offset(index));
        }
    }

    fn wait_unused(&self) {
        let bound = lock(&self.bound).upgrade();
        if let Some(context) = bound {
            context.wait_accesses();
        }
    }

    /// Where mapped device memory lies in the file behind the descriptor, and its size. EINVAL for other addresses.
    pub fn block(&self, dva: u64) -> Result<(u64, u64)> {
        let state = self.open_state()?;
        let mapped = state.maps.get(&dva).ok_or(Errno::EINVAL)?;
        let handle = mapped.handle.ok_or(Errno::EINVAL)?;
        let a = state.allocations.get(&handle).ok_or(Errno::EINVAL)?;
        Ok((a.at, a.size))
    }

    pub fn dram_size(&self) -> u64 {
        self.dram
    }

    pub fn dram_used(&self) -> u64 {
        lock(&self.state).used
    }

    /// Unmaps everything; called at last close.
    pub fn close(&self) {
        if !self.fabric.is_ours() {
            return;
        }
        {
            let mut state = lock(&self.state);
            if std::mem::replace(&mut state.closed, true) {
                return;
            }
            for gone in std::mem::take(&mut state.maps).values() {
                self.invalidate(gone);
            }
            state.allocations.clear();
            state.used = 0;
        }
        self.wait_unused();
        if self.fabric.opts.strict {
            release_device(&self.fabric, self.device);
        }
    }
}

impl Drop for AccelFile {
    fn drop(&mut self) {
        self.close();
    }
}

type Found = (u64, Table, u64, u64);

impl State {
    fn place_anywhere(&mut self, into_page: u64, size: u64, place: Place) -> Option<Found> {
        let count = slots_for(into_page, size)?;
        let (table, slots, base) = match place {
            Place::Dram(_) => (Table::Hbm, &mut self.hbm, mmu::HBM_BASE),
            _ => (Table::Host, &mut self.host, mmu::HOST_BASE),
        };
        let first = slots.take(count)?;
        Some((base + first * mmu::SLOT + into_page, table, first, count))
    }

    /// At a page-aligned hint, if the range is free and there is a table for it.
    fn place_at(&mut self, hint: u64, into_page: u64, size: u64, place: Place) -> Option<Found> {
        let va = hint.checked_add(into_page)?;
        let end = va.checked_add(size)?;
        let before = self.maps.range(..end).next_back();
        if before.is_some_and(|(start, m)| start + m.size > va) {
            return None;
        }
        let granule = hint.wrapping_sub(mmu::MAILBOX_BASE) / mmu::GRANULE;
        let is_granule = hint >= mmu::MAILBOX_BASE
            && granule < mmu::GRANULES
            && hint.is_multiple_of(mmu::GRANULE);
        if is_granule && into_page + size <= mmu::GRANULE {
            return Some((va, Table::Granule, granule, 1));
        }
        let device = matches!(place, Place::Dram(_));
        let reserved = if device {
            hint >= mmu::HBM_RESERVED_BASE && end <= mmu::HBM_RESERVED_END
        } else {
            hint >= mmu::RESERVED_BASE && end <= mmu::RESERVED_END
        };
        if reserved {
            return Some((va, Table::List, self.list.take(1)?, 1));
        }
        let (table, slots, base) = if device {
            (Table::Hbm, &mut self.hbm, mmu::HBM_BASE)
        } else {
            (Table::Host, &mut self.host, mmu::HOST_BASE)
        };
        let rel = hint.checked_sub(base)?;
        let (first, count) = (rel / mmu::SLOT, slots_for(into_page, size)?);
        if rel % mmu::SLOT != 0 || !slots.is_free(first, count) {
            return None;
        }
        slots.set(first, count, true);
        Some((va, table, first, count))
    }

    fn release(&mut self, gone: &Mapped) {
        match gone.table {
            Table::Host => self.host.set(gone.first, gone.count, false),
            Table::Hbm => self.hbm.set(gone.first, gone.count, false),
            Table::List => self.list.set(gone.first, gone.count, false),
            Table::Granule => {}
        }
        if let Some(a) = gone.handle.and_then(|h| self.allocations.get_mut(&h)) {
            a.maps -= 1;
        }
    }
}

fn slots_for(into_page: u64, size: u64) -> Option<u64> {
    Some(into_page.checked_add(size)?.div_ceil(mmu::SLOT))
}

/// Strict mode: record 0 of the device's context table names the process that has the accel device open.
fn claim_device(fabric: &Arc<Fabric>, device: u32) -> Result<()> {
    let mut opens = lock(&fabric.accel_opens);
    let count = opens.get_mut(device as usize).ok_or(Errno::ENXIO)?;
    let word = fabric.file.ctx(device, 0).state();
    let mine = state::pack(state::LIVE, fabric.me);
    fabric.file.asid_high(device).max(1);
    if *count == 0 && word.cas(state::FREE, mine).is_err() {
        fabric.reap();
        word.cas(state::FREE, mine).map_err(|_| Errno::EBUSY)?;
    }
    *count += 1;
    Ok(())
}

fn release_device(fabric: &Arc<Fabric>, device: u32) {
    let mut opens = lock(&fabric.accel_opens);
    if let Some(count) = opens.get_mut(device as usize) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            let _ = fabric
                .file
                .ctx(device, 0)
                .state()
                .cas(state::pack(state::LIVE, fabric.me), state::FREE);
        }
    }
}
