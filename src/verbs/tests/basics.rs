use super::rig::{End, collect, pair, wr};
use crate::native::sim::Fabric;
use crate::verbs::types::Wc;
use kernel_abi::verbs::{qps, send_flag, wc_flag, wc_opcode, wc_status, wr_opcode};

fn ok(v: &[Wc]) {
    assert!(v.iter().all(|w| w.status == wc_status::SUCCESS), "{v:?}");
}

fn fill(e: &mut End) {
    for (i, b) in e.mem.iter_mut().enumerate() {
        *b = (i * 7 + i / 251) as u8;
    }
}

#[test]
fn sends_of_every_size_arrive_whole() {
    let f = Fabric::default();
    let (mut a, mut b) = pair(&f, 1 << 20, 16, 7);
    fill(&mut a);
    for len in [
        0usize,
        1,
        8,
        39,
        40,
        41,
        64,
        104,
        105,
        1000,
        4095,
        4096,
        4097,
        70_000,
        1 << 20,
    ] {
        b.mem.fill(0);
        b.recv(5, 0, 1 << 20);
        a.send(9, wr_opcode::SEND_WITH_IMM, 0, len, (0, 0));
        let (va, vb) = collect(&mut a, &mut b, 1, 1);
        ok(&va);
        ok(&vb);
        assert_eq!((va[0].wr_id, va[0].opcode), (9, wc_opcode::SEND));
        assert_eq!(
            (
                vb[0].wr_id,
                vb[0].opcode,
                vb[0].byte_len as usize,
                vb[0].imm_data
            ),
            (5, wc_opcode::RECV, len, 0x1122_3344)
        );
        assert_eq!(vb[0].wc_flags, wc_flag::WITH_IMM);
        assert_eq!(b.mem[..len], a.mem[..len], "length {len}");
        assert!(b.mem[len..].iter().all(|x| *x == 0));
    }
}

#[test]
fn pingpong_needs_no_notifications_once_hot() {
    let f = Fabric::default();
    let (mut a, mut b) = pair(&f, 4096, 16, 7);
    for round in 0..2000u64 {
        b.recv(round, 0, 64);
        a.recv(round, 0, 64);
        a.send(1, wr_opcode::SEND, 64, 32, (0, 0));
        let (va, vb) = collect(&mut a, &mut b, 1, 1);
        ok(&va);
        ok(&vb);
        b.send(2, wr_opcode::SEND, 64, 32, (0, 0));
        let (va, vb) = collect(&mut a, &mut b, 1, 1);
        ok(&va);
        ok(&vb);
    }
    assert!(f.lock().notifications < 10, "{}", f.lock().notifications);
}

#[test]
fn writes_resolve_the_key_once_and_check_to_the_byte() {
    let f = Fabric::default();
    let (mut a, mut b) = pair(&f, 8192, 64, 7);
    fill(&mut a);
    let to = (b.at(100), b.mr.rkey);
    for _ in 0..200 {
        a.send(1, wr_opcode::RDMA_WRITE, 0, 300, to);
        let (va, _) = collect(&mut a, &mut b, 1, 0);
        ok(&va);
    }
    assert_eq!(b.mem[100..400], a.mem[..300]);
    assert!(b.mem[..100].iter().chain(&b.mem[400..]).all(|x| *x == 0));
    // Zero length: no key needed, still acknowledged.
    a.send(2, wr_opcode::RDMA_WRITE, 0, 0, (0, 0));
    let (va, _) = collect(&mut a, &mut b, 1, 0);
    ok(&va);
    // One byte too far.
    a.send(
        3,
        wr_opcode::RDMA_WRITE,
        0,
        300,
        (b.at(8192 - 299), b.mr.rkey),
    );
    let (va, _) = collect(&mut a, &mut b, 1, 0);
    assert_eq!(va[0].status, wc_status::REM_ACCESS_ERR);
    assert_eq!(a.e.query_qp(a.qp).unwrap().attr.qp_state, qps::ERR);
    assert_eq!(b.e.query_qp(b.qp).unwrap().attr.qp_state, qps::ERR);
    assert_eq!(b.mem[8191], 0);
}

