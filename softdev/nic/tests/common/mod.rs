//! A program on the soft NIC: contexts, QPs with their rings mapped, CQs, and helper processes.
#![allow(dead_code, unreachable_pub, reason = "each test file uses some of it")]

pub mod pair;

use gaudi_softnic::*;
use kernel_abi::gaudi2::{Cqe, Doorbell, RecvWqe, SendWqe, comp_type};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub fn options(dir: &Path) -> FabricOptions {
    FabricOptions {
        dir: dir.join("fabric"),
        devices: 2,
        ports: 2,
        strict: false,
        retry_limit_ms: 300,
        rxe: false,
    }
}

#[derive(Default)]
pub struct Sink(pub Mutex<Vec<NicEvent>>);

impl EventSink for Sink {
    fn event(&self, ev: NicEvent) {
        self.0.lock().unwrap().push(ev);
    }
}

/// A context with a CQ for each direction on port 1.
pub struct Node {
    pub fabric: Arc<Fabric>,
    pub accel: Arc<AccelFile>,
    pub rdma: Arc<RdmaFile>,
    pub ctx: Arc<NicContext>,
    pub sink: Arc<Sink>,
    pub fd: OwnedFd,
    pub device: u32,
    pub arena: *mut u8,
    pub arena_handle: u64,
    pub send_cq: Cq,
    pub recv_cq: Cq,
}

// Pointers into shared memory.
unsafe impl Send for Node {}
unsafe impl Sync for Node {}

pub struct Cq {
    pub info: CqInfo,
    ring: *mut u8,
    pub entries: u32,
    pub ci: u32,
}

pub struct Qp {
    pub port: u32,
    pub id: u32,
    pub generation: u32,
    pub n: u32,
    pub wide: bool,
    pub pi: u32,
    pub swq: *mut u8,
    pub rwq: *mut u8,
}

unsafe impl Send for Qp {}
unsafe impl Send for Cq {}

/// Where a QP is, for the other end.
#[derive(Clone, Copy, Debug)]
pub struct Address {
    pub device: u32,
    pub port: u32,
    pub qpn: u32,
}

pub const KEY: u32 = 0x1234;

impl Node {
    pub fn new(opts: &FabricOptions, device: u32) -> Node {
        Self::with_cq(opts, device, 512)
    }

    pub fn with_cq(opts: &FabricOptions, device: u32, entries: u32) -> Node {
        let fabric = Fabric::attach(opts).expect("attach");
        let accel = AccelFile::create(&fabric, device).expect("accel");
        let rdma = RdmaFile::create(&fabric, device).expect("rdma");
        let sink = Arc::new(Sink::default());
        let ctx = rdma
            .open_context(0, Some(accel.clone()), sink.clone())
            .expect("context");
        for port in 1..=opts.ports {
            ctx.set_port_ex(port, 8192, 1024, 0, false, false)
                .expect("set_port_ex");
        }
        let fd = rdma.dup_fd().expect("dup");
        let ext = ctx.ext();
        let (arena_handle, arena_size) = (ext.arena_handle, ext.arena_size);
        let arena = if arena_size == 0 {
            std::ptr::null_mut()
        } else {
            map(&fd, arena_handle, arena_size as usize)
        };
        let cq = || {
            let info = ctx.cq_create(1, entries).expect("cq");
            Cq {
                info,
                ring: map(&fd, info.mem_handle, info.mem_size as usize),
                entries,
                ci: 0,
            }
        };
        let (send_cq, recv_cq) = (cq(), cq());
        Node {
            accel,
            rdma,
            ctx: ctx.clone(),
            sink,
            device,
            arena,
            arena_handle,
            send_cq,
            recv_cq,
            fd,
            fabric,
        }
    }

    pub fn at(&self, handle: u64) -> *mut u8 {
        assert!(!self.arena.is_null());
        self.arena
            .wrapping_add((handle - self.arena_handle) as usize)
    }

    pub fn alloc(&self) -> Qp {
        let (id, generation) = self.ctx.qp_alloc(1).expect("qp_alloc");
        let null = std::ptr::null_mut();
        Qp {
            port: 1,
            id,
            generation,
            n: 0,
            wide: false,
            pi: 0,
            swq: null,
            rwq: null,
        }
    }

    pub fn address(&self, qp: &Qp) -> Address {
        Address {
            device: self.device,
            port: qp.port,
            qpn: qp.id,
        }
    }

    pub fn responder(&self, qp: &Qp, to: Address) {
        self.responder_key(qp, to, KEY);
    }

