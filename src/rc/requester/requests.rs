//! The operations: each work request becomes messages and WRITEs, or waits, or fails.

use super::keys::{check_remote, resolve, violation};
use super::{Issue, gather, message_flags, pieces_of};
use crate::native::{Nic, RING_ENTRIES, Write};
use crate::rc::conn::Conn;
use crate::rc::msg::{self, flag, kind};
use crate::rc::uc;
use crate::verbs::mw::{BindRequest, Step};
use crate::verbs::qp::{Env, Qp};
use crate::verbs::queue::Stage;
use kernel_abi::verbs::{access, send_flag, wc_status, wr_opcode};

#[inline]
pub(super) fn send<N: Nic>(qp: &mut Qp, c: &mut Conn, env: &mut Env<N>, i: u32) -> Issue {
    let e = *qp.sq.at(i);
    if e.len > 1 << 30 {
        return Issue::Fail(wc_status::LOC_LEN_ERR);
    }
    let flags = message_flags(qp, env, i);
    let len = e.len as usize;
    if len <= msg::EAGER_MAX {
        let Some(off) = c.begin(&mut env.nic, &mut qp.native, len) else {
            return Issue::Wait;
        };
        if let Err(status) = gather(qp, c, env, i, off + msg::HEADER) {
            return Issue::Fail(status);
        }
        let seq = c.commit(
            &mut env.nic,
            &mut qp.native,
            off,
            kind::SEND,
            flags,
            len as u32,
            e.imm,
            len,
        );
        mark_send(qp, c, i, seq, uc::sent(qp));
    } else {
        if let Err(status) = pieces_of(qp, env, i, false) {
            return Issue::Fail(status);
        }
        if !c.may_expect() {
            c.say_hello(&mut env.nic, &mut qp.native);
            return Issue::Wait;
        }
        let Some(off) = c.begin(&mut env.nic, &mut qp.native, 0) else {
            return Issue::Wait;
        };
        let seq = c.commit(
            &mut env.nic,
            &mut qp.native,
            off,
            kind::RTS,
            flags,
            e.len as u32,
            e.imm,
            0,
        );
        c.expected += 1;
        mark_send(qp, c, i, seq, Stage::Rendezvous);
    }
    Issue::Done
}

/// Binds a memory window; everything behind it waits (IBTA 10.6.6.2).
pub(super) fn bind<N: Nic>(qp: &mut Qp, env: &mut Env<N>, i: u32) -> Issue {
    let e = *qp.sq.at(i);
    let request = BindRequest {
        new_key: e.rkey,
        mr_key: e.imm,
        addr: e.remote_addr,
        len: e.compare,
        access: e.swap as u32,
    };
    let step = env.bind(qp.handle, qp.pd, &request);
    settle_step(qp, i, step, wc_status::MW_BIND_ERR)
}

pub(super) fn invalidate<N: Nic>(qp: &mut Qp, env: &mut Env<N>, i: u32) -> Issue {
    let key = qp.sq.at(i).imm;
    let step = env.invalidate(key, qp.handle, qp.pd, None);
    settle_step(qp, i, step, wc_status::LOC_QP_OP_ERR)
}

fn settle_step(qp: &mut Qp, i: u32, step: Step, status: u32) -> Issue {
    match step {
        Step::Done => {
            qp.sq.at_mut(i).stage = Stage::Done;
            Issue::Done
        }
        Step::Wait => {
            qp.sq.at_mut(i).stage = Stage::Key;
            Issue::Wait
        }
        Step::Refused => Issue::Fail(status),
    }
}

fn mark_send(qp: &mut Qp, c: &mut Conn, i: u32, seq: u32, stage: Stage) {
    let e = qp.sq.at_mut(i);
    e.seq = seq;
    e.stage = stage;
    if e.opcode == wr_opcode::SEND_WITH_INV {
        // The owner does not tell the QP that asked for it.
        c.keys.remove(&e.imm);
    }
    c.last_send = Some(seq);
    c.receives_used = c.receives_used.wrapping_add(1);
}

/// Hazard 3: data may not overtake a SEND that has not been executed; an IMM only needs its receive.
fn write_may_pass(c: &Conn) -> bool {
    let sends_done = c.last_send.is_none_or(|s| msg::reached(c.ack.acked, s));
    let imms_done = c.last_imm.is_none_or(|s| msg::reached(c.ack.acked, s))
        || (c.counts_receives() && msg::reached(c.ack.posted, c.receives_used));
    sends_done && imms_done
}

