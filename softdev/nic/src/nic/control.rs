//! The life of a QP: number, responder context, requester context, stop.

use super::context::NicContext;
use super::cq::CqAt;
use super::port::QpControl;
use super::qp::{RingAt, Run, Watch};
use super::rdma_layout as rdma;
use crate::fabric::attach::lock;
use crate::fabric::process::{free_qp, mac_word};
use crate::shm::fabric_file::{MAX_QPS, qp_state};
use crate::{Errno, Requester, Responder, Result, RingInfo, addr};
use kernel_abi::ext::note;
use kernel_abi::gaudi2::{
    ACK_REQ_FREQ, BURST_SIZE, MAX_TIMEOUT_RETRIES, NO_REMOTE_WQ_LOG, ReqCtx, ResCtx, USER_WQ_BASE,
    cong_mode, timer_period_us,
};
use std::sync::atomic::Ordering::*;

/// Retry limit where the fabric's options name none.
const DEFAULT_RETRY_MS: u32 = 8000;

impl NicContext {
    /// The lowest free number of the port and how often it has been handed out; EBUSY when there is none, EPERM before
    /// `set_port_ex`.
    pub fn qp_alloc(&self, port: u32) -> Result<(u32, u32)> {
        let mut state = self.port(port)?;
        let wqs = state.ready.ok_or(Errno::EPERM)?.wqs;
        let many = u32::try_from(state.qps.len()).unwrap_or(u32::MAX) + 1 >= wqs;
        // One context: the array that it set up bounds the numbers. Several share the numbers, so each is bounded by count.
        let end = if self.fabric.opts.strict {
            wqs.min(MAX_QPS)
        } else {
            MAX_QPS
        };
        if many {
            return Err(Errno::EBUSY);
        }
        let words = self.fabric.file.port(self.device, port);
        let hint = words.qp_hint().load(Acquire);
        let from = hint.clamp(1, end);
        let qpn = (from..end)
            .chain(1..from)
            .find_map(|qpn| {
                self.claim_qp(port, qpn)
                    .map(|claimed| claimed.then_some(qpn))
                    .transpose()
            })
            .ok_or(Errno::EBUSY)??;
        let _ = words.qp_hint().cas(hint, qpn + 1);
        let record = self.fabric.file.qp(self.device, port, qpn);
        let generation = record.generation().load(Relaxed).wrapping_add(1).max(1);
        record.generation().store(generation, Release);
        record.syndrome().store(0, Relaxed);
        record.set_res(&[0; 4]);
        record.set_req(&[0; 16]);
        for which in 0..note::COUNT {
            record.note(which).store(0, Relaxed);
        }
        let Some(qp) = self.make_qp(port, qpn) else {
            return Err(Errno::EBUSY);
        };
        qp.generation.store(generation, Relaxed);
        qp.syndrome.store(0, SeqCst);
        *qp.run.lock() = Run::default();
        self.map
            .w32(rdma::LIVE + 4 * rdma::qp_index(port, qpn))
            .store(generation, SeqCst);
        state.qps.insert(qpn, QpControl::default());
        Ok((qpn, generation))
    }

    fn claim_qp(&self, port: u32, qpn: u32) -> Result<bool> {
        let file = &self.fabric.file;
        file.reserve_qp(self.device, port, qpn)?;
        let record = file.qp(self.device, port, qpn);
        if qp_state::asid(record.state().load(Acquire)) != 0 {
            return Ok(false);
        }
        // First the bound of those who reap, then the claim.
        file.port(self.device, port).qp_high().max(qpn + 1);
        Ok(record.claim(self.asid))
    }

    /// Changes the low half of a QP's state word if this context has the QP.
    pub(super) fn change_state(&self, port: u32, qpn: u32, change: impl Fn(u64) -> u64) -> bool {
        let word = self.fabric.file.qp(self.device, port, qpn).state();
        loop {
            let now = word.load(Acquire);
            if qp_state::asid(now) != self.asid {
                return false;
            }
            let low = change(qp_state::low(now));
            if low == qp_state::low(now) || word.cas(now, qp_state::next(now, low)).is_ok() {
                return true;
            }
        }
    }

