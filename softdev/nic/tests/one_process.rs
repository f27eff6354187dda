//! Two contexts, or one, in one process.
#![allow(
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    reason = "plays a program"
)]

mod common;
use common::*;
use gaudi_softnic::*;
use kernel_abi::ext::PV_PENDING;
use kernel_abi::gaudi2::{Doorbell, SendWqe, SendWqe64, comp_type, opcode};

struct Pair {
    _dir: tempfile::TempDir,
    a: Node,
    b: Node,
    qa: Qp,
    qb: Qp,
}

fn pair_with(device_b: u32, cq: u32, n: u32) -> Pair {
    let dir = tempfile::tempdir().unwrap();
    let opts = options(dir.path());
    let (a, b) = (
        Node::with_cq(&opts, 0, cq),
        Node::with_cq(&opts, device_b, cq),
    );
    let (mut qa, mut qb) = (a.alloc(), b.alloc());
    a.connect(&mut qa, b.address(&qb), n);
    b.connect(&mut qb, a.address(&qa), n);
    Pair {
        _dir: dir,
        a,
        b,
        qa,
        qb,
    }
}

fn pair() -> Pair {
    pair_with(0, 512, 16)
}

#[test]
fn data_and_both_completions() {
    for device in [0, 1] {
        let mut p = pair_with(device, 512, 16);
        let (src, dst) = (pages(4), pages(4));
        src.iter_mut().enumerate().for_each(|(i, b)| *b = i as u8);
        let (from, to) = (p.a.map_buffer(src), p.b.map_buffer(dst));
        for (i, size) in [1u32, 7, 8, 9, 64, 100, 4096, 16384]
            .into_iter()
            .enumerate()
        {
            dst.fill(0);
            p.a.write(&mut p.qa, size, from, to, true, Some(77 + i as u32));
            assert_eq!(dst[..size as usize], src[..size as usize]);
            assert!(dst[size as usize..].iter().all(|b| *b == 0));
            let got = p.b.wait_recv();
            assert_eq!(
                (got.qpn(), got.tag(), got.size()),
                (p.qb.id, 77 + i as u32, size)
            );
            assert!(!got.is_requester() && got.valid());
            let done = p.a.wait_send();
            assert_eq!(
                (done.qpn(), done.wqe_index(), done.tag()),
                (p.qa.id, i as u32, i as u32)
            );
            assert!(done.is_requester());
        }
        assert!(p.a.events().is_empty() && p.b.events().is_empty());
    }
}

#[test]
fn unaligned_addresses_and_the_far_end_of_a_mapping() {
    let mut p = pair();
    let (src, dst) = (pages(2), pages(2));
    src.iter_mut()
        .enumerate()
        .for_each(|(i, b)| *b = (i * 7) as u8);
    let (from, to) = (p.a.map_buffer(&src[5..5000]), p.b.map_buffer(&dst[3..8192]));
    p.a.write(&mut p.qa, 4995, from, to + 8189 - 4995, true, None);
    p.a.wait_send();
    assert_eq!(dst[8192 - 4995..], src[5..5000]);
}

#[test]
fn a_qp_may_be_connected_to_itself_or_to_one_of_its_context() {
    let dir = tempfile::tempdir().unwrap();
    let mut a = Node::new(&options(dir.path()), 0);
    let (src, dst) = (pages(1), pages(1));
    src.fill(9);
    let (from, to) = (a.map_buffer(src), a.map_buffer(dst));
    let mut own = a.alloc();
    let me = a.address(&own);
    a.connect(&mut own, me, 16);
    a.write(&mut own, 100, from, to, true, Some(1));
    assert_eq!(dst[..100], src[..100]);
    assert_eq!(a.wait_recv().qpn(), own.id);
    assert_eq!(a.wait_send().qpn(), own.id);
    let (mut x, mut y) = (a.alloc(), a.alloc());
    let (ax, ay) = (a.address(&x), a.address(&y));
    a.connect(&mut x, ay, 16);
    a.connect(&mut y, ax, 16);
    a.write(&mut x, 4096, from, to, true, Some(2));
    assert_eq!(a.wait_recv().qpn(), y.id);
    assert_eq!(dst, src);
}

