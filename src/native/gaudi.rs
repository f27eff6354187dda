//! GAUDI behind the kernel ABI: one kernel context, native QPs with their two rings, one requester and one responder CQ per port.

use std::collections::HashMap;
use std::os::fd::RawFd;

use super::kernel::{self, Call, Pv};
use super::{
    Completion, Connect, DeviceMemory, Features, IDS_PER_PORT, MAILBOX_BYTES, MAILBOX_STRIDE,
    NativeEvent, NativeQp, Nic, RING_ENTRIES, Window, Write, mailbox_address,
};
use crate::verbs::types::{Errno, Result};
use kernel_abi::accel::{MemArgs, mem_flag};
use kernel_abi::ext::{AllocUcontextRespExt, MEM_ARENA, cap};
use kernel_abi::gaudi2::{Cqe, Doorbell, RecvWqe, SendWqe, comp_type, fifo_free, opcode, umr};
use kernel_abi::hbl;
use kernel_abi::uverbs::{self, AsyncEventDesc, cmd, device, obj};
use kernel_abi::verbs::{event, qp_attr, qps, qpt};
use zerocopy::{FromZeros, IntoBytes};

/// Entries of a native CQ (native dossier 7.2: at most 8192).
const CQ_ENTRIES: u32 = 8192;

/// A native CQ of one port.
#[derive(Clone, Copy, Debug)]
struct NativeCq {
    id: u32,
    ring: Window,
    regs: Window,
    regs_offset: usize,
    ci: u32,
    /// CI that the device knows.
    told: u32,
}

#[derive(Debug)]
struct Port {
    requester: NativeCq,
    responder: NativeCq,
    /// Doorbell FIFO, for devices without the paravirtual one.
    fifo: Option<Fifo>,
}

#[derive(Debug)]
struct Fifo {
    ci: Window,
    regs: Window,
    regs_offset: usize,
    pi: u32,
}

pub struct Gaudi {
    cmd_fd: RawFd,
    accel_fd: RawFd,
    async_fd: RawFd,
    ext: AllocUcontextRespExt,
    arena: Window,
    pv: Option<Pv>,
    pd: u32,
    cqs: [u32; 2],
    ports: Vec<Port>,
    /// Kernel handles by cookie, to ask for the syndrome of an event.
    cookies: HashMap<u64, u32>,
    /// Mailbox blocks of the arena that were used before.
    free_blocks: Vec<u64>,
    next_block: u64,
    channels: HashMap<RawFd, RawFd>,
    pending: bool,
}

impl Gaudi {
    /// Brings a context up on a fresh command descriptor.
    pub fn open(cmd_fd: RawFd, accel: u32) -> Result<Gaudi> {
        let accel_fd = kernel::open_accel(accel)?;
        Gaudi::with_accel(cmd_fd, accel_fd).inspect_err(|_| kernel::close(accel_fd))
    }

    fn with_accel(cmd_fd: RawFd, accel_fd: RawFd) -> Result<Gaudi> {
        let req = hbl::AllocUcontextReq {
            ports_mask: 0,
            core_fd: accel_fd,
            use_dvs: 1,
            reserved: [0; 3],
        };
        let mut ext = AllocUcontextRespExt::default();
        let (mut vectors, mut support) = (0u32, 0u64);
        Call::new(obj::DEVICE, device::GET_CONTEXT)
            .output(device::get_context::NUM_COMP_VECTORS, &mut vectors)
            .output(device::get_context::CORE_SUPPORT, &mut support)
            .input(uverbs::UHW_IN, &req)
            .output(uverbs::UHW_OUT, &mut ext)
            .run(cmd_fd)?;
        let mut alloc = Call::new(obj::ASYNC_EVENT, uverbs::async_event::ALLOC)
            .handle(uverbs::async_event::alloc::FD_HANDLE, 0);
        alloc.run(cmd_fd)?;
        let async_fd =
            kernel::move_high(alloc.answered(uverbs::async_event::alloc::FD_HANDLE) as RawFd);
        kernel::set_nonblocking(async_fd);
        let arena = if ext.cap_mask & cap::ARENA != 0 {
            kernel::map_device(cmd_fd, ext.arena_handle, ext.arena_size as usize)?
        } else {
            kernel::no_window()
        };
        let pv = if ext.cap_mask & cap::PV_DOORBELL != 0 {
            Pv::load(ext.pv_table, ext.pv_cookie)
        } else {
            None
        };
        let mut g = Gaudi {
            cmd_fd,
            accel_fd,
            async_fd,
            ext,
            arena,
            pv,
            pd: 0,
            cqs: [0; 2],
            ports: Vec::new(),
            cookies: HashMap::new(),
            free_blocks: Vec::new(),
            next_block: 0,
            channels: HashMap::new(),
            pending: false,
        };
        g.set_up()?;
        Ok(g)
    }

