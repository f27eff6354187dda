//! What a driver does below the uverbs core: two of them exist, `hbl` and a stand-in for `rdma_rxe`.
//!
//! The core keeps handles, references and events; a driver keeps its own state by handle. A verb that a driver does not
//! implement is EOPNOTSUPP, as in the kernel.

use super::objects::Kind;
use super::usermem::UserOut;
use crate::netdev;
use gaudi_softnic::{Errno, GidType, Result};
use kernel_abi::cmd::{AhAttr, ExQueryDeviceResp, ModifyQpReq, QueryPortResp, QueryQpResp};
use kernel_abi::hbl;
use kernel_abi::uverbs::{GidEntry, QpCap};
use kernel_abi::verbs::gid_type;
use zerocopy::{FromBytes, IntoBytes};

/// A driver's own data beside a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Udata {
    pub(crate) input: Vec<u8>,
    pub(crate) out: UserOut,
}

impl Udata {
    /// A shorter request is extended with zeroes, of a longer one the known part is taken.
    pub(crate) fn request<T: FromBytes + IntoBytes>(&self) -> T {
        prefix(&self.input)
    }

    pub(crate) fn respond(&self, answer: &[u8]) -> Result<()> {
        self.out.put_prefix(answer)
    }
}

/// The leading bytes as a struct, zero-extended.
pub(crate) fn prefix<T: FromBytes + IntoBytes>(bytes: &[u8]) -> T {
    let mut value = T::new_zeroed();
    let into = value.as_mut_bytes();
    let n = into.len().min(bytes.len());
    if let (Some(into), Some(from)) = (into.get_mut(..n), bytes.get(..n)) {
        into.copy_from_slice(from);
    }
    value
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CqInit {
    pub(crate) cqe: u32,
    pub(crate) flags: u32,
    pub(crate) user_handle: u64,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct QpInit {
    pub(crate) qp_type: u32,
    pub(crate) cap: QpCap,
    pub(crate) send_cq: Option<u32>,
    pub(crate) recv_cq: Option<u32>,
    pub(crate) srq: Option<u32>,
    pub(crate) sq_sig_all: bool,
    pub(crate) create_flags: u32,
    pub(crate) user_handle: u64,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SrqInit {
    pub(crate) max_wr: u32,
    pub(crate) max_sge: u32,
    pub(crate) limit: u32,
    pub(crate) srq_type: u32,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SrqMade {
    pub(crate) max_wr: u32,
    pub(crate) max_sge: u32,
    pub(crate) number: u32,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MrInit {
    pub(crate) start: u64,
    pub(crate) length: u64,
    pub(crate) hca_va: u64,
    pub(crate) access: u32,
}

/// `lkey` and `rkey`.
pub(crate) type Keys = (u32, u32);

const NO: Errno = Errno::EOPNOTSUPP;

pub(crate) trait Driver: Send {
    fn device(&self) -> u32;
    /// Ports have LIDs, and a connected QP's path may do without a GRH (`kernel_abi::ext::cap::LID_PATH`).
    fn has_lids(&self) -> bool {
        false
    }
    fn ports(&self) -> u32;
    /// Whether the driver's own ioctl objects exist.
    fn is_hbl(&self) -> bool {
        false
    }
    fn has_srq(&self) -> bool {
        false
    }
    /// Whether commands of the data path (doorbell, notify) are taken.
    fn has_post(&self) -> bool {
        false
    }
    fn comp_vectors(&self) -> u32 {
        1
    }
    fn alloc_ucontext(&mut self, udata: &Udata) -> Result<()>;
    fn query_device(&self, udata: &Udata) -> Result<ExQueryDeviceResp>;
    fn query_port(&self, port: u32) -> Result<QueryPortResp>;
    fn alloc_pd(&mut self, handle: u32, udata: &Udata) -> Result<()>;
    fn create_cq(&mut self, handle: u32, init: &CqInit, udata: &Udata) -> Result<u32>;
    fn resize_cq(&mut self, _handle: u32, _cqe: u32, _udata: &Udata) -> Result<u32> {
        Err(NO)
    }
    fn create_qp(&mut self, handle: u32, init: &QpInit, udata: &Udata) -> Result<(u32, QpCap)>;
    fn modify_qp(&mut self, handle: u32, request: &ModifyQpReq, udata: &Udata) -> Result<()>;
    fn query_qp(&self, handle: u32) -> Result<QueryQpResp>;
    fn attach_mcast(&mut self, _qp: u32, _gid: [u8; 16]) -> Result<()> {
        Err(NO)
    }
    fn detach_mcast(&mut self, _qp: u32, _gid: [u8; 16]) -> Result<()> {
        Err(NO)
    }
    fn create_srq(&mut self, _handle: u32, _init: &SrqInit, _udata: &Udata) -> Result<SrqMade> {
        Err(NO)
    }
    fn modify_srq(
        &mut self,
        _handle: u32,
        _mask: u32,
        _max_wr: u32,
        _limit: u32,
        _udata: &Udata,
    ) -> Result<()> {
        Err(NO)
    }
    /// max_wr, max_sge, limit
    fn query_srq(&self, _handle: u32) -> Result<(u32, u32, u32)> {
        Err(NO)
    }
    fn create_ah(&mut self, _handle: u32, _attr: &AhAttr, _udata: &Udata) -> Result<()> {
        Err(NO)
    }
    fn reg_mr(&mut self, _handle: u32, _init: &MrInit) -> Result<Keys> {
        Err(NO)
    }
    fn rereg_mr(&mut self, _handle: u32, _flags: u32, _init: &MrInit) -> Result<Keys> {
        Err(NO)
    }
    /// keys, length, iova
    fn query_mr(&self, _handle: u32) -> Result<(Keys, u64, u64)> {
        Err(NO)
    }
    fn alloc_mw(&mut self, _handle: u32, _mw_type: u8) -> Result<u32> {
        Err(NO)
    }
    fn destroy(&mut self, kind: Kind, handle: u32) -> Result<()>;

    // The hbl driver's objects.
    fn create_usr_fifo(
        &mut self,
        _handle: u32,
        _request: &hbl::CreateUsrFifoIn,
    ) -> Result<hbl::CreateUsrFifoOut> {
        Err(NO)
    }
    fn set_port_ex(&mut self, _request: &hbl::SetPortExIn) -> Result<()> {
        Err(NO)
    }
    fn hbl_query_port(&self, _port: u32) -> Result<hbl::QueryPortOut> {
        Err(NO)
    }
    fn create_encap(
        &mut self,
        _handle: u32,
        _request: &hbl::CreateEncapIn,
    ) -> Result<hbl::CreateEncapOut> {
        Err(NO)
    }

    /// The last descriptor is gone; every object has been destroyed already.
    fn close(&mut self, in_use: bool);
}

/// A slot of a port's GID table; `None` when it is empty.
pub(crate) fn gid_entry(ports: u32, device: u32, port: u32, index: u32) -> Option<GidEntry> {
    let (gid, kind, netdev_ifindex) = netdev::gid(ports, device, port, index)?;
    let gid_type = match kind {
        GidType::RoceV1 => gid_type::ROCE_V1,
        GidType::RoceV2 => gid_type::ROCE_V2,
    };
    Some(GidEntry {
        gid,
        gid_index: index,
        port_num: port,
        gid_type,
        netdev_ifindex,
    })
}
