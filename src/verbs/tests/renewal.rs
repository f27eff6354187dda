//! QPs that are reset and connected again under their old numbers while their peers are not, or not yet.

use super::rig::{End, collect, pair};
use crate::native::sim::Fabric;
use crate::verbs::types::{QpAttr, Wc};
use kernel_abi::verbs::{event, qp_attr, qps, qpt, wc_status, wr_opcode};

/// RESET, and connected with the same peer.
fn renew(e: &mut End, device: u8, num: u32) {
    let a = QpAttr {
        qp_state: qps::RESET,
        ..QpAttr::default()
    };
    e.e.modify_qp(e.qp, &a, qp_attr::STATE).unwrap();
    let qp = e.qp;
    e.connect(qp, device, num);
}

fn statuses(v: &[Wc]) -> Vec<(u64, u32)> {
    v.iter().map(|w| (w.wr_id, w.status)).collect()
}

/// Time passes for both, and both look.
fn pass(f: &Fabric, ends: [&mut End; 2], ms: u64) -> [Vec<Wc>; 2] {
    let mut got = [Vec::new(), Vec::new()];
    let [a, b] = ends;
    for _ in 0..ms / 50 {
        f.lock().now += 50_000_000;
        for (e, got) in [&mut *a, &mut *b].into_iter().zip(&mut got) {
            got.extend(e.poll());
            e.e.run_timers();
        }
    }
    got
}

fn exchange(a: &mut End, b: &mut End) {
    for i in 0..3 {
        b.recv(i, 0, 64);
        a.recv(i, 0, 64);
        a.send(i, wr_opcode::SEND, 64, 16, (0, 0));
        b.send(i, wr_opcode::SEND, 64, 16, (0, 0));
        collect(a, b, 2, 2);
    }
}

/// What the first end sends, without and with answers of the peer's.
fn operations(b: &End) -> Vec<(u32, usize, (u64, u32))> {
    let to = (b.at(4096), b.mr.rkey);
    vec![
        (wr_opcode::SEND, 16, (0, 0)),
        (wr_opcode::SEND, 6000, (0, 0)),
        (wr_opcode::RDMA_WRITE, 8, to),
        (wr_opcode::RDMA_READ, 8, to),
        (wr_opcode::ATOMIC_FETCH_AND_ADD, 8, to),
        (wr_opcode::RDMA_WRITE_WITH_IMM, 0, to),
    ]
}

#[test]
fn what_is_sent_before_the_peer_is_connected_again_arrives() {
    for used in [false, true] {
        for n in 0..6 {
            // The peer looks before it is reset, or it does not; it hears of the newcomer, or it does not.
            for early in 0..3 {
                let f = Fabric::default();
                let (mut a, mut b) = pair(&f, 16384, 16, 7);
                if used {
                    exchange(&mut a, &mut b);
                }
                let (opcode, len, to) = operations(&b)[n];
                let (na, nb) = (a.num, b.num);
                renew(&mut a, 2, nb);
                a.send(7, opcode, 0, len, to);
                a.send(8, opcode, 0, len, to);
                if early > 0 {
                    b.poll();
                }
                let mut va = Vec::new();
                if early > 1 {
                    va = std::mem::take(&mut pass(&f, [&mut a, &mut b], 150)[0]);
                    // A peer that has not spoken to anybody yet is as good as one that is connected again.
                    assert!(va.is_empty() || !used, "{va:?}");
                }
                renew(&mut b, 1, na);
                let receives = matches!(opcode, wr_opcode::SEND | wr_opcode::RDMA_WRITE_WITH_IMM);
                for i in 0..2 * u64::from(receives) {
                    b.recv(20 + i, 8192, 6000);
                }
                let [more, vb] = pass(&f, [&mut a, &mut b], 1000);
                va.extend(more);
                let what = format!("{opcode} of {len}, used {used}, early {early}");
                assert_eq!(statuses(&va), [(7, 0), (8, 0)], "{what}");
                assert_eq!(vb.len(), if receives { 2 } else { 0 }, "{what}");
                assert!(vb.iter().all(|w| w.status == 0), "{what}: {vb:?}");
            }
        }
    }
}

/// The ring is full of requests that nobody has, with a gap at its end.
#[test]
fn a_whole_ring_is_sent_again() {
    let f = Fabric::default();
    let (mut a, mut b) = pair(&f, 16384, 512, 7);
    exchange(&mut a, &mut b);
    let (na, nb) = (a.num, b.num);
    renew(&mut a, 2, nb);
    for i in 0..300 {
        a.mem[0] = i as u8;
        a.send(
            i,
            wr_opcode::SEND_WITH_IMM,
            0,
            1 + (i as usize * 37) % 200,
            (0, 0),
        );
    }
    b.poll();
    renew(&mut b, 1, na);
    for i in 0..300 {
        b.recv(i, 1000, 256);
    }
    let [va, vb] = pass(&f, [&mut a, &mut b], 3000);
    let all: Vec<_> = (0..300).map(|i| (i, 0)).collect();
    assert_eq!((statuses(&va), statuses(&vb)), (all.clone(), all));
}