    /// [`kernel_abi::ext::PvTable::note`].
    pub(crate) fn note(&self, port: u32, qpn: u32, which: u32, value: u64) {
        let known = self.usable()
            && (1..=self.fabric.opts.ports).contains(&port)
            && (1..MAX_QPS).contains(&qpn)
            && which < note::COUNT;
        if known {
            let record = self.fabric.file.qp(self.device, port, qpn);
            if qp_state::asid(record.state().load(Relaxed)) == self.asid {
                record.note(which).store(value, Relaxed);
            }
        }
    }

    /// RTR. EINVAL for a QP or CQ that is not there.
    pub fn qp_set_responder(&self, port: u32, qpn: u32, r: &Responder) -> Result<()> {
        let mut state = self.port(port)?;
        if !state.accepts_cq(r.cq) {
            return Err(Errno::EINVAL);
        }
        let control = state.qps.get_mut(&qpn).ok_or(Errno::EINVAL)?;
        let old_cq = std::mem::replace(&mut control.res_cq, r.cq);
        state.use_cq(r.cq);
        // A context that is valid is taken back first: readers copy it under one state word.
        let was = self
            .fabric
            .file
            .qp(self.device, port, qpn)
            .state()
            .load(Acquire);
        if was & qp_state::RES != 0 {
            self.change_state(port, qpn, |low| low & !qp_state::RES);
            self.wait_accesses();
        }
        state.unuse_cq(old_cq);
        let context = ResCtx::ZERO
            .with_dst_qp(r.dest_qpn)
            .with_priority(r.priority)
            .with_local_key(r.local_key)
            .with_dst_ip(r.dest_ip)
            .with_dst_mac(mac_word(r.dest_mac))
            .with_asid(self.asid as u16)
            .with_peer_qp(qpn)
            .with_cq_num(r.cq.max(1) as u8)
            .with_peer_wq_granularity(r.peer_granularity != 0)
            .with_valid(true);
        self.fabric
            .file
            .qp(self.device, port, qpn)
            .set_res(&context.words);
        self.change_state(port, qpn, |low| low | qp_state::RES);
        if let (Some(qp), Some((device, peer_port))) =
            (self.qp(port, qpn), self.destination(r.dest_ip, r.dest_mac))
        {
            let mut watch = lock(&qp.watch);
            if r.dest_qpn < MAX_QPS && matches!(*watch, Watch::Nobody) {
                *watch = self.try_watch(device, peer_port, r.dest_qpn);
            }
        }
        self.fabric.wake_thread();
        Ok(())
    }

    fn destination(&self, ip: u32, mac: [u8; 6]) -> Option<(u32, u32)> {
        addr::resolve(ip, mac, self.fabric.opts.devices, self.fabric.opts.ports)
    }

