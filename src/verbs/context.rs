//! A context as the provider sees it: the engine behind its lock, the agent thread, the program's event descriptor.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::Duration;

use super::datagrams::Receiver;
use super::engine::{Engine, limits};
use super::types::{
    CqInfo, DeviceAttr, Errno, MrInfo, PortAttr, QpAttr, QpQuery, Result, SendWr, Sge, Wc,
};
use crate::native::gaudi::Gaudi;
use crate::native::kernel::{self, ForkMark, Pv, Word};
use crate::native::{Nic, user};
use kernel_abi::cmd::QueryDeviceResp;
use kernel_abi::verbs::{atomic_cap, device_cap, port_cap, qp_attr};
use zerocopy::{FromZeros, IntoBytes};

/// For measurements of programs that poll: no agent. Who does not poll serves nobody then.
const ENV_NO_AGENT: &str = "GAUDI_NO_AGENT";
/// All lead to the same agent; programs like ibv_xsrq_pingpong ask for the second one.
const COMP_VECTORS: u32 = 2;
/// Bulk bytes that one call moves without the engine's lock (hazard 20).
const SLICE: u64 = 512 << 10;
/// How long the agent naps while something is under watch.
const TICK_NS: u64 = 1_000_000;
/// The longest nap while the program polls.
const LONG_TICK_NS: u64 = 4_000_000;
/// Quiet ticks before the agent lets the device do the watching.
const QUIET_TICKS: u32 = 20;
/// Safety net of a deep sleep.
const DEEP_SLEEP_NS: u64 = 1_000_000_000;
/// Events in the program's pipe. The end of an object takes its own out again, past all of the others, so that few are better than many.
const MOST_UNREAD: usize = 256;
/// Events that are kept for a program that does not read them.
const MOST_KEPT: usize = 1 << 20;
/// How long deregistration waits for peers and for our own requests.
const DEREG_BOUND_NS: u64 = 5_000_000_000;

pub struct Context {
    engine: Mutex<Engine<Gaudi>>,
    fork: ForkMark,
    bulk: Option<Pv>,
    /// The program has not read its events, and there is no room for more: the agent tries again.
    unread: AtomicBool,
    /// Bulk work is left at the device.
    pending: AtomicBool,
    /// Polls so far: the agent leaves a program that polls alone.
    looks: AtomicU64,
    pub(super) receiver: Receiver,
    stop: AtomicBool,
    /// The agent sleeps until the device or a caller wakes it.
    asleep: AtomicBool,
    event_word: Option<Word>,
    async_read: RawFd,
    async_write: RawFd,
    /// Reads the same pipe without waiting, to take events back.
    async_back: RawFd,
    ports: u8,
    odp: bool,
    dm: bool,
    /// What the kernel says of the device.
    device: QueryDeviceResp,
    agent: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Context {
    /// Brings the device up over a freshly opened command descriptor, which libibverbs keeps and closes. `accel` is the number of the
    /// compute device.
    pub fn open(cmd_fd: RawFd, accel: u32) -> Result<Arc<Context>> {
        user::prepare();
        let gaudi = Gaudi::open(cmd_fd, accel)?;
        let (bulk, ports, features) = (gaudi.bulk(), gaudi.ports(), gaudi.features());
        let device = gaudi.query_device()?;
        let event_word = gaudi.event_word();
        let fork = ForkMark::new()?;
        let (async_read, async_write) = kernel::event_pipe()?;
        let ctx = Arc::new(Context {
            engine: Mutex::new(Engine::new(gaudi)),
            fork,
            bulk,
            unread: AtomicBool::new(false),
            pending: AtomicBool::new(false),
            looks: AtomicU64::new(0),
            receiver: Receiver::default(),
            stop: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            event_word,
            async_read,
            async_write,
            async_back: kernel::reopen_nonblocking(async_read),
            ports,
            odp: features.no_pin,
            dm: features.device_memory,
            device,
            agent: Mutex::new(None),
        });
        if std::env::var_os(ENV_NO_AGENT).is_some() {
            return Ok(ctx);
        }
        let agent = ctx.clone();
        let thread = std::thread::Builder::new()
            .name("gaudi-agent".into())
            .stack_size(256 << 10)
            .spawn(move || agent.run())
            .map_err(|_| {
                for fd in [ctx.async_read, ctx.async_write, ctx.async_back] {
                    if fd >= 0 {
                        kernel::close(fd);
                    }
                }
                Errno::EAGAIN
            })?;
        if let Ok(mut a) = ctx.agent.lock() {
            *a = Some(thread);
        }
        Ok(ctx)
    }

    /// The program closes the device. Idempotent.
    pub fn close(&self) {
        if !self.fork.in_owner() || self.stop.swap(true, Ordering::AcqRel) {
            return;
        }
        self.receiver.end();
        // The agent first: it looks at memory that goes away below.
        self.wake_agent();
        let agent = self.agent.lock().ok().and_then(|mut a| a.take());
        if let Some(thread) = agent
            && thread.join().is_err()
        {
            log::error!("the agent thread had panicked");
        }
        let mut e = self.engine();
        e.shut_down();
        e.env.nic.close();
        drop(e);
        kernel::close(self.async_write);
        if self.async_back >= 0 {
            kernel::close(self.async_back);
        }
    }

    /// Descriptor of asynchronous events; libibverbs closes it.
    pub fn async_fd(&self) -> RawFd {
        self.async_read
    }

    pub fn num_comp_vectors(&self) -> i32 {
        COMP_VECTORS as i32
    }

    /// The lock; a panic under it has been caught at the C edge and left the engine broken rather than poisoned.
    fn engine(&self) -> MutexGuard<'_, Engine<Gaudi>> {
        match self.engine.lock() {
            Ok(g) => g,
            Err(p) => {
                let mut g = p.into_inner();
                g.broken = true;
                g
            }
        }
    }

