//! Every order in which a few threads can execute the code of this crate that shares memory: the code that is shipped, not a copy. In unit
//! tests the cells of [`super::cell`], the atomics of [`super::sync`], fences and pauses ask here first; in a thread of an exploration each of them is a
//! step, and what it answers is one of the things that it may answer ([`machine`]).
//!
//! loom is not used because it has no 16-byte compare-and-swap beside 8-byte loads and 4-byte stores, no membarrier(2), no process that
//! ends between two instructions and leaves its memory behind, and only atomics of its own, which do not lie in a mapping.
//!
//! Depth first, each schedule from the beginning; a state that was reached before (memory, views, and all that each thread has been answered) is
//! not entered again.

mod fiber;
mod hooks;
mod litmus;
mod machine;
mod state;

use fiber::{Entry, Fibers};
pub(crate) use hooks::*;
use state::{State, Status, What};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::hash::Hash;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// No exploration of a test has so many.
const TOO_MANY: usize = 3_000_000;
/// Nor a thread so many steps.
const TOO_LONG: usize = 3000;

type Site = &'static Location<'static>;
/// File, line and column.
type Place = (&'static str, u32, u32);

/// What a thread of an exploration does.
pub(crate) type Body<'a> = Box<dyn Fn() + 'a>;

pub(crate) struct Scenario<'a> {
    bodies: Vec<Body<'a>>,
    /// How many of the first threads may end anywhere, one of them in a run.
    mortal: usize,
    after: Body<'a>,
    /// Whether light fences are left to the other side ([`super::barrier`]).
    light: bool,
    /// How often a thread is interrupted that could go on.
    interruptions: u32,
    quiet: Vec<Range<usize>>,
    sequential: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) states: usize,
    pub(crate) runs: usize,
    /// How it came to the first failure, if there was one.
    pub(crate) failure: Option<String>,
    /// Every place whose ordering is more than relaxed, and every fence.
    sites: BTreeSet<Place>,
}

/// What ends a thread early; not a panic for anybody to see.
struct Stop;

struct Run {
    state: Mutex<State>,
    fibers: *mut Fibers,
    quiet: Vec<Range<usize>>,
}

thread_local! {
    static CURRENT: RefCell<Option<(Rc<Run>, usize)>> = const { RefCell::new(None) };
    static STOPPED: Cell<bool> = const { Cell::new(false) };
}

fn current() -> Option<(Rc<Run>, usize)> {
    CURRENT.with_borrow(Clone::clone)
}

/// Whether this thread is one of an exploration.
pub(crate) fn active() -> bool {
    CURRENT.with_borrow(Option::is_some)
}

impl<'a> Scenario<'a> {
    pub(crate) fn new() -> Scenario<'a> {
        Scenario {
            bodies: Vec::new(),
            mortal: 0,
            after: Box::new(|| ()),
            light: true,
            interruptions: u32::MAX,
            quiet: Vec::new(),
            sequential: false,
        }
    }
    pub(crate) fn thread(mut self, body: impl Fn() + 'a) -> Self {
        self.bodies.push(Box::new(body));
        self
    }
    /// A thread whose process may be killed between any two steps.
    pub(crate) fn mortal(mut self, body: impl Fn() + 'a) -> Self {
        assert_eq!(self.mortal, self.bodies.len(), "the mortal come first");
        self.mortal += 1;
        self.thread(body)
    }
    /// Where there are too many runs: no more changes of threads than these, not counting those where a thread ends or waits.
    pub(crate) fn interruptions(mut self, most: u32) -> Self {
        self.interruptions = most;
        self
    }
    /// Where there are too many runs: loads answer the newest value.
    pub(crate) fn sequential(mut self) -> Self {
        self.sequential = true;
        self
    }
    /// Addresses that are only read here: no steps.
    pub(crate) fn quiet(mut self, at: Range<usize>) -> Self {
        self.quiet.push(at);
        self
    }
    /// What must hold when all have ended.
    pub(crate) fn after(mut self, body: impl Fn() + 'a) -> Self {
        self.after = Box::new(body);
        self
    }
    pub(crate) fn without_membarrier(mut self) -> Self {
        self.light = false;
        self
    }

    /// All runs; the first failure ends it.
    pub(crate) fn explore(&self) -> Report {
        self.explore_weakened(None)
    }

    /// All runs must be right. Then each ordering is taken back to relaxed and each fence left out, one at a time: answers how many of these
    /// mistakes show. It is the number that a test expects.
    pub(crate) fn check(&self, name: &str) -> usize {
        let begun = std::time::Instant::now();
        let report = self.explore();
        if let Some(failure) = &report.failure {
            panic!("{name}, run {}: {failure}", report.runs);
        }
        let mut caught = Vec::new();
        for site in report.sites.iter().filter(|_| !self.sequential) {
            if self.explore_weakened(Some(*site)).failure.is_some() {
                caught.push(format!("{}:{}:{}", site.0, site.1, site.2));
            }
        }
        println!(
            "{name}: {} states, {} runs; {} of {} weakened orderings caught: {}; {:.2} s",
            report.states,
            report.runs,
            caught.len(),
            report.sites.len(),
            caught.join(" "),
            begun.elapsed().as_secs_f64()
        );
        caught.len()
    }

    fn explore_weakened(&self, weakened: Option<Place>) -> Report {
        let threads = self.bodies.len() + 1;
        let mut fibers = Fibers::new(threads - 1);
        let run = Rc::new(Run {
            fibers: &raw mut fibers,
            quiet: self.quiet.clone(),
            state: Mutex::new(State::new(self, threads, weakened)),
        });
        loop {
            run.lock().begin(threads);
            run.all(&self.bodies);
            let mut state = run.lock();
            if !state.stop {
                state.machine.know_all(threads - 1);
                state.running = threads - 1;
                state.finished = true;
                drop(state);
                run.execute(threads - 1, &self.after);
                state = run.lock();
            }
            state.report.runs += 1;
            assert!(
                state.seen.len() < TOO_MANY,
                "too many states: {}",
                state.seen.len()
            );
            if state.report.failure.is_some() || !state.next_path() {
                state.report.states = state.seen.len();
                return std::mem::take(&mut state.report);
            }
        }
    }
}

