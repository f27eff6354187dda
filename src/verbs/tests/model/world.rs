//! Two ends with two connections, their programs, and everything that a schedule may choose.

use super::oracle::Oracle;
use super::plan::{ADDEND, FIRST_WORD, GUARD, Plan, word_of};
use super::scenario::{Key, Op, Scenario, Transport};
use crate::native::sim::{Fabric, Key as NativeKey, digest::Digest};
use crate::rc::requester;
use crate::verbs::tests::rig::{End, wr};
use crate::verbs::types::{MrInfo, QpAttr, SendWr};
use kernel_abi::verbs::{access, qp_attr, qps, qpt, wr_opcode};

/// What may happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// The program of an end polls, and posts what it has room for.
    Poll(usize),
    /// The oldest WRITE of a native QP arrives.
    Deliver(NativeKey),
    /// So many bytes of it do.
    Tear(NativeKey, usize),
    /// A completion comes into its queue.
    Tell((NativeKey, bool)),
    /// The second end posts a receive on a QP.
    Receive(usize),
    Die(usize),
    Break(usize, usize),
    /// The first QP is reset and connected again.
    Renew(usize),
    Nap(usize),
    Tick(usize),
    /// Nothing else is left: a long time passes.
    Wait,
}

const WR_SEND: u64 = 0x1000;
const WR_RECV: u64 = 0x2000;

pub(super) struct World<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) plan: &'a Plan,
    pub(super) f: Fabric,
    pub(super) ends: [End; 2],
    pub(super) qps: [[u32; 2]; 2],
    pub(super) numbers: [[u32; 2]; 2],
    /// By end and QP: the SRQ that its receives come from.
    srqs: [[Option<(u32, u32)>; 2]; 2],
    /// By QP: key of the second end's window, its later key, and the MR that it lies in.
    pub(super) windows: Option<[(u32, u32, MrInfo); 2]>,
    pub(super) oracle: Oracle,
    pub(super) dead: Option<usize>,
    pub(super) broken: Option<(usize, usize)>,
    /// Ends whose first QP is yet to be reset.
    pub(super) old: [bool; 2],
    naps: [u8; 2],
    ticks: u8,
    tears: u8,
}

/// Number of a work request: (is a receive, QP, index).
pub(super) fn parse(wr_id: u64) -> (bool, usize, usize) {
    let n = (wr_id & 0xfff) as usize;
    (wr_id & WR_RECV != 0, n >> 8, n & 0xff)
}

/// From RESET to RTS.
fn connect(s: &Scenario, e: &mut End, end: usize, qp: u32, num: u32) {
    e.init(qp);
    e.rtr(qp, 2 - end as u8, num);
    e.rts(qp, s.rnr_retry);
    if let Some(c) = e.e.qp(qp).unwrap().conn.as_mut() {
        c.lines = s.lines;
    }
}

fn number(base: u64, q: usize, j: usize) -> u64 {
    base | (q << 8 | j) as u64
}

