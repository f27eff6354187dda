//! The peer's ack line, NAKs, retries, and the end of a connection.

use super::{fail_entry, retire};
use crate::native::Nic;
use crate::rc::conn::{Conn, Rnr};
use crate::rc::msg::{self, nak};
use crate::rc::uc;
use crate::verbs::qp::{Env, Qp};
use crate::verbs::queue::Stage;
use kernel_abi::verbs::{event, wc_status};

/// A peer that owes us an answer is probed so often.
const PROBE_NS: u64 = 100_000_000;

/// Looks at the ack line. True when it moved.
#[inline]
pub fn hear_acks<N: Nic>(qp: &mut Qp, c: &mut Conn, env: &mut Env<N>) -> bool {
    let line = msg::AckLine::load(&c.win);
    if line == c.ack || line.echo != c.nonce {
        return false;
    }
    // From another process: what it claims must lie within what we sent.
    if !msg::reached(c.tx_seq, line.acked) || !msg::reached(line.acked, c.ack.acked) {
        log::error!(
            "QP {:#x}: corrupt acknowledgement {} (sent {}, acknowledged {})",
            qp.number(),
            line.acked,
            c.tx_seq,
            c.ack.acked
        );
        fatal(qp, c, env, wc_status::BAD_RESP_ERR);
        return true;
    }
    let moved = line.acked != c.ack.acked;
    c.ack = line;
    c.heard = line.words();
    if moved {
        c.waiting_since = 0;
        // Forgotten when acknowledged: an old number would look like one to come, half a circle later.
        for last in [&mut c.last_send, &mut c.last_imm] {
            if last.is_some_and(|s| msg::reached(line.acked, s)) {
                *last = None;
            }
        }
        if c.rnr.is_some_and(|r| msg::reached(line.acked, r.seq)) {
            c.rnr = None;
        }
    }
    if line.nak_code != 0 && !uc::is(qp) {
        heed_nak(qp, c, env);
    }
    true
}

fn heed_nak<N: Nic>(qp: &mut Qp, c: &mut Conn, env: &mut Env<N>) {
    let line = c.ack;
    if msg::reached(line.acked, line.nak_seq) || !msg::reached(c.tx_seq, line.nak_seq) {
        return; // settled, or not ours
    }
    if line.nak_code == nak::RNR {
        if c.rnr.is_none_or(|r| r.seq != line.nak_seq) {
            let retry = qp.attr.rnr_retry;
            c.rnr = Some(Rnr {
                seq: line.nak_seq,
                deadline: env.nic.now() + msg::rnr_timer_us(line.nak_timer) * 1000,
                left: retry,
            });
            env.timers = true;
            if retry == 0 {
                rnr_exceeded(qp, c, env, line.nak_seq);
            }
        }
        return;
    }
    let status = match line.nak_code {
        nak::INVALID_REQUEST => wc_status::REM_INV_REQ_ERR,
        nak::REMOTE_ACCESS => wc_status::REM_ACCESS_ERR,
        nak::REMOTE_OPERATION => wc_status::REM_OP_ERR,
        _ => wc_status::GENERAL_ERR,
    };
    fail_seq(qp, c, env, line.nak_seq, status);
}

/// The entry whose request has number `seq` (or the first behind it, for a request that served another) fails.
fn fail_seq<N: Nic>(qp: &mut Qp, c: &mut Conn, env: &mut Env<N>, seq: u32, status: u32) {
    retire(qp, c, env);
    let mut i = qp.sq.head;
    while i != qp.sq.tail {
        let e = *qp.sq.at(i);
        // One NAK, one error: this one was heard before and waits for what precedes it.
        if e.stage == Stage::Failed {
            break;
        }
        let started = matches!(e.stage, Stage::Ack | Stage::Rendezvous | Stage::Answer);
        if (started && msg::reached(e.seq, seq)) || matches!(e.stage, Stage::Queued | Stage::Key) {
            if !started && i == qp.sq.issued {
                qp.sq.issued = i.wrapping_add(1);
            }
            fail_entry(qp, i, status);
            break;
        }
        i = i.wrapping_add(1);
    }
    retire(qp, c, env);
}

fn rnr_exceeded<N: Nic>(qp: &mut Qp, c: &mut Conn, env: &mut Env<N>, seq: u32) {
    c.abort_from(&mut env.nic, &mut qp.native, seq);
    c.rnr = None;
    fail_seq(qp, c, env, seq, wc_status::RNR_RETRY_EXC_ERR);
}

