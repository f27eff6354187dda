//! Progress: what has arrived, what turns cold, timers, and what the device says.

use super::super::cq::Arm;
use super::super::qp::{AsyncEvent, Env, Qp};
use super::super::queue::Stage;
use super::Engine;
use crate::native::{NativeEvent, Nic};
use crate::rc::msg::Hello;
use crate::rc::{self, requester};
use kernel_abi::ext::PEER_DIED;
use kernel_abi::gaudi2::syndrome;
use kernel_abi::verbs::{event, qps, wc_status};

/// A UC QP does not come back more often than this.
const REVIVAL_NS: u64 = 1_000_000_000;
/// QPs that a poll looks at before idle ones are sent to sleep early.
const CROWDED: usize = 32;
/// Looks without news after which a QP turns cold.
const IDLE_LOOKS: u32 = 100_000;
const IDLE_LOOKS_CROWDED: u32 = 256;
/// Looks before a failed QP is given up: each takes as much as fits in a ring.
const LAST_LOOKS: u32 = 64;

impl<N: Nic> Engine<N> {
    #[inline]
    pub(in crate::verbs) fn activate(&mut self, handle: u32) {
        if let Some(Some(qp)) = self.qps.get_mut(handle as usize) {
            qp.idle = 0;
            if let Some(c) = qp.conn.as_mut() {
                c.cold = false;
                // Perhaps this is why we are woken.
                self.env.timers |= c.newcomer().is_some();
                if !qp.active {
                    qp.active = true;
                    self.active.push(handle);
                }
            }
        }
    }

    /// QPs under watch.
    pub fn watched(&self) -> usize {
        self.active.len()
    }

    /// Something must be looked at from time to time.
    pub(in crate::verbs) fn needs_agent(&self) -> bool {
        self.watched() != 0 || self.ud.stalled || self.ud.restless
    }

    /// Looks at everything that can have changed. True when something had.
    #[inline]
    pub fn progress(&mut self) -> bool {
        let mut news = self.take_completions();
        let patience = if self.active.len() > CROWDED {
            IDLE_LOOKS_CROWDED
        } else {
            IDLE_LOOKS
        };
        let mut k = 0;
        while k < self.active.len() {
            let h = self.active[k];
            let keep = self.look_at(h, patience, &mut news);
            if keep {
                k += 1;
            } else {
                self.active.swap_remove(k);
            }
        }
        if !self.env.raise.is_empty() || !self.env.revoke.is_empty() {
            self.settle();
        }
        if self.env.timers {
            self.run_timers();
        }
        news
    }

    /// Looks at one QP only, for what concerns that one: with thousands, a look at all of them for each would never end.
    pub(super) fn look(&mut self, handle: u32) -> bool {
        let mut news = self.take_completions();
        if let Some(Some(qp)) = self.qps.get_mut(handle as usize) {
            news |= rc::pump(qp, &mut self.env);
        }
        if !self.env.raise.is_empty() || !self.env.revoke.is_empty() {
            self.settle();
        }
        news
    }

    /// Native completions.
    #[inline]
    pub(super) fn take_completions(&mut self) -> bool {
        let mut news = false;
        for _ in 0..256 {
            let Some(c) = self.env.nic.poll_responder() else {
                break;
            };
            news = true;
            if let Some(h) = self.native_owner(c.port, c.id) {
                self.activate(h);
            }
        }
        for _ in 0..256 {
            let Some(c) = self.env.nic.poll_requester() else {
                break;
            };
            news = true;
            if let Some(h) = self.native_owner(c.port, c.id)
                && let Some(Some(qp)) = self.qps.get_mut(h as usize)
            {
                // A number that is not connected has only completions of an earlier life left.
                if qp.native.connected {
                    qp.native.retire(c.slot);
                    qp.nudged = true;
                }
                if !qp.active {
                    rc::pump(qp, &mut self.env);
                }
            }
        }
        news
    }

    /// One active QP; false when it left the list.
    #[inline]
    fn look_at(&mut self, h: u32, patience: u32, news: &mut bool) -> bool {
        let Some(Some(qp)) = self.qps.get_mut(h as usize) else {
            return false;
        };
        if rc::pump(qp, &mut self.env) {
            qp.idle = 0;
            *news = true;
        } else {
            qp.idle += 1;
        }
        if qp.idle < patience {
            return true;
        }
        !cool(qp, &mut self.env)
    }

    /// Sends every idle QP to sleep: from now on the device notifies. For the agent, when the program does not poll.
    pub fn cool_down(&mut self) {
        let mut k = 0;
        while k < self.active.len() {
            let h = self.active[k];
            let left = match self.qps.get_mut(h as usize) {
                Some(Some(qp)) => cool(qp, &mut self.env),
                _ => true,
            };
            if left {
                self.active.swap_remove(k);
            } else {
                k += 1;
            }
        }
        self.settle();
    }

