//! The work queues of a QP as programs see them: software, with the counts that the program asked for.

use super::types::{Errno, QpCap, Result, SendWr, Sge, Wc};
use crate::native::user;
use kernel_abi::verbs::send_flag;

/// How far a send work request has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Stage {
    #[default]
    Queued,
    /// Its request asked for a remote key and waits for the answer.
    Key,
    /// Complete when the responder acknowledges request `seq`.
    Ack,
    /// Complete when the native ring's consumer index reaches `native_end`.
    Native,
    /// Rendezvous: RTS sent as request `seq`, no CTS yet.
    Rendezvous,
    /// READ or atomic, sent as request `seq`, no answer yet.
    Answer,
    Done,
    Failed,
}

/// A send work request.
#[derive(Clone, Copy, Debug, Default)]
pub struct SqEntry {
    pub wr_id: u64,
    pub remote_addr: u64,
    pub compare: u64,
    pub swap: u64,
    pub len: u64,
    pub opcode: u32,
    pub flags: u32,
    pub imm: u32,
    pub rkey: u32,
    pub nsge: u32,
    pub seq: u32,
    pub native_end: u32,
    pub status: u32,
    pub stage: Stage,
}

/// Send queue: `head..issued` are with the protocol, `issued..tail` wait. Free-running indices over a power-of-two array; the program's limit
/// is kept apart.
#[derive(Debug)]
pub struct Sq {
    pub head: u32,
    pub issued: u32,
    pub tail: u32,
    mask: u32,
    limit: u32,
    max_sge: u32,
    max_inline: u32,
    entries: Vec<SqEntry>,
    sges: Vec<Sge>,
    inline: Vec<u8>,
    /// XRC: by slot, the SRQ that a request goes to; else empty.
    srqns: Vec<u32>,
}

impl Sq {
    pub fn new(cap: &QpCap) -> Sq {
        let n = cap.max_send_wr.max(1).next_power_of_two();
        let sge = cap.max_send_sge.max(1);
        Sq {
            head: 0,
            issued: 0,
            tail: 0,
            mask: n - 1,
            limit: cap.max_send_wr,
            max_sge: sge,
            max_inline: cap.max_inline_data,
            entries: vec![SqEntry::default(); n as usize],
            sges: vec![Sge::default(); (n * sge) as usize],
            inline: vec![0; (n * cap.max_inline_data) as usize],
            srqns: Vec::new(),
        }
    }

    /// The send queue of an XRC QP, whose requests each name an SRQ.
    pub fn addressed(cap: &QpCap) -> Sq {
        let mut sq = Sq::new(cap);
        sq.srqns = vec![0; sq.entries.len()];
        sq
    }

    /// The SRQ of an XRC request.
    pub fn srqn(&self, i: u32) -> u32 {
        self.srqns
            .get((i & self.mask) as usize)
            .copied()
            .unwrap_or(0)
    }

    #[inline]
    pub fn at(&self, i: u32) -> &SqEntry {
        &self.entries[(i & self.mask) as usize]
    }

    #[inline]
    pub fn at_mut(&mut self, i: u32) -> &mut SqEntry {
        &mut self.entries[(i & self.mask) as usize]
    }

    #[inline]
    pub fn sges(&self, i: u32) -> &[Sge] {
        let at = ((i & self.mask) * self.max_sge) as usize;
        &self.sges[at..at + self.at(i).nsge as usize]
    }

    pub fn inline(&self, i: u32) -> &[u8] {
        let at = ((i & self.mask) * self.max_inline) as usize;
        &self.inline[at..at + self.at(i).len as usize]
    }

    pub fn is_empty(&self) -> bool {
        self.head == self.tail
    }

