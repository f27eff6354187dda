//! Where everything lies in the memory of the two ends, and what it may hold, in order.

use super::scenario::{Key, Op, Scenario, Transport};
use kernel_abi::verbs::wr_opcode;

/// Between and around all places.
pub(super) const GUARD: u8 = 0xee;
const GAP: usize = 16;
/// What CAS compares with, and what targets of atomics hold at first.
pub(super) const FIRST_WORD: u64 = 0x0102_0304_0506_0708;
pub(super) const ADDEND: u64 = 0x1000_0000_0001;
/// What CAS and ATOMIC_WRITE of work request `j` store.
pub(super) const fn word_of(j: usize) -> u64 {
    0xa0a1_a2a3_a4a5_a600 + j as u64
}

/// A piece of memory with a purpose.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) off: usize,
    pub(super) len: usize,
    /// What it holds at first, and then, one after the other.
    pub(super) layers: Vec<Vec<u8>>,
}

/// By end, QP and number.
pub(super) type Table<T> = [[Vec<T>; 2]; 2];

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) bytes: usize,
    pub(super) places: [Vec<Place>; 2],
    /// Of each work request: its own memory.
    pub(super) own: Table<usize>,
    /// Of each work request: the place at the peer, and the layer there, that it brings.
    pub(super) effect: Table<Option<(usize, usize)>>,
    /// Work requests that take a receive, in order.
    pub(super) messages: Table<usize>,
    /// Receives: places.
    pub(super) receives: Table<usize>,
    /// Memory that the peer names.
    pub(super) targets: Table<usize>,
}

/// What work request `j` of QP `q` of an end sends.
pub(super) fn pattern(end: usize, q: usize, j: usize, len: usize) -> Vec<u8> {
    let first = 1 + 64 * end + 32 * q + 8 * j;
    (0..len).map(|i| (first + i % 7 + i / 512) as u8).collect()
}

impl Plan {
    pub(super) fn new(s: &Scenario) -> Plan {
        let mut p = Plan::default();
        for end in 0..2 {
            for q in 0..2 {
                p.lay_out(s, end, q);
            }
        }
        for end in 0..2 {
            for q in 0..2 {
                p.foresee(s, end, q);
            }
        }
        p
    }

    fn place(&mut self, end: usize, len: usize, first: Vec<u8>) -> usize {
        let list = &mut self.places[end];
        let off = list
            .last()
            .map_or(GAP, |l| (l.off + l.len).next_multiple_of(16) + GAP);
        list.push(Place {
            off,
            len,
            layers: vec![first],
        });
        self.bytes = self.bytes.max((off + len).next_multiple_of(16) + GAP);
        list.len() - 1
    }

    /// The places of QP `q` at `end`: own memory of its work requests, receives and targets for those of its peer.
    fn lay_out(&mut self, s: &Scenario, end: usize, q: usize) {
        for (j, op) in s.work[end][q].iter().enumerate() {
            let first = if op.fetches() {
                vec![0xcc; op.len]
            } else if op.opcode == wr_opcode::ATOMIC_WRITE {
                word_of(j).to_ne_bytes().to_vec()
            } else {
                pattern(end, q, j, op.len)
            };
            let at = self.place(end, op.len, first);
            self.own[end][q].push(at);
        }
        let theirs = &s.work[1 - end][q];
        let messages = theirs.iter().enumerate().filter(|(_, o)| o.consumes());
        let messages: Vec<_> = messages.map(|(j, o)| (j, *o)).collect();
        // A receive that any message may take has room for the longest one.
        let all = s.work[1 - end].iter().flatten();
        let longest = all.filter(|o| o.sends()).map(|o| o.len).max().unwrap_or(0);
        for (j, op) in messages {
            self.messages[1 - end][q].push(j);
            let shared = s.transport != Transport::Rc;
            let room = match (shared, op.sends()) {
                (true, _) => longest,
                (false, true) => op.len,
                (false, false) => 0,
            };
            let at = self.place(end, room, vec![0xdd; room]);
            if !shared && op.sends() && op.len != 0 {
                self.places[end][at]
                    .layers
                    .push(pattern(1 - end, q, j, op.len));
            }
            self.receives[end][q].push(at);
        }
        let named = |o: &&Op| o.writes() || o.fetches();
        let count = theirs
            .iter()
            .filter(named)
            .map(|o| o.target + 1)
            .max()
            .unwrap_or(0);
        for t in 0..count {
            let of = |o: &&Op| named(o) && o.target == t;
            let len = theirs.iter().filter(of).map(|o| o.len).max().unwrap_or(0);
            let word = theirs
                .iter()
                .any(|o| of(&o) && (o.is_atomic() || o.opcode == wr_opcode::ATOMIC_WRITE));
            let first = if word {
                let mut v = vec![0xbb; len];
                v[..8].copy_from_slice(&FIRST_WORD.to_ne_bytes());
                v
            } else {
                (0..len).map(|i| 0xb0 | (i % 5) as u8).collect()
            };
            let at = self.place(end, len, first);
            self.targets[end][q].push(at);
        }
    }

    /// One request after the other, as if each had happened before the next began.
    fn foresee(&mut self, s: &Scenario, end: usize, q: usize) {
        let peer = 1 - end;
        for (j, op) in s.work[end][q].iter().enumerate() {
            let mut effect = None;
            if op.sends() && op.len != 0 && s.transport == Transport::Rc {
                let k = self.messages[end][q].iter().position(|m| *m == j).unwrap();
                effect = Some((self.receives[peer][q][k], 1));
            }
            if (op.writes() || op.fetches()) && op.len != 0 && op.key != Key::Wrong {
                let at = self.targets[peer][q][op.target];
                let now = self.places[peer][at].layers.last().unwrap().clone();
                let word = |v: &[u8]| u64::from_ne_bytes(v[..8].try_into().unwrap());
                let mut next = now.clone();
                match op.opcode {
                    wr_opcode::RDMA_WRITE | wr_opcode::RDMA_WRITE_WITH_IMM => {
                        next[..op.len].copy_from_slice(&pattern(end, q, j, op.len));
                    }
                    wr_opcode::ATOMIC_WRITE => next[..8].copy_from_slice(&word_of(j).to_ne_bytes()),
                    wr_opcode::ATOMIC_FETCH_AND_ADD => {
                        let sum = word(&now).wrapping_add(ADDEND);
                        next[..8].copy_from_slice(&sum.to_ne_bytes());
                    }
                    wr_opcode::ATOMIC_CMP_AND_SWP if word(&now) == FIRST_WORD => {
                        next[..8].copy_from_slice(&word_of(j).to_ne_bytes());
                    }
                    _ => {}
                }
                if next != now {
                    let layers = &mut self.places[peer][at].layers;
                    layers.push(next);
                    effect = Some((at, layers.len() - 1));
                }
                if op.fetches() {
                    let own = self.own[end][q][j];
                    self.places[end][own].layers.push(now[..op.len].to_vec());
                }
            }
            self.effect[end][q].push(effect);
        }
    }
}
