//! Null, implicit and device memory; extended CQs, events, drained send queues.

use super::rig::{ALL, End, collect, pair, wr};
use crate::native::sim::Fabric;
use crate::verbs::cq::Moderation;
use crate::verbs::regions::dm_copy;
use crate::verbs::types::{CqOptions, Errno, QpAttr, Sge, Wc};
use kernel_abi::verbs::{access, event, qp_attr, qps, wc_status, wr_opcode};

fn ok(v: &[Wc]) {
    assert!(v.iter().all(|w| w.status == wc_status::SUCCESS), "{v:?}");
}

fn of(lkey: u32, length: usize) -> Sge {
    Sge {
        addr: 0x1234,
        length: length as u32,
        lkey,
    }
}

#[test]
fn null_memory_reads_zeros_and_swallows() {
    let f = Fabric::default();
    let (mut a, mut b) = pair(&f, 1 << 16, 16, 7);
    let mapped = f.lock().mapped;
    let null = a.e.alloc_null_mr(a.pd).unwrap();
    let other = b.e.alloc_null_mr(b.pd).unwrap();
    for len in [8usize, 5000, 1 << 15] {
        b.mem.fill(1);
        b.recv(1, 0, 1 << 16);
        a.post(&wr(2, wr_opcode::SEND, &[of(null.lkey, len)], (0, 0)));
        ok(&collect(&mut a, &mut b, 1, 1).1);
        assert!(b.mem[..len].iter().all(|x| *x == 0) && b.mem[len] == 1);
        // Into the void: by SEND, and by READ of more than the sink holds.
        b.e.post_recv(b.qp, 3, &[of(other.lkey, len)]).unwrap();
        a.send(4, wr_opcode::SEND, 0, len, (0, 0));
        ok(&collect(&mut a, &mut b, 1, 1).1);
        a.post(&wr(
            5,
            wr_opcode::RDMA_READ,
            &[of(null.lkey, len)],
            (b.at(0), b.mr.rkey),
        ));
        ok(&collect(&mut a, &mut b, 1, 0).0);
    }
    // It is no remote key.
    a.send(6, wr_opcode::RDMA_WRITE, 0, 8, (0, other.rkey));
    assert_eq!(
        collect(&mut a, &mut b, 1, 0).0[0].status,
        wc_status::REM_ACCESS_ERR
    );
    for (e, mr) in [(&mut a, null), (&mut b, other)] {
        e.e.dereg_begin(mr.handle).unwrap();
        e.e.dereg_finish(mr.handle).unwrap();
    }
    assert_eq!(f.lock().mapped, mapped);
}

#[test]
fn an_implicit_registration_serves_what_is_named() {
    let f = Fabric::default();
    let (mut a, mut b) = pair(&f, 1 << 16, 16, 7);
    let mapped = f.lock().mapped;
    let whole = |e: &mut End| {
        e.e.reg_mr(e.pd, 0, u64::MAX, 0, ALL | access::ON_DEMAND)
            .unwrap()
    };
    let (ia, ib) = (whole(&mut a), whole(&mut b));
    let sge = |e: &End, off: usize, len: usize, lkey| Sge {
        addr: e.at(off),
        length: len as u32,
        lkey,
    };
    for len in [16usize, 6000] {
        b.e.post_recv(b.qp, 1, &[sge(&b, 0, len, ib.lkey)]).unwrap();
        a.post(&wr(2, wr_opcode::SEND, &[sge(&a, 0, len, ia.lkey)], (0, 0)));
        ok(&collect(&mut a, &mut b, 1, 1).1);
    }
    // Remote use: each part is asked for when it is first named.
    for off in [0usize, 3 * 4096, 100, 9 * 4096] {
        a.mem[..64].fill(off as u8 + 1);
        let s = [sge(&a, 0, 64, ia.lkey)];
        a.post(&wr(3, wr_opcode::RDMA_WRITE, &s, (b.at(off), ib.rkey)));
        ok(&collect(&mut a, &mut b, 1, 0).0);
        assert!(b.mem[off..off + 64].iter().all(|x| *x == off as u8 + 1));
        a.post(&wr(3, wr_opcode::RDMA_READ, &s, (b.at(off), ib.rkey)));
        ok(&collect(&mut a, &mut b, 1, 0).0);
    }
    let (ranges, write) =
        a.e.advise_mr(a.pd, 1, 0, &[sge(&a, 0, 100, ia.lkey)])
            .unwrap();
    assert_eq!((ranges, write), (vec![(a.at(0), 100)], true));
    assert_eq!(
        a.e.advise_mr(a.pd, 0, 0, &[sge(&a, 0, 100, a.mr.lkey)]),
        Err(Errno::EINVAL)
    );
    for (e, mr) in [(&mut a, ia), (&mut b, ib)] {
        e.e.dereg_begin(mr.handle).unwrap();
    }
    for _ in 0..10 {
        a.poll();
        b.poll();
    }
    for (e, mr) in [(&mut a, ia), (&mut b, ib)] {
        assert!(e.e.dereg_done(mr.handle));
        e.e.dereg_finish(mr.handle).unwrap();
    }
    assert_eq!(f.lock().mapped, mapped);
    assert_eq!(a.e.env.mrs.implicit, 0);
}

