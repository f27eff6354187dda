//! The device as the protocol sees it.

use super::Gaudi;
use super::connection::destroy;
use crate::native::kernel::{self, Call};
use crate::native::{
    Completion, Connect, DeviceMemory, Features, Frame, NativeEvent, NativeQp, Nic, PortAddress,
    RING_ENTRIES, Raised, Window, Write, mailbox_address, user,
};
use crate::verbs::types::{Errno, Result};
use core::net::Ipv6Addr;
use kernel_abi::accel::{MemArgs, mem_flag};
use kernel_abi::ext::{cap, frame};
use kernel_abi::gaudi2::{Doorbell, RecvWqe, SendWqe, comp_type, fifo_free, opcode, umr};
use kernel_abi::uverbs::{self, AsyncEventDesc, cmd, device, obj};
use kernel_abi::verbs::{event, mtu, qpt};
use zerocopy::{FromZeros, IntoBytes};

impl Nic for Gaudi {
    fn features(&self) -> Features {
        let has = |bit| self.ext.cap_mask & bit != 0;
        Features {
            stop_sync: has(cap::QP_STOP_SYNC),
            cq_notify: self.event_word().is_some(),
            raise: has(cap::RAISE_EVENT) && self.pv.is_some(),
            no_pin: has(cap::NO_PIN),
            device_memory: has(cap::DRAM_BLOCK),
            lid_path: has(cap::LID_PATH),
            port_ipv4: has(cap::PORT_IPV4),
            // They are found by the addresses that ports have by rule.
            frames: has(cap::FRAMES) && has(cap::PORT_IPV4) && self.pv.is_some(),
        }
    }

    fn now(&self) -> u64 {
        kernel::now_ns()
    }

    fn random(&mut self) -> u64 {
        kernel::random()
    }

    fn addresses(&self, port: u8) -> Result<Vec<PortAddress>> {
        let mut found: Vec<PortAddress> = Vec::new();
        // The table is short; entries that are not there fail.
        for index in 0..64u32 {
            let mut entry = uverbs::GidEntry::new_zeroed();
            let asked = Call::new(obj::DEVICE, device::QUERY_GID_ENTRY)
                .value(device::query_gid_entry::PORT, 4, u64::from(port))
                .value(device::query_gid_entry::GID_INDEX, 4, u64::from(index))
                .value(device::query_gid_entry::FLAGS, 4, 0)
                .output(device::query_gid_entry::RESP_ENTRY, &mut entry)
                .run(self.cmd_fd);
            match asked {
                Ok(()) => {}
                Err(Errno(libc::ENODATA)) => continue,
                Err(_) => break,
            }
            let ip = Ipv6Addr::from(entry.gid).to_canonical();
            if let Some(known) = found.iter_mut().find(|a| a.ip == ip) {
                known.indices |= 1 << index;
                continue;
            }
            // Where an IPv4 address follows from it, a link-local GID is no address of its own.
            if ip.is_ipv4() || !self.features().port_ipv4 {
                found.push(PortAddress {
                    ip,
                    ifindex: entry.netdev_ifindex,
                    indices: 1 << index,
                });
            }
        }
        if found.is_empty() && self.features().port_ipv4 {
            return Err(Errno::EOPNOTSUPP);
        }
        Ok(found)
    }

    fn port_mtu(&self, port: u8) -> usize {
        let mtu = self
            .query_port(port)
            .map_or(mtu::MTU_4096, |p| p.active_mtu);
        mtu::bytes(mtu).unwrap_or(4096) as usize
    }

    fn ports(&self) -> u8 {
        self.port_count()
    }

    fn qp_create(&mut self, port: u8, cookie: u64) -> Result<NativeQp> {
        let mut req = cmd::CreateQpReq::new_zeroed();
        req.user_handle = cookie;
        req.pd_handle = self.pd;
        req.send_cq_handle = self.cqs[0];
        req.recv_cq_handle = self.cqs[1];
        req.max_send_wr = RING_ENTRIES;
        req.max_recv_wr = RING_ENTRIES;
        req.max_send_sge = 1;
        req.max_recv_sge = 1;
        req.qp_type = qpt::RC as u8;
        let mut resp = cmd::CreateQpResp::new_zeroed();
        kernel::command(self.cmd_fd, cmd::CREATE_QP, &req, &mut resp)?;
        match self.to_init(resp.qp_handle, port) {
            Ok((id, generation)) => {
                self.cookies.insert(cookie, resp.qp_handle);
                let mut qp =
                    NativeQp::new(resp.qp_handle, port, id, generation, kernel::no_window());
                qp.cookie = cookie;
                qp.ready = true;
                Ok(qp)
            }
            Err(e) => {
                let _ = destroy(self.cmd_fd, resp.qp_handle);
                Err(e)
            }
        }
    }

