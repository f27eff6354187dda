//! Shared receive queues.

use super::rig::{End, wr};
use crate::native::sim::Fabric;
use crate::verbs::types::{Errno, Wc};
use kernel_abi::verbs::{event, qp_attr, qps, qpt, wc_opcode, wc_status, wr_opcode};

/// Two ends with `n` connected QPs, whose receives at B come from one SRQ: (A, B, QPs of A, QPs of B, SRQ).
fn ends(f: &Fabric, n: usize, depth: u32) -> (End, End, Vec<u32>, Vec<u32>, u32) {
    let (mut a, mut b) = (End::new(f, 1, 1 << 16, 4), End::new(f, 2, 1 << 16, 4));
    let srq = b.srq(depth, None).handle;
    let (mut qa, mut qb) = (Vec::new(), Vec::new());
    for _ in 0..n {
        let (x, nx) = a.create(64);
        let (y, ny) = b.create_as(qpt::RC, 64, Some(srq), None);
        a.connect(x, 2, ny);
        b.connect(y, 1, nx);
        qa.push(x);
        qb.push(y);
    }
    (a, b, qa, qb, srq)
}

fn send(e: &mut End, qp: u32, id: u64, len: usize) {
    let s = [e.sge(0, len)];
    e.post_on(qp, &wr(id, wr_opcode::SEND_WITH_IMM, &s, (0, 0)));
}

fn poll_both(a: &mut End, b: &mut End, rounds: usize) -> (Vec<Wc>, Vec<Wc>) {
    let (mut va, mut vb) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        va.extend(a.poll());
        vb.extend(b.poll());
    }
    (va, vb)
}

#[test]
fn messages_of_all_qps_take_receives_in_posting_order() {
    let f = Fabric::default();
    let (mut a, mut b, qa, qb, srq) = ends(&f, 3, 64);
    for i in 0..30 {
        b.srq_recv(srq, i, 0, 8192);
    }
    let mut order = Vec::new();
    for i in 0..30u64 {
        let k = (i * 7 % 3) as usize;
        send(&mut a, qa[k], i, if i % 4 == 0 { 6000 } else { 20 });
        let (va, vb) = poll_both(&mut a, &mut b, 10);
        assert_eq!((va.len(), vb.len()), (1, 1));
        let num = b.e.qp(qb[k]).unwrap().number();
        assert_eq!(
            (vb[0].qp_num, vb[0].status, vb[0].opcode),
            (num, 0, wc_opcode::RECV)
        );
        order.push(vb[0].wr_id);
    }
    assert_eq!(order, (0..30).collect::<Vec<_>>());
    assert_eq!(b.e.query_srq(srq).unwrap().max_wr, 64);
}

#[test]
fn a_large_message_on_one_qp_does_not_hold_up_another() {
    let f = Fabric::default();
    let (mut a, mut b, qa, qb, srq) = ends(&f, 2, 64);
    // Both connections have said hello.
    for i in 0..2 {
        b.srq_recv(srq, 100 + i, 0, 64);
        send(&mut a, qa[i as usize], 0, 1);
        poll_both(&mut a, &mut b, 10);
    }
    b.srq_recv(srq, 1, 0, 32768);
    b.srq_recv(srq, 2, 32768, 64);
    b.srq_recv(srq, 3, 32768, 64);
    send(&mut a, qa[0], 10, 30_000);
    // B takes receive 1 and answers, A does not look: the payload is not there yet.
    assert!(b.poll().is_empty());
    let num = |b: &mut End, q| b.e.qp(q).unwrap().number();
    let (n0, n1) = (num(&mut b, qb[0]), num(&mut b, qb[1]));
    let s = [a.sge(0, 5)];
    a.e.post_send(qa[1], &wr(11, wr_opcode::SEND, &s, (0, 0)))
        .unwrap();
    a.e.kick(qa[1]);
    let got = b.poll();
    assert_eq!(
        got.iter().map(|w| (w.wr_id, w.qp_num)).collect::<Vec<_>>(),
        [(2, n1)]
    );
    // Behind the large one on the same QP: executed, reported in order.
    send(&mut a, qa[0], 12, 5);
    let (va, vb) = poll_both(&mut a, &mut b, 20);
    assert_eq!(
        vb.iter().map(|w| (w.wr_id, w.qp_num)).collect::<Vec<_>>(),
        [(1, n0), (3, n0)]
    );
    assert_eq!(va.len(), 3);
}

