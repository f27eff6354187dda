//! Unfinished QPs of a context: who works on them, and when.

use super::context::NicContext;
use super::engine::Budget;
use super::qp::{Qp, mode};
use crate::fabric::attach::lock;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};

#[derive(Default)]
pub(crate) struct Schedule {
    runnable: AtomicU32,
    parked: AtomicU32,
    /// Port and number of every QP that is not idle, and perhaps some that became idle meanwhile.
    list: Mutex<VecDeque<(u32, u32)>>,
    /// Goes up when the program calls `progress`.
    calls: AtomicU64,
}

/// Most parked QPs that one `progress` tries again.
const RETRIES: u32 = 8;
/// A QP's turn.
const TURN: i64 = 512 << 10;

impl Schedule {
    #[inline(always)]
    pub(crate) fn has_runnable(&self) -> bool {
        self.runnable.load(Relaxed) != 0
    }
    pub(crate) fn is_idle(&self) -> bool {
        self.runnable.load(SeqCst) | self.parked.load(SeqCst) == 0
    }
    fn counter(&self, of: u8) -> Option<&AtomicU32> {
        match of {
            mode::RUNNABLE => Some(&self.runnable),
            mode::PARKED => Some(&self.parked),
            _ => None,
        }
    }
}

impl NicContext {
    pub(crate) fn is_idle(&self) -> bool {
        self.schedule.is_idle()
    }

    pub(crate) fn has_runnable(&self) -> bool {
        self.schedule.has_runnable()
    }

    pub(crate) fn progress_calls(&self) -> u64 {
        self.schedule.calls.load(Relaxed)
    }

    /// Notes in which mode the holder of a QP's lock leaves it.
    #[inline(always)]
    pub(super) fn settle(&self, qp: &Qp, to: u8) {
        if qp.mode.load(Relaxed) != to {
            self.settle_anew(qp, to);
        }
    }

    #[cold]
    fn settle_anew(&self, qp: &Qp, to: u8) {
        if let Some(counter) = self.schedule.counter(to) {
            counter.fetch_add(1, SeqCst);
        }
        let from = qp.mode.swap(to, SeqCst);
        if let Some(counter) = self.schedule.counter(from) {
            counter.fetch_sub(1, SeqCst);
        }
        if to == mode::IDLE {
            return;
        }
        if !qp.listed.swap(true, SeqCst) {
            lock(&self.schedule.list).push_back((qp.port, qp.id));
        }
        self.fabric.wake_thread();
    }

    /// Executes up to about `budget` bytes of what is pending, QPs in turn.
    pub fn progress(&self, budget: u64) -> u32 {
        if self.schedule.is_idle() || !self.usable() {
            return 0;
        }
        self.schedule.calls.fetch_add(1, Relaxed);
        self.pump(i64::try_from(budget).unwrap_or(i64::MAX), RETRIES);
        self.pending()
    }

    /// One round over the list.
    pub(crate) fn pump(&self, budget: i64, retries: u32) {
        let (mut left, mut retries) = (budget, retries);
        let rounds = lock(&self.schedule.list).len();
        for _ in 0..rounds {
            if left <= 0 {
                return;
            }
            let Some((port, id)) = lock(&self.schedule.list).pop_front() else {
                return;
            };
            let Some(qp) = self.qp(port, id) else {
                continue;
            };
            let turn = match qp.mode.load(SeqCst) {
                mode::RUNNABLE => true,
                mode::PARKED if retries > 0 => {
                    retries -= 1;
                    true
                }
                _ => false,
            };
            if turn {
                let share = left.min(TURN);
                let mut budget = Budget {
                    left: share,
                    whole_messages: false,
                };
                self.drive(qp, None, &mut budget);
                left -= share - budget.left;
            }
            // Off the list before the last look: whoever makes the QP busy after it lists it again.
            qp.listed.store(false, SeqCst);
            if qp.mode.load(SeqCst) != mode::IDLE && !qp.listed.swap(true, SeqCst) {
                lock(&self.schedule.list).push_back((port, id));
            }
        }
    }
}