#[test]
fn write_with_immediate_takes_a_receive() {
    let f = Fabric::default();
    let (mut a, mut b) = pair(&f, 1 << 20, 64, 7);
    fill(&mut a);
    for i in 0..300usize {
        b.recv(i as u64, 0, 0);
        a.send(
            i as u64,
            wr_opcode::RDMA_WRITE_WITH_IMM,
            0,
            i * 3,
            (b.at(0), b.mr.rkey),
        );
        let (va, vb) = collect(&mut a, &mut b, 1, 1);
        ok(&va);
        ok(&vb);
        assert_eq!(
            (vb[0].opcode, vb[0].byte_len as usize),
            (wc_opcode::RECV_RDMA_WITH_IMM, i * 3)
        );
        assert_eq!(b.mem[..i * 3], a.mem[..i * 3]);
    }
}

#[test]
fn bad_keys_end_both_sides() {
    for (opcode, status) in [
        (wr_opcode::RDMA_WRITE, wc_status::REM_ACCESS_ERR),
        (wr_opcode::RDMA_READ, wc_status::REM_ACCESS_ERR),
    ] {
        let f = Fabric::default();
        let (mut a, mut b) = pair(&f, 4096, 16, 7);
        a.send(1, opcode, 0, 16, (b.at(0), b.mr.rkey ^ 0x100));
        a.send(2, wr_opcode::SEND, 0, 16, (0, 0));
        let (va, vb) = collect(&mut a, &mut b, 2, 0);
        assert_eq!((va[0].wr_id, va[0].status), (1, status));
        assert_eq!((va[1].wr_id, va[1].status), (2, wc_status::WR_FLUSH_ERR));
        assert!(vb.is_empty());
    }
}

#[test]
fn a_receive_too_small_is_an_error_at_both_ends() {
    for len in [100usize, 100_000] {
        let f = Fabric::default();
        let (mut a, mut b) = pair(&f, 1 << 20, 16, 7);
        b.recv(1, 0, 99);
        b.recv(2, 0, 99);
        a.send(3, wr_opcode::SEND, 0, len, (0, 0));
        let (va, vb) = collect(&mut a, &mut b, 1, 2);
        assert_eq!(va[0].status, wc_status::REM_INV_REQ_ERR);
        assert_eq!(
            (vb[0].status, vb[1].status),
            (wc_status::LOC_LEN_ERR, wc_status::WR_FLUSH_ERR)
        );
    }
}

#[test]
fn bad_local_keys() {
    let f = Fabric::default();
    let (mut a, mut b) = pair(&f, 4096, 16, 7);
    let mut s = a.sge(0, 16);
    s.lkey ^= 0x300;
    a.post(&wr(4, wr_opcode::SEND, &[s], (0, 0)));
    let (va, _) = collect(&mut a, &mut b, 1, 0);
    assert_eq!(va[0].status, wc_status::LOC_PROT_ERR);
    let f = Fabric::default();
    let (mut a, mut b) = pair(&f, 4096, 16, 7);
    let mut s = b.sge(0, 64);
    s.lkey ^= 0x300;
    b.e.post_recv(b.qp, 1, &[s]).unwrap();
    a.send(4, wr_opcode::SEND, 0, 16, (0, 0));
    let (va, vb) = collect(&mut a, &mut b, 1, 1);
    assert_eq!(
        (va[0].status, vb[0].status),
        (wc_status::REM_OP_ERR, wc_status::LOC_PROT_ERR)
    );
}