    /// Stores a request; inline data is copied here, so the program may reuse it at once.
    #[inline]
    pub fn push(&mut self, wr: &SendWr<'_>) -> Result<()> {
        if self.tail.wrapping_sub(self.head) >= self.limit {
            return Err(Errno::ENOMEM);
        }
        if wr.sges.len() > self.max_sge as usize {
            return Err(Errno::EINVAL);
        }
        let slot = self.tail & self.mask;
        let len: u64 = wr.sges.iter().map(|s| u64::from(s.length)).sum();
        if wr.flags & send_flag::INLINE != 0 {
            if len > u64::from(self.max_inline) {
                return Err(Errno::EINVAL);
            }
            let mut at = (slot * self.max_inline) as usize;
            for s in wr.sges {
                let n = s.length as usize;
                let dst = self.inline[at..at + n].as_mut_ptr() as u64;
                user::copy(dst, s.addr, n).map_err(|_| Errno::EFAULT)?;
                at += n;
            }
        } else {
            let at = (slot * self.max_sge) as usize;
            self.sges[at..at + wr.sges.len()].copy_from_slice(wr.sges);
        }
        self.entries[slot as usize] = SqEntry {
            wr_id: wr.wr_id,
            remote_addr: wr.remote_addr,
            compare: wr.compare_add,
            swap: wr.swap,
            len,
            opcode: wr.opcode,
            flags: wr.flags,
            imm: wr.imm,
            rkey: wr.rkey,
            nsge: if wr.flags & send_flag::INLINE != 0 {
                0
            } else {
                wr.sges.len() as u32
            },
            ..SqEntry::default()
        };
        if let Some(n) = self.srqns.get_mut(slot as usize) {
            *n = wr.remote_srqn;
        }
        self.tail = self.tail.wrapping_add(1);
        Ok(())
    }

    /// The issued entry that carries request `seq`.
    pub fn find(&self, seq: u32, stage: Stage) -> Option<u32> {
        let mut i = self.head;
        while i != self.issued {
            let e = self.at(i);
            if e.stage == stage && e.seq == seq {
                return Some(i);
            }
            i = i.wrapping_add(1);
        }
        None
    }

    pub fn clear(&mut self) {
        self.head = self.tail;
        self.issued = self.tail;
    }
}

/// A posted receive.
#[derive(Clone, Copy, Debug, Default)]
pub struct RqEntry {
    pub wr_id: u64,
    pub nsge: u32,
    pub done: bool,
    pub solicited: bool,
    pub wc: Wc,
}

/// Where a shared receive came from, and where it completes.
#[derive(Clone, Copy, Debug)]
pub struct Home {
    pub srq: u32,
    pub pd: u32,
    pub cq: u32,
}

/// Receive queue: `head..next` are taken by messages (some not complete), `next..tail` wait.
#[derive(Debug)]
pub struct Rq {
    pub head: u32,
    pub next: u32,
    pub tail: u32,
    mask: u32,
    limit: u32,
    max_sge: u32,
    entries: Vec<RqEntry>,
    sges: Vec<Sge>,
    /// By slot, in the list of a QP that takes from SRQs; else empty.
    homes: Vec<Home>,
}

impl Rq {
    pub fn new(max_wr: u32, max_sge: u32) -> Rq {
        let n = max_wr.max(1).next_power_of_two();
        let sge = max_sge.max(1);
        Rq {
            head: 0,
            next: 0,
            tail: 0,
            mask: n - 1,
            limit: max_wr,
            max_sge: sge,
            entries: vec![RqEntry::default(); n as usize],
            sges: vec![Sge::default(); (n * sge) as usize],
            homes: Vec::new(),
        }
    }

    /// The list of receives that messages of one QP have taken from SRQs.
    pub fn of_taken(max_wr: u32, max_sge: u32) -> Rq {
        let mut rq = Rq::new(max_wr, max_sge);
        let nowhere = Home {
            srq: 0,
            pd: 0,
            cq: u32::MAX,
        };
        rq.homes = vec![nowhere; rq.entries.len()];
        rq
    }

    pub fn limit(&self) -> u32 {
        self.limit
    }

    pub fn max_sge(&self) -> u32 {
        self.max_sge
    }

    pub fn is_full(&self) -> bool {
        self.tail.wrapping_sub(self.head) >= self.limit
    }

    /// Where a shared receive belongs; None for a queue of the QP's own.
    #[inline]
    pub fn home(&self, i: u32) -> Option<&Home> {
        self.homes.get((i & self.mask) as usize)
    }