#[test]
fn an_empty_srq_blocks_all_and_receives_wake_as_many_as_there_are() {
    let f = Fabric::default();
    let (mut a, mut b, qa, _, srq) = ends(&f, 4, 64);
    for (i, q) in qa.iter().enumerate() {
        send(&mut a, *q, i as u64, 16);
    }
    for round in 0..4u64 {
        let (va, vb) = poll_both(&mut a, &mut b, 50);
        assert!(va.is_empty() && vb.is_empty());
        // Asleep as well: nobody but the post wakes them.
        for _ in 0..4 {
            b.e.cool_down();
        }
        b.srq_recv(srq, round, 0, 64);
        let (va, vb) = poll_both(&mut a, &mut b, 10);
        assert_eq!((va.len(), vb.len()), (1, 1), "round {round}");
        assert_eq!((vb[0].wr_id, vb[0].status, va[0].status), (round, 0, 0));
    }
}

#[test]
fn receives_posted_before_a_look_at_the_message_are_not_lost() {
    // Two messages wait on one QP, then one receive at a time.
    let f = Fabric::default();
    let (mut a, mut b, qa, _, srq) = ends(&f, 1, 4);
    for i in 0..10 {
        send(&mut a, qa[0], i, 16);
    }
    poll_both(&mut a, &mut b, 5);
    for i in 0..10 {
        b.srq_recv(srq, i, 0, 64);
        let (_, vb) = poll_both(&mut a, &mut b, 5);
        assert_eq!(vb.iter().map(|w| w.wr_id).collect::<Vec<_>>(), [i]);
    }
}

#[test]
fn the_limit_event_comes_once_per_arming() {
    let f = Fabric::default();
    let (mut a, mut b, qa, _, srq) = ends(&f, 1, 64);
    for i in 0..10 {
        b.srq_recv(srq, i, 0, 64);
    }
    b.e.modify_srq(srq, None, Some(7)).unwrap();
    assert_eq!(b.e.query_srq(srq).unwrap().srq_limit, 7);
    for i in 0..3 {
        send(&mut a, qa[0], i, 16);
    }
    poll_both(&mut a, &mut b, 10);
    assert!(
        b.events(0x5109).is_empty(),
        "seven are left: not below the limit"
    );
    for i in 0..3 {
        send(&mut a, qa[0], i, 16);
    }
    poll_both(&mut a, &mut b, 10);
    assert_eq!(b.events(0x5109), [event::SRQ_LIMIT_REACHED]);
    assert_eq!(b.e.query_srq(srq).unwrap().srq_limit, 0);
    // Armed above what is there: at once.
    b.e.modify_srq(srq, None, Some(60)).unwrap();
    assert_eq!(b.events(0x5109), [event::SRQ_LIMIT_REACHED]);
}

#[test]
fn a_qp_in_error_reports_its_last_wqe_and_leaves_the_rest() {
    let f = Fabric::default();
    let (mut a, mut b, qa, qb, srq) = ends(&f, 2, 64);
    for i in 0..3 {
        b.srq_recv(srq, i, 0, 99);
    }
    // Too long for its receive.
    send(&mut a, qa[0], 1, 100);
    let (va, vb) = poll_both(&mut a, &mut b, 10);
    assert_eq!(va[0].status, wc_status::REM_INV_REQ_ERR);
    assert_eq!(
        vb.iter().map(|w| (w.wr_id, w.status)).collect::<Vec<_>>(),
        [(0, wc_status::LOC_LEN_ERR)]
    );
    assert_eq!(b.events(0x99), [event::QP_LAST_WQE_REACHED]);
    assert_eq!(b.e.query_qp(qb[0]).unwrap().attr.qp_state, qps::ERR);
    // The other QP goes on with what is left.
    send(&mut a, qa[1], 2, 10);
    let (_, vb) = poll_both(&mut a, &mut b, 10);
    assert_eq!((vb[0].wr_id, vb[0].status), (1, 0));
    let to_error = crate::verbs::types::QpAttr {
        qp_state: qps::ERR,
        ..Default::default()
    };
    b.e.modify_qp(qb[1], &to_error, qp_attr::STATE).unwrap();
    assert_eq!(b.events(0x99), [event::QP_LAST_WQE_REACHED]);
    assert!(b.poll().is_empty(), "receives in the SRQ are not flushed");
}

