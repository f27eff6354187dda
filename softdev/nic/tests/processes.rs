//! Several processes on one fabric: data, errors, deaths, stops.
#![allow(
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    reason = "plays a program"
)]

mod common;
use common::*;
use gaudi_softnic::*;
use kernel_abi::ext::PEER_DIED;
use kernel_abi::gaudi2::{SendWqe, comp_type};
use std::path::Path;
use std::time::Duration;

/// What a helper process plays; see [`peer`] for the commands.
#[test]
fn helper() {
    let Some((role, dir)) = role() else { return };
    match role.as_str() {
        "peer" => peer(&dir),
        "producer" => producer(&dir),
        other => panic!("no role {other}"),
    }
}

const CONNECT: u64 = 1;
const MAP: u64 = 2;
const WRITE: u64 = 3;
const SEE: u64 = 4;
const WAIT_RECV: u64 = 5;
const SYNDROME: u64 = 6;
const FLOOD: u64 = 7;
const DESTROY: u64 = 8;
const CLOSE: u64 = 9;
const UNMAP: u64 = 10;
const EXEC: u64 = 11;
const FORK: u64 = 12;
const EXIT: u64 = 13;

/// One QP and one buffer, driven by numbers on stdin; each command is answered.
fn peer(dir: &Path) {
    let mut node = Node::new(&options(dir), 0);
    let mut qp = node.alloc();
    let buffer = pages(1024);
    buffer.fill(0x77);
    let mut dva = 0;
    say(&[
        u64::from(node.device),
        u64::from(qp.id),
        u64::from(qp.generation),
    ]);
    while let Some(line) = told() {
        match *line.as_slice() {
            [CONNECT, device, qpn] => {
                let to = Address {
                    device: device as u32,
                    port: 1,
                    qpn: qpn as u32,
                };
                node.connect(&mut qp, to, 256);
                say(&[0]);
            }
            [MAP, size] => {
                dva = node
                    .accel
                    .map_host(buffer.as_ptr() as u64, size, 0, false)
                    .unwrap();
                say(&[dva]);
            }
            [WRITE, size, remote, tag] => {
                node.write(&mut qp, size as u32, dva, remote, true, Some(tag as u32));
                let cqe = node.wait_send();
                say(&[u64::from(cqe.wqe_index())]);
            }
            [SEE, at] => say(&[u64::from(unsafe {
                buffer.as_ptr().add(at as usize).read_volatile()
            })]),
            [WAIT_RECV] => {
                let cqe = node.wait_recv();
                say(&[u64::from(cqe.tag()), u64::from(cqe.size())]);
            }
            [SYNDROME] => {
                let mut found = 0;
                wait("a syndrome", || {
                    found = node.syndrome(&qp).unwrap_or(0);
                    found != 0
                });
                say(&[u64::from(found)]);
            }
            // Writes without end, until an error.
            [FLOOD, size, remote] => {
                say(&[0]);
                while node.syndrome(&qp).is_none() {
                    node.write(&mut qp, size as u32, dva, remote, false, None);
                    while node.ctx.progress(1 << 20) != 0 {}
                }
                say(&[u64::from(node.syndrome(&qp).unwrap())]);
            }
            [DESTROY] => {
                node.ctx.qp_free(1, qp.id).unwrap();
                say(&[0]);
            }
            [CLOSE] => {
                node.ctx.close();
                say(&[0]);
            }
            [UNMAP] => {
                node.accel.unmap(dva).unwrap();
                buffer.fill(0x55);
                say(&[0]);
            }
            [EXEC] => {
                use std::os::unix::process::CommandExt;
                panic!(
                    "{}",
                    std::process::Command::new("/bin/sleep").arg("1000").exec()
                );
            }
            // Without closing anything.
            [EXIT] => unsafe { libc::_exit(0) },
            // A child that ends by exit: nothing of the parent's may change.
            [FORK] => {
                let pid = unsafe { libc::fork() };
                if pid == 0 {
                    let dead = node.ctx.qp_alloc(1) == Err(Errno::EIO)
                        && node.ctx.doorbell(1, u64::from(qp.id) << 32 | 1) == 0
                        && node.accel.unmap(dva) == Err(Errno::EIO)
                        && node.ctx.cq_arm(1, 2, 0) == 0;
                    drop(node);
                    // It may attach by itself.
                    let own = Node::new(&options(dir), 0);
                    let ok = dead && own.ctx.qp_alloc(1).is_ok();
                    drop(own);
                    unsafe { libc::_exit(if ok { 7 } else { 8 }) };
                }
                let mut status = 0;
                unsafe { libc::waitpid(pid, &mut status, 0) };
                say(&[libc::WEXITSTATUS(status) as u64]);
            }
            ref other => panic!("{other:?}"),
        }
    }
}

