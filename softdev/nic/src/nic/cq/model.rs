//! Producers and consumer in every order. The consumer is the one of a program: it knows an entry by its valid bit, which it clears.

use super::*;
use crate::nic::rdma_layout::SIZES;
use crate::shm::memfd::MemFile;
use crate::shm::model::{Ended, Scenario, ended, mark, marks, require};
use crate::shm::trylock::pause;

const ENTRIES: u32 = MIN_ENTRIES;
/// Where producers put what their entries announce.
const DATA: u64 = 1 << 16;
/// Marks: pushed, and consumer index at the end.
const PUSHED: u64 = 1000;
const INDEX: u64 = 2000;

struct Rig {
    file: MemFile,
    at: CqAt,
    event: u64,
}

impl Rig {
    /// A ring in which `pushed` entries have been, of which the first `taken` are gone.
    fn new(pushed: u32, taken: u32) -> Rig {
        crate::shm::fork::begin().unwrap();
        let layout = SIZES[2];
        let file = MemFile::create("cq-model", layout.total()).unwrap();
        let at = CqAt::new(layout, 1, 2);
        at.open(&file.map, ENTRIES);
        let rig = Rig {
            file,
            at,
            event: layout.event(),
        };
        for i in 0..pushed {
            if i >= ENTRIES {
                rig.take_one(i - ENTRIES);
            }
            assert_eq!(rig.push(i), Push::Done);
        }
        (pushed.saturating_sub(ENTRIES)..taken).for_each(|i| rig.take_one(i));
        rig
    }

    fn take_one(&self, i: u32) {
        assert_eq!(self.take(i), Some(i));
        self.at.set_ci(&self.file.map, i + 1);
    }

    fn push(&self, tag: u32) -> Push {
        let map = &self.file.map;
        map.w64(DATA + 64 * u64::from(tag)).store(1, Relaxed);
        self.at.push(map, self.event, Cqe::responder(1, 0, tag, 8))
    }

    fn push_and_say(&self, tag: u32) {
        if self.push(tag) == Push::Done {
            mark(PUSHED + u64::from(tag));
        }
    }

    /// The loads and stores of the driver's `poll`.
    fn take(&self, ci: u32) -> Option<u32> {
        let map = &self.file.map;
        let slot = self.at.slot(ci, ENTRIES);
        let low = map.w64(slot).load(Acquire);
        if low as u32 >> 31 == 0 {
            return None;
        }
        let high = map.w64(slot + 8).load(Acquire);
        map.w32(slot).store(low as u32 & 0x7fff_ffff, Release);
        Some(high as u32)
    }

    /// Takes what is there, up to `most`.
    fn drain(&self, ci: &mut u32, most: u32) -> bool {
        let before = *ci;
        while *ci - before < most {
            let Some(tag) = self.take(*ci) else { break };
            let data = self.file.map.w64(DATA + 64 * u64::from(tag));
            require(data.load(Relaxed) == 1, "an entry before its data");
            mark(u64::from(tag));
            *ci += 1;
        }
        if *ci != before {
            self.at.set_ci(&self.file.map, *ci);
        }
        *ci != before
    }

    /// Everything that is left, once each and in order.
    fn finish(&self, from: u32, left: &[u64], tags: &[u64]) {
        let index = marks().into_iter().rev().find(|m| *m >= INDEX);
        let mut ci = index.map_or(from, |m| (m - INDEX) as u32);
        self.at.repair(&self.file.map);
        while self.drain(&mut ci, 8) {}
        let (pi, _, _) = self.at.look(&self.file.map);
        require(pi == ci, "the index is not behind the last entry");
        for tag in left {
            require(count(*tag) == 1, "an old entry lost or doubled");
        }
        for tag in tags {
            let (seen, said) = (count(*tag), count(PUSHED + *tag));
            // A producer that died may have pushed and not said so.
            let dead = said == 0 && *tag == 10 && ended(0) == Some(Ended::Killed);
            require(
                seen == said || dead && seen <= 1,
                "an entry lost or doubled",
            );
        }
        let seen: Vec<u64> = marks().into_iter().filter(|m| *m < 10).collect();
        require(seen == left, "out of order");
    }
}

fn count(tag: u64) -> usize {
    marks().iter().filter(|m| **m == tag).count()
}

#[test]
fn two_producers_and_a_consumer() {
    let rig = Rig::new(4, 4);
    let caught = Scenario::new()
        .interruptions(1)
        .thread(|| rig.push_and_say(10))
        .thread(|| rig.push_and_say(20))
        .thread(|| {
            let mut ci = 4;
            rig.drain(&mut ci, 2);
            mark(INDEX + u64::from(ci));
        })
        .after(|| rig.finish(4, &[], &[10, 20]))
        .check("CQ, two producers and a consumer");
    // The driver's loads of the entry; the entry itself is a locked instruction.
    assert_eq!(caught, 1);
}

/// One place is free, and the consumer makes another one.
#[test]
fn a_ring_that_is_nearly_full() {
    let rig = Rig::new(4, 1);
    let caught = Scenario::new()
        .interruptions(1)
        .thread(|| rig.push_and_say(10))
        .thread(|| rig.push_and_say(20))
        .thread(|| {
            let mut ci = 1;
            rig.drain(&mut ci, 1);
            mark(INDEX + u64::from(ci));
        })
        .after(|| rig.finish(1, &[1, 2, 3], &[10, 20]))
        .check("CQ, nearly full");
    // What a producer knows of other slots is checked by its compare-and-swap.
    assert_eq!(caught, 0);
}

#[test]
fn a_producer_may_die() {
    let rig = Rig::new(5, 4);
    let caught = Scenario::new()
        .mortal(|| rig.push_and_say(10))
        .thread(|| rig.push_and_say(20))
        .after(|| rig.finish(4, &[4], &[10, 20]))
        .check("CQ, a producer dies");
    assert_eq!(caught, 0);
}

/// The other side takes and fills more than a lap meanwhile.
#[test]
fn a_producer_may_sleep() {
    let rig = Rig::new(3, 3);
    let scenario = Scenario::new()
        .sequential()
        .interruptions(3)
        .thread(|| rig.push_and_say(10))
        .thread(|| {
            let mut ci = 3;
            for tag in 20..25 {
                rig.push_and_say(tag);
                rig.drain(&mut ci, 2);
            }
            mark(INDEX + u64::from(ci));
        })
        .after(|| rig.finish(3, &[], &[10, 20, 21, 22, 23, 24]));
    scenario.check("CQ, a producer sleeps over a lap");
}

/// As the driver's agent goes to sleep: it reads the event word, arms, and waits for the word to change.
#[test]
fn who_sleeps_is_woken() {
    let rig = Rig::new(3, 3);
    let map = &rig.file.map;
    let caught = Scenario::new()
        .thread(|| rig.push_and_say(10))
        .thread(|| {
            let mut ci = 3;
            loop {
                let event = map.w32(rig.event).load(Acquire);
                if rig.drain(&mut ci, 1) {
                    break;
                }
                if rig.at.arm(map, ci) {
                    let mut turns = 0;
                    while map.w32(rig.event).load(Acquire) == event {
                        pause(&mut turns);
                    }
                }
            }
        })
        .check("CQ, its consumer sleeps");
    // The swap that arms.
    assert_eq!(caught, 1);
}
