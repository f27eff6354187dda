//! The IBA's rules, looked at after every step (IBTA 9.4 to 9.7 and 10.3.1): requests take effect and complete in order and once, data
//! is there before its completion, nothing is written that nobody asked for, and errors flush what is behind them.

use super::plan::{GUARD, Place, Plan, pattern};
use super::scenario::{Op, Transport};
use super::world::{World, parse};
use crate::native::sim::digest::Digest;
use crate::verbs::types::Wc;
use kernel_abi::verbs::{event, qps, send_flag, wc_flag, wc_opcode, wc_status, wr_opcode};

/// What is known of a place.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// The layer that it wholly holds, and the newest of which anything is there.
    whole: usize,
    begun: usize,
    /// A shared receive: QP and work request of the message that is in it, and whether all of it is.
    message: Option<(usize, usize, bool)>,
    /// From now on nothing may change.
    frozen: Option<Vec<u8>>,
}

#[derive(Debug)]
pub(super) struct Oracle {
    /// By end and QP: work requests and receives that the program has posted.
    pub(super) posted: [[usize; 2]; 2],
    pub(super) receives_posted: [[usize; 2]; 2],
    /// Statuses of sends and receives that have completed.
    done: [[Vec<u32>; 2]; 2],
    received: [[Vec<u32>; 2]; 2],
    /// Messages that have been received: next of the peer's.
    messages: [[usize; 2]; 2],
    seen: [Vec<Seen>; 2],
}

impl Oracle {
    pub(super) fn new(plan: &Plan) -> Oracle {
        Oracle {
            posted: Default::default(),
            receives_posted: Default::default(),
            done: Default::default(),
            received: Default::default(),
            messages: Default::default(),
            seen: [0, 1].map(|e: usize| vec![Seen::default(); plan.places[e].len()]),
        }
    }

    pub(super) fn digest(&self, d: &mut Digest) {
        d.value(&(
            self.posted,
            self.receives_posted,
            &self.done,
            &self.received,
        ));
        for s in self.seen.iter().flatten() {
            d.word(s.whole as u64 | (s.begun as u64) << 8 | u64::from(s.frozen.is_some()) << 16);
            d.value(&s.message);
        }
    }

    /// Places that have been written in part.
    pub(super) fn mixed<'a>(&self, end: usize, plan: &'a Plan) -> impl Iterator<Item = &'a Place> {
        let whole = |s: &Seen| s.whole == s.begun && s.message.is_none_or(|m| m.2);
        let list = self.seen[end].iter().zip(&plan.places[end]);
        list.filter(move |(s, _)| !whole(s)).map(|(_, p)| p)
    }

    /// The program has seen an error of this QP.
    pub(super) fn has_failed(&self, end: usize, q: usize) -> bool {
        let bad = |s: &u32| *s != wc_status::SUCCESS;
        self.done[end][q].iter().any(bad) || self.received[end][q].iter().any(bad)
    }
}

fn is_guard(bytes: &[u8]) -> bool {
    const SOME: [u8; 64] = [GUARD; 64];
    bytes.chunks(64).all(|c| *c == SOME[..c.len()])
}

