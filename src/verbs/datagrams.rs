//! Datagram QPs, address handles and multicast as verbs, and the thread that receives while no program polls.

use core::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use super::context::Context;
use super::engine::{Engine, Paths, limits, slot_of};
use super::qp::Qp;
use super::types::{AhAttr, Errno, QpInfo, QpInit, Result};
use crate::native::udp::{Watch, is_unicast};
use crate::native::{NativeQp, Nic, kernel};
use crate::ud::grh;
use crate::ud::port::{self, Ah, Look, Place, Port, Scratch};
use kernel_abi::ext;
use kernel_abi::verbs::{qps, qpt};

/// Numbers that may be taken by others before creation gives up.
const TRIES: usize = 1024;
/// How long the thread leaves a program alone that polls.
const NAP: Duration = Duration::from_millis(1);
/// Safety net of its sleep.
const SLEEP_MS: i32 = 1000;
/// The kernel's native errors of datagram QPs, which are never connected, name no QP.
const NO_COOKIE: u64 = u64::MAX;

/// The datagram part of an engine.
#[derive(Default)]
pub(super) struct Datagrams {
    /// QPs that have a socket.
    qps: Vec<u32>,
    scratch: Scratch,
    watch: Option<Arc<Watch>>,
    /// Looks of the program at CQs that datagram QPs receive into.
    pub(super) looks: u64,
    /// Requests wait for a receiver that is behind.
    pub(super) stalled: bool,
    /// Frames are there that nobody will be woken for: the agent must look.
    pub(super) restless: bool,
    ahs: Vec<Option<Ah>>,
}

impl<N: Nic> Engine<N> {
    /// A native id on `port` whose UDP port is free, and the socket there. It is a QP of the kernel's that is never connected.
    fn datagram_port(&mut self, port: u8) -> Result<(NativeQp, Port)> {
        let place = self.place(port)?;
        let mut taken = Vec::new();
        let mut made = Err(Errno(libc::EADDRINUSE));
        for _ in 0..TRIES {
            let native = match self.env.nic.qp_create(port, NO_COOKIE) {
                Ok(n) => n,
                Err(e) => {
                    made = Err(e);
                    break;
                }
            };
            match Port::open(&place, &native) {
                Ok(p) => {
                    made = Ok((native, p));
                    break;
                }
                Err(e) => {
                    taken.push(native);
                    if e.0 != libc::EADDRINUSE {
                        made = Err(e);
                        break;
                    }
                }
            }
        }
        for t in taken {
            if let Err(e) = self.env.nic.qp_destroy(t) {
                log::debug!("giving back a number that was taken: {e}");
            }
        }
        made
    }

    fn place(&self, port: u8) -> Result<Place> {
        Ok(Place {
            addresses: self.env.nic.addresses(port)?,
            six: !self.env.nic.features().port_ipv4,
            mtu: self.env.nic.port_mtu(port),
        })
    }

    /// A port has got other addresses: its QPs are reached there, and nowhere else.
    pub(super) fn readdress_datagrams(&mut self, port: u8) {
        let on_port = |qp: &Qp| qp.native.port == port && qp.ud.is_some();
        if !self.qps.iter().flatten().any(|qp| on_port(qp)) {
            return;
        }
        let (Ok(place), Ok(watch)) = (self.place(port), self.watch()) else {
            return;
        };
        for qp in self.qps.iter_mut().flatten().filter(|qp| on_port(qp)) {
            let new = qp.ud.as_mut().map(|p| p.readdress(&place));
            for fd in new.unwrap_or_default() {
                if let Err(e) = watch.add(fd) {
                    log::warn!("QP {:#x}: a new address: {e}", qp.number());
                }
            }
        }
    }

    fn watch(&mut self) -> Result<Arc<Watch>> {
        if let Some(w) = &self.ud.watch {
            return Ok(w.clone());
        }
        let w = Arc::new(Watch::new()?);
        self.ud.watch = Some(w.clone());
        Ok(w)
    }

    /// The native part of a new datagram QP.
    pub(super) fn open_datagram(&mut self, handle: u32) -> Result<(NativeQp, Box<Port>)> {
        let watch = self.watch()?;
        let (native, port) = self.datagram_port(1)?;
        if let Err(e) = port.fds().try_for_each(|fd| watch.add(fd)) {
            let _ = self.env.nic.qp_destroy(native);
            return Err(e);
        }
        self.ud.qps.push(handle);
        Ok((native, Box::new(port)))
    }

