//! The data path: a doorbell executes work in the thread that rings.
//!
//! Nothing here waits. A QP that cannot go on (its peer gives no answer, a CQ is full) is parked and tried again by `progress`
//! and by the device's thread; a doorbell that finds another thread at work on the QP leaves its index with that thread.

use super::context::NicContext;
use super::cq::{CqAt, Push};
use super::handover::hand_over;
use super::mmu;
use super::qp::{Qp, Run, Stage, Target, Watch, mode};
use super::wqe;
use crate::fabric::attach::lock;
use crate::fabric::copy::{Failure, deliver, local_address};
use crate::fabric::process::mac_bytes;
use crate::shm::clock::now_us;
use crate::shm::fabric_file::{MAX_QPS, qp_state};
use crate::{Errno, NicEvent, addr};
use kernel_abi::ext::{PV_DOORBELL_BYTES, PV_PENDING};
use kernel_abi::gaudi2::{Cqe, Doorbell, ResCtx, hw_wq_type, syndrome};
use std::sync::atomic::Ordering::*;

/// Most bytes of one copy in `progress`.
const SLICE: u32 = 512 << 10;
/// Not less, however little is left of the budget: each copy has its fixed cost.
const LEAST_SLICE: u32 = 64 << 10;
/// What a WQE counts beside its bytes, so that small ones are bounded as well.
const WQE_COST: i64 = 64;
/// Emulator only, outside the hardware's table: the local address is not mapped. Silicon raises an MMU fault of the whole
/// device.
pub(crate) const LOCAL_UNMAPPED: u8 = 0xf0;

/// How a step ended.
enum Step {
    Next,
    /// A slice is done, more of the same WQE follows.
    More,
    /// The message is longer than what may be moved now.
    Later,
    /// No answer from the peer.
    Silent,
    /// A CQ is full.
    Full,
    Fail(u8),
}

/// How much may be done in one call.
pub(super) struct Budget {
    pub(super) left: i64,
    /// A doorbell does not begin what it could not finish: one large copy is cheaper than two.
    pub(super) whole_messages: bool,
}

impl Budget {
    /// Most bytes of the next copy.
    #[inline(always)]
    fn slice(&self) -> u32 {
        let left = u32::try_from(self.left.max(0)).unwrap_or(u32::MAX);
        left.clamp(LEAST_SLICE, SLICE)
    }
}

impl NicContext {
    /// A doorbell entry. [`PV_PENDING`] when work is left over.
    pub fn doorbell(&self, port: u32, entry: u64) -> u32 {
        if !self.usable() {
            return 0;
        }
        let bell = Doorbell::from_raw(entry);
        match self.qp(port, bell.qpn()) {
            Some(qp) => {
                let mut budget = Budget {
                    left: PV_DOORBELL_BYTES as i64,
                    whole_messages: true,
                };
                self.drive(qp, Some(bell.pi()), &mut budget);
            }
            None => self.sink.event(NicEvent::QpErr {
                port,
                qpn: bell.qpn(),
                syndrome: syndrome::DB_QP_INVALID,
            }),
        }
        self.pending()
    }

    #[inline(always)]
    pub(super) fn pending(&self) -> u32 {
        if self.schedule.has_runnable() {
            PV_PENDING
        } else {
            0
        }
    }

    /// Works on a QP, or leaves the bell with the thread that does. False when another thread is at it.
    #[inline]
    pub(super) fn drive(&self, qp: &Qp, bell: Option<u32>, budget: &mut Budget) -> bool {
        let work = |run: &mut Run, bell: Option<u32>| self.advance(qp, run, bell, budget);
        hand_over(&qp.run, &qp.again, bell, Run::further, work)
    }