#[test]
fn rnr_waits_for_ever_with_seven_and_ends_with_less() {
    let f = Fabric::default();
    let (mut a, mut b) = pair(&f, 4096, 16, 7);
    a.send(1, wr_opcode::SEND, 0, 16, (0, 0));
    for _ in 0..1000 {
        f.lock().now += 1_000_000;
        assert!(a.poll().is_empty() && b.poll().is_empty());
    }
    b.recv(2, 0, 64);
    let (va, vb) = collect(&mut a, &mut b, 1, 1);
    ok(&va);
    ok(&vb);

    for retry in [0u8, 1, 6] {
        let f = Fabric::default();
        let (mut a, mut b) = pair(&f, 4096, 16, retry);
        a.send(1, wr_opcode::SEND, 0, 16, (0, 0));
        let mut got = Vec::new();
        for _ in 0..20 {
            got.extend(a.poll());
            assert!(b.poll().is_empty());
            f.lock().now += 700_000; // timer code 12: 640 us
        }
        assert_eq!(got.len(), 1);
        assert_eq!(got[0].status, wc_status::RNR_RETRY_EXC_ERR);
        // What was given up is not delivered later.
        b.recv(2, 0, 64);
        for _ in 0..10 {
            assert!(b.poll().is_empty());
        }
    }
}

#[test]
fn reads_and_atomics() {
    let f = Fabric::default();
    let (mut a, mut b) = pair(&f, 1 << 20, 64, 7);
    fill(&mut b);
    let from = (b.at(0), b.mr.rkey);
    for len in [1usize, 8, 39, 40, 41, 4096, 1 << 20] {
        a.mem.fill(0);
        a.send(1, wr_opcode::RDMA_READ, 0, len, from);
        let (va, _) = collect(&mut a, &mut b, 1, 0);
        ok(&va);
        assert_eq!(
            (va[0].opcode, va[0].byte_len as usize),
            (wc_opcode::RDMA_READ, len)
        );
        assert_eq!(a.mem[..len], b.mem[..len]);
        assert!(len == a.mem.len() || a.mem[len] == 0);
    }
    // The answer of one line, in pieces.
    a.mem.fill(0);
    let pieces = [a.sge(0, 3), a.sge(100, 0), a.sge(200, 30), a.sge(300, 7)];
    a.post(&wr(1, wr_opcode::RDMA_READ, &pieces, from));
    ok(&collect(&mut a, &mut b, 1, 0).0);
    for (at, off, len) in [(0, 0, 3), (200, 3, 30), (300, 33, 7)] {
        assert_eq!(a.mem[at..at + len], b.mem[off..off + len]);
        assert_eq!(a.mem[at + len], 0);
    }
    for _ in 0..20 {
        a.send(1, wr_opcode::RDMA_READ, 0, 64, from);
    }
    let (va, _) = collect(&mut a, &mut b, 20, 0);
    ok(&va);
    let off = (8 - b.at(0) % 8) as usize % 8;
    b.mem[off..off + 8].copy_from_slice(&40u64.to_ne_bytes());
    let s = [a.sge(0, 8)];
    let mut w = wr(
        1,
        wr_opcode::ATOMIC_FETCH_AND_ADD,
        &s,
        (b.at(off), b.mr.rkey),
    );
    w.compare_add = 2;
    a.post(&w);
    ok(&collect(&mut a, &mut b, 1, 0).0);
    assert_eq!(a.mem[..8], 40u64.to_ne_bytes());
    w.opcode = wr_opcode::ATOMIC_CMP_AND_SWP;
    (w.compare_add, w.swap) = (42, 7);
    a.post(&w);
    ok(&collect(&mut a, &mut b, 1, 0).0);
    assert_eq!(a.mem[..8], 42u64.to_ne_bytes());
    assert_eq!(b.mem[off..off + 8], 7u64.to_ne_bytes());
    w.remote_addr += 1;
    a.post(&w);
    assert_eq!(
        collect(&mut a, &mut b, 1, 0).0[0].status,
        wc_status::REM_INV_REQ_ERR
    );
}

