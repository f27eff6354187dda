//! A native connection: kernel states, mailbox and rings.

use super::Gaudi;
use crate::native::kernel::{self, Call};
use crate::native::{
    Connect, MAILBOX_BYTES, MAILBOX_STRIDE, NativeQp, RING_ENTRIES, Window, mailbox_address,
};
use crate::rc::msg;
use crate::verbs::types::{Errno, Result};
use kernel_abi::accel::{MemArgs, mem_flag};
use kernel_abi::ext::{MEM_ARENA, cap};
use kernel_abi::gaudi2::{RecvWqe, SendWqe};
use kernel_abi::hbl;
use kernel_abi::uverbs::{self, cmd, obj};
use kernel_abi::verbs::{access, qp_attr, qps};
use std::os::fd::RawFd;
use zerocopy::FromZeros;

impl Gaudi {
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

    pub(super) fn to_init(&self, handle: u32, port: u8) -> Result<(u32, u32)> {
        let mut core = cmd::ModifyQpReq::new_zeroed();
        core.attr_mask =
            qp_attr::STATE | qp_attr::PKEY_INDEX | qp_attr::PORT | qp_attr::ACCESS_FLAGS;
        core.qp_state = qps::INIT as u8;
        core.port_num = port;
        core.qp_access_flags = access::REMOTE_WRITE;
        // The driver's word for exhausted numbers; programs know ENOMEM for that (ibv_create_qp(3)).
        let out = self
            .modify(handle, &mut core, &native_attributes())
            .map_err(|e| if e == Errno::EBUSY { Errno::ENOMEM } else { e })?;
        let generation = if self.ext.cap_mask & cap::QP_GENERATION != 0 {
            out.reserved
        } else {
            0
        };
        Ok((out.qp_num & 0xff_ffff, generation))
    }

    pub(super) fn to_reset(&self, handle: u32) -> Result<()> {
        let mut core = cmd::ModifyQpReq::new_zeroed();
        core.attr_mask = qp_attr::STATE;
        core.qp_state = qps::RESET as u8;
        self.modify(handle, &mut core, &native_attributes())?;
        Ok(())
    }

    /// A mailbox: a block of the arena, or memory of our own that is mapped like a program's. Token: offset + 1, or address.
    pub(super) fn new_mailbox(&mut self, at: u64) -> Result<(Window, u64)> {
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
        w.zero(0, msg::STAGE_ACK);
        Ok((w, off + 1))
    }

    pub(super) fn drop_mailbox(&mut self, qp: &mut NativeQp) {
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

    pub(super) fn drop_rings(&mut self, qp: &mut NativeQp) {
        if self.arena.is_empty() {
            kernel::unmap(qp.swq);
            kernel::unmap(qp.rwq);
        }
        qp.swq = kernel::no_window();
        qp.rwq = kernel::no_window();
    }

    pub(super) fn try_connect(&mut self, qp: &mut NativeQp, to: &Connect) -> Result<()> {
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
}

fn native_attributes() -> hbl::ModifyQpReq {
    let mut hw = hbl::ModifyQpReq::new_zeroed();
    hw.wq_type = hbl::wq_type::WRITE;
    hw.wq_granularity = hbl::wq_granularity::B32;
    hw.priority = 1;
    hw
}

pub(super) fn destroy(cmd_fd: RawFd, handle: u32) -> Result<()> {
    use uverbs::qp::{DESTROY, destroy};
    let mut events = cmd::DestroyQpResp::new_zeroed();
    Call::new(obj::QP, DESTROY)
        .handle(destroy::HANDLE, handle)
        .output(destroy::RESP, &mut events)
        .run(cmd_fd)
}
