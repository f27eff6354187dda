//! Unreliable connections.

use super::rig::{End, collect, wr};
use crate::native::sim::Fabric;
use crate::rc::uc::GRACE_NS;
use crate::verbs::types::{Errno, QpAttr, Wc};
use kernel_abi::verbs::{qp_attr, qps, qpt, wc_opcode, wc_status, wr_opcode};

fn uc_pair(f: &Fabric, bytes: usize, depth: u32) -> (End, End) {
    let (mut a, mut b) = (End::new(f, 1, bytes, 1), End::new(f, 2, bytes, 1));
    for e in [&mut a, &mut b] {
        (e.qp, e.num) = e.create_as(qpt::UC, depth, None, None);
    }
    let (na, nb) = (a.num, b.num);
    let (qa, qb) = (a.qp, b.qp);
    a.connect(qa, 2, nb);
    b.connect(qb, 1, na);
    (a, b)
}

fn fill(e: &mut End) {
    for (i, b) in e.mem.iter_mut().enumerate() {
        *b = (i * 7 + i / 251) as u8;
    }
}

fn statuses(v: &[Wc]) -> Vec<(u64, u32)> {
    v.iter().map(|w| (w.wr_id, w.status)).collect()
}

#[test]
fn sends_and_writes_of_every_size_arrive_whole() {
    let f = Fabric::default();
    let (mut a, mut b) = uc_pair(&f, 1 << 20, 16);
    fill(&mut a);
    for len in [0usize, 1, 40, 41, 4096, 4097, 70_000, 1 << 20] {
        for opcode in [wr_opcode::SEND_WITH_IMM, wr_opcode::RDMA_WRITE_WITH_IMM] {
            b.mem.fill(0);
            b.recv(5, 0, 1 << 20);
            a.send(9, opcode, 0, len, (b.at(0), b.mr.rkey));
            let (va, vb) = collect(&mut a, &mut b, 1, 1);
            assert_eq!((statuses(&va), statuses(&vb)), (vec![(9, 0)], vec![(5, 0)]));
            assert_eq!(
                (vb[0].byte_len as usize, vb[0].imm_data),
                (len, 0x1122_3344)
            );
            assert_eq!(b.mem[..len], a.mem[..len], "length {len}");
        }
        b.mem.fill(0);
        a.send(9, wr_opcode::RDMA_WRITE, 0, len, (b.at(0), b.mr.rkey));
        let (va, _) = collect(&mut a, &mut b, 1, 0);
        assert_eq!(statuses(&va), [(9, 0)]);
        for _ in 0..4 {
            b.poll();
        }
        assert_eq!(b.mem[..len], a.mem[..len], "write of {len}");
    }
}

#[test]
fn a_small_send_is_complete_before_the_peer_looks() {
    let f = Fabric::default();
    let (mut a, mut b) = uc_pair(&f, 4096, 300);
    for i in 0..300 {
        a.send(i, wr_opcode::SEND, 0, 16, (0, 0));
    }
    // As many as the ring holds, without any help from B.
    let mut got = Vec::new();
    for _ in 0..10 {
        got.extend(a.poll());
    }
    assert!(got.len() >= 200, "{}", got.len());
    assert!(got.iter().all(|w| w.status == 0));
    // The rest when B has dropped the first ones.
    for _ in 0..50 {
        f.lock().now += GRACE_NS / 10;
        b.poll();
        got.extend(a.poll());
    }
    assert_eq!(got.len(), 300);
    assert!(b.poll().is_empty());
}

#[test]
fn a_message_without_a_receive_is_dropped_and_the_next_one_arrives() {
    for len in [16usize, 100_000] {
        let f = Fabric::default();
        let (mut a, mut b) = uc_pair(&f, 1 << 20, 16);
        a.send(1, wr_opcode::SEND_WITH_IMM, 0, len, (0, 0));
        let mut got = Vec::new();
        for _ in 0..50 {
            f.lock().now += GRACE_NS / 10;
            assert!(b.poll().is_empty());
            got.extend(a.poll());
        }
        assert_eq!(statuses(&got), [(1, 0)]);
        b.recv(7, 0, 1 << 20);
        for _ in 0..10 {
            assert!(b.poll().is_empty(), "it is gone");
        }
        a.send(2, wr_opcode::SEND_WITH_IMM, 0, len, (0, 0));
        let (va, vb) = collect(&mut a, &mut b, 1, 1);
        assert_eq!((statuses(&va), statuses(&vb)), (vec![(2, 0)], vec![(7, 0)]));
    }
}

#[test]
fn a_receive_within_the_grace_still_takes_the_message() {
    let f = Fabric::default();
    let (mut a, mut b) = uc_pair(&f, 4096, 16);
    a.send(1, wr_opcode::SEND, 0, 16, (0, 0));
    // As long as a busy machine keeps the receiver from its processor.
    for _ in 0..9 {
        f.lock().now += 50_000_000;
        b.poll();
        b.e.cool_down();
    }
    b.recv(7, 0, 64);
    let (_, vb) = collect(&mut a, &mut b, 1, 1);
    assert_eq!(statuses(&vb), [(7, 0)]);
}

