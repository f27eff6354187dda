//! A stand-in for `rdma_rxe`, for the stock rxe provider: every object, no data path.
//!
//! It shows that the core speaks the kernel's dialects: that provider was written against a kernel, not against us.

mod queue;

use super::driver::{CqInit, Driver, Keys, MrInit, QpInit, SrqInit, SrqMade, Udata};
use super::file::Inode;
use super::objects::Kind;
use super::usermem;
use crate::tree::gid_table;
use gaudi_softnic::{Errno, Result, device_guid};
use kernel_abi::cmd::{
    AhAttr, ExQueryDeviceResp, ModifyQpReq, QueryDeviceResp, QueryPortResp, QueryQpResp,
};
use kernel_abi::uverbs::QpCap;
use kernel_abi::verbs::{
    atomic_cap, device_cap, link_layer, modify_qp_is_ok, mtu, mw_type, phys_state, port_cap,
    port_state, qp_attr, qps, qpt, rereg, speed, srq_attr, srq_type, width,
};
use queue::{Extent, Memory};
use std::collections::HashMap;
use std::os::fd::{OwnedFd, RawFd};

const MAX_QP_WR: u32 = 1 << 14;
const MAX_SGE: u32 = 32;
const MAX_INLINE: u32 = 512;
const MAX_CQE: u32 = 32767;
const MAX_SRQ_WR: u32 = 1 << 14;
/// Sizes from rdma/rdma_user_rxe.h: the fixed parts of a send and a receive WQE, one SGE, a CQE.
const SEND_WQE: u32 = 208;
const RECV_WQE: u32 = 40;
const SGE: u32 = 16;
const CQE: u32 = 64;
/// Numbers below belong to the special QPs.
const FIRST_QPN: u32 = 17;

struct Qp {
    qp_type: u32,
    send: Extent,
    recv: Option<Extent>,
    attr: QueryQpResp,
    groups: Vec<[u8; 16]>,
}

struct Srq {
    queue: Extent,
    max_wr: u32,
    max_sge: u32,
    limit: u32,
}

pub(super) struct Rxe {
    device: u32,
    ports: u32,
    memory: Memory,
    cqs: HashMap<u32, Extent>,
    qps: HashMap<u32, Qp>,
    srqs: HashMap<u32, Srq>,
    mrs: HashMap<u32, (MrInit, Keys)>,
    /// Changes with each key, so that a reused index gives another key.
    variant: u8,
}

impl Rxe {
    pub(super) fn new(device: u32, ports: u32) -> Result<Rxe> {
        Ok(Rxe {
            device,
            ports,
            memory: Memory::create()?,
            cqs: HashMap::new(),
            qps: HashMap::new(),
            srqs: HashMap::new(),
            mrs: HashMap::new(),
            variant: 0,
        })
    }

    pub(super) fn inode(&self) -> Inode {
        self.memory.inode()
    }

    pub(super) fn dup_fd(&self) -> Result<OwnedFd> {
        self.memory.dup_fd()
    }

    pub(super) fn own_fd(&self) -> RawFd {
        self.memory.raw_fd()
    }

    fn key(&mut self, handle: u32) -> u32 {
        self.variant = self.variant.wrapping_add(1);
        (handle + 1) << 8 | u32::from(self.variant)
    }

    fn qp(&self, handle: u32) -> Result<&Qp> {
        self.qps.get(&handle).ok_or(Errno::EINVAL)
    }
}

impl Driver for Rxe {
    fn device(&self) -> u32 {
        self.device
    }

    fn ports(&self) -> u32 {
        self.ports
    }

    fn has_srq(&self) -> bool {
        true
    }

    fn has_post(&self) -> bool {
        true
    }

    fn alloc_ucontext(&mut self, _udata: &Udata) -> Result<()> {
        Ok(())
    }