#[inline]
pub(super) fn write<N: Nic>(
    qp: &mut Qp,
    c: &mut Conn,
    env: &mut Env<N>,
    i: u32,
    imm: bool,
) -> Issue {
    let e = *qp.sq.at(i);
    if e.len > 1 << 30 {
        return Issue::Fail(wc_status::LOC_LEN_ERR);
    }
    if e.len != 0 && e.stage != Stage::Native {
        if !write_may_pass(c) {
            return Issue::Wait;
        }
        // The key: from the cache, or asked for.
        let key = match resolve(qp, c, env, i, access::REMOTE_WRITE) {
            Ok(k) => k,
            Err(v) => return v,
        };
        let remote = match check_remote(&key, e.remote_addr, e.len, access::REMOTE_WRITE) {
            Some(r) => r,
            None if uc::is(qp) => return dropped(qp, i),
            None => return violation(qp, c, env),
        };
        if let Err(v) = write_data(qp, c, env, i, remote, !imm || uc::is(qp)) {
            return v;
        }
        let end = qp.native.pi;
        let s = qp.sq.at_mut(i);
        s.native_end = end;
        s.stage = Stage::Native;
        if !imm {
            return Issue::Done;
        }
    }
    // The message behind the data, or instead of it.
    let flags = message_flags(qp, env, i);
    let Some(off) = c.begin(&mut env.nic, &mut qp.native, 0) else {
        return Issue::Wait;
    };
    let kind = if imm { kind::IMM } else { kind::NOP };
    let seq = c.commit(
        &mut env.nic,
        &mut qp.native,
        off,
        kind,
        flags,
        e.len as u32,
        e.imm,
        0,
    );
    if imm {
        c.last_imm = Some(seq);
        c.receives_used = c.receives_used.wrapping_add(1);
    }
    let stage = if uc::is(qp) && e.len != 0 {
        Stage::Native
    } else {
        uc::sent(qp)
    };
    let s = qp.sq.at_mut(i);
    s.seq = seq;
    s.stage = stage;
    Issue::Done
}

/// UC: nothing goes out, and nobody hears of it.
pub(super) fn dropped(qp: &mut Qp, i: u32) -> Issue {
    qp.sq.at_mut(i).stage = Stage::Done;
    Issue::Done
}

/// Posts the WRITEs of request `i` to `remote`.
fn write_data<N: Nic>(
    qp: &mut Qp,
    c: &mut Conn,
    env: &mut Env<N>,
    i: u32,
    mut remote: u64,
    completes: bool,
) -> Result<(), Issue> {
    let e = *qp.sq.at(i);
    if qp.native.free_for_requests() < msg::MAX_SGE as u32 + 1 {
        return Err(Issue::Wait);
    }
    if e.flags & send_flag::INLINE != 0 {
        let slot = c.inline_next;
        if qp.native.is_under_way(c.inline_end[slot]) {
            return Err(Issue::Wait);
        }
        let off = msg::STAGE_INLINE + slot * msg::INLINE_MAX;
        c.win.put(off, qp.sq.inline(i));
        // Always with a local completion: it frees the slot.
        post_write(qp, c, env, c.base + off as u64, remote, e.len, true);
        c.inline_end[slot] = qp.native.pi;
        c.inline_next = (slot + 1) % msg::INLINE_SLOTS;
        return Ok(());
    }
    let list = pieces_of(qp, env, i, false).map_err(Issue::Fail)?;
    let n = list.len();
    for (k, (device, len)) in list.into_iter().enumerate() {
        post_write(qp, c, env, device, remote, len, completes && k + 1 == n);
        remote = remote.wrapping_add(len);
    }
    Ok(())
}

fn post_write<N: Nic>(
    qp: &mut Qp,
    c: &mut Conn,
    env: &mut Env<N>,
    local: u64,
    remote: u64,
    len: u64,
    completes: bool,
) {
    let near_full = qp.native.pi.wrapping_sub(qp.native.notified) >= RING_ENTRIES / 4;
    env.nic.post(
        &mut qp.native,
        &Write {
            local,
            remote,
            len: len as u32,
            tag: 0,
            notify_remote: false,
            notify_local: completes || near_full,
        },
    );
    c.unrung = true;
}

