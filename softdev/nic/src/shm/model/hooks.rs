//! What the crate's atomics and fences call, and what tests say: each does nothing, or is a step.

use super::machine::{Lane, Span, Value};
use super::state::{State, Status, What};
use super::{CURRENT, STOPPED, Site, current, end};
use std::panic::Location;
use std::sync::atomic::Ordering;

/// An access of a thread of an exploration; `None` for every other thread.
fn access<R: Default>(
    site: Site,
    span: Span,
    real: impl FnOnce() -> Value,
    act: impl FnOnce(&mut State, usize) -> (R, What),
) -> Option<R> {
    let (run, me) = current()?;
    Some(run.step(me, site, |state| {
        state.machine.touch(span, real());
        act(state, me)
    }))
}

fn is_quiet(address: usize) -> bool {
    CURRENT.with_borrow(|c| {
        c.as_ref()
            .is_some_and(|(run, _)| run.quiet.iter().any(|q| q.contains(&address)))
    })
}

fn split(value: u64) -> Value {
    [value as u32, (value >> 32) as u32, 0, 0]
}

fn whole(value: Value) -> u64 {
    u64::from(value[0]) | u64::from(value[1]) << 32
}

#[track_caller]
pub(crate) fn load(
    address: usize,
    bytes: usize,
    order: Ordering,
    real: impl FnOnce() -> u64,
) -> Option<u64> {
    if is_quiet(address) {
        return Some(real());
    }
    let (site, span) = (Location::caller(), Span::new(address, bytes));
    access(
        site,
        span,
        || split(real()),
        |state, me| {
            let order = state.order(site, order).unwrap_or(Ordering::Relaxed);
            let choices = state.machine.choices(me, span, order);
            let at = choices[if state.finished || state.sequential {
                0
            } else {
                state.choose(choices.len())
            }];
            let value = whole(state.machine.load(me, span, at, order));
            state.look(me, span, at);
            (value, What::Load(address, value, order))
        },
    )
}

#[track_caller]
pub(crate) fn store(
    address: usize,
    bytes: usize,
    value: u64,
    order: Ordering,
    real: impl FnOnce() -> u64,
) -> Option<()> {
    assert!(!is_quiet(address), "changed what was said to be quiet");
    let (site, span) = (Location::caller(), Span::new(address, bytes));
    access(
        site,
        span,
        || split(real()),
        |state, me| {
            let order = state.order(site, order).unwrap_or(Ordering::Relaxed);
            state.machine.store(me, span, split(value), order);
            ((), What::Store(address, value, order))
        },
    )
}

/// What was there.
#[track_caller]
pub(crate) fn update(
    address: usize,
    bytes: usize,
    order: Ordering,
    real: impl FnOnce() -> u64,
    change: impl FnOnce(u64) -> Option<u64>,
) -> Option<Result<u64, u64>> {
    assert!(!is_quiet(address), "changed what was said to be quiet");
    let (site, span) = (Location::caller(), Span::new(address, bytes));
    let done = access(
        site,
        span,
        || split(real()),
        |state, me| {
            let order = state.order(site, order).unwrap_or(Ordering::Relaxed);
            let mut new = None;
            let (old, changed) = state.machine.swap(me, span, order, |old| {
                new = change(whole(old));
                new.map(split)
            });
            let at = state.machine.newest(span);
            state.look(me, span, at);
            let old = whole(old);
            let what = What::Update(address, old, new, order);
            (Some((old, changed)), what)
        },
    )?;
    let (old, changed) = done.unwrap_or_default();
    Some(if changed { Ok(old) } else { Err(old) })
}

/// The 16-byte compare-and-swap.
#[track_caller]
pub(crate) fn cas16(
    address: usize,
    expect: [u64; 2],
    new: [u64; 2],
    real: impl FnOnce() -> [u64; 2],
) -> Option<Result<(), [u64; 2]>> {
    let (site, span) = (Location::caller(), Span::new(address, 16));
    let both = |v: [u64; 2]| {
        let ([a, b, ..], [c, d, ..]) = (split(v[0]), split(v[1]));
        [a, b, c, d]
    };
    let done = access(
        site,
        span,
        || both(real()),
        |state, me| {
            let swap = |old| (old == both(expect)).then(|| both(new));
            let (old, changed) = state.machine.swap(me, span, Ordering::SeqCst, swap);
            let what = What::Swap16(address, old, changed);
            (Some((old, changed)), what)
        },
    )?;
    let (old, changed) = done.unwrap_or_default();
    let [a, b, c, d] = old;
    Some(if changed {
        Ok(())
    } else {
        Err([whole([a, b, 0, 0]), whole([c, d, 0, 0])])
    })
}

