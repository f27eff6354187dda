//! A NIC context: one ASID, its QPs and queues.

use super::accel_file::AccelFile;
use super::cq;
use super::fifo::Registers;
use super::frames;
use super::port::PortState;
use super::qp::Qp;
use super::ranges::Ranges;
use super::rdma_file::RdmaFile;
use super::rdma_layout::{self as rdma, Layout, head};
use super::schedule::Schedule;
use crate::fabric::Fabric;
use crate::fabric::attach::lock;
use crate::fabric::way::wait_in_flight;
use crate::shm::Mapping;
use crate::shm::fabric_file::{CtxCopy, MAX_ASIDS, MAX_PORTS, MAX_QPS, nonce, state};
use crate::{Errno, EventSink, Result};
use kernel_abi::ext::{AllocUcontextRespExt, cap};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::*};
use std::sync::{Arc, Mutex, OnceLock};

/// Posted capability: doorbell pages can be mapped.
const CAP_MMAP_UMR: u64 = 1;

type QpTable = OnceLock<Box<[OnceLock<Box<Qp>>]>>;

pub struct NicContext {
    pub(super) fabric: Arc<Fabric>,
    pub(super) rdma: Arc<RdmaFile>,
    /// Torn down after the context, as the driver's file reference does it.
    _accel: Arc<AccelFile>,
    pub(super) map: Arc<Mapping>,
    pub(super) amap: Arc<Mapping>,
    pub(super) layout: Layout,
    pub(super) device: u32,
    pub(super) asid: u32,
    nonce: u64,
    ports_mask: u64,
    pub(super) sink: Arc<dyn EventSink>,
    pub(super) closed: AtomicBool,
    qps: [QpTable; MAX_PORTS as usize],
    /// All QP objects of a port are below it.
    qp_high: [AtomicU32; MAX_PORTS as usize],
    pub(super) ports: [Mutex<PortState>; MAX_PORTS as usize],
    pub(super) rings: Mutex<Ranges>,
    pub(super) registers: Registers,
    pub(super) schedule: Schedule,
    pub(super) receiver: frames::Receiver,
    pub(super) sender: frames::Sender,
    /// Held while a peer's word about a QP is taken in, and while such words are thrown away.
    pub(super) reports: Mutex<()>,
}

impl NicContext {
    pub(super) fn open(
        rdma: &Arc<RdmaFile>,
        ports_mask: u64,
        accel: Option<Arc<AccelFile>>,
        sink: Arc<dyn EventSink>,
    ) -> Result<Arc<NicContext>> {
        let fabric = &rdma.fabric;
        if !fabric.is_ours() {
            return Err(Errno::EIO);
        }
        let accel = accel.ok_or(Errno::ESRCH)?;
        let all = ((1u64 << fabric.opts.ports) - 1) << 1;
        let ports_mask = if ports_mask == 0 { all } else { ports_mask };
        if accel.device() != rdma.device || !accel.belongs_to(fabric) || ports_mask & !all != 0 {
            return Err(Errno::EINVAL);
        }
        if !usercopy::has_cas16() {
            log::error!(
                "this processor has no 16-byte compare-and-swap, which completion queues need"
            );
            return Err(Errno::ENODEV);
        }
        if rdma.used.swap(true, SeqCst) {
            return Err(Errno::EBUSY);
        }
        let opened = Self::open_unused(rdma, ports_mask, accel, sink);
        if opened.is_err() {
            rdma.used.store(false, SeqCst);
        }
        opened
    }

