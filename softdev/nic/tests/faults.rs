//! Errors of QPs: malformed WQEs and doorbells, wrong keys, memory that is not there, peers that do not answer.
#![allow(
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    reason = "plays a program"
)]

mod common;
use common::pair::*;
use common::*;
use gaudi_softnic::*;
use kernel_abi::gaudi2::{Doorbell, SendWqe, comp_type, opcode};
use std::time::Duration;

#[test]
fn requester_errors_have_their_syndromes() {
    type Spoil = fn(SendWqe) -> SendWqe;
    let cases: [(u8, Spoil); 9] = [
        (0x80, |w| w.with_opcode(opcode::SEND)),
        (0x80, |w| w.with_opcode(opcode::MULTI_STRIDE)),
        (0x84, |w| w.with_size(0)),
        (0x88, |w| w.with_size((1 << 30) + 1)),
        (0x8d, |w| w.with_inline(true).with_size(17)),
        (0x90, |w| w.with_reserved0(true)),
        (0x91, |w| w.with_wqe_index(200)),
        (0xb4, |w| w.with_reduction(4)),
        (0xf0, |w| w.with_local_addr(0xFFF0_0000_0000_0000)),
    ];
    let mut p = pair();
    let (src, dst) = (pages(1), pages(1));
    let (from, to) = (p.a.map_buffer(src), p.b.map_buffer(dst));
    for (want, spoil) in cases {
        let (mut q, mut r) = (p.a.alloc(), p.b.alloc());
        let (aq, ar) = (p.a.address(&q), p.b.address(&r));
        p.a.connect(&mut q, ar, 16);
        p.b.connect(&mut r, aq, 16);
        let good = SendWqe::write(0, 64, from, to);
        p.a.post(&mut q, spoil(good), comp_type::CQ);
        p.a.expect_syndrome(&q, want);
        assert_eq!(p.a.ctx.qp_syndrome(1, q.id), want);
        // In error: further doorbells are dropped, no second event.
        let events = p.a.events().len();
        p.a.post(&mut q, good.with_wqe_index(1), comp_type::CQ);
        assert_eq!(p.a.events().len(), events);
        assert!(p.a.poll_send().is_none());
        // After a stop it can be used again.
        p.a.ctx.qp_stop(1, q.id).unwrap();
        assert_eq!(p.a.ctx.qp_syndrome(1, q.id), 0);
        p.a.connect(&mut q, ar, 16);
        p.a.write(&mut q, 64, from, to, true, None);
        assert_eq!(p.a.wait_send().qpn(), q.id);
        p.a.ctx.qp_free(1, q.id).unwrap();
        p.a.sink.0.lock().unwrap().clear();
    }
}

#[test]
fn doorbell_errors() {
    let p = pair();
    let q = p.a.alloc();
    p.a.bell(&q);
    p.a.expect_syndrome(&q, 0x41);
    let mut r = p.a.alloc();
    p.a.connect(&mut r, p.b.address(&p.qb), 16);
    r.pi = 16;
    p.a.bell(&r);
    p.a.expect_syndrome(&r, 0x43);
    p.a.ctx.doorbell(1, Doorbell::new(8000, 1, 1).raw());
    let last = p.a.events().last().copied();
    assert_eq!(
        last,
        Some(NicEvent::QpErr {
            port: 1,
            qpn: 8000,
            syndrome: 0x41
        })
    );
    // Nonsense in every field.
    p.a.ctx.doorbell(99, u64::MAX);
    p.a.ctx.doorbell(0, 0);
}

#[test]
fn nop_completes_and_is_exempt() {
    let mut p = pair();
    let w = SendWqe::ZERO.with_reserved0(true).with_wqe_index(99);
    p.a.post(&mut p.qa, w, comp_type::CQ);
    assert_eq!(p.a.wait_send().wqe_index(), 0);
    // Sync objects do not exist; BOTH is CQ.
    let (src, dst) = (pages(1), pages(1));
    let (from, to) = (p.a.map_buffer(src), p.b.map_buffer(dst));
    let w = SendWqe::write(1, 8, from, to);
    p.a.post(&mut p.qa, w.with_comp_type(comp_type::SOB), comp_type::SOB);
    p.a.post(
        &mut p.qa,
        w.with_wqe_index(2).with_comp_type(comp_type::BOTH),
        comp_type::BOTH,
    );
    assert_eq!(p.b.wait_recv().wqe_index(), 2);
    assert_eq!(p.a.wait_send().wqe_index(), 2);
    assert!(p.b.poll_recv().is_none() && p.a.poll_send().is_none());
}

#[test]
fn a_wrong_key_ends_both_halves() {
    let mut p = pair();
    let (src, dst) = (pages(1), pages(1));
    src.fill(1);
    let (from, to) = (p.a.map_buffer(src), p.b.map_buffer(dst));
    p.b.responder_key(&p.qb, p.a.address(&p.qa), KEY + 1);
    p.a.write(&mut p.qa, 64, from, to, true, Some(1));
    p.a.expect_syndrome(&p.qa, 0x48);
    p.b.expect_syndrome(&p.qb, 0x10);
    assert!(dst.iter().all(|b| *b == 0));
    assert!(p.b.poll_recv().is_none() && p.a.poll_send().is_none());
}

