//! The responder half: requests are executed in order, acknowledged, answered.

use super::conn::{Conn, Inbound, RemoteKey, Response};
use super::msg::{self, Header, flag, kind, nak};
use super::uc;
use crate::native::{Nic, Write, user};
use crate::verbs::mw::Step;
use crate::verbs::qp::{Env, Qp};
use crate::verbs::srq::{NONE, Source, Taken};
use crate::verbs::types::Wc;
use kernel_abi::verbs::{access, event, qps, qpt, wc_flag, wc_opcode, wc_status};

/// What became of a request.
enum Outcome {
    Executed,
    /// Stays at the head of the ring.
    Blocked,
    /// Refused: NAK code; the QP ends in error.
    Refused(u8),
    /// The same for a fault of the receiver's own.
    Broken(u8),
}

/// Most requests per call: a peer that never stops sending cannot hold the caller.
const BATCH: u32 = 64;

/// Executes what has arrived. True when there was anything.
#[inline]
pub fn pump<N: Nic>(qp: &mut Qp, c: &mut Conn, env: &mut Env<N>) -> bool {
    let mut any = false;
    if c.closing {
        return false;
    }
    for _ in 0..BATCH {
        let Some((h, p)) = c.next_request() else {
            break;
        };
        if c.rnr_blocked && c.aborted(h.seq) {
            break;
        }
        match execute(qp, c, env, &h, p) {
            Outcome::Executed => {
                any = true;
                c.consumed(&h);
                if h.kind != kind::PAD {
                    c.rnr_blocked = false;
                }
                if !c.established {
                    c.established = true;
                    if qp.state == qps::RTR {
                        // IBTA 11.6.3.2: the first message may come before the program's last step.
                        tell(qp, env, event::COMM_EST);
                    }
                }
            }
            Outcome::Blocked => break,
            Outcome::Refused(_) if uc::is(qp) => {
                any = true;
                uc::refuse(c, h.kind, h.aux);
                c.consumed(&h);
            }
            Outcome::Refused(code) | Outcome::Broken(code) => {
                any = true;
                c.failed_here = true;
                // Everything before it counts as executed.
                c.executed = h.seq.wrapping_sub(1);
                c.nak = (code, 0, h.seq);
                c.ack_dirty = true;
                c.closing = true;
                qp.halted = true;
                break;
            }
        }
    }
    any
}

fn execute<N: Nic>(qp: &mut Qp, c: &mut Conn, env: &mut Env<N>, h: &Header, p: usize) -> Outcome {
    match h.kind {
        // A large SEND before it is still coming in: it takes effect first (IBTA 9.5).
        kind::READ | kind::CAS | kind::FETCH_ADD | kind::ATOMIC_WRITE if !c.inbound.is_empty() => {
            Outcome::Blocked
        }
        kind::SEND => send(qp, c, env, h, p),
        kind::RTS => rts(qp, c, env, h),
        kind::IMM => imm(qp, c, env, h),
        kind::NOP | kind::PAD => Outcome::Executed,
        kind::SRQ if qp.qp_type == qpt::XRC_TGT => address(qp, c, env, h.aux),
        kind::KEY_QUERY => key_query(qp, c, env, h, p),
        kind::READ => read(qp, c, env, h, p),
        kind::CAS | kind::FETCH_ADD => atomic(qp, c, env, h, p),
        kind::ATOMIC_WRITE => atomic_write(qp, c, env, h, p),
        kind::VIOLATION => {
            tell(qp, env, event::QP_ACCESS_ERR);
            Outcome::Refused(nak::REMOTE_ACCESS)
        }
        _ => {
            tell(qp, env, event::QP_REQ_ERR);
            Outcome::Refused(nak::INVALID_REQUEST)
        }
    }
}

/// The requests behind this one go to SRQ `number`, whose PD judges remote keys too (IBTA A14).
fn address<N: Nic>(qp: &mut Qp, c: &mut Conn, env: &mut Env<N>, number: u32) -> Outcome {
    c.srqn = number;
    qp.pd = match qp.source {
        Some(Source::Domain(d)) => env
            .numbered_srq(d, number)
            .and_then(|h| env.srq(h).ok())
            .map_or(NONE, |s| s.pd),
        _ => NONE,
    };
    Outcome::Executed
}

