//! A connection between two QPs: the two mailboxes, sequence numbers and credits, and how a message becomes a native WRITE.

mod acknowledgements;
#[cfg(test)]
mod digest;
mod hello;
mod requests;
mod responses;

use std::collections::{HashMap, VecDeque};

use super::msg::{self, AckLine, Hello};
use crate::native::{NativeQp, Nic, RING_ENTRIES, Window, Write, mailbox_address, split_number};
use kernel_abi::verbs::qpt;

/// What a resolved remote key allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoteKey {
    pub iova: u64,
    pub len: u64,
    pub device: u64,
    pub access: u32,
}

/// An answer that waits for native slots (hazard 8: never for requests).
#[derive(Clone, Debug)]
pub enum Response {
    /// Receive addresses for RTS `seq`.
    Cts {
        seq: u32,
        list: Vec<(u64, u64)>,
    },
    Key {
        rkey: u32,
        status: u8,
        key: RemoteKey,
    },
    /// Data to write, then the notice.
    Read {
        seq: u32,
        from: u64,
        list: Vec<(u64, u64)>,
    },
    /// Data of a READ that one line holds.
    ShortRead {
        seq: u32,
        len: u32,
        data: [u64; msg::ONE_LINE / 8],
    },
    Atomic {
        seq: u32,
        old: u64,
    },
    /// The payload of the peer's CTS `seq` has been written: tell it.
    Fin {
        seq: u32,
    },
    /// Payload of rendezvous SEND `seq` as (local, remote, length).
    Payload {
        seq: u32,
        pieces: Vec<(u64, u64, u64)>,
    },
    Revoke {
        key: u32,
    },
    Revoked {
        key: u32,
    },
}

/// RNR wait of a requester.
#[derive(Clone, Copy, Debug)]
pub struct Rnr {
    pub seq: u32,
    pub deadline: u64,
    pub left: u8,
}

#[derive(Debug)]
pub struct Conn {
    pub win: Window,
    /// Device addresses of our mailbox and the peer's.
    pub base: u64,
    pub peer: u64,
    pub my_number: u32,
    pub peer_number: u32,
    pub nonce: u64,
    pub hello_sent: bool,
    /// What our HELLO says about this QP (`msg::feature`).
    pub features: u32,
    /// The peer's HELLO, once seen and agreed with.
    pub hello: Option<Hello>,
    pub max_recv_sge: u32,
    pub max_dest_rd_atomic: u32,

    /// Lines of the request rings, each way; tests make them fewer.
    pub lines: u32,

    // Requester half.
    pub tx_seq: u32,
    tx_line: u32,
    tx_lines: u32,
    /// Native index behind requests that were written a second time: until then their places in staging keep what they hold, whatever
    /// has been acknowledged.
    repeated: Option<u32>,
    /// The ack line as last looked at.
    pub ack: AckLine,
    /// Its words, for a cheap comparison.
    pub heard: [u64; 3],
    /// Newest request that carried a notification.
    notified: u32,
    /// Newest request that was a SEND (its receive's length is unknown to us).
    pub last_send: Option<u32>,
    pub last_imm: Option<u32>,
    /// Requests that take a receive.
    pub receives_used: u32,
    /// Responses (and FINs) that we wait for: places taken in our response ring.
    pub expected: u32,
    /// Payloads that the peer was told to send: places taken by their FINs.
    pub invited: u32,
    in_seq: u32,
    in_slot: u32,
    /// Lines per place and places of our response ring, once the peer's HELLO has told.
    in_slots: (u32, u32),
    pub keys: HashMap<u32, RemoteKey>,
    pub query: Option<u32>,
    /// UC: a key that the responder has just refused.
    pub denied: Option<u32>,
    pub rnr: Option<Rnr>,
    /// READs and atomics without an answer.
    pub reads: u32,
    /// Inline staging: next slot, and the native index after which each is free.
    pub inline_next: usize,
    pub inline_end: [u32; msg::INLINE_SLOTS],
    /// When we began to wait for the peer, or last probed it (ns); 0: not known yet.
    pub waiting_since: u64,

