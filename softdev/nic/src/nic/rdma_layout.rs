//! Layout of a context's RDMA file. Offsets are mmap offsets of the command descriptor as well.
//!
//! | part | who writes |
//! |---|---|
//! | header page | owner; `inbox` words: peers |
//! | accesses in flight, four lines per process | peers |
//! | generations of live QPs | owner |
//! | syndromes for the owner's QPs, and bits that say where | peers |
//! | arena: `usable` bytes of the provider's | program, peers by WRITE |
//! | event word page | NIC |
//! | CQ pages (PI, consumer's words), FIFO CI pages, CQ rings | NIC, program |
//! | frames: head page, lane table, lanes (see `nic::frames`) | NIC, peers |
//! | WQ rings | program |
//! | behind the end: UMR register pages | nobody: a store traps |

use crate::shm::fabric_file::{MAX_PORTS, MAX_PROCS, MAX_QPS};
use kernel_abi::gaudi2::UMR_PAGES;

pub(crate) const VERSION: u32 = 3;
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"gaudirdm");
pub(crate) const PAGE: u64 = 4096;

pub(crate) mod head {
    pub(crate) const MAGIC: u64 = 0;
    pub(crate) const VERSION: u64 = 8;
    pub(crate) const NONCE: u64 = 16;
    pub(crate) const ASID: u64 = 24;
    pub(crate) const DEVICE: u64 = 28;
    /// Set when the owner has closed the context in order.
    pub(crate) const CLOSED: u64 = 32;
    pub(crate) const USABLE: u64 = 40;
    pub(crate) const RINGS: u64 = 48;
    /// Not 0: before it waits for accesses in flight, the owner has every processor execute a fence (see `shm::barrier`).
    pub(crate) const FENCES: u64 = 56;
    /// All process slots that ever counted themselves in are below it.
    pub(crate) const INFLIGHT_HIGH: u64 = 64;
    /// Ports whose syndrome bits are not all zero (1-based bits).
    pub(crate) const INBOX: u64 = 128;
}

/// A block per process slot: word 0 its incarnation, then words that say whether accesses are in flight. The first is a counter of all
/// QPs that have no word of their own.
pub(crate) const INFLIGHT: u64 = PAGE;
pub(crate) const INFLIGHT_BLOCK: u64 = 256;
pub(crate) const INFLIGHT_WAYS: u64 = INFLIGHT_BLOCK / 8 - 1;
/// Generation of each live QP of this context, 0 for none.
pub(crate) const LIVE: u64 = INFLIGHT + MAX_PROCS as u64 * INFLIGHT_BLOCK;
/// Syndrome that a peer found for each QP of this context.
pub(crate) const SYNDROME: u64 = LIVE + (MAX_PORTS * MAX_QPS) as u64 * 4;
pub(crate) const SYNDROME_BITS: u64 = SYNDROME + (MAX_PORTS * MAX_QPS) as u64 * 4;
const CONTROL_END: u64 = SYNDROME_BITS + (MAX_PORTS * MAX_QPS / 8) as u64;
pub(crate) const ARENA: u64 = 2 << 20;
const _: () = assert!(CONTROL_END <= ARENA);

pub(crate) const CQS: u32 = 16;
pub(crate) const CQ_SLOT: u64 = 128 << 10;
pub(crate) const FIFOS: u32 = 32;

// Relative to the end of the usable arena.
const EVENT: u64 = 0;
const CQ_PAGES: u64 = EVENT + PAGE;
const FIFO_PAGES: u64 = CQ_PAGES + (MAX_PORTS * CQS) as u64 * PAGE;
const CQ_RINGS: u64 = FIFO_PAGES + (MAX_PORTS * FIFOS) as u64 * PAGE;
const FRAMES: u64 = CQ_RINGS + (MAX_PORTS * CQS) as u64 * CQ_SLOT;
/// Bytes between the usable arena and the WQ rings.
pub(crate) const FIXED_TAIL: u64 = FRAMES + super::frames::BYTES;

pub(crate) const UMR_BYTES: u64 = MAX_PORTS as u64 * UMR_PAGES as u64 * PAGE;

