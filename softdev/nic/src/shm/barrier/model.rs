//! The two protocols that rest on asymmetric fences, in every order that a processor with store buffers (x86) can bring about.

use std::collections::HashSet;

type Word = usize;

#[derive(Clone, Copy, Debug)]
enum Op {
    Store(Word, u8),
    /// Read-modify-write: with an empty buffer, and at once. Answers what was there.
    Swap(Word, u8),
    Load(Word),
    /// membarrier(2): every thread's buffer is written out.
    OnAll,
    /// Go on at the given operation unless the last answer was this.
    Unless(u8, usize),
    /// Data of the protected thing is used, or taken away; says which.
    Mark(u8),
}
use Op::*;

#[derive(Clone, PartialEq, Eq, Hash, Default)]
struct Thread {
    at: usize,
    answer: u8,
    buffer: Vec<(Word, u8)>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    memory: [u8; 4],
    threads: Vec<Thread>,
    marks: Vec<u8>,
}

impl State {
    fn drain(&mut self, t: usize) {
        for (word, value) in self.threads[t].buffer.drain(..) {
            self.memory[word] = value;
        }
    }

    fn step(&mut self, t: usize, program: &[Op]) {
        let op = program[self.threads[t].at];
        self.threads[t].at += 1;
        match op {
            Store(word, value) => self.threads[t].buffer.push((word, value)),
            Swap(word, value) => {
                self.drain(t);
                self.threads[t].answer = std::mem::replace(&mut self.memory[word], value);
            }
            Load(word) => {
                let own = self.threads[t]
                    .buffer
                    .iter()
                    .rev()
                    .find(|(w, _)| *w == word);
                self.threads[t].answer = own.map_or(self.memory[word], |(_, v)| *v);
            }
            OnAll => (0..self.threads.len()).for_each(|t| self.drain(t)),
            Unless(value, to) => {
                if self.threads[t].answer != value {
                    self.threads[t].at = to;
                }
            }
            Mark(m) => self.marks.push(m),
        }
    }
}

/// What the threads have marked, in order, in each possible run.
fn runs(memory: [u8; 4], programs: &[&[Op]]) -> HashSet<Vec<u8>> {
    let start = State {
        memory,
        threads: vec![Thread::default(); programs.len()],
        marks: Vec::new(),
    };
    let (mut seen, mut todo, mut ends) = (HashSet::new(), vec![start], HashSet::new());
    while let Some(state) = todo.pop() {
        if !seen.insert(state.clone()) {
            continue;
        }
        let mut over = true;
        for (t, program) in programs.iter().enumerate() {
            if state.threads[t].at < program.len() {
                over = false;
                let mut next = state.clone();
                next.step(t, program);
                todo.push(next);
            }
            if !state.threads[t].buffer.is_empty() {
                over = false;
                let mut next = state.clone();
                let (word, value) = next.threads[t].buffer.remove(0);
                next.memory[word] = value;
                todo.push(next);
            }
        }
        if over {
            ends.insert(state.marks);
        }
    }
    ends
}

const VALID: Word = 0;
const IN_FLIGHT: Word = 1;

const BEGIN: u8 = 1;
const END: u8 = 2;
const GONE: u8 = 3;

/// Announces, looks, copies if it may, twice. 1 in `VALID`: taken away.
fn writer() -> Vec<Op> {
    let mut ops = Vec::new();
    for _ in 0..2 {
        let out = ops.len() + 5;
        ops.extend([
            Store(IN_FLIGHT, 1),
            Load(VALID),
            Unless(0, out),
            Mark(BEGIN),
            Mark(END),
            Store(IN_FLIGHT, 0),
        ]);
    }
    ops
}

fn unmapper(fence: &[Op]) -> Vec<Op> {
    let mut ops = vec![Swap(VALID, 1)];
    ops.extend(fence);
    let look = ops.len();
    ops.extend([Load(IN_FLIGHT), Unless(0, look), Mark(GONE)]);
    ops
}

/// Nothing is used once it has been taken away.
fn is_safe(marks: &[u8]) -> bool {
    let gone = marks.iter().position(|m| *m == GONE).unwrap_or(marks.len());
    let before = &marks[..gone];
    let count = |m| before.iter().filter(|x| **x == m).count();
    count(BEGIN) == count(END) && !marks[gone..].contains(&BEGIN)
}

#[test]
fn nobody_writes_behind_an_unmap() {
    let ends = runs([0; 4], &[&writer(), &unmapper(&[OnAll])]);
    assert!(ends.iter().all(|marks| is_safe(marks)), "{ends:?}");
    assert!(ends.contains(&vec![BEGIN, END, GONE]) && ends.contains(&vec![GONE]));
    // The model knows the danger.
    let ends = runs([0; 4], &[&writer(), &unmapper(&[])]);
    assert!(!ends.iter().all(|marks| is_safe(marks)));
}

const LOCK: Word = 2;
const AGAIN: Word = 3;
const SERVED: u8 = 4;

/// Holds the lock, lets go of it, then looks for word left by others, and serves that if it gets the lock again.
fn holder(release: Op) -> Vec<Op> {
    const END: usize = 8;
    vec![
        release,
        Load(AGAIN),
        Unless(1, END),
        Swap(LOCK, 1),
        Unless(0, END),
        Swap(AGAIN, 0),
        Unless(1, END),
        Mark(SERVED),
    ]
}

/// Tries the lock; leaves word if it is taken, and tries once more.
fn ringer(fence: &[Op]) -> Vec<Op> {
    let serve = 6 + fence.len();
    let mut ops = vec![Swap(LOCK, 1), Unless(1, serve), Swap(AGAIN, 1)];
    ops.extend(fence);
    let never = 9;
    ops.extend([
        Swap(LOCK, 1),
        Unless(1, serve),
        Unless(never, serve + 1),
        Mark(SERVED),
    ]);
    ops
}

#[test]
fn no_bell_is_lost() {
    let served = |release, fence: &[Op]| {
        let ends = runs([0, 0, 1, 0], &[&holder(release), &ringer(fence)]);
        ends.iter().all(|marks| marks.contains(&SERVED))
    };
    assert!(served(Store(LOCK, 0), &[OnAll]));
    assert!(served(Swap(LOCK, 0), &[]));
    // The model knows the danger.
    assert!(!served(Store(LOCK, 0), &[]));
}
