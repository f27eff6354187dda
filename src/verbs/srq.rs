//! Shared receive queues. A receive that a message takes moves into the QP's own list (`Qp::rq`), where it completes in the
//! order of that QP's messages, whatever the other QPs do; its place in the shared ring is free at once.

use std::collections::VecDeque;

use super::engine::{Engine, limits, slot_of};
use super::qp::{AsyncEvent, Env, Qp};
use super::queue::{Home, Rq};
use super::types::{Errno, Result, Sge, SrqAttr, SrqInfo, SrqInit};
use crate::native::Nic;
use crate::rc;
use kernel_abi::verbs::event;

/// Receives that messages of one QP may have taken and not completed: rendezvous under way, and what waits behind them.
pub const TAKEN: u32 = 64;

/// "No such object" in fields that hold a handle.
pub const NONE: u32 = u32::MAX;

/// Where a QP without a receive queue of its own gets its receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// One SRQ.
    Srq(u32),
    /// XRC: the SRQ of this domain that the message names.
    Domain(u32),
}

#[derive(Debug)]
pub struct Srq {
    /// 24 bits, as XRC messages name it.
    pub number: u32,
    /// Element of its asynchronous events.
    pub cookie: u64,
    pub pd: u32,
    /// XRC: domain and CQ.
    pub xrc: Option<(u32, u32)>,
    /// Below so many receives the limit event is due; 0: not armed.
    pub limit: u32,
    /// QPs that take from it.
    pub users: u32,
    /// QPs with a message that waits for a receive, oldest first.
    pub waiting: VecDeque<u32>,
    /// Its `head` and `next` are the same.
    pub rq: Rq,
}

impl Srq {
    pub fn posted(&self) -> u32 {
        self.rq.tail.wrapping_sub(self.rq.next)
    }

    /// The limit event comes once, when the count is below an armed limit (IBTA 11.5.3.3).
    fn check_limit(&mut self, events: &mut Vec<AsyncEvent>) {
        if self.limit != 0 && self.posted() < self.limit {
            self.limit = 0;
            events.push(AsyncEvent {
                element: self.cookie,
                event: event::SRQ_LIMIT_REACHED,
            });
        }
    }
}

/// Result of asking for a shared receive.
pub enum Taken {
    /// It is now receive `0` of the QP's own list.
    Yes(u32),
    /// The QP has taken so many that it must complete some first.
    Later,
    Empty,
    /// No such SRQ (XRC).
    Unknown,
}

impl<N: Nic> Env<N> {
    pub fn srq(&mut self, srq: u32) -> Result<&mut Srq> {
        self.srqs
            .get_mut(srq as usize)
            .and_then(|s| s.as_deref_mut())
            .ok_or(Errno::EINVAL)
    }

    /// The SRQ of an XRC domain by number.
    pub fn numbered_srq(&mut self, domain: u32, number: u32) -> Option<u32> {
        let handle = number & (limits::MAX_SRQ as u32 - 1);
        let srq = self.srq(handle).ok()?;
        (srq.number == number && srq.xrc.is_some_and(|(d, _)| d == domain)).then_some(handle)
    }

    /// Moves the oldest shared receive into the list of `qp`; `number` is the SRQ that an XRC message names. When there is none, the
    /// QP is remembered and hears of the next one.
    pub fn take_shared(&mut self, qp: &mut Qp, number: u32) -> Taken {
        let handle = match qp.source {
            Some(Source::Srq(h)) => h,
            Some(Source::Domain(d)) => match self.numbered_srq(d, number) {
                Some(h) => h,
                None => return Taken::Unknown,
            },
            None => return Taken::Unknown,
        };
        if qp.rq.is_full() {
            return Taken::Later;
        }
        let Some(Some(srq)) = self.srqs.get_mut(handle as usize) else {
            return Taken::Unknown;
        };
        let Some(i) = srq.rq.take() else {
            if qp.waits_at != Some(handle) {
                if !srq.waiting.contains(&qp.handle) {
                    srq.waiting.push_back(qp.handle);
                }
                qp.waits_at = Some(handle);
            }
            return Taken::Empty;
        };
        let home = Home {
            srq: handle,
            pd: srq.pd,
            cq: srq.xrc.map_or(qp.recv_cq, |(_, cq)| cq),
        };
        let r = qp.rq.adopt(srq.rq.at(i).wr_id, srq.rq.sges(i), home);
        srq.rq.head = srq.rq.next;
        srq.check_limit(&mut self.events);
        Taken::Yes(r)
    }

    /// A QP stops: nothing wakes it any more.
    pub fn forget_waiting(&mut self, qp: &mut Qp) {
        if let Some(h) = qp.waits_at.take()
            && let Ok(srq) = self.srq(h)
        {
            srq.waiting.retain(|&q| q != qp.handle);
        }
    }
}

