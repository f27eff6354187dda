//! A queue pair, and the tables of the context that the protocol works on.

use std::collections::HashMap;

use super::cq::Cq;
use super::mr::MrTable;
use super::queue::{Rq, Sq, SqEntry, Stage};
use super::srq::{Source, Srq};
use super::types::{QpAttr, QpCap, Sge, Wc};
use crate::native::{NativeQp, Nic};
use crate::rc::conn::Conn;
use crate::rc::msg;
use crate::ud::port::Port;
use kernel_abi::ext::note;
use kernel_abi::verbs::{event, qps, qpt, send_flag, wc_opcode, wc_status, wr_opcode};

/// An asynchronous event for the program: IBV_EVENT_* and its element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsyncEvent {
    pub element: u64,
    pub event: u32,
}

/// A protection domain: a number, and how many objects are in it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pd {
    pub users: u32,
}

/// Everything of the context but its QPs.
pub struct Env<N: Nic> {
    pub nic: N,
    pub cqs: Vec<Option<Box<Cq>>>,
    pub mrs: MrTable,
    pub pds: Vec<Option<Pd>>,
    pub srqs: Vec<Option<Box<Srq>>>,
    /// Upper bits of the newest SRQ number.
    pub srq_generation: u32,
    pub events: Vec<AsyncEvent>,
    /// CQs that owe their channel an event, or have overrun.
    pub raise: Vec<u32>,
    /// An RNR timer runs somewhere.
    pub timers: bool,
    /// MRs whose last revocation was answered.
    pub revoked: Vec<u32>,
    /// CQs whose event is held back, by moderation or for want of room in the channel.
    pub moderated: Vec<u32>,
    /// Events that the program has been given, by element.
    pub told: HashMap<u64, u32>,
    /// Peers that must forget a key: (QP, key). `NONE` as QP: who has not forgotten it by now loses the connection.
    pub revoke: Vec<(u32, u32)>,
}

impl<N: Nic> Env<N> {
    #[inline]
    pub fn complete(&mut self, cq: u32, wc: Wc, solicited: bool) {
        if let Some(Some(q)) = self.cqs.get_mut(cq as usize) {
            q.push(wc, solicited);
            if q.raise || q.overrun {
                self.raise.push(cq);
            } else if q.due.is_some() {
                self.moderated.push(cq);
                self.timers = true;
            }
        }
    }

    /// The peer of QP `qp` has forgotten `key`.
    pub fn revocation_done(&mut self, key: u32) {
        if let Ok(mr) = self.mrs.get_mut(key >> 8)
            && mr.key == key
        {
            mr.revoking = mr.revoking.saturating_sub(1);
        }
    }
}

pub struct Qp {
    pub handle: u32,
    /// Element of its asynchronous events.
    pub cookie: u64,
    pub pd: u32,
    pub send_cq: u32,
    pub recv_cq: u32,
    pub cap: QpCap,
    pub qp_type: u32,
    pub sq_sig_all: bool,
    pub state: u32,
    pub attr: QpAttr,
    pub native: NativeQp,
    pub sq: Sq,
    /// The receive queue; with a `source`, what messages have taken from there.
    pub rq: Rq,
    pub source: Option<Source>,
    /// SRQ that will wake this QP: a message waits for its next receive.
    pub waits_at: Option<u32>,
    /// Further handles on an XRC receive QP.
    pub openers: Vec<u64>,
    pub conn: Option<Box<Conn>>,
    /// UD: the socket.
    pub ud: Option<Box<Port>>,
    /// Something of it was completed natively: look, even if the peer is quiet.
    pub nudged: bool,
    /// The program wants to hear when the send queue has drained (IBTA 10.3.1.6).
    pub tell_drained: bool,
    /// In the list of QPs that every poll looks at.
    pub active: bool,
    /// Looks without news since the last news.
    pub idle: u32,
    /// UC: when it last came back after its peer had gone (ns).
    pub revived: u64,
    /// Nothing more is issued: an entry has failed and the error state follows.
    pub halted: bool,
    /// The connection ended while the program was on its way from RTR to RTS.
    pub lost_in_rtr: bool,
}

impl Qp {
    pub fn number(&self) -> u32 {
        self.native.number()
    }