/// Steps that touch no word.
fn event(site: Site, act: impl FnOnce(&mut State, usize) -> What) -> bool {
    let Some((run, me)) = current() else {
        return false;
    };
    run.step(me, site, |state| ((), act(state, me)));
    true
}

#[track_caller]
pub(crate) fn fence(order: Ordering) -> bool {
    let site = Location::caller();
    event(site, |state, me| match state.order(site, order) {
        Some(order) => {
            state.machine.fence(me, order);
            What::Fence(Some(order))
        }
        None => What::Fence(None),
    })
}

/// membarrier(2).
#[track_caller]
pub(crate) fn fence_all() -> bool {
    let site = Location::caller();
    event(site, |state, _| match state.order(site, Ordering::SeqCst) {
        Some(_) => {
            state.machine.fence_all();
            What::FenceOfAll(true)
        }
        None => What::FenceOfAll(false),
    })
}

/// Whether light fences are enough; `None` outside.
pub(crate) fn is_light() -> Option<bool> {
    let (run, _) = current()?;
    (!STOPPED.get()).then(|| run.lock().light)
}

/// In a loop that waits for others: they come first, and then this thread sees what has become of the words that it looked at.
#[track_caller]
pub(crate) fn pause() -> bool {
    wait(Location::caller(), |state, me| {
        let looked = std::mem::take(&mut state.threads[me].looked);
        // What has come since a stale look is not waited for.
        let stale = looked
            .iter()
            .any(|(lane, at)| state.machine.is_stale(*lane, *at));
        let mut looked: Vec<Lane> = looked.into_iter().map(|(lane, _)| lane).collect();
        looked.sort_unstable();
        looked.dedup();
        for lane in &looked {
            state.machine.catch_up(me, *lane);
        }
        if stale {
            return Status::Ready;
        }
        let changes = |lane: Lane| (lane, state.machine.changes(lane));
        Status::Spins(looked.into_iter().map(changes).collect(), state.ended())
    })
}

fn wait(site: Site, how: impl FnOnce(&mut State, usize) -> Status) -> bool {
    let Some((run, me)) = current() else {
        return false;
    };
    if STOPPED.get() {
        return true;
    }
    let mut state = run.lock();
    if state.finished {
        state.fail("waits when all is over");
        drop(state);
        return end();
    }
    let status = how(&mut state, me);
    let looked: Vec<Lane> = match &status {
        Status::Spins(lanes, _) => lanes.iter().map(|(lane, _)| *lane).collect(),
        _ => Vec::new(),
    };
    state.threads[me].status = status;
    drop(state);
    run.step(me, site, |state| {
        for lane in looked {
            state.machine.catch_up(me, lane);
        }
        ((), What::GoesOn)
    });
    true
}

/// A condition of the test.
#[track_caller]
pub(crate) fn require(holds: bool, what: &str) {
    if holds {
        return;
    }
    let (run, _) = current().expect("a thread of an exploration");
    if STOPPED.get() {
        return;
    }
    let mut state = run.lock();
    state.fail(what);
    state.running = usize::MAX;
    drop(state);
    end()
}

/// Notes something for [`marks`], in the order of all threads.
pub(crate) fn mark(what: u64) {
    if let Some((run, me)) = current()
        && !STOPPED.get()
    {
        let mut state = run.lock();
        state.marks.push(what);
        state.log.push((me, What::Mark(what), Location::caller()));
    }
}

pub(crate) fn marks() -> Vec<u64> {
    current().map_or_else(Vec::new, |(run, _)| run.lock().marks.clone())
}

/// How a thread has ended: killed or by itself.
#[track_caller]
pub(crate) fn ended(thread: usize) -> Option<Ended> {
    let site = Location::caller();
    let (run, me) = current().expect("a thread of an exploration");
    run.step(me, site, |state| {
        let how = match state.threads[thread].status {
            Status::Dead => Some(Ended::Killed),
            Status::Done => Some(Ended::ByItself),
            _ => None,
        };
        (how, What::Ended(thread, how))
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Ended {
    Killed,
    ByItself,
}
