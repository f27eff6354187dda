//! GAUDI behind the kernel ABI: one kernel context, native QPs with their two rings, one requester and one responder CQ per port.

mod connection;
mod cq;
mod nic;

use std::collections::HashMap;
use std::os::fd::RawFd;

use super::Window;
use super::kernel::{self, Call, Pv};
use super::{IDS_PER_PORT, RING_ENTRIES};
use crate::verbs::types::Result;
use cq::NativeCq;
use kernel_abi::ext::{AllocUcontextRespExt, cap};
use kernel_abi::hbl;
use kernel_abi::uverbs::{self, cmd, device, obj};
use kernel_abi::verbs::qp_attr;
use zerocopy::FromZeros;

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

/// An open that fails half-way leaves nothing behind.
impl Drop for Gaudi {
    fn drop(&mut self) {
        self.close();
    }
}

impl Gaudi {
    /// Brings a context up on a fresh command descriptor.
    pub fn open(cmd_fd: RawFd, accel: u32) -> Result<Gaudi> {
        let accel_fd = kernel::open_accel(accel)?;
        let mut g = Gaudi::with_accel(cmd_fd, accel_fd).inspect_err(|_| kernel::close(accel_fd))?;
        g.set_up()?;
        Ok(g)
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
            kernel::map_device(cmd_fd, ext.arena_handle, ext.arena_size as usize)
                .inspect_err(|_| kernel::close(async_fd))?
        } else {
            kernel::no_window()
        };
        let pv = if ext.cap_mask & cap::PV_DOORBELL != 0 {
            Pv::load(ext.pv_table, ext.pv_cookie)
        } else {
            None
        };
        Ok(Gaudi {
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
        })
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

    /// Why a QP is in the error state; 0 when it is not.
    fn syndrome(&self, cookie: u64) -> u8 {
        let Some(&handle) = self.cookies.get(&cookie) else {
            return 0;
        };
        let mut req = cmd::QueryQpReq::new_zeroed();
        req.qp_handle = handle;
        req.attr_mask = qp_attr::ACCESS_FLAGS;
        let mut resp = cmd::QueryQpResp::new_zeroed();
        match kernel::command(self.cmd_fd, cmd::QUERY_QP, &req, &mut resp) {
            Ok(()) => resp.qp_access_flags as u8,
            Err(_) => 0,
        }
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
        let accel_fd = std::mem::replace(&mut self.accel_fd, -1);
        if accel_fd < 0 {
            return;
        }
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
        kernel::close(accel_fd);
        kernel::unmap(self.arena);
        self.arena = kernel::no_window();
    }
}