    /// RTS: allocates the rings. EINVAL if they are set already, if the ring is larger than the port's queues or the CQ is not
    /// there; ENOMEM.
    pub fn qp_set_requester(&self, port: u32, qpn: u32, r: &Requester) -> Result<RingInfo> {
        let mut state = self.port(port)?;
        let setup = state.ready.ok_or(Errno::EPERM)?;
        if !state.accepts_cq(r.cq)
            || r.wq_entries == 0
            || r.wq_entries > setup.wqes
            || r.granularity > 1
            || r.log_mtu > 15
        {
            return Err(Errno::EINVAL);
        }
        let control = state
            .qps
            .get_mut(&qpn)
            .filter(|c| !c.requester_set)
            .ok_or(Errno::EINVAL)?;
        let old = control.rings.take();
        self.free_rings(old);
        let wqe = if r.granularity == 1 { 64 } else { 32 };
        let sizes = [u64::from(r.wq_entries) * wqe, u64::from(r.wq_entries) * 16]
            .map(|n| n.next_multiple_of(rdma::PAGE));
        let [swq, rwq] = self.take_rings(sizes)?;
        control.rings = Some([swq, rwq]);
        control.requester_set = true;
        control.req_cq = r.cq;
        state.use_cq(r.cq);
        let Some(qp) = self.qp(port, qpn) else {
            return Err(Errno::EINVAL);
        };
        self.fabric
            .file
            .qp(self.device, port, qpn)
            .set_req(&self.requester_context(r).words);
        {
            let mut run = qp.run.lock();
            *run = Run {
                valid: true,
                cfg: *r,
                ring: RingAt {
                    swq: swq.0,
                    rwq: rwq.0,
                    wide: r.granularity == 1,
                },
                last: r.wq_entries - 1,
                send_cq: (r.cq >= 2).then(|| CqAt::new(self.layout, port, r.cq)),
                dest: self
                    .destination(r.dest_ip, r.dest_mac)
                    .map(|(d, p)| (d, p, r.dest_qpn)),
                mtu_shift: u32::from(r.log_mtu).max(8),
                limit_us: self.retry_limit_us(r.timer),
                sent: self.sent_so_far(port, qpn),
                ..Run::default()
            };
            // Not before the lock is held by nobody else: a doorbell from now on is good.
            self.change_state(port, qpn, |low| low | qp_state::REQ);
        }
        if setup.device_mem {
            // Rings in device memory are not mapped for the host.
            return Ok(RingInfo::default());
        }
        Ok(RingInfo {
            swq_handle: swq.0,
            swq_size: swq.1 as u32,
            rwq_handle: rwq.0,
            rwq_size: rwq.1 as u32,
        })
    }

    fn sent_so_far(&self, port: u32, qpn: u32) -> [u64; 3] {
        let record = self.fabric.file.qp(self.device, port, qpn);
        [0, 1, 2].map(|which| record.sent(which).load(Relaxed))
    }

    fn requester_context(&self, r: &Requester) -> ReqCtx {
        ReqCtx::ZERO
            .with_dst_qp(r.dest_qpn)
            .with_remote_key(r.remote_key)
            .with_dst_ip(r.dest_ip)
            .with_dst_mac(mac_word(r.dest_mac))
            .with_timeout_retry_count(MAX_TIMEOUT_RETRIES)
            .with_timer_granularity(r.timer)
            .with_remote_wq_log_size(NO_REMOTE_WQ_LOG)
            .with_cq_num(r.cq.max(1) as u8)
            .with_cong_window(r.congestion_wnd)
            .with_burst_size(if r.burst == 0 { BURST_SIZE } else { r.burst })
            .with_asid(self.asid as u16)
            .with_last_idx(r.wq_entries - 1)
            .with_ack_req_freq(ACK_REQ_FREQ)
            .with_wq_type(r.wq_type)
            .with_swq_granularity(r.granularity == 1)
            .with_priority(r.priority)
            .with_cong_mode(cong_mode::WINDOW)
            .with_mtu(r.log_mtu.saturating_sub(10))
            .with_wq_base_addr(USER_WQ_BASE)
            .with_valid(true)
    }

    /// 254 periods of the timer (0: the hardware's longest), capped by the fabric's option.
    fn retry_limit_us(&self, timer: u8) -> u64 {
        let cap = match self.fabric.opts.retry_limit_ms {
            0 => DEFAULT_RETRY_MS,
            ms => ms,
        };
        let period = timer_period_us(if timer == 0 { 31 } else { u32::from(timer) });
        (u64::from(MAX_TIMEOUT_RETRIES) * period).min(u64::from(cap) * 1000)
    }

