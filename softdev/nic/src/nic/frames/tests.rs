//! Two contexts of one process; what several processes do to each other is in `tests/frames.rs`.

use super::*;
use crate::{AccelFile, EventSink, Fabric, FabricOptions, NicContext, NicEvent, RdmaFile};
use kernel_abi::ext::{FRAME_MAX, frame};
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::Ordering::*;

struct Deaf;
impl EventSink for Deaf {
    fn event(&self, _: NicEvent) {}
}

struct Rig {
    a: Arc<NicContext>,
    b: Arc<NicContext>,
    _accel: [Arc<AccelFile>; 2],
    _dir: tempfile::TempDir,
}

/// A QP: native number, and the name that senders use.
struct Qp(u32, u32);

const IP_B: u32 = u32::from_be_bytes([127, 17, 1, 1]);

impl Rig {
    fn new() -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let fabric = Fabric::attach(&FabricOptions {
            dir: dir.path().join("fabric"),
            devices: 2,
            ports: 1,
            strict: false,
            retry_limit_ms: 0,
            rxe: false,
        })
        .unwrap();
        let accel = [0, 1].map(|d| AccelFile::create(&fabric, d).unwrap());
        let [a, b] = [0usize, 1].map(|d| {
            let rdma = RdmaFile::create(&fabric, d as u32).unwrap();
            let context = rdma
                .open_context(0, Some(accel[d].clone()), Arc::new(Deaf))
                .unwrap();
            context.set_port_ex(1, 8192, 256, 0, false, false).unwrap();
            context
        });
        Rig {
            a,
            b,
            _accel: accel,
            _dir: dir,
        }
    }

    fn qp(&self) -> Qp {
        let (id, generation) = self.b.qp_alloc(1).unwrap();
        Qp(id, (generation & 0x3f) << 18 | 1 << 13 | id)
    }

    fn send(&self, to: &Qp, bytes: &[u8]) -> u32 {
        self.a.frame_send(IP_B, to.1, bytes)
    }

    fn take(&self, qp: &Qp) -> Option<Vec<u8>> {
        let mut room = vec![0; FRAME_MAX];
        match self.b.frame_recv(1, qp.0, &mut room) {
            0 => None,
            n => Some(room[..n].to_vec()),
        }
    }

    fn event_word(&self) -> u32 {
        self.b.map.w32(self.b.layout.event()).load(SeqCst)
    }

    fn table(&self) -> At<'_> {
        At::new(&self.b.map, self.b.layout.frames())
    }

    fn live_lanes(&self) -> usize {
        let kinds = (0..self.table().ready().load(SeqCst))
            .map(|i| word::kind(self.table().state(i).load(SeqCst)));
        kinds.filter(|k| *k != word::FREE).count()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.a.close();
        self.b.close();
    }
}

#[test]
fn frames_reach_the_qp_that_they_name() {
    let rig = Rig::new();
    let (one, two) = (rig.qp(), rig.qp());
    assert_eq!(rig.send(&one, b"early"), frame::NOT_HERE);
    rig.b.frame_open(1, one.0).unwrap();
    rig.b.frame_open(1, two.0).unwrap();
    assert_eq!(rig.send(&one, b"first"), frame::SENT);
    assert_eq!(rig.send(&two, b"second"), frame::SENT);
    assert_eq!(rig.send(&one, &[7; FRAME_MAX]), frame::SENT);
    assert_eq!(rig.take(&two).unwrap(), b"second");
    assert_eq!(rig.take(&one).unwrap(), b"first");
    assert_eq!(rig.take(&one).unwrap(), [7; FRAME_MAX]);
    assert_eq!((rig.take(&one), rig.take(&two)), (None, None));
    // Another generation, another port, an address that is nobody's.
    for (ip, number) in [
        (IP_B, one.1 ^ 1 << 18),
        (IP_B, one.1 ^ 1 << 13),
        (IP_B + 1, one.1),
        (IP_B, 0xff_ffff),
        (0, one.1),
    ] {
        assert_eq!(rig.a.frame_send(ip, number, b"x"), frame::NOT_HERE);
    }
    // What was kept for a QP that goes is gone, and so is the way to it.
    assert_eq!(rig.send(&one, b"late"), frame::SENT);
    rig.b.frame_close(1, one.0);
    assert_eq!(rig.send(&one, b"later"), frame::NOT_HERE);
    rig.b.frame_open(1, one.0).unwrap();
    assert_eq!(rig.take(&one), None);
    assert_eq!(rig.send(&one, b"again"), frame::SENT);
    assert_eq!(rig.take(&one).unwrap(), b"again");
    rig.b.frame_close(1, one.0);
    rig.b.frame_close(1, two.0);
    assert_eq!(rig.live_lanes(), 0);
}

