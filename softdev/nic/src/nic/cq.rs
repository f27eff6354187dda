//! Completion queues: many producers in many processes, one consumer.
//!
//! An entry is published by one 16-byte compare-and-swap, the producer index moves afterwards, and whoever finds it behind
//! moves it: a producer may die or stop between any two steps. Bits 25..=30 of word 0 carry the lap of the ring, so that a
//! producer that slept over a lap does not fill a slot that is no longer its own, and an entry counts as present for its
//! lap even when the consumer has cleared the valid bit already.

use super::rdma_layout::{Layout, cq_word};
use crate::shm::sync::fence;
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

/// How one attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attempt {
    Done,
    /// Somebody else was faster.
    Again,
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
        for _ in 0..ATTEMPTS {
            let pi = pi_word.load(Acquire) as u32;
            match self.push_at(map, pi, entries, cqe) {
                Attempt::Done => {
                    self.notify(map, event);
                    return Push::Done;
                }
                Attempt::Again => {}
                Attempt::Full => return Push::Full,
            }
        }
        Push::Full
    }

    /// One attempt with a producer index that was read at some time before.
    #[inline(always)]
    fn push_at(self, map: &Mapping, pi: u32, entries: u32, cqe: Cqe) -> Attempt {
        let pi_word = map.w64(self.page + cq_word::PI);
        let ci_word = map.w32(self.page + cq_word::CI);
        if pi.wrapping_sub(ci_word.load(Acquire)) >= entries {
            // Also when the consumer is ahead of the index, because its entry's producer has not moved it yet.
            return if self.help(map, pi, entries) {
                Attempt::Again
            } else {
                Attempt::Full
            };
        }
        let slot = self.slot(pi, entries);
        let [low, high] = map.load_words(slot);
        if is_there(low, pi, entries) {
            let _ = pi_word.cas(u64::from(pi), u64::from(pi.wrapping_add(1)));
            return Attempt::Again;
        }
        // What was read is of an earlier lap only if the index has not gone round meanwhile; the swap below fails if it does
        // later.
        fence(Acquire);
        if pi_word.load(Relaxed) as u32 != pi {
            return Attempt::Again;
        }
        let [mut new, data] = cqe.words;
        new = (new & !(LAP_MASK << LAP_SHIFT)) | lap(pi, entries) << LAP_SHIFT;
        if map.cas16(slot, [low, high], [new, data]).is_err() {
            return Attempt::Again;
        }
        let _ = pi_word.cas(u64::from(pi), u64::from(pi.wrapping_add(1)));
        Attempt::Done
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

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nic::rdma_layout::SIZES;
    use crate::shm::memfd::MemFile;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    const EVENT: u64 = 0;

    struct Rig {
        file: MemFile,
        at: CqAt,
        entries: u32,
        ci: u32,
    }

    impl Rig {
        fn new(entries: u32) -> Rig {
            crate::shm::fork::begin().unwrap();
            let layout = SIZES[2];
            let file = MemFile::create("cq-test", layout.total()).unwrap();
            let at = CqAt::new(layout, 1, 2);
            at.open(&file.map, entries);
            Rig {
                file,
                at,
                entries,
                ci: 0,
            }
        }

        fn pi(&self) -> u32 {
            self.at.look(&self.file.map).0
        }

        fn push(&self, tag: u32) -> Push {
            self.at
                .push(&self.file.map, EVENT, Cqe::responder(1, 0, tag, 8))
        }

        fn attempt(&self, pi: u32, tag: u32) -> Attempt {
            self.at.push_at(
                &self.file.map,
                pi,
                self.entries,
                Cqe::responder(1, 0, tag, 8),
            )
        }

        /// As a program does: by the valid bit, which it clears.
        fn take(&mut self) -> Option<u32> {
            let slot = self.at.slot(self.ci, self.entries);
            let [low, high] = self.file.map.load_words(slot);
            let cqe = Cqe { words: [low, high] };
            if !cqe.valid() {
                return None;
            }
            self.file
                .map
                .w32(slot)
                .store(cqe.with_valid(false).word0(), Relaxed);
            self.ci = self.ci.wrapping_add(1);
            self.at.set_ci(&self.file.map, self.ci);
            Some(cqe.tag())
        }
    }

    /// Seen with four producers on two processors: the slot was read after the sleep, so the swap found what it expected.
    #[test]
    fn a_producer_that_slept_over_a_lap_overwrites_nothing() {
        for laps in [1, 2, 62, 63, 64, 65] {
            let mut rig = Rig::new(4);
            let stale = rig.pi();
            for i in 0..4 * laps {
                assert_eq!(rig.push(i), Push::Done);
                assert_eq!(rig.take(), Some(i));
            }
            assert_eq!(rig.push(1000), Push::Done);
            assert_ne!(rig.attempt(stale, 7), Attempt::Done);
            assert_eq!((rig.take(), rig.take()), (Some(1000), None));
        }
    }

    #[test]
    fn an_index_left_behind_is_moved_by_others() {
        let mut rig = Rig::new(4);
        // A producer dies behind its swap.
        rig.push(1);
        rig.file
            .map
            .w64(rig.at.page + cq_word::PI)
            .store(0, Relaxed);
        assert!(
            !rig.at.arm(&rig.file.map, 0),
            "the entry is there whatever the index says"
        );
        // The consumer takes it by its valid bit and is ahead of the index then.
        assert_eq!(rig.take(), Some(1));
        assert_eq!(rig.push(2), Push::Done);
        assert_eq!((rig.take(), rig.pi()), (Some(2), 2));
        rig.push(3);
        rig.file
            .map
            .w64(rig.at.page + cq_word::PI)
            .store(2, Relaxed);
        rig.at.repair(&rig.file.map);
        assert_eq!(rig.pi(), 3);
    }

    proptest! {
        #[test]
        fn it_is_a_queue(log in 2u32..5, start in prop_oneof![Just(0u32), Just(u32::MAX - 40)], ops in proptest::collection::vec(any::<bool>(), 1..600)) {
            let mut rig = Rig::new(1 << log);
            let start = start & !(rig.entries - 1);
            rig.file.map.w64(rig.at.page + cq_word::PI).store(u64::from(start), Relaxed);
            rig.at.set_ci(&rig.file.map, start);
            rig.ci = start;
            let mut oracle = VecDeque::new();
            for (i, produce) in ops.into_iter().enumerate() {
                if produce {
                    let want = if oracle.len() < rig.entries as usize { Push::Done } else { Push::Full };
                    prop_assert_eq!(rig.push(i as u32), want);
                    if want == Push::Done {
                        oracle.push_back(i as u32);
                    }
                } else {
                    prop_assert_eq!(rig.take(), oracle.pop_front());
                }
            }
        }
    }
}