#[test]
fn arena_and_device_memory_at_either_end() {
    let mut p = pair();
    let offset = 0x10_0040;
    let arena_a = p.a.accel.map_arena(offset, 8192, 0, false).unwrap();
    let arena_b = p.b.accel.map_arena(offset, 8192, 0, false).unwrap();
    let hbm = p.b.accel.alloc(1 << 20, 0, 0).unwrap();
    let hbm_b = p.b.accel.map_device(hbm, 0, false).unwrap();
    assert_eq!(hbm_b, 0x1001_0018_0000_0000);
    assert_eq!(p.b.accel.free(hbm), Err(Errno::EINVAL));
    let at = p.a.arena.wrapping_add(offset as usize);
    unsafe { at.write_bytes(0x5a, 8192) };
    p.a.write(&mut p.qa, 8192, arena_a, arena_b, true, None);
    p.a.wait_send();
    let there = p.b.arena.wrapping_add(offset as usize);
    assert!((0..8192).all(|i| unsafe { there.add(i).read() } == 0x5a));
    // Arena to device memory, and from there on to private memory.
    p.a.write(&mut p.qa, 4096, arena_a + 64, hbm_b + 4096, true, None);
    p.a.wait_send();
    let back = pages(1);
    let to = p.a.map_buffer(back);
    p.b.write(&mut p.qb, 4096, hbm_b + 4096, to, true, None);
    p.b.wait_send();
    assert!(back.iter().all(|b| *b == 0x5a));
    p.b.accel.unmap(hbm_b).unwrap();
    assert_eq!(p.b.accel.dram_used(), 2 << 20);
    p.b.accel.free(hbm).unwrap();
    assert_eq!(p.b.accel.dram_used(), 0);
    assert!(p.a.events().is_empty() && p.b.events().is_empty());
}

#[test]
fn inline_forms() {
    let mut p = pair();
    let dst = pages(1);
    let to = p.b.map_buffer(dst);
    let w = SendWqe::write_inline(p.qa.pi, to, *b"sixteen bytes ok");
    p.a.post(&mut p.qa, w, comp_type::CQ);
    p.a.wait_send();
    assert_eq!(&dst[..16], b"sixteen bytes ok");
    // 64-byte WQEs.
    let (mut wide, mut other) = (p.a.alloc(), p.b.alloc());
    let (aw, ao) = (p.a.address(&wide), p.b.address(&other));
    p.a.responder(&wide, ao);
    p.a.requester_wide(&mut wide, ao, 16, true);
    p.b.connect(&mut other, aw, 16);
    let data: [u8; 48] = std::array::from_fn(|i| i as u8 + 1);
    for round in 0..20 {
        dst.fill(0);
        let w = SendWqe64::write_inline(wide.pi, to, data);
        let slot = wide.pi as usize;
        wide.put(w.short(), comp_type::CQ);
        unsafe {
            wide.swq
                .add(64 * slot)
                .cast::<SendWqe64>()
                .write_volatile(w)
        };
        p.a.bell(&wide);
        assert_eq!(p.a.wait_send().wqe_index(), round % 16);
        assert_eq!(dst[..48], data);
    }
}

#[test]
fn rings_and_queues_wrap() {
    // A ring of 5 is legal, if unusual: the last index is what counts. The CQ wraps 64 laps and more.
    let mut p = pair_with(1, 4, 5);
    let (src, dst) = (pages(1), pages(1));
    let (from, to) = (p.a.map_buffer(src), p.b.map_buffer(dst));
    for i in 0..2000u32 {
        src[..4].copy_from_slice(&i.to_le_bytes());
        p.a.write(&mut p.qa, 4, from, to, true, Some(i));
        assert_eq!(dst[..4], i.to_le_bytes());
        assert_eq!(p.b.wait_recv().tag(), i);
        assert_eq!(p.a.wait_send().wqe_index(), i % 5);
    }
    let pi = map(&p.b.fd, p.b.recv_cq.info.pi_handle, 4096);
    assert_eq!(unsafe { pi.cast::<u64>().read_volatile() }, 2000);
}

