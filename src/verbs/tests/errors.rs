//! How connections end, and what of it the program sees.

use super::rig::{ALL, End, collect, pair, wr};
use crate::native::sim::Fabric;
use crate::rc::msg::{self, nak};
use crate::verbs::types::{QpAttr, Wc};
use kernel_abi::verbs::{access, qp_attr, qps, wc_status, wr_opcode};

fn statuses(v: &[Wc]) -> Vec<(u64, u32)> {
    v.iter().map(|w| (w.wr_id, w.status)).collect()
}

#[test]
fn what_was_done_before_a_native_error_has_succeeded() {
    let f = Fabric::default();
    let (mut a, mut b) = pair(&f, 4096, 16, 7);
    let to = (b.at(0), b.mr.rkey);
    a.send(1, wr_opcode::RDMA_WRITE, 0, 16, to);
    collect(&mut a, &mut b, 1, 0);
    f.lock().delayed = true;
    for id in 2..5 {
        a.send(id, wr_opcode::RDMA_WRITE, 0, 16, to);
    }
    assert!(f.step(0));
    f.fail(1);
    // The agent hears of the error before anybody has looked at the completions.
    let got = a.poll();
    let flush = wc_status::WR_FLUSH_ERR;
    assert_eq!(
        statuses(&got),
        [(2, 0), (3, wc_status::RETRY_EXC_ERR), (4, flush)]
    );
}

#[test]
fn an_error_of_the_last_connection_does_not_end_the_next() {
    let f = Fabric::default();
    let (mut a, b) = pair(&f, 4096, 16, 7);
    let mut c = End::new(&f, 3, 4096, 16);
    f.kill(2);
    drop(b);
    // The program knows by other means and starts again, before anybody has read the event.
    let reset = QpAttr {
        qp_state: qps::RESET,
        ..QpAttr::default()
    };
    let (qp, mine, theirs) = (a.qp, a.num, c.num);
    a.e.modify_qp(qp, &reset, qp_attr::STATE).unwrap();
    a.connect(qp, 3, theirs);
    c.connect(c.qp, 1, mine);
    a.recv(1, 0, 64);
    c.send(2, wr_opcode::SEND, 0, 16, (0, 0));
    let (va, vc) = collect(&mut a, &mut c, 1, 1);
    assert_eq!((statuses(&va), statuses(&vc)), (vec![(1, 0)], vec![(2, 0)]));
}

#[test]
fn one_request_fails_for_one_nak() {
    let f = Fabric::default();
    let (mut a, _b) = pair(&f, 4096, 16, 7);
    for id in 1..5 {
        a.send(id, wr_opcode::SEND, 0, 16, (0, 0));
    }
    // The words of the ack line may be seen one by one: the NAK before the acknowledgement of what precedes it.
    let qp = a.qp;
    let c = a.e.qp(qp).unwrap().conn.as_ref().unwrap();
    let (win, nonce) = (c.win, c.nonce);
    win.store64(msg::ACK + 16, 2 << 32 | u64::from(nak::REMOTE_OPERATION));
    win.store64(msg::ACK + 56, nonce);
    assert_eq!(a.poll(), []);
    win.store64(msg::ACK, 1 | 2 << 32);
    let mut got = a.poll();
    got.extend(a.poll());
    let flush = wc_status::WR_FLUSH_ERR;
    assert_eq!(
        statuses(&got),
        [(1, 0), (2, wc_status::REM_OP_ERR), (3, flush), (4, flush)]
    );
}

#[test]
fn nobody_waits_for_events_that_a_channel_never_got() {
    let f = Fabric::default();
    let (mut a, mut b) = pair(&f, 4096, 16, 7);
    f.lock().channels_gone = true;
    let cq = b.cq;
    b.e.req_notify_cq(cq, false).unwrap();
    b.recv(1, 0, 64);
    a.send(1, wr_opcode::SEND, 0, 16, (0, 0));
    collect(&mut a, &mut b, 1, 1);
    let qp = b.qp;
    b.e.destroy_qp(qp).unwrap();
    assert_eq!(b.e.destroy_cq(cq).unwrap(), 0);
}

#[test]
fn a_right_that_a_qp_has_lost_is_no_use_to_its_peer() {
    let f = Fabric::default();
    let (mut a, mut b) = pair(&f, 4096, 16, 7);
    let to = (b.at(0), b.mr.rkey);
    a.send(1, wr_opcode::RDMA_WRITE, 0, 16, to);
    collect(&mut a, &mut b, 1, 0);
    let qp = b.qp;
    for (id, rights) in [(2, ALL), (3, access::REMOTE_READ)] {
        let less = QpAttr {
            qp_access_flags: rights,
            ..QpAttr::default()
        };
        b.e.modify_qp(qp, &less, qp_attr::ACCESS_FLAGS).unwrap();
        while !b.e.forgotten(qp) {
            assert!(a.poll().is_empty() && b.poll().is_empty());
        }
        a.mem[0] = id as u8;
        a.send(id, wr_opcode::RDMA_WRITE, 0, 16, to);
        let (va, _) = collect(&mut a, &mut b, 1, 0);
        let expected = [0, wc_status::REM_ACCESS_ERR][id as usize - 2];
        assert_eq!(statuses(&va), [(id, expected)]);
        assert_eq!(b.mem[0], 2);
    }
}