/// Words of a CQ page. The first is the PI page of the ABI.
pub(crate) mod cq_word {
    /// Free-running producer index, upper half 0: what programs read is what producers count with.
    pub(crate) const PI: u64 = 0;
    /// Not 0: the next entry bumps the event word.
    pub(crate) const ARM: u64 = 8;
    /// Size of the ring; 0 when the CQ does not exist.
    pub(crate) const ENTRIES: u64 = 12;
    /// Consumer index, in a line of its own.
    pub(crate) const CI: u64 = 64;
}

/// The two sizes that a context may have smaller where address space is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) usable: u64,
    pub(crate) rings: u64,
}

/// What to ask for, in this order.
pub(crate) const SIZES: [Layout; 3] = [
    Layout {
        usable: 16 << 30,
        rings: 16 << 30,
    },
    Layout {
        usable: 1 << 30,
        rings: 1 << 30,
    },
    Layout {
        usable: 128 << 20,
        rings: 128 << 20,
    },
];

fn port_index(port: u32) -> u64 {
    u64::from(port.wrapping_sub(1) % MAX_PORTS)
}

/// Index of a QP in tables that cover all ports.
pub(crate) fn qp_index(port: u32, qpn: u32) -> u64 {
    port_index(port) * u64::from(MAX_QPS) + u64::from(qpn % MAX_QPS)
}

impl Layout {
    /// Taken from a header; `None` if it is none of ours.
    pub(crate) fn checked(usable: u64, rings: u64) -> Option<Layout> {
        SIZES
            .into_iter()
            .find(|l| l.usable == usable && l.rings == rings)
    }
    pub(crate) fn event(self) -> u64 {
        ARENA + self.usable + EVENT
    }
    #[inline(always)]
    pub(crate) fn cq_page(self, port: u32, cq: u32) -> u64 {
        ARENA
            + self.usable
            + CQ_PAGES
            + (port_index(port) * u64::from(CQS) + u64::from(cq % CQS)) * PAGE
    }
    pub(crate) fn fifo_page(self, port: u32, fifo: u32) -> u64 {
        ARENA
            + self.usable
            + FIFO_PAGES
            + (port_index(port) * u64::from(FIFOS) + u64::from(fifo % FIFOS)) * PAGE
    }
    #[inline(always)]
    pub(crate) fn cq_ring(self, port: u32, cq: u32) -> u64 {
        ARENA
            + self.usable
            + CQ_RINGS
            + (port_index(port) * u64::from(CQS) + u64::from(cq % CQS)) * CQ_SLOT
    }
    pub(crate) fn frames(self) -> u64 {
        ARENA + self.usable + FRAMES
    }
    /// Where the WQ rings begin: peers need nothing from here on.
    pub(crate) fn wq_rings(self) -> u64 {
        ARENA + self.usable + FIXED_TAIL
    }
    pub(crate) fn total(self) -> u64 {
        self.wq_rings() + self.rings
    }
    pub(crate) fn arena_size(self) -> u64 {
        self.total() - ARENA
    }
    /// A register page; behind the end of the file.
    pub(crate) fn umr_page(self, port: u32, page: u64) -> u64 {
        self.total() + (port_index(port) * UMR_PAGES as u64 + page % UMR_PAGES as u64) * PAGE
    }
    /// Port and page number of an offset behind the end.
    pub(crate) fn umr_at(self, off: u64) -> Option<(u32, u64)> {
        let rel = off
            .checked_sub(self.total())
            .filter(|rel| *rel < UMR_BYTES)?;
        let page = rel / PAGE;
        Some((
            (page / UMR_PAGES as u64) as u32 + 1,
            page % UMR_PAGES as u64,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_overlap() {
        for l in SIZES {
            assert!(l.event() >= ARENA + l.usable);
            assert!(l.cq_page(1, 0) > l.event());
            assert_eq!(l.cq_page(24, 15) + PAGE, l.fifo_page(1, 0));
            assert_eq!(l.fifo_page(24, 31) + PAGE, l.cq_ring(1, 0));
            assert_eq!(l.cq_ring(24, 15) + CQ_SLOT, l.frames());
            assert_eq!(l.frames() + super::super::frames::BYTES, l.wq_rings());
            assert_eq!(l.umr_at(l.umr_page(24, 14) + 0x184), Some((24, 14)));
            assert_eq!(l.umr_at(l.umr_page(24, 14) + PAGE), None);
            assert_eq!(l.umr_at(l.total() - 1), None);
        }
    }
}
