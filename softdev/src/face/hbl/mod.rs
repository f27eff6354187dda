//! The `hbl` RDMA driver as posted, on the soft NIC: checks and errors in its order, with our extensions where they are on.

mod cq;
mod path;
mod port;
mod qp;

use super::accel::AccelEntry;
use super::driver::{CqInit, Driver, QpInit, Udata};
use super::events::EventHub;
use super::objects::Kind;
use super::registry::{self, Entry};
use crate::netdev;
use crate::tree::{FIRMWARE, gid_table};
use gaudi_softnic::{Errno, FabricOptions, NicContext, RdmaFile, Result, device_guid};
use kernel_abi::accel::gaudi2_map;
use kernel_abi::cmd::{
    ExQueryDeviceResp, ModifyQpReq, QueryDeviceResp, QueryPortResp, QueryQpResp,
};
use kernel_abi::ext::cap;
use kernel_abi::hbl;
use kernel_abi::uverbs::QpCap;
use kernel_abi::verbs::{device_cap, link_layer, mtu, phys_state, port_state, speed, width};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use zerocopy::IntoBytes;

pub(super) struct Hbl {
    rdma: Arc<RdmaFile>,
    options: FabricOptions,
    hub: Arc<EventHub>,
    nic: Option<Arc<NicContext>>,
    /// The program's driver knows the address of the context.
    address_told: bool,
    accel: Option<Arc<AccelEntry>>,
    pd: Option<u32>,
    cqs: BTreeMap<u32, cq::Cq>,
    qps: BTreeMap<u32, qp::Qp>,
    /// Numbers of verbs QPs, which are not those of the hardware.
    qp_numbers: BTreeSet<u32>,
    /// All numbers below it are taken.
    qp_low: u32,
    /// Handle to port and hardware number.
    fifos: BTreeMap<u32, (u32, u32)>,
    /// Handle to port: there is one entry for users per port.
    encaps: BTreeMap<u32, u32>,
}

impl Hbl {
    pub(super) fn new(rdma: Arc<RdmaFile>, options: FabricOptions, hub: Arc<EventHub>) -> Hbl {
        Hbl {
            rdma,
            options,
            hub,
            nic: None,
            address_told: false,
            accel: None,
            pd: None,
            cqs: BTreeMap::new(),
            qps: BTreeMap::new(),
            qp_numbers: BTreeSet::new(),
            qp_low: 0,
            fifos: BTreeMap::new(),
            encaps: BTreeMap::new(),
        }
    }

    fn nic(&self) -> Result<&Arc<NicContext>> {
        self.nic.as_ref().ok_or(Errno::EINVAL)
    }

    /// EINVAL for a port that the context does not have.
    fn check_port(&self, port: u32) -> Result<()> {
        let mask = self.nic()?.ports_mask();
        let known = (1..=self.options.ports).contains(&port) && mask >> port & 1 != 0;
        if known { Ok(()) } else { Err(Errno::EINVAL) }
    }

    /// EPERM as well, before the port was set up.
    fn check_ready(&self, port: u32) -> Result<()> {
        self.check_port(port)?;
        if self.nic()?.port_ready(port) {
            Ok(())
        } else {
            Err(Errno::EPERM)
        }
    }

    fn context_ports(&self) -> Result<Vec<u32>> {
        let mask = self.nic()?.ports_mask();
        Ok((1..=self.options.ports)
            .filter(|port| mask >> port & 1 != 0)
            .collect())
    }

    /// The compute device behind the number that the program passed.
    fn core_file(&self, fd: i32) -> Result<Arc<AccelEntry>> {
        if registry::inode_of(fd).is_none() {
            return Err(Errno::EBADF);
        }
        match registry::entry(fd) {
            Some(Entry::Accel(accel)) if accel.device() == self.rdma.device() => Ok(accel),
            // Another file: wrong if there is a compute context it could have been, else there is none to join.
            _ => {
                let open = registry::face().is_some_and(|face| face.accel_open(self.rdma.device()));
                Err(if open { Errno::EINVAL } else { Errno::ESRCH })
            }
        }
    }