    /// INIT names another port: another number, another socket.
    pub(super) fn move_datagram(&mut self, qp: &mut Qp, to: u8) -> Result<()> {
        if to == qp.native.port {
            return Ok(());
        }
        let watch = self.watch()?;
        let (native, mut port) = self.datagram_port(to)?;
        // Attachments move along.
        let groups: Vec<[u8; 16]> = qp.ud.iter().flat_map(|p| p.groups().copied()).collect();
        let moved = groups
            .into_iter()
            .try_for_each(|gid| port.attach(gid).map(|_| ()));
        let watched = moved.and_then(|()| port.fds().try_for_each(|fd| watch.add(fd)));
        if let Err(e) = watched {
            drop(port);
            let _ = self.env.nic.qp_destroy(native);
            return Err(e);
        }
        qp.ud = Some(Box::new(port));
        let old = std::mem::replace(&mut qp.native, native);
        self.env.nic.qp_destroy(old)
    }

    /// The QP starts to receive: what came earlier is lost.
    pub(super) fn start_datagram(&mut self, qp: &mut Qp) {
        if let Some(p) = &mut qp.ud {
            p.open_frames(&mut self.env.nic, &qp.native);
            p.drain(&mut self.ud.scratch);
        }
    }

    pub(super) fn forget_datagram(&mut self, handle: u32) {
        self.ud.qps.retain(|&h| h != handle);
    }

    /// After posting to a datagram QP.
    #[cold]
    pub(super) fn kick_datagram(&mut self, handle: u32) {
        let Some(Some(qp)) = self.qps.get_mut(handle as usize) else {
            return;
        };
        self.ud.stalled |= port::send(qp, &mut self.env, &self.ud.ahs, &mut self.ud.scratch);
        if qp.ud.as_ref().is_some_and(|p| p.hungry) {
            port::receive(qp, &mut self.env, &mut self.ud.scratch, Look::Everywhere);
        }
    }

    /// Requests that had to wait for their receivers.
    #[cold]
    fn resume_datagrams(&mut self) {
        self.ud.stalled = false;
        for k in 0..self.ud.qps.len() {
            let h = self.ud.qps[k] as usize;
            if let Some(Some(qp)) = self.qps.get_mut(h) {
                self.ud.stalled |=
                    port::send(qp, &mut self.env, &self.ud.ahs, &mut self.ud.scratch);
            }
        }
    }

    /// Datagrams for the QPs that receive into `cq`, or for all.
    #[inline]
    pub(super) fn look_for_datagrams(&mut self, cq: Option<u32>) -> bool {
        if self.ud.qps.is_empty() {
            return false;
        }
        match cq {
            Some(_) => self.receive_datagrams(cq, Look::Often),
            None => self.receive_datagrams(cq, Look::Everywhere),
        }
    }

    /// Those that the device carries itself, for all QPs.
    pub(super) fn look_for_frames(&mut self) -> bool {
        !self.ud.qps.is_empty() && self.receive_datagrams(None, Look::Frames)
    }

    #[inline(never)]
    fn receive_datagrams(&mut self, cq: Option<u32>, look: Look) -> bool {
        let mut news = false;
        let mut cq = cq;
        if self.ud.stalled {
            self.resume_datagrams();
            if self.ud.stalled && cq.is_some() {
                // Who waits for somebody takes whatever comes: the other one may be waiting for us.
                self.ud.looks = self.ud.looks.wrapping_add(1);
                cq = None;
            }
        }
        for k in 0..self.ud.qps.len() {
            let h = self.ud.qps[k] as usize;
            let Some(Some(qp)) = self.qps.get_mut(h) else {
                continue;
            };
            if cq.is_none_or(|cq| cq == qp.recv_cq) {
                if cq.is_some() {
                    self.ud.looks = self.ud.looks.wrapping_add(1);
                }
                news |= port::receive(qp, &mut self.env, &mut self.ud.scratch, look);
            }
        }
        if !self.env.raise.is_empty() {
            self.settle();
        }
        news
    }

    /// An SRQ that a datagram QP waited at has receives again.
    pub(super) fn feed_datagram(&mut self, handle: u32) {
        if let Some(Some(qp)) = self.qps.get_mut(handle as usize) {
            qp.waits_at = None;
            if qp.ud.is_some() {
                port::receive(qp, &mut self.env, &mut self.ud.scratch, Look::Everywhere);
            }
        }
    }