struct Duo {
    dir: tempfile::TempDir,
    node: Node,
    qp: Qp,
    peer: Helper,
    /// The peer's buffer.
    remote: u64,
}

/// A connected pair, one end here.
fn duo() -> Duo {
    let dir = tempfile::tempdir().unwrap();
    let mut peer = Helper::start("peer", dir.path());
    let node = Node::new(&options(dir.path()), 1);
    let mut qp = node.alloc();
    let there = peer.hear();
    let to = Address {
        device: there[0] as u32,
        port: 1,
        qpn: there[1] as u32,
    };
    peer.ask(&[CONNECT, 1, u64::from(qp.id)]);
    node.connect(&mut qp, to, 256);
    let remote = peer.ask(&[MAP, 4 << 20])[0];
    Duo {
        dir,
        node,
        qp,
        peer,
        remote,
    }
}

impl Helper {
    fn ask(&mut self, words: &[u64]) -> Vec<u64> {
        self.tell(words);
        self.hear()
    }
}

#[test]
fn data_between_processes() {
    let mut d = duo();
    let src = pages(1024);
    src.iter_mut()
        .enumerate()
        .for_each(|(i, b)| *b = ((i * 31) >> 3) as u8);
    let from = d.node.map_buffer(src);
    for (i, size) in [1u64, 8, 13, 64, 4096, 16384, 16385, 100_000, 4 << 20]
        .into_iter()
        .enumerate()
    {
        // Sources at every alignment; the last message takes the whole buffer.
        let shift = if size == 4 << 20 { 0 } else { i % 8 };
        d.node.write(
            &mut d.qp,
            size as u32,
            from + shift as u64,
            d.remote,
            true,
            Some(40 + i as u32),
        );
        assert_eq!(d.peer.ask(&[WAIT_RECV]), [40 + i as u64, size]);
        d.node.wait_send();
        for at in [0, size / 2, size - 1] {
            assert_eq!(
                d.peer.ask(&[SEE, at]),
                [u64::from(src[at as usize + shift])],
                "{size} {at}"
            );
        }
    }
    // And back, into private memory of ours.
    let dst = pages(1024);
    let to = d.node.map_buffer(dst);
    d.peer.ask(&[WRITE, 4 << 20, to, 9]);
    assert_eq!(d.node.wait_recv().tag(), 9);
    assert_eq!(dst[1], src[1]);
    d.peer.finish();
    assert!(d.node.events().is_empty());
}

#[test]
fn errors_reach_both_processes() {
    let mut d = duo();
    let src = pages(1);
    let from = d.node.map_buffer(src);
    d.node
        .write(&mut d.qp, 64, from, d.remote + (1 << 33), true, Some(1));
    d.node.expect_syndrome(&d.qp, 0x48);
    assert_eq!(d.peer.ask(&[SYNDROME]), [0x10]);
    assert_eq!(d.node.events().len(), 1);
}

#[test]
fn a_killed_peer_is_an_event_at_once_and_is_reclaimed() {
    let mut d = duo();
    let dst = pages(1);
    let to = d.node.map_buffer(dst);
    // What had arrived stays.
    d.peer.ask(&[WRITE, 64, to, 5]);
    assert_eq!(d.node.fabric.snapshot().contexts.len(), 2);
    d.peer.kill();
    d.node.expect_syndrome(&d.qp, PEER_DIED);
    assert_eq!(d.node.wait_recv().tag(), 5);
    assert_eq!(dst[0], 0x77);
    let s = d.node.fabric.snapshot();
    assert_eq!(
        (s.contexts.len(), s.processes.len(), s.qps.len()),
        (1, 1, 1)
    );
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(d.node.events().len(), 1);
    // The slots are used again.
    let mut next = Helper::start("peer", d.dir.path());
    assert_eq!(next.hear(), [0, 1, 2]);
    let s = d.node.fabric.snapshot();
    assert_eq!((s.contexts.len(), s.processes.len()), (2, 2));
    next.finish();
}

#[test]
fn exec_is_a_death_as_well() {
    let mut d = duo();
    d.peer.tell(&[EXEC]);
    d.node.expect_syndrome(&d.qp, PEER_DIED);
    let src = pages(1);
    let from = d.node.map_buffer(src);
    d.node.write(&mut d.qp, 64, from, d.remote, true, None);
    assert_eq!(d.node.fabric.snapshot().processes.len(), 1);
}

#[test]
fn an_orderly_end_is_silent_for_a_receiver() {
    for how in [DESTROY, CLOSE] {
        let mut d = duo();
        d.peer.ask(&[how]);
        d.peer.kill();
        std::thread::sleep(Duration::from_millis(100));
        assert!(d.node.events().is_empty(), "{:?}", d.node.events());
        // A requester gets no answer.
        let src = pages(1);
        let from = d.node.map_buffer(src);
        d.node.write(&mut d.qp, 64, from, d.remote, true, None);
        d.node.expect_syndrome(&d.qp, 0x40);
    }
}