#[test]
fn a_full_cq_parks_the_qp_and_loses_nothing() {
    let mut p = pair_with(0, 4, 64);
    let (src, dst) = (pages(1), pages(1));
    let (from, to) = (p.a.map_buffer(src), p.b.map_buffer(dst));
    for i in 0..20u32 {
        p.a.write(&mut p.qa, 8, from, to + 8 * u64::from(i), true, Some(i));
    }
    // Four entries are there, the fifth is owed: its data has been written, the sixth's has not.
    for i in 0..20 {
        assert_eq!(p.b.wait_recv().tag(), i);
        assert_eq!(p.a.wait_send().wqe_index(), i);
    }
    assert!(p.b.poll_recv().is_none() && p.a.poll_send().is_none());
    assert!(p.a.events().is_empty());
}

#[test]
fn stopping_a_qp_with_a_full_send_cq_discards() {
    let mut p = pair_with(0, 4, 64);
    let (src, dst) = (pages(1), pages(1));
    let (from, to) = (p.a.map_buffer(src), p.b.map_buffer(dst));
    for _ in 0..10 {
        p.a.write(&mut p.qa, 8, from, to, true, None);
    }
    p.a.ctx.qp_stop(1, p.qa.id).unwrap();
    p.a.ctx.qp_free(1, p.qa.id).unwrap();
    for i in 0..4 {
        assert_eq!(p.a.poll_send().unwrap().wqe_index(), i);
    }
    assert!(p.a.poll_send().is_none());
    assert_eq!(p.a.ctx.qp_stop(1, p.qa.id), Err(Errno::EINVAL));
}

#[test]
fn large_messages_go_on_in_slices() {
    let mut p = pair();
    let (src, dst) = (pages(1024), pages(1024));
    src.iter_mut()
        .enumerate()
        .for_each(|(i, b)| *b = (i / 3) as u8);
    let (from, to) = (p.a.map_buffer(src), p.b.map_buffer(dst));
    p.qa.put(
        SendWqe::write(p.qa.pi, 4 << 20, from, to).notify(5),
        comp_type::CQ,
    );
    assert_eq!(p.a.bell(&p.qa), PV_PENDING);
    assert!(p.b.poll_recv().is_none());
    let mut turns = 0;
    while p.a.ctx.progress(256 << 10) == PV_PENDING {
        turns += 1;
    }
    assert!(turns >= 8, "{turns}");
    assert_eq!(
        (p.b.wait_recv().size(), p.a.wait_send().wqe_index()),
        (4 << 20, 0)
    );
    assert!(dst == src);
    // And without anybody calling progress.
    dst.fill(0);
    p.a.write(&mut p.qa, 4 << 20, from, to, true, Some(6));
    assert_eq!(p.b.wait_recv().tag(), 6);
    assert!(dst == src);
}

#[test]
fn bulk_work_does_not_hold_up_another_qp() {
    let mut p = pair();
    let (src, dst) = (pages(4096), pages(4096));
    let (from, to) = (p.a.map_buffer(src), p.b.map_buffer(dst));
    let (mut small, mut other) = (p.a.alloc(), p.b.alloc());
    let (aw, ao) = (p.a.address(&small), p.b.address(&other));
    p.a.connect(&mut small, ao, 16);
    p.b.connect(&mut other, aw, 16);
    p.a.write(&mut p.qa, 16 << 20, from, to, true, Some(1));
    p.a.write(&mut small, 64, from, to, true, Some(2));
    assert_eq!(p.b.wait_recv().tag(), 2);
    assert_eq!(p.b.wait_recv().tag(), 1);
}

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

