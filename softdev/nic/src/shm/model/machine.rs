//! Memory as threads of several processors and processes may see it: each word has a history, and each thread a view, which says how much
//! of each history it must have seen. This is release/acquire memory with fences (the "promising" semantics without promises):
//! a load may answer anything that is not older than the view, and orderings carry views from thread to thread.
//!
//! Weaker than x86 where orderings are concerned, so that a missing one shows. As x86 in this: locked instructions are full fences, a failed
//! compare-and-swap has looked at the newest value, loads are not put off behind later stores.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Address of a 4-byte lane, divided by four.
pub(super) type Lane = usize;

/// The oldest entry of each lane's history that may still be seen. Absent: the first.
#[derive(Clone, Default, PartialEq, Eq, Hash, Debug)]
pub(super) struct View(BTreeMap<Lane, u32>);

impl View {
    fn at(&self, lane: Lane) -> u32 {
        self.0.get(&lane).copied().unwrap_or(0)
    }
    fn raise(&mut self, lane: Lane, to: u32) {
        if to != 0 {
            let at = self.0.entry(lane).or_insert(0);
            *at = to.max(*at);
        }
    }
    fn join(&mut self, other: &View) {
        for (lane, at) in &other.0 {
            self.raise(*lane, *at);
        }
    }
}

/// What stood in 16 bytes at one time, and what whoever acquires a lane learns. Sixteen, because that is the largest access; the four lanes
/// change in one order, but are seen independently unless one access reads them.
#[derive(Clone, Hash)]
struct Entry {
    lanes: [u32; 4],
    carries: [Arc<View>; 4],
    wrote: [bool; 4],
}

#[derive(Clone, Default, Hash)]
pub(super) struct Views {
    /// What the thread knows.
    now: View,
    /// What it learns at an acquire fence.
    loaded: View,
    /// What its relaxed stores carry: what it knew at its last release fence.
    fenced: View,
}

#[derive(Clone, Default)]
pub(super) struct Machine {
    /// Of 16 bytes each: their history, and which lanes have been touched.
    units: BTreeMap<usize, (Vec<Entry>, [bool; 4])>,
    pub(super) threads: Vec<Views>,
    /// Of sequentially consistent operations and fences.
    order: View,
}

fn acquires(order: Ordering) -> bool {
    matches!(
        order,
        Ordering::Acquire | Ordering::AcqRel | Ordering::SeqCst
    )
}

fn releases(order: Ordering) -> bool {
    matches!(
        order,
        Ordering::Release | Ordering::AcqRel | Ordering::SeqCst
    )
}

/// First lane of an access and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Span {
    pub(super) first: Lane,
    pub(super) count: usize,
}

impl Span {
    /// Accesses are aligned, so they lie in one unit.
    pub(super) fn new(address: usize, bytes: usize) -> Span {
        if bytes < 4 {
            // Lanes of their own, or neighbours would share one.
            let first = (1 << 60) + address;
            return Span { first, count: 1 };
        }
        Span {
            first: address / 4,
            count: bytes / 4,
        }
    }
    fn unit(self) -> usize {
        self.first / 4
    }
    fn lanes(self) -> std::ops::Range<usize> {
        let at = self.first % 4;
        at..at + self.count
    }
    pub(super) fn all(self) -> std::ops::Range<Lane> {
        self.first..self.first + self.count
    }
}

/// Words, lowest first.
pub(super) type Value = [u32; 4];

impl Machine {
    pub(super) fn new(threads: usize) -> Machine {
        Machine {
            threads: vec![Views::default(); threads],
            ..Machine::default()
        }
    }

    /// Lanes that nobody has touched begin with what is really there.
    pub(super) fn touch(&mut self, span: Span, real: Value) {
        let (history, known) = self.units.entry(span.unit()).or_insert_with(|| {
            let none = Arc::new(View::default());
            let first = Entry {
                lanes: [0; 4],
                carries: std::array::from_fn(|_| none.clone()),
                wrote: [false; 4],
            };
            (vec![first], [false; 4])
        });
        for (lane, value) in span.lanes().zip(real) {
            if !known[lane] {
                known[lane] = true;
                history.iter_mut().for_each(|e| e.lanes[lane] = value);
            }
        }
    }

    fn history(&mut self, span: Span) -> &mut Vec<Entry> {
        &mut self.units.get_mut(&span.unit()).expect("touched").0
    }

    pub(super) fn newest(&self, span: Span) -> u32 {
        self.units[&span.unit()].0.len() as u32 - 1
    }

    /// What a load may answer, as places in the history, newest first.
    pub(super) fn choices(&self, me: usize, span: Span, order: Ordering) -> Vec<u32> {
        let views = &self.threads[me];
        let sees = |lane| {
            let known = views.now.at(lane);
            if order == Ordering::SeqCst {
                known.max(self.order.at(lane))
            } else {
                known
            }
        };
        let oldest = span.all().map(sees).max().unwrap_or(0);
        let history = &self.units[&span.unit()].0;
        // The oldest of those that look the same says least about what else was seen.
        let mut found = vec![oldest];
        for at in oldest + 1..history.len() as u32 {
            if span.lanes().any(|lane| history[at as usize].wrote[lane]) {
                found.push(at);
            }
        }
        found.reverse();
        found
    }