/// The kernel closes what a process leaves open, as it does for hardware: no event, if the end can be told from a kill.
#[test]
fn exit_without_closing_is_orderly() {
    let mut d = duo();
    let dst = pages(1);
    let to = d.node.map_buffer(dst);
    d.peer.ask(&[WRITE, 64, to, 5]);
    d.peer.tell(&[EXIT]);
    wait("the end", || {
        d.node.fabric.reap();
        d.node.fabric.snapshot().contexts.len() == 1
    });
    std::thread::sleep(Duration::from_millis(50));
    assert!(d.node.events().is_empty(), "{:?}", d.node.events());
    assert_eq!(d.node.wait_recv().tag(), 5);
}

#[test]
fn a_forked_child_changes_nothing() {
    let mut d = duo();
    assert_eq!(d.peer.ask(&[FORK]), [7]);
    let src = pages(1);
    src.fill(0x31);
    let from = d.node.map_buffer(src);
    d.node.write(&mut d.qp, 64, from, d.remote, true, Some(3));
    assert_eq!(d.peer.ask(&[WAIT_RECV]), [3, 64]);
    assert_eq!(d.peer.ask(&[SEE, 5]), [0x31]);
    std::thread::sleep(Duration::from_millis(50));
    assert!(d.node.events().is_empty());
}

#[test]
fn unmap_under_traffic_stops_the_writer() {
    for size in [64, 16384, 1 << 20] {
        let mut d = duo();
        let dst = pages(256);
        let to = d.node.map_buffer(dst);
        d.peer.ask(&[FLOOD, size, to]);
        wait(
            "traffic",
            || unsafe { dst.as_ptr().read_volatile() } == 0x77,
        );
        d.node.accel.unmap(to).unwrap();
        // From here on nobody writes there.
        dst.fill(0);
        assert_eq!(d.peer.hear(), [0x48]);
        d.node.expect_syndrome(&d.qp, 0x10);
        assert!(dst.iter().all(|b| *b == 0), "size {size}");
    }
}

#[test]
fn a_stopped_writer_is_waited_for_or_was_not_inside() {
    for round in 0..8 {
        let mut d = duo();
        let dst = pages(256);
        let to = d.node.map_buffer(dst);
        d.peer.ask(&[FLOOD, 1 << 20, to]);
        wait(
            "traffic",
            || unsafe { dst.as_ptr().read_volatile() } == 0x77,
        );
        std::thread::sleep(Duration::from_micros(37 * round));
        d.peer.signal(libc::SIGSTOP);
        let accel = d.node.accel.clone();
        let unmapping = std::thread::spawn(move || accel.unmap(to));
        std::thread::sleep(Duration::from_millis(30));
        let done = unmapping.is_finished();
        if done {
            dst.fill(0);
        }
        d.peer.signal(libc::SIGCONT);
        unmapping.join().unwrap().unwrap();
        if !done {
            dst.fill(0);
        }
        assert_eq!(d.peer.hear(), [0x48]);
        assert!(dst.iter().all(|b| *b == 0), "round {round}");
    }
}

#[test]
fn a_writer_killed_inside_does_not_hold_up_unmap() {
    for round in 0..8 {
        let mut d = duo();
        let dst = pages(256);
        let to = d.node.map_buffer(dst);
        d.peer.ask(&[FLOOD, 1 << 20, to]);
        wait(
            "traffic",
            || unsafe { dst.as_ptr().read_volatile() } == 0x77,
        );
        std::thread::sleep(Duration::from_micros(53 * round));
        d.peer.kill();
        d.node.accel.unmap(to).unwrap();
        d.node.expect_syndrome(&d.qp, PEER_DIED);
        d.node.ctx.qp_stop(1, d.qp.id).unwrap();
    }
}

#[test]
fn the_peers_unmap_is_respected_here() {
    let mut d = duo();
    let src = pages(1);
    src.fill(0x99);
    let from = d.node.map_buffer(src);
    for _ in 0..100 {
        d.node.write(&mut d.qp, 64, from, d.remote, false, None);
    }
    assert_eq!(d.peer.ask(&[SEE, 0]), [0x99]);
    assert_eq!(d.peer.ask(&[UNMAP]), [0]);
    d.node.write(&mut d.qp, 64, from, d.remote, false, None);
    d.node.expect_syndrome(&d.qp, 0x48);
    assert_eq!(d.peer.ask(&[SEE, 0]), [0x55]);
}