#[test]
fn requests_fail_when_only_the_peer_was_reset() {
    for timeout in [14, 0] {
        let f = Fabric::default();
        let (mut a, mut b) = pair(&f, 16384, 16, 7);
        exchange(&mut a, &mut b);
        a.e.qp(a.qp).unwrap().attr.timeout = timeout;
        let (na, qb) = (a.num, b.qp);
        renew(&mut b, 1, na);
        b.recv(1, 0, 64);
        a.send(7, wr_opcode::SEND, 0, 16, (0, 0));
        a.send(8, wr_opcode::RDMA_READ, 0, 16, (b.at(0), b.mr.rkey));
        let [va, vb] = pass(&f, [&mut a, &mut b], 400);
        assert!(
            va.is_empty() && vb.is_empty(),
            "it is retried first: {va:?}"
        );
        let [va, vb] = pass(&f, [&mut a, &mut b], 1000);
        assert!(vb.is_empty());
        if timeout == 0 {
            assert!(va.is_empty(), "for ever");
            continue;
        }
        assert_eq!(
            statuses(&va),
            [(7, wc_status::RETRY_EXC_ERR), (8, wc_status::WR_FLUSH_ERR)]
        );
        assert_eq!(a.e.query_qp(a.qp).unwrap().attr.qp_state, qps::ERR);
        // B has lost nothing.
        assert_eq!(b.e.query_qp(qb).unwrap().attr.qp_state, qps::RTS);
        assert!(b.events(0x99).iter().all(|e| *e == event::COMM_EST));
    }
}

#[test]
fn a_receiver_whose_peer_was_reset_hears_nothing_and_the_peer_gives_up() {
    let f = Fabric::default();
    let (mut a, mut b) = pair(&f, 16384, 16, 7);
    exchange(&mut a, &mut b);
    b.recv(1, 0, 64);
    let nb = b.num;
    renew(&mut a, 2, nb);
    a.send(7, wr_opcode::SEND, 0, 16, (0, 0));
    let [va, vb] = pass(&f, [&mut a, &mut b], 500);
    assert!(va.is_empty() && vb.is_empty());
    // Nothing answers A any more: the device tells.
    f.fail(1);
    let [va, vb] = pass(&f, [&mut a, &mut b], 100);
    assert_eq!(statuses(&va), [(7, wc_status::RETRY_EXC_ERR)]);
    assert!(vb.is_empty() && b.events(0x99).is_empty());
    assert_eq!(b.e.query_qp(b.qp).unwrap().attr.qp_state, qps::RTS);
}

#[test]
fn both_are_reset_again_and_again() {
    let f = Fabric::default();
    let (mut a, mut b) = pair(&f, 16384, 16, 7);
    let (na, nb) = (a.num, b.num);
    for round in 0..20u64 {
        let first = round % 2 == 0;
        if first {
            renew(&mut a, 2, nb);
            a.send(round, wr_opcode::SEND, 0, 16, (0, 0));
            renew(&mut b, 1, na);
        } else {
            renew(&mut b, 1, na);
            b.send(round, wr_opcode::SEND, 0, 16, (0, 0));
            renew(&mut a, 2, nb);
        }
        let (x, y) = if first {
            (&mut a, &mut b)
        } else {
            (&mut b, &mut a)
        };
        y.recv(round, 0, 64);
        let [vx, vy] = pass(&f, [x, y], 400);
        assert_eq!(
            (statuses(&vx), statuses(&vy)),
            (vec![(round, 0)], vec![(round, 0)])
        );
        exchange(&mut a, &mut b);
    }
}

fn uc_pair(f: &Fabric) -> (End, End) {
    let (mut a, mut b) = (End::new(f, 1, 16384, 1), End::new(f, 2, 16384, 1));
    for e in [&mut a, &mut b] {
        (e.qp, e.num) = e.create_as(qpt::UC, 64, None, None);
    }
    let (qa, na, qb, nb) = (a.qp, a.num, b.qp, b.num);
    a.connect(qa, 2, nb);
    b.connect(qb, 1, na);
    (a, b)
}

/// UC goes on when one of its ends was reset, whichever it is, and whoever sends first.
#[test]
fn uc_goes_on_with_a_peer_that_was_reset() {
    for len in [16usize, 6000] {
        for sender_renewed in [true, false] {
            let f = Fabric::default();
            let (mut a, mut b) = uc_pair(&f);
            exchange(&mut a, &mut b);
            for round in 0..5 {
                let (na, nb) = (a.num, b.num);
                if sender_renewed {
                    renew(&mut a, 2, nb);
                } else {
                    renew(&mut b, 1, na);
                }
                for i in 0..8 {
                    b.recv(100 + i, 0, 6000);
                    a.recv(100 + i, 0, 6000);
                }
                // Some of the first may be lost, and what comes is in order.
                let mut seen = Vec::new();
                for i in 0..8 {
                    a.mem[8192..8192 + len].fill(i + 1);
                    a.send(i.into(), wr_opcode::SEND_WITH_IMM, 8192, len, (0, 0));
                    let [va, vb] = pass(&f, [&mut a, &mut b], 400);
                    assert!(va.iter().all(|w| w.status == 0), "{va:?}");
                    seen.extend(vb.iter().map(|w| (w.status, b.mem[0])));
                }
                let what = format!("{len} bytes, sender renewed {sender_renewed}, round {round}");
                assert!(seen.len() >= 7, "{what}: {seen:?}");
                assert!(seen.windows(2).all(|w| w[0].1 < w[1].1), "{what}: {seen:?}");
                assert_eq!(seen.last(), Some(&(0, 8)), "{what}");
                // The other way too.
                b.send(50, wr_opcode::SEND_WITH_IMM, 8192, len, (0, 0));
                let [va, vb] = pass(&f, [&mut a, &mut b], 400);
                assert_eq!((va.len(), vb.len()), (1, 1), "{what}");
            }
        }
    }
}