    /// PD, WQ arrays of every port, CQs, FIFOs.
    fn set_up(&mut self) -> Result<()> {
        let mut pd = cmd::AllocPdResp::new_zeroed();
        let mut hw_pd = hbl::AllocPdResp::new_zeroed();
        kernel::command_uhw(
            self.cmd_fd,
            cmd::ALLOC_PD,
            &cmd::AllocPdReq::new_zeroed(),
            &mut pd,
            &kernel::Empty::default(),
            &mut hw_pd,
        )?;
        self.pd = pd.pd_handle;
        let n = self.port_count();
        for port in 1..=n {
            let mut p = hbl::SetPortExIn::new_zeroed();
            p.port_num = u32::from(port);
            p.wq_arr_attr[0].max_num_of_wqs = IDS_PER_PORT;
            p.wq_arr_attr[0].max_num_of_wqes_in_wq = RING_ENTRIES;
            p.wq_arr_attr[0].mem_id = hbl::mem_id::HOST;
            p.wq_arr_attr[0].swq_granularity = hbl::wq_granularity::B32;
            Call::new(hbl::obj::SET_PORT_EX, hbl::set_port_ex::SET_PORT_EX)
                .input(hbl::set_port_ex::IN, &p)
                .run(self.cmd_fd)?;
        }
        let requester = self.create_cq(0)?;
        let responder = self.create_cq(1)?;
        for (i, (requester, responder)) in requester.into_iter().zip(responder).enumerate() {
            let fifo = if self.pv.is_some() {
                None
            } else {
                Some(self.create_fifo(i as u32 + 1)?)
            };
            self.ports.push(Port {
                requester,
                responder,
                fifo,
            });
        }
        Ok(())
    }

    fn port_count(&self) -> u8 {
        (64 - self.ext.ports_mask.leading_zeros())
            .saturating_sub(1)
            .clamp(1, 24) as u8
    }

    /// Memory behind a handle: part of the arena mapping where there is one.
    fn map_handle(&self, handle: u64, len: usize) -> Result<Window> {
        let (start, size) = (self.ext.arena_handle, self.ext.arena_size);
        if !self.arena.is_empty()
            && handle >= start
            && handle
                .checked_add(len as u64)
                .is_some_and(|e| e <= start + size)
        {
            return Ok(self.arena.part((handle - start) as usize, len));
        }
        kernel::map_device(self.cmd_fd, handle, len)
    }