fn tell<N: Nic>(qp: &Qp, env: &mut Env<N>, event: u32) {
    if uc::is(qp) && event != event::COMM_EST {
        return;
    }
    qp.tell(env, event);
}

/// A receive for a message.
#[inline]
fn receive<N: Nic>(
    qp: &mut Qp,
    c: &mut Conn,
    env: &mut Env<N>,
    h: &Header,
) -> Result<u32, Outcome> {
    match qp.rq.take() {
        Some(r) => Ok(r),
        None => receive_elsewhere(qp, c, env, h),
    }
}

/// The QP's own queue has none: from the SRQ; without one the requester is told to wait (RNR NAK, IBTA 9.7.5.2.8).
fn receive_elsewhere<N: Nic>(
    qp: &mut Qp,
    c: &mut Conn,
    env: &mut Env<N>,
    h: &Header,
) -> Result<u32, Outcome> {
    if qp.source.is_some() {
        match env.take_shared(qp, c.srqn) {
            Taken::Yes(r) => {
                c.drop_at = 0;
                return Ok(r);
            }
            Taken::Later => return Err(Outcome::Blocked),
            Taken::Empty => {}
            Taken::Unknown => {
                tell(qp, env, event::QP_REQ_ERR);
                return Err(Outcome::Refused(nak::INVALID_REQUEST));
            }
        }
    }
    if uc::is(qp) {
        return Err(if uc::drop_without_receive(c, env) {
            Outcome::Executed
        } else {
            Outcome::Blocked
        });
    }
    if !c.rnr_blocked {
        c.rnr_blocked = true;
        c.nak = (nak::RNR, qp.attr.min_rnr_timer, h.seq);
        c.ack_dirty = true;
    }
    Err(Outcome::Blocked)
}

/// The PD of a receive's buffers.
#[inline]
fn receive_pd(qp: &Qp, r: u32) -> u32 {
    qp.rq.home(r).map_or(qp.pd, |h| h.pd)
}

/// A SEND that takes a window's memory away first does so, once: before its receive completes nobody reaches the memory any more. None: go
/// on with the message.
fn invalidated<N: Nic>(qp: &Qp, c: &mut Conn, env: &mut Env<N>, h: &Header) -> Option<Outcome> {
    if h.flags & flag::INVALIDATE == 0 || c.invalidated == Some(h.seq) {
        return None;
    }
    // The data of a READ before it may still be waiting to be written from there.
    if c.read_end
        .is_some_and(|end| msg::reached(qp.native.ci, end))
    {
        c.read_end = None;
    }
    let answering = |r: &Response| matches!(r, Response::Read { .. });
    if c.read_end.is_some() || c.responses.iter().any(answering) {
        c.invalidating = true;
        return Some(Outcome::Blocked);
    }
    // The sender has dropped the key itself.
    match env.invalidate(h.aux, qp.handle, qp.pd, Some(qp.handle)) {
        Step::Done => {
            c.invalidated = Some(h.seq);
            c.invalidating = false;
            None
        }
        Step::Wait => {
            c.invalidating = true;
            Some(Outcome::Blocked)
        }
        Step::Refused => Some(refuse_access(qp, env)),
    }
}

/// Fields that every receive completion has.
fn receive_wc(qp: &Qp, r: u32, h_flags: u8, imm: u32, len: u32) -> Wc {
    let e = qp.rq.at(r);
    let mut wc = Wc {
        wr_id: e.wr_id,
        status: wc_status::SUCCESS,
        opcode: wc_opcode::RECV,
        byte_len: len,
        qp_num: qp.number(),
        src_qp: qp.attr.dest_qp_num,
        ..Wc::default()
    };
    if h_flags & flag::IMM != 0 {
        wc.wc_flags |= wc_flag::WITH_IMM;
        wc.imm_data = imm;
    }
    if h_flags & flag::INVALIDATE != 0 {
        wc.wc_flags |= wc_flag::WITH_INV;
        wc.imm_data = imm;
    }
    wc
}