    #[inline]
    fn enter(&self) -> Result<MutexGuard<'_, Engine<Gaudi>>> {
        if !self.fork.in_owner() {
            return Err(Errno::EIO);
        }
        let g = self.engine();
        if g.broken { Err(Errno::EIO) } else { Ok(g) }
    }

    /// Runs a verb under the lock, then hands out what it caused: events, bulk work.
    pub(super) fn with<T>(&self, f: impl FnOnce(&mut Engine<Gaudi>) -> Result<T>) -> Result<T> {
        let mut e = self.enter()?;
        let r = f(&mut e);
        self.leave(e);
        r
    }

    #[inline]
    fn leave(&self, mut e: MutexGuard<'_, Engine<Gaudi>>) {
        if !e.env.events.is_empty() && !self.unread.load(Ordering::Relaxed) {
            self.deliver(&mut e);
        }
        let bulk = e.env.nic.take_pending();
        let wake = e.needs_agent() && self.asleep.load(Ordering::Relaxed);
        drop(e);
        if bulk {
            self.pending.store(true, Ordering::Relaxed);
        }
        if wake && self.asleep.swap(false, Ordering::AcqRel) {
            self.wake_agent();
        }
    }

    fn deliver(&self, e: &mut Engine<Gaudi>) {
        let events = std::mem::take(&mut e.env.events);
        let unread = kernel::unread_bytes(self.async_back);
        let room =
            MOST_UNREAD.saturating_sub(unread / size_of::<kernel_abi::uverbs::AsyncEventDesc>());
        self.unread.store(events.len() > room, Ordering::Relaxed);
        for (i, ev) in events.iter().enumerate() {
            // One for each QP of a peer that died may be many.
            if i == room && events.len() - i < MOST_KEPT {
                e.env.events.extend_from_slice(&events[i..]);
                return;
            }
            let d = kernel_abi::uverbs::AsyncEventDesc {
                element: ev.element,
                event_type: ev.event,
                reserved: 0,
            };
            match kernel::write_bytes(self.async_write, d.as_bytes()) {
                Ok(()) => *e.env.told.entry(ev.element).or_default() += 1,
                Err(err) => log::warn!("asynchronous event {} lost: {err}", ev.event),
            }
        }
    }

    /// An object is gone: takes its unread events back, and answers how many the program has read or is about to.
    pub(super) fn retract(&self, e: &mut Engine<Gaudi>, cookie: u64) -> u32 {
        e.env.events.retain(|ev| ev.element != cookie);
        let Some(told) = e.env.told.remove(&cookie) else {
            return 0;
        };
        // The others keep their order: writers hold the lock.
        let (mut kept, mut unread) = (Vec::new(), 0);
        let mut d = kernel_abi::uverbs::AsyncEventDesc::new_zeroed();
        while self.async_back >= 0
            && kernel::read_bytes(self.async_back, d.as_mut_bytes()) == Some(size_of_val(&d))
        {
            if d.element == cookie {
                unread += 1;
            } else {
                kept.push(d);
            }
        }
        for d in kept {
            if let Err(err) = kernel::write_bytes(self.async_write, d.as_bytes()) {
                log::warn!("asynchronous event {} lost: {err}", d.event_type);
            }
        }
        told.wrapping_sub(unread)
    }

    /// Takes back the events of an object that ends, as far as the program has not read them: it must not see the address of what is
    /// gone. Answers how many it has read and must acknowledge.
    pub(super) fn forget_events(&self, element: u64) -> u32 {
        let mut e = self.engine();
        self.retract(&mut e, element)
    }

    /// Bulk work that doorbells left behind, one slice, without the lock.
    #[inline]
    pub(super) fn move_bulk(&self) {
        if self.pending.load(Ordering::Relaxed)
            && let Some(pv) = &self.bulk
        {
            let left = pv.progress(SLICE);
            self.pending.store(left, Ordering::Relaxed);
        }
    }

    pub fn alloc_pd(&self) -> Result<u32> {
        self.with(Engine::alloc_pd)
    }

    pub fn dealloc_pd(&self, pd: u32) -> Result<()> {
        self.with(|e| e.dealloc_pd(pd))
    }

    pub fn reg_mr(&self, pd: u32, addr: u64, len: u64, iova: u64, access: u32) -> Result<MrInfo> {
        self.with(|e| e.reg_mr(pd, addr, len, iova, access))
    }

    pub fn dereg_mr(&self, mr: u32) -> Result<()> {
        self.with(|e| e.dereg_begin(mr))?;
        self.await_revocation(mr)?;
        self.with(|e| e.dereg_finish(mr))
    }

    /// Waits, within a bound, until nobody uses a key any more.
    pub(super) fn await_revocation(&self, mr: u32) -> Result<()> {
        if !self.await_peers("a revocation", |e| e.dereg_done(mr))? {
            self.with(|e| {
                e.dereg_give_up(mr);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Whether what peers have to do was done within a bound.
    fn await_peers(
        &self,
        what: &str,
        mut done: impl FnMut(&mut Engine<Gaudi>) -> bool,
    ) -> Result<bool> {
        let start = kernel::now_ns();
        let mut rounds = 0u32;
        while !self.with(|e| Ok(done(e) || (e.progress(), done(e)).1))? {
            self.move_bulk();
            if kernel::now_ns() - start > DEREG_BOUND_NS {
                log::warn!("a peer did not acknowledge {what} in time");
                return Ok(false);
            }
            rounds += 1;
            if rounds > 100 {
                std::thread::sleep(Duration::from_micros(50));
            } else {
                std::thread::yield_now();
            }
        }
        Ok(true)
    }

    pub fn create_cq(
        &self,
        cqe: u32,
        channel_fd: Option<RawFd>,
        comp_vector: u32,
        cookie: u64,
    ) -> Result<CqInfo> {
        if comp_vector >= COMP_VECTORS {
            return Err(Errno::EINVAL);
        }
        self.with(|e| e.create_cq(cqe, channel_fd, cookie))
    }

    pub fn resize_cq(&self, cq: u32, cqe: u32) -> Result<u32> {
        self.with(|e| e.resize_cq(cq, cqe))
    }

    /// Answers how many completion and asynchronous events of it the program has taken and must acknowledge.
    pub fn destroy_cq(&self, cq: u32) -> Result<(u32, u32)> {
        self.with(|e| {
            let cookie = e.cq(cq)?.cookie;
            let taken = e.destroy_cq(cq)?;
            Ok((taken, self.retract(e, cookie)))
        })
    }

    #[inline]
    pub fn poll_cq(&self, cq: u32, out: &mut [Wc]) -> Result<usize> {
        self.move_bulk();
        self.polling(|e| e.poll_cq(cq, out))
    }

    /// A look of the program's own.
    #[inline]
    pub(super) fn polling<T>(
        &self,
        look: impl FnOnce(&mut Engine<Gaudi>) -> Result<T>,
    ) -> Result<T> {
        let mut e = self.enter()?;
        let r = look(&mut e);
        self.looks.store(e.looks, Ordering::Relaxed);
        self.receiver.looks.store(e.ud.looks, Ordering::Relaxed);
        self.leave(e);
        r
    }

    pub fn req_notify_cq(&self, cq: u32, solicited_only: bool) -> Result<()> {
        let r = self.with(|e| e.req_notify_cq(cq, solicited_only));
        self.receiver.attend();
        r
    }

    pub fn modify_qp(&self, qp: u32, attr: &QpAttr, mask: u32) -> Result<u32> {
        let number = self.with(|e| e.modify_qp(qp, attr, mask))?;
        if mask & qp_attr::ACCESS_FLAGS != 0 {
            // Rights that the QP has lost are lost when we return; a peer that stands still is not waited for longer than that.
            self.await_peers("the loss of a right", |e| e.forgotten(qp))?;
        }
        Ok(number)
    }

    pub fn query_qp(&self, qp: u32) -> Result<QpQuery> {
        self.with(|e| e.query_qp(qp))
    }

    /// Gives up the handle on a QP that `cookie` names, with its events; the last one destroys it.
    /// Answers how many of its events the program has taken and must acknowledge.
    pub fn destroy_qp(&self, qp: u32, cookie: u64) -> Result<u32> {
        self.with(|e| e.close_qp(qp, cookie))?;
        Ok(self.forget_events(cookie))
    }

    /// Takes the lock for a list of work requests.
    #[inline]
    pub fn lock(&self) -> Result<Guard<'_>> {
        Ok(Guard {
            ctx: self,
            engine: self.enter()?,
            sent: None,
            fed: None,
        })
    }

    pub fn query_device(&self) -> DeviceAttr {
        let max_qp = 8191 * i32::from(self.ports);
        DeviceAttr {
            fw_ver: firmware_text(self.device.fw_ver),
            node_guid: u64::from_ne_bytes(self.device.node_guid),
            sys_image_guid: u64::from_ne_bytes(self.device.sys_image_guid),
            max_mr_size: limits::MAX_MR_SIZE,
            page_size_cap: 4096,
            vendor_id: self.device.vendor_id,
            vendor_part_id: self.device.vendor_part_id,
            hw_ver: self.device.hw_ver,
            max_qp,
            max_qp_wr: limits::MAX_QP_WR as i32,
            device_cap_flags: (device_cap::MEM_WINDOW
                | device_cap::MEM_WINDOW_TYPE_2B
                | device_cap::MEM_MGT_EXTENSIONS
                | device_cap::CURR_QP_STATE_MOD
                | device_cap::PORT_ACTIVE_EVENT
                | device_cap::SYS_IMAGE_GUID
                | device_cap::RC_RNR_NAK_GEN
                | device_cap::SRQ_RESIZE
                | device_cap::XRC) as u32,
            max_sge: limits::MAX_SGE as i32,
            max_sge_rd: limits::MAX_SGE as i32,
            max_cq: limits::MAX_CQ as i32,
            max_cqe: limits::MAX_CQE as i32,
            max_mr: limits::MAX_MR as i32,
            max_pd: limits::MAX_PD as i32,
            max_qp_rd_atom: i32::from(limits::MAX_RD_ATOMIC),
            max_ee_rd_atom: 0,
            max_res_rd_atom: i32::from(limits::MAX_RD_ATOMIC) * max_qp,
            max_qp_init_rd_atom: i32::from(limits::MAX_RD_ATOMIC),
            max_ee_init_rd_atom: 0,
            atomic_cap: atomic_cap::GLOB,
            max_ee: 0,
            max_rdd: 0,
            max_mw: limits::MAX_MW as i32,
            max_raw_ipv6_qp: 0,
            max_raw_ethy_qp: 0,
            max_mcast_grp: limits::MAX_MCAST_GRP as i32,
            max_mcast_qp_attach: limits::MAX_MCAST_QP as i32,
            max_total_mcast_qp_attach: (limits::MAX_MCAST_GRP * limits::MAX_MCAST_QP) as i32,
            max_ah: limits::MAX_AH as i32,
            max_fmr: 0,
            max_map_per_fmr: 0,
            max_srq: limits::MAX_SRQ as i32,
            max_srq_wr: limits::MAX_QP_WR as i32,
            max_srq_sge: limits::MAX_SGE as i32,
            max_pkeys: 1,
            local_ca_ack_delay: 15,
            phys_port_cnt: self.ports,
        }
    }

    /// Bytes of device memory that may be allocated.
    pub fn max_dm_size(&self) -> u64 {
        if self.dm { super::regions::MAX_DM } else { 0 }
    }

    /// Whether this process opened the context, and did not inherit it by fork(2).
    pub(super) fn in_owner(&self) -> bool {
        self.fork.in_owner()
    }

    /// Memory may come and go under a registration.
    pub fn on_demand_paging(&self) -> bool {
        self.odp
    }

    pub fn query_port(&self, port: u8) -> Result<PortAttr> {
        if port == 0 || port > self.ports {
            return Err(Errno::EINVAL);
        }
        let p = self.with(|e| e.env.nic.query_port(port))?;
        Ok(PortAttr {
            state: u32::from(p.state),
            max_mtu: u32::from(p.max_mtu),
            active_mtu: u32::from(p.active_mtu),
            gid_tbl_len: p.gid_tbl_len as i32,
            // Ours to say: addresses are IP-based as on every RoCE port.
            port_cap_flags: p.port_cap_flags | port_cap::IP_BASED_GIDS,
            max_msg_sz: limits::MAX_MSG as u32,
            pkey_tbl_len: p.pkey_tbl_len,
            lid: p.lid,
            sm_lid: p.sm_lid,
            lmc: p.lmc,
            max_vl_num: p.max_vl_num.max(1),
            sm_sl: p.sm_sl,
            subnet_timeout: p.subnet_timeout,
            init_type_reply: p.init_type_reply,
            active_width: p.active_width,
            active_speed: p.active_speed,
            phys_state: p.phys_state,
            link_layer: p.link_layer,
            flags: p.flags,
            active_speed_ex: u32::from(p.active_speed),
            ..PortAttr::default()
        })
    }

    // The agent.

    fn wake_agent(&self) {
        if let Some(w) = self.event_word {
            kernel::bump_and_wake(w);
        }
    }

    /// Serves peers while the program does not poll; keeps out of its way while it does (hazard 19).
    fn run(&self) {
        kernel::block_signals();
        let (mut looks, mut datagram_looks) = (0, 0);
        let mut quiet = 0u32;
        let mut tick = TICK_NS;
        while !self.stop.load(Ordering::Acquire) {
            let seen = self.event_word.map_or(0, kernel::load_word);
            let now = self.looks.load(Ordering::Relaxed);
            let polled = now != looks;
            looks = now;
            let now = self.receiver.looks.load(Ordering::Relaxed);
            let frames = now == datagram_looks;
            datagram_looks = now;
            let deep = if polled && !self.someone_sleeps() {
                quiet = 0;
                tick = (tick + TICK_NS / 4).min(LONG_TICK_NS);
                self.glance(frames);
                false
            } else {
                tick = TICK_NS;
                self.serve(&mut quiet)
            };
            if self.stop.load(Ordering::Acquire) {
                break;
            }
            // The answer to a READ is bulk work that only we can do here: a tick for each would be a thousandth of the speed.
            if !polled && self.pending.load(Ordering::Relaxed) {
                continue;
            }
            match self.event_word {
                Some(w) => kernel::futex_wait(w, seen, if deep { DEEP_SLEEP_NS } else { tick }),
                None => std::thread::sleep(Duration::from_nanos(tick)),
            }
            if deep {
                self.asleep.store(false, Ordering::SeqCst);
            }
        }
    }

    /// A CQ is armed: the program may sleep on its channel although it polled a moment ago.
    pub(super) fn someone_sleeps(&self) -> bool {
        self.engine.try_lock().is_ok_and(|e| e.someone_sleeps())
    }

    /// The program polls: only what polling does not see, which may be datagrams.
    fn glance(&self, frames: bool) {
        let mut e = match self.engine.try_lock() {
            Ok(g) => g,
            Err(TryLockError::Poisoned(_) | TryLockError::WouldBlock) => return,
        };
        e.native_events();
        e.run_timers();
        if frames {
            e.look_for_frames();
        }
        self.leave_agent(e);
    }

    /// The program does not poll: do its work. True when the device may do the watching.
    fn serve(&self, quiet: &mut u32) -> bool {
        self.move_bulk();
        let mut e = self.engine();
        if e.broken {
            return true;
        }
        e.native_events();
        let mut news = false;
        for _ in 0..64 {
            if !(e.progress() | e.look_for_frames()) {
                break;
            }
            news = true;
        }
        e.run_timers();
        *quiet = if news { 0 } else { quiet.saturating_add(1) };
        // Nobody polls: whatever comes next must wake us, not wait for the tick.
        e.rest();
        // Deep sleep needs a device that can wake us, and nothing that only time brings forward.
        let deep = *quiet >= QUIET_TICKS
            && !e.needs_agent()
            && e.env.nic.features().cq_notify
            && !e.env.timers
            && !self.unread.load(Ordering::Relaxed)
            && !self.pending.load(Ordering::Relaxed)
            && !e.env.nic.arm();
        if deep {
            // Under the lock: who gets it next finds us asleep already, and bumps the word that we looked at before.
            self.asleep.store(true, Ordering::SeqCst);
        }
        self.leave_agent(e);
        deep
    }

    /// Work of another thread of ours, unless the context is broken.
    pub(super) fn background(&self, work: impl FnOnce(&mut Engine<Gaudi>)) {
        let mut e = self.engine();
        if !e.broken {
            work(&mut e);
        }
        self.leave_agent(e);
    }

    fn leave_agent(&self, mut e: MutexGuard<'_, Engine<Gaudi>>) {
        if !e.env.events.is_empty() {
            self.deliver(&mut e);
        }
        if e.env.nic.take_pending() {
            self.pending.store(true, Ordering::Relaxed);
        }
    }
}

/// The firmware's version as other drivers' libraries write it: 32 bits major, 16 minor, 16 sub-minor.
fn firmware_text(version: u64) -> [u8; 64] {
    let text = format!(
        "{}.{}.{}",
        version >> 32,
        version >> 16 & 0xffff,
        version & 0xffff
    );
    let mut bytes = [0; 64];
    for (to, from) in bytes.iter_mut().zip(text.bytes().take(63)) {
        *to = from;
    }
    bytes
}

/// The engine, locked for a list of work requests.
pub struct Guard<'a> {
    ctx: &'a Context,
    engine: MutexGuard<'a, Engine<Gaudi>>,
    sent: Option<u32>,
    /// SRQ that got receives for which messages wait.
    fed: Option<u32>,
}

impl Guard<'_> {
    #[inline]
    pub fn post_send(&mut self, qp: u32, wr: &SendWr<'_>) -> Result<()> {
        self.engine.post_send(qp, wr)?;
        self.sent = Some(qp);
        Ok(())
    }

    #[inline]
    /// All of it, or nothing.
    pub fn post_all<'w>(&mut self, qp: u32, list: impl Iterator<Item = SendWr<'w>>) -> Result<()> {
        let tail = self.engine.posted(qp)?;
        for wr in list {
            if let Err(e) = self.engine.post_send(qp, &wr) {
                self.engine.unpost(qp, tail);
                return Err(e);
            }
        }
        self.sent = Some(qp);
        Ok(())
    }

    #[inline]
    pub fn post_recv(&mut self, qp: u32, wr_id: u64, sges: &[Sge]) -> Result<()> {
        if self.engine.post_recv(qp, wr_id, sges)? {
            self.sent = Some(qp);
        }
        Ok(())
    }

    #[inline]
    pub fn post_srq_recv(&mut self, srq: u32, wr_id: u64, sges: &[Sge]) -> Result<()> {
        if self.engine.post_srq_recv(srq, wr_id, sges)? {
            self.fed = Some(srq);
        }
        Ok(())
    }

    /// Issues what was posted and releases the lock; bulk data moves after that.
    #[inline]
    pub fn finish(mut self) {
        if let Some(qp) = self.sent {
            self.engine.kick(qp);
        }
        if let Some(srq) = self.fed {
            self.engine.kick_srq(srq);
        }
        let ctx = self.ctx;
        ctx.leave(self.engine);
        ctx.move_bulk();
    }
}