    /// A NATIVE CQ: one hardware CQ on each port of the context.
    fn create_cq(&mut self, which: usize) -> Result<Vec<NativeCq>> {
        use uverbs::cq::{CREATE, create};
        let req = hbl::CreateCqReq {
            port_num: 0,
            cq_type: hbl::cq_type::QP,
            flags: hbl::cq_flag::NATIVE,
            reserved: [0; 2],
        };
        let mut resp = [hbl::CreateCqResp::new_zeroed(); 1 + 25];
        let mut granted = 0u32;
        let mut c = Call::new(obj::CQ, CREATE)
            .handle(create::HANDLE, 0)
            .value(create::CQE, 4, u64::from(CQ_ENTRIES))
            .value(create::USER_HANDLE, 8, which as u64)
            .value(create::COMP_VECTOR, 4, 0)
            .value(create::FLAGS, 4, 0)
            .output(create::RESP_CQE, &mut granted)
            .input(uverbs::UHW_IN, &req)
            .output(uverbs::UHW_OUT, &mut resp);
        c.run(self.cmd_fd)?;
        self.cqs[which] = c.answered(create::HANDLE) as u32;
        let mut v = Vec::new();
        for port in 1..=usize::from(self.port_count()) {
            // The first element answers for the CQ as a whole, the array by IB port follows.
            let r = resp[1 + port];
            let ring = self.map_handle(r.mem_handle, r.cq_size as usize)?;
            if ring.len() < (CQ_ENTRIES as usize) * size_of::<Cqe>() {
                return Err(Errno::EPROTO);
            }
            let regs = if self.pv.is_some() {
                kernel::no_window()
            } else {
                kernel::map_device(self.cmd_fd, r.regs_handle, 4096)?
            };
            v.push(NativeCq {
                id: r.cq_num,
                ring,
                regs,
                regs_offset: r.regs_offset as usize,
                ci: 0,
                told: 0,
            });
        }
        Ok(v)
    }

    fn create_fifo(&mut self, port: u32) -> Result<Fifo> {
        use hbl::usr_fifo::{CREATE, create};
        let mut i = hbl::CreateUsrFifoIn::new_zeroed();
        i.port_num = port;
        let mut o = hbl::CreateUsrFifoOut::new_zeroed();
        Call::new(hbl::obj::USR_FIFO, CREATE)
            .input(create::IN, &i)
            .output(create::OUT, &mut o)
            .handle(create::HANDLE, 0)
            .run(self.cmd_fd)?;
        Ok(Fifo {
            ci: kernel::map_device(self.cmd_fd, o.ci_handle, 4096)?,
            regs: kernel::map_device(self.cmd_fd, o.regs_handle, 4096)?,
            regs_offset: o.regs_offset as usize,
            pi: 0,
        })
    }

    fn modify(
        &self,
        handle: u32,
        core: &mut cmd::ModifyQpReq,
        hw: &hbl::ModifyQpReq,
    ) -> Result<hbl::ModifyQpResp> {
        core.qp_handle = handle;
        let mut req = cmd::ExModifyQpReq::new_zeroed();
        req.base = *core;
        let mut resp = cmd::ExModifyQpResp::new_zeroed();
        let mut out = hbl::ModifyQpResp::new_zeroed();
        kernel::command_uhw(
            self.cmd_fd,
            cmd::EX_MODIFY_QP,
            &req,
            &mut resp,
            hw,
            &mut out,
        )?;
        Ok(out)
    }

    fn to_init(&self, handle: u32, port: u8) -> Result<(u32, u32)> {
        let mut core = cmd::ModifyQpReq::new_zeroed();
        core.attr_mask =
            qp_attr::STATE | qp_attr::PKEY_INDEX | qp_attr::PORT | qp_attr::ACCESS_FLAGS;
        core.qp_state = qps::INIT as u8;
        core.port_num = port;
        core.qp_access_flags = kernel_abi::verbs::access::REMOTE_WRITE;
        let out = self.modify(handle, &mut core, &native_attributes())?;
        let generation = if self.ext.cap_mask & cap::QP_GENERATION != 0 {
            out.reserved
        } else {
            0
        };
        Ok((out.qp_num & 0xff_ffff, generation))
    }

    fn to_reset(&self, handle: u32) -> Result<()> {
        let mut core = cmd::ModifyQpReq::new_zeroed();
        core.attr_mask = qp_attr::STATE;
        core.qp_state = qps::RESET as u8;
        self.modify(handle, &mut core, &native_attributes())?;
        Ok(())
    }

