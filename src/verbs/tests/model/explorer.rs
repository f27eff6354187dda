//! Depth-first through every schedule. States that were reached before in another way are not entered again; what leads to one is
//! replayed from the beginning, so that nothing needs to be copied.

use super::plan::Plan;
use super::scenario::Scenario;
use super::world::{Choice, World};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Digests are random already.
#[derive(Default)]
struct Same(u64);

impl Hasher for Same {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("digests only")
    }
    fn write_u128(&mut self, n: u128) {
        self.0 = n as u64;
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mark {
    /// On the way to where we are.
    Open,
    /// So many schedules lead on from here.
    Closed(f64),
}

#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) states: usize,
    pub(super) steps: u64,
    pub(super) ends: u64,
    pub(super) longest: usize,
    /// Schedules, as far as a double can count them.
    pub(super) schedules: f64,
    /// States that were begun and not finished: none when all schedules have been seen.
    pub(super) open: usize,
}

struct Explorer<'a> {
    scenario: &'a Scenario,
    plan: &'a Plan,
    memory: Option<[Vec<u8>; 2]>,
    marks: HashMap<u128, Mark, BuildHasherDefault<Same>>,
    way: Vec<Choice>,
    report: Report,
    limit: usize,
}

/// No schedule of three requests is half as long.
const TOO_LONG: usize = 150;

/// Says how it came to a failure.
impl Drop for Explorer<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{:?}\nschedule: {:?}", self.scenario, self.way);
        }
    }
}

/// Every schedule of `scenario`. `limit` states are too many.
pub(super) fn explore(scenario: &Scenario, limit: usize) -> Report {
    let plan = Plan::new(scenario);
    let memory = [vec![0; plan.bytes], vec![0; plan.bytes]];
    let mut x = Explorer {
        scenario,
        plan: &plan,
        memory: Some(memory),
        marks: HashMap::default(),
        way: Vec::new(),
        report: Report::default(),
        limit,
    };
    let mut world = x.replay();
    world.look();
    let first = world.digest();
    let schedules = x.visit(world, first);
    x.report.schedules = schedules;
    x.report.states = x.marks.len();
    x.report.open = x.marks.values().filter(|m| **m == Mark::Open).count();
    std::mem::take(&mut x.report)
}

impl<'a> Explorer<'a> {
    /// A world that has gone the way so far.
    fn replay(&mut self) -> World<'a> {
        let memory = self.memory.take().expect("one world at a time");
        let mut w = World::new(self.scenario, self.plan, memory);
        for c in &self.way {
            w.apply(*c);
        }
        w
    }

    /// All that can follow the state of `world`, whose digest is `first`: how many schedules there are. The way back is kept here and
    /// not on the thread's stack, which is small for a test.
    fn visit(&mut self, world: World<'a>, first: u128) -> f64 {
        let mut frames = vec![self.enter(&world, first)];
        // There is one world, and it is where the last frame is, or has to be brought there again.
        let mut there = Some(world);
        while let Some(frame) = frames.last_mut() {
            let Some(c) = frame.next() else {
                if let Some(mut w) = there.take() {
                    if !frame.moved {
                        w.finish();
                        self.report.ends += 1;
                        frame.schedules = 1.0;
                    }
                    self.memory = Some(w.memory());
                }
                let (here, schedules) = (frame.here, frame.schedules);
                self.marks.insert(here, Mark::Closed(schedules));
                frames.pop();
                let Some(before) = frames.last_mut() else {
                    return schedules;
                };
                before.schedules += schedules;
                self.way.pop();
                continue;
            };
            let here = frame.here;
            let mut w = match there.take() {
                Some(w) => w,
                None => {
                    let w = self.replay();
                    assert_eq!(w.digest(), here, "a replay leads elsewhere");
                    w
                }
            };
            self.way.push(c);
            w.apply(c);
            let next = w.digest();
            if next == here {
                self.way.pop();
                there = Some(w);
                continue;
            }
            frame.moved = true;
            self.report.steps += 1;
            match self.marks.get(&next) {
                Some(Mark::Closed(n)) => {
                    frame.schedules += *n;
                    self.memory = Some(w.memory());
                    self.way.pop();
                }
                Some(Mark::Open) => panic!("a schedule that never ends"),
                None => {
                    frames.push(self.enter(&w, next));
                    there = Some(w);
                }
            }
        }
        unreachable!("the first frame returns")
    }

    /// Begins with a new state.
    fn enter(&mut self, world: &World<'a>, here: u128) -> Frame {
        self.marks.insert(here, Mark::Open);
        assert!(
            self.marks.len() <= self.limit,
            "more than {} states",
            self.limit
        );
        self.report.longest = self.report.longest.max(self.way.len());
        // Probes of a peer that answers and never does anything look new each time.
        assert!(self.way.len() < TOO_LONG, "a schedule that never ends");
        Frame {
            here,
            choices: world.choices(),
            tried: 0,
            moved: false,
            schedules: 0.0,
        }
    }
}

/// A state on the way to where we are, and what of it is left to try.
struct Frame {
    here: u128,
    choices: Vec<Choice>,
    tried: usize,
    moved: bool,
    schedules: f64,
}

impl Frame {
    /// Time passes where nothing else changes anything.
    fn next(&mut self) -> Option<Choice> {
        let waited = self.tried != 0 && self.choices[self.tried - 1] == Choice::Wait;
        if self.tried == self.choices.len() && self.tried != 0 && !self.moved && !waited {
            self.choices.push(Choice::Wait);
        }
        let c = *self.choices.get(self.tried)?;
        self.tried += 1;
        Some(c)
    }
}
