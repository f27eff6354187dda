//! Structs of libibverbs as C lays them out: the public ones of `infiniband/verbs.h` and the private ones of rdma-core's
//! `driver.h`, which no distribution installs. Where releases differ, a struct here is as large as the largest known one and
//! only offsets that hold for all of rdma-core 34..65 have names; the rest is found at load time (`probe`).

use core::ffi::{c_char, c_int, c_void};
use gaudi_verbs::{DeviceAttr, QpCap, Sge, SrqAttr};

/// A C struct of which all-zero bytes are a valid value.
///
/// # Safety
/// Only integers, nullable pointers, arrays of those and libc's pthread types (whose zero value is the initialised default).
pub(crate) unsafe trait Plain: Sized {
    fn zeroed() -> Self {
        // SAFETY: the implementer promises that all-zero bytes are a valid value.
        unsafe { core::mem::zeroed() }
    }
}

macro_rules! plain {
    ($($t:ty),* $(,)?) => { $(
        // SAFETY: integers, raw pointers and pthread objects only.
        unsafe impl Plain for $t {}
    )* };
}

#[repr(C)]
pub(crate) struct IbvDevice {
    pub(crate) _ops: [usize; 2],
    pub(crate) node_type: c_int,
    pub(crate) transport_type: c_int,
    pub(crate) name: [u8; 64],
    pub(crate) dev_name: [u8; 64],
    pub(crate) dev_path: [u8; 256],
    pub(crate) ibdev_path: [u8; 256],
}

#[repr(C)]
pub(crate) struct VerbsDevice {
    pub(crate) device: IbvDevice,
    pub(crate) ops: *const VerbsDeviceOps,
    pub(crate) refcount: c_int,
    pub(crate) entry: [usize; 2],
    pub(crate) sysfs: *mut c_void,
    pub(crate) core_support: u64,
}

/// Called by libibverbs; every pointer stays valid for ever.
#[repr(C)]
pub(crate) struct VerbsDeviceOps {
    pub(crate) name: *const c_char,
    pub(crate) match_min_abi_version: u32,
    pub(crate) match_max_abi_version: u32,
    pub(crate) match_table: *const VerbsMatchEnt,
    pub(crate) static_providers: *const c_void,
    pub(crate) match_device: Option<unsafe extern "C" fn(*mut VerbsSysfsDev) -> bool>,
    pub(crate) alloc_context:
        Option<unsafe extern "C" fn(*mut IbvDevice, c_int, *mut c_void) -> *mut c_void>,
    pub(crate) import_context: Option<unsafe extern "C" fn(*mut IbvDevice, c_int) -> *mut c_void>,
    pub(crate) alloc_device: Option<unsafe extern "C" fn(*mut VerbsSysfsDev) -> *mut VerbsDevice>,
    pub(crate) uninit_device: Option<unsafe extern "C" fn(*mut VerbsDevice)>,
}

/// All zero (kind 0) ends a match table.
#[repr(C)]
pub(crate) struct VerbsMatchEnt {
    pub(crate) driver_data: usize,
    pub(crate) u: u64,
    pub(crate) vendor: u16,
    pub(crate) device: u16,
    pub(crate) kind: u8,
}

/// The head that is the same in all releases (35 inserted `num_ports` further down).
#[repr(C)]
pub(crate) struct VerbsSysfsDev {
    pub(crate) entry: [usize; 2],
    pub(crate) provider_data: *mut c_void,
    pub(crate) match_: *const VerbsMatchEnt,
    pub(crate) flags: u32,
    pub(crate) sysfs_name: [u8; 64],
    pub(crate) sysfs_cdev: u64,
    pub(crate) ibdev_name: [u8; 64],
    pub(crate) ibdev_path: [u8; 256],
}

#[repr(C)]
pub(crate) struct IbvContext {
    pub(crate) device: *mut IbvDevice,
    pub(crate) ops: [usize; 32],
    pub(crate) cmd_fd: c_int,
    pub(crate) async_fd: c_int,
    pub(crate) num_comp_vectors: c_int,
    pub(crate) mutex: libc::pthread_mutex_t,
    pub(crate) abi_compat: *mut c_void,
}