    /// A mailbox: a block of the arena, or memory of our own that is mapped like a program's. Token: offset + 1, or address.
    fn new_mailbox(&mut self, at: u64) -> Result<(Window, u64)> {
        if self.arena.is_empty() {
            let w = kernel::map_anonymous(MAILBOX_STRIDE as usize)?;
            let mut m = MemArgs::map_host(
                w.address(),
                at,
                MAILBOX_STRIDE,
                mem_flag::USERPTR | mem_flag::FORCE_HINT,
            );
            if let Err(e) = kernel::memory(self.accel_fd, &mut m) {
                kernel::unmap(w);
                return Err(e);
            }
            return Ok((w, w.address()));
        }
        let off = match self.free_blocks.pop() {
            Some(o) => o,
            None => {
                let o = self.next_block;
                if o + MAILBOX_BYTES as u64 > self.ext.arena_usable {
                    return Err(Errno::ENOMEM);
                }
                self.next_block += MAILBOX_BYTES as u64;
                o
            }
        };
        let mut m = MemArgs::map_host(
            off,
            at,
            MAILBOX_BYTES as u64,
            mem_flag::USERPTR | mem_flag::FORCE_HINT | MEM_ARENA,
        );
        if let Err(e) = kernel::memory(self.accel_fd, &mut m) {
            self.free_blocks.push(off);
            return Err(e);
        }
        let w = self.arena.part(off as usize, MAILBOX_BYTES);
        w.zero(0, crate::rc::msg::STAGE_ACK);
        Ok((w, off + 1))
    }

    fn drop_mailbox(&mut self, qp: &mut NativeQp) {
        let token = std::mem::take(&mut qp.mailbox_token);
        if token == 0 {
            return;
        }
        let mut m = MemArgs::unmap(mailbox_address(qp.port, qp.id));
        if let Err(e) = kernel::memory(self.accel_fd, &mut m) {
            log::warn!("unmapping the mailbox of QP {:#x}: {e}", qp.number());
            return; // still reachable for the device: never used again
        }
        if self.arena.is_empty() {
            if let Some(base) = std::ptr::NonNull::new(token as *mut u8) {
                kernel::unmap_at(base, MAILBOX_STRIDE as usize);
            }
        } else {
            self.free_blocks.push(token - 1);
        }
    }

    fn drop_rings(&mut self, qp: &mut NativeQp) {
        if self.arena.is_empty() {
            kernel::unmap(qp.swq);
            kernel::unmap(qp.rwq);
        }
        qp.swq = kernel::no_window();
        qp.rwq = kernel::no_window();
    }

    fn try_connect(&mut self, qp: &mut NativeQp, to: &Connect) -> Result<()> {
        let mut hw = native_attributes();
        hw.local_key = to.local_key;
        hw.remote_key = to.remote_key;
        hw.priority = 1;
        let mut core = cmd::ModifyQpReq::new_zeroed();
        core.attr_mask = qp_attr::STATE
            | qp_attr::AV
            | qp_attr::PATH_MTU
            | qp_attr::DEST_QPN
            | qp_attr::RQ_PSN
            | qp_attr::MAX_DEST_RD_ATOMIC
            | qp_attr::MIN_RNR_TIMER;
        core.qp_state = qps::RTR as u8;
        core.dest.dgid = to.dgid.unwrap_or_default();
        core.dest.is_global = u8::from(to.dgid.is_some());
        core.dest.dlid = to.dlid;
        core.dest.sgid_index = to.sgid_index;
        core.dest.hop_limit = to.hop_limit;
        core.dest.traffic_class = to.traffic_class;
        core.dest.flow_label = to.flow_label;
        core.dest.sl = to.sl;
        core.dest.port_num = qp.port;
        core.dest_qp_num = to.dest_id;
        // GAUDI has no 256 and 512.
        core.path_mtu = to.path_mtu.max(3) as u8;
        self.modify(qp.handle, &mut core, &hw)?;
        let mut core = cmd::ModifyQpReq::new_zeroed();
        core.attr_mask = qp_attr::STATE
            | qp_attr::TIMEOUT
            | qp_attr::RETRY_CNT
            | qp_attr::RNR_RETRY
            | qp_attr::SQ_PSN
            | qp_attr::MAX_QP_RD_ATOMIC;
        core.qp_state = qps::RTS as u8;
        core.timeout = 13;
        core.retry_cnt = 7;
        core.rnr_retry = 7;
        let out = self.modify(qp.handle, &mut core, &hw)?;
        qp.swq = self.map_handle(out.swq_mem_handle, out.swq_mem_size as usize)?;
        qp.rwq = self.map_handle(out.rwq_mem_handle, out.rwq_mem_size as usize)?;
        let fits = qp.swq.len() >= RING_ENTRIES as usize * size_of::<SendWqe>()
            && qp.rwq.len() >= RING_ENTRIES as usize * size_of::<RecvWqe>();
        if fits { Ok(()) } else { Err(Errno::EPROTO) }
    }

