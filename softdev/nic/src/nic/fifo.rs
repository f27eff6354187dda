//! Doorbell FIFOs and the registers of UMR pages, for programs that store to the pages.

use super::context::NicContext;
use super::port::PortState;
use super::rdma_layout::{FIFOS, PAGE};
use crate::shm::fabric_file::MAX_PORTS;
use crate::{Errno, FifoInfo, Result};
use kernel_abi::gaudi2::{UMR_PAGES, fifo_ci_after_pops, fifo_offset, fifo_page, umr};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::*};

const FIRST_FIFO: u32 = 1;
const LAST_FIFO: u32 = 30;
/// 64 entries of 8 bytes; the driver computes its threshold in bytes as well.
const FIFO_BYTES: u32 = 512;
const CQ_REGISTERS: usize = 2 * UMR_PAGES;

#[derive(Default)]
struct Fifo {
    open: AtomicBool,
    first: AtomicU32,
    pops: AtomicU32,
}

/// Latches behind the register pages. A store of the second word acts.
pub(crate) struct Registers {
    fifos: Vec<Fifo>,
    cq_numbers: Vec<AtomicU32>,
}

impl Registers {
    pub(super) fn new() -> Registers {
        let mut fifos = Vec::new();
        fifos.resize_with((MAX_PORTS * FIFOS) as usize, Fifo::default);
        let mut cq_numbers = Vec::new();
        cq_numbers.resize_with(MAX_PORTS as usize * CQ_REGISTERS, AtomicU32::default);
        Registers { fifos, cq_numbers }
    }

    fn fifo(&self, port: u32, fifo: u32) -> Option<&Fifo> {
        self.fifos
            .get((port.wrapping_sub(1) * FIFOS + fifo) as usize)
    }

    fn cq_number(&self, port: u32, page: u64, second: bool) -> Option<&AtomicU32> {
        let index =
            port.wrapping_sub(1) as usize * CQ_REGISTERS + 2 * page as usize + usize::from(second);
        self.cq_numbers.get(index)
    }
}

impl NicContext {
    /// EPERM before `set_port_ex`; EBUSY when the hinted number, or every number, is taken; EINVAL for a number or mode that is none.
    pub fn fifo_create(&self, port: u32, hint: u32, mode: u8) -> Result<FifoInfo> {
        let state: std::sync::MutexGuard<'_, PortState> = self.port(port)?;
        if state.ready.is_none() {
            return Err(Errno::EPERM);
        }
        if mode > 1 || hint > LAST_FIFO {
            return Err(Errno::EINVAL);
        }
        let wanted = if hint == 0 {
            FIRST_FIFO..=LAST_FIFO
        } else {
            hint..=hint
        };
        for id in wanted {
            let (Some(fifo), Some(page)) = (self.registers.fifo(port, id), fifo_page(id)) else {
                continue;
            };
            if fifo.open.load(Acquire) {
                continue;
            }
            // A new user begins with a zeroed CI page and at the base of the FIFO.
            let ci_page = self.layout.fifo_page(port, id);
            self.rdma.file.reserve(ci_page, PAGE)?;
            self.map.w32(ci_page).store(0, Relaxed);
            fifo.first.store(0, Relaxed);
            fifo.pops.store(0, Relaxed);
            fifo.open.store(true, Release);
            return Ok(FifoInfo {
                id,
                ci_handle: ci_page,
                regs_handle: self.layout.umr_page(port, page as u64),
                regs_offset: fifo_offset(id),
                size: FIFO_BYTES,
                bp_thresh: FIFO_BYTES / 2,
            });
        }
        Err(Errno::EBUSY)
    }

    pub fn fifo_destroy(&self, port: u32, fifo: u32) -> Result<()> {
        let _state = self.port(port)?;
        let known = self
            .registers
            .fifo(port, fifo)
            .filter(|_| (FIRST_FIFO..=LAST_FIFO).contains(&fifo));
        let fifo_state = known.ok_or(Errno::EINVAL)?;
        // Entries execute when they are pushed: there is nothing to drain.
        if !fifo_state.open.swap(false, AcqRel) {
            return Err(Errno::EINVAL);
        }
        self.rdma
            .file
            .punch(self.layout.fifo_page(port, fifo), PAGE);
        Ok(())
    }

    /// A store of 4 or 8 bytes to a register page, in the signal handler.
    pub(crate) fn umr_store(&self, port: u32, page: u64, off: u32, value: u64, width: usize) {
        if page >= UMR_PAGES as u64 || !self.usable() {
            return;
        }
        let second = off & 0x80 != 0;
        match (off & !0x80, width) {
            (umr::DB0_FIRST32, 8) => self.push(port, page, second, value),
            (umr::DB0_FIRST32, 4) => {
                if let Some(fifo) = self.registers.fifo(port, fifo_at(page, second)) {
                    fifo.first.store(value as u32, Relaxed);
                }
            }
            (umr::DB0_SECOND32, 4) => {
                let first = self
                    .registers
                    .fifo(port, fifo_at(page, second))
                    .map_or(0, |f| f.first.load(Relaxed));
                self.push(port, page, second, u64::from(first) | value << 32);
            }
            (umr::CQ0_NUM, 8) => self.cq_ci(port, value as u32, (value >> 32) as u32),
            (umr::CQ0_NUM, 4) => {
                if let Some(number) = self.registers.cq_number(port, page, second) {
                    number.store(value as u32, Relaxed);
                }
            }
            (umr::CQ0_CI, 4) => {
                if let Some(number) = self.registers.cq_number(port, page, second) {
                    self.cq_ci(port, number.load(Relaxed), value as u32);
                }
            }
            // Third and fourth words belong to congestion control, which has nothing to control here.
            _ => {}
        }
    }

    fn push(&self, port: u32, page: u64, second: bool, entry: u64) {
        let id = fifo_at(page, second);
        let Some(fifo) = self
            .registers
            .fifo(port, id)
            .filter(|f| f.open.load(Acquire))
        else {
            return;
        };
        crate::trap::handover::ring(self, port, entry);
        let pops = fifo.pops.fetch_add(1, AcqRel).wrapping_add(1);
        self.map
            .w32(self.layout.fifo_page(port, id))
            .store(fifo_ci_after_pops(pops), Release);
    }
}

fn fifo_at(page: u64, second: bool) -> u32 {
    page as u32 * 2 + 1 + u32::from(second)
}