/// The connection is lost: the oldest request fails with `status`, or a receiver hears of it by a flush.
pub fn fatal<N: Nic>(qp: &mut Qp, c: &mut Conn, env: &mut Env<N>, status: u32) {
    retire(qp, c, env);
    if uc::is(qp) {
        c.dead = true;
        return;
    }
    if qp.sq.head != qp.sq.tail && !c.dead {
        let head = qp.sq.head;
        if head == qp.sq.issued {
            qp.sq.issued = head.wrapping_add(1);
        }
        fail_entry(qp, head, status);
    } else if !c.dead {
        qp.tell(env, event::QP_FATAL);
    }
    c.dead = true;
}

/// The peer does not answer, whatever became of it. Only requests of the program fail by that: a receiver does not hear of a peer that has
/// left in peace (IBTA 9.7.6.1.3 knows a timer of the requester alone), even if an acknowledgement of ours could not be delivered.
pub fn unanswered<N: Nic>(qp: &mut Qp, c: &mut Conn, env: &mut Env<N>) {
    retire(qp, c, env);
    if qp.sq.is_empty() && !uc::is(qp) {
        c.peer_left = true;
        c.dead = true;
    } else {
        fatal(qp, c, env, wc_status::RETRY_EXC_ERR);
    }
}

/// RNR timers, and the transport's evidence that a peer is gone. `now` in nanoseconds.
pub fn timers<N: Nic>(qp: &mut Qp, c: &mut Conn, env: &mut Env<N>, now: u64) {
    if let Some(r) = c.rnr {
        if now >= r.deadline {
            // The responder still has the message: a retry is another look at it. Seven means for ever (IBTA 9.9.2.1.1).
            if r.left == 0 {
                rnr_exceeded(qp, c, env, r.seq);
            } else {
                let left = if qp.attr.rnr_retry == 7 {
                    7
                } else {
                    r.left - 1
                };
                c.rnr = Some(Rnr {
                    seq: r.seq,
                    deadline: now + msg::rnr_timer_us(c.ack.nak_timer) * 1000,
                    left,
                });
            }
        }
        env.timers = true;
    }
    if uc::gave_up(qp, c, env) {
        c.dead = true;
    }
    if !c.dead
        && let Some(h) = c.newcomer()
    {
        outlived(qp, c, env, h, now);
    }
    // What needs the peer's HELLO first waits for it.
    let waits = c.waiting() || (c.hello.is_none() && c.hello_sent && qp.sq.issued != qp.sq.tail);
    if !c.dead && waits {
        if c.waiting_since == 0 {
            c.waiting_since = now;
        } else if now.saturating_sub(c.waiting_since) >= PROBE_NS
            && msg::reached(qp.native.ci, qp.native.notified)
            && qp.native.free_slots() > 2
        {
            c.waiting_since = now;
            c.probe(&mut env.nic, &mut qp.native);
        }
    }
    if !c.dead
        && waits
        && let Some(limit_us) = patience_us(qp)
        && env.nic.stalled_us(&qp.native) > limit_us
    {
        unanswered(qp, c, env);
    }
}

/// IBTA 9.7.6.1.3: 4.096 us * 2^timeout, retried; never less than a busy machine needs to run the peer's modify_qp. None: for ever.
fn patience_us(qp: &Qp) -> Option<u64> {
    let period = 4096u64 << qp.attr.timeout.min(31);
    let all = period.saturating_mul(u64::from(qp.attr.retry_cnt) + 1) / 1000;
    (qp.attr.timeout != 0).then_some(all.max(200_000))
}

/// The peer's QP was reset and connected again, and this one was not. UC goes on with the new one (IBTA 9.8.2.2: a first packet is good
/// whatever its PSN). On RC no PSN fits any more: requests are retried in vain, and a receiver hears nothing.
fn outlived<N: Nic>(qp: &mut Qp, c: &mut Conn, env: &mut Env<N>, h: msg::Hello, now: u64) {
    match c.adopt(h) {
        Ok(true) => {
            c.outlived = 0;
            qp.nudged = true;
            return;
        }
        Ok(false) => {}
        Err(_) => {
            c.dead = true;
            return;
        }
    }
    if uc::is(qp) {
        env.timers = true;
        if uc::may_return(qp, now) {
            c.successor = Some(h);
            c.dead = true;
        }
        return;
    }
    retire(qp, c, env);
    if c.dead {
        return;
    }
    if c.outlived == 0 {
        c.outlived = now;
    }
    match patience_us(qp) {
        Some(limit_us) if !qp.sq.is_empty() => {
            env.timers = true;
            if now.saturating_sub(c.outlived) / 1000 >= limit_us {
                unanswered(qp, c, env);
            }
        }
        // Nothing of the program's fails by it, or nothing ever does.
        _ => {
            c.peer_left = true;
            c.dead = true;
        }
    }
}
