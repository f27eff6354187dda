//! CPU time of one WRITE, doorbell included, into each kind of memory.
//!
//! `cargo run --release -p gaudi-softnic --example write_cost`
//!
//! The other end is a process of its own (this program again), so every access crosses processes.

use gaudi_softnic::*;
use kernel_abi::gaudi2::{Doorbell, RecvWqe, SendWqe, comp_type};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous};
use std::io::{BufRead, Write};
use std::process::{Command, Stdio};
use std::ptr::null_mut;
use std::sync::Arc;
use std::time::Instant;

struct Quiet;
impl EventSink for Quiet {
    fn event(&self, ev: NicEvent) {
        eprintln!("event {ev:?}");
    }
}

struct End {
    accel: Arc<AccelFile>,
    rdma: Arc<RdmaFile>,
    ctx: Arc<NicContext>,
    cq: CqInfo,
    qpn: u32,
}

const RW: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);
const SLOTS: u32 = 256;

fn open(dir: &str, device: u32) -> End {
    let opts = FabricOptions {
        dir: dir.into(),
        devices: 2,
        ports: 1,
        strict: false,
        retry_limit_ms: 0,
        rxe: false,
    };
    let fabric = Fabric::attach(&opts).expect("attach");
    let accel = AccelFile::create(&fabric, device).expect("accel");
    let rdma = RdmaFile::create(&fabric, device).expect("rdma");
    let ctx = rdma
        .open_context(0, Some(accel.clone()), Arc::new(Quiet))
        .expect("context");
    ctx.set_port_ex(1, 64, 1024, 0, false, false)
        .expect("set_port_ex");
    let cq = ctx.cq_create(1, 1024).expect("cq");
    let (qpn, _) = ctx.qp_alloc(1).expect("qp");
    End {
        accel,
        rdma,
        ctx,
        cq,
        qpn,
    }
}

impl End {
    fn connect(&self, device: u32, qpn: u32) -> RingInfo {
        let dest_ip = u32::from_be_bytes(port_ipv4(device, 1));
        let res = Responder {
            dest_qpn: qpn,
            dest_ip,
            cq: self.cq.id,
            ..Responder::default()
        };
        self.ctx
            .qp_set_responder(1, self.qpn, &res)
            .expect("responder");
        let req = Requester {
            dest_qpn: qpn,
            dest_ip,
            cq: self.cq.id,
            timer: 13,
            log_mtu: 12,
            wq_entries: SLOTS,
            wq_type: 1,
            ..Requester::default()
        };
        self.ctx
            .qp_set_requester(1, self.qpn, &req)
            .expect("requester")
    }
}

fn private(len: usize) -> *mut u8 {
    // SAFETY: a new mapping.
    unsafe { mmap_anonymous(null_mut(), len, RW, MapFlags::PRIVATE) }
        .expect("mmap")
        .cast()
}

/// The passive end: says where it is, connects, and waits to be closed.
fn passive(dir: &str) {
    let end = open(dir, 1);
    let arena = end.accel.map_arena(0, 4 << 20, 0, false).expect("map");
    let host = end
        .accel
        .map_host(private(4 << 20) as u64, 4 << 20, 0, false)
        .expect("map");
    println!("{} {arena} {host}", end.qpn);
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("stdin");
    end.connect(0, line.trim().parse().expect("a number"));
    println!("ready");
    let _ = std::io::stdin().read_line(&mut line);
    end.ctx.close();
}

fn main() {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() == Some("passive") {
        return passive(&args.next().expect("a directory"));
    }
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("fabric").display().to_string();
    let end = open(&path, 0);
    let mut other = Command::new(std::env::current_exe().expect("exe"))
        .args(["passive", &path])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("spawn");
    let mut lines = std::io::BufReader::new(other.stdout.take().expect("stdout")).lines();
    let words: Vec<u64> = lines
        .next()
        .unwrap()
        .unwrap()
        .split(' ')
        .map(|w| w.parse().unwrap())
        .collect();
    let mut input = other.stdin.take().expect("stdin");
    writeln!(input, "{}", end.qpn).expect("write");
    lines.next().unwrap().unwrap();
    let rings = end.connect(1, words[0] as u32);
    let fd = end.rdma.dup_fd().expect("dup");
    let map = |at, len| -> *mut u8 {
        // SAFETY: a new mapping.
        unsafe { mmap(null_mut(), len as usize, RW, MapFlags::SHARED, &fd, at) }
            .expect("mmap")
            .cast()
    };
    let (swq, rwq) = (
        map(rings.swq_handle, rings.swq_size),
        map(rings.rwq_handle, rings.rwq_size),
    );
    let from = end
        .accel
        .map_host(private(4 << 20) as u64, 4 << 20, 0, false)
        .expect("map");
    let mut pi = 0u32;
    let mut cqes = 0u32;
    let mut run = |name: &str, size: u32, to: u64, comp: u8, count: u32| {
        let mut best = f64::MAX;
        for _ in 0..5 {
            let start = Instant::now();
            for _ in 0..count {
                let w = SendWqe::write(pi, size, from, to);
                let r = RecvWqe::companion(pi, 2, size, comp, pi);
                let (to_swq, to_rwq) = (
                    swq.wrapping_add(32 * pi as usize),
                    rwq.wrapping_add(16 * pi as usize),
                );
                // SAFETY: the slot is inside the ring.
                unsafe { to_rwq.cast::<RecvWqe>().write_volatile(r) };
                // SAFETY: as above.
                unsafe { to_swq.cast::<SendWqe>().write_volatile(w) };
                pi = (pi + 1) % SLOTS;
                let mut left = end.ctx.doorbell(1, Doorbell::new(end.qpn, pi, 1).raw());
                while left != 0 {
                    left = end.ctx.progress(1 << 20);
                }
                if comp == comp_type::CQ {
                    cqes += 1;
                    end.ctx.cq_ci(1, end.cq.id, cqes);
                }
            }
            best = best.min(start.elapsed().as_nanos() as f64 / f64::from(count));
        }
        let rate = f64::from(size) / best;
        println!("{name:<34} {size:>8} B {best:>10.1} ns {rate:>8.2} GB/s");
    };
    for size in [8, 64, 256, 4096, 65536, 1 << 20] {
        let count = if size < 4096 {
            200_000
        } else {
            2_000_000_000 / size / 20
        };
        run(
            "arena of another process",
            size,
            words[1],
            comp_type::NONE,
            count,
        );
        run(
            "the same, with a completion",
            size,
            words[1],
            comp_type::CQ,
            count,
        );
        run(
            "private memory of another process",
            size,
            words[2],
            comp_type::NONE,
            count / 4,
        );
    }
    drop(input);
    other.wait().expect("wait");
}
