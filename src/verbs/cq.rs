//! Completion queues of the program: software, fed by the protocol.

use std::collections::VecDeque;

use super::types::Wc;
use kernel_abi::verbs::wc_status;

/// What `req_notify_cq` asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arm {
    None,
    Solicited,
    Any,
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
        }
    }

    /// Adds a completion; `solicited` when the sender asked for an event, or for errors (IBTA 11.4.2.2).
    #[inline]
    pub fn push(&mut self, wc: Wc, solicited: bool) {
        if self.entries.len() >= self.cqe as usize {
            self.overrun = true;
            return;
        }
        let fire = match self.arm {
            Arm::None => false,
            Arm::Any => true,
            Arm::Solicited => solicited || wc.status != wc_status::SUCCESS,
        };
        self.entries.push_back(wc);
        if fire {
            self.arm = Arm::None;
            self.raise = true;
        }
    }
}
