//! Completion queues: polling, arming, and the events that go into their channels.

use super::super::cq::{Arm, Cq, Moderation, Stamp};
use super::super::qp::AsyncEvent;
use super::super::types::{CqInfo, CqOptions, Errno, Result, Wc};
use super::{Engine, limits, slot_of};
use crate::native::{Nic, Raised};
use kernel_abi::verbs::event;

impl<N: Nic> Engine<N> {
    pub fn create_cq(&mut self, cqe: u32, channel: Option<i32>, cookie: u64) -> Result<CqInfo> {
        if cqe == 0 || cqe > limits::MAX_CQE {
            return Err(Errno::EINVAL);
        }
        let i = slot_of(&mut self.env.cqs, limits::MAX_CQ)?;
        self.env.cqs[i] = Some(Box::new(Cq::new(cqe, channel, cookie)));
        Ok(CqInfo {
            handle: i as u32,
            cqe,
        })
    }

    pub(in crate::verbs) fn cq(&mut self, cq: u32) -> Result<&mut Cq> {
        self.env
            .cqs
            .get_mut(cq as usize)
            .and_then(|c| c.as_deref_mut())
            .ok_or(Errno::EINVAL)
    }

    pub fn resize_cq(&mut self, cq: u32, cqe: u32) -> Result<u32> {
        let q = self.cq(cq)?;
        if cqe == 0 || cqe > limits::MAX_CQE || (cqe as usize) < q.entries.len() {
            return Err(Errno::EINVAL);
        }
        q.cqe = cqe;
        Ok(cqe)
    }

    /// Answers how many completion events the program has read or will still read: none is left unread in the channel, whose
    /// reader would follow it to a CQ that is gone.
    pub fn destroy_cq(&mut self, cq: u32) -> Result<u32> {
        let q = self.cq(cq)?;
        if q.users != 0 {
            return Err(Errno::EBUSY);
        }
        let (raised, channel, cookie) = (q.raised, q.channel, q.cookie);
        self.env.cqs[cq as usize] = None;
        let unread = match channel {
            Some(fd) if raised != 0 => self.env.nic.drain(fd, cookie),
            _ => 0,
        };
        Ok(raised.wrapping_sub(unread))
    }

    pub fn cq_options(&mut self, cq: u32, options: CqOptions) -> Result<()> {
        self.cq(cq)?.options = options;
        Ok(())
    }

    pub fn moderate_cq(&mut self, cq: u32, m: Moderation) -> Result<()> {
        let q = self.cq(cq)?;
        q.moderation = m;
        if q.due.is_some() {
            q.fire();
            self.env.raise.push(cq);
            self.settle();
        }
        Ok(())
    }

    /// One completion, for the polling functions of extended CQs.
    #[inline]
    pub fn poll_one(&mut self, cq: u32) -> Result<Option<(Wc, Stamp)>> {
        self.looks = self.looks.wrapping_add(1);
        if self.cq(cq)?.entries.is_empty() {
            self.progress();
            self.look_for_datagrams(Some(cq));
        }
        let q = self.cq(cq)?;
        match q.pop() {
            None if q.overrun => Err(Errno::EIO),
            other => Ok(other),
        }
    }

    #[inline]
    pub fn poll_cq(&mut self, cq: u32, out: &mut [Wc]) -> Result<usize> {
        self.looks = self.looks.wrapping_add(1);
        if self.cq(cq)?.entries.is_empty() {
            self.progress();
            self.look_for_datagrams(Some(cq));
        }
        let q = self.cq(cq)?;
        let n = q.entries.len().min(out.len());
        for o in &mut out[..n] {
            if let Some((wc, _)) = q.pop() {
                *o = wc;
            }
        }
        if q.overrun && n == 0 && !out.is_empty() {
            return Err(Errno::EIO);
        }
        Ok(n)
    }

    /// Arms; an entry that is there already gives its event at once.
    pub fn req_notify_cq(&mut self, cq: u32, solicited_only: bool) -> Result<()> {
        self.progress();
        self.look_for_datagrams(Some(cq));
        let q = self.cq(cq)?;
        if q.channel.is_none() {
            // As mlx5 and rxe do it: armed, and its event goes nowhere.
            return Ok(());
        }
        if q.arm != Arm::Any {
            q.arm = if solicited_only {
                Arm::Solicited
            } else {
                Arm::Any
            };
        }
        q.unannounced = q.unannounced.min(q.entries.len());
        if q.unannounced != 0 && !solicited_only {
            q.fire();
            self.env.raise.push(cq);
            self.settle();
        } else {
            self.rest();
        }
        Ok(())
    }

    /// Events whose time has come.
    pub(super) fn release_moderated(&mut self) {
        let now = crate::native::kernel::now_ns();
        let mut list = std::mem::take(&mut self.env.moderated);
        list.sort_unstable();
        list.dedup();
        for i in list {
            let Some(Some(q)) = self.env.cqs.get_mut(i as usize) else {
                continue;
            };
            match q.due {
                Some(due) if now >= due => {
                    q.fire();
                    self.env.raise.push(i);
                }
                Some(_) => {
                    self.env.moderated.push(i);
                    self.env.timers = true;
                }
                None => {}
            }
        }
    }

    /// Gives the channels their events and reports overruns.
    pub fn settle(&mut self) {
        if !self.env.revoke.is_empty() {
            self.spread_revocations();
        }
        while let Some(i) = self.env.raise.pop() {
            let Some(Some(q)) = self.env.cqs.get_mut(i as usize) else {
                continue;
            };
            if q.overrun && !q.overrun_told {
                q.overrun_told = true;
                self.env.events.push(AsyncEvent {
                    element: q.cookie,
                    event: event::CQ_ERR,
                });
            }
            if std::mem::take(&mut q.raise)
                && let Some(fd) = q.channel
            {
                let cookie = q.cookie;
                match self.env.nic.raise(fd, cookie) {
                    Raised::Yes => q.raised = q.raised.wrapping_add(1),
                    Raised::Full => {
                        // The program reads too slowly: again with the next timers.
                        q.due = Some(0);
                        self.env.moderated.push(i);
                        self.env.timers = true;
                    }
                    Raised::Lost => {}
                }
            }
        }
    }
}