pub(super) fn read<N: Nic>(qp: &mut Qp, c: &mut Conn, env: &mut Env<N>, i: u32) -> Issue {
    let e = *qp.sq.at(i);
    if e.len > 1 << 30 {
        return Issue::Fail(wc_status::LOC_LEN_ERR);
    }
    let list = match pieces_of(qp, env, i, true) {
        Ok(l) => l,
        Err(s) => return Issue::Fail(s),
    };
    if c.reads >= u32::from(qp.attr.max_rd_atomic).max(1) || !c.may_expect() {
        c.say_hello(&mut env.nic, &mut qp.native);
        return Issue::Wait;
    }
    let bytes = 16 + 16 * list.len();
    let Some(off) = c.begin(&mut env.nic, &mut qp.native, bytes) else {
        return Issue::Wait;
    };
    let p = off + msg::HEADER;
    c.win.store64(p, e.remote_addr);
    c.win.store64(p + 8, e.len);
    for (k, (device, len)) in list.iter().enumerate() {
        c.win.store64(p + 16 + 16 * k, *device);
        c.win.store64(p + 24 + 16 * k, *len);
    }
    let f = message_flags(qp, env, i) & flag::WAKE;
    let seq = c.commit(
        &mut env.nic,
        &mut qp.native,
        off,
        kind::READ,
        f,
        bytes as u32,
        e.rkey,
        bytes,
    );
    answer_expected(qp, c, i, seq)
}

pub(super) fn atomic<N: Nic>(qp: &mut Qp, c: &mut Conn, env: &mut Env<N>, i: u32) -> Issue {
    let e = *qp.sq.at(i);
    if e.len != 8 {
        return Issue::Fail(wc_status::LOC_LEN_ERR);
    }
    if let Err(s) = pieces_of(qp, env, i, true) {
        return Issue::Fail(s);
    }
    if c.reads >= u32::from(qp.attr.max_rd_atomic).max(1) || !c.may_expect() {
        c.say_hello(&mut env.nic, &mut qp.native);
        return Issue::Wait;
    }
    let Some(off) = c.begin(&mut env.nic, &mut qp.native, 24) else {
        return Issue::Wait;
    };
    let p = off + msg::HEADER;
    c.win.store64(p, e.remote_addr);
    c.win.store64(p + 8, e.compare);
    c.win.store64(p + 16, e.swap);
    let kind = if e.opcode == wr_opcode::ATOMIC_CMP_AND_SWP {
        kind::CAS
    } else {
        kind::FETCH_ADD
    };
    let f = message_flags(qp, env, i) & flag::WAKE;
    let seq = c.commit(&mut env.nic, &mut qp.native, off, kind, f, 24, e.rkey, 24);
    answer_expected(qp, c, i, seq)
}

/// Eight bytes that the owner stores at once; complete when acknowledged.
pub(super) fn atomic_write<N: Nic>(qp: &mut Qp, c: &mut Conn, env: &mut Env<N>, i: u32) -> Issue {
    let e = *qp.sq.at(i);
    // Without SGEs the request itself holds the value.
    let whole = e.nsge == 0 && e.flags & send_flag::INLINE == 0;
    if !whole && e.len != 8 {
        return Issue::Fail(wc_status::LOC_LEN_ERR);
    }
    let Some(off) = c.begin(&mut env.nic, &mut qp.native, 16) else {
        return Issue::Wait;
    };
    let p = off + msg::HEADER;
    c.win.store64(p, e.remote_addr);
    if whole {
        c.win.store64(p + 8, e.swap);
    } else if let Err(status) = gather(qp, c, env, i, p + 8) {
        return Issue::Fail(status);
    }
    let f = message_flags(qp, env, i) & flag::WAKE;
    let seq = c.commit(
        &mut env.nic,
        &mut qp.native,
        off,
        kind::ATOMIC_WRITE,
        f,
        16,
        e.rkey,
        16,
    );
    // A WRITE behind it would go before the owner has looked.
    c.last_send = Some(seq);
    let s = qp.sq.at_mut(i);
    s.seq = seq;
    s.stage = Stage::Ack;
    Issue::Done
}

fn answer_expected(qp: &mut Qp, c: &mut Conn, i: u32, seq: u32) -> Issue {
    c.expected += 1;
    c.reads += 1;
    let s = qp.sq.at_mut(i);
    s.seq = seq;
    s.stage = Stage::Answer;
    Issue::Done
}
