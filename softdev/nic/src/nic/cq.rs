//! Completion queues: many producers in many processes, one consumer.
//!
//! An entry is published by one 16-byte compare-and-swap, the producer index moves afterwards, and whoever finds it behind
//! moves it: a producer may die or stop between any two steps. Bits 25..=30 of word 0 carry the lap of the ring, so that a
//! producer that slept over a lap does not fill a slot that is no longer its own, and an entry counts as present for its
//! lap even when the consumer has cleared the valid bit already.

use super::rdma_layout::{Layout, cq_word};
use crate::shm::{Mapping, futex};
use kernel_abi::gaudi2::Cqe;
use std::sync::atomic::Ordering::*;

/// Where a CQ is in a context's RDMA file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CqAt {
    page: u64,
    ring: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Push {
    Done,
    /// The consumer has to take something first.
    Full,
}

pub(crate) const MIN_ENTRIES: u32 = 4;
pub(crate) const MAX_ENTRIES: u32 = 8192;
/// Attempts before a producer gives way and is retried like one that found the ring full.
const ATTEMPTS: u32 = 256;

const LAP_SHIFT: u32 = 25;
const LAP_MASK: u64 = 63;

fn lap(pi: u32, entries: u32) -> u64 {
    u64::from((pi / entries).wrapping_add(1)) & LAP_MASK
}

/// Whether a slot holds the entry of this producer index. A slot never written is no entry of lap 0.
fn is_there(word0: u64, pi: u32, entries: u32) -> bool {
    word0 as u32 != 0 && (word0 >> LAP_SHIFT) & LAP_MASK == lap(pi, entries)
}

impl CqAt {
    pub(crate) fn new(layout: Layout, port: u32, cq: u32) -> CqAt {
        CqAt {
            page: layout.cq_page(port, cq),
            ring: layout.cq_ring(port, cq),
        }
    }

    /// Size of the ring; `None` if there is no such CQ or a program has scribbled over the word.
    #[inline(always)]
    fn entries(self, map: &Mapping) -> Option<u32> {
        let n = map.w32(self.page + cq_word::ENTRIES).load(Relaxed);
        (n.is_power_of_two() && (MIN_ENTRIES..=MAX_ENTRIES).contains(&n)).then_some(n)
    }

    fn slot(self, pi: u32, entries: u32) -> u64 {
        self.ring + 16 * u64::from(pi & (entries - 1))
    }

    pub(crate) fn open(self, map: &Mapping, entries: u32) {
        map.w64(self.page + cq_word::PI).store(0, Relaxed);
        map.w32(self.page + cq_word::ARM).store(0, Relaxed);
        map.w32(self.page + cq_word::CI).store(0, Relaxed);
        map.w32(self.page + cq_word::ENTRIES)
            .store(entries, Release);
    }

    pub(crate) fn shut(self, map: &Mapping) {
        map.w32(self.page + cq_word::ENTRIES).store(0, Release);
    }

    /// Producer and consumer index and size, for those who look.
    pub(crate) fn look(self, map: &Mapping) -> (u32, u32, u32) {
        let pi = map.w64(self.page + cq_word::PI).load(Relaxed) as u32;
        (
            pi,
            map.w32(self.page + cq_word::CI).load(Relaxed),
            self.entries(map).unwrap_or(0),
        )
    }

    /// Publishes an entry. Everything that the caller wrote before is visible to who sees it.
    #[inline]
    pub(crate) fn push(self, map: &Mapping, event: u64, cqe: Cqe) -> Push {
        let Some(entries) = self.entries(map) else {
            return Push::Full;
        };
        let pi_word = map.w64(self.page + cq_word::PI);
        let ci_word = map.w32(self.page + cq_word::CI);
        for _ in 0..ATTEMPTS {
            let pi = pi_word.load(Acquire) as u32;
            if pi.wrapping_sub(ci_word.load(Acquire)) >= entries {
                // Also when the consumer is ahead of the index, because its entry's producer has not moved it yet.
                if !self.help(map, pi, entries) {
                    return Push::Full;
                }
                continue;
            }
            let slot = self.slot(pi, entries);
            let [low, high] = map.load_words(slot);
            if is_there(low, pi, entries) {
                let _ = pi_word.cas(u64::from(pi), u64::from(pi.wrapping_add(1)));
                continue;
            }
            let [mut new, data] = cqe.words;
            new = (new & !(LAP_MASK << LAP_SHIFT)) | lap(pi, entries) << LAP_SHIFT;
            if map.cas16(slot, [low, high], [new, data]).is_err() {
                continue;
            }
            let _ = pi_word.cas(u64::from(pi), u64::from(pi.wrapping_add(1)));
            self.notify(map, event);
            return Push::Done;
        }
        Push::Full
    }

    /// Moves the index over an entry that is there.
    fn help(self, map: &Mapping, pi: u32, entries: u32) -> bool {
        let [word0] = map.load_words(self.slot(pi, entries));
        is_there(word0, pi, entries)
            && map
                .w64(self.page + cq_word::PI)
                .cas(u64::from(pi), u64::from(pi.wrapping_add(1)))
                .is_ok()
    }

    /// The index has moved by a full fence before; an armed CQ is disarmed by one producer only.
    #[inline(always)]
    fn notify(self, map: &Mapping, event: u64) {
        let arm = map.w32(self.page + cq_word::ARM);
        if arm.load(SeqCst) != 0 && arm.swap(0) != 0 {
            bump(map, event);
        }
    }

    pub(crate) fn set_ci(self, map: &Mapping, ci: u32) {
        map.w32(self.page + cq_word::CI).store(ci, Release);
    }

    /// Arms unless an entry at `ci` is there already. A producer either sees the armed word after publishing, or published
    /// before the look at the slot that follows it here.
    pub(crate) fn arm(self, map: &Mapping, ci: u32) -> bool {
        let Some(entries) = self.entries(map) else {
            return true;
        };
        let arm = map.w32(self.page + cq_word::ARM);
        arm.swap(1);
        let pi = map.w64(self.page + cq_word::PI).load(SeqCst) as u32;
        let [word0] = map.load_words(self.slot(ci, entries));
        // Not the consumer's own leftover: that one is of an earlier lap.
        let there = is_there(word0, ci, entries) && word0 >> 31 & 1 == 1;
        if (pi.wrapping_sub(ci) as i32) > 0 || there {
            arm.swap(0);
            return false;
        }
        true
    }

    /// Finishes what producers left undone who died behind their compare-and-swap.
    pub(crate) fn repair(self, map: &Mapping) {
        let Some(entries) = self.entries(map) else {
            return;
        };
        for _ in 0..entries {
            let pi = map.w64(self.page + cq_word::PI).load(Acquire) as u32;
            if !self.help(map, pi, entries) {
                return;
            }
        }
    }
}

/// Bumps an event word and wakes who waits for it.
pub(crate) fn bump(map: &Mapping, event: u64) {
    let word = map.w32(event);
    word.add(1);
    futex::wake_all(word);
}