#[repr(C)]
pub(crate) struct IbvCompChannel {
    pub(crate) context: *mut IbvContext,
    pub(crate) fd: c_int,
    pub(crate) refcnt: c_int,
}

#[repr(C)]
pub(crate) struct IbvPd {
    pub(crate) context: *mut IbvContext,
    pub(crate) handle: u32,
}

#[repr(C)]
pub(crate) struct IbvMr {
    pub(crate) context: *mut IbvContext,
    pub(crate) pd: *mut IbvPd,
    pub(crate) addr: *mut c_void,
    pub(crate) length: usize,
    pub(crate) handle: u32,
    pub(crate) lkey: u32,
    pub(crate) rkey: u32,
}

#[repr(C)]
pub(crate) struct VerbsMr {
    pub(crate) mr: IbvMr,
    pub(crate) mr_type: u32,
    pub(crate) access: c_int,
}

#[repr(C)]
pub(crate) struct IbvAh {
    pub(crate) context: *mut IbvContext,
    pub(crate) pd: *mut IbvPd,
    pub(crate) handle: u32,
}

#[repr(C)]
pub(crate) struct IbvCq {
    pub(crate) context: *mut IbvContext,
    pub(crate) channel: *mut IbvCompChannel,
    pub(crate) cq_context: *mut c_void,
    pub(crate) handle: u32,
    pub(crate) cqe: c_int,
    pub(crate) mutex: libc::pthread_mutex_t,
    pub(crate) cond: libc::pthread_cond_t,
    pub(crate) comp_events_completed: u32,
    pub(crate) async_events_completed: u32,
}

/// `struct ibv_cq_ex`, which is also the size of the private `verbs_cq`. Its head is `struct ibv_cq`.
#[repr(C)]
pub(crate) struct IbvCqEx {
    pub(crate) cq: IbvCq,
    pub(crate) comp_mask: u32,
    pub(crate) status: u32,
    pub(crate) wr_id: u64,
    /// `start_poll` .. `read_completion_wallclock_ns`.
    pub(crate) ops: [usize; 18],
}

#[repr(C)]
pub(crate) struct IbvQp {
    pub(crate) context: *mut IbvContext,
    pub(crate) qp_context: *mut c_void,
    pub(crate) pd: *mut IbvPd,
    pub(crate) send_cq: *mut IbvCq,
    pub(crate) recv_cq: *mut IbvCq,
    pub(crate) srq: *mut c_void,
    pub(crate) handle: u32,
    pub(crate) qp_num: u32,
    pub(crate) state: u32,
    pub(crate) qp_type: u32,
    pub(crate) mutex: libc::pthread_mutex_t,
    pub(crate) cond: libc::pthread_cond_t,
    pub(crate) events_completed: u32,
}

#[repr(C)]
pub(crate) struct IbvQpEx {
    pub(crate) qp_base: IbvQp,
    pub(crate) comp_mask: u64,
    pub(crate) wr_id: u64,
    pub(crate) wr_flags: u32,
    /// `wr_atomic_cmp_swp` .. `wr_atomic_write` (44) .. `wr_flush` (45).
    pub(crate) ops: [usize; 22],
}

/// The private `verbs_qp`. Behind `ibv_qp_ex` follow `comp_mask` and `xrcd`, earlier in earlier releases; whether a QP is
/// extended is read there by the library, so the place must be inside the allocation and zero.
#[repr(C)]
pub(crate) struct VerbsQp {
    pub(crate) qp_ex: IbvQpEx,
    pub(crate) tail: [u64; 8],
}

#[repr(C)]
pub(crate) struct IbvQpInitAttr {
    pub(crate) qp_context: *mut c_void,
    pub(crate) send_cq: *mut IbvCq,
    pub(crate) recv_cq: *mut IbvCq,
    pub(crate) srq: *mut c_void,
    pub(crate) cap: QpCap,
    pub(crate) qp_type: u32,
    pub(crate) sq_sig_all: c_int,
}

