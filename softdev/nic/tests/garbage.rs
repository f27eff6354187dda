//! Nothing that a program writes can harm more than its own QP.
#![allow(
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    reason = "plays a program"
)]

mod common;
use common::*;
use gaudi_softnic::*;
use kernel_abi::gaudi2::{RecvWqe, SendWqe};
use proptest::prelude::*;
use std::sync::OnceLock;

struct World {
    a: Node,
    b: Node,
    _dir: tempfile::TempDir,
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let opts = options(dir.path());
        World {
            a: Node::new(&opts, 0),
            b: Node::new(&opts, 1),
            _dir: dir,
        }
    })
}

/// A word that is often nearly right.
fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        (0u64..4).prop_map(|n| 2 | n << 8 | 64 << 32),
        Just(0xFFF0_0000_8000_0000),
        0u64..10_000
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_wqe_ends_in_completion_or_error(
        wqes in proptest::collection::vec((word(), word(), word(), word(), word(), word()), 1..8), wide: bool,
    ) {
        let w = world();
        let (mut q, mut r) = (w.a.alloc(), w.b.alloc());
        let (aq, ar) = (w.a.address(&q), w.b.address(&r));
        w.a.responder(&q, ar);
        w.a.requester_wide(&mut q, ar, 16, wide);
        w.b.connect(&mut r, aq, 16);
        for (i, (a, b, c, d, e, f)) in wqes.iter().enumerate() {
            let size = if wide { 64 } else { 32 };
            unsafe { q.swq.add(size * i).cast::<SendWqe>().write_volatile(SendWqe { words: [*a, *b, *c, *d] }) };
            unsafe { q.rwq.add(16 * i).cast::<RecvWqe>().write_volatile(RecvWqe { words: [*e, *f] }) };
        }
        q.pi = wqes.len() as u32;
        w.a.bell(&q);
        w.a.ctx.progress(1 << 20);
        w.a.ctx.qp_free(1, q.id).unwrap();
        w.b.ctx.qp_free(1, r.id).unwrap();
        for n in [&w.a, &w.b] {
            n.sink.0.lock().unwrap().clear();
            // The queues would fill up.
            n.ctx.cq_ci(1, n.send_cq.info.id, pi(n, n.send_cq.info.pi_handle));
            n.ctx.cq_ci(1, n.recv_cq.info.id, pi(n, n.recv_cq.info.pi_handle));
        }
    }

    #[test]
    fn any_call_is_survived(port in any::<u32>(), small in 0u32..4, cq in any::<u32>(), entry: u64, x: u32) {
        let c = &world().a.ctx;
        for port in [port, small] {
            c.doorbell(port, entry);
            c.doorbell(port, entry & 0x0000_1fff_003f_ffff);
            c.cq_ci(port, cq | 16, x);
            c.cq_arm(port, cq | 16, x);
            c.stalled_us(port, x);
            c.qp_syndrome(port, x);
            let _ = c.qp_stop(port, x | 0x4000);
            let _ = c.qp_free(port, x | 0x4000);
            let _ = c.cq_destroy(port, cq | 16);
            let _ = c.fifo_destroy(port, x | 32);
            let _ = c.set_port_ex(port, x, cq, 9, false, false);
        }
        let m = &world().a.accel;
        let _ = m.unmap(entry);
        let _ = m.free(entry);
        let _ = m.map_arena(entry, u64::from(x), entry, true);
        let _ = m.map_host(entry, u64::from(x) << 20, entry, true);
        let _ = m.map_device(entry, entry, false);
        c.progress(entry);
        world().a.sink.0.lock().unwrap().clear();
    }

    /// The program owns its memfd: it may scribble over everything in it.
    #[test]
    fn scribbling_over_the_own_queues(at in 0usize..2048, value: u64, n in 1usize..64) {
        let dir = tempfile::tempdir().unwrap();
        let opts = options(dir.path());
        let (a, b) = (Node::with_cq(&opts, 0, 16), Node::with_cq(&opts, 1, 16));
        let (mut qa, mut qb) = (a.alloc(), b.alloc());
        a.connect(&mut qa, b.address(&qb), 16);
        b.connect(&mut qb, a.address(&qa), 16);
        let buffer = pages(1);
        let (from, to) = (a.map_buffer(buffer), b.map_buffer(buffer));
        let scribble = |handle: u64, len: usize| {
            let base = b.at(handle);
            for i in 0..n {
                unsafe { base.add(((at + i * 8) % len) & !7).cast::<u64>().write_volatile(value.rotate_left(i as u32)) };
            }
        };
        a.write(&mut qa, 8, from, to, true, Some(1));
        scribble(b.recv_cq.info.pi_handle, 128);
        scribble(b.recv_cq.info.mem_handle, 256);
        for i in 0..40 {
            a.write(&mut qa, 8, from, to, true, Some(i));
            a.ctx.progress(1 << 20);
            b.ctx.cq_arm(1, b.recv_cq.info.id, value as u32);
        }
        // The control page and the MMU tables, by way of the descriptor.
        let control = map(&b.fd, 0, 2 << 20);
        unsafe { control.add(at * 8 % 4096).cast::<u64>().write_volatile(value) };
        a.write(&mut qa, 8, from, to, true, Some(1));
        a.ctx.progress(1 << 20);
        assert_ne!(qb.n, 0);
    }
}

fn pi(n: &Node, handle: u64) -> u32 {
    unsafe { n.at(handle).cast::<u32>().read_volatile() }
}

#[test]
fn a_corrupt_fabric_file_is_survived() {
    let dir = tempfile::tempdir().unwrap();
    let opts = options(dir.path());
    let (a, b) = (Node::new(&opts, 0), Node::new(&opts, 1));
    let (mut qa, mut qb) = (a.alloc(), b.alloc());
    a.connect(&mut qa, b.address(&qb), 16);
    b.connect(&mut qb, a.address(&qa), 16);
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(opts.dir.join("fabric.shm"))
        .unwrap();
    // Process slots of nobody, contexts of nobody, QPs of nobody.
    use std::os::unix::fs::FileExt;
    let mut seed = 0x1234_5678_9abc_def1u64;
    let mut random = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for _ in 0..2000 {
        let (at, value) = (4096 + random() % (1 << 20), random());
        file.write_all_at(&value.to_le_bytes(), at & !7).unwrap();
        a.fabric.snapshot();
        let _ = a.ctx.qp_alloc(1);
        a.bell(&qa);
    }
    let _ = Fabric::attach(&opts);
    a.fabric.reap();
    a.fabric.counters(0, 1);
}