    fn qp_init(&mut self, qp: &mut NativeQp, port: u8) -> Result<()> {
        let (id, generation) = self.to_init(qp.handle, port)?;
        qp.port = port;
        qp.id = id;
        qp.generation = generation;
        qp.ready = true;
        Ok(())
    }

    fn qp_connect(&mut self, qp: &mut NativeQp, to: &Connect) -> Result<Window> {
        qp.died = 0;
        loop {
            let (win, token) = self.new_mailbox(mailbox_address(qp.port, qp.id))?;
            qp.mailbox_token = token;
            qp.pi = 0;
            qp.ci = 0;
            qp.notified = 0;
            qp.rung = 0;
            let Err(e) = self.try_connect(qp, to) else {
                qp.connected = true;
                return Ok(win);
            };
            // The peer may be killed between the two steps: the program's is then a QP in RTR whose connection has ended.
            let syndrome = self.syndrome(qp.cookie);
            // A failed transition leaves the kernel's QP in RESET (native dossier 2.6), one that is refused because of an error in ERR.
            qp.ready = false;
            self.to_reset(qp.handle)?;
            self.drop_mailbox(qp);
            self.drop_rings(qp);
            self.qp_init(qp, qp.port)?;
            if syndrome == 0 || qp.died != 0 {
                return Err(e);
            }
            qp.died = syndrome;
        }
    }

    fn qp_stop(&mut self, qp: &mut NativeQp) -> Result<()> {
        if !qp.connected {
            return Ok(());
        }
        qp.connected = false;
        qp.ready = false;
        self.to_reset(qp.handle)?;
        self.drop_mailbox(qp);
        self.drop_rings(qp);
        // CQEs of before must not be taken for those of the next connection: they are drained by number while it is not connected.
        if self.ext.cap_mask & cap::QP_STOP_SYNC != 0 {
            let port = qp.port;
            self.qp_init(qp, port)?;
        }
        Ok(())
    }

    fn qp_destroy(&mut self, mut qp: NativeQp) -> Result<()> {
        self.cookies.remove(&qp.cookie);
        let r = destroy(self.cmd_fd, qp.handle);
        self.drop_mailbox(&mut qp);
        self.drop_rings(&mut qp);
        r
    }

    fn map(&mut self, addr: u64, len: u64, writable: bool) -> Result<u64> {
        user::prepare();
        if !kernel::probe(addr, len, writable) {
            return Err(Errno::EFAULT);
        }
        let mut m = MemArgs::map_host(addr, 0, len, mem_flag::USERPTR);
        kernel::memory(self.accel_fd, &mut m)?;
        match m.device_va() {
            0 => Err(Errno::ENOMEM),
            d => Ok(d),
        }
    }

    fn unmap(&mut self, device_address: u64) -> Result<()> {
        kernel::memory(self.accel_fd, &mut MemArgs::unmap(device_address))
    }

    #[inline]
    fn post(&mut self, qp: &mut NativeQp, w: &Write) {
        let slot = qp.pi % RING_ENTRIES;
        let mut s = SendWqe::write(slot, w.len, w.local, w.remote);
        if w.notify_remote {
            s = s.notify(w.tag);
        }
        let done = if w.notify_local {
            comp_type::CQ
        } else {
            comp_type::NONE
        };
        let r = RecvWqe::companion(slot, opcode::LINEAR, w.len, done, 0);
        let (so, ro) = (
            slot as usize * size_of::<SendWqe>(),
            slot as usize * size_of::<RecvWqe>(),
        );
        for (i, word) in zerocopy_words::<4, _>(&s).into_iter().enumerate() {
            qp.swq.store64(so + 8 * i, word);
        }
        for (i, word) in zerocopy_words::<2, _>(&r).into_iter().enumerate() {
            qp.rwq.store64(ro + 8 * i, word);
        }
        qp.pi = qp.pi.wrapping_add(1);
        if w.notify_local {
            qp.notified = qp.pi;
        }
    }