/// The head of `struct ibv_qp_init_attr` with the fields behind it; the two are laid out alike up to `sq_sig_all`, and
/// `comp_mask` uses the padding.
#[repr(C)]
pub(crate) struct IbvQpInitAttrEx {
    pub(crate) qp_context: *mut c_void,
    pub(crate) send_cq: *mut IbvCq,
    pub(crate) recv_cq: *mut IbvCq,
    pub(crate) srq: *mut c_void,
    pub(crate) cap: QpCap,
    pub(crate) qp_type: u32,
    pub(crate) sq_sig_all: c_int,
    pub(crate) comp_mask: u32,
    pub(crate) pd: *mut IbvPd,
    pub(crate) xrcd: *mut c_void,
    pub(crate) create_flags: u32,
    pub(crate) max_tso_header: u16,
    pub(crate) rwq_ind_tbl: *mut c_void,
    pub(crate) rx_hash_conf: [u64; 3],
    pub(crate) source_qpn: u32,
    pub(crate) send_ops_flags: u64,
}

#[repr(C)]
pub(crate) struct IbvSendWr {
    pub(crate) wr_id: u64,
    pub(crate) next: *mut IbvSendWr,
    pub(crate) sg_list: *const Sge,
    pub(crate) num_sge: c_int,
    pub(crate) opcode: u32,
    pub(crate) send_flags: u32,
    pub(crate) imm_data: u32,
    /// rdma {remote_addr, rkey: u32}, atomic {remote_addr, compare_add, swap, rkey: u32}, ud {ah, remote_qpn, remote_qkey}.
    pub(crate) wr: [u64; 4],
    pub(crate) qp_type: u64,
    pub(crate) bind_or_tso: [u64; 6],
}

#[repr(C)]
pub(crate) struct IbvRecvWr {
    pub(crate) wr_id: u64,
    pub(crate) next: *mut IbvRecvWr,
    pub(crate) sg_list: *const Sge,
    pub(crate) num_sge: c_int,
}

#[repr(C)]
pub(crate) struct IbvSrq {
    pub(crate) context: *mut IbvContext,
    pub(crate) srq_context: *mut c_void,
    pub(crate) pd: *mut IbvPd,
    pub(crate) handle: u32,
    pub(crate) mutex: libc::pthread_mutex_t,
    pub(crate) cond: libc::pthread_cond_t,
    pub(crate) events_completed: u32,
}

/// The private `verbs_srq`.
#[repr(C)]
pub(crate) struct VerbsSrq {
    pub(crate) srq: IbvSrq,
    pub(crate) srq_type: u32,
    pub(crate) xrcd: usize,
    pub(crate) cq: usize,
    pub(crate) srq_num: u32,
}

#[repr(C)]
pub(crate) struct IbvSrqInitAttr {
    pub(crate) srq_context: *mut c_void,
    pub(crate) attr: SrqAttr,
}

#[repr(C)]
pub(crate) struct IbvSrqInitAttrEx {
    pub(crate) srq_context: *mut c_void,
    pub(crate) attr: SrqAttr,
    pub(crate) comp_mask: u32,
    pub(crate) srq_type: u32,
    pub(crate) pd: *mut IbvPd,
    pub(crate) xrcd: *mut c_void,
    pub(crate) cq: *mut IbvCq,
    pub(crate) tm_cap: [u32; 2],
}

/// The private `verbs_xrcd`, whose head is `struct ibv_xrcd`.
#[repr(C)]
pub(crate) struct VerbsXrcd {
    pub(crate) context: *mut IbvContext,
    pub(crate) comp_mask: u32,
    pub(crate) handle: u32,
}

#[repr(C)]
pub(crate) struct IbvXrcdInitAttr {
    pub(crate) comp_mask: u32,
    pub(crate) fd: c_int,
    pub(crate) oflags: c_int,
}

#[repr(C)]
pub(crate) struct IbvQpOpenAttr {
    pub(crate) comp_mask: u32,
    pub(crate) qp_num: u32,
    pub(crate) xrcd: *mut c_void,
    pub(crate) qp_context: *mut c_void,
    pub(crate) qp_type: u32,
}