    pub fn responder_key(&self, qp: &Qp, to: Address, key: u32) {
        let r = Responder {
            dest_qpn: to.qpn,
            dest_ip: u32::from_be_bytes(port_ipv4(to.device, to.port)),
            local_key: key,
            cq: self.recv_cq.info.id,
            ..Responder::default()
        };
        self.ctx
            .qp_set_responder(qp.port, qp.id, &r)
            .expect("responder");
    }

    pub fn requester(&self, qp: &mut Qp, to: Address, n: u32) {
        self.requester_wide(qp, to, n, false);
    }

    pub fn requester_wide(&self, qp: &mut Qp, to: Address, n: u32, wide: bool) {
        let r = Requester {
            dest_qpn: to.qpn,
            dest_mac: port_mac(to.device, to.port),
            dest_ip: 0,
            remote_key: KEY,
            cq: self.send_cq.info.id,
            timer: 13,
            log_mtu: 12,
            wq_entries: n,
            granularity: u8::from(wide),
            wq_type: 1,
            ..Requester::default()
        };
        let rings = self
            .ctx
            .qp_set_requester(qp.port, qp.id, &r)
            .expect("requester");
        qp.swq = map(&self.fd, rings.swq_handle, rings.swq_size as usize);
        qp.rwq = map(&self.fd, rings.rwq_handle, rings.rwq_size as usize);
        qp.n = n;
        qp.wide = wide;
        qp.pi = 0;
    }

    /// A connected QP, when the other end's number is known.
    pub fn connect(&self, qp: &mut Qp, to: Address, n: u32) {
        self.responder(qp, to);
        self.requester(qp, to, n);
    }

    pub fn bell(&self, qp: &Qp) -> u32 {
        self.ctx
            .doorbell(qp.port, Doorbell::new(qp.id, qp.pi, qp.port as u8).raw())
    }

    /// A WRITE of `size` bytes; tells us with `slot` as tag, and the peer if there is a tag for it.
    pub fn write(
        &self,
        qp: &mut Qp,
        size: u32,
        local: u64,
        remote: u64,
        tell_me: bool,
        tag: Option<u32>,
    ) {
        let mut w = SendWqe::write(qp.pi, size, local, remote);
        if let Some(tag) = tag {
            w = w.notify(tag);
        }
        self.post(
            qp,
            w,
            if tell_me {
                comp_type::CQ
            } else {
                comp_type::NONE
            },
        );
    }

    pub fn post(&self, qp: &mut Qp, w: SendWqe, comp: u8) -> u32 {
        qp.put(w, comp);
        self.bell(qp)
    }

    pub fn events(&self) -> Vec<NicEvent> {
        self.sink.0.lock().unwrap().clone()
    }

    pub fn wait_event(&self) -> NicEvent {
        let mut found = None;
        wait("an event", || {
            found = self.events().first().copied();
            found.is_some()
        });
        found.unwrap()
    }

    pub fn syndrome(&self, qp: &Qp) -> Option<u8> {
        self.events().iter().find_map(|e| match e {
            NicEvent::QpErr { qpn, syndrome, .. } if *qpn == qp.id => Some(*syndrome),
            _ => None,
        })
    }

    pub fn expect_syndrome(&self, qp: &Qp, want: u8) {
        wait("a syndrome", || self.syndrome(qp).is_some());
        assert_eq!(self.syndrome(qp), Some(want), "{:?}", self.events());
    }

    pub fn poll_send(&mut self) -> Option<Cqe> {
        let cqe = self.send_cq.poll()?;
        self.ctx.cq_ci(1, self.send_cq.info.id, self.send_cq.ci);
        Some(cqe)
    }

    pub fn poll_recv(&mut self) -> Option<Cqe> {
        let cqe = self.recv_cq.poll()?;
        self.ctx.cq_ci(1, self.recv_cq.info.id, self.recv_cq.ci);
        Some(cqe)
    }

    pub fn wait_send(&mut self) -> Cqe {
        let mut got = None;
        let ctx = self.ctx.clone();
        wait("a send completion", || {
            ctx.progress(1 << 20);
            got = self.poll_send();
            got.is_some()
        });
        got.unwrap()
    }

    pub fn wait_recv(&mut self) -> Cqe {
        let mut got = None;
        wait("a receive completion", || {
            got = self.poll_recv();
            got.is_some()
        });
        got.unwrap()
    }

    pub fn map_buffer(&self, buffer: &[u8]) -> u64 {
        self.accel
            .map_host(buffer.as_ptr() as u64, buffer.len() as u64, 0, false)
            .expect("map_host")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.ctx.close();
        self.accel.close();
    }
}

