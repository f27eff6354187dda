//! What a fabric costs, and where it refuses.
#![allow(
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    reason = "plays a program"
)]

mod common;
use common::*;
use gaudi_softnic::*;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

#[test]
fn helper() {
    let Some((role, dir)) = role() else { return };
    match role.as_str() {
        "small" => small(&dir),
        "strict" => strict(&dir),
        "leaks" => leaks(&dir),
        "holder" => {
            let _fabric = Fabric::attach(&options(&dir)).unwrap();
            say(&[0]);
            told();
        }
        other => panic!("no role {other}"),
    }
}

#[test]
fn an_idle_fabric_and_context_take_little_memory() {
    let dir = tempfile::tempdir().unwrap();
    let mut opts = options(dir.path());
    opts.ports = 1;
    let a = Node::new(&opts, 0);
    let b = Node::new(&opts, 1);
    let used = |fd: &dyn Fn() -> u64| fd() * 512 / 1024;
    let blocks = |fd: std::os::fd::OwnedFd| std::fs::File::from(fd).metadata().unwrap().blocks();
    let context = || used(&|| blocks(a.rdma.dup_fd().unwrap()));
    let mut pairs = Vec::new();
    let before = context();
    for _ in 0..64 {
        let (mut x, mut y) = (a.alloc(), b.alloc());
        a.connect(&mut x, b.address(&y), 128);
        b.connect(&mut y, a.address(&x), 128);
        pairs.push((x, y));
    }
    let each = (context() - before) / 64;
    assert!(before < 200, "an open context takes {before} KiB");
    assert!(each <= 16, "a connected QP takes {each} KiB");
    let file = used(&|| {
        std::fs::metadata(opts.dir.join("fabric.shm"))
            .unwrap()
            .blocks()
    });
    assert!(file < 400, "the fabric file takes {file} KiB");
    for (x, _) in &pairs {
        a.ctx.qp_free(1, x.id).unwrap();
    }
    assert!(
        context() < before + 32,
        "freed rings give their memory back"
    );
    let accel = used(&|| blocks(a.accel.dup_fd().unwrap()));
    assert!(accel < 100, "an accel file takes {accel} KiB");
}

/// Where address space is short, contexts are smaller.
fn small(dir: &Path) {
    let limit = libc::rlimit {
        rlim_cur: 6 << 30,
        rlim_max: 6 << 30,
    };
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
    let opts = options(dir);
    let mut node = Node::new(&opts, 0);
    let mut qp = node.alloc();
    let me = node.address(&qp);
    node.connect(&mut qp, me, 16);
    let buffer = pages(2);
    let dva = node.map_buffer(buffer);
    node.write(&mut qp, 64, dva, dva + 4096, true, None);
    node.wait_send();
    assert_eq!(node.ctx.ext().arena_usable, 1 << 30);
}

#[test]
fn short_address_space_is_no_refusal() {
    let dir = tempfile::tempdir().unwrap();
    Helper::start("small", dir.path()).finish();
}

fn strict(dir: &Path) {
    let opts = FabricOptions {
        strict: true,
        ..options(dir)
    };
    let fabric = Fabric::attach(&opts).unwrap();
    let opens = [0, 1].map(|device| AccelFile::create(&fabric, device));
    say(&opens
        .each_ref()
        .map(|o| o.as_ref().err().map_or(0, |e| e.0 as u64)));
    told();
}

#[test]
fn strict_is_one_process_for_a_device() {
    let dir = tempfile::tempdir().unwrap();
    let opts = FabricOptions {
        strict: true,
        ..options(dir.path())
    };
    let node = Node::new(&opts, 0);
    let mut other = Helper::start("strict", dir.path());
    assert_eq!(other.hear(), [Errno::EBUSY.0 as u64, 0]);
    // That process has device 1 now; when it dies the device is free.
    assert_eq!(AccelFile::create(&node.fabric, 1).err(), Some(Errno::EBUSY));
    other.kill();
    assert!(AccelFile::create(&node.fabric, 1).is_ok());
    drop(node);
    let mut other = Helper::start("strict", dir.path());
    assert_eq!(other.hear(), [0, 0]);
    other.finish();
}

#[test]
fn another_pid_namespace_is_refused_while_the_fabric_is_in_use() {
    // Needs the right to make a namespace; without it there is nothing to refuse.
    let able = std::process::Command::new("unshare")
        .args(["--pid", "--fork", "true"])
        .status();
    if !able.is_ok_and(|s| s.success()) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut holder = Helper::start("holder", dir.path());
    holder.hear();
    let attach = || {
        let status = std::process::Command::new("unshare")
            .args(["--pid", "--fork"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "attach_elsewhere"])
            .env(DIR, dir.path())
            .env(ROLE, "elsewhere")
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status();
        status.unwrap().success()
    };
    assert!(!attach());
    holder.finish();
    assert!(attach());
}

#[test]
fn attach_elsewhere() {
    let Some((_, dir)) = role() else { return };
    match Fabric::attach(&options(&dir)) {
        Ok(_) => {}
        Err(e) => {
            assert_eq!(e, Errno::EXDEV);
            std::process::exit(18);
        }
    }
}

#[test]
fn nothing_leaks() {
    let dir = tempfile::tempdir().unwrap();
    // In a process of its own: other tests open files as well.
    Helper::start("leaks", dir.path()).finish();
}

fn leaks(dir: &Path) {
    let opts = options(dir);
    let keep = Fabric::attach(&opts).unwrap();
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let maps = || {
        let text = std::fs::read_to_string("/proc/self/maps").unwrap();
        text.lines().filter(|l| l.contains("memfd:gaudi")).count()
    };
    let mut seen = Vec::new();
    for round in 0..6 {
        let (mut a, b) = (Node::new(&opts, 0), Node::new(&opts, 1));
        let (mut x, mut y) = (a.alloc(), b.alloc());
        a.connect(&mut x, b.address(&y), 16);
        b.connect(&mut y, a.address(&x), 16);
        let buffer = pages(1);
        let (from, to) = (a.map_buffer(buffer), b.map_buffer(buffer));
        a.write(&mut x, 64, from, to, true, None);
        a.wait_send();
        let live = maps();
        drop((a, b, x, y));
        if round > 1 {
            // The device's thread may be the last to let go.
            std::thread::sleep(std::time::Duration::from_millis(60));
            seen.push((live - maps(), keep.snapshot()));
        }
    }
    assert!(seen.windows(2).all(|w| w[0] == w[1]));
    assert!(seen[0].1.contexts.is_empty() && seen[0].1.qps.is_empty());
    // What stays are the mappings that the test made itself.
    let (d, _) = (descriptors(), ());
    let (a, _b) = (Node::new(&opts, 0), ());
    drop(a);
    assert!(descriptors() <= d + 1, "{} {d}", descriptors());
}