#[repr(C)]
pub(crate) struct IbvCqInitAttrEx {
    pub(crate) cqe: u32,
    pub(crate) cq_context: *mut c_void,
    pub(crate) channel: *mut IbvCompChannel,
    pub(crate) comp_vector: u32,
    pub(crate) wc_flags: u64,
    pub(crate) comp_mask: u32,
    pub(crate) flags: u32,
    pub(crate) parent_domain: *mut IbvPd,
}

#[repr(C)]
pub(crate) struct IbvModifyCqAttr {
    pub(crate) attr_mask: u32,
    pub(crate) cq_count: u16,
    pub(crate) cq_period: u16,
}

#[repr(C)]
pub(crate) struct IbvTd {
    pub(crate) context: *mut IbvContext,
}

#[repr(C)]
pub(crate) struct IbvParentDomainInitAttr {
    pub(crate) pd: *mut IbvPd,
    pub(crate) td: *mut IbvTd,
    pub(crate) comp_mask: u32,
    pub(crate) alloc: usize,
    pub(crate) free: usize,
    pub(crate) pd_context: *mut c_void,
}

#[repr(C)]
pub(crate) struct IbvMw {
    pub(crate) context: *mut IbvContext,
    pub(crate) pd: *mut IbvPd,
    pub(crate) rkey: u32,
    pub(crate) handle: u32,
    pub(crate) kind: u32,
}

#[repr(C)]
pub(crate) struct IbvMwBindInfo {
    pub(crate) mr: *mut IbvMr,
    pub(crate) addr: u64,
    pub(crate) length: u64,
    pub(crate) access: u32,
}

#[repr(C)]
pub(crate) struct IbvMwBind {
    pub(crate) wr_id: u64,
    pub(crate) send_flags: u32,
    pub(crate) bind_info: IbvMwBindInfo,
}

#[repr(C)]
pub(crate) struct IbvDm {
    pub(crate) context: *mut IbvContext,
    pub(crate) memcpy_to_dm: usize,
    pub(crate) memcpy_from_dm: usize,
    pub(crate) comp_mask: u32,
    pub(crate) handle: u32,
}

#[repr(C)]
pub(crate) struct IbvAllocDmAttr {
    pub(crate) length: usize,
    pub(crate) log_align_req: u32,
    pub(crate) comp_mask: u32,
}

#[repr(C)]
pub(crate) struct IbvDataBuf {
    pub(crate) addr: u64,
    pub(crate) length: usize,
}

#[repr(C)]
pub(crate) struct IbvValuesEx {
    pub(crate) comp_mask: u32,
    /// `struct timespec`
    pub(crate) raw_clock: [i64; 2],
}