    fn tell_ci(pv: &Option<Pv>, port: u8, cq: &mut NativeCq) {
        cq.told = cq.ci;
        match pv {
            Some(pv) => pv.cq_ci(port, cq.id, cq.ci),
            None => cq
                .regs
                .store64(cq.regs_offset, u64::from(cq.ci) << 32 | u64::from(cq.id)),
        }
    }

    #[inline]
    fn poll(pv: &Option<Pv>, port: u8, cq: &mut NativeCq) -> Option<Completion> {
        let off = (cq.ci % CQ_ENTRIES) as usize * size_of::<Cqe>();
        let w0 = cq.ring.load64(off);
        if w0 as u32 >> 31 == 0 {
            if cq.told != cq.ci {
                Gaudi::tell_ci(pv, port, cq);
            }
            return None;
        }
        let w1 = cq.ring.load64(off + 8);
        // Software clears the valid bit and nothing else.
        cq.ring.store32(off, w0 as u32 & 0x7fff_ffff);
        cq.ci = cq.ci.wrapping_add(1);
        if cq.ci.wrapping_sub(cq.told) >= CQ_ENTRIES / 4 {
            Gaudi::tell_ci(pv, port, cq);
        }
        Some(Completion {
            port,
            id: w0 as u32 & 0xff_ffff,
            slot: (w0 >> 32) as u32,
            tag: w1 as u32,
        })
    }

    /// The port as the kernel describes it.
    pub fn query_port(&self, port: u8) -> Result<cmd::QueryPortResp> {
        let mut resp = uverbs::QueryPortRespEx::new_zeroed();
        Call::new(obj::DEVICE, device::QUERY_PORT)
            .value(device::query_port::PORT_NUM, 1, u64::from(port))
            .output(device::query_port::RESP, &mut resp)
            .run(self.cmd_fd)?;
        Ok(resp.legacy)
    }

    /// The device as the kernel describes it.
    pub fn query_device(&self) -> Result<cmd::QueryDeviceResp> {
        let mut resp = cmd::QueryDeviceResp::new_zeroed();
        kernel::command(
            self.cmd_fd,
            cmd::QUERY_DEVICE,
            &cmd::QueryDeviceReq::new_zeroed(),
            &mut resp,
        )?;
        Ok(resp)
    }

    /// Bulk work without the engine's lock.
    pub fn bulk(&self) -> Option<Pv> {
        self.pv
    }

    /// The event word, where armed CQs and device events are announced.
    pub fn event_word(&self) -> Option<kernel::Word> {
        let off = self.ext.event_handle.checked_sub(self.ext.arena_handle)?;
        if self.ext.cap_mask & cap::CQ_NOTIFY == 0 || self.arena.is_empty() {
            return None;
        }
        kernel::Word::of(&self.arena, off as usize)
    }

    /// Gives everything back that the kernel object tree does not take down with the descriptor.
    pub fn close(&mut self) {
        for fd in self.channels.drain().map(|(_, w)| w) {
            kernel::close(fd);
        }
        let gone = |object, method, attr, h| {
            if let Err(e) = Call::new(object, method).handle(attr, h).run(self.cmd_fd) {
                log::debug!("closing: object {object} handle {h}: {e}");
            }
        };
        for h in self.cqs {
            let mut events = cmd::DestroyCqResp::new_zeroed();
            let r = Call::new(obj::CQ, uverbs::cq::DESTROY)
                .handle(uverbs::cq::destroy::HANDLE, h)
                .output(uverbs::cq::destroy::RESP, &mut events)
                .run(self.cmd_fd);
            if let Err(e) = r {
                log::debug!("closing: CQ {h}: {e}");
            }
        }
        gone(
            obj::PD,
            uverbs::pd::DESTROY,
            uverbs::pd::destroy::HANDLE,
            self.pd,
        );
        kernel::close(self.async_fd);
        kernel::close(self.accel_fd);
        kernel::unmap(self.arena);
        self.arena = kernel::no_window();
    }
}

