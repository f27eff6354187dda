//! What a model check is about: the work of two connections, and what may happen to them.

use crate::rc::msg;
use kernel_abi::verbs::{send_flag, wr_opcode};

/// A work request of the program.
#[derive(Clone, Copy, Debug)]
pub(super) struct Op {
    pub(super) opcode: u32,
    pub(super) len: usize,
    pub(super) flags: u32,
    /// Which of the peer's targets, for those that name remote memory.
    pub(super) target: usize,
    pub(super) key: Key,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Mr,
    /// Of nothing.
    Wrong,
    /// Of the window that the peer has bound on this connection.
    Window,
}

impl Op {
    pub(super) const fn new(opcode: u32, len: usize) -> Op {
        Op {
            opcode,
            len,
            flags: send_flag::SIGNALED,
            target: 0,
            key: Key::Mr,
        }
    }

    pub(super) const fn on(self, target: usize) -> Op {
        Op { target, ..self }
    }

    pub(super) const fn key(self, key: Key) -> Op {
        Op { key, ..self }
    }

    pub(super) const fn fenced(self) -> Op {
        self.with(send_flag::FENCE)
    }

    pub(super) const fn inline(self) -> Op {
        self.with(send_flag::INLINE)
    }

    const fn with(self, flag: u32) -> Op {
        Op {
            flags: self.flags | flag,
            ..self
        }
    }

    pub(super) const fn unsignaled(self) -> Op {
        Op {
            flags: self.flags & !send_flag::SIGNALED,
            ..self
        }
    }

    /// Takes a receive.
    pub(super) fn consumes(&self) -> bool {
        self.sends() || self.opcode == wr_opcode::RDMA_WRITE_WITH_IMM
    }

    pub(super) fn sends(&self) -> bool {
        matches!(
            self.opcode,
            wr_opcode::SEND | wr_opcode::SEND_WITH_IMM | wr_opcode::SEND_WITH_INV
        )
    }

    pub(super) fn writes(&self) -> bool {
        matches!(
            self.opcode,
            wr_opcode::RDMA_WRITE | wr_opcode::RDMA_WRITE_WITH_IMM | wr_opcode::ATOMIC_WRITE
        )
    }

    pub(super) fn is_atomic(&self) -> bool {
        matches!(
            self.opcode,
            wr_opcode::ATOMIC_CMP_AND_SWP | wr_opcode::ATOMIC_FETCH_AND_ADD
        )
    }

    /// Its result comes into the program's own memory.
    pub(super) fn fetches(&self) -> bool {
        self.is_atomic() || self.opcode == wr_opcode::RDMA_READ
    }

    pub(super) fn has_imm(&self) -> bool {
        matches!(
            self.opcode,
            wr_opcode::SEND_WITH_IMM | wr_opcode::RDMA_WRITE_WITH_IMM
        )
    }
}

pub(super) const fn send(len: usize) -> Op {
    Op::new(wr_opcode::SEND, len)
}
pub(super) const fn send_imm(len: usize) -> Op {
    Op::new(wr_opcode::SEND_WITH_IMM, len)
}
/// Invalidates the peer's window.
pub(super) const fn send_inv(len: usize) -> Op {
    Op::new(wr_opcode::SEND_WITH_INV, len)
}
pub(super) const fn write(len: usize) -> Op {
    Op::new(wr_opcode::RDMA_WRITE, len)
}
pub(super) const fn write_imm(len: usize) -> Op {
    Op::new(wr_opcode::RDMA_WRITE_WITH_IMM, len)
}
pub(super) const fn read(len: usize) -> Op {
    Op::new(wr_opcode::RDMA_READ, len)
}
/// Swaps when it finds what the target held at first.
pub(super) const fn cas() -> Op {
    Op::new(wr_opcode::ATOMIC_CMP_AND_SWP, 8)
}
pub(super) const fn fadd() -> Op {
    Op::new(wr_opcode::ATOMIC_FETCH_AND_ADD, 8)
}
pub(super) const fn atomic_write() -> Op {
    Op::new(wr_opcode::ATOMIC_WRITE, 8)
}
/// Invalidates the window of this end.
pub(super) const fn local_inv() -> Op {
    Op::new(wr_opcode::LOCAL_INV, 0)
}
/// Binds it again, under another key.
pub(super) const fn bind() -> Op {
    Op::new(wr_opcode::BIND_MW, 0)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Rc,
    /// RC whose receives are shared by the QPs of an end.
    Srq,
    Uc,
    /// The first end sends to SRQs of the second: one for each connection.
    Xrc,
}

/// A request that must fail, and everything behind it with it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failure {
    pub(super) qp: usize,
    pub(super) op: usize,
    pub(super) status: u32,
}

/// Work requests of the two QPs of an end.
pub(super) type Work = [Vec<Op>; 2];

#[derive(Clone, Debug)]
pub(super) struct Scenario {
    pub(super) transport: Transport,
    /// Of both ends.
    pub(super) work: [Work; 2],
    /// Entries of the send and receive queues.
    pub(super) depth: u32,
    /// Lines of the request rings: room for two messages.
    pub(super) lines: u32,
    /// The native rings have so many free entries at first; 0: all.
    pub(super) native_room: u32,
    /// The second end posts its receives when the schedule says so.
    pub(super) late_receives: bool,
    pub(super) rnr_retry: u8,
    /// The process of an end may die, once.
    pub(super) may_die: [bool; 2],
    /// A native connection may break, at one end.
    pub(super) may_break: bool,
    /// How often each end may stop looking until it is notified.
    pub(super) naps: u8,
    /// How often a second may pass.
    pub(super) ticks: u8,
    /// How many WRITEs may arrive in two parts.
    pub(super) tears: u8,
    /// Completions come later than the data that they are for.
    pub(super) late_completions: bool,
    /// The two ends have greeted each other before.
    pub(super) greeted: bool,
    /// A message has gone each way on the first QP before.
    pub(super) used: bool,
    /// The first QP of an end is reset and connected again, once. Where both are, their programs begin behind that.
    pub(super) renews: [bool; 2],
    /// Whether a request succeeds depends on the schedule.
    pub(super) may_refuse: bool,
    /// Of the first end.
    pub(super) failure: Option<Failure>,
}

impl Scenario {
    pub(super) fn new(transport: Transport, first: Work, second: Work) -> Scenario {
        let work = [first, second];
        let all = work.iter().flatten().flatten();
        let lines = |o: &Op| {
            if o.sends() && o.len <= msg::EAGER_MAX {
                msg::lines_for(o.len)
            } else {
                1
            }
        };
        let longest = all.map(lines).max().unwrap_or(1);
        Scenario {
            transport,
            work,
            depth: 2,
            lines: 2 * longest,
            native_room: 0,
            late_receives: false,
            rnr_retry: 7,
            may_die: [false; 2],
            may_break: false,
            naps: 0,
            ticks: 0,
            tears: 0,
            late_completions: false,
            greeted: true,
            used: false,
            renews: [false; 2],
            may_refuse: false,
            failure: None,
        }
    }

    /// Nothing but the schedule disturbs it.
    pub(super) fn is_calm(&self) -> bool {
        self.may_die == [false; 2]
            && !self.may_break
            && !self.may_refuse
            && !self.leaves_one_behind()
            && self.failure.is_none()
    }

    /// One end of the first QP is reset and the other one is not.
    pub(super) fn leaves_one_behind(&self) -> bool {
        self.renews[0] != self.renews[1]
    }
}
