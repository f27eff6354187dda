//! Races: threads on one QP, unmapping under load, processes killed at any instant.
#![allow(
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    reason = "plays a program"
)]

mod common;
use common::*;
use kernel_abi::gaudi2::{Doorbell, SendWqe, comp_type};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::*};
use std::time::Duration;

#[test]
fn helper() {
    let Some((_, dir)) = role() else { return };
    busy(&dir);
}

/// Everything in a loop, until killed: contexts, CQs, QPs, mappings, traffic to itself and to the test.
fn busy(dir: &std::path::Path) {
    let opts = options(dir);
    say(&[0]);
    let mut round = 0u32;
    loop {
        round += 1;
        let mut node = Node::with_cq(&opts, round % 2, 16);
        let buffer = pages(64);
        let dva = node.map_buffer(buffer);
        let mut qps: Vec<_> = (0..4).map(|_| node.alloc()).collect();
        for qp in &mut qps {
            let me = node.address(qp);
            node.connect(qp, me, 16);
        }
        // The test's QP 1 on device 0, if it listens to us or not.
        let mut out = node.alloc();
        node.connect(
            &mut out,
            Address {
                device: 0,
                port: 1,
                qpn: 1,
            },
            16,
        );
        for i in 0..20 {
            for qp in &mut qps {
                node.write(qp, 1 << (i % 18), dva, dva + 4096, true, Some(i));
            }
            node.write(&mut out, 64, dva, 0xFFF0_0000_8000_0000, false, Some(i));
            node.ctx.progress(1 << 20);
            while node.poll_recv().is_some() {}
            while node.poll_send().is_some() {}
        }
        node.accel.unmap(dva).unwrap();
        for qp in qps {
            node.ctx.qp_free(1, qp.id).unwrap();
        }
        unsafe { libc::munmap(buffer.as_mut_ptr().cast(), 64 * 4096) };
    }
}

#[test]
fn killed_at_any_instant_nothing_stays() {
    let dir = tempfile::tempdir().unwrap();
    let opts = options(dir.path());
    let mut node = Node::with_cq(&opts, 0, 16);
    let qp = node.alloc();
    assert_eq!(qp.id, 1);
    let buffer = pages(16);
    let dva = node.map_buffer(buffer);
    assert_eq!(dva, 0xFFF0_0000_8000_0000);
    let before = node.fabric.snapshot();
    for round in 0..40u64 {
        let mut helpers: Vec<_> = (0..2).map(|_| Helper::start("busy", dir.path())).collect();
        helpers.iter_mut().for_each(|h| drop(h.hear()));
        std::thread::sleep(Duration::from_micros(300 + round * 977 % 9000));
        // Listen to whoever has the first QP of device 1 or 0 now.
        node.responder(
            &qp,
            Address {
                device: (round % 2) as u32,
                port: 1,
                qpn: 2 + (round % 4) as u32,
            },
        );
        std::thread::sleep(Duration::from_micros(round * 313 % 3000));
        helpers.iter_mut().for_each(Helper::kill);
        node.fabric.reap();
        let after = node.fabric.snapshot();
        assert_eq!(after.contexts, before.contexts, "round {round}");
        assert_eq!(after.processes, before.processes);
        assert_eq!(after.qps.len(), 1);
        node.ctx.qp_stop(1, qp.id).unwrap();
        while node.poll_recv().is_some() {}
        // The fabric works.
        let mut q = node.alloc();
        let me = node.address(&q);
        node.connect(&mut q, me, 16);
        node.write(&mut q, 64, dva, dva + 4096, true, None);
        node.wait_send();
        node.ctx.qp_free(1, q.id).unwrap();
    }
}

#[test]
fn threads_that_ring_one_qp() {
    const THREADS: usize = 4;
    const EACH: u32 = 20_000;
    let dir = tempfile::tempdir().unwrap();
    let opts = options(dir.path());
    let (a, b) = (Node::new(&opts, 0), Node::new(&opts, 1));
    let (mut qa, mut qb) = (a.alloc(), b.alloc());
    a.connect(&mut qa, b.address(&qb), 1024);
    b.connect(&mut qb, a.address(&qa), 1024);
    let (src, dst) = (pages(1), pages(1));
    let (from, to) = (a.map_buffer(src), b.map_buffer(dst));
    let (id, done) = (qa.id, AtomicU32::new(0));
    let ring = Mutex::new((qa, 0u32));
    std::thread::scope(|s| {
        for _ in 0..THREADS {
            s.spawn(|| {
                for _ in 0..EACH {
                    loop {
                        let mut held = ring.lock().unwrap();
                        if held.1.wrapping_sub(done.load(Acquire)) >= 1000 {
                            drop(held);
                            std::thread::yield_now();
                            continue;
                        }
                        held.1 += 1;
                        let qp = &mut held.0;
                        qp.put(SendWqe::write(qp.pi, 8, from, to), comp_type::CQ);
                        let bell = Doorbell::new(id, qp.pi, 1).raw();
                        // Inside the lock: an index that goes back means a full ring, to hardware as well.
                        a.ctx.doorbell(1, bell);
                        drop(held);
                        break;
                    }
                }
            });
        }
        s.spawn(|| {
            let cq = &a.send_cq;
            let mut cq = Cq::again(&a, cq);
            let mut last = None;
            while done.load(Relaxed) < EACH * THREADS as u32 {
                if let Some(cqe) = cq.poll() {
                    a.ctx.cq_ci(1, cq.info.id, cq.ci);
                    let slot = cqe.wqe_index();
                    assert_eq!(slot, last.map_or(0, |l: u32| (l + 1) % 1024));
                    last = Some(slot);
                    done.fetch_add(1, Release);
                } else {
                    a.ctx.progress(1 << 20);
                    std::thread::yield_now();
                }
            }
        });
    });
    assert!(a.events().is_empty(), "{:?}", a.events());
}