#[test]
fn stop_under_traffic() {
    let mut d = duo();
    let dst = pages(16);
    let to = d.node.map_buffer(dst);
    d.peer.ask(&[FLOOD, 4096, to]);
    wait(
        "traffic",
        || unsafe { dst.as_ptr().read_volatile() } == 0x77,
    );
    d.node.ctx.qp_stop(1, d.qp.id).unwrap();
    dst.fill(0);
    // The peer's QP gets no answer any more.
    assert_eq!(d.peer.hear(), [0x40]);
    assert!(dst.iter().all(|b| *b == 0));
    assert!(d.node.events().is_empty());
}

/// Connects to the test and sends numbered messages, or until it is killed.
fn producer(dir: &Path) {
    let mut node = Node::new(&options(dir), 0);
    let mut qp = node.alloc();
    say(&[u64::from(qp.id)]);
    let Some(line) = told() else { return };
    let [qpn, count, remote] = *line.as_slice() else {
        panic!()
    };
    let to = Address {
        device: 1,
        port: 1,
        qpn: qpn as u32,
    };
    node.connect(&mut qp, to, 64);
    let buffer = pages(1);
    let from = node.map_buffer(buffer);
    say(&[0]);
    for i in 0..count as u32 {
        qp.put(
            SendWqe::write(qp.pi, 8, from, remote).notify(i),
            comp_type::NONE,
        );
        node.bell(&qp);
        if i % 32 == 31 {
            // Wait until the ring of 64 has drained: a NOP behind the messages completes.
            qp.put(SendWqe::ZERO, comp_type::CQ);
            node.bell(&qp);
            node.wait_send();
        }
    }
    told();
}

#[test]
fn many_producers_lose_nothing() {
    const PRODUCERS: usize = 4;
    const COUNT: u64 = 3000;
    let dir = tempfile::tempdir().unwrap();
    // Eight entries: full all the time.
    let mut node = Node::with_cq(&options(dir.path()), 1, 8);
    let buffer = pages(1);
    let remote = node.map_buffer(buffer);
    let mut helpers: Vec<_> = (0..PRODUCERS)
        .map(|_| Helper::start("producer", dir.path()))
        .collect();
    let mut of = std::collections::HashMap::new();
    for (i, h) in helpers.iter_mut().enumerate() {
        let qpn = h.hear()[0];
        let qp = node.alloc();
        node.responder(
            &qp,
            Address {
                device: 0,
                port: 1,
                qpn: qpn as u32,
            },
        );
        of.insert(qp.id, i);
        h.tell(&[u64::from(qp.id), COUNT, remote]);
    }
    helpers.iter_mut().for_each(|h| drop(h.hear()));
    let mut next = [0u32; PRODUCERS];
    for _ in 0..PRODUCERS as u64 * COUNT {
        let cqe = node.wait_recv();
        let who = of[&cqe.qpn()];
        assert_eq!(cqe.tag(), next[who], "producer {who}");
        next[who] += 1;
    }
    assert!(node.poll_recv().is_none());
    helpers.into_iter().for_each(Helper::finish);
}

#[test]
fn producers_that_are_killed_or_stopped_harm_nobody() {
    for round in 0..6 {
        let dir = tempfile::tempdir().unwrap();
        let mut node = Node::with_cq(&options(dir.path()), 1, 16);
        let buffer = pages(1);
        let remote = node.map_buffer(buffer);
        let mut helpers: Vec<_> = (0..3)
            .map(|_| Helper::start("producer", dir.path()))
            .collect();
        let mut of = std::collections::HashMap::new();
        for (i, h) in helpers.iter_mut().enumerate() {
            let qpn = h.hear()[0];
            let qp = node.alloc();
            node.responder(
                &qp,
                Address {
                    device: 0,
                    port: 1,
                    qpn: qpn as u32,
                },
            );
            of.insert(qp.id, i);
            h.tell(&[u64::from(qp.id), 2000, remote]);
        }
        helpers.iter_mut().for_each(|h| drop(h.hear()));
        let mut next = [0u32; 3];
        let mut total = 0;
        while next[0] < 2000 {
            let cqe = node.wait_recv();
            let who = of[&cqe.qpn()];
            assert_eq!(cqe.tag(), next[who]);
            next[who] += 1;
            total += 1;
            match total {
                500 => helpers[1].signal(libc::SIGSTOP),
                700 => {
                    std::thread::sleep(Duration::from_micros(61 * round));
                    helpers[2].kill();
                }
                _ => {}
            }
        }
        // The stopped one goes on where it was.
        helpers[1].signal(libc::SIGCONT);
        while next[1] < 2000 {
            let cqe = node.wait_recv();
            let who = of[&cqe.qpn()];
            assert_eq!(cqe.tag(), next[who]);
            next[who] += 1;
        }
    }
}