impl<N: Nic> Engine<N> {
    pub fn create_srq(&mut self, init: &SrqInit) -> Result<SrqInfo> {
        if init.max_wr == 0 || init.max_wr > limits::MAX_QP_WR || init.max_sge > limits::MAX_SGE {
            return Err(Errno::EINVAL);
        }
        if let Some((domain, cq)) = init.xrc {
            self.xrcd(domain)?;
            self.cq(cq)?;
        }
        self.use_pd(init.pd, true)?;
        let i = match slot_of(&mut self.env.srqs, limits::MAX_SRQ) {
            Ok(i) => i,
            Err(e) => {
                self.use_pd(init.pd, false)?;
                return Err(e);
            }
        };
        if let Some((domain, cq)) = init.xrc {
            self.xrcd(domain)?.users += 1;
            self.cq(cq)?.users += 1;
        }
        // The upper bits differ from the last owner's of the slot.
        self.env.srq_generation = (self.env.srq_generation + 1) & 0x7ff;
        let number = (self.env.srq_generation.max(1) << 13) | i as u32;
        self.env.srqs[i] = Some(Box::new(Srq {
            number,
            cookie: init.cookie,
            pd: init.pd,
            xrc: init.xrc,
            limit: 0,
            users: 0,
            waiting: VecDeque::new(),
            rq: Rq::new(init.max_wr, init.max_sge),
        }));
        Ok(SrqInfo {
            handle: i as u32,
            number,
            max_wr: init.max_wr,
            max_sge: init.max_sge,
        })
    }

    /// Sets the limit, the size, or both.
    pub fn modify_srq(&mut self, srq: u32, max_wr: Option<u32>, limit: Option<u32>) -> Result<()> {
        // What messages have taken by now no longer counts.
        self.progress();
        let s = self
            .env
            .srqs
            .get_mut(srq as usize)
            .and_then(|s| s.as_deref_mut())
            .ok_or(Errno::EINVAL)?;
        let size = max_wr.unwrap_or(s.rq.limit());
        if size == 0
            || size > limits::MAX_QP_WR
            || size < s.posted()
            || limit.unwrap_or(s.limit) > size
        {
            return Err(Errno::EINVAL);
        }
        if max_wr.is_some() {
            s.rq = s.rq.resized(size);
        }
        if let Some(l) = limit {
            s.limit = l;
            s.check_limit(&mut self.env.events);
        }
        Ok(())
    }

    pub fn query_srq(&mut self, srq: u32) -> Result<SrqAttr> {
        self.progress();
        let s = self.env.srq(srq)?;
        Ok(SrqAttr {
            max_wr: s.rq.limit(),
            max_sge: s.rq.max_sge(),
            srq_limit: s.limit,
        })
    }

    pub fn destroy_srq(&mut self, srq: u32) -> Result<()> {
        let s = self.env.srq(srq)?;
        if s.users != 0 {
            return Err(Errno::EBUSY);
        }
        let (pd, xrc, number) = (s.pd, s.xrc, s.number);
        self.env.srqs[srq as usize] = None;
        if let Some((domain, cq)) = xrc {
            self.xrcd(domain)?.users -= 1;
            self.cq(cq)?.users -= 1;
            self.abandon_srq(srq, number);
        }
        self.use_pd(pd, false)
    }

    /// Receives of an XRC SRQ that messages have taken complete nowhere; messages that wait for one are refused.
    fn abandon_srq(&mut self, srq: u32, number: u32) {
        let mut waiting = Vec::new();
        for qp in self.qps.iter_mut().flatten() {
            if matches!(qp.source, Some(Source::Domain(_))) {
                qp.rq.abandon(srq);
                if qp.conn.as_ref().is_some_and(|c| c.srqn == number) {
                    qp.pd = NONE;
                }
            }
            if qp.waits_at == Some(srq) {
                qp.waits_at = None;
                waiting.push(qp.handle);
            }
        }
        for h in waiting {
            self.activate(h);
        }
        self.progress();
    }

    /// True when a message waits for it: `kick_srq` then.
    #[inline]
    pub fn post_srq_recv(&mut self, srq: u32, wr_id: u64, sges: &[Sge]) -> Result<bool> {
        let s = self.env.srq(srq)?;
        s.rq.push(wr_id, sges)?;
        let wanted = !s.waiting.is_empty();
        self.env.provide_all(sges);
        Ok(wanted)
    }

    /// After a list of receives: the messages that waited go on, as far as the receives reach.
    pub fn kick_srq(&mut self, srq: u32) {
        let n = self.env.srq(srq).map_or(0, |s| s.waiting.len());
        for _ in 0..n {
            let Ok(s) = self.env.srq(srq) else { break };
            if s.posted() == 0 {
                break;
            }
            let Some(h) = s.waiting.pop_front() else {
                break;
            };
            self.activate(h);
            if let Some(Some(qp)) = self.qps.get_mut(h as usize)
                && qp.ud.is_none()
            {
                qp.waits_at = None;
                rc::pump(qp, &mut self.env);
            } else {
                self.feed_datagram(h);
            }
        }
        self.settle();
    }
}