    // Responder half.
    pub rx_seq: u32,
    rx_line: u32,
    freed: u32,
    pub executed: u32,
    pub posted: u32,
    armed: u32,
    /// We have promised to look only when notified.
    pub cold: bool,
    pub nak: (u8, u8, u32),
    pub ack_dirty: bool,
    pub ack_wake: bool,
    out_seq: u32,
    out_slot: u32,
    /// Rendezvous under way: (RTS, receive index, length, immediate and flags).
    pub inbound: VecDeque<Inbound>,
    pub responses: VecDeque<Response>,
    pub revoke_queue: VecDeque<u32>,
    pub revoking: Option<u32>,
    /// Keys to acknowledge the revocation of once the ring has reached an index.
    pub revoked: Vec<(u32, u32)>,
    /// Blocked at the head of the request ring for want of a receive.
    pub rnr_blocked: bool,
    /// Blocked there until peers have forgotten the key that a SEND invalidates, and READs before it have their data.
    pub invalidating: bool,
    /// Native index behind the data of the last READ that was answered.
    pub read_end: Option<u32>,
    /// Request whose invalidation has been done.
    pub invalidated: Option<u32>,
    /// The first message has come (IBV_EVENT_COMM_EST is behind us).
    pub established: bool,

    /// UC: when the message at the head of the ring is dropped for want of a receive; see `uc`.
    pub drop_at: u64,
    /// XRC: the SRQ that requests go to; what we said last, or heard.
    pub srqn: u32,
    /// What ended the connection was a fault of our own.
    pub failed_here: bool,
    /// It ended because the peer no longer answers, and no request of the program's was hurt.
    pub peer_left: bool,

    /// Since when we know that the peer has begun anew and what we wait for will not come (ns); 0: it has not.
    pub outlived: u64,
    /// UC: the peer that this connection makes way for.
    pub successor: Option<Hello>,

    /// A NAK is on its way that ends the connection: when it has been written, it is dead.
    pub closing: bool,
    /// The connection has failed: tear it down after this pump.
    pub dead: bool,
    /// Something was posted and not rung.
    pub unrung: bool,
}

/// A rendezvous SEND whose payload is being written by the peer.
#[derive(Clone, Copy, Debug)]
pub struct Inbound {
    pub seq: u32,
    pub receive: u32,
    pub len: u32,
    pub imm: u32,
    pub flags: u8,
    pub finished: bool,
}

impl Conn {
    pub fn new(
        win: Window,
        my_number: u32,
        peer_number: u32,
        nonce: u64,
        max_recv_sge: u32,
        max_dest_rd_atomic: u32,
    ) -> Conn {
        let (my_port, my_id) = split_number(my_number);
        let (port, id) = split_number(peer_number);
        Conn {
            win,
            base: mailbox_address(my_port, my_id),
            peer: mailbox_address(port, id),
            my_number,
            peer_number,
            nonce,
            hello_sent: false,
            hello: None,
            features: 0,
            max_recv_sge,
            max_dest_rd_atomic,
            lines: msg::REQUEST_LINES,
            tx_seq: 0,
            tx_line: 0,
            tx_lines: 0,
            repeated: None,
            ack: AckLine::default(),
            heard: [0; 3],
            notified: 0,
            last_send: None,
            last_imm: None,
            receives_used: 0,
            expected: 0,
            invited: 0,
            in_seq: 0,
            in_slot: 0,
            in_slots: (1, 1),
            keys: HashMap::new(),
            query: None,
            denied: None,
            rnr: None,
            reads: 0,
            inline_next: 0,
            inline_end: [0; msg::INLINE_SLOTS],
            waiting_since: 0,
            rx_seq: 0,
            rx_line: 0,
            freed: 0,
            executed: 0,
            posted: 0,
            armed: 0,
            cold: true,
            nak: (0, 0, 0),
            ack_dirty: false,
            ack_wake: false,
            out_seq: 0,
            out_slot: 0,
            inbound: VecDeque::new(),
            responses: VecDeque::new(),
            revoke_queue: VecDeque::new(),
            revoking: None,
            revoked: Vec::new(),
            rnr_blocked: false,
            invalidating: false,
            read_end: None,
            invalidated: None,
            established: false,
            drop_at: 0,
            srqn: 0,
            failed_here: false,
            peer_left: false,
            outlived: 0,
            successor: None,
            closing: false,
            dead: false,
            unrung: false,
        }
    }

