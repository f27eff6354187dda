//! The requester half: work requests become messages and WRITEs, acknowledgements become completions.

mod acknowledgements;
mod answers;
mod keys;
mod requests;

use super::conn::Conn;
use super::msg::{self, flag, kind};
use super::uc;
use crate::native::Nic;
use crate::verbs::qp::{Env, Qp};
use crate::verbs::queue::Stage;
pub use acknowledgements::{fatal, hear_acks, timers, unanswered};
pub use answers::response;
use kernel_abi::verbs::{qps, qpt, send_flag, wc_status, wr_opcode};
use requests::{atomic, atomic_write, bind, invalidate, read, send, write};

/// Verdict on one work request.
enum Issue {
    Done,
    /// Not now; everything behind it waits too.
    Wait,
    /// It can never go: the completion status.
    Fail(u32),
}

/// Issues what may go, in order. May be called at any time.
#[inline]
pub fn pump<N: Nic>(qp: &mut Qp, c: &mut Conn, env: &mut Env<N>) {
    while qp.sq.issued != qp.sq.tail
        && !qp.halted
        && (qp.state == qps::RTS || (qp.state == qps::SQD && qp.begun()))
    {
        match issue(qp, c, env) {
            Issue::Done => qp.sq.issued = qp.sq.issued.wrapping_add(1),
            Issue::Wait => break,
            Issue::Fail(status) => {
                let i = qp.sq.issued;
                qp.sq.issued = i.wrapping_add(1);
                fail_entry(qp, i, status);
            }
        }
    }
    retire(qp, c, env);
    if qp.tell_drained {
        env.events.extend(qp.drained());
    }
}

fn fail_entry(qp: &mut Qp, i: u32, status: u32) {
    let e = qp.sq.at_mut(i);
    e.stage = Stage::Failed;
    e.status = status;
    qp.halted = true;
}

fn issue<N: Nic>(qp: &mut Qp, c: &mut Conn, env: &mut Env<N>) -> Issue {
    let i = qp.sq.issued;
    let e = *qp.sq.at(i);
    if e.flags & send_flag::FENCE != 0 && c.reads != 0 {
        return Issue::Wait;
    }
    if qp.qp_type == qpt::XRC_INI && !address(qp, c, env, i) {
        return Issue::Wait;
    }
    match e.opcode {
        wr_opcode::SEND | wr_opcode::SEND_WITH_IMM | wr_opcode::SEND_WITH_INV => {
            send(qp, c, env, i)
        }
        wr_opcode::RDMA_WRITE => write(qp, c, env, i, false),
        wr_opcode::RDMA_WRITE_WITH_IMM => write(qp, c, env, i, true),
        wr_opcode::RDMA_READ => read(qp, c, env, i),
        wr_opcode::ATOMIC_CMP_AND_SWP | wr_opcode::ATOMIC_FETCH_AND_ADD => atomic(qp, c, env, i),
        wr_opcode::ATOMIC_WRITE => atomic_write(qp, c, env, i),
        wr_opcode::BIND_MW => bind(qp, env, i),
        wr_opcode::LOCAL_INV => invalidate(qp, env, i),
        _ => Issue::Fail(wc_status::LOC_QP_OP_ERR),
    }
}

/// XRC: tells the peer which SRQ request `i` goes to, unless it was the last one. False when there is no room now.
fn address<N: Nic>(qp: &mut Qp, c: &mut Conn, env: &mut Env<N>, i: u32) -> bool {
    let number = qp.sq.srqn(i);
    if number == c.srqn {
        return true;
    }
    let Some(off) = c.begin(&mut env.nic, &mut qp.native, 0) else {
        return false;
    };
    c.commit(
        &mut env.nic,
        &mut qp.native,
        off,
        kind::SRQ,
        0,
        0,
        number,
        0,
    );
    c.srqn = number;
    // What a key allows depends on the PD, which is the SRQ's (IBTA A14).
    c.keys.clear();
    true
}

/// Flags of the message that carries request `i`.
#[inline]
fn message_flags<N: Nic>(qp: &Qp, env: &Env<N>, i: u32) -> u8 {
    let e = qp.sq.at(i);
    let mut f = 0;
    if matches!(
        e.opcode,
        wr_opcode::SEND_WITH_IMM | wr_opcode::RDMA_WRITE_WITH_IMM
    ) {
        f |= flag::IMM;
    }
    if e.opcode == wr_opcode::SEND_WITH_INV {
        f |= flag::INVALIDATE;
    }
    if e.flags & send_flag::SOLICITED != 0 {
        f |= flag::SOLICITED;
    }
    if let Some(Some(cq)) = env.cqs.get(qp.send_cq as usize)
        && cq.arm != crate::verbs::cq::Arm::None
    {
        f |= flag::WAKE;
    }
    f
}

/// Copies the payload of request `i` into staging at `off`.
#[inline]
fn gather<N: Nic>(qp: &Qp, c: &Conn, env: &Env<N>, i: u32, off: usize) -> Result<(), u32> {
    let e = qp.sq.at(i);
    if e.flags & send_flag::INLINE != 0 {
        c.win.put(off, qp.sq.inline(i));
        return Ok(());
    }
    let mut at = off;
    for sge in qp.sq.sges(i) {
        if sge.length == 0 {
            continue;
        }
        let place = env
            .mrs
            .local(qp.pd, sge, false)
            .map_err(|_| wc_status::LOC_PROT_ERR)?;
        c.win
            .put_user(at, place.host, sge.length as usize)
            .map_err(|_| wc_status::LOC_PROT_ERR)?;
        at += sge.length as usize;
    }
    Ok(())
}

/// Local (device address, length) pieces of request `i`, checked now (hazard 7).
fn pieces_of<N: Nic>(
    qp: &Qp,
    env: &Env<N>,
    i: u32,
    to_write: bool,
) -> Result<Vec<(u64, u64)>, u32> {
    let mut v = Vec::with_capacity(qp.sq.sges(i).len());
    for sge in qp.sq.sges(i) {
        if sge.length != 0 {
            let place = env
                .mrs
                .local(qp.pd, sge, to_write)
                .map_err(|_| wc_status::LOC_PROT_ERR)?;
            v.push((place.device, u64::from(sge.length)));
        }
    }
    Ok(v)
}

/// Rings for what was posted; then looks whether the peer has turned cold meanwhile, or behind our back (a WRITE of ours may have
/// been on its way while the peer looked for the last time).
#[inline]
pub fn ring<N: Nic>(qp: &mut Qp, c: &mut Conn, env: &mut Env<N>) {
    if c.unrung {
        env.nic.ring(&mut qp.native);
        c.unrung = false;
    }
    if c.outstanding() != 0 {
        c.recheck(&mut env.nic, &mut qp.native);
    }
}

/// Completes what is done, in order; an entry that failed ends the QP.
#[inline]
pub fn retire<N: Nic>(qp: &mut Qp, c: &mut Conn, env: &mut Env<N>) {
    while qp.sq.head != qp.sq.issued {
        let e = qp.sq.at(qp.sq.head);
        let done = match e.stage {
            Stage::Ack => msg::reached(c.ack.acked, e.seq),
            Stage::Native => msg::reached(qp.native.ci, e.native_end),
            Stage::Done => true,
            Stage::Failed if uc::is(qp) => {
                qp.enter_sqe(env);
                return;
            }
            Stage::Failed => {
                c.dead = true;
                return;
            }
            Stage::Rendezvous => uc::was_dropped(qp, c, e.seq),
            _ => false,
        };
        if !done {
            return;
        }
        qp.complete_send(env, wc_status::SUCCESS);
    }
}