fn finish_receive<N: Nic>(qp: &mut Qp, env: &mut Env<N>, r: u32, wc: Wc, solicited: bool) {
    if r == qp.rq.head && r != qp.rq.next {
        // In order, as nearly always: it need not be kept.
        let cq = qp.rq.home(r).map_or(qp.recv_cq, |h| h.cq);
        env.complete(cq, wc, solicited);
        qp.rq.head = r.wrapping_add(1);
    } else {
        let e = qp.rq.at_mut(r);
        e.wc = wc;
        e.solicited = solicited;
        e.done = true;
    }
    if qp.rq.head != qp.rq.next {
        qp.complete_receives(env);
    }
}

/// A receive that cannot take its message: its error, and the NAK for the sender.
fn bad_receive<N: Nic>(qp: &mut Qp, env: &mut Env<N>, r: u32, status: u32) -> Outcome {
    let wc = Wc {
        status,
        byte_len: 0,
        ..receive_wc(qp, r, 0, 0, 0)
    };
    finish_receive(qp, env, r, wc, true);
    Outcome::Broken(if status == wc_status::LOC_LEN_ERR {
        nak::INVALID_REQUEST
    } else {
        nak::REMOTE_OPERATION
    })
}

/// The message does not fit its receive. UC drops it and keeps the receive for the next one (IBTA 9.9.3, class D).
fn too_long<N: Nic>(qp: &mut Qp, env: &mut Env<N>, r: u32) -> Outcome {
    if uc::is(qp) && qp.source.is_none() {
        qp.rq.put_back();
        return Outcome::Executed;
    }
    bad_receive(qp, env, r, wc_status::LOC_LEN_ERR)
}

/// Room of a receive in bytes.
fn capacity(qp: &Qp, r: u32) -> u64 {
    qp.rq.sges(r).iter().map(|s| u64::from(s.length)).sum()
}

#[inline]
fn send<N: Nic>(qp: &mut Qp, c: &mut Conn, env: &mut Env<N>, h: &Header, p: usize) -> Outcome {
    let len = h.len as usize;
    if len > msg::EAGER_MAX || msg::lines_for(len) != u32::from(h.lines) {
        tell(qp, env, event::QP_REQ_ERR);
        return Outcome::Refused(nak::INVALID_REQUEST);
    }
    if let Some(outcome) = invalidated(qp, c, env, h) {
        return outcome;
    }
    let r = match receive(qp, c, env, h) {
        Ok(r) => r,
        Err(outcome) => return outcome,
    };
    if u64::from(h.len) > capacity(qp, r) {
        return too_long(qp, env, r);
    }
    let pd = receive_pd(qp, r);
    let (mut left, mut at) = (len, p);
    for k in 0..qp.rq.sges(r).len() {
        let sge = qp.rq.sges(r)[k];
        let n = left.min(sge.length as usize);
        if n == 0 {
            continue;
        }
        let stored = env
            .mrs
            .local(pd, &sge, true)
            .is_ok_and(|place| c.win.get_user(at, place.host, n).is_ok());
        if !stored {
            return bad_receive(qp, env, r, wc_status::LOC_PROT_ERR);
        }
        at += n;
        left -= n;
    }
    let wc = receive_wc(qp, r, h.flags, h.aux, h.len);
    finish_receive(qp, env, r, wc, h.flags & flag::SOLICITED != 0);
    Outcome::Executed
}

/// A large SEND: answer with where the receive lies.
fn rts<N: Nic>(qp: &mut Qp, c: &mut Conn, env: &mut Env<N>, h: &Header) -> Outcome {
    if h.len as usize <= msg::EAGER_MAX || h.len > 1 << 30 {
        tell(qp, env, event::QP_REQ_ERR);
        return Outcome::Refused(nak::INVALID_REQUEST);
    }
    if !c.may_invite() {
        return Outcome::Blocked;
    }
    if let Some(outcome) = invalidated(qp, c, env, h) {
        return outcome;
    }
    let r = match receive(qp, c, env, h) {
        Ok(r) => r,
        Err(outcome) => return outcome,
    };
    if u64::from(h.len) > capacity(qp, r) {
        return too_long(qp, env, r);
    }
    let pd = receive_pd(qp, r);
    let mut left = u64::from(h.len);
    let mut list = Vec::with_capacity(qp.rq.sges(r).len());
    for k in 0..qp.rq.sges(r).len() {
        let sge = qp.rq.sges(r)[k];
        let n = left.min(u64::from(sge.length));
        if n == 0 {
            continue;
        }
        match env.mrs.local(pd, &sge, true) {
            Ok(place) => list.push((place.device, n)),
            Err(_) => return bad_receive(qp, env, r, wc_status::LOC_PROT_ERR),
        }
        left -= n;
    }
    c.inbound.push_back(Inbound {
        seq: h.seq,
        receive: r,
        len: h.len,
        imm: h.aux,
        flags: h.flags,
        finished: false,
    });
    c.invited += 1;
    c.responses.push_back(Response::Cts { seq: h.seq, list });
    Outcome::Executed
}

