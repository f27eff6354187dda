//! What crosses the edge between the C ABI and the verbs objects. Types marked "as C" have the layout of their namesake in
//! `infiniband/verbs.h` and may be cast by the provider; the provider's tests compare them with the installed header.

/// Positive errno.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    pub const EPERM: Errno = Errno(libc::EPERM);
    pub const ENOENT: Errno = Errno(libc::ENOENT);
    pub const EIO: Errno = Errno(libc::EIO);
    pub const EAGAIN: Errno = Errno(libc::EAGAIN);
    pub const ENOMEM: Errno = Errno(libc::ENOMEM);
    pub const EFAULT: Errno = Errno(libc::EFAULT);
    pub const EBUSY: Errno = Errno(libc::EBUSY);
    pub const ENODEV: Errno = Errno(libc::ENODEV);
    pub const EINVAL: Errno = Errno(libc::EINVAL);
    pub const ENOSPC: Errno = Errno(libc::ENOSPC);
    pub const ENOSYS: Errno = Errno(libc::ENOSYS);
    pub const EPROTO: Errno = Errno(libc::EPROTO);
    pub const EOPNOTSUPP: Errno = Errno(libc::EOPNOTSUPP);
    pub const ETIMEDOUT: Errno = Errno(libc::ETIMEDOUT);

    /// The calling thread's errno.
    pub fn last() -> Errno {
        Errno(
            std::io::Error::last_os_error()
                .raw_os_error()
                .unwrap_or(libc::EIO),
        )
    }
}

impl std::fmt::Display for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

pub type Result<T> = core::result::Result<T, Errno>;

/// `struct ibv_sge`, as C.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sge {
    pub addr: u64,
    pub length: u32,
    pub lkey: u32,
}

/// `struct ibv_wc`, as C. Fields that a completion does not define are zero.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wc {
    pub wr_id: u64,
    pub status: u32,
    pub opcode: u32,
    pub vendor_err: u32,
    pub byte_len: u32,
    /// Big-endian immediate as the sender gave it, or the invalidated rkey.
    pub imm_data: u32,
    pub qp_num: u32,
    pub src_qp: u32,
    pub wc_flags: u32,
    pub pkey_index: u16,
    pub slid: u16,
    pub sl: u8,
    pub dlid_path_bits: u8,
}

/// `struct ibv_global_route`, as C.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct GlobalRoute {
    pub dgid: [u64; 2],
    pub flow_label: u32,
    pub sgid_index: u8,
    pub hop_limit: u8,
    pub traffic_class: u8,
}

impl GlobalRoute {
    pub fn dgid_bytes(&self) -> [u8; 16] {
        let mut b = [0; 16];
        b[..8].copy_from_slice(&self.dgid[0].to_ne_bytes());
        b[8..].copy_from_slice(&self.dgid[1].to_ne_bytes());
        b
    }
}

/// `struct ibv_ah_attr`, as C.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct AhAttr {
    pub grh: GlobalRoute,
    pub dlid: u16,
    pub sl: u8,
    pub src_path_bits: u8,
    pub static_rate: u8,
    pub is_global: u8,
    pub port_num: u8,
}

/// `struct ibv_qp_cap`, as C.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QpCap {
    pub max_send_wr: u32,
    pub max_recv_wr: u32,
    pub max_send_sge: u32,
    pub max_recv_sge: u32,
    pub max_inline_data: u32,
}

/// `struct ibv_qp_attr`, as C.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct QpAttr {
    pub qp_state: u32,
    pub cur_qp_state: u32,
    pub path_mtu: u32,
    pub path_mig_state: u32,
    pub qkey: u32,
    pub rq_psn: u32,
    pub sq_psn: u32,
    pub dest_qp_num: u32,
    pub qp_access_flags: u32,
    pub cap: QpCap,
    pub ah_attr: AhAttr,
    pub alt_ah_attr: AhAttr,
    pub pkey_index: u16,
    pub alt_pkey_index: u16,
    pub en_sqd_async_notify: u8,
    pub sq_draining: u8,
    pub max_rd_atomic: u8,
    pub max_dest_rd_atomic: u8,
    pub min_rnr_timer: u8,
    pub port_num: u8,
    pub timeout: u8,
    pub retry_cnt: u8,
    pub rnr_retry: u8,
    pub alt_port_num: u8,
    pub alt_timeout: u8,
    pub rate_limit: u32,
}

/// `struct ibv_port_attr` of rdma-core 49 and later, as C (earlier ones end before `active_speed_ex`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct PortAttr {
    pub state: u32,
    pub max_mtu: u32,
    pub active_mtu: u32,
    pub gid_tbl_len: i32,
    pub port_cap_flags: u32,
    pub max_msg_sz: u32,
    pub bad_pkey_cntr: u32,
    pub qkey_viol_cntr: u32,
    pub pkey_tbl_len: u16,
    pub lid: u16,
    pub sm_lid: u16,
    pub lmc: u8,
    pub max_vl_num: u8,
    pub sm_sl: u8,
    pub subnet_timeout: u8,
    pub init_type_reply: u8,
    pub active_width: u8,
    pub active_speed: u8,
    pub phys_state: u8,
    pub link_layer: u8,
    pub flags: u8,
    pub port_cap_flags2: u16,
    pub active_speed_ex: u32,
}