#[repr(C)]
pub(crate) struct IbvQueryDeviceExInput {
    pub(crate) comp_mask: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct IbvDeviceAttrEx {
    pub(crate) orig_attr: DeviceAttr,
    pub(crate) comp_mask: u32,
    pub(crate) odp_caps: [u64; 3],
    pub(crate) completion_timestamp_mask: u64,
    pub(crate) hca_core_clock: u64,
    pub(crate) device_cap_flags_ex: u64,
    pub(crate) tso_caps: [u32; 2],
    pub(crate) rss_caps: [u64; 4],
    pub(crate) max_wq_type_rq: u32,
    pub(crate) packet_pacing_caps: [u32; 3],
    pub(crate) raw_packet_caps: u32,
    pub(crate) tm_caps: [u32; 5],
    pub(crate) cq_mod_caps: [u16; 2],
    pub(crate) max_dm_size: u64,
    pub(crate) pci_atomic_caps: [u16; 3],
    pub(crate) xrc_odp_caps: u32,
    pub(crate) phys_port_cnt_ex: u32,
}

plain!(
    VerbsDevice,
    IbvPd,
    IbvMr,
    VerbsMr,
    IbvAh,
    IbvTd,
    IbvMw,
    IbvDm,
    IbvCq,
    IbvCqEx,
    IbvQp,
    IbvQpEx,
    VerbsQp,
    VerbsSrq,
    VerbsXrcd,
    IbvDeviceAttrEx
);

/// `enum ibv_create_cq_wc_flags`.
pub(crate) mod wc_ex {
    pub(crate) const BYTE_LEN: u64 = 1 << 0;
    pub(crate) const IMM: u64 = 1 << 1;
    pub(crate) const QP_NUM: u64 = 1 << 2;
    pub(crate) const SRC_QP: u64 = 1 << 3;
    pub(crate) const SLID: u64 = 1 << 4;
    pub(crate) const SL: u64 = 1 << 5;
    pub(crate) const DLID_PATH_BITS: u64 = 1 << 6;
    pub(crate) const TIMESTAMP: u64 = 1 << 7;
    pub(crate) const WALLCLOCK: u64 = 1 << 11;
    /// `IBV_WC_STANDARD_FLAGS`
    pub(crate) const STANDARD: u64 = 0x7f;
}

/// `enum ibv_mr_type` of driver.h: only ordinary MRs (0) have an address whose pages the library tracks over fork.
pub(crate) mod mr_type {
    pub(crate) const NO_ADDRESS: u32 = 1;
    pub(crate) const DMABUF: u32 = 3;
}

/// `enum ibv_qp_init_attr_mask`.
pub(crate) mod qp_init {
    pub(crate) const PD: u32 = 1 << 0;
    pub(crate) const XRCD: u32 = 1 << 1;
    pub(crate) const CREATE_FLAGS: u32 = 1 << 2;
    pub(crate) const SEND_OPS_FLAGS: u32 = 1 << 6;
}

/// `enum ibv_qp_type`, those that need other objects than RC.
pub(crate) mod qpt {
    pub(crate) const UD: u32 = 4;
    pub(crate) const XRC_INI: u32 = 9;
    pub(crate) const XRC_TGT: u32 = 10;
}

/// `enum ibv_srq_init_attr_mask`.
pub(crate) mod srq_init {
    pub(crate) const TYPE: u32 = 1 << 0;
    pub(crate) const PD: u32 = 1 << 1;
    pub(crate) const XRCD: u32 = 1 << 2;
    pub(crate) const CQ: u32 = 1 << 3;
    pub(crate) const KNOWN: u32 = TYPE | PD | XRCD | CQ;
}

/// `enum ibv_srq_type`.
pub(crate) mod srq_type {
    pub(crate) const BASIC: u32 = 0;
    pub(crate) const XRC: u32 = 1;
}

/// `enum ibv_wr_opcode`, those whose `wr` union is `atomic`.
pub(crate) mod wr {
    pub(crate) const BIND_MW: u32 = 8;
    pub(crate) const ATOMIC_WRITE: u32 = 15;
    pub(crate) const ATOMIC_CMP_AND_SWP: u32 = 5;
    pub(crate) const ATOMIC_FETCH_AND_ADD: u32 = 6;
}

// The private structs cannot be compared with an installed header: rdma-core 44..65, driver.h.
const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<VerbsDevice>() == 712);
    assert!(offset_of!(VerbsDevice, ops) == 664 && offset_of!(VerbsDevice, sysfs) == 696);
    assert!(offset_of!(VerbsDevice, core_support) == 704);
    assert!(size_of::<VerbsDeviceOps>() == 72 && offset_of!(VerbsDeviceOps, alloc_device) == 56);
    assert!(size_of::<VerbsMatchEnt>() == 24 && offset_of!(VerbsMatchEnt, kind) == 20);
    assert!(
        offset_of!(VerbsSysfsDev, ibdev_name) == 112
            && offset_of!(VerbsSysfsDev, ibdev_path) == 176
    );
    assert!(size_of::<VerbsMr>() == 56 && offset_of!(VerbsMr, access) == 52);
    assert!(size_of::<IbvCqEx>() == 288);
    assert!(size_of::<VerbsSrq>() == 160 && offset_of!(VerbsSrq, srq_num) == 152);
    assert!(size_of::<VerbsXrcd>() == 16 && offset_of!(VerbsXrcd, handle) == 12);
    assert!(size_of::<IbvQpEx>() == 360 && size_of::<VerbsQp>() >= 376);
};
