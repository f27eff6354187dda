//! What model checks know the state of an engine by. A field that is new is named here, so that states that differ in it are told
//! apart.

use super::super::qp::{Env, Qp};
use super::super::queue::Rq;
use super::Engine;
use crate::native::Nic;
use crate::native::sim::digest::Digest;

impl<N: Nic> Engine<N> {
    pub fn digest(&self, d: &mut Digest) {
        let Engine {
            env,
            qps,
            xrcds: _,
            by_native: _,
            active,
            ud: _,
            null: _,
            dms: _,
            looks: _,
            broken,
            held,
        } = self;
        let Env {
            nic,
            cqs,
            mrs,
            pds: _,
            srqs,
            srq_generation: _,
            events,
            raise,
            timers,
            revoked,
            moderated,
            told: _,
            revoke,
        } = env;
        d.value(&(active, broken, events, raise, timers, held));
        d.value(&(revoked, moderated, revoke));
        for q in cqs.iter().flatten() {
            d.value(&(&q.entries, q.arm, q.overrun));
        }
        for m in mrs.indices() {
            d.value(&mrs.get(m));
        }
        for s in srqs.iter().flatten() {
            d.value(&(&s.waiting, s.limit));
            receives(&s.rq, d);
        }
        for q in qps.iter().flatten() {
            q.digest(nic.now(), d);
        }
    }
}

impl Qp {
    fn digest(&self, now: u64, d: &mut Digest) {
        let Qp {
            handle: _,
            cookie: _,
            pd,
            send_cq: _,
            recv_cq: _,
            cap: _,
            qp_type: _,
            sq_sig_all: _,
            state,
            attr: _,
            native,
            sq,
            rq,
            source: _,
            waits_at,
            openers: _,
            conn,
            ud: _,
            nudged,
            tell_drained,
            active,
            idle: _,
            revived,
            halted,
            lost_in_rtr,
        } = self;
        d.value(&(pd, state, waits_at, nudged, tell_drained, active, halted));
        d.value(lost_in_rtr);
        d.word(u64::from(*revived != 0));
        let n = native;
        d.value(&(n.connected, n.ready, n.pi, n.ci, n.notified, n.rung));
        d.value(&(sq.head, sq.issued));
        let mut i = sq.head;
        while i != sq.tail {
            d.value(sq.at(i));
            i = i.wrapping_add(1);
        }
        receives(rq, d);
        if let Some(c) = conn {
            c.digest(now, d);
        }
    }
}

fn receives(rq: &Rq, d: &mut Digest) {
    d.value(&(rq.head, rq.next, rq.tail));
    let mut i = rq.head;
    while i != rq.tail {
        let e = rq.at(i);
        d.value(&(e.wr_id, e.done.then_some(e.wc)));
        i = i.wrapping_add(1);
    }
}