#[test]
fn a_message_held_back_leaves_the_next_one_its_notification() {
    let f = Fabric::default();
    let (mut a, mut b) = uc_pair(&f, 4096, 16);
    for i in 0..3 {
        a.send(i, wr_opcode::SEND, 0, 16, (0, 0));
    }
    b.poll();
    // B falls asleep while the first message waits for a receive, and drops all three later.
    for _ in 0..4 {
        b.e.cool_down();
    }
    f.lock().now += GRACE_NS * 2;
    b.poll();
    for _ in 0..4 {
        a.e.cool_down();
        b.e.cool_down();
    }
    assert_eq!(b.e.watched(), 0);
    b.recv(7, 0, 64);
    a.send(3, wr_opcode::SEND, 0, 16, (0, 0));
    let (_, vb) = collect(&mut a, &mut b, 4, 1);
    assert_eq!(statuses(&vb), [(7, 0)]);
}

#[test]
fn a_message_too_long_is_dropped_and_its_receive_stays() {
    for len in [100usize, 100_000] {
        let f = Fabric::default();
        let (mut a, mut b) = uc_pair(&f, 1 << 20, 16);
        b.recv(1, 0, 99);
        a.send(1, wr_opcode::SEND, 0, len, (0, 0));
        a.send(2, wr_opcode::SEND, 0, 99, (0, 0));
        let (va, vb) = collect(&mut a, &mut b, 2, 1);
        assert_eq!(
            (statuses(&va), statuses(&vb)),
            (vec![(1, 0), (2, 0)], vec![(1, 0)])
        );
        assert_eq!(vb[0].byte_len, 99);
    }
}

#[test]
fn remote_errors_are_nobodys() {
    let f = Fabric::default();
    let (mut a, mut b) = uc_pair(&f, 4096, 16);
    let (at, key) = (b.at(0), b.mr.rkey);
    a.mem.fill(9);
    // A wrong key, a range too long, and a right one.
    a.send(1, wr_opcode::RDMA_WRITE, 0, 16, (at, key ^ 0x100));
    a.send(2, wr_opcode::RDMA_WRITE, 0, 16, (at + 4090, key));
    a.send(3, wr_opcode::RDMA_WRITE, 0, 16, (at, key));
    a.send(4, wr_opcode::RDMA_WRITE, 0, 16, (at + 4090, key));
    let (va, _) = collect(&mut a, &mut b, 4, 0);
    assert_eq!(statuses(&va), (1..5).map(|i| (i, 0)).collect::<Vec<_>>());
    assert_eq!(b.mem[..16], [9; 16]);
    assert!(b.mem[16..].iter().all(|x| *x == 0));
    for e in [&mut a, &mut b] {
        assert_eq!(e.e.query_qp(e.qp).unwrap().attr.qp_state, qps::RTS);
        assert!(e.events(0x99).is_empty());
    }
}

#[test]
fn a_local_error_stops_the_send_queue_only() {
    let f = Fabric::default();
    let (mut a, mut b) = uc_pair(&f, 4096, 16);
    a.recv(50, 0, 64);
    let mut s = a.sge(0, 16);
    s.lkey ^= 0x300;
    a.send(1, wr_opcode::SEND, 0, 16, (0, 0));
    a.post(&wr(2, wr_opcode::SEND, &[s], (0, 0)));
    a.send(3, wr_opcode::SEND, 0, 16, (0, 0));
    let (va, _) = collect(&mut a, &mut b, 3, 0);
    assert_eq!(
        statuses(&va),
        [
            (1, 0),
            (2, wc_status::LOC_PROT_ERR),
            (3, wc_status::WR_FLUSH_ERR)
        ]
    );
    assert_eq!(a.e.query_qp(a.qp).unwrap().attr.qp_state, qps::SQE);
    // It still receives.
    b.send(4, wr_opcode::SEND, 0, 16, (0, 0));
    let (va, vb) = collect(&mut a, &mut b, 1, 1);
    assert_eq!(
        (statuses(&va), statuses(&vb)),
        (vec![(50, 0)], vec![(4, 0)])
    );
    // And sends again when told so.
    let back = QpAttr {
        qp_state: qps::RTS,
        ..QpAttr::default()
    };
    a.e.modify_qp(a.qp, &back, qp_attr::STATE).unwrap();
    f.lock().now += GRACE_NS * 2;
    b.poll();
    b.recv(60, 0, 64);
    a.send(5, wr_opcode::SEND, 0, 16, (0, 0));
    let (va, vb) = collect(&mut a, &mut b, 1, 1);
    assert_eq!(
        (statuses(&va), statuses(&vb)),
        (vec![(5, 0)], vec![(60, 0)])
    );
}