#[test]
fn what_is_in_use_stays_and_what_makes_no_sense_is_refused() {
    let f = Fabric::default();
    let (_, mut b, _, qb, srq) = ends(&f, 1, 4);
    assert_eq!(b.e.destroy_srq(srq), Err(Errno::EBUSY));
    assert_eq!(b.e.post_recv(qb[0], 1, &[]), Err(Errno::EINVAL));
    for i in 0..4 {
        b.srq_recv(srq, i, 0, 64);
    }
    assert_eq!(b.e.post_srq_recv(srq, 9, &[]), Err(Errno::ENOMEM));
    let many = [b.sge(0, 1); 3];
    assert_eq!(
        b.e.modify_srq(srq, Some(3), None),
        Err(Errno::EINVAL),
        "four are posted"
    );
    assert_eq!(
        b.e.modify_srq(srq, None, Some(5)),
        Err(Errno::EINVAL),
        "above the size"
    );
    b.e.modify_srq(srq, Some(9), None).unwrap();
    assert_eq!(b.e.query_srq(srq).unwrap().max_wr, 9);
    assert_eq!(b.e.post_srq_recv(srq, 9, &many), Err(Errno::EINVAL));
    for i in 4..9 {
        b.srq_recv(srq, i, 0, 64);
    }
    assert_eq!(b.e.post_srq_recv(srq, 9, &[]), Err(Errno::ENOMEM));
    b.e.destroy_qp(qb[0]).unwrap();
    b.e.destroy_srq(srq).unwrap();
    assert_eq!(b.e.destroy_srq(srq), Err(Errno::EINVAL));
    assert_eq!(b.e.query_srq(srq).err(), Some(Errno::EINVAL));
}

#[test]
fn receives_move_to_the_resized_queue_in_order() {
    let f = Fabric::default();
    let (mut a, mut b, qa, _, srq) = ends(&f, 1, 8);
    for i in 0..6 {
        b.srq_recv(srq, i, 0, 64);
    }
    send(&mut a, qa[0], 0, 16);
    poll_both(&mut a, &mut b, 10);
    b.e.modify_srq(srq, Some(100), None).unwrap();
    for i in 6..20 {
        b.srq_recv(srq, i, 0, 64);
    }
    let mut ids = Vec::new();
    for i in 1..20 {
        send(&mut a, qa[0], i, 16);
        ids.extend(poll_both(&mut a, &mut b, 10).1.iter().map(|w| w.wr_id));
    }
    assert_eq!(ids, (1..20).collect::<Vec<_>>());
}

#[test]
fn a_write_waits_for_an_immediate_whose_receive_nobody_counts() {
    let f = Fabric::default();
    let (mut a, mut b, qa, _, srq) = ends(&f, 1, 8);
    a.mem[0] = 7;
    let to = (b.at(1000), b.mr.rkey);
    let s = [a.sge(0, 16)];
    // The key is known from here on.
    a.post_on(
        qa[0],
        &wr(1, wr_opcode::RDMA_WRITE, &s, (b.at(0), b.mr.rkey)),
    );
    assert_eq!(poll_both(&mut a, &mut b, 10).0.len(), 1);
    a.post_on(qa[0], &wr(2, wr_opcode::RDMA_WRITE_WITH_IMM, &[], (0, 0)));
    a.post_on(qa[0], &wr(3, wr_opcode::RDMA_WRITE, &s, to));
    assert!(poll_both(&mut a, &mut b, 20).0.is_empty());
    assert_eq!(b.mem[1000], 0);
    b.srq_recv(srq, 4, 0, 0);
    let (va, vb) = poll_both(&mut a, &mut b, 10);
    assert_eq!(
        va.iter().map(|w| (w.wr_id, w.status)).collect::<Vec<_>>(),
        [(2, 0), (3, 0)]
    );
    assert_eq!(
        (vb[0].wr_id, vb[0].opcode),
        (4, wc_opcode::RECV_RDMA_WITH_IMM)
    );
    assert_eq!(b.mem[1000], 7);
}

#[test]
fn more_messages_behind_a_large_one_than_a_qp_may_take_at_once() {
    let f = Fabric::default();
    let (mut a, mut b, qa, _, srq) = ends(&f, 1, 256);
    b.srq_recv(srq, 1000, 0, 64);
    send(&mut a, qa[0], 0, 1);
    poll_both(&mut a, &mut b, 10);
    for i in 0..200 {
        b.srq_recv(srq, i, 0, 8192);
    }
    send(&mut a, qa[0], 0, 8000);
    for i in 1..60 {
        send(&mut a, qa[0], i, 1);
    }
    // B sees all of it before A answers with the payload.
    for _ in 0..20 {
        assert!(b.poll().is_empty());
    }
    let mut got = Vec::new();
    for i in 60..150 {
        let s = [a.sge(0, 1)];
        while a
            .e
            .post_send(qa[0], &wr(i, wr_opcode::SEND, &s, (0, 0)))
            .is_err()
        {
            a.poll();
            got.extend(b.poll());
        }
        a.e.kick(qa[0]);
    }
    got.extend(poll_both(&mut a, &mut b, 50).1);
    assert_eq!(
        got.iter().map(|w| (w.wr_id, w.status)).collect::<Vec<_>>(),
        (0..150).map(|i| (i, 0)).collect::<Vec<_>>()
    );
}
