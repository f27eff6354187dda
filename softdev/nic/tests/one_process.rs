//! Data between two contexts, or within one, in one process.
#![allow(
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    reason = "plays a program"
)]

mod common;
use common::pair::*;
use common::*;
use gaudi_softnic::*;
use kernel_abi::ext::PV_PENDING;
use kernel_abi::gaudi2::{SendWqe, SendWqe64, comp_type};

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