    pub fn attach_mcast(&mut self, handle: u32, gid: [u8; 16]) -> Result<()> {
        let members = |e: &Engine<N>| {
            let ports = e.qps.iter().flatten().filter_map(|q| q.ud.as_ref());
            let all: Vec<[u8; 16]> = ports.flat_map(|p| p.groups().copied()).collect();
            all
        };
        let all = members(self);
        let in_group = all.iter().filter(|g| **g == gid).count();
        let mut groups = all;
        groups.sort_unstable();
        groups.dedup();
        let watch = self.watch()?;
        let qp = self.qp(handle)?;
        let port = qp.ud.as_mut().ok_or(Errno::EINVAL)?;
        let known = port.groups().any(|g| *g == gid);
        if !known
            && (in_group >= limits::MAX_MCAST_QP
                || (in_group == 0 && groups.len() >= limits::MAX_MCAST_GRP))
        {
            return Err(Errno::ENOMEM);
        }
        let new = port.attach(gid)?;
        self.note_qp(handle);
        match new {
            Some(fd) => watch.add(fd),
            None => Ok(()),
        }
    }

    fn note_qp(&self, handle: u32) {
        if let Some(Some(qp)) = self.qps.get(handle as usize) {
            qp.note_state(&self.env);
        }
    }

    pub fn detach_mcast(&mut self, handle: u32, gid: [u8; 16]) -> Result<()> {
        let qp = self.qp(handle)?;
        qp.ud.as_mut().ok_or(Errno::EINVAL)?.detach(&gid)?;
        self.note_qp(handle);
        Ok(())
    }

    pub fn create_ah(&mut self, pd: u32, a: &AhAttr) -> Result<u32> {
        let features = self.env.nic.features();
        let by_lid = features.lid_path && features.port_ipv4 && a.is_global == 0 && a.dlid != 0;
        if !by_lid {
            super::engine::check_path(a, Paths::of(&self.env.nic))?;
            self.check_source(a)?;
        } else if a.port_num == 0 || a.port_num > self.env.nic.ports() {
            return Err(Errno::EINVAL);
        }
        let gid = a.grh.dgid_bytes();
        let group = !by_lid && gid[0] == 0xff;
        let to: Option<IpAddr> = if by_lid {
            Some(ext::lid_ipv4(a.dlid).into())
        } else if group {
            grh::group(&gid, !features.port_ipv4)
        } else {
            let ip = Ipv6Addr::from(gid).to_canonical();
            let named = ext::gid_ipv4(&gid)
                .filter(|_| features.port_ipv4)
                .map(IpAddr::from);
            named.or((ip.is_ipv4() || !features.port_ipv4)
                .then_some(ip)
                .filter(|to| is_unicast(*to)))
        };
        let ah = Ah {
            pd,
            // An address that nobody has is no error of the handle's: what is sent there is lost.
            to: to.map(|ip| self.scoped(ip, a.port_num)),
            sgid_index: a.grh.sgid_index,
            group,
            link_local: !by_lid && !group && a.grh.sgid_index < 2 && features.port_ipv4,
        };
        self.use_pd(pd, true)?;
        match slot_of(&mut self.ud.ahs, limits::MAX_AH) {
            Ok(i) => {
                self.ud.ahs[i] = Some(ah);
                Ok(i as u32)
            }
            Err(e) => {
                self.use_pd(pd, false)?;
                Err(e)
            }
        }
    }

    /// The path's own GID is there. (Where addresses follow a rule of the device, so do indices.)
    fn check_source(&self, a: &AhAttr) -> Result<()> {
        if self.env.nic.features().port_ipv4 {
            return Ok(());
        }
        let own = self.env.nic.addresses(a.port_num)?;
        let all = own.iter().fold(0, |all, own| all | own.indices);
        if all.checked_shr(a.grh.sgid_index.into()).unwrap_or(0) & 1 == 0 {
            return Err(Errno::EINVAL);
        }
        Ok(())
    }

    /// With the interface, where the address does not say it.
    fn scoped(&self, ip: IpAddr, port: u8) -> SocketAddr {
        match ip {
            IpAddr::V6(a) if port::is_link_local(&a) => {
                let own = self.env.nic.addresses(port).unwrap_or_default();
                let ifindex = own.first().map_or(0, |own| own.ifindex);
                SocketAddrV6::new(a, 0, 0, ifindex).into()
            }
            _ => SocketAddr::new(ip, 0),
        }
    }

