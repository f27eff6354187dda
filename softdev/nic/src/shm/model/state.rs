//! Where an exploration is: memory, threads, and the choices that led there.

use super::hooks::Ended;
use super::machine::{Lane, Machine, Span, Value};
use super::{Place, Report, Scenario, Site};
use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::panic::Location;
use std::sync::atomic::Ordering;

/// Fast, and good enough for a million states.
#[derive(Clone, Default)]
pub(super) struct Digest(u64);

impl Hasher for Digest {
    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 29
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.write_u64(u64::from(*b)));
    }
    fn write_u32(&mut self, n: u32) {
        self.write_u64(u64::from(n));
    }
    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }
    fn write_isize(&mut self, n: isize) {
        self.write_u64(n as u64);
    }
    fn write_u64(&mut self, n: u64) {
        let mixed = u128::from(self.0 ^ n ^ 0x9e37_79b9_7f4a_7c15) * 0xda94_2042_e4dd_58b5_u128;
        self.0 = (mixed as u64).rotate_left(23) ^ (mixed >> 64) as u64;
    }
}

/// Digests are random already.
#[derive(Default)]
pub(super) struct Same(u64);

impl Hasher for Same {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {}
    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }
}

/// What a step did and what it was answered.
#[derive(Clone, Debug, Hash)]
pub(super) enum What {
    Load(usize, u64, Ordering),
    Store(usize, u64, Ordering),
    /// Address, what was there, what is there now if it changed.
    Update(usize, u64, Option<u64>, Ordering),
    Swap16(usize, Value, bool),
    Fence(Option<Ordering>),
    FenceOfAll(bool),
    GoesOn,
    Ended(usize, Option<Ended>),
    Dies,
    Mark(u64),
}

#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) enum Status {
    Ready,
    /// Until one of these lanes has changed more often, or more threads have ended.
    Spins(Vec<(Lane, usize)>, usize),
    Done,
    Dead,
}

pub(super) struct Thread {
    pub(super) status: Status,
    pub(super) history: Digest,
    pub(super) steps: usize,
    /// Has its first turn already.
    pub(super) begins: bool,
    /// Has begun and not ended.
    pub(super) inside: bool,
    /// Read since the last pause, and where in the history.
    pub(super) looked: Vec<(Lane, u32)>,
}

pub(super) struct State {
    pub(super) machine: Machine,
    pub(super) threads: Vec<Thread>,
    pub(super) running: usize,
    pub(super) mortal: usize,
    pub(super) light: bool,
    pub(super) interruptions: u32,
    pub(super) sequential: bool,
    pub(super) left: u32,
    /// Choices and how many there were, for this run and the next.
    pub(super) path: Vec<(u32, u32)>,
    pub(super) at: usize,
    pub(super) replayed: usize,
    pub(super) seen: HashSet<u64, BuildHasherDefault<Same>>,
    pub(super) stop: bool,
    pub(super) finished: bool,
    pub(super) weakened: Option<Place>,
    pub(super) log: Vec<(usize, What, Site)>,
    pub(super) marks: Vec<u64>,
    pub(super) report: Report,
}

impl State {
    pub(super) fn new(of: &Scenario<'_>, threads: usize, weakened: Option<Place>) -> State {
        State {
            machine: Machine::new(threads),
            threads: Vec::new(),
            running: 0,
            mortal: of.mortal,
            light: of.light,
            interruptions: of.interruptions,
            sequential: of.sequential,
            left: 0,
            path: Vec::new(),
            at: 0,
            replayed: 0,
            seen: HashSet::default(),
            stop: false,
            finished: false,
            weakened,
            log: Vec::new(),
            marks: Vec::new(),
            report: Report::default(),
        }
    }

    pub(super) fn begin(&mut self, threads: usize) {
        self.machine = Machine::new(threads);
        self.threads = (0..threads)
            .map(|_| Thread {
                status: Status::Ready,
                history: Digest::default(),
                steps: 0,
                begins: true,
                inside: false,
                looked: Vec::new(),
            })
            .collect();
        self.running = usize::MAX;
        (self.at, self.replayed) = (0, self.path.len());
        (self.stop, self.finished) = (false, false);
        self.left = self.interruptions;
        self.log.clear();
        self.marks.clear();
    }

    /// The next path depth first; false when there is none.
    pub(super) fn next_path(&mut self) -> bool {
        while let Some((chosen, of)) = self.path.pop() {
            if chosen + 1 < of {
                self.path.push((chosen + 1, of));
                return true;
            }
        }
        false
    }

