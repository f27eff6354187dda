//! Remote keys: asked for at first use, checked at every one.

use super::requests::dropped;
use super::{Issue, message_flags};
use crate::native::Nic;
use crate::rc::conn::{Conn, RemoteKey};
use crate::rc::msg::{self, flag, kind, nak};
use crate::verbs::qp::{Env, Qp};
use crate::verbs::queue::Stage;

/// Remote device address of a range under a resolved key.
#[inline]
pub(super) fn check_remote(k: &RemoteKey, addr: u64, len: u64, need: u32) -> Option<u64> {
    let off = addr.wrapping_sub(k.iova);
    (inside(k, addr, len) && k.access & need == need).then(|| k.device.wrapping_add(off))
}

fn inside(k: &RemoteKey, addr: u64, len: u64) -> bool {
    let off = addr.wrapping_sub(k.iova);
    addr >= k.iova && off.checked_add(len).is_some_and(|end| end <= k.len)
}

/// The remote key of request `i`; asks the owner at first use.
#[inline]
pub(super) fn resolve<N: Nic>(
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
pub(super) fn violation<N: Nic>(qp: &mut Qp, c: &mut Conn, env: &mut Env<N>) -> Issue {
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