/// The payload of rendezvous `seq` is in place.
pub fn finished<N: Nic>(qp: &mut Qp, c: &mut Conn, env: &mut Env<N>, seq: u32) -> bool {
    let Some(x) = c.inbound.iter_mut().find(|i| i.seq == seq && !i.finished) else {
        return false;
    };
    x.finished = true;
    let i = *x;
    let wc = receive_wc(qp, i.receive, i.flags, i.imm, i.len);
    finish_receive(qp, env, i.receive, wc, i.flags & flag::SOLICITED != 0);
    while c.inbound.front().is_some_and(|i| i.finished) {
        if let Some(i) = c.inbound.pop_front() {
            c.ack_wake |= i.flags & flag::WAKE != 0;
        }
    }
    c.executed = match c.inbound.front() {
        Some(i) => i.seq.wrapping_sub(1),
        None => c.rx_seq,
    };
    c.ack_dirty = true;
    true
}

fn imm<N: Nic>(qp: &mut Qp, c: &mut Conn, env: &mut Env<N>, h: &Header) -> Outcome {
    let r = match receive(qp, c, env, h) {
        Ok(r) => r,
        Err(outcome) => return outcome,
    };
    let wc = Wc {
        opcode: wc_opcode::RECV_RDMA_WITH_IMM,
        ..receive_wc(qp, r, h.flags | flag::IMM, h.aux, h.len)
    };
    finish_receive(qp, env, r, wc, h.flags & flag::SOLICITED != 0);
    Outcome::Executed
}

/// Checks a remote range: the MR's right, its PD, and what the QP itself allows.
fn allowed<N: Nic>(
    qp: &Qp,
    env: &mut Env<N>,
    rkey: u32,
    addr: u64,
    len: u64,
    need: u32,
) -> Option<crate::verbs::mr::Place> {
    if qp.attr.qp_access_flags & need != need {
        return None;
    }
    env.provide(rkey, addr, len);
    env.mrs
        .by_key(rkey)
        .ok()?
        .remote(qp.pd, qp.handle, addr, len, need)
        .ok()
}

fn refuse_access<N: Nic>(qp: &Qp, env: &mut Env<N>) -> Outcome {
    tell(qp, env, event::QP_ACCESS_ERR);
    Outcome::Refused(nak::REMOTE_ACCESS)
}

fn key_query<N: Nic>(qp: &mut Qp, c: &mut Conn, env: &mut Env<N>, h: &Header, p: usize) -> Outcome {
    let addr = c.win.load64(p);
    let w = c.win.load64(p + 8);
    let (len, need) = (u64::from(w as u32), (w >> 32) as u32);
    if need & !access::REMOTE_WRITE != 0 || allowed(qp, env, h.aux, addr, len, need).is_none() {
        return refuse_access(qp, env);
    }
    let handle = qp.handle;
    let Ok(mr) = env.mrs.get_mut(h.aux >> 8) else {
        return refuse_access(qp, env);
    };
    if !mr.resolvers.contains(&handle) {
        mr.resolvers.push(handle);
    }
    let (iova, extent, device) = mr.extent(addr, len);
    let partial = if extent == mr.len { 0 } else { msg::PARTIAL };
    let key = RemoteKey {
        iova,
        len: extent,
        device,
        access: mr.access & qp.attr.qp_access_flags | partial,
    };
    c.responses.push_back(Response::Key {
        rkey: h.aux,
        status: 0,
        key,
    });
    Outcome::Executed
}

