//! Threads that ring, in every order.

use super::*;
use crate::shm::model::{Scenario, mark, marks, require};

struct Rig {
    lock: TryLock<()>,
    again: AtomicU64,
    /// What the lock protects.
    value: AtomicU64,
}

impl Rig {
    fn new() -> Rig {
        Rig {
            lock: TryLock::new(()),
            again: AtomicU64::new(0),
            value: AtomicU64::new(0),
        }
    }

    /// Work that would be spoilt by anybody else's.
    fn add(&self) {
        let before = self.value.load(Relaxed);
        self.value.store(before + 1, Relaxed);
    }

    fn ring(&self, bell: Option<u32>) {
        let work = |_: &mut (), bell: Option<u32>| {
            self.add();
            if let Some(bell) = bell {
                mark(u64::from(bell));
            }
        };
        hand_over(&self.lock, &self.again, bell, |_, a, b| a.max(b), work);
    }
}

fn no_bell_is_lost(light: bool) -> usize {
    let rig = Rig::new();
    let scenario = Scenario::new()
        .thread(|| rig.ring(Some(1)))
        .thread(|| rig.ring(Some(2)))
        .after(|| {
            // The later bell stands for the one before.
            require(marks().contains(&2), "a bell is lost");
            require(rig.again.load(Relaxed) == 0, "a bell is left");
        });
    if light {
        scenario.check("bells")
    } else {
        scenario
            .without_membarrier()
            .check("bells without membarrier")
    }
}

#[test]
fn bells_with_light_fences() {
    // The fence of all.
    assert_eq!(no_bell_is_lost(true), 1);
}

#[test]
fn bells_with_fences() {
    // Letting go, and the look behind it.
    assert_eq!(no_bell_is_lost(false), 2);
}

#[test]
fn one_holder_at_a_time() {
    let rig = Rig::new();
    let work = || {
        let held = rig.lock.lock();
        rig.add();
        drop(held);
    };
    let caught = Scenario::new()
        .thread(work)
        .thread(work)
        .thread(work)
        .after(|| require(rig.value.load(Relaxed) == 3, "two held it"))
        .check("lock");
    // Taking it and letting go.
    assert_eq!(caught, 2);
}

/// Stop: who has invalidated something and has seen the lock free, or pass on, is not surprised by a holder that has not noticed.
#[test]
fn a_holder_is_waited_for() {
    const GONE: u64 = 9;
    let (rig, invalid) = (Rig::new(), AtomicU64::new(0));
    let holder = || {
        let Some(held) = rig.lock.try_lock() else {
            return;
        };
        if invalid.load(Relaxed) == 0 {
            require(!marks().contains(&GONE), "used behind the end");
            rig.add();
        }
        drop(held);
    };
    let caught = Scenario::new()
        .thread(|| {
            holder();
            holder();
        })
        .thread(|| {
            invalid.store(1, SeqCst);
            barrier::on_all();
            rig.lock.wait_passed();
            mark(GONE);
            let seen = rig.value.load(Relaxed);
            require(seen == rig.value.fetch_add(0, Relaxed), "a use is not seen");
        })
        .check("stop of a lock's holder");
    // Letting go, and the two looks of who waits.
    assert_eq!(caught, 3);
}