#[test]
fn numbers_are_lowest_first_and_generations_count() {
    let dir = tempfile::tempdir().unwrap();
    let mut opts = options(dir.path());
    opts.ports = 1;
    let a = Node::new(&opts, 0);
    let ids: Vec<_> = (0..5)
        .map(|_| a.alloc())
        .map(|q| (q.id, q.generation))
        .collect();
    assert_eq!(ids, [(1, 1), (2, 1), (3, 1), (4, 1), (5, 1)]);
    a.ctx.qp_free(1, 4).unwrap();
    a.ctx.qp_free(1, 2).unwrap();
    let again: Vec<_> = (0..3)
        .map(|_| a.alloc())
        .map(|q| (q.id, q.generation))
        .collect();
    assert_eq!(again, [(2, 2), (4, 2), (6, 1)]);
    assert_eq!(a.ctx.qps_allocated(1), (6, 6));
    // Another context shares the numbers.
    let b = Node::new(&opts, 0);
    assert_eq!((b.alloc().id, b.ctx.asid()), (7, 2));
    drop(a);
    assert_eq!(b.alloc().id, 1);
    while b.ctx.qp_alloc(1).is_ok() {}
    assert_eq!(b.ctx.qp_alloc(1), Err(Errno::EBUSY));
    assert_eq!(b.ctx.qps_allocated(1).0, 8191);
}

#[test]
fn arming_wakes_once() {
    let mut p = pair();
    let (src, dst) = (pages(1), pages(1));
    let (from, to) = (p.a.map_buffer(src), p.b.map_buffer(dst));
    let event = p.b.at(p.b.ctx.ext().event_handle).cast::<u32>();
    let word = || unsafe { event.read_volatile() };
    let cq = p.b.recv_cq.info.id;
    let before = word();
    p.a.write(&mut p.qa, 8, from, to, false, Some(1));
    assert_eq!(word(), before);
    assert_eq!(p.b.ctx.cq_arm(1, cq, 0), 1);
    p.b.wait_recv();
    assert_eq!(p.b.ctx.cq_arm(1, cq, 1), 0);
    p.a.write(&mut p.qa, 8, from, to, false, Some(1));
    assert_eq!(word(), before + 1);
    p.a.write(&mut p.qa, 8, from, to, false, Some(1));
    assert_eq!(word(), before + 1);
}

#[test]
fn the_memory_ioctl_rules() {
    let dir = tempfile::tempdir().unwrap();
    let a = Node::new(&options(dir.path()), 0);
    let m = &a.accel;
    let buffer = pages(4);
    let at = buffer.as_ptr() as u64;
    assert_eq!(m.map_host(at, 0, 0, false), Err(Errno::EINVAL));
    assert_eq!(m.map_host(at, u64::MAX, 0, false), Err(Errno::EINVAL));
    assert_eq!(m.map_host(0x10, 64, 0, false), Err(Errno::EFAULT));
    let va = m.map_host(at + 123, 4096, 0, false).unwrap();
    assert_eq!((va & 0xfff, va >> 48), (123, 0xfff0));
    // Hints: unaligned ones are ignored unless forced.
    assert!(m.map_host(at, 64, va + 1, false).is_ok());
    assert_eq!(
        m.map_host(at, 64, 0xFFF0_7800_0001_0001, true),
        Err(Errno::EINVAL)
    );
    let box5 = 0xFFF0_7800_0005_0000;
    assert_eq!(m.map_host(at, 16384, box5, true), Ok(box5));
    assert_eq!(m.map_host(at, 64, box5 + 4096, true), Err(Errno::ENOMEM));
    assert!(m.map_host(at, 64, box5 + 4096, false).is_ok());
    assert_eq!(
        m.map_host(at + 5, 64, 0xFFF0_7FFF_0000_1000, true),
        Ok(0xFFF0_7FFF_0000_1005)
    );
    assert_eq!(m.map_host(at, 64, 0x5000, true), Err(Errno::ENOMEM));
    assert_eq!(m.unmap(va & !0xfff), Err(Errno::EINVAL));
    assert_eq!(m.unmap(va), Ok(()));
    assert_eq!(m.unmap(va), Err(Errno::EINVAL));
    assert_eq!(m.unmap(box5), Ok(()));
    assert_eq!(m.map_host(at, 64, box5, true), Ok(box5));
    // Device memory.
    assert_eq!(m.alloc(0, 0, 0), Err(Errno::EINVAL));
    assert_eq!(m.alloc(1, 3, 0), Err(Errno::EINVAL));
    assert_eq!(m.alloc(u64::MAX, 0, 0), Err(Errno::ENOMEM));
    assert_eq!(m.alloc(m.dram_size() + 1, 0, 0), Err(Errno::ENOMEM));
    let big = m.alloc(5 << 30, 0, 0).unwrap();
    let dva = m.map_device(big, 0, false).unwrap();
    let next = m.alloc(4096, 4096, 0).unwrap();
    assert!(m.map_device(next, 0, false).unwrap() >= dva + (5 << 30));
    assert_eq!(m.map_device(99, 0, false), Err(Errno::EINVAL));
    assert_eq!(m.map_arena(1 << 40, 64, 0, false), Err(Errno::EINVAL));
}