/// The number went to somebody else while a requester still had it: the new owner hears nothing of that, whatever the keys.
#[test]
fn a_stale_requester_does_not_disturb_the_next_owner_of_a_number() {
    let mut p = pair();
    let (src, dst) = (pages(1), pages(1));
    let (from, to) = (p.a.map_buffer(src), p.b.map_buffer(dst));
    p.a.write(&mut p.qa, 64, from, to, true, Some(1));
    p.b.wait_recv();
    p.a.wait_send();
    p.b.ctx.qp_free(1, p.qb.id).unwrap();
    let mut next = p.b.alloc();
    while next.id != p.qb.id {
        p.b.ctx.qp_free(1, next.id).unwrap();
        next = p.b.alloc();
    }
    assert_ne!(next.generation, p.qb.generation);
    p.b.responder_key(&next, p.a.address(&p.qa), KEY + 1);
    p.a.write(&mut p.qa, 64, from, to, true, Some(1));
    p.a.expect_syndrome(&p.qa, 0x40);
    assert_eq!((p.b.syndrome(&next), p.b.events()), (None, vec![]));
}

/// What a peer found out about a connection does not hit the next one of the same QP.
#[test]
fn a_late_word_about_an_ended_connection_is_forgotten() {
    let (src, dst) = (pages(1), pages(1));
    let mut p = pair();
    let (from, to) = (p.a.map_buffer(src), p.b.map_buffer(dst));
    for round in 0..50 {
        p.b.responder_key(&p.qb, p.a.address(&p.qa), KEY + 1);
        p.a.write(&mut p.qa, 64, from, to, true, Some(1));
        // The word is under way to the thread of B's device, or has been taken in.
        p.b.ctx.qp_stop(1, p.qb.id).unwrap();
        p.b.sink.0.lock().unwrap().clear();
        p.b.responder(&p.qb, p.a.address(&p.qa));
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(p.b.events(), vec![], "round {round}");
        p.a.expect_syndrome(&p.qa, 0x48);
        p.a.ctx.qp_stop(1, p.qa.id).unwrap();
        p.a.sink.0.lock().unwrap().clear();
        p.b.ctx.qp_stop(1, p.qb.id).unwrap();
        let to = p.b.address(&p.qb);
        p.a.connect(&mut p.qa, to, 16);
    }
}

#[test]
fn an_unmapped_remote_address_ends_both_halves() {
    for beyond in [false, true] {
        let mut p = pair();
        let (src, dst) = (pages(2), pages(1));
        let (from, to) = (p.a.map_buffer(src), p.b.map_buffer(dst));
        let at = if beyond {
            to + 4096 - 32
        } else {
            to + (1 << 40)
        };
        src.fill(1);
        p.a.write(&mut p.qa, 64, from, at, true, Some(1));
        p.a.expect_syndrome(&p.qa, 0x48);
        p.b.expect_syndrome(&p.qb, 0x10);
        assert!(dst.iter().all(|b| *b == 0));
    }
}

#[test]
fn memory_that_cannot_be_reached_is_an_error_not_a_crash() {
    let mut p = pair();
    let (src, dst) = (pages(1), pages(1));
    let (from, to) = (p.a.map_buffer(src), p.b.map_buffer(dst));
    unsafe { libc::mprotect(src.as_mut_ptr().cast(), 4096, libc::PROT_NONE) };
    p.a.write(&mut p.qa, 64, from, to, true, None);
    p.a.expect_syndrome(&p.qa, 0xf0);
    let from = p.b.map_buffer(dst);
    let gone = pages(1);
    let to = p.a.map_buffer(gone);
    unsafe { libc::mprotect(gone.as_mut_ptr().cast(), 4096, libc::PROT_NONE) };
    let (mut q, mut r) = (p.b.alloc(), p.a.alloc());
    let (aq, ar) = (p.b.address(&q), p.a.address(&r));
    p.b.connect(&mut q, ar, 16);
    p.a.connect(&mut r, aq, 16);
    p.b.write(&mut q, 64, from, to, true, None);
    p.b.expect_syndrome(&q, 0x48);
    p.a.expect_syndrome(&r, 0x10);
}

#[test]
fn no_answer_until_the_peer_is_ready_or_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let opts = options(dir.path());
    let (mut a, mut b) = (Node::new(&opts, 0), Node::new(&opts, 1));
    let (src, dst) = (pages(1), pages(1));
    src.fill(3);
    let (from, to) = (a.map_buffer(src), b.map_buffer(dst));
    let (mut qa, mut qb) = (a.alloc(), b.alloc());
    a.connect(&mut qa, b.address(&qb), 16);
    a.write(&mut qa, 64, from, to, true, Some(4));
    assert_eq!(dst[0], 0);
    wait("a stall", || a.ctx.stalled_us(1, qa.id) > 1000);
    b.connect(&mut qb, a.address(&qa), 16);
    // Nobody calls progress: the device's thread does it.
    assert_eq!(b.wait_recv().tag(), 4);
    assert_eq!(dst[..64], src[..64]);
    wait("the send completion", || a.poll_send().is_some());
    assert_eq!(a.ctx.stalled_us(1, qa.id), 0);
    b.ctx.qp_stop(1, qb.id).unwrap();
    a.write(&mut qa, 64, from, to, true, None);
    let start = std::time::Instant::now();
    a.expect_syndrome(&qa, 0x40);
    assert!(start.elapsed().as_millis() >= 250);
    assert!(b.events().is_empty());
}

#[test]
fn a_responder_that_expects_somebody_else_does_not_answer() {
    let mut p = pair();
    let (src, dst) = (pages(1), pages(1));
    let (from, to) = (p.a.map_buffer(src), p.b.map_buffer(dst));
    let mut stranger = p.a.alloc();
    p.a.requester(&mut stranger, p.b.address(&p.qb), 16);
    p.a.write(&mut stranger, 64, from, to, true, Some(4));
    p.a.expect_syndrome(&stranger, 0x40);
    assert!(p.b.poll_recv().is_none());
}