#[test]
fn the_old_value_of_an_atomic_is_scattered() {
    let f = Fabric::default();
    let (mut a, mut b) = pair(&f, 4096, 16, 7);
    let off = b.at(64).next_multiple_of(8) as usize - b.at(0) as usize;
    b.mem[off..off + 8].copy_from_slice(&0x1122_3344_5566_7788u64.to_ne_bytes());
    a.mem.fill(0xee);
    let s = [a.sge(0, 4), a.sge(100, 0), a.sge(200, 1), a.sge(300, 3)];
    let mut w = wr(
        1,
        wr_opcode::ATOMIC_FETCH_AND_ADD,
        &s,
        (b.at(off), b.mr.rkey),
    );
    w.compare_add = 1;
    a.post(&w);
    ok(&collect(&mut a, &mut b, 1, 0).0);
    let old = 0x1122_3344_5566_7788u64.to_ne_bytes();
    assert_eq!(a.mem[..4], old[..4]);
    assert_eq!(a.mem[200], old[4]);
    assert_eq!(a.mem[300..303], old[5..]);
    for guard in [4, 5, 6, 7, 100, 201, 303] {
        assert_eq!(a.mem[guard], 0xee, "byte {guard}");
    }
}

#[test]
fn a_write_does_not_pass_a_send_without_a_receive() {
    let f = Fabric::default();
    let (mut a, mut b) = pair(&f, 4096, 16, 7);
    a.mem[0] = 77;
    a.send(1, wr_opcode::SEND, 0, 16, (0, 0));
    a.send(2, wr_opcode::RDMA_WRITE, 0, 16, (b.at(1000), b.mr.rkey));
    for _ in 0..100 {
        assert!(a.poll().is_empty() && b.poll().is_empty());
    }
    assert_eq!(b.mem[1000], 0);
    b.recv(3, 0, 64);
    let (va, _) = collect(&mut a, &mut b, 2, 1);
    ok(&va);
    assert_eq!(b.mem[1000], 77);
}

#[test]
fn deregistration_reaches_who_resolved_the_key() {
    let f = Fabric::default();
    let (mut a, mut b) = pair(&f, 4096, 16, 7);
    a.send(1, wr_opcode::RDMA_WRITE, 0, 16, (b.at(0), b.mr.rkey));
    ok(&collect(&mut a, &mut b, 1, 0).0);
    b.e.dereg_begin(b.mr.handle).unwrap();
    assert!(!b.e.dereg_done(b.mr.handle));
    for _ in 0..10 {
        a.poll();
        b.poll();
    }
    assert!(b.e.dereg_done(b.mr.handle));
    b.e.dereg_finish(b.mr.handle).unwrap();
    a.send(2, wr_opcode::RDMA_WRITE, 0, 16, (b.at(0), b.mr.rkey));
    assert_eq!(
        collect(&mut a, &mut b, 1, 0).0[0].status,
        wc_status::REM_ACCESS_ERR
    );
}

#[test]
fn death_is_told_after_what_had_arrived() {
    let f = Fabric::default();
    let (mut a, mut b) = pair(&f, 4096, 16, 7);
    for i in 0..4 {
        b.recv(i, 0, 64);
    }
    a.send(1, wr_opcode::SEND, 0, 16, (0, 0));
    a.send(2, wr_opcode::SEND, 0, 16, (0, 0));
    f.kill(1);
    let mut got = Vec::new();
    for _ in 0..10 {
        got.extend(b.poll());
    }
    let statuses: Vec<u32> = got.iter().map(|w| w.status).collect();
    assert_eq!(
        statuses,
        [0, 0, wc_status::WR_FLUSH_ERR, wc_status::WR_FLUSH_ERR]
    );
}

#[test]
fn a_qp_connected_to_itself() {
    let f = Fabric::default();
    let mut a = End::new(&f, 1, 1 << 16, 16);
    let (qp, num) = (a.qp, a.num);
    a.init(qp);
    a.rtr(qp, 1, num);
    a.rts(qp, 7);
    fill(&mut a);
    for len in [10usize, 20_000] {
        a.recv(1, 32768, 32768);
        a.send(2, wr_opcode::SEND, 0, len, (0, 0));
        let mut got = Vec::new();
        for _ in 0..100 {
            got.extend(a.poll());
        }
        assert_eq!(got.len(), 2);
        ok(&got);
        assert_eq!(a.mem[32768..32768 + len], a.mem[..len]);
    }
}