#[test]
fn a_message_may_cross_slots_of_a_large_mapping() {
    let mut p = pair();
    let hbm = p.b.accel.alloc(3 << 30, 0, 0).unwrap();
    let dva = p.b.accel.map_device(hbm, 0, false).unwrap();
    let src = pages(1);
    src.fill(0x11);
    let from = p.a.map_buffer(src);
    let at = dva + (2 << 30) - 100;
    p.a.write(&mut p.qa, 200, from, at, true, None);
    p.a.wait_send();
    let back = pages(1);
    let to = p.a.map_buffer(back);
    p.b.write(&mut p.qb, 200, at, to, true, None);
    p.b.wait_send();
    assert_eq!(back[..200], src[..200]);
}

#[test]
fn control_calls_have_their_errnos() {
    let dir = tempfile::tempdir().unwrap();
    let opts = options(dir.path());
    let fabric = Fabric::attach(&opts).unwrap();
    assert!(AccelFile::create(&fabric, 2).is_err());
    let rdma = RdmaFile::create(&fabric, 0).unwrap();
    let sink = std::sync::Arc::new(Sink::default());
    assert_eq!(
        rdma.open_context(0, None, sink.clone()).err(),
        Some(Errno::ESRCH)
    );
    let other = AccelFile::create(&fabric, 1).unwrap();
    assert_eq!(
        rdma.open_context(0, Some(other), sink.clone()).err(),
        Some(Errno::EINVAL)
    );
    let accel = AccelFile::create(&fabric, 0).unwrap();
    assert_eq!(
        rdma.open_context(1 << 3, Some(accel.clone()), sink.clone())
            .err(),
        Some(Errno::EINVAL)
    );
    let ctx = rdma
        .open_context(1 << 1, Some(accel.clone()), sink.clone())
        .unwrap();
    assert_eq!(ctx.ports_mask(), 2);
    assert_eq!(
        rdma.open_context(0, Some(accel.clone()), sink.clone())
            .err(),
        Some(Errno::EBUSY)
    );
    let second = RdmaFile::create(&fabric, 0).unwrap();
    assert_eq!(
        second.open_context(0, Some(accel.clone()), sink).err(),
        Some(Errno::EBUSY)
    );
    assert_eq!(ctx.qp_alloc(1), Err(Errno::EPERM));
    assert_eq!(ctx.cq_create(1, 16).err(), Some(Errno::EPERM));
    assert_eq!(ctx.fifo_create(1, 0, 0).err(), Some(Errno::EPERM));
    assert_eq!(
        ctx.set_port_ex(2, 8, 16, 0, false, false),
        Err(Errno::EINVAL)
    );
    assert_eq!(
        ctx.set_port_ex(1, 1, 16, 0, false, false),
        Err(Errno::EINVAL)
    );
    assert_eq!(
        ctx.set_port_ex(1, 8, 17, 0, false, false),
        Err(Errno::EINVAL)
    );
    assert_eq!(ctx.set_port_ex(1, 8, 16, 0, false, true), Ok(()));
    assert_eq!(ctx.set_port_ex(1, 8, 16, 0, false, true), Err(Errno::EPERM));
    assert!(ctx.port_ready(1) && !ctx.port_ready(2));
    assert_eq!(ctx.cq_create(1, 3).err(), Some(Errno::EINVAL));
    assert_eq!(ctx.cq_create(1, 16384).err(), Some(Errno::EINVAL));
    let cqs: Vec<_> = (0..14).map(|_| ctx.cq_create(1, 16).unwrap().id).collect();
    assert_eq!(cqs, (2..16).collect::<Vec<_>>());
    assert_eq!(ctx.cq_create(1, 16).err(), Some(Errno::EBUSY));
    let (q, _) = ctx.qp_alloc(1).unwrap();
    for _ in 0..6 {
        ctx.qp_alloc(1).unwrap();
    }
    assert_eq!(ctx.qp_alloc(1), Err(Errno::EBUSY));
    ctx.qp_set_responder(
        1,
        q,
        &Responder {
            cq: 5,
            ..Responder::default()
        },
    )
    .unwrap();
    assert_eq!(ctx.cq_destroy(1, 5), Err(Errno::EBUSY));
    assert_eq!(
        ctx.qp_set_responder(1, 99, &Responder::default()),
        Err(Errno::EINVAL)
    );
    let r = Requester {
        cq: 6,
        wq_entries: 16,
        log_mtu: 12,
        timer: 13,
        wq_type: 1,
        ..Requester::default()
    };
    assert_eq!(
        ctx.qp_set_requester(
            1,
            q,
            &Requester {
                wq_entries: 17,
                ..r
            }
        )
        .err(),
        Some(Errno::EINVAL)
    );
    assert_eq!(
        ctx.qp_set_requester(1, q, &Requester { cq: 77, ..r }).err(),
        Some(Errno::EINVAL)
    );
    let rings = ctx.qp_set_requester(1, q, &r).unwrap();
    assert_eq!((rings.swq_size, rings.rwq_size), (4096, 4096));
    assert_eq!(ctx.qp_set_requester(1, q, &r).err(), Some(Errno::EINVAL));
    ctx.qp_stop(1, q).unwrap();
    assert_eq!(ctx.cq_destroy(1, 5), Ok(()));
    assert_eq!(ctx.cq_destroy(1, 5), Err(Errno::EINVAL));
    assert!(!ctx.cq_exists(1, 5) && ctx.cq_exists(1, 6));
    // FIFOs
    let f = ctx.fifo_create(1, 7, 0).unwrap();
    assert_eq!((f.id, f.regs_offset, f.size, f.bp_thresh), (7, 0, 512, 256));
    assert_eq!(ctx.fifo_create(1, 7, 0).err(), Some(Errno::EBUSY));
    assert_eq!(ctx.fifo_create(1, 31, 0).err(), Some(Errno::EINVAL));
    assert_eq!(ctx.fifo_create(1, 0, 2).err(), Some(Errno::EINVAL));
    for _ in 0..29 {
        ctx.fifo_create(1, 0, 0).unwrap();
    }
    assert_eq!(ctx.fifo_create(1, 0, 0).err(), Some(Errno::EBUSY));
    assert_eq!(ctx.fifo_destroy(1, 7), Ok(()));
    assert_eq!(ctx.fifo_destroy(1, 7), Err(Errno::EINVAL));
    // A closed context answers, but does nothing.
    ctx.close();
    assert_eq!(ctx.qp_alloc(1), Err(Errno::EIO));
    assert_eq!(ctx.doorbell(1, 0), 0);
}