    /// An asynchronous event, for every handle on the QP (as the kernel gives it to all that have opened an XRC receive QP).
    pub fn tell<N: Nic>(&self, env: &mut Env<N>, event: u32) {
        let all = [self.cookie];
        for &element in all.iter().chain(&self.openers) {
            env.events.push(AsyncEvent { element, event });
        }
    }

    /// The oldest request that is not issued has begun all the same: its data is on its way, or a key of it is being asked for.
    pub fn begun(&self) -> bool {
        self.sq.issued != self.sq.tail && self.sq.at(self.sq.issued).stage != Stage::Queued
    }

    /// Nothing that was begun is under way.
    pub fn is_drained(&self) -> bool {
        self.sq.head == self.sq.issued && !self.begun()
    }

    /// The event that a program has asked for, once nothing of the send queue is under way.
    pub fn drained(&mut self) -> Option<AsyncEvent> {
        let due = self.tell_drained && self.state == qps::SQD && self.is_drained();
        due.then(|| {
            self.tell_drained = false;
            AsyncEvent {
                element: self.cookie,
                event: event::SQ_DRAINED,
            }
        })
    }

    /// Memory behind `key` is read or written for this connection now.
    pub fn uses(&self, key: u32) -> bool {
        if !self.native.connected {
            return false;
        }
        let mut i = self.sq.head;
        while i != self.sq.issued {
            let e = self.sq.at(i);
            // A copied SEND needs its memory no more; payload of a large one and data before an IMM may still be on their way.
            let reads = match e.stage {
                Stage::Native | Stage::Rendezvous | Stage::Answer => true,
                Stage::Ack => {
                    e.len > msg::EAGER_MAX as u64 || e.opcode == wr_opcode::RDMA_WRITE_WITH_IMM
                }
                _ => false,
            };
            let named = |s: &Sge| s.lkey == key && s.length != 0;
            if reads && self.sq.sges(i).iter().any(named) {
                return true;
            }
            i = i.wrapping_add(1);
        }
        // Receives whose addresses a peer has been given.
        self.conn.as_ref().is_some_and(|c| {
            c.inbound
                .iter()
                .filter(|x| !x.finished)
                .any(|x| self.rq.sges(x.receive).iter().any(|s| s.lkey == key))
        })
    }

    fn send_wc(&self, e: &SqEntry, status: u32) -> Wc {
        let opcode = match e.opcode {
            wr_opcode::RDMA_WRITE | wr_opcode::RDMA_WRITE_WITH_IMM => wc_opcode::RDMA_WRITE,
            wr_opcode::RDMA_READ => wc_opcode::RDMA_READ,
            wr_opcode::ATOMIC_CMP_AND_SWP => wc_opcode::COMP_SWAP,
            wr_opcode::ATOMIC_FETCH_AND_ADD => wc_opcode::FETCH_ADD,
            wr_opcode::ATOMIC_WRITE => wc_opcode::ATOMIC_WRITE,
            wr_opcode::LOCAL_INV => wc_opcode::LOCAL_INV,
            wr_opcode::BIND_MW => wc_opcode::BIND_MW,
            _ => wc_opcode::SEND,
        };
        let byte_len = if status == wc_status::SUCCESS {
            e.len as u32
        } else {
            0
        };
        Wc {
            wr_id: e.wr_id,
            status,
            opcode,
            byte_len,
            qp_num: self.number(),
            ..Wc::default()
        }
    }

    /// Reports the send at the head of the queue and steps on.
    #[inline]
    pub fn complete_send<N: Nic>(&mut self, env: &mut Env<N>, status: u32) {
        let e = *self.sq.at(self.sq.head);
        if self.sq_sig_all || e.flags & send_flag::SIGNALED != 0 || status != wc_status::SUCCESS {
            let wc = self.send_wc(&e, status);
            env.complete(self.send_cq, wc, false);
        }
        let head = self.sq.head;
        self.sq.at_mut(head).stage = Stage::Done;
        self.sq.head = head.wrapping_add(1);
    }