/// A reader that finds a mapping valid finishes before the unmapping thread goes on, for the source as for the target.
#[test]
fn unmapping_under_load_from_own_threads() {
    unmapping_under_load(1, 16384);
}

/// More QPs than have a word of their own in the target's memory.
#[test]
fn unmapping_under_load_of_many_qps() {
    unmapping_under_load(12, 512);
}

/// Ordinary fences, where membarrier(2) is refused.
#[test]
fn without_membarrier() {
    let us = std::env::current_exe().unwrap();
    let done = std::process::Command::new(us)
        .args(["--test-threads=1", "--exact"])
        .args([
            "unmapping_under_load_from_own_threads",
            "unmapping_under_load_of_many_qps",
            "threads_that_ring_one_qp",
            "no_bell_is_lost",
        ])
        .env("GAUDI_SOFT_NO_MEMBARRIER", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{said}");
    assert!(said.contains("4 passed"), "{said}");
}

/// Bells that find another thread at work on the QP: each is heard, though nobody rings again.
#[test]
fn no_bell_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let opts = options(dir.path());
    let (a, b) = (Node::new(&opts, 0), Node::new(&opts, 1));
    let (mut qa, mut qb) = (a.alloc(), b.alloc());
    a.connect(&mut qa, b.address(&qb), 64);
    b.connect(&mut qb, a.address(&qa), 64);
    let (src, dst) = (pages(128), pages(128));
    let (from, to) = (a.map_buffer(src), b.map_buffer(dst));
    let stop = AtomicBool::new(false);
    let mut cq = Cq::again(&a, &a.send_cq);
    std::thread::scope(|s| {
        s.spawn(|| {
            while !stop.load(Relaxed) {
                a.ctx.progress(1 << 20);
            }
        });
        for _ in 0..2000 {
            // More than a doorbell moves: the other thread goes on with it, and is at it when the next bells ring.
            a.write(&mut qa, 300 << 10, from, to, false, None);
            for _ in 0..3 {
                a.write(&mut qa, 64, from, to, false, None);
            }
            a.write(&mut qa, 64, from, to, true, None);
            wait("the last write", || cq.poll().is_some());
            a.ctx.cq_ci(1, cq.info.id, cq.ci);
        }
        stop.store(true, Relaxed);
    });
}

fn unmapping_under_load(qps: usize, size: u32) {
    let dir = tempfile::tempdir().unwrap();
    let opts = options(dir.path());
    let (a, b) = (Node::new(&opts, 0), Node::new(&opts, 1));
    let stop = AtomicBool::new(false);
    let (src, dst) = (pages(16), pages(16));
    let source = src.as_ptr() as u64;
    let (from, to) = (a.map_buffer(src), b.map_buffer(dst));
    std::thread::scope(|s| {
        for _ in 0..3 {
            s.spawn(|| {
                while !stop.load(Relaxed) {
                    let mut pairs: Vec<_> = (0..qps).map(|_| (a.alloc(), b.alloc())).collect();
                    for (q, r) in &mut pairs {
                        a.connect(q, b.address(r), 64);
                        b.connect(r, a.address(q), 64);
                    }
                    let well = |id| a.ctx.qp_syndrome(1, id) == 0 && !stop.load(Relaxed);
                    while pairs.iter().all(|(q, _)| well(q.id)) {
                        for (q, _) in &mut pairs {
                            a.write(q, size, from, to, false, None);
                        }
                    }
                    for (q, r) in pairs {
                        a.ctx.qp_free(1, q.id).unwrap();
                        b.ctx.qp_free(1, r.id).unwrap();
                    }
                }
            });
        }
        for round in 0..300u32 {
            // The source says which round it is; what a target gets after its unmap must not appear.
            std::thread::sleep(Duration::from_micros(u64::from(round) * 7 % 400));
            a.accel.unmap(from).unwrap();
            let low = unsafe { std::slice::from_raw_parts_mut(source as *mut u8, 16384) };
            low.fill(0xee);
            assert!(dst.iter().all(|b| *b != 0xee), "round {round}");
            low.fill(round as u8 & 0x7f);
            assert_eq!(a.accel.map_host(source, 65536, from, true), Ok(from));
            if round % 3 == 0 {
                b.accel.unmap(to).unwrap();
                dst.fill(0);
                assert!(dst.iter().all(|b| *b == 0));
                assert_eq!(
                    b.accel.map_host(dst.as_ptr() as u64, 65536, to, true),
                    Ok(to)
                );
            }
        }
        stop.store(true, Relaxed);
    });
}