impl World<'_> {
    /// Memory as it is now.
    pub(super) fn look(&mut self) {
        for end in 0..2 {
            self.look_at_places(end);
        }
        for end in 0..2 {
            for q in 0..2 {
                self.check_order(end, q);
                for (k, &at) in self.plan.receives[end][q].iter().enumerate() {
                    let s = &self.oracle.seen[end][at];
                    let untouched = s.begun == 0 && s.message.is_none();
                    assert!(
                        untouched || k < self.oracle.receives_posted[end][q],
                        "receive {k} of QP {q} is written before it is posted"
                    );
                }
            }
        }
    }

    fn look_at_places(&mut self, end: usize) {
        let mem = &self.ends[end].mem;
        let mut free = 0;
        for (at, p) in self.plan.places[end].iter().enumerate() {
            assert!(
                is_guard(&mem[free..p.off]),
                "guard bytes before place {at} of end {end}"
            );
            free = p.off + p.len;
            let now = &mem[p.off..free];
            let seen = &mut self.oracle.seen[end][at];
            if let Some(f) = &seen.frozen {
                assert!(f == now, "place {at} of end {end} changed after its end");
                continue;
            }
            if seen.begun == seen.whole && seen.message.is_none() && p.layers[seen.whole] == now {
                continue;
            }
            let newer = (seen.whole..p.layers.len()).find(|v| p.layers[*v] == now);
            if let Some(v) = newer
                && v >= seen.begun
            {
                (seen.whole, seen.begun) = (v, v);
                continue;
            }
            // Data arrives in ascending order.
            let mixed = |new: &[u8], old: &[u8]| {
                let k = new.iter().zip(now).take_while(|(a, b)| a == b).count();
                (k != 0 && now[k..] == old[k..]).then_some(k)
            };
            let begun = (seen.whole + 1..p.layers.len())
                .find(|v| (seen.whole..*v).any(|u| mixed(&p.layers[*v], &p.layers[u]).is_some()));
            if let Some(v) = begun {
                assert!(v >= seen.begun, "place {at} of end {end} goes back");
                seen.begun = v;
                continue;
            }
            let mut found = None;
            for (q, work) in self.scenario.work[1 - end].iter().enumerate() {
                for (j, op) in work.iter().enumerate().filter(|(_, o)| o.sends()) {
                    let mut all = pattern(1 - end, q, j, op.len);
                    all.extend_from_slice(p.layers[0].get(op.len..).unwrap_or(&[]));
                    if let Some(k) = mixed(&all, &p.layers[0])
                        && p.layers.len() == 1
                    {
                        found = Some((q, j, k >= op.len));
                    }
                }
            }
            let same = seen
                .message
                .is_none_or(|m| found.is_some_and(|f| (m.0, m.1) == (f.0, f.1)));
            assert!(
                found.is_some() && same,
                "place {at} of end {end} (layer {}) holds what nobody sent: {:x?}",
                seen.whole,
                &now[..now.len().min(32)]
            );
            seen.message = found;
        }
        assert!(is_guard(&mem[free..]), "guard bytes at the end");
    }

    /// Whether what work request `j` brings is at the peer: (wholly, in part). None when it brings nothing that could be seen.
    fn effect(&self, end: usize, q: usize, j: usize) -> Option<(bool, bool)> {
        let op = &self.scenario.work[end][q][j];
        if let Some((at, layer)) = self.plan.effect[end][q][j] {
            let s = &self.oracle.seen[1 - end][at];
            return Some((s.whole >= layer, s.begun >= layer));
        }
        if self.scenario.transport != Transport::Rc && op.sends() && op.len != 0 {
            let mut of = self.oracle.seen[1 - end].iter().filter_map(|s| s.message);
            let found = of.find(|m| (m.0, m.1) == (q, j));
            return Some((found.is_some_and(|m| m.2), found.is_some()));
        }
        None
    }

    /// The result of a READ or an atomic is there.
    fn has_fetched(&self, end: usize, q: usize, j: usize) -> bool {
        let own = self.plan.own[end][q][j];
        let last = self.plan.places[end][own].layers.len() - 1;
        self.oracle.seen[end][own].whole == last
    }

    /// Requests take effect in order (IBTA 9.5), fenced ones after all results (10.8.3.3).
    fn check_order(&self, end: usize, q: usize) {
        let work = &self.scenario.work[end][q];
        let mut missing = None;
        for (j, op) in work.iter().enumerate() {
            let Some((whole, begun)) = self.effect(end, q, j) else {
                continue;
            };
            if begun {
                assert!(
                    j < self.oracle.posted[end][q],
                    "request {j} was not posted yet"
                );
                if let Some(i) = missing {
                    // Of two messages only the completions have an order.
                    let messages = work[i..=j].iter().all(Op::sends);
                    assert!(
                        messages,
                        "end {end}, QP {q}: request {j} has effect before request {i}"
                    );
                }
                if op.flags & send_flag::FENCE != 0 {
                    for i in (0..j).filter(|i| work[*i].fetches()) {
                        assert!(
                            self.has_fetched(end, q, i),
                            "request {j} did not wait for {i}"
                        );
                    }
                }
            }
            // A message of UC may be lost; what is behind it goes on.
            let may_be_lost = self.scenario.transport == Transport::Uc && op.sends();
            if !whole && !may_be_lost {
                missing = missing.or(Some(j));
            }
        }
    }

    /// What a poll has returned.
    pub(super) fn completed(&mut self, end: usize, list: &[Wc]) {
        self.look();
        for wc in list {
            let q = self.numbers[end].iter().position(|n| *n == wc.qp_num);
            let q = q.expect("a completion of a QP that is not ours");
            let (is_receive, named, n) = parse(wc.wr_id);
            if is_receive {
                self.receive_completed(end, q, (named, n), wc);
            } else {
                assert_eq!(named, q, "completion of another QP: {wc:?}");
                self.send_completed(end, q, n, wc);
            }
        }
    }

    fn send_completed(&mut self, end: usize, q: usize, j: usize, wc: &Wc) {
        let work = &self.scenario.work[end][q];
        let op = &work[j];
        let what = format!("end {end}, QP {q}, request {j} of {:?}: {wc:?}", op.opcode);
        // Those before it that were not to be reported have succeeded, or this is no success.
        while self.oracle.done[end][q].len() < j {
            let i = self.oracle.done[end][q].len();
            let silent = work[i].flags & send_flag::SIGNALED == 0;
            assert!(silent, "{what}: out of order, {i} is next");
            assert!(
                !self.oracle.has_failed(end, q),
                "{what}: {i} has not been flushed"
            );
            self.send_succeeded(end, q, i, &what);
        }
        assert_eq!(self.oracle.done[end][q].len(), j, "{what}: twice");
        assert!(j < self.oracle.posted[end][q], "{what}: not posted");
        if wc.status == wc_status::SUCCESS {
            assert!(
                op.flags & send_flag::SIGNALED != 0,
                "{what}: not to be reported"
            );
            self.send_succeeded(end, q, j, &what);
            return;
        }
        assert!(!self.scenario.is_calm(), "{what}");
        let first = self.oracle.done[end][q]
            .iter()
            .all(|s| *s == wc_status::SUCCESS);
        if !first {
            assert_eq!(
                wc.status,
                wc_status::WR_FLUSH_ERR,
                "{what}: behind an error"
            );
        }
        if let Some(f) = self.scenario.failure.filter(|_| end == 0 && first) {
            assert_eq!((q, j, wc.status), (f.qp, f.op, f.status), "{what}");
        }
        self.oracle.done[end][q].push(wc.status);
        let own = self.plan.own[end][q][j];
        self.freeze(end, own);
    }

    fn send_succeeded(&mut self, end: usize, q: usize, j: usize, what: &str) {
        let op = &self.scenario.work[end][q][j];
        assert!(
            !self.oracle.has_failed(end, q),
            "{what}: success behind an error"
        );
        if self.scenario.transport != Transport::Uc
            && let Some((whole, _)) = self.effect(end, q, j)
        {
            assert!(whole, "{what}: complete before its data is there");
        }
        if op.fetches() && op.len != 0 {
            assert!(
                self.has_fetched(end, q, j),
                "{what}: complete without its result"
            );
        }
        if op.opcode == wr_opcode::LOCAL_INV {
            self.freeze_window(end, q);
        }
        self.oracle.done[end][q].push(wc_status::SUCCESS);
    }

    /// Nobody reaches the memory of the window any more.
    fn freeze_window(&mut self, end: usize, q: usize) {
        if let Some(&at) = self.plan.targets[end][q].first() {
            self.freeze(end, at);
        }
    }

    fn freeze(&mut self, end: usize, at: usize) {
        let p = &self.plan.places[end][at];
        let now = self.ends[end].mem[p.off..p.off + p.len].to_vec();
        self.oracle.seen[end][at].frozen.get_or_insert(now);
    }

    fn receive_completed(&mut self, end: usize, q: usize, (of, k): (usize, usize), wc: &Wc) {
        let shared = matches!(self.scenario.transport, Transport::Srq | Transport::Xrc);
        let what = format!("end {end}, QP {q}, receive {k} of queue {of}: {wc:?}");
        let at = self.plan.receives[end][of][k];
        if !shared {
            let next = self.oracle.received[end][q].len();
            assert_eq!((of, k), (q, next), "{what}: out of order");
        }
        assert!(
            k < self.oracle.receives_posted[end][of],
            "{what}: not posted"
        );
        assert!(self.oracle.seen[end][at].frozen.is_none(), "{what}: twice");
        if wc.status != wc_status::SUCCESS {
            assert!(!self.scenario.is_calm(), "{what}");
            assert_eq!(wc.status, wc_status::WR_FLUSH_ERR, "{what}");
            self.oracle.received[end][q].push(wc.status);
            self.freeze(end, at);
            return;
        }
        let bad = |s: &u32| *s != wc_status::SUCCESS;
        assert!(
            !self.oracle.received[end][q].iter().any(bad),
            "{what}: success behind an error"
        );
        let messages = &self.plan.messages[1 - end][q];
        let mut n = self.oracle.messages[end][q];
        if self.scenario.transport == Transport::Uc {
            n += messages[n..]
                .iter()
                .position(|j| *j == wc.imm_data as usize)
                .unwrap_or_else(|| panic!("{what}: received before"));
        }
        let j = *messages
            .get(n)
            .unwrap_or_else(|| panic!("{what}: nothing was sent"));
        let op = &self.scenario.work[1 - end][q][j];
        let opcode = if op.sends() {
            wc_opcode::RECV
        } else {
            wc_opcode::RECV_RDMA_WITH_IMM
        };
        assert_eq!(
            (wc.opcode, wc.byte_len as usize),
            (opcode, op.len),
            "{what}"
        );
        let flags = match op.opcode {
            _ if op.has_imm() => wc_flag::WITH_IMM,
            wr_opcode::SEND_WITH_INV => wc_flag::WITH_INV,
            _ => 0,
        };
        assert_eq!(wc.wc_flags, flags, "{what}");
        match op.opcode {
            _ if op.has_imm() => assert_eq!(wc.imm_data as usize, j, "{what}"),
            wr_opcode::SEND_WITH_INV => {
                assert_eq!(Some(wc.imm_data), self.windows.map(|w| w[q].0), "{what}");
                self.freeze_window(end, q);
            }
            _ => {}
        }
        // Its own data, and that of all requests before it.
        let lossy = self.scenario.transport == Transport::Uc;
        for i in 0..=j {
            let before = &self.scenario.work[1 - end][q][i];
            if let Some((whole, _)) = self.effect(1 - end, q, i)
                && !(lossy && before.sends() && i != j)
            {
                assert!(whole, "{what}: the data of request {i} is not there");
            }
        }
        let found = self.scenario.transport != Transport::Rc;
        if found && op.sends() && op.len != 0 {
            assert_eq!(
                self.oracle.seen[end][at].message,
                Some((q, j, true)),
                "{what}"
            );
        }
        self.oracle.messages[end][q] = n + 1;
        self.oracle.received[end][q].push(wc.status);
        self.freeze(end, at);
    }

    /// Nothing can change any more, however long one waits.
    pub(super) fn finish(&mut self) {
        let calm = self.scenario.is_calm();
        let dead = self.dead;
        for end in (0..2).filter(|e| dead != Some(*e)) {
            for q in 0..2 {
                self.finish_qp(end, q);
            }
            for e in &self.ends[end].e.env.events {
                let usual = e.event == event::COMM_EST;
                assert!(usual || !calm, "event {} at end {end}", e.event);
            }
        }
        if let Some(f) = self.scenario.failure {
            for end in 0..2 {
                assert_eq!(
                    self.state(end, f.qp),
                    qps::ERR,
                    "end {end} of the QP that failed"
                );
            }
        }
    }

    fn finish_qp(&mut self, end: usize, q: usize) {
        let what = format!("end {end}, QP {q}");
        let state = self.state(end, q);
        let peer_gone = self.dead == Some(1 - end)
            || self.broken.is_some_and(|(_, broken)| broken == q)
            || self.scenario.leaves_one_behind() && q == 0
            || self.state(1 - end, q) == qps::ERR;
        let unreliable = self.scenario.transport == Transport::Uc;
        let shared = matches!(self.scenario.transport, Transport::Srq | Transport::Xrc);
        let o = &self.oracle;
        let (done, received) = (&o.done[end][q], &o.received[end][q]);
        let (posted, receives) = (o.posted[end][q], o.receives_posted[end][q]);
        let work = &self.scenario.work[end][q];
        // What was not to be reported and came last is never heard of.
        let silent = work[done.len()..posted]
            .iter()
            .all(|op| op.flags & send_flag::SIGNALED == 0);
        assert!(
            silent,
            "{what}: {} of {posted} sends complete: {done:?}",
            done.len()
        );
        let refused = done.iter().any(|s| {
            matches!(
                *s,
                wc_status::REM_ACCESS_ERR | wc_status::REM_INV_REQ_ERR | wc_status::REM_OP_ERR
            )
        });
        if state == qps::ERR {
            assert!(!self.scenario.is_calm(), "{what} is in error");
            assert!(
                shared || received.len() == receives,
                "{what}: receives not flushed"
            );
            return;
        }
        assert!(
            !refused && !o.has_failed(end, q),
            "{what} is not in error: {done:?} {received:?}"
        );
        assert_eq!(posted, work.len(), "{what}: not all was posted");
        if !unreliable {
            // Of a connection that breaks only those hear whose requests fail by it.
            let lost = self.dead == Some(1 - end);
            assert!(!lost, "{what} does not know that its peer is gone");
        }
        let sent = self.plan.messages[1 - end][q].len();
        let s = self.scenario;
        let lossy = unreliable && (s.ticks != 0 || s.late_receives || s.renews != [false; 2]);
        if !peer_gone && !lossy {
            assert_eq!(o.messages[end][q], sent, "{what}: messages received");
        }
        if !peer_gone && !unreliable {
            let c = self.ends[end].e.qps[self.qps[end][q] as usize].as_ref();
            let c = c.and_then(|qp| qp.conn.as_ref()).expect("a connection");
            let left = (c.outstanding(), c.expected, c.invited, c.reads);
            assert_eq!(
                left,
                (0, 0, 0, 0),
                "{what}: requests, answers, payloads, results to come"
            );
            assert!(
                c.responses.is_empty() && c.inbound.is_empty(),
                "{what}: {c:?}"
            );
        }
    }
}