    fn advance(&self, qp: &Qp, run: &mut Run, bell: Option<u32>, budget: &mut Budget) {
        if qp.syndrome.load(Relaxed) != 0 {
            // Doorbells of a QP in error are dropped.
            run.valid = false;
            run.pi = run.ci;
            return self.settle(qp, mode::IDLE);
        }
        if let Some(pi) = bell {
            if let Err(syndrome) = run.check_bell(pi) {
                return self.fail_running(qp, run, syndrome);
            }
            run.pi = pi;
        }
        if !run.valid {
            return self.settle(qp, mode::IDLE);
        }
        let mut end = mode::IDLE;
        let before = run.sent[1];
        while run.ci != run.pi {
            if budget.left <= 0 {
                end = mode::RUNNABLE;
                break;
            }
            match self.step(qp, run, budget) {
                Step::Next => {
                    if qp.syndrome.load(Relaxed) != 0 {
                        run.pi = run.ci;
                    }
                }
                Step::More => {}
                Step::Later => {
                    end = mode::RUNNABLE;
                    break;
                }
                Step::Full => {
                    end = mode::PARKED;
                    break;
                }
                Step::Silent => {
                    if self.is_silent_too_long(qp, run) {
                        return self.fail_running(qp, run, syndrome::TIMER_RETRY);
                    }
                    end = mode::PARKED;
                    break;
                }
                Step::Fail(syndrome) => return self.fail_running(qp, run, syndrome),
            }
        }
        if run.sent[1] != before {
            let record = self.fabric.file.qp(self.device, qp.port, qp.id);
            for (which, sent) in (0..).zip(run.sent) {
                record.sent(which).store(sent, Relaxed);
            }
        }
        self.settle(qp, end);
    }

    fn fail_running(&self, qp: &Qp, run: &mut Run, syndrome: u8) {
        run.valid = false;
        run.pi = run.ci;
        run.stage = Stage::Fetch;
        qp.silent_since.store(0, Relaxed);
        self.settle(qp, mode::IDLE);
        self.fail(qp, syndrome);
    }

    fn is_silent_too_long(&self, qp: &Qp, run: &Run) -> bool {
        let now = now_us();
        match qp.silent_since.load(Relaxed) {
            0 => {
                qp.silent_since.store(now, Relaxed);
                false
            }
            since => now.saturating_sub(since) >= run.limit_us,
        }
    }

    #[inline(always)]
    fn step(&self, qp: &Qp, run: &mut Run, budget: &mut Budget) -> Step {
        if run.stage == Stage::Fetch {
            match wqe::fetch(&self.map, &run.ring, run.ci, run.cfg.wq_type) {
                Ok(work) => run.work = work,
                Err(syndrome) => return Step::Fail(syndrome),
            }
            run.stage = if run.work.size == 0 {
                Stage::TellMe
            } else {
                Stage::Data(0)
            };
        }
        if run.stage != Stage::TellMe {
            match self.send(qp, run, budget) {
                Step::Next => {}
                other => return other,
            }
        }
        if let (Some(tag), Some(cq)) = (run.work.tell_me, run.send_cq)
            && cq.push(
                &self.map,
                self.layout.event(),
                Cqe::requester(qp.id, run.ci, tag),
            ) == Push::Full
        {
            return Step::Full;
        }
        budget.left -= WQE_COST;
        run.stage = Stage::Fetch;
        run.ci = if run.ci == run.last { 0 } else { run.ci + 1 };
        Step::Next
    }