fn read<N: Nic>(qp: &mut Qp, c: &mut Conn, env: &mut Env<N>, h: &Header, p: usize) -> Outcome {
    let (addr, len) = (c.win.load64(p), c.win.load64(p + 8));
    let n = (h.len as usize).saturating_sub(16) / 16;
    if h.len as usize != 16 + 16 * n || n > msg::MAX_SGE || len > 1 << 30 {
        tell(qp, env, event::QP_REQ_ERR);
        return Outcome::Refused(nak::INVALID_REQUEST);
    }
    let mut list = Vec::with_capacity(n);
    let mut total = 0u64;
    for k in 0..n {
        let piece = (c.win.load64(p + 16 + 16 * k), c.win.load64(p + 24 + 16 * k));
        total = total.saturating_add(piece.1);
        list.push(piece);
    }
    if total != len {
        tell(qp, env, event::QP_REQ_ERR);
        return Outcome::Refused(nak::INVALID_REQUEST);
    }
    let from = if len == 0 {
        0
    } else {
        let Some(place) = allowed(qp, env, h.aux, addr, len, access::REMOTE_READ) else {
            return refuse_access(qp, env);
        };
        if len as usize <= msg::ONE_LINE {
            return short_read(qp, c, env, h.seq, place.host, len as u32);
        }
        place.device
    };
    c.responses.push_back(Response::Read {
        seq: h.seq,
        from,
        list,
    });
    Outcome::Executed
}

/// The data travels in the answer: a WRITE of its own into the requester's memory would be a second way to go.
fn short_read<N: Nic>(
    qp: &mut Qp,
    c: &mut Conn,
    env: &mut Env<N>,
    seq: u32,
    host: u64,
    len: u32,
) -> Outcome {
    let Ok(data) = user::load(host, len as usize) else {
        tell(qp, env, event::QP_ACCESS_ERR);
        return Outcome::Refused(nak::REMOTE_OPERATION);
    };
    c.responses
        .push_back(Response::ShortRead { seq, len, data });
    Outcome::Executed
}

fn atomic<N: Nic>(qp: &mut Qp, c: &mut Conn, env: &mut Env<N>, h: &Header, p: usize) -> Outcome {
    let (addr, a, b) = (c.win.load64(p), c.win.load64(p + 8), c.win.load64(p + 16));
    if !addr.is_multiple_of(8) {
        tell(qp, env, event::QP_REQ_ERR);
        return Outcome::Refused(nak::INVALID_REQUEST);
    }
    let Some(place) = allowed(qp, env, h.aux, addr, 8, access::REMOTE_ATOMIC) else {
        return refuse_access(qp, env);
    };
    let old = if h.kind == kind::CAS {
        user::cas64(place.host, a, b)
    } else {
        user::fetch_add64(place.host, a)
    };
    let Ok(old) = old else {
        tell(qp, env, event::QP_ACCESS_ERR);
        return Outcome::Refused(nak::REMOTE_OPERATION);
    };
    c.responses.push_back(Response::Atomic { seq: h.seq, old });
    Outcome::Executed
}

fn atomic_write<N: Nic>(
    qp: &mut Qp,
    c: &mut Conn,
    env: &mut Env<N>,
    h: &Header,
    p: usize,
) -> Outcome {
    let addr = c.win.load64(p);
    if !addr.is_multiple_of(8) {
        tell(qp, env, event::QP_REQ_ERR);
        return Outcome::Refused(nak::INVALID_REQUEST);
    }
    let Some(place) = allowed(qp, env, h.aux, addr, 8, access::REMOTE_WRITE) else {
        return refuse_access(qp, env);
    };
    // Eight aligned bytes are one store (hazard 16).
    if c.win.get_user(p + 8, place.host, 8).is_err() {
        tell(qp, env, event::QP_ACCESS_ERR);
        return Outcome::Refused(nak::REMOTE_OPERATION);
    }
    Outcome::Executed
}

