//! What unreliable connections do differently: nobody waits for the peer's software, nothing that the peer does fails the sender, and a
//! message without a receive is dropped (IBTA 9.8.2). The messages and their order are those of RC.

use super::conn::Conn;
use super::msg::{self, kind};
use crate::native::Nic;
use crate::verbs::qp::{Env, Qp};
use crate::verbs::queue::Stage;
use kernel_abi::verbs::{qps, qpt, wc_status};

/// How long a message waits for a receive before it is dropped: as if it had been that long on its way. A sender that shares
/// processors with the receiver comes to its messages by the receiver's time slice, which a wire does not: a shorter wait would drop what a busy
/// machine has only delayed (`ib_send_bw -c UC -r 1`).
pub const GRACE_NS: u64 = 500_000_000;

/// A peer that has not answered the native connection for so long is gone for a UC sender: it must not hold up what waits.
const SILENCE_US: u64 = 500_000;

/// How often a connection may make way for a peer that began anew.
const RETURN_NS: u64 = 10_000_000;

/// Is it long enough ago that this QP was connected anew by itself?
pub fn may_return(qp: &Qp, now: u64) -> bool {
    qp.revived == 0 || now.saturating_sub(qp.revived) >= RETURN_NS
}

/// Is it time to stop waiting for the peer?
pub fn gave_up<N: Nic>(qp: &Qp, c: &Conn, env: &Env<N>) -> bool {
    is(qp)
        && (c.waiting() || qp.sq.issued != qp.sq.tail)
        && env.nic.stalled_us(&qp.native) > SILENCE_US
}

/// `Conn::drop_at` of a connection that drops at once until a receive is posted.
const DROPPING: u64 = 1;

#[inline]
pub fn is(qp: &Qp) -> bool {
    qp.qp_type == qpt::UC
}

/// When a SEND that has gone out is complete.
#[inline]
pub fn sent(qp: &Qp) -> Stage {
    if is(qp) { Stage::Done } else { Stage::Ack }
}

/// No receive for a message: true when it is to be dropped now, false when it still waits.
pub fn drop_without_receive<N: Nic>(c: &mut Conn, env: &Env<N>) -> bool {
    if c.drop_at == DROPPING {
        return true;
    }
    let now = env.nic.now();
    if c.drop_at == 0 {
        c.drop_at = now + GRACE_NS;
        c.rnr_blocked = true;
    } else if now >= c.drop_at {
        c.drop_at = DROPPING;
        return true;
    }
    false
}

/// A message waits for a receive or its end.
#[inline]
pub fn holds_message(c: &Conn) -> bool {
    c.drop_at > DROPPING
}

/// A rendezvous whose RTS was executed without a CTS: it was dropped.
pub fn was_dropped(qp: &Qp, c: &mut Conn, seq: u32) -> bool {
    let dropped = is(qp) && msg::reached(c.ack.acked, seq);
    if dropped {
        c.expected = c.expected.saturating_sub(1);
    }
    dropped
}

/// The responder has no more to say than that it looked: a key query needs its answer all the same.
pub fn refuse(c: &mut Conn, kind_of: u8, key: u32) {
    if kind_of == kind::KEY_QUERY {
        c.responses.push_back(super::conn::Response::Key {
            rkey: key,
            status: 1,
            key: super::conn::RemoteKey {
                iova: 0,
                len: 0,
                device: 0,
                access: 0,
            },
        });
    }
}

impl Qp {
    /// The protocol has given the connection up. Only what failed here is an error of a UC QP; the rest is silence.
    pub fn connection_over<N: Nic>(&mut self, env: &mut Env<N>) {
        let failed_here = self.conn.as_ref().is_some_and(|c| c.failed_here);
        if is(self) && !failed_here {
            self.fall_silent(env);
        } else if self
            .conn
            .as_ref()
            .is_some_and(|c| c.peer_left && !c.closing)
        {
            self.stop(env);
        } else {
            self.enter_error(env);
        }
    }

    /// The peer is gone and a UC QP does not notice: what it has sent counts as sent, receives that were under way are free again.
    pub fn fall_silent<N: Nic>(&mut self, env: &mut Env<N>) {
        let another = self.conn.as_ref().is_some_and(|c| c.successor.is_some());
        self.stop(env);
        while self.sq.head != self.sq.issued {
            let e = self.sq.at(self.sq.head);
            if e.stage == Stage::Failed {
                self.enter_sqe(env);
                break;
            }
            self.complete_send(env, wc_status::SUCCESS);
        }
        // What was not issued yet is for the next peer, if there is one.
        if !another {
            self.send_into_the_void(env);
        }
        if self.source.is_none() {
            self.rq.give_back();
        }
        self.flush_taken(env);
    }

    /// Shared receives that messages had taken and did not complete.
    fn flush_taken<N: Nic>(&mut self, env: &mut Env<N>) {
        if self.source.is_some() {
            self.flush_receives(env);
        } else {
            self.complete_receives(env);
        }
    }

    /// A send failed here: the send queue stops, receiving goes on (IBTA 10.3.1.4).
    pub fn enter_sqe<N: Nic>(&mut self, env: &mut Env<N>) {
        self.state = qps::SQE;
        self.attr.qp_state = qps::SQE;
        self.note_state(env);
        self.halted = true;
        self.flush_sends(env);
    }

    /// What a UC QP without a peer sends is lost, successfully.
    pub fn send_into_the_void<N: Nic>(&mut self, env: &mut Env<N>) {
        while self.state == qps::RTS && self.sq.head != self.sq.tail {
            if self.sq.head == self.sq.issued {
                self.sq.issued = self.sq.issued.wrapping_add(1);
            }
            self.complete_send(env, wc_status::SUCCESS);
        }
    }
}