    /// Reports the receives at the head of the queue that are done, in order.
    #[inline]
    pub fn complete_receives<N: Nic>(&mut self, env: &mut Env<N>) {
        while self.rq.head != self.rq.next {
            let e = *self.rq.at(self.rq.head);
            if !e.done {
                break;
            }
            let cq = self.rq.home(self.rq.head).map_or(self.recv_cq, |h| h.cq);
            env.complete(cq, e.wc, e.solicited);
            self.rq.head = self.rq.head.wrapping_add(1);
        }
    }

    /// Everything that is left in both queues is flushed (IBTA 10.3.1.5): the first send keeps its status if it has failed, the
    /// first receives their success.
    pub fn flush<N: Nic>(&mut self, env: &mut Env<N>) {
        if self.state == qps::SQE {
            return self.flush_sends(env);
        }
        self.complete_receives(env);
        self.flush_sends(env);
        self.flush_receives(env);
    }

    pub fn flush_sends<N: Nic>(&mut self, env: &mut Env<N>) {
        // Behind the first that did not succeed there are only flushed ones, also those that failed here while it was on its way.
        let mut first = true;
        while self.sq.head != self.sq.tail {
            let e = *self.sq.at(self.sq.head);
            if self.sq.head == self.sq.issued {
                self.sq.issued = self.sq.issued.wrapping_add(1);
            }
            // What failed behind something that did not complete is flushed like it.
            let status = if e.stage == Stage::Failed && first {
                e.status
            } else {
                wc_status::WR_FLUSH_ERR
            };
            first = false;
            self.complete_send(env, status);
        }
    }

    pub fn flush_receives<N: Nic>(&mut self, env: &mut Env<N>) {
        // A message behind one that did not arrive was not acknowledged either; on UC nobody asks.
        let mut missing = false;
        while self.rq.head != self.rq.tail {
            let e = *self.rq.at(self.rq.head);
            missing |= !e.done;
            let in_order = !missing || self.qp_type == qpt::UC || e.wc.status != wc_status::SUCCESS;
            let wc = if e.done && in_order {
                e.wc
            } else {
                Wc {
                    wr_id: e.wr_id,
                    status: wc_status::WR_FLUSH_ERR,
                    opcode: wc_opcode::RECV,
                    qp_num: self.number(),
                    ..Wc::default()
                }
            };
            let cq = self.rq.home(self.rq.head).map_or(self.recv_cq, |h| h.cq);
            env.complete(cq, wc, true);
            self.rq.head = self.rq.head.wrapping_add(1);
        }
        self.rq.next = self.rq.tail;
    }

    /// The native connection ends: both halves stop before anything else is told to the program (hazard 2).
    pub fn stop<N: Nic>(&mut self, env: &mut Env<N>) {
        if self.native.connected
            && let Err(e) = env.nic.qp_stop(&mut self.native)
        {
            log::warn!(
                "QP {:#x}: stopping the native connection: {e}",
                self.number()
            );
        }
        if let Some(port) = &mut self.ud {
            port.close_frames(&mut env.nic, &self.native);
        }
        env.forget_waiting(self);
        if let Some(conn) = self.conn.take() {
            // Who waits for this peer to forget a key waits no longer: it cannot use it any more.
            for key in conn.revoke_queue.iter().chain(conn.revoking.iter()) {
                env.revocation_done(*key);
            }
            env.mrs.forget_resolver(self.handle);
        }
    }

    /// For those who look at the device.
    pub fn note_state<N: Nic>(&self, env: &Env<N>) {
        let datagrams = self.ud.as_ref().map_or(0, |p| p.noted());
        let word = note::type_state(self.qp_type, self.state) | datagrams;
        env.nic.note(&self.native, note::TYPE_STATE, word);
    }

    /// To the error state: stop, then flush.
    pub fn enter_error<N: Nic>(&mut self, env: &mut Env<N>) {
        self.stop(env);
        self.state = qps::ERR;
        self.attr.qp_state = qps::ERR;
        self.note_state(env);
        self.halted = true;
        self.flush(env);
        if matches!(self.source, Some(Source::Srq(_))) {
            // No message takes a receive from the SRQ any more, and all that were taken are reported (IBTA 11.6.3.1).
            self.tell(env, event::QP_LAST_WQE_REACHED);
        }
    }
}