    /// Adds a shared receive that a message has just taken. The caller has seen that there is room.
    pub fn adopt(&mut self, wr_id: u64, sges: &[Sge], home: Home) -> u32 {
        let i = self.tail;
        let slot = i & self.mask;
        let at = (slot * self.max_sge) as usize;
        let n = sges.len().min(self.max_sge as usize);
        self.sges[at..at + n].copy_from_slice(&sges[..n]);
        self.entries[slot as usize] = RqEntry {
            wr_id,
            nsge: n as u32,
            ..RqEntry::default()
        };
        self.homes[slot as usize] = home;
        self.tail = i.wrapping_add(1);
        self.next = self.tail;
        i
    }

    /// The receive that was taken last waits again.
    pub fn put_back(&mut self) {
        self.next = self.next.wrapping_sub(1);
    }

    /// Receives that were taken and are not done wait again, before all others and in their order; those that are done stay before
    /// them.
    pub fn give_back(&mut self) {
        // From the newest: what is done moves towards the head.
        let (mut from, mut to) = (self.next, self.next);
        let mut done = Vec::new();
        while from != self.head {
            from = from.wrapping_sub(1);
            if self.at(from).done {
                done.push((*self.at(from), self.sges(from).to_vec()));
            } else {
                to = to.wrapping_sub(1);
                self.copy(from, to);
            }
        }
        self.next = to;
        for (e, sges) in done {
            to = to.wrapping_sub(1);
            let at = ((to & self.mask) * self.max_sge) as usize;
            self.sges[at..at + sges.len()].copy_from_slice(&sges);
            *self.at_mut(to) = e;
        }
    }

    fn copy(&mut self, from: u32, to: u32) {
        let slot = |i: u32| ((i & self.mask) * self.max_sge) as usize;
        let (a, b) = (slot(from), slot(to));
        self.sges.copy_within(a..a + self.max_sge as usize, b);
        *self.at_mut(to) = *self.at(from);
    }

    /// An SRQ is gone: what was taken from it completes nowhere.
    pub fn abandon(&mut self, srq: u32) {
        for h in self.homes.iter_mut().filter(|h| h.srq == srq) {
            h.cq = u32::MAX;
        }
    }

    /// The same waiting receives in a queue of another size. Nothing may be under way.
    pub fn resized(&self, max_wr: u32) -> Rq {
        let mut rq = Rq::new(max_wr, self.max_sge);
        let mut i = self.next;
        while i != self.tail {
            // The new queue has room for what waits: the caller has compared.
            if rq.push(self.at(i).wr_id, self.sges(i)).is_err() {
                break;
            }
            i = i.wrapping_add(1);
        }
        rq
    }

    #[inline]
    pub fn push(&mut self, wr_id: u64, sges: &[Sge]) -> Result<()> {
        if self.tail.wrapping_sub(self.head) >= self.limit {
            return Err(Errno::ENOMEM);
        }
        if sges.len() > self.max_sge as usize {
            return Err(Errno::EINVAL);
        }
        let slot = self.tail & self.mask;
        let at = (slot * self.max_sge) as usize;
        self.sges[at..at + sges.len()].copy_from_slice(sges);
        self.entries[slot as usize] = RqEntry {
            wr_id,
            nsge: sges.len() as u32,
            ..RqEntry::default()
        };
        self.tail = self.tail.wrapping_add(1);
        Ok(())
    }

    /// Takes the oldest waiting receive for a message.
    #[inline]
    pub fn take(&mut self) -> Option<u32> {
        if self.next == self.tail {
            return None;
        }
        let i = self.next;
        self.next = i.wrapping_add(1);
        Some(i)
    }

    #[inline]
    pub fn at(&self, i: u32) -> &RqEntry {
        &self.entries[(i & self.mask) as usize]
    }

    #[inline]
    pub fn at_mut(&mut self, i: u32) -> &mut RqEntry {
        &mut self.entries[(i & self.mask) as usize]
    }

    #[inline]
    pub fn sges(&self, i: u32) -> &[Sge] {
        let at = ((i & self.mask) * self.max_sge) as usize;
        &self.sges[at..at + self.at(i).nsge as usize]
    }

    pub fn clear(&mut self) {
        self.head = self.tail;
        self.next = self.tail;
    }
}