    fn open_context(&mut self, request: &hbl::AllocUcontextReq, udata: &Udata) -> Result<()> {
        let all = (1u64 << (self.options.ports + 1)) - 2;
        if request.ports_mask & !all != 0 {
            return Err(Errno::EINVAL);
        }
        let accel = self.core_file(request.core_fd)?;
        accel.bind()?;
        let nic = match self.rdma.open_context(
            request.ports_mask,
            Some(accel.file().clone()),
            self.hub.clone(),
        ) {
            Ok(nic) => nic,
            Err(e) => {
                accel.unbind();
                return Err(e);
            }
        };
        self.hub.bind(&nic);
        self.nic = Some(nic.clone());
        self.accel = Some(accel);
        let ready = if request.use_dvs == 0 {
            self.set_all_ports()
        } else {
            Ok(())
        };
        let mut ext = nic.ext();
        if netdev::bound() {
            ext.cap_mask &= !(cap::PORT_IPV4 | cap::LID_PATH);
        }
        let answer = ext.as_bytes();
        // The posted kernel knows the first sixteen bytes only.
        let known = if self.options.strict {
            size_of::<hbl::AllocUcontextResp>()
        } else {
            answer.len()
        };
        self.address_told = known.min(udata.out.len()) > size_of::<hbl::AllocUcontextResp>();
        let told = ready.and_then(|()| udata.respond(answer.get(..known).unwrap_or_default()));
        if told.is_err() {
            self.close_context(false);
        }
        told
    }

    fn set_all_ports(&self) -> Result<()> {
        let (wqs, wqes) = (hbl::DEFAULT_WQS, hbl::DEFAULT_WQES);
        for port in self.context_ports()? {
            self.nic()?
                .set_port_ex(port, wqs, wqes, hbl::wq_granularity::B32, false, false)?;
        }
        Ok(())
    }

    /// `in_use`: the descriptor was closed under a driver that has not given up its objects. Its threads may call the device's functions with
    /// the address of this context for as long as the process lives, so that it stays, closed.
    fn close_context(&mut self, in_use: bool) {
        if let Some(nic) = self.nic.take() {
            nic.close();
            if in_use && self.address_told {
                log::warn!("the device's descriptor was closed while it was in use");
                std::mem::forget(nic);
            }
        }
        if let Some(accel) = self.accel.take() {
            accel.unbind();
        }
    }
}

/// The largest MTU of IBTA whose packets fit a frame, with the longest headers (IPv6, UDP, BTH, RETH and atomics, ICRC).
fn roce_mtu(frame: u32) -> u8 {
    const HEADERS: u32 = 40 + 8 + 12 + 16 + 28 + 4;
    match frame.saturating_sub(HEADERS) {
        4096.. => mtu::MTU_4096,
        2048.. => mtu::MTU_2048,
        1024.. => mtu::MTU_1024,
        512.. => mtu::MTU_512,
        _ => mtu::MTU_256,
    }
}

impl Driver for Hbl {
    fn device(&self) -> u32 {
        self.rdma.device()
    }

    fn ports(&self) -> u32 {
        self.options.ports
    }

    fn is_hbl(&self) -> bool {
        true
    }

    fn alloc_ucontext(&mut self, udata: &Udata) -> Result<()> {
        self.open_context(&udata.request(), udata)
    }

    fn query_device(&self, udata: &Udata) -> Result<ExQueryDeviceResp> {
        if !udata.input.is_empty() || udata.out.len != 0 {
            return Err(Errno::EINVAL);
        }
        let flags = device_cap::RAW_MULTI
            | device_cap::CHANGE_PHY_PORT
            | device_cap::CURR_QP_STATE_MOD
            | device_cap::SHUTDOWN_PORT
            | device_cap::PORT_ACTIVE_EVENT
            | device_cap::RC_RNR_NAK_GEN
            | device_cap::N_NOTIFY_CQ;
        let guid = device_guid(self.rdma.device()).to_be_bytes();
        let dram = self
            .accel
            .as_ref()
            .map_or(gaudi2_map::HBM_SIZE, |accel| accel.file().dram_size());
        let [major, minor, sub] = FIRMWARE;
        let base = QueryDeviceResp {
            fw_ver: (u64::from(major) << 32) | (u64::from(minor) << 16) | u64::from(sub),
            node_guid: guid,
            sys_image_guid: guid,
            max_mr_size: dram,
            page_size_cap: 4096,
            vendor_id: hbl::VENDOR_ID,
            vendor_part_id: hbl::DEVICE_ID_GAUDI2,
            hw_ver: 1,
            max_qp: hbl::MAX_QPS,
            max_qp_wr: hbl::MAX_QP_WR,
            device_cap_flags: flags as u32,
            max_sge: hbl::MAX_SGE,
            max_cq: 1,
            max_cqe: hbl::MAX_CQE,
            max_mr: 1,
            max_pd: 1,
            max_raw_ipv6_qp: 1,
            max_raw_ethy_qp: 1,
            max_pkeys: 1,
            phys_port_cnt: self.options.ports as u8,
            ..QueryDeviceResp::default()
        };
        Ok(ExQueryDeviceResp {
            base,
            device_cap_flags_ex: flags,
            ..ExQueryDeviceResp::default()
        })
    }