#[test]
fn inline_data_may_be_reused_at_once() {
    let f = Fabric::default();
    f.lock().delayed = true;
    let (mut a, mut b) = pair(&f, 4096, 64, 7);
    let to = (b.at(0), b.mr.rkey);
    for i in 0..40u8 {
        let buf = [i; 100];
        let s = [crate::verbs::types::Sge {
            addr: buf.as_ptr() as u64,
            length: 100,
            lkey: 0,
        }];
        let mut w = wr(
            u64::from(i),
            wr_opcode::RDMA_WRITE,
            &s,
            (to.0 + u64::from(i) * 100, to.1),
        );
        w.flags |= send_flag::INLINE;
        a.post(&w);
    }
    let mut got = 0;
    for k in 0..10_000 {
        f.step(k);
        got += a.poll().len() + b.poll().len();
    }
    assert_eq!(got, 40);
    for i in 0..40usize {
        assert!(
            b.mem[i * 100..(i + 1) * 100].iter().all(|x| *x == i as u8),
            "{i}"
        );
    }
}

#[test]
fn idle_qps_turn_cold_and_are_notified_again() {
    let f = Fabric::default();
    let (mut a, mut b) = pair(&f, 4096, 16, 7);
    for i in 0..50 {
        b.recv(i, 0, 64);
        a.send(i, wr_opcode::SEND, 0, 16, (0, 0));
        ok(&collect(&mut a, &mut b, 1, 1).0);
        // Turning cold is news for the other side: it takes a few looks until both rest.
        for _ in 0..4 {
            a.e.cool_down();
            b.e.cool_down();
        }
        assert_eq!((a.e.watched(), b.e.watched()), (0, 0));
    }
    assert!(f.lock().notifications >= 50);
}

#[test]
fn many_outstanding_messages_wrap_the_rings() {
    let f = Fabric::default();
    let (mut a, mut b) = pair(&f, 1 << 16, 512, 7);
    fill(&mut a);
    let mut sent = 0u64;
    let mut done = (0, 0);
    while done.1 < 5000 {
        for i in 0..8 {
            b.e.post_recv(b.qp, i, &[b.sge(0, 8192)]).ok();
        }
        b.e.kick(b.qp);
        while sent < 5000 {
            let len = (sent * 37 % 6000) as usize;
            let s = [a.sge(0, len)];
            if a.e
                .post_send(a.qp, &wr(sent, wr_opcode::SEND, &s, (0, 0)))
                .is_err()
            {
                break;
            }
            sent += 1;
        }
        a.e.kick(a.qp);
        for w in b.poll() {
            assert_eq!((w.status, u64::from(w.byte_len)), (0, done.1 * 37 % 6000));
            done.1 += 1;
        }
        for w in a.poll() {
            assert_eq!((w.status, w.wr_id), (0, done.0));
            done.0 += 1;
        }
    }
    for _ in 0..100 {
        done.0 += (a.poll().len() + b.poll().len()) as u64;
    }
    assert_eq!(done, (5000, 5000));
}

#[test]
fn both_ends_full_of_large_sends_answer_each_other() {
    let f = Fabric::default();
    let (mut a, mut b) = pair(&f, 1 << 16, 128, 7);
    // They know each other already.
    a.recv(0, 0, 64);
    b.recv(0, 0, 64);
    a.send(0, wr_opcode::SEND, 0, 8, (0, 0));
    b.send(0, wr_opcode::SEND, 0, 8, (0, 0));
    collect(&mut a, &mut b, 2, 2);
    for i in 0..100 {
        a.recv(i, 32768, 16384);
        b.recv(i, 32768, 16384);
    }
    // All requests are on their way before either end looks at the other's.
    f.lock().delayed = true;
    for i in 0..100 {
        a.send(i, wr_opcode::SEND, 0, 10_000, (0, 0));
        b.send(i, wr_opcode::SEND, 0, 10_000, (0, 0));
    }
    for k in 0..200 {
        f.step(k);
    }
    f.lock().delayed = false;
    let (va, vb) = collect(&mut a, &mut b, 200, 200);
    ok(&va);
    ok(&vb);
}