impl<'a> World<'a> {
    /// Connected, with the first work requests and receives posted. The memory is the caller's, so that it lies where it lay before.
    pub(super) fn new(scenario: &'a Scenario, plan: &'a Plan, memory: [Vec<u8>; 2]) -> World<'a> {
        let f = Fabric::default();
        {
            let mut inner = f.lock();
            inner.delayed = true;
            inner.now = 1 << 30;
            inner.held = scenario.late_completions.then(Default::default);
        }
        let mut device = 0;
        let mut ends = memory.map(|mut m| {
            device += 1;
            m.fill(GUARD);
            for p in &plan.places[device - 1] {
                m[p.off..p.off + p.len].copy_from_slice(&p.layers[0]);
            }
            End::bare(&f, device as u8, m, 64)
        });
        let (mut qps, mut numbers, mut srqs) = ([[0; 2]; 2], [[0; 2]; 2], [[None; 2]; 2]);
        for end in 0..2 {
            let e = &mut ends[end];
            let depth = scenario.depth;
            let total: usize = plan.receives[end].iter().map(Vec::len).sum();
            let (qp_type, domain) = match scenario.transport {
                Transport::Rc => (qpt::RC, None),
                Transport::Uc => (qpt::UC, None),
                Transport::Srq => {
                    let s = e.srq(total.max(1) as u32, None);
                    srqs[end] = [Some((s.handle, s.number)); 2];
                    (qpt::RC, None)
                }
                Transport::Xrc if end == 0 => (qpt::XRC_INI, None),
                Transport::Xrc => {
                    let domain = e.e.open_xrcd(None, true, false).unwrap();
                    for of in &mut srqs[end] {
                        let s = e.srq(total.max(1) as u32, Some((domain, e.cq)));
                        *of = Some((s.handle, s.number));
                    }
                    (qpt::XRC_TGT, Some(domain))
                }
            };
            for q in 0..2 {
                let basic = srqs[end][q].filter(|_| domain.is_none()).map(|s| s.0);
                (qps[end][q], numbers[end][q]) = e.create_as(qp_type, depth, basic, domain);
            }
        }
        for end in 0..2 {
            for q in 0..2 {
                let (qp, num) = (qps[end][q], numbers[1 - end][q]);
                let e = &mut ends[end];
                connect(scenario, e, end, qp, num);
                let qp = e.e.qp(qp).unwrap();
                if scenario.native_room != 0 {
                    let n = &mut qp.native;
                    let taken = crate::native::RING_ENTRIES - 1 - scenario.native_room;
                    n.ci = n.pi.wrapping_sub(taken);
                    n.notified = n.ci;
                }
            }
        }
        let mut w = World {
            scenario,
            plan,
            f,
            ends,
            qps,
            numbers,
            srqs,
            windows: None,
            oracle: Oracle::new(plan),
            dead: None,
            broken: None,
            old: scenario.renews,
            naps: [scenario.naps; 2],
            ticks: scenario.ticks,
            tears: scenario.tears,
        };
        w.open_windows();
        if scenario.greeted {
            w.greet();
        }
        if scenario.used {
            w.use_once();
        }
        for end in 0..2 {
            if end == 0 || !scenario.late_receives {
                for q in 0..2 {
                    while w.post_receive(end, q) {}
                }
            }
        }
        for end in 0..2 {
            w.post_sends(end);
        }
        w
    }

    pub(super) fn memory(self) -> [Vec<u8>; 2] {
        self.ends.map(|mut e| std::mem::take(&mut e.mem))
    }

    /// A window over the first target of each QP of the second end, if anything is about windows.
    fn open_windows(&mut self) {
        let all = self.scenario.work.iter().flatten().flatten();
        let about = |o: &Op| {
            o.key == Key::Window
                || matches!(
                    o.opcode,
                    wr_opcode::SEND_WITH_INV | wr_opcode::LOCAL_INV | wr_opcode::BIND_MW
                )
        };
        if !all.copied().any(|o| about(&o)) {
            return;
        }
        let e = &mut self.ends[1];
        let (at, len) = (e.at(0), e.mem.len() as u64);
        let rights = access::LOCAL_WRITE | access::MW_BIND;
        let mr = e.e.reg_mr(e.pd, at, len, at, rights).unwrap();
        let mut windows = [(0, 0, mr); 2];
        for (q, w) in windows.iter_mut().enumerate() {
            let mw = self.ends[1].e.alloc_mw(self.ends[1].pd, true).unwrap();
            *w = (mw.rkey ^ 0x55, mw.rkey ^ 0xaa, mr);
            let b = self.bind(q, w.0, mr);
            self.ends[1].post_on(self.qps[1][q], &SendWr { flags: 0, ..b });
        }
        self.windows = Some(windows);
    }

    fn bind(&self, q: usize, key: u32, mr: MrInfo) -> SendWr<'static> {
        let target = self.plan.targets[1][q].first().copied();
        let (off, len) = target.map_or((0, 16), |t| {
            let p = &self.plan.places[1][t];
            (p.off, p.len)
        });
        SendWr {
            compare_add: len as u64,
            swap: (access::REMOTE_WRITE | access::REMOTE_READ).into(),
            imm: mr.lkey,
            ..wr(0, wr_opcode::BIND_MW, &[], (self.ends[1].at(off), key))
        }
    }

    /// A message of no bytes goes each way on the first QP that there is.
    fn use_once(&mut self) {
        let ways = if self.scenario.transport == Transport::Xrc {
            0..1
        } else {
            0..2
        };
        for end in ways {
            let (from, to) = (self.qps[end][0], self.qps[1 - end][0]);
            let srq = self.srqs[1 - end][0];
            match srq {
                Some((h, _)) => self.ends[1 - end].e.post_srq_recv(h, 0, &[]).unwrap(),
                None => self.ends[1 - end].e.post_recv(to, 0, &[]).unwrap(),
            };
            let empty = SendWr {
                flags: 0,
                remote_srqn: srq.map_or(0, |s| s.1),
                ..wr(0, wr_opcode::SEND, &[], (0, 0))
            };
            self.ends[end].post_on(from, &empty);
            let mut got = 0;
            while got == 0 || !self.f.deliverable().is_empty() {
                for k in self.f.deliverable() {
                    self.f.deliver(k);
                }
                for e in &mut self.ends {
                    got += e.poll().len();
                }
            }
        }
    }

    /// The first QP of an end is reset and connected with the same peer. Where both are, the program has waited for this.
    fn renew(&mut self, end: usize) {
        let (qp, num) = (self.qps[end][0], self.numbers[1 - end][0]);
        let e = &mut self.ends[end];
        let reset = QpAttr {
            qp_state: qps::RESET,
            ..QpAttr::default()
        };
        e.e.modify_qp(qp, &reset, qp_attr::STATE).unwrap();
        connect(self.scenario, e, end, qp, num);
        self.old[end] = false;
        while self.post_receive(end, 0) {}
        self.post_sends(end);
    }

    /// Nothing is posted on this QP yet.
    fn is_idle(&self, end: usize, q: usize) -> bool {
        q == 0 && self.old[end]
    }

    /// HELLOs are exchanged and heard.
    fn greet(&mut self) {
        for end in 0..2 {
            for q in 0..2 {
                let e = &mut self.ends[end].e;
                let h = self.qps[end][q] as usize;
                let qp = e.qps[h].as_mut().unwrap();
                let mut c = qp.conn.take().unwrap();
                c.say_hello(&mut e.env.nic, &mut qp.native);
                requester::ring(qp, &mut c, &mut e.env);
                qp.conn = Some(c);
            }
        }
        loop {
            let mut more = false;
            for k in self.f.deliverable() {
                more |= self.f.deliver(k);
            }
            for k in self.f.untold() {
                self.f.tell(k);
                more = true;
            }
            for e in &mut self.ends {
                assert!(e.poll().is_empty());
            }
            if !more {
                break;
            }
        }
    }

    /// The next receive of a QP, if there is one and room for it.
    fn post_receive(&mut self, end: usize, q: usize) -> bool {
        let k = self.oracle.receives_posted[end][q];
        let Some(&at) = self.plan.receives[end][q].get(k) else {
            return false;
        };
        if self.state(end, q) == qps::ERR || self.is_idle(end, q) {
            return false;
        }
        let p = &self.plan.places[end][at];
        let e = &mut self.ends[end];
        let sges = [e.sge(p.off, p.len)];
        let sges = if p.len == 0 { &sges[..0] } else { &sges[..] };
        let id = number(WR_RECV, q, k);
        let posted = match self.srqs[end][q] {
            Some((h, _)) => e.e.post_srq_recv(h, id, sges),
            None => e.e.post_recv(self.qps[end][q], id, sges),
        };
        let Ok(waited) = posted else { return false };
        self.oracle.receives_posted[end][q] += 1;
        if waited {
            match self.srqs[end][q] {
                Some((h, _)) => e.e.kick_srq(h),
                None => e.e.kick(self.qps[end][q]),
            }
        }
        true
    }

    /// What the program of an end posts after a poll.
    fn post_sends(&mut self, end: usize) {
        for q in 0..2 {
            if self.is_idle(end, q) {
                continue;
            }
            while let Some(op) = self.scenario.work[end][q].get(self.oracle.posted[end][q]) {
                if self.oracle.has_failed(end, q) || !self.post_send(end, q, op) {
                    break;
                }
            }
        }
    }

    fn post_send(&mut self, end: usize, q: usize, op: &Op) -> bool {
        let j = self.oracle.posted[end][q];
        let own = &self.plan.places[end][self.plan.own[end][q][j]];
        let peer = &self.ends[1 - end];
        let target = self.plan.targets[1 - end][q].get(op.target);
        let addr = target.map_or(0, |t| peer.at(self.plan.places[1 - end][*t].off));
        let (window, later, mr) = self.windows.map_or((0, 0, peer.mr), |w| w[q]);
        let key = match op.key {
            Key::Mr => peer.mr.rkey,
            Key::Wrong => peer.mr.rkey ^ 0x1_0000,
            Key::Window => window,
        };
        let e = &self.ends[end];
        // What is odd goes in two pieces.
        let half = own.len / (1 + own.len % 2 * 2);
        let sges = [e.sge(own.off, half), e.sge(own.off + half, own.len - half)];
        let sges = match own.len {
            0 => &sges[..0],
            n if n == half => &sges[..1],
            _ => &sges[..],
        };
        let id = number(WR_SEND, q, j);
        let mut w = match op.opcode {
            wr_opcode::BIND_MW => self.bind(q, later, mr),
            opcode => wr(id, opcode, sges, (addr, key)),
        };
        w.wr_id = id;
        w.flags = op.flags;
        match op.opcode {
            wr_opcode::SEND_WITH_INV | wr_opcode::LOCAL_INV => w.imm = window,
            wr_opcode::BIND_MW => {}
            _ => w.imm = j as u32,
        }
        if op.opcode == wr_opcode::ATOMIC_CMP_AND_SWP {
            (w.compare_add, w.swap) = (FIRST_WORD, word_of(j));
        } else if op.opcode == wr_opcode::ATOMIC_FETCH_AND_ADD {
            w.compare_add = ADDEND;
        }
        if self.scenario.transport == Transport::Xrc {
            // The requests alternate between the SRQs.
            w.remote_srqn = self.srqs[1][(q + j) % 2].map_or(0, |s| s.1);
        }
        let qp = self.qps[end][q];
        let e = &mut self.ends[end];
        if e.e.post_send(qp, &w).is_err() {
            return false;
        }
        self.oracle.posted[end][q] += 1;
        e.e.kick(qp);
        true
    }

    pub(super) fn state(&mut self, end: usize, q: usize) -> u32 {
        self.ends[end].e.qp(self.qps[end][q]).unwrap().state
    }

    pub(super) fn is_live(&self, end: usize) -> bool {
        self.dead != Some(end)
    }

    fn native(&self, end: usize, q: usize) -> NativeKey {
        let (port, id) = crate::native::split_number(self.numbers[end][q]);
        (end as u8 + 1, port, id)
    }

    /// Everything that may be next; some of it may turn out to change nothing.
    pub(super) fn choices(&self) -> Vec<Choice> {
        let mut v = Vec::new();
        let live = (0..2).filter(|e| self.is_live(*e));
        v.extend(live.clone().map(Choice::Poll));
        for k in self.f.deliverable() {
            v.push(Choice::Deliver(k));
            if self.tears != 0 {
                v.extend([8, 56].map(|n| Choice::Tear(k, n)));
            }
        }
        v.extend(self.f.untold().into_iter().map(Choice::Tell));
        if self.scenario.late_receives && self.is_live(1) {
            let left =
                |q: &usize| self.oracle.receives_posted[1][*q] < self.plan.receives[1][*q].len();
            v.extend((0..2).filter(left).map(Choice::Receive));
        }
        for end in live {
            if self.naps[end] != 0 {
                v.push(Choice::Nap(end));
            }
            if self.ticks != 0 {
                v.push(Choice::Tick(end));
            }
            if self.dead.is_none() && self.scenario.may_die[end] {
                v.push(Choice::Die(end));
            }
            if self.old[end] {
                v.push(Choice::Renew(end));
            }
            if self.broken.is_none() && self.scenario.may_break {
                v.push(Choice::Break(end, 0));
            }
        }
        v
    }

    pub(super) fn apply(&mut self, c: Choice) {
        match c {
            Choice::Poll(end) => {
                let list = self.ends[end].poll();
                self.completed(end, &list);
                if end == 0 || !self.scenario.late_receives {
                    for q in 0..2 {
                        while self.post_receive(end, q) {}
                    }
                }
                self.post_sends(end);
            }
            Choice::Deliver(k) => {
                self.f.deliver(k);
            }
            Choice::Tear(k, bytes) => {
                if self.f.tear(k, bytes) {
                    self.tears -= 1;
                }
            }
            Choice::Tell(k) => self.f.tell(k),
            Choice::Receive(q) => {
                self.post_receive(1, q);
            }
            Choice::Die(end) => {
                self.f.kill(end as u8 + 1);
                self.dead = Some(end);
            }
            Choice::Break(end, q) => {
                self.f.lose(self.native(end, q));
                self.broken = Some((end, q));
            }
            Choice::Renew(end) => self.renew(end),
            Choice::Nap(end) => {
                self.naps[end] -= 1;
                self.ends[end].e.cool_down();
            }
            Choice::Tick(end) => {
                self.ticks -= 1;
                self.f.lock().now += 1_000_000_000;
                self.ends[end].e.run_timers();
            }
            Choice::Wait => {
                self.f.lock().now += 10_000_000_000;
                for end in 0..2 {
                    if self.is_live(end) {
                        self.ends[end].e.run_timers();
                    }
                }
                self.f.give_up();
            }
        }
        self.look();
    }

    pub(super) fn digest(&self) -> u128 {
        let mut d = Digest::default();
        for end in 0..2 {
            let e = &self.ends[end];
            if self.is_live(end) {
                e.e.digest(&mut d);
            }
            // Of places that hold a whole layer the oracle knows which.
            for p in self.oracle.mixed(end, self.plan) {
                d.bytes(&e.mem[p.off..p.off + p.len]);
            }
        }
        self.f.digest(&mut d);
        self.oracle.digest(&mut d);
        d.value(&(self.dead, self.broken, self.old));
        d.value(&(self.naps, self.ticks, self.tears));
        d.finish()
    }
}