#[test]
fn a_slow_receiver_pauses_its_sender() {
    let rig = Rig::new();
    let qp = rig.qp();
    rig.b.frame_open(1, qp.0).unwrap();
    let fill = |from: u32| {
        let mut n = from;
        while rig.send(&qp, &[n as u8; 4000]) == frame::SENT {
            n += 1;
        }
        n
    };
    let n = fill(0);
    assert!((20..40).contains(&n), "{n} frames fit");
    assert_eq!(rig.take(&qp).unwrap(), [0; 4000]);
    assert_eq!(rig.send(&qp, &[n as u8; 4000]), frame::SENT);
    // Only time ends the patience, and only for as long as nothing moves. The agent is woken meanwhile.
    let word = rig.event_word();
    let start = std::time::Instant::now();
    while rig.send(&qp, &[99; 4000]) == frame::FULL {
        assert!(start.elapsed().as_secs() < 20);
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert!(start.elapsed().as_millis() >= 90);
    assert_eq!(rig.send(&qp, &[99; 4000]), frame::LOST);
    assert_ne!(rig.event_word(), word);
    for k in 1..=n {
        assert_eq!(rig.take(&qp).unwrap(), [k as u8; 4000]);
    }
    assert_eq!(rig.take(&qp), None);
    assert_eq!(rig.send(&qp, b"on"), frame::SENT);
    assert_eq!(rig.take(&qp).unwrap(), b"on");
}

#[test]
fn an_armed_receiver_is_woken_once() {
    let rig = Rig::new();
    let qp = rig.qp();
    rig.b.frame_open(1, qp.0).unwrap();
    assert!(!rig.b.frame_arm());
    let word = rig.event_word();
    assert_eq!(rig.send(&qp, b"1"), frame::SENT);
    assert_eq!(rig.event_word(), word + 1);
    assert_eq!(rig.send(&qp, b"2"), frame::SENT);
    assert_eq!(rig.event_word(), word + 1);
    assert!(rig.b.frame_arm(), "something is there");
    assert_eq!(rig.send(&qp, b"3"), frame::SENT);
    assert_eq!(rig.event_word(), word + 1);
    for text in [b"1", b"2", b"3"] {
        assert_eq!(rig.take(&qp).unwrap(), text);
    }
    assert!(!rig.b.frame_arm());
}

#[test]
fn a_context_that_closes_leaves_its_lanes() {
    let rig = Rig::new();
    let qp = rig.qp();
    rig.b.frame_open(1, qp.0).unwrap();
    assert_eq!(rig.send(&qp, b"last words"), frame::SENT);
    rig.a.close();
    assert_eq!(rig.send(&qp, b"too late"), frame::NOT_HERE);
    assert_eq!(rig.take(&qp).unwrap(), b"last words");
    assert_eq!(rig.take(&qp), None);
    assert_eq!(rig.live_lanes(), 0);
}

/// More QPs than lanes have memory at first, each with a sender.
#[test]
fn lanes_grow_with_their_senders() {
    let rig = Rig::new();
    let qps: Vec<Qp> = (0..100).map(|_| rig.qp()).collect();
    for qp in &qps {
        rig.b.frame_open(1, qp.0).unwrap();
    }
    let mut late = 0;
    for (k, qp) in qps.iter().enumerate() {
        // Who finds no lane goes by the wire until the receiver has looked.
        while rig.send(qp, &[k as u8; 10]) == frame::NOT_HERE {
            late += 1;
            assert!(late < 200);
            rig.take(qp);
        }
    }
    for (k, qp) in qps.iter().enumerate() {
        assert_eq!(rig.take(qp).unwrap(), [k as u8; 10]);
    }
    assert_eq!(rig.live_lanes(), 100);
    for qp in &qps {
        rig.b.frame_close(1, qp.0);
    }
    assert_eq!(rig.live_lanes(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Somebody writes anything anywhere into the table: no panic, no endless loop, and whoever opens a QP anew is served again.
    #[test]
    fn a_scribbled_table_is_survived(writes in prop::collection::vec((0..(DATA + 2 * lane::BYTES) / 4, any::<u32>(), any::<bool>()), 1..200)) {
        let rig = Rig::new();
        let qp = rig.qp();
        rig.b.frame_open(1, qp.0).unwrap();
        rig.send(&qp, b"before");
        for (at, value, small) in writes {
            // Many in the first page and the first records.
            let at = if small { at % 1400 } else { at };
            let value = if small { value & 0x800f_ffff } else { value };
            rig.b.map.w32(rig.b.layout.frames() + 4 * at).store(value, SeqCst);
            rig.send(&qp, &[5; 100]);
            rig.take(&qp);
            rig.b.frame_arm();
        }
        rig.b.frame_close(1, qp.0);
        rig.a.frames_leave();
    }
}