#[test]
fn device_memory_is_copied_registered_and_counted() {
    let f = Fabric::default();
    let (mut a, mut b) = pair(&f, 8192, 16, 7);
    let (dm, memory) = b.e.alloc_dm(4096, 6).unwrap();
    let bits = ALL | access::ZERO_BASED;
    assert_eq!(
        b.e.reg_dm_mr(b.pd, dm, 4000, 100, bits).unwrap_err(),
        Errno::EINVAL
    );
    let mr = b.e.reg_dm_mr(b.pd, dm, 1024, 1024, bits).unwrap();
    a.mem[..16].fill(7);
    a.send(1, wr_opcode::RDMA_WRITE, 0, 16, (1008, mr.rkey));
    ok(&collect(&mut a, &mut b, 1, 0).0);
    let mut out = [0u8; 20];
    dm_copy(&memory, 2028, out.as_mut_ptr() as u64, 20, false).unwrap();
    assert_eq!(out, [[0; 4].as_slice(), &[7; 16]].concat()[..]);
    for (off, len) in [(3, 4), (4, 3), (4096, 4), (0, 4100)] {
        assert_eq!(
            dm_copy(&memory, off, out.as_ptr() as u64, len, true),
            Err(Errno::EINVAL)
        );
    }
    assert_eq!(b.e.free_dm(dm), Err(Errno::EBUSY));
    b.e.dereg_begin(mr.handle).unwrap();
    for _ in 0..10 {
        a.poll();
        b.poll();
    }
    b.e.dereg_finish(mr.handle).unwrap();
    b.e.free_dm(dm).unwrap();
    assert_eq!(b.e.alloc_dm(1 << 40, 0).unwrap_err(), Errno::ENOMEM);
}

#[test]
fn stamps_stay_with_their_completions() {
    let f = Fabric::default();
    let (mut a, mut b) = pair(&f, 8192, 16, 7);
    let options = CqOptions {
        device_time: true,
        wall_time: true,
        ignore_overrun: false,
    };
    a.e.cq_options(a.cq, options).unwrap();
    for i in 0..3 {
        b.recv(i, 0, 64);
        a.send(i, wr_opcode::SEND, 0, 8, (0, 0));
    }
    let mut seen = Vec::new();
    for _ in 0..100 {
        b.poll();
        seen.extend(a.e.poll_one(a.cq).unwrap());
    }
    assert_eq!(
        seen.iter().map(|(w, _)| w.wr_id).collect::<Vec<_>>(),
        [0, 1, 2]
    );
    assert!(seen.is_sorted_by_key(|(_, s)| s.device) && seen[0].1.device != 0);
    assert!(seen[0].1.wall > 1_600_000_000_000_000_000);
}

#[test]
fn moderated_events_come_by_number_or_by_time() {
    let f = Fabric::default();
    let (mut a, mut b) = pair(&f, 8192, 16, 7);
    b.e.moderate_cq(
        b.cq,
        Moderation {
            count: 3,
            period: 50_000,
        },
    )
    .unwrap();
    b.e.req_notify_cq(b.cq, false).unwrap();
    let step = |a: &mut End, b: &mut End| {
        b.recv(1, 0, 64);
        a.send(1, wr_opcode::SEND, 0, 8, (0, 0));
        for _ in 0..5 {
            a.poll();
            b.e.progress();
        }
        f.lock().raised.len()
    };
    assert_eq!(step(&mut a, &mut b), 0);
    assert_eq!(step(&mut a, &mut b), 0);
    assert_eq!(step(&mut a, &mut b), 1);
    b.poll();
    b.e.req_notify_cq(b.cq, false).unwrap();
    assert_eq!(step(&mut a, &mut b), 1);
    std::thread::sleep(std::time::Duration::from_millis(60));
    b.e.run_timers();
    assert_eq!(f.lock().raised.len(), 2);
}

#[test]
fn events_wait_for_room_and_leave_no_ghosts() {
    let f = Fabric::default();
    let mut a = End::new(&f, 1, 4096, 16);
    let cq = a.e.create_cq(16, Some(7), 0xdead).unwrap().handle;
    let push = |a: &mut End, cq| {
        a.e.env.complete(cq, Wc::default(), false);
        a.e.settle();
    };
    a.e.req_notify_cq(cq, false).unwrap();
    f.lock().channels_full = true;
    push(&mut a, cq);
    assert!(f.lock().raised.is_empty());
    f.lock().channels_full = false;
    a.e.progress();
    assert_eq!(f.lock().raised, [(7, 0xdead)]);
    // The program reads one event; another one is unread when the CQ goes, between events of others.
    f.lock().raised.clear();
    f.lock().raised.push((7, 0xbeef));
    a.e.req_notify_cq(cq, false).unwrap();
    push(&mut a, cq);
    f.lock().raised.push((7, 0xbeef));
    assert_eq!(a.e.destroy_cq(cq), Ok(1));
    assert_eq!(f.lock().raised, [(7, 0xbeef), (7, 0xbeef)]);
}

