//! Datagrams between the QPs of a fabric: frames in the receiver's shared memory.
//!
//! Each sending context has a **lane** of its own for each QP that it sends to: a ring of lines with one writer and one reader, so that nobody
//! who dies or stops in the middle of a frame stands in another one's way. Lanes lie in the receiver's RDMA file:
//!
//! | part | what |
//! |---|---|
//! | head page | how many lanes have memory, a count of changes to the table, the armed word, the numbers of the QPs that take frames |
//! | table, 256 B per lane | state word, QP number, the sender's context; the reader's position in a line of its own |
//! | lanes | 2048 lines of 64 B |
//!
//! The life of a lane: a sender claims a free one (FREE, CLAIMED, LIVE) and counts the change; the receiver sees the count and takes the lane
//! in. A sender that closes leaves (LEFT), and the receiver empties and frees the lane. Only the receiver frees lanes: when their sender has left or
//! is dead, or when their QP is gone: then it closes them (CLOSED) and waits for accesses in flight, as for an unmapping, before anybody gets
//! them again. What is read from here is a claim of another process: positions are masked, lengths checked, loops bounded by the table.

pub(crate) mod lane;
mod receiver;
mod sender;

pub(crate) use receiver::Receiver;
pub(crate) use sender::Sender;

use super::rdma_layout::PAGE;
use crate::shm::Mapping;
use crate::shm::cell::{W32, W64};
use crate::shm::fabric_file::Owner;

/// Lanes of a context at most.
pub(crate) const LANES: u32 = 512;
/// Lanes that get memory at once.
const STEP: u32 = 4;
const RECORD: u64 = 256;
const TABLE: u64 = PAGE;
const DATA: u64 = TABLE + LANES as u64 * RECORD;
/// Of the whole part of the file.
pub(crate) const BYTES: u64 = DATA + LANES as u64 * lane::BYTES;
const _: () = assert!(DATA.is_multiple_of(PAGE) && BYTES.is_multiple_of(PAGE));

/// Words of the head page.
mod head {
    /// Lanes that have memory; 0: no frames are taken here.
    pub(super) const READY: u64 = 0;
    /// Goes up whenever a sender changes the table.
    pub(super) const CHANGES: u64 = 4;
    /// Not 0: the next frame bumps the event word.
    pub(super) const ARMED: u64 = 64;
    /// Numbers of the QPs that take frames, with [`LISTED`](super::LISTED).
    pub(super) const QPS: u64 = 128;
}

/// QPs of a context that take frames at most; the others do without.
const MAX_QPS: u64 = (PAGE - head::QPS) / 4;
const LISTED: u32 = 1 << 31;

/// A context's frames in a mapping of its file.
#[derive(Clone, Copy)]
pub(crate) struct At<'a> {
    map: &'a Mapping,
    base: u64,
}

impl<'a> At<'a> {
    pub(crate) fn new(map: &'a Mapping, base: u64) -> At<'a> {
        At { map, base }
    }
    fn ready(self) -> W32<'a> {
        self.map.w32(self.base + head::READY)
    }
    fn changes(self) -> W32<'a> {
        self.map.w32(self.base + head::CHANGES)
    }
    fn armed(self) -> W32<'a> {
        self.map.w32(self.base + head::ARMED)
    }
    fn qp(self, i: u64) -> W32<'a> {
        self.map.w32(self.base + head::QPS + 4 * (i % MAX_QPS))
    }
    fn record(self, i: u32) -> u64 {
        self.base + TABLE + u64::from(i % LANES) * RECORD
    }
    /// See [`word`].
    fn state(self, i: u32) -> W64<'a> {
        self.map.w64(self.record(i))
    }
    fn number(self, i: u32) -> W32<'a> {
        self.map.w32(self.record(i) + 8)
    }
    /// The sender found no room and may sleep.
    fn starved(self, i: u32) -> W32<'a> {
        self.map.w32(self.record(i) + 12)
    }
    /// The sender's context: ASID, device in the upper half.
    fn origin(self, i: u32) -> W64<'a> {
        self.map.w64(self.record(i) + 16)
    }
    fn lane(self, i: u32) -> lane::Lane<'a> {
        let data = self.base + DATA + u64::from(i % LANES) * lane::BYTES;
        lane::Lane::new(self.map, data, self.record(i) + 64)
    }
}

/// State words: kind in bits 0..4, the sender's process slot in 4..16, a serial number in 16..32, the slot's incarnation in the upper half.
mod word {
    use super::Owner;
    pub(super) const FREE: u64 = 0;
    pub(super) const CLAIMED: u64 = 1;
    pub(super) const LIVE: u64 = 2;
    /// By the receiver: the QP is gone.
    pub(super) const CLOSED: u64 = 3;
    /// By the sender: nothing more will come.
    pub(super) const LEFT: u64 = 4;

    pub(super) const fn kind(word: u64) -> u64 {
        word & 0xf
    }
    pub(super) const fn with_kind(word: u64, kind: u64) -> u64 {
        word & !0xf | kind
    }
    pub(super) const fn owner(word: u64) -> Owner {
        Owner {
            slot: (word >> 4) as u32 & 0xfff,
            inc: (word >> 32) as u32,
        }
    }
    /// The next claim of a lane that has this word.
    pub(super) const fn claim(free: u64, owner: Owner) -> u64 {
        let serial = (free >> 16).wrapping_add(1) & 0xffff;
        CLAIMED | ((owner.slot & 0xfff) as u64) << 4 | serial << 16 | (owner.inc as u64) << 32
    }
    /// Nobody's; the serial number stays.
    pub(super) const fn free(word: u64) -> u64 {
        word & 0xffff_0000
    }
}

#[cfg(test)]
mod tests;