#[test]
fn a_bad_receive_ends_the_receiver_and_not_the_sender() {
    let f = Fabric::default();
    let (mut a, mut b) = uc_pair(&f, 4096, 16);
    let mut s = b.sge(0, 64);
    s.lkey ^= 0x300;
    b.e.post_recv(b.qp, 1, &[s]).unwrap();
    a.send(4, wr_opcode::SEND, 0, 16, (0, 0));
    let (va, vb) = collect(&mut a, &mut b, 1, 1);
    assert_eq!(
        (statuses(&va), statuses(&vb)),
        (vec![(4, 0)], vec![(1, wc_status::LOC_PROT_ERR)])
    );
    assert_eq!(b.e.query_qp(b.qp).unwrap().attr.qp_state, qps::ERR);
    assert_eq!(a.e.query_qp(a.qp).unwrap().attr.qp_state, qps::RTS);
}

#[test]
fn the_death_of_the_peer_is_hidden() {
    let f = Fabric::default();
    let (mut a, mut b) = uc_pair(&f, 1 << 20, 16);
    b.recv(1, 0, 64);
    a.send(1, wr_opcode::SEND, 0, 16, (0, 0));
    collect(&mut a, &mut b, 1, 1);
    // One that waits for the peer's answer, and small ones.
    a.send(2, wr_opcode::SEND, 0, 100_000, (0, 0));
    a.recv(10, 0, 64);
    a.recv(11, 0, 64);
    f.kill(2);
    let mut got = Vec::new();
    for i in 3..300 {
        a.send(i, wr_opcode::SEND, 0, 16, (0, 0));
        got.extend(a.poll());
        f.lock().now += 1_000_000;
        if i % 100 == 0 {
            f.fail(1);
        }
    }
    f.fail(1);
    got.extend(a.poll());
    assert_eq!(statuses(&got), (2..300).map(|i| (i, 0)).collect::<Vec<_>>());
    assert_eq!(a.e.query_qp(a.qp).unwrap().attr.qp_state, qps::RTS);
    assert!(a.events(0x99).is_empty());
}

#[test]
fn receives_under_way_are_free_again_when_the_sender_dies() {
    let f = Fabric::default();
    let (mut a, mut b) = uc_pair(&f, 1 << 20, 16);
    b.recv(1, 0, 64);
    a.send(1, wr_opcode::SEND, 0, 1, (0, 0));
    collect(&mut a, &mut b, 1, 1);
    a.poll();
    for i in 2..6 {
        b.recv(i, 0, 1 << 20);
    }
    a.send(2, wr_opcode::SEND, 0, 100_000, (0, 0));
    b.poll();
    a.send(3, wr_opcode::SEND, 0, 16, (0, 0));
    // B has taken two receives: one waits for its payload, one is done behind it.
    f.kill(1);
    let mut got = Vec::new();
    for _ in 0..5 {
        got.extend(b.poll());
    }
    assert_eq!(statuses(&got), [(3, 0)]);
    assert_eq!(
        b.e.qp(b.qp)
            .unwrap()
            .rq
            .tail
            .wrapping_sub(b.e.qp(b.qp).unwrap().rq.next),
        3
    );
    assert_eq!(b.e.query_qp(b.qp).unwrap().attr.qp_state, qps::RTS);
}

#[test]
fn reads_and_atomics_are_refused() {
    let f = Fabric::default();
    let (mut a, b) = uc_pair(&f, 4096, 16);
    let s = [a.sge(0, 8)];
    for opcode in [wr_opcode::RDMA_READ, wr_opcode::ATOMIC_FETCH_AND_ADD] {
        let r =
            a.e.post_send(a.qp, &wr(1, opcode, &s, (b.at(0), b.mr.rkey)));
        assert_eq!(r, Err(Errno::EINVAL));
    }
}

#[test]
fn ordering_holds_under_any_interleaving() {
    for seed in 0..40usize {
        let f = Fabric::default();
        f.lock().delayed = true;
        let (mut a, mut b) = uc_pair(&f, 1 << 16, 64);
        let mut expect = Vec::new();
        for i in 0..40u64 {
            b.recv(i, 0, 8192);
            let len = [1usize, 100, 5000][(i as usize + seed) % 3];
            let opcode = if (i as usize * 7 + seed).is_multiple_of(4) {
                wr_opcode::RDMA_WRITE_WITH_IMM
            } else {
                wr_opcode::SEND_WITH_IMM
            };
            let s = [a.sge(0, len)];
            let mut w = wr(i, opcode, &s, (b.at(16384), b.mr.rkey));
            w.imm = i as u32;
            a.post(&w);
            expect.push((i as u32, len as u32));
        }
        let (mut va, mut vb) = (Vec::new(), Vec::new());
        for k in 0..20_000usize {
            f.step(k.wrapping_mul(seed + 3) >> 2);
            if k % (seed + 2) == 0 {
                va.extend(a.poll());
            }
            if k % 3 == 0 {
                vb.extend(b.poll());
            }
            if va.len() == 40 && vb.len() == 40 {
                break;
            }
        }
        assert_eq!(
            statuses(&va),
            (0..40).map(|i| (i, 0)).collect::<Vec<_>>(),
            "seed {seed}"
        );
        assert_eq!(
            vb.iter()
                .map(|w| (w.imm_data, w.byte_len))
                .collect::<Vec<_>>(),
            expect
        );
        assert!(
            vb.iter()
                .all(|w| w.opcode == wc_opcode::RECV || w.opcode == wc_opcode::RECV_RDMA_WITH_IMM)
        );
    }
}
