//! The model against what is known of small programs: what must be impossible is, what may happen does.

use super::{Scenario, mark, marks, require};
use crate::shm::barrier;
use crate::shm::sync::{AtomicU64, fence};
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::Ordering::{self, *};

type Words = [AtomicU64; 4];

fn words() -> Words {
    [const { AtomicU64::new(0) }; 4]
}

/// Every pair of answers of two threads.
fn outcomes(
    a: impl Fn(&Words) -> u64 + Sync + Send,
    b: impl Fn(&Words) -> u64 + Sync + Send,
) -> BTreeSet<(u64, u64)> {
    let w = words();
    let found = Mutex::new(BTreeSet::new());
    let report = Scenario::new()
        .thread(|| mark(a(&w)))
        .thread(|| mark(b(&w) | 1 << 32))
        .after(|| {
            let (mut first, mut second) = (0, 0);
            for m in marks() {
                if m >> 32 == 0 {
                    first = m
                } else {
                    second = m as u32
                }
            }
            found.lock().unwrap().insert((first, u64::from(second)));
        })
        .explore();
    assert_eq!(report.failure, None);
    found.into_inner().unwrap()
}

fn store_buffers(store: Ordering, load: Ordering, between: fn()) -> bool {
    let half = move |mine: usize, other: usize| {
        move |w: &Words| {
            w[mine].store(1, store);
            between();
            w[other].load(load)
        }
    };
    outcomes(half(0, 1), half(1, 0)).contains(&(0, 0))
}

#[test]
fn a_store_may_be_seen_after_a_later_load() {
    assert!(store_buffers(Relaxed, Relaxed, || ()));
    assert!(store_buffers(Release, Acquire, || ()));
    assert!(store_buffers(Relaxed, SeqCst, || ()));
    assert!(!store_buffers(SeqCst, SeqCst, || ()));
    assert!(!store_buffers(Relaxed, Relaxed, || fence(SeqCst)));
    assert!(store_buffers(Relaxed, Relaxed, || fence(AcqRel)));
}

#[test]
fn one_side_can_fence_for_both() {
    let light = |w: &Words| {
        w[0].store(1, Relaxed);
        barrier::light();
        w[1].load(Relaxed)
    };
    let heavy = |fences: bool| {
        move |w: &Words| {
            w[1].store(1, Relaxed);
            if fences {
                barrier::on_all();
            } else {
                fence(SeqCst);
            }
            w[0].load(Relaxed)
        }
    };
    assert!(!outcomes(light, heavy(true)).contains(&(0, 0)));
    assert!(outcomes(light, heavy(false)).contains(&(0, 0)));
}

fn message(publish: Ordering, take: Ordering, fences: Option<(Ordering, Ordering)>) -> bool {
    let found = outcomes(
        move |w| {
            w[0].store(7, Relaxed);
            if let Some((order, _)) = fences {
                fence(order);
            }
            w[1].store(1, publish);
            0
        },
        move |w| {
            let there = w[1].load(take);
            if let Some((_, order)) = fences {
                fence(order);
            }
            10 * w[0].load(Relaxed) + there
        },
    );
    assert!(found.contains(&(0, 71)) && found.contains(&(0, 0)) && found.contains(&(0, 70)));
    found.contains(&(0, 1))
}

#[test]
fn a_message_needs_both_orderings() {
    assert!(message(Relaxed, Relaxed, None));
    assert!(message(Release, Relaxed, None));
    assert!(message(Relaxed, Acquire, None));
    assert!(!message(Release, Acquire, None));
    assert!(!message(Relaxed, Relaxed, Some((Release, Acquire))));
    assert!(message(Relaxed, Relaxed, Some((Acquire, Release))));
}

#[test]
fn one_word_is_seen_in_one_order() {
    let write = |w: &Words| {
        w[0].store(1, Relaxed);
        w[0].store(2, Relaxed);
        0
    };
    let found = outcomes(write, |w| 10 * w[0].load(Relaxed) + w[0].load(Relaxed));
    let all = [0, 1, 2, 11, 12, 22].map(|n| (0, n));
    assert_eq!(found, BTreeSet::from(all));
}

#[test]
fn no_two_threads_change_the_same_value() {
    let add = |w: &Words| w[0].fetch_add(1, Relaxed);
    assert_eq!(outcomes(add, add), BTreeSet::from([(0, 1), (1, 0)]));
    let lose = |w: &Words| {
        let old = w[0].load(Relaxed);
        w[0].store(old + 1, Relaxed);
        old
    };
    assert!(outcomes(lose, lose).contains(&(0, 0)));
}

#[test]
fn a_release_goes_on_through_the_changes_of_others() {
    let w = words();
    let run = |through: fn(&Words)| {
        Scenario::new()
            .thread(|| {
                w[0].store(7, Relaxed);
                w[1].store(1, Release);
            })
            .thread(|| through(&w))
            .thread(|| {
                if w[1].load(Acquire) == 2 {
                    require(w[0].load(Relaxed) == 7, "not seen");
                }
            })
            .explore()
            .failure
    };
    let swap = |w: &Words| {
        let _ = w[1].compare_exchange(1, 2, Relaxed, Relaxed);
    };
    let store = |w: &Words| {
        if w[1].load(Relaxed) == 1 {
            w[1].store(2, Relaxed);
        }
    };
    assert_eq!(run(swap), None);
    assert!(run(store).is_some());
}

/// Independent reads of independent writes.
#[test]
fn sequential_consistency_is_one_order_for_all() {
    let w = words();
    let run = |order: Ordering| {
        let read = |first: usize, second: usize| {
            let w = &w;
            move || mark(10 * w[first].load(order) + w[second].load(order) + 100 * first as u64)
        };
        Scenario::new()
            .thread(|| w[0].store(1, if order == Acquire { Release } else { order }))
            .thread(|| w[1].store(1, if order == Acquire { Release } else { order }))
            .thread(read(0, 1))
            .thread(read(1, 0))
            .after(|| {
                require(
                    !(marks().contains(&10) && marks().contains(&110)),
                    "two orders",
                )
            })
            .explore()
            .failure
    };
    assert_eq!(run(SeqCst), None);
    assert!(run(Acquire).is_some());
}

/// What ends in the middle leaves behind what it has done, in any order that it may be seen in.
#[test]
fn death_leaves_every_prefix() {
    let w = words();
    let found = Mutex::new(BTreeSet::new());
    let report = Scenario::new()
        .mortal(|| {
            w[0].store(1, Release);
            w[1].store(1, Release);
        })
        .after(|| {
            found
                .lock()
                .unwrap()
                .insert((w[0].load(Relaxed), w[1].load(Relaxed)));
        })
        .explore();
    assert_eq!(report.failure, None);
    assert_eq!(
        found.into_inner().unwrap(),
        BTreeSet::from([(0, 0), (1, 0), (1, 1)])
    );
}

#[test]
fn who_waits_for_nothing_is_found() {
    let w = words();
    let wait = || {
        let mut turns = 0;
        while w[0].load(Relaxed) == 0 {
            crate::shm::trylock::pause(&mut turns);
        }
    };
    let report = Scenario::new()
        .thread(wait)
        .thread(|| w[0].store(1, Relaxed))
        .explore();
    assert_eq!(report.failure, None);
    let report = Scenario::new()
        .thread(wait)
        .thread(|| w[1].store(1, Relaxed))
        .explore();
    assert!(
        report
            .failure
            .is_some_and(|f| f.starts_with("nobody can go on"))
    );
}