    fn open_unused(
        rdma: &Arc<RdmaFile>,
        ports_mask: u64,
        accel: Arc<AccelFile>,
        sink: Arc<dyn EventSink>,
    ) -> Result<Arc<NicContext>> {
        let fabric = &rdma.fabric;
        usercopy::install()?;
        crate::trap::install()?;
        allow_peers();
        fabric.start_thread()?;
        let asid = claim_asid(fabric, rdma.device)?;
        let layout = rdma.layout;
        let context = Arc::new(NicContext {
            fabric: fabric.clone(),
            rdma: rdma.clone(),
            map: rdma.file.map.clone(),
            amap: accel.file.map.clone(),
            _accel: accel.clone(),
            layout,
            device: rdma.device,
            asid,
            nonce: nonce(),
            ports_mask,
            sink,
            closed: AtomicBool::new(false),
            qps: [const { OnceLock::new() }; MAX_PORTS as usize],
            qp_high: [const { AtomicU32::new(0) }; MAX_PORTS as usize],
            ports: std::array::from_fn(|_| Mutex::default()),
            rings: Mutex::new(Ranges::new(layout.wq_rings(), layout.rings)),
            registers: Registers::new(),
            schedule: Schedule::default(),
            receiver: frames::Receiver::default(),
            sender: frames::Sender::default(),
            reports: Mutex::new(()),
        });
        // From here on dropping the context gives the ASID back.
        rdma.file.reserve(layout.event(), rdma::PAGE)?;
        context.write_header();
        accel.bind(&context)?;
        fabric.register(&context);
        fabric.file.ctx(rdma.device, asid).publish(&CtxCopy {
            owner: fabric.me,
            nonce: context.nonce,
            rdma_fd: rdma.file.fd.raw() as u32,
            accel_fd: accel.file.fd.raw() as u32,
            rdma_ino: rdma.file.ino,
            accel_ino: accel.file.ino,
            ports_mask,
            dev: rdma.file.dev,
        });
        crate::trap::watch(&context);
        Ok(context)
    }

    fn write_header(&self) {
        let m = &self.map;
        m.w64(head::VERSION)
            .store(u64::from(rdma::VERSION), Relaxed);
        m.w64(head::NONCE).store(self.nonce, Relaxed);
        m.w32(head::ASID).store(self.asid, Relaxed);
        m.w32(head::DEVICE).store(self.device, Relaxed);
        m.w32(head::CLOSED).store(0, Relaxed);
        m.w64(head::USABLE).store(self.layout.usable, Relaxed);
        m.w64(head::RINGS).store(self.layout.rings, Relaxed);
        let fences = crate::shm::barrier::is_ready();
        m.w32(head::FENCES).store(u32::from(fences), Relaxed);
        m.w64(head::MAGIC).store(rdma::MAGIC, Release);
    }

    pub fn asid(&self) -> u32 {
        self.asid
    }

    pub fn ports_mask(&self) -> u64 {
        self.ports_mask
    }

    pub fn rdma(&self) -> &Arc<RdmaFile> {
        &self.rdma
    }

    pub(crate) fn nonce(&self) -> u64 {
        self.nonce
    }

