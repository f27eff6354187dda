//! The MMU tables of an ASID, in the accel file: read by the NIC of any process, written by the owner only.
//!
//! An entry is {tag, va, size, address}: the owner writes the tag last and clears it first. Every slot that a mapping covers
//! carries the same entry, so that a translation is one look at one entry.

use crate::shm::Mapping;
use crate::shm::fabric_file::{MAX_PORTS, MAX_QPS};
use std::sync::atomic::Ordering::*;

pub(crate) const VERSION: u32 = 1;
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"gaudiacc");

/// Host mappings with 4 KiB pages (the posted accel driver's PMMU range).
pub(crate) const HOST_BASE: u64 = 0xFFF0_0000_0000_0000;
pub(crate) const SLOT_SHIFT: u32 = 31;
pub(crate) const SLOT: u64 = 1 << SLOT_SHIFT;
/// The last slot would reach into the range reserved for hints.
pub(crate) const HOST_SLOTS: u64 = 61439;
/// Reserved for hints.
pub(crate) const RESERVED_BASE: u64 = 0xFFF0_77FF_FFFF_0000;
pub(crate) const RESERVED_END: u64 = 0xFFF0_8000_0000_0000;
pub(crate) const MAILBOX_BASE: u64 = 0xFFF0_7800_0000_0000;
pub(crate) const GRANULE: u64 = 64 << 10;
pub(crate) const GRANULES: u64 = (MAX_PORTS * MAX_QPS) as u64;
/// First HBM address when all six HBMs work.
pub(crate) const HBM_BASE: u64 = 0x1001_0018_0000_0000;
pub(crate) const HBM_SLOTS: u64 = 1024;
pub(crate) const HBM_RESERVED_BASE: u64 = 0x1001_5000_0000_0000;
pub(crate) const HBM_RESERVED_END: u64 = 0x1001_7000_0000_0000;
pub(crate) const LIST: u64 = 1024;

const ENTRY: u64 = 32;
pub(crate) const HEAD_MAGIC: u64 = 0;
pub(crate) const HEAD_VERSION: u64 = 8;
pub(crate) const HEAD_DRAM: u64 = 24;
/// Entries of the list ever used are below it.
pub(crate) const HEAD_LIST_HIGH: u64 = 32;
const HOST_TABLE: u64 = 4096;
const GRANULE_TABLE: u64 = HOST_TABLE + (HOST_SLOTS + 1) * ENTRY;
const HBM_TABLE: u64 = GRANULE_TABLE + GRANULES * ENTRY;
const LIST_TABLE: u64 = HBM_TABLE + HBM_SLOTS * ENTRY;
/// Device memory.
pub(crate) const DRAM: u64 = 16 << 20;
const _: () = assert!(LIST_TABLE + LIST * ENTRY <= DRAM);

/// What an address means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Address in the owner's private memory.
    Host(u64),
    /// Offset in the owner's RDMA file.
    Rdma(u64),
    /// Offset in the accel file.
    Dram(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) va: u64,
    pub(crate) size: u64,
    pub(crate) place: Place,
}

/// Where an entry stands: a table and an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Table {
    Host,
    Granule,
    Hbm,
    List,
}

impl Table {
    pub(crate) fn offset(self, index: u64) -> u64 {
        match self {
            Table::Host => HOST_TABLE + index.min(HOST_SLOTS) * ENTRY,
            Table::Granule => GRANULE_TABLE + index.min(GRANULES - 1) * ENTRY,
            Table::Hbm => HBM_TABLE + index.min(HBM_SLOTS - 1) * ENTRY,
            Table::List => LIST_TABLE + index.min(LIST - 1) * ENTRY,
        }
    }
}

/// The entry that an address selects directly.
#[inline(always)]
fn direct(va: u64) -> Option<u64> {
    let host = va.wrapping_sub(HOST_BASE) >> SLOT_SHIFT;
    if host < HOST_SLOTS {
        return Some(Table::Host.offset(host));
    }
    let granule = va.wrapping_sub(MAILBOX_BASE) / GRANULE;
    if va >= MAILBOX_BASE && granule < GRANULES {
        return Some(Table::Granule.offset(granule));
    }
    let hbm = va.wrapping_sub(HBM_BASE) >> SLOT_SHIFT;
    (va >= HBM_BASE && hbm < HBM_SLOTS).then(|| Table::Hbm.offset(hbm))
}

/// The place of `len` bytes at `va`, if one mapping holds them all. The caller has counted itself in.
#[inline(always)]
pub(crate) fn translate(map: &Mapping, va: u64, len: u64) -> Option<Place> {
    if let Some(place) = direct(va).and_then(|at| look(map, at, va, len)) {
        return Some(place);
    }
    let high = u64::from(map.w32(HEAD_LIST_HIGH).load(Acquire)).min(LIST);
    (0..high).find_map(|i| look(map, Table::List.offset(i), va, len))
}

#[inline(always)]
fn look(map: &Mapping, at: u64, va: u64, len: u64) -> Option<Place> {
    let tag = map.w64(at).load(Acquire);
    if tag & 1 == 0 {
        return None;
    }
    let start = map.w64(at + 8).load(Relaxed);
    let size = map.w64(at + 16).load(Relaxed);
    let address = map.w64(at + 24).load(Relaxed);
    let into = va.wrapping_sub(start);
    if va < start || into > size || size - into < len {
        return None;
    }
    let address = address.checked_add(into)?;
    match tag >> 1 {
        1 => Some(Place::Host(address)),
        2 => Some(Place::Rdma(address)),
        3 => Some(Place::Dram(address)),
        _ => None,
    }
}

/// Writes an entry; its tag was 0.
pub(crate) fn publish(map: &Mapping, at: u64, entry: &Entry) {
    let (kind, address) = match entry.place {
        Place::Host(a) => (1, a),
        Place::Rdma(a) => (2, a),
        Place::Dram(a) => (3, a),
    };
    map.store_words(at + 8, &[entry.va, entry.size, address]);
    map.w64(at).store(1 | kind << 1, Release);
}

/// From the next fence on no new access begins through this entry.
pub(crate) fn invalidate(map: &Mapping, at: u64) {
    map.w64(at).store(0, SeqCst);
}