    fn query_device(&self, _udata: &Udata) -> Result<ExQueryDeviceResp> {
        let flags = device_cap::BAD_PKEY_CNTR
            | device_cap::BAD_QKEY_CNTR
            | device_cap::CURR_QP_STATE_MOD
            | device_cap::SRQ_RESIZE
            | device_cap::N_NOTIFY_CQ
            | device_cap::MEM_WINDOW
            | device_cap::MEM_WINDOW_TYPE_2B
            | device_cap::MEM_MGT_EXTENSIONS;
        let guid = device_guid(self.device).to_be_bytes();
        let base = QueryDeviceResp {
            node_guid: guid,
            sys_image_guid: guid,
            max_mr_size: u64::MAX,
            page_size_cap: 0xffff_f000,
            vendor_id: 0x00ff_ffff,
            max_qp: 1 << 16,
            max_qp_wr: MAX_QP_WR,
            device_cap_flags: flags as u32,
            max_sge: MAX_SGE,
            max_sge_rd: MAX_SGE,
            max_cq: 1 << 16,
            max_cqe: MAX_CQE,
            max_mr: 1 << 16,
            max_pd: 1 << 16,
            max_qp_rd_atom: 128,
            max_res_rd_atom: 128 << 16,
            max_qp_init_rd_atom: 128,
            atomic_cap: atomic_cap::HCA,
            max_mw: 1 << 16,
            max_mcast_grp: 8192,
            max_mcast_qp_attach: 56,
            max_total_mcast_qp_attach: 8192 * 56,
            max_ah: 1 << 16,
            max_srq: 1 << 16,
            max_srq_wr: MAX_SRQ_WR,
            max_srq_sge: MAX_SGE,
            max_pkeys: 64,
            local_ca_ack_delay: 15,
            phys_port_cnt: self.ports as u8,
            ..QueryDeviceResp::default()
        };
        Ok(ExQueryDeviceResp {
            base,
            device_cap_flags_ex: flags,
            ..ExQueryDeviceResp::default()
        })
    }

    fn query_port(&self, port: u32) -> Result<QueryPortResp> {
        if !(1..=self.ports).contains(&port) {
            return Err(Errno::EINVAL);
        }
        Ok(QueryPortResp {
            port_cap_flags: port_cap::CM_SUP | port_cap::IP_BASED_GIDS,
            max_msg_sz: 0x80_0000,
            gid_tbl_len: gid_table(),
            pkey_tbl_len: 1,
            state: port_state::ACTIVE,
            max_mtu: mtu::MTU_4096,
            active_mtu: mtu::MTU_1024,
            max_vl_num: 1,
            active_width: width::X1,
            active_speed: speed::SDR,
            phys_state: phys_state::LINK_UP,
            link_layer: link_layer::ETHERNET,
            ..QueryPortResp::default()
        })
    }

    fn alloc_pd(&mut self, _handle: u32, _udata: &Udata) -> Result<()> {
        Ok(())
    }

    fn create_cq(&mut self, handle: u32, init: &CqInit, udata: &Udata) -> Result<u32> {
        if init.flags != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        if !(1..=MAX_CQE).contains(&init.cqe) {
            return Err(Errno::EINVAL);
        }
        let (queue, cqe) = self.memory.queue(init.cqe, CQE)?;
        if let Err(e) = udata.respond(&queue.mminfo()) {
            self.memory.free(queue);
            return Err(e);
        }
        self.cqs.insert(handle, queue);
        Ok(cqe)
    }

    fn resize_cq(&mut self, handle: u32, cqe: u32, udata: &Udata) -> Result<u32> {
        if !(1..=MAX_CQE).contains(&cqe) {
            return Err(Errno::EINVAL);
        }
        let (queue, cqe) = self.memory.queue(cqe, CQE)?;
        if let Err(e) = udata.respond(&queue.mminfo()) {
            self.memory.free(queue);
            return Err(e);
        }
        if let Some(old) = self.cqs.insert(handle, queue) {
            self.memory.free(old);
        }
        Ok(cqe)
    }