    /// The type of our QP and where its receives come from, for the HELLO.
    pub fn announce(&mut self, qp_type: u32, shared_receives: bool) {
        self.features = match qp_type {
            qpt::UC => msg::feature::UC,
            qpt::XRC_INI => msg::feature::XRC_INI,
            qpt::XRC_TGT => msg::feature::XRC_TGT,
            _ => 0,
        };
        if shared_receives {
            self.features |= msg::feature::SHARED_RECEIVES;
        }
    }

    /// The peer's count of posted receives is for this connection alone.
    pub fn counts_receives(&self) -> bool {
        self.hello
            .is_some_and(|h| h.features & msg::feature::SHARED_RECEIVES == 0)
    }

    /// Unacknowledged requests.
    #[inline]
    pub fn outstanding(&self) -> u32 {
        self.tx_seq.wrapping_sub(self.ack.acked)
    }

    /// Anything that only the peer can bring forward.
    pub fn waiting(&self) -> bool {
        self.outstanding() != 0
            || self.expected != 0
            || self.invited != 0
            || self.revoking.is_some()
            || super::uc::holds_message(self)
            || self.invalidating
            || !self.responses.is_empty()
            || !self.revoked.is_empty()
    }

    /// Lines per response slot: a CTS lists as many SGEs as its writer's receives may have.
    fn slot_lines(max_recv_sge: u32) -> u32 {
        msg::lines_for(16 * (max_recv_sge.clamp(1, msg::MAX_SGE as u32)) as usize).max(1)
    }

    fn out_slots(&self) -> (u32, u32) {
        let lines = Conn::slot_lines(self.max_recv_sge);
        (lines, msg::RESPONSE_LINES / lines)
    }

    /// Places of our response ring for each purpose. Two stay for revocation and its acknowledgement; requests of ours may take one half of
    /// the others and payloads of the peer the other half: were they to share, two ends full of requests could answer none (hazard 8).
    fn half(&self) -> u32 {
        self.in_slots.1.saturating_sub(2) / 2
    }

    /// May we ask for one more response?
    pub fn may_expect(&self) -> bool {
        self.hello.is_some() && self.expected < self.half()
    }

    /// May we let the peer send one more payload, whose FIN takes a place?
    pub fn may_invite(&self) -> bool {
        self.hello.is_some() && self.invited < self.half()
    }

    #[inline]
    fn write<N: Nic>(
        &mut self,
        nic: &mut N,
        qp: &mut NativeQp,
        local: u64,
        remote: u64,
        len: u32,
        tag: u32,
        notify: bool,
    ) {
        let local_done = self.closing || qp.pi.wrapping_sub(qp.notified) >= RING_ENTRIES / 4;
        nic.post(
            qp,
            &Write {
                local,
                remote,
                len,
                tag,
                notify_remote: notify,
                notify_local: local_done,
            },
        );
        self.unrung = true;
    }

    /// Nothing has changed since the last pump and nothing of ours waits: what a polling program asks most of the time.
    #[inline]
    pub fn quiet(&self) -> bool {
        self.hello_sent
            && self.hello.is_some()
            && self.win.load64(msg::ACK) == self.heard[0]
            && self.win.load64(msg::ACK + 8) == self.heard[1]
            && self.win.load64(msg::ACK + 16) == self.heard[2]
            && !self.request_waits()
            && !self.response_waits()
            && !(self.ack_dirty || self.unrung || self.dead)
            && self.responses.is_empty()
            && self.revoke_queue.is_empty()
            && self.revoked.is_empty()
    }

    /// Tests: as if `by` requests had gone from here to the peer (`sends`) or from there to us, all of them executed and
    /// acknowledged, and none with a notification. `by` is a multiple of the native ring.
    #[cfg(test)]
    pub fn age(&mut self, qp: &mut NativeQp, by: u32, sends: bool) {
        if sends {
            self.tx_seq = self.tx_seq.wrapping_add(by);
            self.ack.acked = self.ack.acked.wrapping_add(by);
            self.heard = self.ack.words();
            self.win.store64(msg::ACK, self.heard[0]);
            for n in [&mut qp.pi, &mut qp.ci, &mut qp.notified, &mut qp.rung] {
                *n = n.wrapping_add(by);
            }
        } else {
            self.rx_seq = self.rx_seq.wrapping_add(by);
            self.executed = self.executed.wrapping_add(by);
        }
    }
}