    /// Data and the responder's entry.
    #[inline(always)]
    fn send(&self, qp: &Qp, run: &mut Run, budget: &mut Budget) -> Step {
        let done = if let Stage::Data(done) = run.stage {
            done
        } else {
            run.work.size
        };
        let left = run.work.size - done;
        if budget.whole_messages && i64::from(left) > budget.left {
            return Step::Later;
        }
        let len = left.min(budget.slice());
        let Some(src) = self.source(run, done, left) else {
            return Step::Fail(LOCAL_UNMAPPED);
        };
        let Some((device, port, qpn)) = run.dest else {
            return Step::Silent;
        };
        if let Err(step) = self.reach(qp, run, (device, port, qpn)) {
            return step;
        }
        let (Some(target), work) = (&run.target, &run.work) else {
            return Step::Silent;
        };
        // Counted in from here: every way out leaves.
        let remote = &target.way.remote;
        let step = 'copy: {
            if left > 0 {
                let at = work.remote.checked_add(u64::from(done));
                let place = at.and_then(|at| mmu::translate(&remote.accel, at, u64::from(left)));
                let Some(place) = place.filter(|_| target.key == run.cfg.remote_key) else {
                    break 'copy Step::Fail(syndrome::REQ_RX_RETRY);
                };
                match deliver(remote, place, src, len as usize) {
                    Ok(()) => {}
                    Err(Failure::Local) => break 'copy Step::Fail(LOCAL_UNMAPPED),
                    Err(Failure::Remote) => break 'copy Step::Fail(syndrome::REQ_RX_RETRY),
                    Err(Failure::Dead) => break 'copy Step::Silent,
                    Err(Failure::Denied) => break 'copy Step::Fail(syndrome::TIMER_RETRY),
                }
                if len < left {
                    break 'copy Step::More;
                }
            }
            if work.tell_peer
                && let Some(cq) = target.cq
                && cq.push(
                    &remote.map,
                    remote.layout.event(),
                    Cqe::responder(qpn, run.ci, work.tag, work.size),
                ) == Push::Full
            {
                break 'copy Step::Full;
            }
            Step::Next
        };
        if matches!(step, Step::Fail(syndrome::REQ_RX_RETRY)) {
            // The responder's owner hears of it too: key mismatch and unmapped address are one NAK (remote access error).
            remote.report(port, qpn, syndrome::RX_RKEY);
        }
        target.way.leave();
        if qp.silent_since.load(Relaxed) != 0 && !matches!(step, Step::Silent) {
            qp.silent_since.store(0, Relaxed);
        }
        match step {
            Step::More => {
                run.stage = Stage::Data(done + len);
                budget.left -= i64::from(len);
            }
            // The data is there, exactly once; only the entry is tried again.
            Step::Full => run.stage = Stage::TellPeer,
            Step::Next => {
                run.stage = Stage::TellMe;
                budget.left -= i64::from(len);
                run.count_message();
            }
            _ => {}
        }
        step
    }

    /// Address of the `left` bytes that remain from `done` on.
    #[inline(always)]
    fn source(&self, run: &Run, done: u32, left: u32) -> Option<*const u8> {
        if left == 0 {
            return Some(std::ptr::null());
        }
        let (done, left) = (u64::from(done), u64::from(left));
        if let Some(at) = run.work.inline_at {
            return Some(self.map.ptr(at + done, left)?.cast_const());
        }
        let place = mmu::translate(&self.amap, run.work.local.checked_add(done)?, left)?;
        Some(local_address(place, &self.map, &self.amap, left)?.cast_const())
    }

    /// Finds the responder and counts the access in. Not counted in when this fails.
    #[inline(always)]
    fn reach(&self, qp: &Qp, run: &mut Run, dest: (u32, u32, u32)) -> Result<(), Step> {
        for _ in 0..4 {
            if let Some(target) = &run.target {
                target.way.enter();
                if self
                    .fabric
                    .file
                    .qp(dest.0, dest.1, dest.2)
                    .state()
                    .load(SeqCst)
                    == target.state
                {
                    return Ok(());
                }
                target.way.leave();
                run.target = None;
            }
            self.resolve(qp, run, dest)?;
        }
        Err(Step::Silent)
    }

    /// Looks the responder up anew.
    #[inline(never)]
    fn resolve(
        &self,
        qp: &Qp,
        run: &mut Run,
        (device, port, qpn): (u32, u32, u32),
    ) -> Result<(), Step> {
        // A number that was never used has no record to look at.
        let high = self.fabric.file.port(device, port).qp_high().load(Acquire);
        if qpn >= high.min(MAX_QPS) {
            return Err(Step::Silent);
        }
        let record = self.fabric.file.qp(device, port, qpn);
        let state = record.state().load(Acquire);
        if !qp_state::receives(state) {
            return Err(Step::Silent);
        }
        let asid = qp_state::asid(state);
        let remote = self.fabric.remote(device, asid).map_err(|e| match e {
            // Gone, or about to be; or short of descriptors, which may pass.
            Errno::ESRCH
            | Errno::ENOENT
            | Errno::ESTALE
            | Errno::EMFILE
            | Errno::ENFILE
            | Errno::ENOMEM => Step::Silent,
            _ => Step::Fail(syndrome::TIMER_RETRY),
        })?;
        let res = ResCtx {
            words: record.res(),
        };
        let generation = record.generation().load(Acquire);
        crate::shm::sync::fence(Acquire);
        if record.state().load(SeqCst) != state {
            return Err(Step::Silent);
        }
        // A responder that expects somebody else drops our packets (their PSNs are not what it expects).
        let from = addr::resolve(
            res.dst_ip(),
            mac_bytes(res.dst_mac()),
            self.fabric.opts.devices,
            self.fabric.opts.ports,
        );
        if !res.valid() || res.dst_qp() != qp.id || from != Some((self.device, qp.port)) {
            return Err(Step::Silent);
        }
        let cq = u32::from(res.cq_num());
        let cq = (2..super::rdma_layout::CQS)
            .contains(&cq)
            .then(|| CqAt::new(remote.layout, port, cq));
        let mut watch = lock(&qp.watch);
        let known = match &*watch {
            _ if run.peer != 0 => run.peer,
            Watch::Peer {
                remote,
                port: p,
                qpn: q,
                generation,
            } if (remote.device, *p, *q) == (device, port, qpn) => *generation,
            _ => generation,
        };
        // The number belongs to somebody else by now, who must not hear of us. The posted device hands numbers out anew at each reset.
        if known != generation && !self.fabric.opts.strict {
            return Err(Step::Silent);
        }
        run.peer = generation;
        *watch = Watch::Peer {
            remote: remote.clone(),
            port,
            qpn,
            generation,
        };
        drop(watch);
        run.target = Some(Target {
            way: remote.way(),
            state,
            key: res.local_key(),
            cq,
        });
        Ok(())
    }

    /// For how many microseconds the QP's oldest WQE has got no answer from its peer; 0 when it is not waiting for that.
    pub fn stalled_us(&self, port: u32, qpn: u32) -> u64 {
        if !self.usable() {
            return 0;
        }
        match self
            .qp(port, qpn)
            .map_or(0, |qp| qp.silent_since.load(Relaxed))
        {
            0 => 0,
            since => now_us().saturating_sub(since).max(1),
        }
    }
}

impl Run {
    fn check_bell(&self, pi: u32) -> Result<(), u8> {
        if !self.valid {
            return Err(syndrome::DB_QP_INVALID);
        }
        if self.cfg.wq_type == hw_wq_type::READ_RDV_ENDP {
            return Err(syndrome::DB_READ_QUEUE);
        }
        if pi > self.last {
            return Err(syndrome::DB_PI);
        }
        Ok(())
    }

    /// The index that is further from the consumer index.
    fn further(&self, a: u32, b: u32) -> u32 {
        if a > self.last || b > self.last {
            return a.max(b);
        }
        let ring = self.last + 1;
        let ahead = |pi: u32| (pi + ring - self.ci) % ring;
        if ahead(b) > ahead(a) { b } else { a }
    }

    #[inline(always)]
    fn count_message(&mut self) {
        let size = u64::from(self.work.size);
        let packets = (size + (1 << self.mtu_shift) - 1) >> self.mtu_shift;
        let [bytes, messages, sent] = &mut self.sent;
        *bytes += size;
        *messages += 1;
        *sent += packets;
    }
}