    fn create_qp(&mut self, handle: u32, init: &QpInit, udata: &Udata) -> Result<(u32, QpCap)> {
        if !matches!(init.qp_type, qpt::RC | qpt::UC | qpt::UD) || init.create_flags != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let mut cap = init.cap;
        let within = cap.max_send_wr <= MAX_QP_WR
            && cap.max_recv_wr <= MAX_QP_WR
            && cap.max_send_sge <= MAX_SGE
            && cap.max_recv_sge <= MAX_SGE
            && cap.max_inline_data <= MAX_INLINE;
        if !within {
            return Err(Errno::EINVAL);
        }
        let data = (cap.max_send_sge * SGE).max(cap.max_inline_data);
        cap.max_inline_data = data.min(MAX_INLINE);
        let (send, max_send_wr) = self.memory.queue(cap.max_send_wr, SEND_WQE + data)?;
        cap.max_send_wr = max_send_wr;
        let recv = if init.srq.is_some() {
            None
        } else {
            match self
                .memory
                .queue(cap.max_recv_wr, RECV_WQE + cap.max_recv_sge * SGE)
            {
                Ok((queue, max_recv_wr)) => {
                    cap.max_recv_wr = max_recv_wr;
                    Some(queue)
                }
                Err(e) => {
                    self.memory.free(send);
                    return Err(e);
                }
            }
        };
        let mut answer = [0; 32];
        let (first, second) = answer.split_at_mut(16);
        first.copy_from_slice(&recv.as_ref().map_or([0; 16], Extent::mminfo));
        second.copy_from_slice(&send.mminfo());
        let attr = QueryQpResp {
            max_send_wr: cap.max_send_wr,
            max_recv_wr: cap.max_recv_wr,
            max_send_sge: cap.max_send_sge,
            max_recv_sge: cap.max_recv_sge,
            max_inline_data: cap.max_inline_data,
            sq_sig_all: u8::from(init.sq_sig_all),
            ..QueryQpResp::default()
        };
        let told = udata.respond(&answer);
        self.qps.insert(
            handle,
            Qp {
                qp_type: init.qp_type,
                send,
                recv,
                attr,
                groups: Vec::new(),
            },
        );
        if let Err(e) = told {
            self.destroy(Kind::Qp, handle)?;
            return Err(e);
        }
        Ok((FIRST_QPN + handle, cap))
    }

    fn modify_qp(&mut self, handle: u32, r: &ModifyQpReq, _udata: &Udata) -> Result<()> {
        let qp = self.qps.get_mut(&handle).ok_or(Errno::EINVAL)?;
        let mask = r.attr_mask;
        let has = |bit: u32| mask & bit != 0;
        let cur = if has(qp_attr::CUR_STATE) {
            r.cur_qp_state
        } else {
            qp.attr.qp_state
        };
        let next = if has(qp_attr::STATE) { r.qp_state } else { cur };
        if !modify_qp_is_ok(cur.into(), next.into(), qp.qp_type, mask) {
            return Err(Errno::EINVAL);
        }
        let known_mtu = (mtu::MTU_256..=mtu::MTU_4096).contains(&r.path_mtu);
        if has(qp_attr::PATH_MTU) && !known_mtu || has(qp_attr::PKEY_INDEX) && r.pkey_index != 0 {
            return Err(Errno::EINVAL);
        }
        let a = &mut qp.attr;
        let mut take = |bit: u32, set: &mut dyn FnMut(&mut QueryQpResp)| {
            if has(bit) {
                set(a);
            }
        };
        take(qp_attr::ACCESS_FLAGS, &mut |a| {
            a.qp_access_flags = r.qp_access_flags
        });
        take(qp_attr::PKEY_INDEX, &mut |a| a.pkey_index = r.pkey_index);
        take(qp_attr::PORT, &mut |a| a.port_num = r.port_num);
        take(qp_attr::QKEY, &mut |a| a.qkey = r.qkey);
        take(qp_attr::AV, &mut |a| a.dest = r.dest);
        take(qp_attr::ALT_PATH, &mut |a| a.alt_dest = r.alt_dest);
        take(qp_attr::PATH_MTU, &mut |a| a.path_mtu = r.path_mtu);
        take(qp_attr::TIMEOUT, &mut |a| a.timeout = r.timeout);
        take(qp_attr::RETRY_CNT, &mut |a| a.retry_cnt = r.retry_cnt);
        take(qp_attr::RNR_RETRY, &mut |a| a.rnr_retry = r.rnr_retry);
        take(qp_attr::RQ_PSN, &mut |a| a.rq_psn = r.rq_psn & 0xff_ffff);
        take(qp_attr::SQ_PSN, &mut |a| a.sq_psn = r.sq_psn & 0xff_ffff);
        take(qp_attr::MAX_QP_RD_ATOMIC, &mut |a| {
            a.max_rd_atomic = r.max_rd_atomic
        });
        take(qp_attr::MAX_DEST_RD_ATOMIC, &mut |a| {
            a.max_dest_rd_atomic = r.max_dest_rd_atomic
        });
        take(qp_attr::MIN_RNR_TIMER, &mut |a| {
            a.min_rnr_timer = r.min_rnr_timer
        });
        take(qp_attr::PATH_MIG_STATE, &mut |a| {
            a.path_mig_state = r.path_mig_state
        });
        take(qp_attr::DEST_QPN, &mut |a| a.dest_qp_num = r.dest_qp_num);
        if u32::from(next) == qps::RESET && has(qp_attr::STATE) {
            qp.attr.dest_qp_num = 0;
        }
        qp.attr.qp_state = next;
        qp.attr.cur_qp_state = next;
        Ok(())
    }