    pub fn destroy_ah(&mut self, ah: u32) -> Result<()> {
        let ah = self
            .ud
            .ahs
            .get_mut(ah as usize)
            .and_then(Option::take)
            .ok_or(Errno::EINVAL)?;
        self.use_pd(ah.pd, false)
    }
}

/// The receiving thread of a context, from its first datagram QP on.
#[derive(Default)]
pub(super) struct Receiver {
    thread: Mutex<Option<JoinHandle<()>>>,
    /// To end its naps.
    waker: OnceLock<(Thread, Arc<Watch>)>,
    /// Looks so far, as in the engine.
    pub(super) looks: AtomicU64,
    stop: AtomicBool,
}

impl Receiver {
    /// A program may be about to sleep: no naps any more.
    pub(super) fn attend(&self) {
        if let Some((thread, _)) = self.waker.get() {
            thread.unpark();
        }
    }

    pub(super) fn end(&self) {
        self.stop.store(true, Ordering::Release);
        if let Some((thread, watch)) = self.waker.get() {
            thread.unpark();
            watch.wake();
        }
        let thread = self.thread.lock().ok().and_then(|mut t| t.take());
        if thread.is_some_and(|t| t.join().is_err()) {
            log::error!("the datagram thread had panicked");
        }
    }
}

impl Context {
    pub fn create_qp(self: &Arc<Self>, init: &QpInit) -> Result<QpInfo> {
        let (info, watch) = self.with(|e| {
            let info = e.create_qp(init)?;
            Ok((info, e.ud.watch.clone().filter(|_| init.qp_type == qpt::UD)))
        })?;
        if let Some(watch) = watch
            && let Err(e) = self.receive_in_background(watch)
        {
            self.destroy_qp(info.handle, init.cookie)?;
            return Err(e);
        }
        Ok(info)
    }

    fn receive_in_background(self: &Arc<Self>, watch: Arc<Watch>) -> Result<()> {
        let mut thread = self.receiver.thread.lock().map_err(|_| Errno::EIO)?;
        if thread.is_some() || self.receiver.stop.load(Ordering::Acquire) {
            return Ok(());
        }
        let (me, w) = (self.clone(), watch.clone());
        let t = std::thread::Builder::new()
            .name("gaudi-datagrams".into())
            .stack_size(256 << 10)
            .spawn(move || me.run_receiver(&w))
            .map_err(|_| Errno::EAGAIN)?;
        if self
            .receiver
            .waker
            .set((t.thread().clone(), watch))
            .is_err()
        {
            log::debug!("a second datagram thread");
        }
        *thread = Some(t);
        Ok(())
    }

    /// Datagrams of programs that do not poll; out of the way of those that do.
    fn run_receiver(&self, watch: &Watch) {
        kernel::block_signals();
        let mut looks = 0;
        while !self.receiver.stop.load(Ordering::Acquire) {
            let now = self.receiver.looks.load(Ordering::Relaxed);
            let polled = now != looks;
            looks = now;
            if polled && !self.someone_sleeps() {
                std::thread::park_timeout(NAP);
            } else {
                watch.wait(SLEEP_MS);
            }
            if self.receiver.stop.load(Ordering::Acquire) {
                break;
            }
            // Datagrams that come faster than they are taken, and be they garbage, must not keep the program from its lock.
            let mut more = true;
            while more && !self.receiver.stop.load(Ordering::Acquire) {
                self.background(|e| more = e.look_for_datagrams(None));
            }
        }
    }

    pub fn attach_mcast(&self, qp: u32, gid: [u8; 16]) -> Result<()> {
        self.with(|e| e.attach_mcast(qp, gid))
    }

    pub fn detach_mcast(&self, qp: u32, gid: [u8; 16]) -> Result<()> {
        self.with(|e| e.detach_mcast(qp, gid))
    }

    pub fn create_ah(&self, pd: u32, attr: &AhAttr) -> Result<u32> {
        self.with(|e| e.create_ah(pd, attr))
    }

    pub fn destroy_ah(&self, ah: u32) -> Result<()> {
        self.with(|e| e.destroy_ah(ah))
    }
}

/// Whether a state change makes a QP receive.
pub(super) fn starts(from: u32, to: u32) -> bool {
    (from, to) == (qps::INIT, qps::RTR)
}