/// Sends the answers that are due, in order, as far as native slots reach.
pub fn answer<N: Nic>(qp: &mut Qp, c: &mut Conn, env: &mut Env<N>) {
    while let Some(r) = c.responses.front() {
        // Data first, and only whole: the longest list needs fewer slots than the ring has.
        let data = match r {
            Response::Read { list, .. } => list.len() as u32,
            Response::Payload { pieces, .. } => pieces.len() as u32,
            _ => 0,
        };
        if qp.native.free_slots() < data + 4 {
            return;
        }
        let Some(off) = c.begin_response(&mut env.nic, &mut qp.native) else {
            return;
        };
        let p = off + msg::HEADER;
        let Some(r) = c.responses.pop_front() else {
            return;
        };
        let wake = c.ack_wake;
        let nic = &mut env.nic;
        let native = &mut qp.native;
        match r {
            Response::Cts { seq, list } => {
                for (k, (device, len)) in list.iter().enumerate() {
                    c.win.store64(p + 16 * k, *device);
                    c.win.store64(p + 16 * k + 8, *len);
                }
                c.commit_response(
                    nic,
                    native,
                    off,
                    kind::CTS,
                    list.len() as u32,
                    seq,
                    16 * list.len(),
                    wake,
                );
            }
            Response::Key { rkey, status, key } => {
                c.win
                    .store64(p, u64::from(status) | u64::from(key.access) << 32);
                c.win.store64(p + 8, key.iova);
                c.win.store64(p + 16, key.len);
                c.win.store64(p + 24, key.device);
                c.commit_response(nic, native, off, kind::KEY, 32, rkey, 32, wake);
            }
            Response::Read {
                seq,
                mut from,
                list,
            } => {
                for (device, len) in list {
                    if len != 0 {
                        nic.post(
                            native,
                            &Write {
                                local: from,
                                remote: device,
                                len: len as u32,
                                tag: 0,
                                notify_remote: false,
                                notify_local: false,
                            },
                        );
                        from += len;
                        c.read_end = Some(native.pi);
                    }
                }
                c.commit_response(nic, native, off, kind::READ_DONE, 0, seq, 0, wake);
            }
            Response::ShortRead { seq, len, data } => {
                for (k, word) in data.iter().enumerate() {
                    c.win.store64(p + 8 * k, *word);
                }
                c.commit_response(
                    nic,
                    native,
                    off,
                    kind::READ_DONE,
                    len,
                    seq,
                    len as usize,
                    wake,
                );
            }
            Response::Atomic { seq, old } => {
                c.win.store64(p, old);
                c.commit_response(nic, native, off, kind::ATOMIC_DONE, 8, seq, 8, wake);
            }
            Response::Payload { seq, pieces } => {
                for (local, remote, len) in pieces {
                    nic.post(
                        native,
                        &Write {
                            local,
                            remote,
                            len: len as u32,
                            tag: 0,
                            notify_remote: false,
                            notify_local: false,
                        },
                    );
                }
                c.commit_response(nic, native, off, kind::FIN, 0, seq, 0, false);
            }
            Response::Fin { seq } => {
                c.commit_response(nic, native, off, kind::FIN, 0, seq, 0, false)
            }
            Response::Revoke { key } => {
                c.commit_response(nic, native, off, kind::REVOKE, 0, key, 0, true)
            }
            Response::Revoked { key } => {
                c.commit_response(nic, native, off, kind::REVOKED, 0, key, 0, true)
            }
        }
    }
}

/// Revocations: one under way per connection; and the acknowledgement of the peer's, once our WRITEs with that key are done.
pub fn revocations<N: Nic>(qp: &mut Qp, c: &mut Conn, env: &mut Env<N>) {
    if c.revoking.is_none()
        && let Some(key) = c.revoke_queue.pop_front()
    {
        c.revoking = Some(key);
        c.responses.push_back(Response::Revoke { key });
    }
    if !c.revoked.is_empty() {
        let ci = qp.native.ci;
        let mut i = 0;
        while i < c.revoked.len() {
            if msg::reached(ci, c.revoked[i].1) {
                let (key, _) = c.revoked.swap_remove(i);
                c.responses.push_back(Response::Revoked { key });
            } else {
                i += 1;
            }
        }
    }
    let unfinished = !c.revoked.is_empty() || (c.invalidating && c.read_end.is_some());
    if unfinished && qp.native.notified != qp.native.pi && qp.native.free_slots() > 1 {
        // Nothing that is posted will tell.
        c.ask_for_completion(&mut env.nic, &mut qp.native);
    }
}