    /// The program is about to sleep on a channel: from now on whatever comes must wake the agent.
    pub fn rest(&mut self) {
        for _ in 0..4 {
            self.cool_down();
            if self.active.iter().all(|&h| self.is_cold(h)) {
                break;
            }
        }
        if self.env.nic.features().cq_notify {
            let mut there = self.env.nic.arm();
            for _ in 0..2 {
                if !there {
                    break;
                }
                self.progress();
                self.look_for_frames();
                there = self.env.nic.arm();
            }
            self.ud.restless = there;
        }
    }

    fn is_cold(&self, h: u32) -> bool {
        let qp = self.qps.get(h as usize).and_then(Option::as_ref);
        qp.and_then(|q| q.conn.as_ref()).is_none_or(|c| c.rests())
    }

    /// The program has armed a CQ and may be asleep.
    pub fn someone_sleeps(&self) -> bool {
        self.env.cqs.iter().flatten().any(|c| c.arm != Arm::None)
    }

    /// Timers of all watched QPs.
    pub fn run_timers(&mut self) {
        self.env.timers = false;
        let now = self.env.nic.now();
        let mut returning = Vec::new();
        for k in 0..self.active.len() {
            let h = self.active[k];
            if let Some(Some(qp)) = self.qps.get_mut(h as usize)
                && let Some(mut c) = qp.conn.take()
            {
                requester::timers(qp, &mut c, &mut self.env, now);
                let dead = c.dead;
                if let Some(hello) = c.successor {
                    returning.push((h, hello, c.lines));
                }
                qp.conn = Some(c);
                if dead {
                    qp.connection_over(&mut self.env);
                }
            }
        }
        for (h, hello, lines) in returning {
            self.follow(h, hello, lines, now);
        }
        if !self.env.moderated.is_empty() {
            self.release_moderated();
        }
        if !self.env.raise.is_empty() {
            self.settle();
        }
    }

    /// What the device had to say about QPs and ports.
    pub fn native_events(&mut self) {
        while let Some(ev) = self.held.pop_front().or_else(|| self.env.nic.poll_event()) {
            match ev {
                NativeEvent::QpError { cookie, syndrome } => {
                    self.native_error(cookie as u32, syndrome)
                }
                NativeEvent::Port { port, up } => {
                    let event = if up {
                        event::PORT_ACTIVE
                    } else {
                        event::PORT_ERR
                    };
                    self.env.events.push(AsyncEvent {
                        element: u64::from(port),
                        event,
                    });
                }
                NativeEvent::Gids { port } => {
                    self.readdress_datagrams(port);
                    self.env.events.push(AsyncEvent {
                        element: u64::from(port),
                        event: event::GID_CHANGE,
                    });
                }
                NativeEvent::Fatal => {
                    self.broken = true;
                    self.env.events.push(AsyncEvent {
                        element: 0,
                        event: event::DEVICE_FATAL,
                    });
                }
            }
        }
        self.settle();
    }

    /// Before a QP is connected again: what the kernel still has to say about its last connection is not about the next one. The rest waits for
    /// `native_events`.
    pub(super) fn forget_native_events(&mut self, handle: u32) {
        while let Some(ev) = self.env.nic.poll_event() {
            self.held.push_back(ev);
        }
        self.forget_held_events(handle);
    }

    /// The same for events that were read before.
    pub(super) fn forget_held_events(&mut self, handle: u32) {
        let cookie = u64::from(handle);
        let about =
            |ev: &NativeEvent| matches!(ev, NativeEvent::QpError { cookie: c, .. } if *c == cookie);
        self.held.retain(|ev| !about(ev));
    }

