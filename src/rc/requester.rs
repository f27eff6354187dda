//! The requester half: work requests become messages and WRITEs, acknowledgements become completions.

use super::conn::{Conn, RemoteKey, Response, Rnr};
use super::msg::{self, flag, kind, nak};
use super::uc;
use crate::native::{Nic, Write};
use crate::verbs::mw::{BindRequest, Step};
use crate::verbs::qp::{Env, Qp};
use crate::verbs::queue::Stage;
use kernel_abi::verbs::{access, event, qps, qpt, send_flag, wc_status, wr_opcode};

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
    if qp.tell_drained && qp.state == qps::SQD && qp.is_drained() {
        qp.tell_drained = false;
        env.events.push(crate::verbs::qp::AsyncEvent {
            element: qp.cookie,
            event: event::SQ_DRAINED,
        });
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

#[inline]
fn send<N: Nic>(qp: &mut Qp, c: &mut Conn, env: &mut Env<N>, i: u32) -> Issue {
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
fn bind<N: Nic>(qp: &mut Qp, env: &mut Env<N>, i: u32) -> Issue {
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

fn invalidate<N: Nic>(qp: &mut Qp, env: &mut Env<N>, i: u32) -> Issue {
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

/// Hazard 3: data may not overtake a SEND that has not been executed; an IMM only needs its receive.
fn write_may_pass(c: &Conn) -> bool {
    let sends_done = c.last_send.is_none_or(|s| msg::reached(c.ack.acked, s));
    let imms_done = c.last_imm.is_none_or(|s| msg::reached(c.ack.acked, s))
        || (c.counts_receives() && msg::reached(c.ack.posted, c.receives_used));
    sends_done && imms_done
}

fn write<N: Nic>(qp: &mut Qp, c: &mut Conn, env: &mut Env<N>, i: u32, imm: bool) -> Issue {
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
fn dropped(qp: &mut Qp, i: u32) -> Issue {
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
        if !msg::reached(qp.native.ci, c.inline_end[slot]) {
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
    let near_full =
        qp.native.pi.wrapping_sub(qp.native.notified) >= crate::native::RING_ENTRIES / 4;
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

/// Remote device address of a range under a resolved key.
fn check_remote(k: &RemoteKey, addr: u64, len: u64, need: u32) -> Option<u64> {
    let off = addr.wrapping_sub(k.iova);
    (inside(k, addr, len) && k.access & need == need).then(|| k.device.wrapping_add(off))
}

fn inside(k: &RemoteKey, addr: u64, len: u64) -> bool {
    let off = addr.wrapping_sub(k.iova);
    addr >= k.iova && off.checked_add(len).is_some_and(|end| end <= k.len)
}

/// The remote key of request `i`; asks the owner at first use.
fn resolve<N: Nic>(
    qp: &mut Qp,
    c: &mut Conn,
    env: &mut Env<N>,
    i: u32,
    need: u32,
) -> Result<RemoteKey, Issue> {
    let e = *qp.sq.at(i);
    if let Some(k) = c.keys.get(&e.rkey)
        && (k.access & msg::PARTIAL == 0 || inside(k, e.remote_addr, e.len))
    {
        return Ok(*k);
    }
    if c.query == Some(e.rkey) {
        return Err(Issue::Wait);
    }
    if c.denied.take() == Some(e.rkey) {
        return Err(dropped(qp, i));
    }
    if !c.may_expect() {
        c.say_hello(&mut env.nic, &mut qp.native);
        return Err(Issue::Wait);
    }
    let Some(off) = c.begin(&mut env.nic, &mut qp.native, 16) else {
        return Err(Issue::Wait);
    };
    c.win.store64(off + msg::HEADER, e.remote_addr);
    c.win
        .store64(off + msg::HEADER + 8, e.len | u64::from(need) << 32);
    let f = message_flags(qp, env, i) & flag::WAKE;
    c.commit(
        &mut env.nic,
        &mut qp.native,
        off,
        kind::KEY_QUERY,
        f,
        16,
        e.rkey,
        16,
    );
    c.expected += 1;
    c.query = Some(e.rkey);
    qp.sq.at_mut(i).stage = Stage::Key;
    Err(Issue::Wait)
}

/// The requester itself sees that the responder must refuse: it is told, so that both QPs end in error as on the wire.
fn violation<N: Nic>(qp: &mut Qp, c: &mut Conn, env: &mut Env<N>) -> Issue {
    let Some(off) = c.begin(&mut env.nic, &mut qp.native, 0) else {
        return Issue::Wait;
    };
    c.commit(
        &mut env.nic,
        &mut qp.native,
        off,
        kind::VIOLATION,
        0,
        0,
        u32::from(nak::REMOTE_ACCESS),
        0,
    );
    // The responder's NAK for this request fails it: until then it waits as if acknowledged later.
    let seq = c.tx_seq;
    let i = qp.sq.issued;
    let e = qp.sq.at_mut(i);
    e.seq = seq;
    e.stage = Stage::Ack;
    qp.halted = true;
    Issue::Done
}

fn read<N: Nic>(qp: &mut Qp, c: &mut Conn, env: &mut Env<N>, i: u32) -> Issue {
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

fn atomic<N: Nic>(qp: &mut Qp, c: &mut Conn, env: &mut Env<N>, i: u32) -> Issue {
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
fn atomic_write<N: Nic>(qp: &mut Qp, c: &mut Conn, env: &mut Env<N>, i: u32) -> Issue {
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
        env.events.push(crate::verbs::qp::AsyncEvent {
            element: qp.cookie,
            event: event::QP_FATAL,
        });
    }
    c.dead = true;
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
    if !c.dead && c.waiting() && qp.attr.timeout != 0 {
        // IBTA 9.7.6.1.3: 4.096 us * 2^timeout, retried; never less than a busy machine needs to run the peer's modify_qp.
        let period = 4096u64 << qp.attr.timeout.min(31);
        let limit_us =
            (period.saturating_mul(u64::from(qp.attr.retry_cnt) + 1) / 1000).max(200_000);
        let stalled = env.nic.stalled_us(&qp.native);
        if stalled > limit_us {
            fatal(qp, c, env, wc_status::RETRY_EXC_ERR);
        }
    }
}

/// A response arrived in our response ring. False: malformed.
pub fn response<N: Nic>(
    qp: &mut Qp,
    c: &mut Conn,
    env: &mut Env<N>,
    h: &msg::Header,
    p: usize,
) -> bool {
    let taken = match h.kind {
        kind::REVOKE => {
            c.keys.remove(&h.aux);
            c.revoked.push((h.aux, qp.native.pi));
            return true;
        }
        kind::REVOKED => {
            if c.revoking == Some(h.aux) {
                c.revoking = None;
                env.revocation_done(h.aux);
            }
            return true;
        }
        kind::CTS => cts(qp, c, env, h, p),
        kind::KEY => {
            if c.query != Some(h.aux) {
                return false;
            }
            c.query = None;
            let status = c.win.load32(p);
            if status == 0 {
                let key = RemoteKey {
                    access: c.win.load32(p + 4),
                    iova: c.win.load64(p + 8),
                    len: c.win.load64(p + 16),
                    device: c.win.load64(p + 24),
                };
                if c.keys.len() > 4096 {
                    c.keys.clear();
                }
                c.keys.insert(h.aux, key);
            }
            // A refusal comes with a NAK in the ack line, which names the request; to UC it comes alone.
            if status != 0 {
                c.denied = Some(h.aux);
            }
            true
        }
        kind::READ_DONE => answered(qp, c, h.aux, None),
        kind::ATOMIC_DONE => {
            let old = c.win.load64(p);
            if let Some(i) = qp.sq.find(h.aux, Stage::Answer) {
                let sge = qp.sq.sges(i).iter().find(|s| s.length != 0).copied();
                if let Some(sge) = sge {
                    let stored = env
                        .mrs
                        .local(qp.pd, &sge, true)
                        .is_ok_and(|place| c.win.get_user(p, place.host, 8).is_ok());
                    if !stored {
                        c.reads = c.reads.saturating_sub(1);
                        fail_entry(qp, i, wc_status::LOC_PROT_ERR);
                        c.expected = c.expected.saturating_sub(1);
                        return true;
                    }
                }
            }
            answered(qp, c, h.aux, Some(old))
        }
        kind::FIN => super::responder::finished(qp, c, env, h.aux),
        _ => false,
    };
    if taken {
        let places = if h.kind == kind::FIN {
            &mut c.invited
        } else {
            &mut c.expected
        };
        *places = places.saturating_sub(1);
    }
    taken
}

fn answered(qp: &mut Qp, c: &mut Conn, seq: u32, _old: Option<u64>) -> bool {
    match qp.sq.find(seq, Stage::Answer) {
        Some(i) => {
            qp.sq.at_mut(i).stage = Stage::Done;
            c.reads = c.reads.saturating_sub(1);
            true
        }
        None => false,
    }
}

/// Clear to send: the payload goes where the receive lies.
fn cts<N: Nic>(qp: &mut Qp, c: &mut Conn, env: &mut Env<N>, h: &msg::Header, p: usize) -> bool {
    let Some(i) = qp.sq.find(h.aux, Stage::Rendezvous) else {
        return false;
    };
    let n = h.len as usize;
    if n > msg::MAX_SGE {
        return false;
    }
    let local = match pieces_of(qp, env, i, false) {
        Ok(l) => l,
        Err(status) => {
            fail_entry(qp, i, status);
            return true;
        }
    };
    let mut pieces = Vec::with_capacity(local.len() + n);
    let mut src = local.into_iter();
    let mut cur = src.next();
    for k in 0..n {
        let (mut remote, mut room) = (c.win.load64(p + 16 * k), c.win.load64(p + 16 * k + 8));
        while room != 0 {
            let Some((dev, left)) = cur else { break };
            let m = left.min(room);
            pieces.push((dev, remote, m));
            remote = remote.wrapping_add(m);
            room -= m;
            cur = if left > m {
                Some((dev + m, left - m))
            } else {
                src.next()
            };
        }
    }
    if cur.is_some() {
        return false; // the peer's list is too short: it lied
    }
    qp.sq.at_mut(i).stage = Stage::Ack;
    c.responses
        .push_back(Response::Payload { seq: h.aux, pieces });
    true
}