impl Qp {
    /// Writes both rings at the next slot.
    pub fn put(&mut self, w: SendWqe, comp: u8) {
        let slot = self.pi;
        let size = if self.wide { 64 } else { 32 };
        let recv = RecvWqe::companion(slot, w.opcode(), w.size(), comp, slot);
        unsafe {
            self.rwq
                .add(16 * slot as usize)
                .cast::<RecvWqe>()
                .write_volatile(recv)
        };
        unsafe {
            self.swq
                .add(size * slot as usize)
                .cast::<SendWqe>()
                .write_volatile(w)
        };
        self.pi = (self.pi + 1) % self.n;
    }
}

impl Cq {
    /// The same queue, from its beginning.
    pub fn again(node: &Node, cq: &Cq) -> Cq {
        let ring = map(&node.fd, cq.info.mem_handle, cq.info.mem_size as usize);
        Cq {
            info: cq.info,
            ring,
            entries: cq.entries,
            ci: 0,
        }
    }

    /// Takes the next entry by its valid bit, and clears the bit.
    pub fn poll(&mut self) -> Option<Cqe> {
        let at = self
            .ring
            .wrapping_add(16 * (self.ci % self.entries) as usize);
        let word0 = unsafe { AtomicU32::from_ptr(at.cast()) };
        let first = word0.load(Acquire);
        if first >> 31 == 0 {
            return None;
        }
        let high = unsafe { AtomicU64::from_ptr(at.wrapping_add(8).cast()) }.load(Relaxed);
        let index = unsafe { AtomicU32::from_ptr(at.wrapping_add(4).cast()) }.load(Relaxed);
        word0.store(first & !(1 << 31), Relaxed);
        self.ci = self.ci.wrapping_add(1);
        Some(Cqe {
            words: [u64::from(first) | u64::from(index) << 32, high],
        })
    }
}

pub fn map(fd: &OwnedFd, at: u64, len: usize) -> *mut u8 {
    use rustix::mm::{MapFlags, ProtFlags, mmap};
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    unsafe { mmap(std::ptr::null_mut(), len, prot, MapFlags::SHARED, fd, at) }
        .expect("mmap")
        .cast()
}

/// A buffer of whole pages.
pub fn pages(n: usize) -> &'static mut [u8] {
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    let at = unsafe { mmap_anonymous(std::ptr::null_mut(), n * 4096, prot, MapFlags::PRIVATE) }
        .expect("mmap");
    unsafe { std::slice::from_raw_parts_mut(at.cast(), n * 4096) }
}

pub fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < end, "waited too long for {what}");
        std::thread::yield_now();
    }
}

/// A process of the same test binary that plays a role.
pub struct Helper {
    pub child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

pub const ROLE: &str = "GAUDI_SOFTNIC_TEST_ROLE";
pub const DIR: &str = "GAUDI_SOFTNIC_TEST_DIR";

impl Helper {
    pub fn start(role: &str, dir: &Path) -> Helper {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "helper", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env(DIR, dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("spawn");
        let lines = BufReader::new(child.stdout.take().unwrap());
        Helper { child, lines }
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    pub fn tell(&mut self, words: &[u64]) {
        let text: Vec<_> = words.iter().map(u64::to_string).collect();
        writeln!(self.child.stdin.as_mut().unwrap(), "{}", text.join(" "))
            .expect("helper has gone");
    }

    /// The next line of numbers; what the test harness prints begins otherwise.
    pub fn hear(&mut self) -> Vec<u64> {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(
                self.lines.read_line(&mut line).expect("read") > 0,
                "helper has gone"
            );
            if let Some((_, rest)) = line.trim_end().split_once("say:") {
                return rest
                    .split_ascii_whitespace()
                    .map(|w| w.parse().unwrap())
                    .collect();
            }
        }
    }

    pub fn signal(&self, signal: i32) {
        assert_eq!(unsafe { libc::kill(self.pid(), signal) }, 0);
    }

    pub fn kill(&mut self) {
        self.signal(libc::SIGKILL);
        self.child.wait().unwrap();
    }

    pub fn finish(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In the helper: what the test said. `None` when it has gone.
pub fn told() -> Option<Vec<u64>> {
    let mut line = String::new();
    if std::io::stdin().read_line(&mut line).unwrap() == 0 {
        return None;
    }
    Some(
        line.split_ascii_whitespace()
            .map(|w| w.parse().unwrap())
            .collect(),
    )
}

pub fn say(words: &[u64]) {
    let text: Vec<_> = words.iter().map(u64::to_string).collect();
    println!("say:{}", text.join(" "));
    std::io::stdout().flush().unwrap();
}

pub fn role() -> Option<(String, std::path::PathBuf)> {
    Some((std::env::var(ROLE).ok()?, std::env::var(DIR).ok()?.into()))
}