    fn has_lids(&self) -> bool {
        !self.options.strict && !netdev::bound()
    }

    fn query_port(&self, port: u32) -> Result<QueryPortResp> {
        if !(1..=self.options.ports).contains(&port) {
            return Err(Errno::EINVAL);
        }
        let bound = netdev::port(self.options.ports, self.rdma.device(), port);
        let up = bound.as_ref().is_none_or(|p| p.up);
        let active_mtu = bound.map_or(mtu::MTU_4096, |p| roce_mtu(p.mtu));
        Ok(QueryPortResp {
            max_msg_sz: hbl::MAX_MSG_SIZE,
            gid_tbl_len: gid_table(),
            pkey_tbl_len: 1,
            // The posted driver has none (see `ext::cap::LID_PATH`).
            lid: if self.has_lids() {
                gaudi_softnic::port_lid(self.rdma.device(), port)
            } else {
                0
            },
            state: if up {
                port_state::ACTIVE
            } else {
                port_state::DOWN
            },
            // The 8192 of the hardware saturates; the loopback netdev carries more than 4096.
            max_mtu: mtu::MTU_4096,
            active_mtu,
            active_width: width::X2,
            active_speed: speed::HDR,
            phys_state: if up {
                phys_state::LINK_UP
            } else {
                phys_state::DISABLED
            },
            link_layer: link_layer::ETHERNET,
            ..QueryPortResp::default()
        })
    }

    /// One PD is all there is: one address space.
    fn alloc_pd(&mut self, handle: u32, udata: &Udata) -> Result<()> {
        if self.pd.is_some() {
            return Err(Errno::ESRCH);
        }
        udata.respond(
            hbl::AllocPdResp {
                pdn: 1,
                reserved: 0,
            }
            .as_bytes(),
        )?;
        self.pd = Some(handle);
        Ok(())
    }

    fn create_cq(&mut self, handle: u32, init: &CqInit, udata: &Udata) -> Result<u32> {
        self.new_cq(handle, init, udata)
    }

    fn create_qp(&mut self, handle: u32, init: &QpInit, _udata: &Udata) -> Result<(u32, QpCap)> {
        self.new_qp(handle, init)
    }

    fn modify_qp(&mut self, handle: u32, request: &ModifyQpReq, udata: &Udata) -> Result<()> {
        self.change_qp(handle, request, udata)
    }

    fn query_qp(&self, handle: u32) -> Result<QueryQpResp> {
        self.describe_qp(handle)
    }

    fn destroy(&mut self, kind: Kind, handle: u32) -> Result<()> {
        match kind {
            Kind::Pd => self.pd = None,
            Kind::Cq => self.free_cq(handle)?,
            Kind::Qp => self.free_qp(handle)?,
            Kind::UsrFifo => {
                if let Some(&(port, fifo)) = self.fifos.get(&handle) {
                    self.nic()?.fifo_destroy(port, fifo)?;
                    self.fifos.remove(&handle);
                }
            }
            Kind::Encap => {
                self.encaps.remove(&handle);
            }
            _ => (),
        }
        Ok(())
    }

    fn create_usr_fifo(
        &mut self,
        handle: u32,
        request: &hbl::CreateUsrFifoIn,
    ) -> Result<hbl::CreateUsrFifoOut> {
        self.new_fifo(handle, request)
    }

    fn set_port_ex(&mut self, request: &hbl::SetPortExIn) -> Result<()> {
        self.set_port(request)
    }

    fn hbl_query_port(&self, port: u32) -> Result<hbl::QueryPortOut> {
        self.describe_port(port)
    }

    fn create_encap(
        &mut self,
        handle: u32,
        request: &hbl::CreateEncapIn,
    ) -> Result<hbl::CreateEncapOut> {
        self.new_encap(handle, request)
    }

    fn close(&mut self, in_use: bool) {
        self.close_context(in_use);
    }
}