    fn learn(&mut self, me: usize, span: Span, at: u32, order: Ordering) -> Value {
        let entry = self.units[&span.unit()].0[at as usize].clone();
        let views = &mut self.threads[me];
        let mut value = [0; 4];
        for (i, (lane, address)) in span.lanes().zip(span.all()).enumerate() {
            value[i] = entry.lanes[lane];
            views.now.raise(address, at);
            views.loaded.join(&entry.carries[lane]);
            if acquires(order) {
                views.now.join(&entry.carries[lane]);
            }
        }
        if order == Ordering::SeqCst {
            views.now.join(&self.order);
        }
        let known = views.now.clone();
        views.loaded.join(&known);
        value
    }

    pub(super) fn load(&mut self, me: usize, span: Span, at: u32, order: Ordering) -> Value {
        self.learn(me, span, at, order)
    }

    pub(super) fn store(&mut self, me: usize, span: Span, value: Value, order: Ordering) {
        self.append(me, span, value, order, false);
        if order == Ordering::SeqCst {
            self.order.join(&self.threads[me].now);
        }
    }

    fn append(&mut self, me: usize, span: Span, value: Value, order: Ordering, swapped: bool) {
        let at = self.newest(span) + 1;
        let before = self.units[&span.unit()].0[at as usize - 1].clone();
        let views = &mut self.threads[me];
        for address in span.all() {
            views.now.raise(address, at);
            views.loaded.raise(address, at);
        }
        let mut carries = if releases(order) {
            views.now.clone()
        } else {
            views.fenced.clone()
        };
        for address in span.all() {
            carries.raise(address, at);
        }
        let mut entry = Entry {
            wrote: [false; 4],
            ..before
        };
        for (i, lane) in span.lanes().enumerate() {
            let mut view = carries.clone();
            if swapped {
                // A release sequence goes on.
                view.join(&entry.carries[lane]);
            }
            entry.lanes[lane] = value[i];
            entry.carries[lane] = Arc::new(view);
            entry.wrote[lane] = true;
        }
        self.history(span).push(entry);
    }

    /// Read-modify-write of the newest value; `None` leaves it.
    pub(super) fn swap(
        &mut self,
        me: usize,
        span: Span,
        order: Ordering,
        change: impl FnOnce(Value) -> Option<Value>,
    ) -> (Value, bool) {
        let newest = self.newest(span);
        let full = order == Ordering::SeqCst;
        let old = self.learn(me, span, newest, order);
        let new = change(old);
        if let Some(new) = new {
            self.append(me, span, new, order, true);
        }
        if full {
            self.fence(me, Ordering::SeqCst);
        }
        (old, new.is_some())
    }

    pub(super) fn fence(&mut self, me: usize, order: Ordering) {
        let views = &mut self.threads[me];
        if acquires(order) {
            let loaded = views.loaded.clone();
            views.now.join(&loaded);
        }
        if order == Ordering::SeqCst {
            views.now.join(&self.order);
            self.order.join(&views.now);
        }
        let now = views.now.clone();
        views.loaded.join(&now);
        if releases(order) {
            views.fenced = now;
        }
    }

    /// membarrier(2): everybody executes a full fence.
    pub(super) fn fence_all(&mut self) {
        for _ in 0..2 {
            for thread in 0..self.threads.len() {
                self.fence(thread, Ordering::SeqCst);
            }
        }
    }

    /// What was stored is seen some day: a thread that looks again and again at a word sees its newest value.
    pub(super) fn catch_up(&mut self, me: usize, lane: Lane) {
        let newest = self.newest(Span {
            first: lane,
            count: 1,
        });
        self.threads[me].now.raise(lane, newest);
        self.threads[me].loaded.raise(lane, newest);
    }

    /// Whether the lane was written behind this place in its history.
    pub(super) fn is_stale(&self, lane: Lane, at: u32) -> bool {
        let history = &self.units[&(lane / 4)].0;
        history
            .iter()
            .skip(at as usize + 1)
            .any(|e| e.wrote[lane % 4])
    }

    /// How often the lane was written.
    pub(super) fn changes(&self, lane: Lane) -> usize {
        let history = &self.units[&(lane / 4)].0;
        history.iter().filter(|e| e.wrote[lane % 4]).count()
    }

    /// After all: a thread that knows everything.
    pub(super) fn know_all(&mut self, me: usize) {
        let units: Vec<usize> = self.units.keys().copied().collect();
        for lane in units.iter().flat_map(|unit| unit * 4..unit * 4 + 4) {
            self.catch_up(me, lane);
        }
    }

    pub(super) fn digest(&self, into: &mut impl Hasher) {
        for (unit, history) in &self.units {
            unit.hash(into);
            history.hash(into);
        }
        self.threads.hash(into);
        self.order.hash(into);
    }
}