    pub(crate) fn mappings(&self) -> (Arc<Mapping>, Arc<Mapping>) {
        (self.map.clone(), self.amap.clone())
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Acquire)
    }

    /// Open, and in the process that opened it.
    #[inline(always)]
    pub(super) fn usable(&self) -> bool {
        !self.closed.load(Relaxed) && self.fabric.is_ours()
    }

    /// For control calls. A process whose lock was dropped (somebody closed the descriptor) has been reaped as dead: its numbers
    /// may be another's now.
    pub(super) fn check_usable(&self) -> Result<()> {
        if !self.usable() {
            return Err(Errno::EIO);
        }
        let word = self
            .fabric
            .file
            .ctx(self.device, self.asid)
            .state()
            .load(Acquire);
        if word == state::pack(state::LIVE, self.fabric.me) {
            return Ok(());
        }
        log::error!(
            "context {} was reclaimed: has this process closed descriptors that are not its own?",
            self.asid
        );
        Err(Errno::EIO)
    }

    /// The response of `alloc_ucontext`; all zero behind the posted part when the fabric is strict.
    pub fn ext(&self) -> AllocUcontextRespExt {
        let posted = AllocUcontextRespExt {
            ports_mask: self.ports_mask,
            cap_mask: CAP_MMAP_UMR,
            ..Default::default()
        };
        if self.fabric.opts.strict {
            return posted;
        }
        let mut caps = cap::ALL;
        if !crate::pv::can_raise() {
            caps &= !cap::RAISE_EVENT;
        }
        AllocUcontextRespExt {
            cap_mask: CAP_MMAP_UMR | caps,
            pv_table: crate::pv::table_address(),
            pv_cookie: crate::pv::cookie(self),
            arena_handle: rdma::ARENA,
            arena_size: self.layout.arena_size(),
            arena_usable: self.layout.usable,
            event_handle: self.layout.event(),
            asid: self.asid,
            ..posted
        }
    }

    /// The QP object of a number, if the number was ever used here.
    #[inline(always)]
    pub(super) fn qp(&self, port: u32, qpn: u32) -> Option<&Qp> {
        let table = self.qps.get(port.wrapping_sub(1) as usize)?.get()?;
        table.get(qpn as usize)?.get().map(|qp| &**qp)
    }

    pub(super) fn make_qp(&self, port: u32, qpn: u32) -> Option<&Qp> {
        let table = self.qps.get(port.wrapping_sub(1) as usize)?;
        let table = table.get_or_init(|| (0..MAX_QPS).map(|_| OnceLock::new()).collect());
        let slot = table.get(qpn as usize)?;
        self.qp_high
            .get(port.wrapping_sub(1) as usize)?
            .fetch_max(qpn + 1, SeqCst);
        Some(slot.get_or_init(|| Box::new(Qp::new(port, qpn))))
    }

    /// Every QP object, used or not at the moment.
    pub(super) fn all_qps(&self) -> impl Iterator<Item = &Qp> {
        let tables = self.qps.iter().zip(&self.qp_high);
        let used =
            tables.filter_map(|(t, high)| Some(t.get()?.iter().take(high.load(SeqCst) as usize)));
        used.flatten().filter_map(OnceLock::get).map(|qp| &**qp)
    }

    /// Waits until nobody uses what the caller has invalidated: peers that counted themselves in, and our own QPs.
    pub(crate) fn wait_accesses(&self) {
        if !self.fabric.is_ours() {
            return;
        }
        wait_in_flight(&self.fabric, &self.map);
        for qp in self.all_qps() {
            qp.run.wait_passed();
        }
    }

    /// Events that the program had no room for: whether some are left.
    pub(crate) fn refill_events(&self) -> bool {
        self.sink.refill()
    }

    /// Bumps and wakes the event word.
    pub fn kick_event_word(&self) {
        if self.fabric.is_ours() {
            cq::bump(&self.map, self.layout.event());
        }
    }

    /// Destroys all; called at last close.
    pub fn close(&self) {
        if !self.fabric.is_ours() || self.closed.swap(true, SeqCst) {
            return;
        }
        // Said before the QPs go, so that no peer takes this for a death.
        self.map.w32(head::CLOSED).store(1, SeqCst);
        crate::trap::forget(self);
        self.frames_leave();
        self.frames_end();
        for (port, qpn) in self.owned_qps() {
            self.invalidate_qp(port, qpn);
        }
        self.wait_accesses();
        for (port, qpn) in self.owned_qps() {
            self.release_qp(port, qpn);
        }
        for qp in self.all_qps() {
            *lock(&qp.watch) = Default::default();
        }
        let record = self.fabric.file.ctx(self.device, self.asid);
        record.release(self.fabric.me);
        self.fabric.unregister(self.asid, self.device);
        self.fabric.drop_remote(self.device, self.nonce);
    }
}

impl Drop for NicContext {
    fn drop(&mut self) {
        self.close();
    }
}

/// The lowest free ASID. Strict: there is one, and another context on the device is EBUSY.
fn claim_asid(fabric: &Fabric, device: u32) -> Result<u32> {
    let end = if fabric.opts.strict { 2 } else { MAX_ASIDS };
    for attempt in 0..2 {
        if attempt == 1 {
            fabric.reap();
        }
        for asid in 1..end {
            if fabric.file.ctx(device, asid).state().load(Acquire) != state::FREE {
                continue;
            }
            // First the bound of those who reap, then the claim.
            fabric.file.asid_high(device).max(asid + 1);
            if fabric.file.ctx(device, asid).claim(fabric.me) {
                return Ok(asid);
            }
        }
    }
    Err(Errno::EBUSY)
}

/// Lets the fabric's other processes copy into this one where yama would forbid it (hazard: who may copy).
fn allow_peers() {
    if std::env::var_os("GAUDI_SOFT_NO_PTRACER").is_none() {
        crate::pv::allow_ptrace();
    }
}