    fn query_qp(&self, handle: u32) -> Result<QueryQpResp> {
        Ok(self.qp(handle)?.attr)
    }

    fn attach_mcast(&mut self, handle: u32, gid: [u8; 16]) -> Result<()> {
        let qp = self.qps.get_mut(&handle).ok_or(Errno::EINVAL)?;
        if qp.qp_type != qpt::UD || gid[0] != 0xff {
            return Err(Errno::EINVAL);
        }
        if !qp.groups.contains(&gid) {
            if qp.groups.len() >= 56 {
                return Err(Errno::ENOMEM);
            }
            qp.groups.push(gid);
        }
        Ok(())
    }

    fn detach_mcast(&mut self, handle: u32, gid: [u8; 16]) -> Result<()> {
        let qp = self.qps.get_mut(&handle).ok_or(Errno::EINVAL)?;
        let at = qp
            .groups
            .iter()
            .position(|found| *found == gid)
            .ok_or(Errno::EINVAL)?;
        qp.groups.swap_remove(at);
        Ok(())
    }

    fn create_srq(&mut self, handle: u32, init: &SrqInit, udata: &Udata) -> Result<SrqMade> {
        if init.srq_type != srq_type::BASIC {
            return Err(Errno::EOPNOTSUPP);
        }
        if !(1..=MAX_SRQ_WR).contains(&init.max_wr)
            || init.max_sge > MAX_SGE
            || init.limit > init.max_wr
        {
            return Err(Errno::EINVAL);
        }
        let max_sge = init.max_sge.max(1);
        let (queue, max_wr) = self.memory.queue(init.max_wr, RECV_WQE + max_sge * SGE)?;
        let mut answer = [0; 24];
        answer[..16].copy_from_slice(&queue.mminfo());
        answer[16..20].copy_from_slice(&handle.to_ne_bytes());
        if let Err(e) = udata.respond(&answer) {
            self.memory.free(queue);
            return Err(e);
        }
        self.srqs.insert(
            handle,
            Srq {
                queue,
                max_wr,
                max_sge,
                limit: init.limit,
            },
        );
        Ok(SrqMade {
            max_wr,
            max_sge,
            number: handle,
        })
    }

