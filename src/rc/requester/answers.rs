//! Responses: results of READs and atomics, keys, and the addresses of large SENDs.

use super::{fail_entry, pieces_of};
use crate::native::Nic;
use crate::rc::conn::{Conn, RemoteKey, Response};
use crate::rc::msg::{self, kind};
use crate::rc::responder;
use crate::verbs::qp::{Env, Qp};
use crate::verbs::queue::Stage;
use kernel_abi::verbs::wc_status;

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
        kind::READ_DONE | kind::ATOMIC_DONE => answered(qp, c, env, h, p),
        kind::FIN => responder::finished(qp, c, env, h.aux),
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

/// The result of a READ or atomic. A long READ's data is in its SGEs already; everything else is in the message.
fn answered<N: Nic>(qp: &mut Qp, c: &mut Conn, env: &Env<N>, h: &msg::Header, p: usize) -> bool {
    let Some(i) = qp.sq.find(h.aux, Stage::Answer) else {
        return false;
    };
    let n = h.len as usize;
    let written = h.kind == kind::READ_DONE && n == 0;
    if !written && (n > msg::ONE_LINE || u64::from(h.len) != qp.sq.at(i).len) {
        return false;
    }
    c.reads = c.reads.saturating_sub(1);
    if scatter(qp, c, env, i, p, n) {
        qp.sq.at_mut(i).stage = Stage::Done;
    } else {
        fail_entry(qp, i, wc_status::LOC_PROT_ERR);
    }
    true
}

/// The `n` bytes at `p` into the SGEs of request `i`, which has that length.
fn scatter<N: Nic>(qp: &Qp, c: &Conn, env: &Env<N>, i: u32, p: usize, n: usize) -> bool {
    let (mut at, end) = (p, p + n);
    for sge in qp.sq.sges(i) {
        let part = (sge.length as usize).min(end - at);
        if part == 0 {
            continue;
        }
        let Ok(place) = env.mrs.local(qp.pd, sge, true) else {
            return false;
        };
        if c.win.get_user(at, place.host, part).is_err() {
            return false;
        }
        at += part;
    }
    true
}

/// Clear to send: the payload goes where the receive lies.
fn cts<N: Nic>(qp: &mut Qp, c: &mut Conn, env: &mut Env<N>, h: &msg::Header, p: usize) -> bool {
    let Some(i) = qp.sq.find(h.aux, Stage::Rendezvous) else {
        // It may have run out of RNR retries while its receive was posted: then nothing is sent.
        return qp.sq.find(h.aux, Stage::Failed).is_some();
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