    fn take_rings(&self, sizes: [u64; 2]) -> Result<[(u64, u64); 2]> {
        let mut ranges = lock(&self.rings);
        let swq = ranges.take(sizes[0]).ok_or(Errno::ENOMEM)?;
        let Some(rwq) = ranges.take(sizes[1]) else {
            ranges.give(swq, sizes[0]);
            return Err(Errno::ENOMEM);
        };
        drop(ranges);
        let rings = [(swq, sizes[0]), (rwq, sizes[1])];
        for (at, len) in rings {
            if let Err(e) = self.rdma.file.reserve(at, len) {
                self.free_rings(Some(rings));
                return Err(e);
            }
        }
        Ok(rings)
    }

    fn free_rings(&self, rings: Option<[(u64, u64); 2]>) {
        for (at, len) in rings.into_iter().flatten() {
            self.rdma.file.punch(at, len);
            lock(&self.rings).give(at, len);
        }
    }

    /// Both halves become invalid, and every access through them has ended when this returns. The number stays.
    pub fn qp_stop(&self, port: u32, qpn: u32) -> Result<()> {
        let mut state = self.port(port)?;
        let control = state.qps.get_mut(&qpn).ok_or(Errno::EINVAL)?;
        let cqs = [
            std::mem::take(&mut control.res_cq),
            std::mem::take(&mut control.req_cq),
        ];
        control.requester_set = false;
        self.invalidate_qp(port, qpn);
        self.wait_accesses();
        self.forget_reports(port, qpn);
        if let Some(qp) = self.qp(port, qpn) {
            *lock(&qp.watch) = Watch::Nobody;
            qp.syndrome.store(0, SeqCst);
        }
        self.change_state(port, qpn, |low| low & !qp_state::ERR);
        cqs.into_iter().for_each(|cq| state.unuse_cq(cq));
        Ok(())
    }

    /// Stops and gives the number back.
    pub fn qp_free(&self, port: u32, qpn: u32) -> Result<()> {
        self.qp_stop(port, qpn)?;
        let mut state = self.port(port)?;
        let control = state.qps.remove(&qpn).ok_or(Errno::EINVAL)?;
        self.free_rings(control.rings);
        self.release_qp(port, qpn);
        Ok(())
    }

    /// No new access begins in either direction. What the requester still owed, data or completions, is dropped: a full CQ does
    /// not hold up a destroy.
    pub(super) fn invalidate_qp(&self, port: u32, qpn: u32) {
        self.change_state(port, qpn, |low| low & !(qp_state::RES | qp_state::REQ));
        if let Some(qp) = self.qp(port, qpn) {
            let mut run = qp.run.lock();
            *run = Run::default();
            qp.again.store(0, Relaxed);
            qp.silent_since.store(0, Relaxed);
            self.settle(qp, super::qp::mode::IDLE);
        }
    }

    pub(super) fn release_qp(&self, port: u32, qpn: u32) {
        self.map
            .w32(rdma::LIVE + 4 * rdma::qp_index(port, qpn))
            .store(0, SeqCst);
        let word = self
            .fabric
            .file
            .qp(self.device, port, qpn)
            .state()
            .load(Acquire);
        if qp_state::asid(word) == self.asid {
            free_qp(&self.fabric.file, self.device, port, qpn);
        }
    }

    /// Port and number of every QP that the context owns.
    pub(super) fn owned_qps(&self) -> Vec<(u32, u32)> {
        let ports = (1u32..).zip(self.ports.iter());
        ports
            .flat_map(|(port, state)| {
                lock(state)
                    .qps
                    .keys()
                    .map(move |qpn| (port, *qpn))
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    /// Syndrome of the last error; 0 for none.
    pub fn qp_syndrome(&self, port: u32, qpn: u32) -> u8 {
        self.qp(port, qpn).map_or(0, |qp| qp.syndrome.load(Acquire))
    }

    /// How many numbers of the port this context has, and the highest.
    pub fn qps_allocated(&self, port: u32) -> (u32, u32) {
        self.port(port).map_or((0, 0), |p| {
            (
                u32::try_from(p.qps.len()).unwrap_or(u32::MAX),
                p.qps.keys().next_back().copied().unwrap_or(0),
            )
        })
    }
}
