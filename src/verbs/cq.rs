//! Completion queues of the program: software, fed by the protocol.

use std::collections::VecDeque;

use super::types::{CqOptions, Wc};
use crate::native::kernel;
use kernel_abi::verbs::wc_status;

/// What `req_notify_cq` asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arm {
    None,
    Solicited,
    Any,
}

/// When a completion came: device clock and wall clock in nanoseconds; zero what was not asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    pub device: u64,
    pub wall: u64,
}

/// Fewer events than completions (ibv_modify_cq(3)).
#[derive(Clone, Copy, Debug, Default)]
pub struct Moderation {
    /// Completions that make an event; 0 and 1: each.
    pub count: u16,
    /// Longest wait of a completion for its event, microseconds; 0: no moderation.
    pub period: u16,
}

#[derive(Debug)]
pub struct Cq {
    pub entries: VecDeque<Wc>,
    pub cqe: u32,
    pub channel: Option<i32>,
    pub cookie: u64,
    pub arm: Arm,
    /// An entry was lost: the CQ is in error.
    pub overrun: bool,
    /// The error event was given.
    pub overrun_told: bool,
    /// QPs that name this CQ (twice when for both queues).
    pub users: u32,
    /// An event is owed to the channel.
    pub raise: bool,
    /// The newest entries that no event has announced yet. Arming with such entries gives an event at once; entries that were
    /// announced and only not polled yet give none, so that wake-ups are neither lost nor invented.
    pub unannounced: usize,
    pub options: CqOptions,
    stamps: VecDeque<Stamp>,
    pub moderation: Moderation,
    /// A moderated event comes at this time (ns) at the latest.
    pub due: Option<u64>,
    /// Events that the channel has taken.
    pub raised: u32,
}

impl Cq {
    pub fn new(cqe: u32, channel: Option<i32>, cookie: u64) -> Cq {
        Cq {
            entries: VecDeque::with_capacity((cqe as usize).min(4096)),
            cqe,
            channel,
            cookie,
            arm: Arm::None,
            overrun: false,
            overrun_told: false,
            users: 0,
            raise: false,
            unannounced: 0,
            options: CqOptions::default(),
            stamps: VecDeque::new(),
            moderation: Moderation::default(),
            due: None,
            raised: 0,
        }
    }

    #[inline]
    pub fn pop(&mut self) -> Option<(Wc, Stamp)> {
        let wc = self.entries.pop_front()?;
        Some((wc, self.stamps.pop_front().unwrap_or_default()))
    }

    fn stamped(&self) -> bool {
        self.options.device_time || self.options.wall_time
    }

    /// Completions of a QP that was reset or destroyed are never seen.
    pub fn purge(&mut self, qp_num: u32) {
        if self.stamped() {
            let (entries, stamps) = (&self.entries, &mut self.stamps);
            let mut keep = entries.iter().map(|wc| wc.qp_num != qp_num);
            stamps.retain(|_| keep.next().unwrap_or(true));
        }
        self.entries.retain(|wc| wc.qp_num != qp_num);
    }

    /// The event that moderation held back.
    pub fn fire(&mut self) {
        self.due = None;
        self.arm = Arm::None;
        self.raise = true;
        self.unannounced = 0;
    }

    /// Whether moderation holds the event of a completion back.
    fn held_back(&mut self, status: u32) -> bool {
        let Moderation { count, period } = self.moderation;
        if period == 0 || status != wc_status::SUCCESS {
            return false;
        }
        if count != 0 && self.unannounced >= usize::from(count) {
            return false;
        }
        self.due
            .get_or_insert_with(|| kernel::now_ns() + u64::from(period) * 1000);
        true
    }

    /// Adds a completion; `solicited` when the sender asked for an event, or for errors (IBTA 11.4.2.2).
    #[inline]
    pub fn push(&mut self, wc: Wc, solicited: bool) {
        if self.entries.len() >= self.cqe as usize {
            // The program has promised that this cannot happen, or has renounced what is lost.
            self.overrun |= !self.options.ignore_overrun;
            return;
        }
        if self.stamped() {
            self.stamps.push_back(Stamp {
                device: if self.options.device_time {
                    kernel::now_ns()
                } else {
                    0
                },
                wall: if self.options.wall_time {
                    kernel::wall_ns()
                } else {
                    0
                },
            });
        }
        let fire = match self.arm {
            Arm::None => false,
            Arm::Any => true,
            Arm::Solicited => solicited || wc.status != wc_status::SUCCESS,
        };
        self.entries.push_back(wc);
        self.unannounced += 1;
        if fire && !self.held_back(wc.status) {
            self.fire();
        }
    }
}