    fn native_error(&mut self, handle: u32, code: u8) {
        // Everything that arrived and all that was done before is told first (hazard 29); a peer that never stops sending does not hold us.
        for _ in 0..LAST_LOOKS {
            if !self.look(handle) {
                break;
            }
        }
        let Some(Some(qp)) = self.qps.get_mut(handle as usize) else {
            return;
        };
        if rc::uc::is(qp) {
            log::debug!("QP {:#x}: native error {code:#x}, hidden", qp.number());
            if qp.conn.is_some() {
                qp.fall_silent(&mut self.env);
                self.revive(handle);
            }
            return;
        }
        let Some(mut c) = qp.conn.take() else { return };
        let status = match code {
            syndrome::TIMER_RETRY | PEER_DIED => wc_status::RETRY_EXC_ERR,
            // The key was right, we checked it: the memory behind it is gone (hazard 12).
            syndrome::REQ_RX_RETRY => wc_status::REM_OP_ERR,
            syndrome::RX_RKEY => wc_status::REM_ACCESS_ERR,
            0x41..=0x46 | 0x80..=0x9f => wc_status::LOC_QP_OP_ERR,
            0xf0 => wc_status::LOC_PROT_ERR,
            _ => wc_status::GENERAL_ERR,
        };
        log::debug!(
            "QP {:#x}: native error {code:#x} ({})",
            qp.number(),
            kernel_abi::ext::syndrome_text(code)
        );
        qp.lost_in_rtr = qp.state == qps::RTR;
        if code == syndrome::TIMER_RETRY && !c.dead {
            requester::unanswered(qp, &mut c, &mut self.env);
        } else if !c.dead {
            requester::fatal(qp, &mut c, &mut self.env, status);
        }
        qp.conn = Some(c);
        qp.connection_over(&mut self.env);
    }

    /// A UC QP whose native connection has ended gets another one, so that a peer that comes (back) under the same number finds it.
    fn revive(&mut self, handle: u32) {
        let now = self.env.nic.now();
        let Some(mut qp) = self.qps.get_mut(handle as usize).and_then(Option::take) else {
            return;
        };
        if qp.revived == 0 || now.wrapping_sub(qp.revived) >= REVIVAL_NS {
            qp.revived = now;
            let attr = qp.attr;
            let halted = qp.halted;
            if let Err(e) = self.connect(&mut qp, &attr) {
                log::debug!("QP {:#x}: connecting again: {e}", qp.number());
            }
            qp.halted = halted;
        }
        self.qps[handle as usize] = Some(qp);
    }

    /// A UC QP whose peer was reset goes on with the one that came in its place.
    fn follow(&mut self, handle: u32, hello: Hello, lines: u32, now: u64) {
        let Some(mut qp) = self.qps.get_mut(handle as usize).and_then(Option::take) else {
            return;
        };
        let (attr, halted) = (qp.attr, qp.halted);
        qp.revived = now;
        let connected = matches!(qp.state, qps::RTR | qps::RTS | qps::SQD | qps::SQE);
        if qp.conn.is_none() && connected {
            let up = self.connect(&mut qp, &attr);
            qp.halted = halted;
            let fits = up.and_then(|()| match qp.conn.as_mut() {
                Some(c) => c.succeed(hello, lines),
                None => Ok(()),
            });
            if let Err(e) = fits {
                log::debug!("QP {:#x}: connecting again: {e}", qp.number());
            }
        }
        self.qps[handle as usize] = Some(qp);
        self.activate(handle);
    }

    /// Requests on a QP that has no connection: UC sends them all the same, and who is connected hears now that the peer has left.
    pub(super) fn send_without_peer(&mut self, handle: u32) {
        let Some(Some(qp)) = self.qps.get_mut(handle as usize) else {
            return;
        };
        if qp.state != qps::RTS || qp.sq.is_empty() {
            return;
        }
        if !rc::uc::is(qp) {
            let head = qp.sq.head;
            let e = qp.sq.at_mut(head);
            (e.stage, e.status) = (Stage::Failed, wc_status::RETRY_EXC_ERR);
            return qp.enter_error(&mut self.env);
        }
        self.revive(handle);
        if let Some(Some(qp)) = self.qps.get_mut(handle as usize) {
            if qp.conn.is_some() {
                rc::push(qp, &mut self.env);
                self.activate(handle);
            } else {
                qp.send_into_the_void(&mut self.env);
            }
        }
    }
}

/// Turns an idle QP cold; true when it no longer needs looking at.
fn cool<N: Nic>(qp: &mut Qp, env: &mut Env<N>) -> bool {
    if let Some(c) = qp.conn.as_mut() {
        if !c.rests() {
            c.go_cold(&mut env.nic, &mut qp.native);
            // The promise is out before the last look: a doorbell is no fence.
            std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        }
        if !c.rests() {
            return false;
        }
        // Once more after the promise: what came just before it carries no notification.
        if rc::pump(qp, env) {
            qp.idle = 0;
            if let Some(c) = qp.conn.as_mut() {
                c.cold = false;
            }
            return false;
        }
    }
    // Acknowledgements and answers need looking at by somebody.
    let waits = qp
        .conn
        .as_ref()
        .is_some_and(|c| c.waiting() || c.rnr.is_some());
    let works = match qp.state {
        qps::RTS => qp.sq.head != qp.sq.tail,
        qps::SQD => !qp.is_drained(),
        _ => false,
    };
    if waits || works {
        return false;
    }
    qp.active = false;
    true
}