    #[inline]
    fn ring(&mut self, qp: &mut NativeQp) {
        if qp.rung == qp.pi {
            return;
        }
        qp.rung = qp.pi;
        let entry = Doorbell::new(qp.id, qp.pi % RING_ENTRIES, qp.port).raw();
        if let Some(pv) = &self.pv {
            self.pending |= pv.doorbell(qp.port, entry);
            return;
        }
        let Some(f) = self
            .ports
            .get_mut(usize::from(qp.port) - 1)
            .and_then(|p| p.fifo.as_mut())
        else {
            return;
        };
        // Room for this entry and the guard (native dossier 4.1); the device consumes on its own.
        for _ in 0..1_000_000 {
            if fifo_free(f.pi, f.ci.load32(0)) > 2 {
                break;
            }
            std::hint::spin_loop();
        }
        f.regs
            .store64(f.regs_offset + umr::DB0_FIRST32 as usize, entry);
        f.pi = (f.pi + 1) % 64;
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    }

    #[inline]
    fn poll_requester(&mut self) -> Option<Completion> {
        self.ports
            .iter_mut()
            .enumerate()
            .find_map(|(i, p)| Gaudi::poll(&self.pv, i as u8 + 1, &mut p.requester))
    }

    #[inline]
    fn poll_responder(&mut self) -> Option<Completion> {
        self.ports
            .iter_mut()
            .enumerate()
            .find_map(|(i, p)| Gaudi::poll(&self.pv, i as u8 + 1, &mut p.responder))
    }

    fn arm(&mut self) -> bool {
        let Some(pv) = &self.pv else { return false };
        let mut there = false;
        for (i, p) in self.ports.iter().enumerate() {
            for cq in [&p.requester, &p.responder] {
                there |= pv.cq_arm(i as u8 + 1, cq.id, cq.ci);
            }
        }
        there | (self.features().frames && pv.frame_arm())
    }

    fn stalled_us(&self, qp: &NativeQp) -> u64 {
        match &self.pv {
            Some(pv) if qp.connected => pv.stalled_us(qp.port, qp.id),
            _ => 0,
        }
    }

    fn note(&self, qp: &NativeQp, which: u32, value: u64) {
        if self.ext.cap_mask & cap::QP_NOTES != 0
            && let Some(pv) = &self.pv
        {
            pv.note(qp.port, qp.id, which, value);
        }
    }