fn native_attributes() -> hbl::ModifyQpReq {
    let mut hw = hbl::ModifyQpReq::new_zeroed();
    hw.wq_type = hbl::wq_type::WRITE;
    hw.wq_granularity = hbl::wq_granularity::B32;
    hw.priority = 1;
    hw
}

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
        }
    }

    fn now(&self) -> u64 {
        kernel::now_ns()
    }

    fn random(&mut self) -> u64 {
        kernel::random()
    }

    fn port_ipv4(&self, port: u8) -> Result<[u8; 4]> {
        // The table is short; entries that are not there fail.
        for index in 0..256u32 {
            let mut entry = uverbs::GidEntry::new_zeroed();
            let asked = Call::new(obj::DEVICE, device::QUERY_GID_ENTRY)
                .value(device::query_gid_entry::PORT, 4, u64::from(port))
                .value(device::query_gid_entry::GID_INDEX, 4, u64::from(index))
                .value(device::query_gid_entry::FLAGS, 4, 0)
                .output(device::query_gid_entry::RESP_ENTRY, &mut entry)
                .run(self.cmd_fd);
            match asked {
                Ok(()) => {
                    if let Some(a) = crate::ud::grh::mapped(&entry.gid) {
                        return Ok(a);
                    }
                }
                Err(Errno(libc::ENODATA)) => {}
                Err(_) => break,
            }
        }
        Err(Errno::EOPNOTSUPP)
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
        let (win, token) = self.new_mailbox(mailbox_address(qp.port, qp.id))?;
        qp.mailbox_token = token;
        qp.pi = 0;
        qp.ci = 0;
        qp.notified = 0;
        qp.rung = 0;
        if let Err(e) = self.try_connect(qp, to) {
            // A failed transition leaves the kernel's QP in RESET (native dossier 2.6).
            self.drop_mailbox(qp);
            self.drop_rings(qp);
            qp.ready = false;
            self.qp_init(qp, qp.port)?;
            return Err(e);
        }
        qp.connected = true;
        Ok(win)
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
        super::user::prepare();
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
        there
    }

    fn stalled_us(&self, qp: &NativeQp) -> u64 {
        match &self.pv {
            Some(pv) if qp.connected => pv.stalled_us(qp.port, qp.id),
            _ => 0,
        }
    }

    fn raise(&mut self, channel_fd: i32, cookie: u64) -> bool {
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
            Ok(()) => true,
            Err(Errno::EAGAIN) => false,
            Err(e) => {
                log::warn!("completion event into channel {channel_fd}: {e}");
                // Not for want of room: trying again would not help.
                true
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
                    let Some(&handle) = self.cookies.get(&cookie) else {
                        continue;
                    };
                    let mut req = cmd::QueryQpReq::new_zeroed();
                    req.qp_handle = handle;
                    req.attr_mask = qp_attr::ACCESS_FLAGS;
                    let mut resp = cmd::QueryQpResp::new_zeroed();
                    let syndrome =
                        match kernel::command(self.cmd_fd, cmd::QUERY_QP, &req, &mut resp) {
                            Ok(()) => resp.qp_access_flags as u8,
                            Err(_) => 0,
                        };
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
                event::DEVICE_FATAL => return Some(NativeEvent::Fatal),
                _ => {}
            }
        }
    }

    fn take_pending(&mut self) -> bool {
        std::mem::take(&mut self.pending)
    }
}

fn destroy(cmd_fd: RawFd, handle: u32) -> Result<()> {
    use uverbs::qp::{DESTROY, destroy};
    let mut events = cmd::DestroyQpResp::new_zeroed();
    Call::new(obj::QP, DESTROY)
        .handle(destroy::HANDLE, handle)
        .output(destroy::RESP, &mut events)
        .run(cmd_fd)
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
