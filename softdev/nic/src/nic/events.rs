//! Errors of QPs, found here or by peers, and the death of peers.

use super::context::NicContext;
use super::cq::CqAt;
use super::qp::{Qp, Watch};
use super::rdma_layout::{self as rdma, head};
use crate::NicEvent;
use crate::fabric::Link;
use crate::fabric::attach::lock;
use crate::shm::fabric_file::{MAX_PORTS, MAX_QPS, qp_state};
use kernel_abi::ext::PEER_DIED;
use std::sync::Arc;
use std::sync::atomic::Ordering::*;

impl NicContext {
    /// Puts a QP into the error state: both halves invalid, one event, however many find an error.
    pub(super) fn fail(&self, qp: &Qp, syndrome: u8) {
        if qp
            .syndrome
            .compare_exchange(0, syndrome.max(1), SeqCst, SeqCst)
            .is_err()
        {
            return;
        }
        let record = self.fabric.file.qp(self.device, qp.port, qp.id);
        if qp_state::asid(record.state().load(Acquire)) == self.asid {
            record.syndrome().store(u32::from(syndrome), Relaxed);
        }
        self.change_state(qp.port, qp.id, |low| {
            (low & !(qp_state::RES | qp_state::REQ)) | qp_state::ERR
        });
        log::debug!(
            "QP {} of port {}: {}",
            qp.id,
            qp.port,
            kernel_abi::ext::syndrome_text(syndrome)
        );
        self.sink.event(NicEvent::QpErr {
            port: qp.port,
            qpn: qp.id,
            syndrome,
        });
        if self.sink.refill() {
            self.fabric.wake_thread();
        }
    }

    /// Takes in what peers have found out about QPs of this context. On the device's thread.
    pub(crate) fn serve_inbox(&self) {
        if self.map.w32(head::INBOX).load(Relaxed) == 0 || !self.usable() {
            return;
        }
        let ports = self.map.w32(head::INBOX).swap(0);
        for port in (1..=MAX_PORTS).filter(|p| ports >> p & 1 != 0) {
            for group in (0..MAX_QPS).step_by(64) {
                let first = rdma::qp_index(port, group);
                let word = self.map.w64(rdma::SYNDROME_BITS + first / 64 * 8);
                if word.load(Relaxed) == 0 {
                    continue;
                }
                let bits = word.swap(0);
                for bit in (0..64).filter(|bit| bits >> bit & 1 != 0) {
                    self.take_report(port, group + bit);
                }
            }
        }
    }

    fn take_report(&self, port: u32, qpn: u32) {
        let _taking = lock(&self.reports);
        let found = self
            .map
            .w32(rdma::SYNDROME + 4 * rdma::qp_index(port, qpn))
            .swap(0);
        if found == 0 {
            return;
        }
        // Only a QP that receives can have been written to; anything else is a late word about an earlier one.
        let state = self
            .fabric
            .file
            .qp(self.device, port, qpn)
            .state()
            .load(Acquire);
        if let (Some(qp), true) = (
            self.qp(port, qpn),
            qp_state::asid(state) == self.asid && state & qp_state::RES != 0,
        ) {
            self.fail(qp, found as u8);
        }
    }

    /// Throws away what peers found out about the connection that ended, which is not the next one's business. They have all left.
    pub(super) fn forget_reports(&self, port: u32, qpn: u32) {
        let _none_half_taken = lock(&self.reports);
        self.map
            .w32(rdma::SYNDROME + 4 * rdma::qp_index(port, qpn))
            .store(0, SeqCst);
    }

    /// Whom to watch for the QP at the other end.
    pub(super) fn try_watch(&self, device: u32, port: u32, qpn: u32) -> Watch {
        // A number that was never used has no record to look at.
        if qpn >= self.fabric.file.port(device, port).qp_high().load(Acquire) {
            return Watch::Wanted(device, port, qpn);
        }
        let record = self.fabric.file.qp(device, port, qpn);
        let state = record.state().load(Acquire);
        let remote = match qp_state::asid(state) {
            0 => None,
            asid => self.fabric.remote(device, asid).ok(),
        };
        match remote {
            Some(remote) => {
                let generation = record.generation().load(Acquire);
                if record.state().load(Acquire) == state
                    || remote.live_generation(port, qpn) == generation
                {
                    return Watch::Peer {
                        remote,
                        port,
                        qpn,
                        generation,
                    };
                }
                Watch::Wanted(device, port, qpn)
            }
            None => Watch::Wanted(device, port, qpn),
        }
    }

    /// Looks again for peers that were not there; whether some are still missing.
    pub(crate) fn retry_watches(&self) -> bool {
        let mut missing = false;
        for qp in self.all_qps() {
            let mut watch = lock(&qp.watch);
            if let Watch::Wanted(device, port, qpn) = *watch {
                *watch = self.try_watch(device, port, qpn);
                missing |= matches!(*watch, Watch::Wanted(..));
            }
        }
        missing
    }

    /// A process ended. Copies are synchronous, so all that it sent has arrived: if it was killed, its QPs' peers hear of it
    /// now, once.
    pub(crate) fn on_death(&self, link: &Arc<Link>, orderly: bool) {
        if !self.usable() {
            return;
        }
        for (port, state) in (1u32..).zip(self.ports.iter()) {
            let cqs: Vec<u32> = {
                let state = lock(state);
                (2..rdma::CQS).filter(|cq| state.accepts_cq(*cq)).collect()
            };
            cqs.into_iter()
                .for_each(|cq| CqAt::new(self.layout, port, cq).repair(&self.map));
        }
        for qp in self.all_qps() {
            let mut watch = lock(&qp.watch);
            if let Watch::Peer {
                remote,
                port,
                qpn,
                generation,
            } = &*watch
                && Arc::ptr_eq(&remote.link, link)
            {
                // An orderly close, or a QP that its owner destroyed before: requesters get no answer, receivers hear nothing.
                let died = !orderly
                    && !remote.was_closed()
                    && remote.live_generation(*port, *qpn) == *generation;
                *watch = Watch::Nobody;
                // Under the lock that a stop takes too: the connection that comes after it is another one.
                if died {
                    self.fail(qp, PEER_DIED);
                }
            }
        }
        self.kick_event_word();
    }
}
