//! The message protocol that turns SEND, READ, atomics and the rest into native WRITEs. It does no I/O of its own, knows no clock and no
//! device but the [`crate::native::Nic`] trait, and has no unsafe.

pub mod conn;
pub mod msg;
pub mod requester;
pub mod responder;
pub mod uc;

use crate::native::Nic;
use crate::verbs::qp::{Env, Qp};
use crate::verbs::types::Errno;
use conn::Conn;

/// Everything that one connection can do now: hear, execute, answer, issue, complete. True when there was news from the peer.
#[inline]
pub fn pump<N: Nic>(qp: &mut Qp, env: &mut Env<N>) -> bool {
    // Most looks find nothing: see so without touching more than the lines that the peer writes.
    let waits = qp.sq.issued != qp.sq.tail || std::mem::take(&mut qp.nudged);
    if !waits && qp.conn.as_ref().is_none_or(|c| c.quiet()) {
        return false;
    }
    let Some(mut c) = qp.conn.take() else {
        return false;
    };
    let news = pump_conn(qp, &mut c, env);
    let dead = c.dead;
    qp.conn = Some(c);
    if dead {
        qp.connection_over(env);
    }
    news
}

#[inline]
fn pump_conn<N: Nic>(qp: &mut Qp, c: &mut Conn, env: &mut Env<N>) -> bool {
    match c.hear_hello() {
        Ok(true) => {
            // Who is spoken to answers: the peer needs our HELLO before it may ask for anything.
            if !c.hello_sent && qp.native.free_slots() > 1 {
                c.say_hello(&mut env.nic, &mut qp.native);
            }
        }
        Ok(false) => {}
        Err(Errno(_)) => c.dead = true,
    }
    let mut news = requester::hear_acks(qp, c, env);
    if !c.dead {
        for _ in 0..64 {
            let Some((h, p)) = c.next_response() else {
                break;
            };
            news = true;
            c.consumed_response(&h);
            if !requester::response(qp, c, env, &h, p) {
                log::error!(
                    "QP {:#x}: response {} of kind {} makes no sense",
                    qp.number(),
                    h.seq,
                    h.kind
                );
                requester::fatal(qp, c, env, kernel_abi::verbs::wc_status::BAD_RESP_ERR);
                break;
            }
        }
    }
    if !c.dead {
        news |= responder::pump(qp, c, env);
    }
    if !c.revoke_queue.is_empty() || !c.revoked.is_empty() || c.invalidating {
        responder::revocations(qp, c, env);
    }
    if !c.responses.is_empty() {
        responder::answer(qp, c, env);
    }
    // The ack goes out before any completion is returned (hazard 4).
    c.flush_ack(&mut env.nic, &mut qp.native);
    if !c.dead {
        requester::pump(qp, c, env);
    }
    requester::ring(qp, c, env);
    // A NAK that ends the connection goes with it unless it has been written before (hazard 4).
    c.dead |= c.closing && !c.ack_dirty && qp.native.ci == qp.native.pi;
    news
}

/// Issues what was just posted, without looking for news.
#[inline]
pub fn push<N: Nic>(qp: &mut Qp, env: &mut Env<N>) {
    let Some(mut c) = qp.conn.take() else { return };
    requester::pump(qp, &mut c, env);
    requester::ring(qp, &mut c, env);
    let dead = c.dead;
    qp.conn = Some(c);
    if dead {
        qp.connection_over(env);
    }
}