    pub(super) fn choose(&mut self, of: usize) -> usize {
        if of == 1 {
            return 0;
        }
        if self.at == self.path.len() {
            self.path.push((0, of as u32));
        }
        let (chosen, had) = self.path[self.at];
        assert_eq!(had as usize, of, "a replay leads elsewhere");
        self.at += 1;
        chosen as usize
    }

    pub(super) fn fail(&mut self, why: &str) {
        if self.report.failure.is_none() {
            let steps: Vec<String> = self
                .log
                .iter()
                .map(|(t, what, at)| {
                    let file = at.file().rsplit('/').next().unwrap_or("");
                    format!("  {t}: {what:x?}  ({file}:{})", at.line())
                })
                .collect();
            self.report.failure = Some(format!("{why}\n{}", steps.join("\n")));
        }
        self.stop = true;
    }

    pub(super) fn look(&mut self, me: usize, span: Span, at: u32) {
        self.threads[me]
            .looked
            .extend(span.all().map(|lane| (lane, at)));
    }

    pub(super) fn ended(&self) -> usize {
        let over = |t: &&Thread| matches!(t.status, Status::Done | Status::Dead);
        self.threads.iter().filter(over).count()
    }

    pub(super) fn is_ready(&self, t: usize) -> bool {
        match &self.threads[t].status {
            Status::Ready => true,
            Status::Spins(lanes, ended) => {
                let news = |(lane, seen): &(Lane, usize)| self.machine.changes(*lane) > *seen;
                lanes.iter().any(news) || self.ended() > *ended
            }
            Status::Done | Status::Dead => false,
        }
    }

    /// Whose turn it is. `None` when nobody can go on.
    pub(super) fn schedule(&mut self, me: usize) -> Option<usize> {
        let bodies = self.threads.len() - 1;
        loop {
            // Going on is the first choice: it costs no change of threads.
            let order = std::iter::once(me).chain((0..bodies).filter(|t| *t != me));
            let mut ready: Vec<usize> =
                order.filter(|t| *t < bodies && self.is_ready(*t)).collect();
            let interrupts = ready.first() == Some(&me);
            if interrupts && self.left == 0 {
                ready.truncate(1);
            }
            let over = |t: usize| matches!(self.threads[t].status, Status::Done | Status::Dead);
            if ready.is_empty() {
                if !(0..bodies).all(over) {
                    self.fail("nobody can go on");
                }
                return None;
            }
            let one_dead = self.threads.iter().any(|t| t.status == Status::Dead);
            let mortal: Vec<usize> = (0..self.mortal)
                .filter(|t| !one_dead && !over(*t))
                .collect();
            if self.at >= self.replayed && !self.is_new(me) {
                self.stop = true;
                return None;
            }
            let chosen = self.choose(ready.len() + mortal.len());
            match ready.get(chosen) {
                Some(t) => {
                    if interrupts && *t != me && self.left != u32::MAX {
                        self.left -= 1;
                    }
                    return Some(*t);
                }
                None => {
                    let dies = mortal[chosen - ready.len()];
                    self.threads[dies].status = Status::Dead;
                    self.log.push((dies, What::Dies, Location::caller()));
                }
            }
        }
    }

    pub(super) fn is_new(&mut self, me: usize) -> bool {
        let mut digest = Digest::default();
        if self.left != u32::MAX {
            (self.left, me).hash(&mut digest);
        }
        self.machine.digest(&mut digest);
        for t in &self.threads {
            t.history.finish().hash(&mut digest);
            match &t.status {
                Status::Spins(lanes, ended) => (lanes, ended).hash(&mut digest),
                other => std::mem::discriminant(other).hash(&mut digest),
            }
        }
        self.marks.hash(&mut digest);
        self.seen.insert(digest.finish())
    }

    /// The order that is in force at a place.
    pub(super) fn order(&mut self, site: Site, order: Ordering) -> Option<Ordering> {
        if order == Ordering::Relaxed {
            return Some(order);
        }
        let place = (
            site.file().rsplit('/').next().unwrap_or(""),
            site.line(),
            site.column(),
        );
        if self.weakened == Some(place) {
            return None;
        }
        if !place.0.starts_with("litmus") {
            self.report.sites.insert(place);
        }
        Some(order)
    }
}
