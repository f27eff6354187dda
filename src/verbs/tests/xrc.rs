//! XRC: the SRQ is chosen by the message.

use super::rig::{End, wr};
use crate::native::sim::Fabric;
use crate::verbs::types::{Errno, SrqInfo, Wc};
use kernel_abi::verbs::{event, qps, qpt, wc_opcode, wc_status, wr_opcode};

/// A sends to B: (A, B, XRC_SEND of A, XRC_RECV of B, domain of B).
fn ends(f: &Fabric) -> (End, End, u32, u32, u32) {
    let (mut a, mut b) = (End::new(f, 1, 1 << 18, 1), End::new(f, 2, 1 << 18, 1));
    let domain = b.e.open_xrcd(None, true, false).unwrap();
    let (x, nx) = a.create_as(qpt::XRC_INI, 64, None, None);
    let (y, ny) = b.create_as(qpt::XRC_TGT, 64, None, Some(domain));
    a.connect(x, 2, ny);
    // A receiver may stay in RTR.
    b.init(y);
    b.rtr(y, 1, nx);
    (a, b, x, y, domain)
}

fn send(e: &mut End, qp: u32, id: u64, len: usize, srqn: u32) {
    let s = [e.sge(0, len)];
    let mut w = wr(id, wr_opcode::SEND_WITH_IMM, &s, (0, 0));
    w.remote_srqn = srqn;
    e.post_on(qp, &w);
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
fn messages_reach_the_srq_that_they_name() {
    let f = Fabric::default();
    let (mut a, mut b, x, y, domain) = ends(&f);
    let cq = b.cq;
    let srqs: Vec<SrqInfo> = (0..3).map(|_| b.srq(64, Some((domain, cq)))).collect();
    for (k, s) in srqs.iter().enumerate() {
        for i in 0..20 {
            b.srq_recv(s.handle, k as u64 * 100 + i, 65536, 100_000);
        }
    }
    let num = b.e.qp(y).unwrap().number();
    let mut next = [0u64; 3];
    for i in 0..45u64 {
        let k = (i * i % 3) as usize;
        let len = [1, 3000, 50_000][(i % 3) as usize];
        a.mem[..len].fill(i as u8);
        send(&mut a, x, i, len, srqs[k].number);
        let (va, vb) = poll_both(&mut a, &mut b, 20);
        assert_eq!((va.len(), vb.len()), (1, 1), "message {i}");
        assert_eq!((va[0].wr_id, va[0].status), (i, 0));
        assert_eq!((vb[0].wr_id, vb[0].status), (k as u64 * 100 + next[k], 0));
        assert_eq!(
            (vb[0].qp_num, vb[0].byte_len as usize, vb[0].opcode),
            (num, len, wc_opcode::RECV)
        );
        assert!(b.mem[65536..65536 + len].iter().all(|x| *x == i as u8));
        next[k] += 1;
        if next[k] == 20 {
            break;
        }
    }
}

#[test]
fn writes_reads_and_atomics_are_judged_by_the_pd_of_the_srq() {
    let f = Fabric::default();
    let (mut a, mut b, x, _, domain) = ends(&f);
    let cq = b.cq;
    let good = b.srq(8, Some((domain, cq)));
    let other_pd = b.e.alloc_pd().unwrap();
    let pd = std::mem::replace(&mut b.pd, other_pd);
    let bad = b.srq(8, Some((domain, cq)));
    b.pd = pd;
    let (at, key) = (b.at(64), b.mr.rkey);
    a.mem[..8].copy_from_slice(&5u64.to_ne_bytes());
    let s = [a.sge(0, 8)];
    let mut w = wr(1, wr_opcode::RDMA_WRITE, &s, (at, key));
    w.remote_srqn = good.number;
    a.post_on(x, &w);
    w.opcode = wr_opcode::ATOMIC_FETCH_AND_ADD;
    w.wr_id = 2;
    w.compare_add = 3;
    let al = (8 - at % 8) % 8;
    w.remote_addr = at + al;
    a.post_on(x, &w);
    let t = [a.sge(100, 8)];
    let mut r = wr(3, wr_opcode::RDMA_READ, &t, (at, key));
    r.remote_srqn = good.number;
    a.post_on(x, &r);
    let (va, _) = poll_both(&mut a, &mut b, 20);
    assert_eq!(
        va.iter().map(|w| (w.wr_id, w.status)).collect::<Vec<_>>(),
        [(1, 0), (2, 0), (3, 0)]
    );
    // The same key through an SRQ of another PD.
    let s = [a.sge(0, 8)];
    let mut w = wr(4, wr_opcode::RDMA_WRITE, &s, (at, key));
    w.remote_srqn = bad.number;
    a.post_on(x, &w);
    let (va, _) = poll_both(&mut a, &mut b, 20);
    assert_eq!(va[0].status, wc_status::REM_ACCESS_ERR);
}

#[test]
fn unknown_srqs_end_the_connection() {
    for gone in [false, true] {
        let f = Fabric::default();
        let (mut a, mut b, x, y, domain) = ends(&f);
        let cq = b.cq;
        let s = b.srq(8, Some((domain, cq)));
        let number = if gone {
            b.e.destroy_srq(s.handle).unwrap();
            let again = b.srq(8, Some((domain, cq)));
            assert_ne!(again.number, s.number, "numbers are not reused at once");
            b.srq_recv(again.handle, 1, 0, 64);
            s.number
        } else {
            b.srq_recv(s.handle, 1, 0, 64);
            s.number ^ 1
        };
        send(&mut a, x, 1, 16, number);
        let (va, vb) = poll_both(&mut a, &mut b, 20);
        assert_eq!((va[0].status, vb.len()), (wc_status::REM_INV_REQ_ERR, 0));
        assert_eq!(b.e.query_qp(y).unwrap().attr.qp_state, qps::ERR);
    }
}

#[test]
fn an_srq_of_another_domain_is_not_found() {
    let f = Fabric::default();
    let (mut a, mut b, x, _, _) = ends(&f);
    let cq = b.cq;
    let other = b.e.open_xrcd(None, true, false).unwrap();
    let s = b.srq(8, Some((other, cq)));
    b.srq_recv(s.handle, 1, 0, 64);
    send(&mut a, x, 1, 16, s.number);
    let (va, vb) = poll_both(&mut a, &mut b, 20);
    assert_eq!((va[0].status, vb.len()), (wc_status::REM_INV_REQ_ERR, 0));
}

#[test]
fn an_empty_srq_holds_its_messages_until_a_receive_comes() {
    let f = Fabric::default();
    let (mut a, mut b, x, _, domain) = ends(&f);
    let cq = b.cq;
    let s = b.srq(8, Some((domain, cq)));
    for i in 0..3 {
        send(&mut a, x, i, 16, s.number);
    }
    for i in 0..3 {
        assert!(poll_both(&mut a, &mut b, 10).1.is_empty());
        for _ in 0..4 {
            b.e.cool_down();
        }
        b.srq_recv(s.handle, 10 + i, 0, 64);
        let (va, vb) = poll_both(&mut a, &mut b, 10);
        assert_eq!((va.len(), vb[0].wr_id), (1, 10 + i));
    }
    // One that waits for a receive of an SRQ that goes away is refused.
    send(&mut a, x, 7, 16, s.number);
    poll_both(&mut a, &mut b, 10);
    b.e.destroy_srq(s.handle).unwrap();
    let (va, _) = poll_both(&mut a, &mut b, 10);
    assert_eq!(va[0].status, wc_status::REM_INV_REQ_ERR);
}

#[test]
fn domains_are_kept_by_what_is_in_them_and_found_by_their_file() {
    let f = Fabric::default();
    let mut b = End::new(&f, 2, 4096, 4);
    let cq = b.cq;
    let one = b.e.open_xrcd(Some((8, 100)), true, false).unwrap();
    assert_eq!(
        b.e.open_xrcd(Some((8, 100)), true, true),
        Err(Errno::EINVAL)
    );
    assert_eq!(
        b.e.open_xrcd(Some((8, 101)), false, false),
        Err(Errno::EAGAIN)
    );
    assert_eq!(b.e.open_xrcd(Some((8, 100)), false, false), Ok(one));
    let s = b.srq(8, Some((one, cq)));
    b.e.close_xrcd(one).unwrap();
    assert_eq!(b.e.close_xrcd(one), Err(Errno::EBUSY));
    assert_eq!(b.e.destroy_cq(cq), Err(Errno::EBUSY));
    b.e.destroy_srq(s.handle).unwrap();
    let (y, ny) = b.create_as(qpt::XRC_TGT, 4, None, Some(one));
    assert_eq!(b.e.close_xrcd(one), Err(Errno::EBUSY));
    // A second handle, by number; the QP lives until both are closed.
    assert_eq!(
        b.e.open_qp(one, ny ^ 1, 0x77).err(),
        Some(Errno::EOPNOTSUPP)
    );
    assert_eq!(b.e.open_qp(one, ny, 0x77).unwrap().handle, y);
    b.e.close_qp(y, 0x99).unwrap();
    assert_eq!(b.e.query_qp(y).unwrap().attr.qp_state, qps::RESET);
    b.e.close_qp(y, 0x77).unwrap();
    assert_eq!(b.e.query_qp(y).err(), Some(Errno::EINVAL));
    b.e.close_xrcd(one).unwrap();
    assert_eq!(b.e.close_xrcd(one), Err(Errno::EINVAL));
}

#[test]
fn types_have_their_rules() {
    let f = Fabric::default();
    let (mut a, mut b, x, y, domain) = ends(&f);
    assert_eq!(a.e.post_recv(x, 1, &[]), Err(Errno::EINVAL));
    assert_eq!(b.e.post_recv(y, 1, &[]), Err(Errno::EINVAL));
    b.rts(y, 7);
    assert_eq!(
        b.e.post_send(y, &wr(1, wr_opcode::SEND, &[], (0, 0))),
        Err(Errno::EINVAL)
    );
    // A basic QP cannot take from an XRC SRQ.
    let cq = b.cq;
    let s = b.srq(8, Some((domain, cq)));
    let init = crate::verbs::types::QpInit {
        pd: b.pd,
        send_cq: cq,
        recv_cq: cq,
        srq: Some(s.handle),
        xrcd: None,
        cap: Default::default(),
        qp_type: qpt::RC,
        sq_sig_all: false,
        cookie: 1,
    };
    assert_eq!(b.e.create_qp(&init).err(), Some(Errno::EINVAL));
    // An RC QP and an XRC one do not fit: neither hears the other.
    let (p, np) = a.create(4);
    let nx = a.e.qp(x).unwrap().number();
    let (t, nt) = b.create_as(qpt::XRC_TGT, 4, None, Some(domain));
    let _ = nx;
    a.connect(p, 2, nt);
    b.init(t);
    b.rtr(t, 1, np);
    let sge = [a.sge(0, 4)];
    a.post_on(p, &wr(1, wr_opcode::SEND, &sge, (0, 0)));
    poll_both(&mut a, &mut b, 20);
    assert_eq!(b.e.query_qp(t).unwrap().attr.qp_state, qps::ERR);
    assert!(!b.events(0x99).contains(&event::QP_LAST_WQE_REACHED));
}

#[test]
fn an_atomic_write_is_not_taken_for_the_choice_of_an_srq() {
    let f = Fabric::default();
    let (mut a, mut b, x, _, domain) = ends(&f);
    let cq = b.cq;
    let srq = b.srq(8, Some((domain, cq)));
    b.srq_recv(srq.handle, 9, 1024, 64);
    let off = b.at(64).next_multiple_of(8) - b.at(0);
    a.mem[..8].copy_from_slice(&0x1234_5678_9abc_def0u64.to_ne_bytes());
    let s = [a.sge(0, 8)];
    let mut w = wr(
        1,
        wr_opcode::ATOMIC_WRITE,
        &s,
        (b.at(off as usize), b.mr.rkey),
    );
    w.remote_srqn = srq.number;
    a.post_on(x, &w);
    send(&mut a, x, 2, 16, srq.number);
    let (va, vb) = poll_both(&mut a, &mut b, 20);
    assert_eq!(
        va.iter().map(|w| (w.wr_id, w.status)).collect::<Vec<_>>(),
        [(1, 0), (2, 0)]
    );
    assert_eq!(b.mem[off as usize..][..8], a.mem[..8]);
    assert_eq!((vb.len(), vb[0].wr_id), (1, 9));
}

/// An event of the QP is for whoever has opened it.
#[test]
fn every_handle_hears_of_every_event() {
    let f = Fabric::default();
    let (mut a, mut b, x, y, domain) = ends(&f);
    let ny = b.e.qp(y).unwrap().number();
    for cookie in [0x77, 0x78] {
        b.e.open_qp(domain, ny, cookie).unwrap();
    }
    let cq = b.cq;
    let srq = b.srq(8, Some((domain, cq)));
    b.srq_recv(srq.handle, 9, 1024, 64);
    send(&mut a, x, 1, 16, srq.number);
    poll_both(&mut a, &mut b, 10);
    for cookie in [0x99, 0x77, 0x78] {
        assert_eq!(b.events(cookie), [event::COMM_EST]);
    }
    // Also when the first handle is gone.
    b.e.close_qp(y, 0x77).unwrap();
    b.e.close_qp(y, 0x99).unwrap();
    b.e.open_qp(domain, ny, 0x79).unwrap();
    f.kill(1);
    poll_both(&mut a, &mut b, 10);
    for (cookie, heard) in [(0x78, true), (0x79, true), (0x77, false), (0x99, false)] {
        let expected = if heard { &[event::QP_FATAL][..] } else { &[] };
        assert_eq!(b.events(cookie), expected, "{cookie:#x}");
    }
}