#[test]
fn strict_means_one_context_and_no_extension() {
    let dir = tempfile::tempdir().unwrap();
    let mut opts = options(dir.path());
    opts.strict = true;
    let a = Node::new(&opts, 0);
    let ext = a.ctx.ext();
    assert_eq!(
        (
            ext.cap_mask,
            ext.pv_table,
            ext.arena_size,
            ext.event_handle,
            ext.asid
        ),
        (1, 0, 0, 0, 0)
    );
    let rdma = RdmaFile::create(&a.fabric, 0).unwrap();
    let accel = AccelFile::create(&a.fabric, 0).unwrap();
    let sink = std::sync::Arc::new(Sink::default());
    assert_eq!(
        rdma.open_context(0, Some(accel), sink).err(),
        Some(Errno::EBUSY)
    );
    // Another device has its own.
    let b = Node::new(&opts, 1);
    drop((a, b));
    Node::new(&opts, 0);
}

#[test]
fn options_must_agree_and_the_directory_must_be_ours() {
    let dir = tempfile::tempdir().unwrap();
    let opts = options(dir.path());
    let first = Fabric::attach(&opts).unwrap();
    let other = FabricOptions {
        ports: 1,
        ..opts.clone()
    };
    assert_eq!(Fabric::attach(&other).err(), Some(Errno::EINVAL));
    drop(first);
    assert_eq!(Fabric::attach(&other).err(), Some(Errno::EINVAL));
    assert_eq!(
        Fabric::attach(&FabricOptions {
            devices: 9,
            ..opts.clone()
        })
        .err(),
        Some(Errno::EINVAL)
    );
    Fabric::attach(&opts).unwrap();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&opts.dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(Fabric::attach(&opts).err(), Some(Errno::EACCES));
    std::fs::set_permissions(&opts.dir, std::fs::Permissions::from_mode(0o700)).unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&opts.dir, &link).unwrap();
    assert!(
        Fabric::attach(&FabricOptions {
            dir: link,
            ..opts.clone()
        })
        .is_err()
    );
    // A file of another build.
    std::fs::write(opts.dir.join("fabric.shm"), vec![0u8; 100]).unwrap();
    assert_eq!(Fabric::attach(&opts).err(), Some(Errno::EINVAL));
}