    fn modify_srq(
        &mut self,
        handle: u32,
        mask: u32,
        max_wr: u32,
        limit: u32,
        udata: &Udata,
    ) -> Result<()> {
        if mask & !(srq_attr::MAX_WR | srq_attr::LIMIT) != 0 {
            return Err(Errno::EINVAL);
        }
        let srq = self.srqs.get_mut(&handle).ok_or(Errno::EINVAL)?;
        if mask & srq_attr::MAX_WR != 0 {
            if !(1..=MAX_SRQ_WR).contains(&max_wr) || max_wr < srq.limit {
                return Err(Errno::EINVAL);
            }
            let (queue, granted) = self.memory.queue(max_wr, RECV_WQE + srq.max_sge * SGE)?;
            // The provider passes the address where it wants to hear of the new queue.
            let address: u64 = udata.request();
            if let Err(e) = usermem::write(address, &queue.mminfo()) {
                self.memory.free(queue);
                return Err(e);
            }
            self.memory.free(std::mem::replace(&mut srq.queue, queue));
            srq.max_wr = granted;
        }
        if mask & srq_attr::LIMIT != 0 {
            if limit > srq.max_wr {
                return Err(Errno::EINVAL);
            }
            srq.limit = limit;
        }
        Ok(())
    }

    fn query_srq(&self, handle: u32) -> Result<(u32, u32, u32)> {
        self.srqs
            .get(&handle)
            .map(|srq| (srq.max_wr, srq.max_sge, srq.limit))
            .ok_or(Errno::EINVAL)
    }

    fn create_ah(&mut self, handle: u32, _attr: &AhAttr, udata: &Udata) -> Result<()> {
        // Number zero would send the provider to the host's neighbour tables.
        let mut answer = [0; 8];
        answer[..4].copy_from_slice(&(handle + 1).to_ne_bytes());
        udata.respond(&answer)
    }

    fn reg_mr(&mut self, handle: u32, init: &MrInit) -> Result<Keys> {
        if init.length > 0 {
            for address in [init.start, init.start + (init.length - 1)] {
                usermem::read(address, &mut [0])?;
            }
        }
        let key = self.key(handle);
        self.mrs.insert(handle, (*init, (key, key)));
        Ok((key, key))
    }

    fn rereg_mr(&mut self, handle: u32, flags: u32, init: &MrInit) -> Result<Keys> {
        let key = self.key(handle);
        let (old, keys) = self.mrs.get_mut(&handle).ok_or(Errno::EINVAL)?;
        if flags & rereg::TRANSLATION != 0 {
            *old = MrInit {
                access: old.access,
                ..*init
            };
            *keys = (key, key);
        }
        if flags & rereg::ACCESS != 0 {
            old.access = init.access;
        }
        Ok(*keys)
    }

    fn query_mr(&self, handle: u32) -> Result<(Keys, u64, u64)> {
        self.mrs
            .get(&handle)
            .map(|(init, keys)| (*keys, init.length, init.hca_va))
            .ok_or(Errno::EINVAL)
    }

    fn alloc_mw(&mut self, handle: u32, kind: u8) -> Result<u32> {
        if !matches!(kind, mw_type::TYPE_1 | mw_type::TYPE_2) {
            return Err(Errno::EINVAL);
        }
        Ok(self.key(handle))
    }

    fn destroy(&mut self, kind: Kind, handle: u32) -> Result<()> {
        match kind {
            Kind::Cq => {
                if let Some(queue) = self.cqs.remove(&handle) {
                    self.memory.free(queue);
                }
            }
            Kind::Qp => {
                if !self.qp(handle)?.groups.is_empty() {
                    return Err(Errno::EBUSY);
                }
                if let Some(qp) = self.qps.remove(&handle) {
                    self.memory.free(qp.send);
                    qp.recv
                        .into_iter()
                        .for_each(|queue| self.memory.free(queue));
                }
            }
            Kind::Srq => {
                if let Some(srq) = self.srqs.remove(&handle) {
                    self.memory.free(srq.queue);
                }
            }
            Kind::Mr => {
                self.mrs.remove(&handle);
            }
            _ => (),
        }
        Ok(())
    }

    fn close(&mut self, _in_use: bool) {}
}