impl Run {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One run of all threads.
    fn all(self: &Rc<Self>, bodies: &[Body<'_>]) {
        let body = |me: usize| {
            self.execute(me, &bodies[me]);
            // SAFETY: made by `explore_weakened`, which uses it through this pointer only; this context runs.
            unsafe { Fibers::home(self.fibers, me) };
        };
        let entries: Vec<Entry<'_>> = (0..bodies.len())
            .map(|me| Entry { run: &body, me })
            .collect();
        let mut begun = vec![false; bodies.len()];
        let mut go = |me: usize| {
            if !std::mem::replace(&mut begun[me], true) {
                // SAFETY: as above; no context runs.
                unsafe { &mut *self.fibers }.prepare(me, &entries[me]);
            }
            CURRENT.set(Some((self.clone(), me)));
            // SAFETY: as above.
            unsafe { Fibers::go(self.fibers, me) };
            CURRENT.set(None);
        };
        let mut next = self.lock().schedule(usize::MAX);
        while let Some(me) = next {
            self.lock().running = me;
            go(me);
            next = Some(self.lock().running).filter(|next| *next < bodies.len());
        }
        // Those that were left in the middle unwind.
        for me in 0..bodies.len() {
            let mut state = self.lock();
            let left = state.threads[me].inside;
            state.running = usize::MAX;
            drop(state);
            if left {
                go(me);
            }
        }
    }

    fn execute(self: &Rc<Self>, me: usize, body: &Body<'_>) {
        CURRENT.set(Some((self.clone(), me)));
        self.lock().threads[me].inside = true;
        let result = catch_unwind(AssertUnwindSafe(body));
        CURRENT.set(None);
        STOPPED.set(false);
        let mut state = self.lock();
        state.threads[me].inside = false;
        if let Err(payload) = result
            && !payload.is::<Stop>()
        {
            state.fail("a thread panicked");
        }
        if state.finished || state.running != me {
            return;
        }
        state.threads[me].status = Status::Done;
        state.running = if state.stop {
            usize::MAX
        } else {
            state.schedule(me).unwrap_or(usize::MAX)
        };
    }

    /// Lets others come first; false when this thread's end has come.
    fn take_turn(&self, me: usize) -> bool {
        let mut state = self.lock();
        if !std::mem::take(&mut state.threads[me].begins) {
            state.running = state.schedule(me).unwrap_or(usize::MAX);
        }
        if state.running != me {
            drop(state);
            // SAFETY: made by `explore_weakened`, which uses it through this pointer only; this context runs.
            unsafe { Fibers::home(self.fibers, me) };
            state = self.lock();
        }
        state.running == me && !state.stop
    }

    /// One step of a thread: others may come first.
    fn step<R: Default>(
        &self,
        me: usize,
        site: Site,
        act: impl FnOnce(&mut State) -> (R, What),
    ) -> R {
        if STOPPED.get() {
            // Destructors of a thread that has ended.
            return R::default();
        }
        let finished = self.lock().finished;
        if !finished && !self.take_turn(me) {
            return end();
        }
        let mut state = self.lock();
        state.threads[me].steps += 1;
        if state.threads[me].steps > TOO_LONG {
            state.fail("a thread that never ends");
            state.running = usize::MAX;
            drop(state);
            return end();
        }
        state.threads[me].status = Status::Ready;
        let (result, what) = act(&mut state);
        what.hash(&mut state.threads[me].history);
        state.log.push((me, what, site));
        result
    }
}

fn end<R: Default>() -> R {
    STOPPED.set(true);
    if std::thread::panicking() {
        return R::default();
    }
    resume_unwind(Box::new(Stop))
}