    fn frame_open(&mut self, qp: &NativeQp) -> Result<()> {
        match &self.pv {
            Some(pv) if self.features().frames => pv.frame_open(qp.port, qp.id),
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    fn frame_close(&mut self, qp: &NativeQp) {
        if let Some(pv) = &self.pv {
            pv.frame_close(qp.port, qp.id);
        }
    }

    #[inline]
    fn frame_send(&self, to: [u8; 4], number: u32, bytes: &[u8]) -> Frame {
        let Some(pv) = &self.pv else {
            return Frame::NotHere;
        };
        match pv.frame_send(u32::from_be_bytes(to), number, bytes) {
            frame::SENT => Frame::Sent,
            frame::FULL => Frame::Full,
            frame::LOST => Frame::Lost,
            _ => Frame::NotHere,
        }
    }

    #[inline]
    fn frame_recv(&self, qp: &NativeQp, room: &mut [u8]) -> usize {
        self.pv
            .as_ref()
            .map_or(0, |pv| pv.frame_recv(qp.port, qp.id, room))
    }

    fn raise(&mut self, channel_fd: i32, cookie: u64) -> Raised {
        let r = if self.features().raise {
            match self
                .pv
                .as_ref()
                .map_or(libc::EIO, |pv| pv.raise(channel_fd, cookie))
            {
                0 => Ok(()),
                e => Err(Errno(e)),
            }
        } else {
            let w = match self.channels.get(&channel_fd) {
                Some(w) => Ok(*w),
                None => kernel::adopt_channel(channel_fd).inspect(|w| {
                    self.channels.insert(channel_fd, *w);
                }),
            };
            w.and_then(|w| kernel::write_bytes(w, &cookie.to_ne_bytes()))
        };
        match r {
            Ok(()) => Raised::Yes,
            Err(Errno::EAGAIN) => Raised::Full,
            Err(e) => {
                log::warn!("completion event into channel {channel_fd}: {e}");
                Raised::Lost
            }
        }
    }

    fn drain(&mut self, channel_fd: i32, cookie: u64) -> u32 {
        let mut kept = Vec::new();
        let taken = kernel::drain_records(channel_fd, 8, cookie, |r| {
            let mut word = [0; 8];
            word.copy_from_slice(&r[..8]);
            kept.push(u64::from_ne_bytes(word));
        });
        for other in kept {
            // There was room for it a moment ago.
            self.raise(channel_fd, other);
        }
        taken
    }

    fn dm_alloc(&mut self, len: u64, align: u64) -> Result<DeviceMemory> {
        if self.ext.cap_mask & cap::DRAM_BLOCK == 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let mut m = MemArgs::alloc(len, align.max(4096), 0);
        kernel::memory(self.accel_fd, &mut m)?;
        let token = m.handle();
        let free = |_: &Errno| {
            if let Err(e) = kernel::memory(self.accel_fd, &mut MemArgs::free(token)) {
                log::warn!("freeing device memory: {e}");
            }
        };
        let mut m = MemArgs::map_device(0, token, 0);
        kernel::memory(self.accel_fd, &mut m).inspect_err(free)?;
        let device = m.device_va();
        let mut block = MemArgs::map_block(device);
        let window = kernel::memory(self.accel_fd, &mut block)
            .and_then(|()| kernel::map_device(self.accel_fd, block.handle(), len as usize));
        let window = window.inspect_err(|e| {
            if let Err(e) = kernel::memory(self.accel_fd, &mut MemArgs::unmap(device)) {
                log::warn!("unmapping device memory: {e}");
            }
            free(e);
        })?;
        Ok(DeviceMemory {
            window,
            device,
            len,
            token,
        })
    }

    fn dm_free(&mut self, dm: DeviceMemory) -> Result<()> {
        kernel::memory(self.accel_fd, &mut MemArgs::unmap(dm.device))?;
        kernel::unmap(dm.window);
        kernel::memory(self.accel_fd, &mut MemArgs::free(dm.token))
    }

    fn poll_event(&mut self) -> Option<NativeEvent> {
        let mut ev = AsyncEventDesc::new_zeroed();
        loop {
            kernel::read_bytes(self.async_fd, ev.as_mut_bytes())
                .filter(|n| *n == size_of::<AsyncEventDesc>())?;
            match ev.event_type {
                event::QP_FATAL | event::QP_REQ_ERR => {
                    let cookie = ev.element;
                    if !self.cookies.contains_key(&cookie) {
                        continue;
                    }
                    let syndrome = self.syndrome(cookie);
                    return Some(NativeEvent::QpError { cookie, syndrome });
                }
                event::PORT_ACTIVE => {
                    return Some(NativeEvent::Port {
                        port: ev.element as u8,
                        up: true,
                    });
                }
                event::PORT_ERR => {
                    return Some(NativeEvent::Port {
                        port: ev.element as u8,
                        up: false,
                    });
                }
                event::GID_CHANGE => {
                    return Some(NativeEvent::Gids {
                        port: ev.element as u8,
                    });
                }
                event::DEVICE_FATAL => return Some(NativeEvent::Fatal),
                _ => {}
            }
        }
    }

    fn take_pending(&mut self) -> bool {
        std::mem::take(&mut self.pending)
    }
}

/// The 64-bit words of a hardware structure.
#[inline]
fn zerocopy_words<const N: usize, T: IntoBytes + zerocopy::Immutable>(t: &T) -> [u64; N] {
    let mut w = [0u64; N];
    for (k, chunk) in t.as_bytes().chunks_exact(8).take(N).enumerate() {
        let mut b = [0u8; 8];
        b.copy_from_slice(chunk);
        w[k] = u64::from_ne_bytes(b);
    }
    w
}