#[test]
fn counters_count_what_was_sent() {
    let mut p = pair_with(1, 512, 16);
    let (src, dst) = (pages(4), pages(4));
    let (from, to) = (p.a.map_buffer(src), p.b.map_buffer(dst));
    for _ in 0..3 {
        p.a.write(&mut p.qa, 10_000, from, to, true, None);
    }
    let value = |f: &Fabric, device, name| {
        f.counters(device, 1)
            .into_iter()
            .find(|(n, _)| *n == name)
            .unwrap()
            .1
    };
    let octets = 30_000 + 9 * 78;
    for _ in 0..2 {
        assert_eq!(value(&p.a.fabric, 0, "tx_Pkts"), 9);
        assert_eq!(value(&p.a.fabric, 0, "tx_Octets"), octets);
        assert_eq!(value(&p.a.fabric, 0, "rx_Pkts"), 0);
        assert_eq!(value(&p.a.fabric, 1, "rx_Octets"), octets);
        // They outlive the QP.
        let _ = p.a.ctx.qp_free(1, p.qa.id);
    }
    assert_eq!(p.a.fabric.counters(0, 1).len(), 88);
}

#[test]
fn a_snapshot_shows_what_there_is() {
    let p = pair_with(1, 512, 16);
    let s = p.a.fabric.snapshot();
    assert_eq!(s.processes.len(), 1);
    assert_eq!(s.processes[0].pid, std::process::id());
    assert_eq!(s.contexts.len(), 2);
    let qa = s.qps.iter().find(|q| q.device == 0).unwrap();
    assert_eq!(qa.peer, Some((1, 1, p.qb.id)));
    assert!(qa.responder_valid && qa.requester_valid && !qa.error);
    assert_eq!(s.cqs.len(), 4);
    drop(p.b);
    let s = p.a.fabric.snapshot();
    assert_eq!((s.contexts.len(), s.qps.len(), s.cqs.len()), (1, 1, 2));
}
