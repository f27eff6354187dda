//! The calls of the control side: numbers, memory, errnos, options, counters, snapshots.
#![allow(
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    reason = "plays a program"
)]

mod common;
use common::pair::*;
use common::*;
use gaudi_softnic::*;

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