#[test]
fn an_overrun_may_be_ignored() {
    let f = Fabric::default();
    let mut a = End::new(&f, 1, 4096, 16);
    for (ignore, told) in [(false, 1), (true, 0)] {
        let cq = a.e.create_cq(2, None, 0x77).unwrap().handle;
        let options = CqOptions {
            ignore_overrun: ignore,
            ..CqOptions::default()
        };
        a.e.cq_options(cq, options).unwrap();
        for _ in 0..3 {
            a.e.env.complete(cq, Wc::default(), false);
        }
        a.e.settle();
        let events = std::mem::take(&mut a.e.env.events);
        assert_eq!(
            events.iter().filter(|e| e.event == event::CQ_ERR).count(),
            told
        );
    }
}

fn events(e: &mut End) -> Vec<u32> {
    std::mem::take(&mut e.e.env.events)
        .iter()
        .map(|e| e.event)
        .collect()
}

fn to_state(e: &mut End, state: u32, notify: bool) {
    let a = QpAttr {
        qp_state: state,
        en_sqd_async_notify: notify.into(),
        ..QpAttr::default()
    };
    let mut mask = qp_attr::STATE;
    if notify {
        mask |= qp_attr::EN_SQD_ASYNC_NOTIFY;
    }
    e.e.modify_qp(e.qp, &a, mask).unwrap();
}

#[test]
fn a_send_queue_drains_and_goes_on() {
    let f = Fabric::default();
    let (mut a, mut b) = pair(&f, 8192, 16, 7);
    // Idle: drained at once.
    to_state(&mut a, qps::SQD, true);
    assert_eq!(events(&mut a), [event::SQ_DRAINED]);
    to_state(&mut a, qps::RTS, false);
    // A SEND that waits for its receive, and one behind it that has not begun.
    a.send(1, wr_opcode::SEND, 0, 16, (0, 0));
    a.poll();
    to_state(&mut a, qps::SQD, true);
    a.send(2, wr_opcode::SEND, 0, 16, (0, 0));
    assert_eq!(a.e.query_qp(a.qp).unwrap().attr.sq_draining, 1);
    b.recv(1, 0, 64);
    b.recv(2, 0, 64);
    let (va, vb) = collect(&mut a, &mut b, 1, 1);
    ok(&va);
    ok(&vb);
    for _ in 0..50 {
        assert!(a.poll().is_empty() && b.poll().is_empty());
    }
    assert_eq!(events(&mut a), [event::SQ_DRAINED]);
    assert_eq!(a.e.query_qp(a.qp).unwrap().attr.sq_draining, 0);
    to_state(&mut a, qps::RTS, false);
    ok(&collect(&mut a, &mut b, 1, 1).0);
}

#[test]
fn the_first_message_to_a_qp_in_rtr_is_told() {
    let f = Fabric::default();
    let (mut a, mut b) = (End::new(&f, 1, 4096, 16), End::new(&f, 2, 4096, 16));
    let (na, nb) = (a.num, b.num);
    let (qa, qb) = (a.qp, b.qp);
    a.init(qa);
    b.init(qb);
    b.rtr(qb, 1, na);
    a.rtr(qa, 2, nb);
    a.rts(qa, 7);
    for i in 0..2 {
        b.recv(i, 0, 64);
        a.send(i, wr_opcode::SEND, 0, 8, (0, 0));
        ok(&collect(&mut a, &mut b, 1, 1).0);
    }
    assert_eq!(events(&mut b), [event::COMM_EST]);
    assert!(events(&mut a).is_empty());
}

#[test]
fn a_list_is_taken_back_whole() {
    let f = Fabric::default();
    let (mut a, mut b) = pair(&f, 8192, 4, 7);
    let tail = a.e.posted(a.qp).unwrap();
    let s = [a.sge(0, 8)];
    for i in 0..4 {
        a.e.post_send(a.qp, &wr(i, wr_opcode::SEND, &s, (0, 0)))
            .unwrap();
    }
    assert_eq!(
        a.e.post_send(a.qp, &wr(4, wr_opcode::SEND, &s, (0, 0))),
        Err(Errno::ENOMEM)
    );
    a.e.unpost(a.qp, tail);
    a.e.kick(a.qp);
    b.recv(1, 0, 64);
    for _ in 0..20 {
        assert!(a.poll().is_empty() && b.poll().is_empty());
    }
    a.send(9, wr_opcode::SEND, 0, 8, (0, 0));
    ok(&collect(&mut a, &mut b, 1, 1).0);
}
