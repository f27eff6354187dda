//! Numbers that go round: what was noted long ago must not look like the future.

use super::rig::{End, collect, pair, wr};
use crate::native::sim::Fabric;
use kernel_abi::verbs::{send_flag, wr_opcode};

/// More than half of the circle of sequence numbers, and a multiple of the native ring.
const LONG: u32 = 0x8000_1000;

/// As if `by` requests had been sent and acknowledged by A without a pause.
fn age(a: &mut End, b: &mut End, by: u32) {
    for (x, sends) in [(a, true), (b, false)] {
        let qp = x.qp;
        let q = x.e.qp(qp).unwrap();
        let mut c = q.conn.take().unwrap();
        c.age(&mut q.native, by, sends);
        q.conn = Some(c);
    }
}

/// Two ends that have spoken.
fn spoken() -> (End, End) {
    let f = Fabric::default();
    let (mut a, mut b) = pair(&f, 1 << 16, 16, 7);
    for _ in 0..2 {
        b.recv(1, 0, 64);
        a.send(1, wr_opcode::SEND, 0, 8, (0, 0));
        collect(&mut a, &mut b, 1, 1);
    }
    (a, b)
}

#[test]
fn who_rests_after_a_long_run_is_notified() {
    for by in [LONG, u32::MAX - 0xfff, 0u32.wrapping_sub(2 * 4096)] {
        let (mut a, mut b) = spoken();
        age(&mut a, &mut b, by);
        a.e.cool_down();
        b.e.cool_down();
        for _ in 0..10 {
            a.e.cool_down();
            b.e.cool_down();
        }
        assert_eq!((a.e.watched(), b.e.watched()), (0, 0));
        b.recv(7, 0, 64);
        a.send(8, wr_opcode::SEND, 0, 8, (0, 0));
        let (_, vb) = collect(&mut a, &mut b, 1, 1);
        assert_eq!(vb[0].wr_id, 7);
    }
}

#[test]
fn inline_data_of_writes_finds_room_after_a_long_run() {
    let (mut a, mut b) = spoken();
    age(&mut a, &mut b, LONG);
    a.mem[..4].copy_from_slice(b"data");
    let s = [a.sge(0, 4)];
    for i in 0..20 {
        let mut w = wr(
            i,
            wr_opcode::RDMA_WRITE,
            &s,
            (b.at(100 * i as usize), b.mr.rkey),
        );
        w.flags |= send_flag::INLINE;
        a.post(&w);
        let (va, _) = collect(&mut a, &mut b, 1, 0);
        assert_eq!((va[0].wr_id, va[0].status), (i, 0));
        assert_eq!(&b.mem[100 * i as usize..][..4], b"data");
    }
}

#[test]
fn a_write_does_not_wait_for_a_message_of_long_ago() {
    let (mut a, mut b) = spoken();
    b.recv(2, 0, 64);
    let to = (b.at(0), b.mr.rkey);
    a.send(2, wr_opcode::RDMA_WRITE_WITH_IMM, 0, 8, to);
    collect(&mut a, &mut b, 1, 1);
    age(&mut a, &mut b, LONG);
    a.send(3, wr_opcode::RDMA_WRITE, 0, 8, to);
    assert_eq!(collect(&mut a, &mut b, 1, 0).0[0].wr_id, 3);
}