/// `struct ibv_device_attr`, as C.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct DeviceAttr {
    pub fw_ver: [u8; 64],
    pub node_guid: u64,
    pub sys_image_guid: u64,
    pub max_mr_size: u64,
    pub page_size_cap: u64,
    pub vendor_id: u32,
    pub vendor_part_id: u32,
    pub hw_ver: u32,
    pub max_qp: i32,
    pub max_qp_wr: i32,
    pub device_cap_flags: u32,
    pub max_sge: i32,
    pub max_sge_rd: i32,
    pub max_cq: i32,
    pub max_cqe: i32,
    pub max_mr: i32,
    pub max_pd: i32,
    pub max_qp_rd_atom: i32,
    pub max_ee_rd_atom: i32,
    pub max_res_rd_atom: i32,
    pub max_qp_init_rd_atom: i32,
    pub max_ee_init_rd_atom: i32,
    pub atomic_cap: u32,
    pub max_ee: i32,
    pub max_rdd: i32,
    pub max_mw: i32,
    pub max_raw_ipv6_qp: i32,
    pub max_raw_ethy_qp: i32,
    pub max_mcast_grp: i32,
    pub max_mcast_qp_attach: i32,
    pub max_total_mcast_qp_attach: i32,
    pub max_ah: i32,
    pub max_fmr: i32,
    pub max_map_per_fmr: i32,
    pub max_srq: i32,
    pub max_srq_wr: i32,
    pub max_srq_sge: i32,
    pub max_pkeys: u16,
    pub local_ca_ack_delay: u8,
    pub phys_port_cnt: u8,
}

/// One send work request, taken apart.
#[derive(Clone, Copy, Debug)]
pub struct SendWr<'a> {
    pub wr_id: u64,
    /// `IBV_WR_*`.
    pub opcode: u32,
    /// `IBV_SEND_*`.
    pub flags: u32,
    /// Immediate (big-endian, as given) or rkey to invalidate.
    pub imm: u32,
    /// UD: the address handle.
    pub remote_addr: u64,
    /// UD: the qkey.
    pub rkey: u32,
    /// compare_add and swap of atomics.
    pub compare_add: u64,
    pub swap: u64,
    /// XRC: number of the SRQ that the request goes to. UD: the QPN.
    pub remote_srqn: u32,
    /// With `IBV_SEND_INLINE` the data is read at `addr` without looking at `lkey`.
    pub sges: &'a [Sge],
}

/// What a QP is created with.
#[derive(Clone, Copy, Debug)]
pub struct QpInit {
    pub pd: u32,
    pub send_cq: u32,
    pub recv_cq: u32,
    /// Receives come from this SRQ.
    pub srq: Option<u32>,
    /// XRC receive QPs: the domain. They use neither PD, CQs nor SRQ.
    pub xrcd: Option<u32>,
    pub cap: QpCap,
    /// `IBV_QPT_*`.
    pub qp_type: u32,
    pub sq_sig_all: bool,
    /// Value of asynchronous events' `element` (address of the `ibv_qp`).
    pub cookie: u64,
}

/// A new QP: its handle in this context, number and granted capabilities.
#[derive(Clone, Copy, Debug)]
pub struct QpInfo {
    pub handle: u32,
    pub qp_num: u32,
    pub cap: QpCap,
}

/// What an SRQ is created with.
#[derive(Clone, Copy, Debug)]
pub struct SrqInit {
    pub pd: u32,
    pub max_wr: u32,
    pub max_sge: u32,
    /// XRC: domain, and CQ of the receive completions.
    pub xrc: Option<(u32, u32)>,
    /// Value of asynchronous events' `element` (address of the `ibv_srq`).
    pub cookie: u64,
}

/// A new SRQ, and what was granted.
#[derive(Clone, Copy, Debug)]
pub struct SrqInfo {
    pub handle: u32,
    /// How XRC requests name it.
    pub number: u32,
    pub max_wr: u32,
    pub max_sge: u32,
}

/// `struct ibv_srq_attr`, as C.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SrqAttr {
    pub max_wr: u32,
    pub max_sge: u32,
    pub srq_limit: u32,
}

/// A new MR.
#[derive(Clone, Copy, Debug)]
pub struct MrInfo {
    pub handle: u32,
    pub lkey: u32,
    pub rkey: u32,
}

/// What a CQ does beyond the plain one.
#[derive(Clone, Copy, Debug, Default)]
pub struct CqOptions {
    /// Completions carry the device's clock.
    pub device_time: bool,
    /// Completions carry the time of day.
    pub wall_time: bool,
    /// IBV_CREATE_CQ_ATTR_IGNORE_OVERRUN.
    pub ignore_overrun: bool,
}

/// A new CQ and the number of entries granted.
#[derive(Clone, Copy, Debug)]
pub struct CqInfo {
    pub handle: u32,
    pub cqe: u32,
}

/// Answer of query_qp beside the attributes.
#[derive(Clone, Copy, Debug)]
pub struct QpQuery {
    pub attr: QpAttr,
    pub cap: QpCap,
    pub sq_sig_all: bool,
}

const _: () = {
    assert!(size_of::<Sge>() == 16);
    assert!(size_of::<Wc>() == 48);
    assert!(size_of::<AhAttr>() == 32);
    assert!(size_of::<QpAttr>() == 144);
    assert!(size_of::<SrqAttr>() == 12);
    assert!(size_of::<PortAttr>() == 56);
    assert!(size_of::<DeviceAttr>() == 232);
};
