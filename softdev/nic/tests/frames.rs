//! Frames between processes that are killed and stopped at any instruction.

#![allow(
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    reason = "plays a program"
)]

mod common;
use common::*;
use kernel_abi::ext::{FRAME_MAX, frame};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// Devices are 0 for those who take, 1 for those who send.
const IP: u32 = u32::from_be_bytes([127, 16, 1, 1]);

#[test]
fn helper() {
    let Some((role, dir)) = role() else { return };
    match role.as_str() {
        "sender" => sender(&dir),
        "receiver" => receiver(&dir),
        other => panic!("no role {other}"),
    }
}

fn number(qp: &Qp) -> u32 {
    (qp.generation & 0x3f) << 18 | qp.port << 13 | qp.id
}

/// Name of the sender, serial number, and bytes that follow from the two.
fn message(name: u32, serial: u32) -> Vec<u8> {
    let len = 8 + (serial as usize * 911 + name as usize) % (FRAME_MAX - 8);
    let mut bytes: Vec<u8> = (0..len)
        .map(|i| (i as u32 ^ serial.wrapping_mul(name | 1)) as u8)
        .collect();
    bytes[..4].copy_from_slice(&name.to_le_bytes());
    bytes[4..8].copy_from_slice(&serial.to_le_bytes());
    bytes
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// Sends to the QPs that it is told about, in turn, without end.
fn sender(dir: &Path) {
    let node = Node::new(&options(dir), 1);
    let Some(to) = told() else { return };
    let name = std::process::id();
    let mut serials = vec![0; to.len()];
    say(&[u64::from(name)]);
    for k in 0.. {
        let k = k % to.len();
        let bytes = message(name, serials[k]);
        match node.ctx.frame_send(IP, to[k] as u32, &bytes) {
            frame::SENT => serials[k] += 1,
            frame::FULL | frame::LOST | frame::NOT_HERE => std::thread::yield_now(),
            other => panic!("{other}"),
        }
    }
}

/// Takes frames for one QP until it is killed.
fn receiver(dir: &Path) {
    let node = Node::new(&options(dir), 0);
    let qp = node.alloc();
    node.ctx.frame_open(1, qp.id).unwrap();
    say(&[u64::from(number(&qp))]);
    let mut room = vec![0; FRAME_MAX];
    loop {
        if node.ctx.frame_recv(1, qp.id, &mut room) == 0 {
            std::thread::yield_now();
        }
    }
}

/// What one QP gets: from each sender everything, once, whole and in order.
#[derive(Default)]
struct Seen {
    next: BTreeMap<u32, u32>,
    frames: u32,
}

impl Seen {
    fn take(&mut self, node: &Node, qp: &Qp, room: &mut [u8]) -> bool {
        let n = node.ctx.frame_recv(1, qp.id, room);
        if n == 0 {
            return false;
        }
        let (name, serial) = (word(room, 0), word(room, 4));
        assert_eq!(room[..n], message(name, serial)[..]);
        let next = self.next.entry(name).or_default();
        assert_eq!(serial, *next, "from {name}");
        *next += 1;
        self.frames += 1;
        true
    }
}

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn seed() -> u64 {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1;
    println!("seed {now:#x}");
    now
}

#[test]
fn senders_that_are_killed_or_stopped_harm_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::new(&options(dir.path()), 0);
    let qps = [node.alloc(), node.alloc()];
    for qp in &qps {
        node.ctx.frame_open(1, qp.id).unwrap();
    }
    let numbers = qps.each_ref().map(|qp| u64::from(number(qp)));
    let start = || {
        let mut h = Helper::start("sender", dir.path());
        h.tell(&numbers);
        h
    };
    let mut state = seed();
    let mut room = vec![0; FRAME_MAX];
    let mut seen = [Seen::default(), Seen::default()];
    let mut senders: Vec<Helper> = (0..3).map(|_| start()).collect();
    for round in 0..12 {
        // Until all are heard of, the new one too, and then some more.
        let started = 3 + (round as usize).saturating_sub(1);
        let mut left = 200 + random(&mut state) % 3000;
        wait("frames", || {
            for (qp, seen) in qps.iter().zip(&mut seen) {
                if seen.take(&node, qp, &mut room) {
                    left = left.saturating_sub(1);
                }
            }
            left == 0 && seen.iter().all(|s| s.next.len() >= started)
        });
        // The first is stopped all the while, in the middle of something or not.
        if round == 0 {
            senders[0].signal(libc::SIGSTOP);
            continue;
        }
        let victim = 1 + (random(&mut state) % 2) as usize;
        senders[victim].kill();
        senders[victim] = start();
    }
    senders[0].signal(libc::SIGCONT);
    // A QP that goes while others send to it, and comes back.
    for _ in 0..20 {
        node.ctx.frame_close(1, qps[0].id);
        assert_eq!(node.ctx.frame_recv(1, qps[0].id, &mut room), 0);
        node.ctx.frame_open(1, qps[0].id).unwrap();
        let mut first = BTreeMap::new();
        let mut left = 100;
        wait("frames of a QP that came back", || {
            let n = node.ctx.frame_recv(1, qps[0].id, &mut room);
            if n != 0 {
                let (name, serial) = (word(&room, 0), word(&room, 4));
                assert_eq!(room[..n], message(name, serial)[..]);
                let next = first.entry(name).or_insert(serial);
                assert_eq!(*next, serial, "from {name}");
                *next += 1;
                left -= 1;
            }
            left == 0
        });
    }
}

#[test]
fn receivers_that_are_killed_or_stopped_hold_nobody_up() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::new(&options(dir.path()), 1);
    let mut state = seed();
    for round in 0..6 {
        let mut receiver = Helper::start("receiver", dir.path());
        let to = receiver.hear()[0] as u32;
        let mut sent = 0;
        let until = 100 + random(&mut state) % 2000;
        wait("room", || {
            sent += u64::from(node.ctx.frame_send(IP, to, &[1; 1000]) == frame::SENT);
            sent >= until
        });
        if round % 2 == 0 {
            receiver.kill();
        } else {
            receiver.signal(libc::SIGSTOP);
        }
        // In bounded time the sender is told to go on without it.
        let mut last = frame::SENT;
        wait("the end of patience", || {
            last = node.ctx.frame_send(IP, to, &[2; 1000]);
            std::thread::sleep(Duration::from_micros(100));
            matches!(last, frame::LOST | frame::NOT_HERE)
        });
        if round % 2 == 1 {
            receiver.signal(libc::SIGCONT);
            wait("the receiver that goes on", || {
                node.ctx.frame_send(IP, to, &[3; 1000]) == frame::SENT
            });
        }
    }
}