#[test]
fn who_does_not_forget_a_key_in_time_loses_the_connection() {
    let f = Fabric::default();
    let (mut a, mut b) = pair(&f, 4096, 16, 7);
    let to = (b.at(0), b.mr.rkey);
    a.send(1, wr_opcode::RDMA_WRITE, 0, 16, to);
    collect(&mut a, &mut b, 1, 0);
    // A stands still.
    let handle = b.mr.handle;
    b.e.dereg_begin(handle).unwrap();
    for _ in 0..10 {
        b.poll();
    }
    assert!(!b.e.dereg_done(handle));
    b.e.dereg_give_up(handle);
    assert!(b.e.dereg_done(handle));
    b.e.dereg_finish(handle).unwrap();
    // It wakes up and writes at once, where other memory may lie by now.
    a.mem[0] = 99;
    a.send(2, wr_opcode::RDMA_WRITE, 0, 16, to);
    for _ in 0..10 {
        a.poll();
        b.poll();
    }
    assert_eq!(b.mem[0], 0);
}

#[test]
fn a_receiver_does_not_hear_of_a_peer_that_left_in_peace() {
    let f = Fabric::default();
    let (mut a, mut b) = pair(&f, 4096, 16, 7);
    for id in 1..4 {
        b.recv(id, 0, 64);
    }
    a.send(1, wr_opcode::SEND, 0, 16, (0, 0));
    collect(&mut a, &mut b, 1, 1);
    let qp = a.qp;
    a.e.destroy_qp(qp).unwrap();
    // Turning cold B has something to say to nobody.
    b.e.cool_down();
    f.fail(2);
    assert_eq!(b.poll(), []);
    assert_eq!(b.events(0x99), []);
    let qp = b.qp;
    assert_eq!(b.e.query_qp(qp).unwrap().attr.qp_state, qps::RTS);
    b.recv(4, 0, 64);
    assert_eq!(b.poll(), []);
    // Who wants an answer learns that there is none.
    b.send(5, wr_opcode::SEND, 0, 16, (0, 0));
    b.send(6, wr_opcode::SEND, 0, 16, (0, 0));
    let flush = wc_status::WR_FLUSH_ERR;
    let mut got = statuses(&b.poll());
    got.sort_unstable();
    assert_eq!(
        got,
        [
            (2, flush),
            (3, flush),
            (4, flush),
            (5, wc_status::RETRY_EXC_ERR),
            (6, flush)
        ]
    );
}

/// The error state at any moment: behind the first request or message that did not succeed everything is flushed, on both sides, also a
/// small message that lies behind a large one whose payload is still on its way, and a request that failed here meanwhile.
#[test]
fn nothing_succeeds_behind_what_was_flushed() {
    let mut mixed = 0;
    for steps in 0..80usize {
        let f = Fabric::default();
        let (mut a, mut b) = pair(&f, 65536, 32, 7);
        b.recv(1, 0, 30000);
        b.recv(2, 40000, 100);
        b.recv(3, 41000, 100);
        f.lock().delayed = true;
        let (large, small) = ([a.sge(0, 30000)], [a.sge(0, 64)]);
        let mut foreign = [a.sge(0, 64)];
        foreign[0].lkey ^= 0x5500;
        a.post(&wr(1, wr_opcode::SEND, &large, (0, 0)));
        a.post(&wr(2, wr_opcode::SEND, &small, (0, 0)));
        a.post(&wr(3, wr_opcode::SEND, &foreign, (0, 0)));
        let (mut sent, mut received) = (Vec::new(), Vec::new());
        for turn in 0..steps {
            f.step(turn);
            sent.extend(a.poll());
            received.extend(b.poll());
        }
        for x in [&mut a, &mut b] {
            let attr = QpAttr {
                qp_state: qps::ERR,
                ..QpAttr::default()
            };
            x.e.modify_qp(x.qp, &attr, qp_attr::STATE).unwrap();
        }
        sent.extend(a.poll());
        received.extend(b.poll());
        assert_eq!((sent.len(), received.len()), (3, 3), "{steps}");
        for list in [&sent, &received] {
            let good = list
                .iter()
                .take_while(|w| w.status == wc_status::SUCCESS)
                .count();
            mixed += u32::from(good > 0 && good < 3);
            assert!(
                list[(good + 1).min(3)..]
                    .iter()
                    .all(|w| w.status == wc_status::WR_FLUSH_ERR),
                "after {steps} steps: {list:?}"
            );
        }
    }
    assert!(mixed > 0, "no moment was in the middle");
}
