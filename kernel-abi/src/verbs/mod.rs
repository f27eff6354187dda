//! Numbers of the verbs ABI that kernel, library and wire share, and the QP state machine.
//!
//! Source: `rdma/ib_user_ioctl_verbs.h`, `infiniband/verbs.h`, IBTA Vol. 1.

mod qp_state;

pub use qp_state::{attr_masks, modify_qp_is_ok};

/// QP states.
pub mod qps {
    pub const RESET: u32 = 0;
    pub const INIT: u32 = 1;
    pub const RTR: u32 = 2;
    pub const RTS: u32 = 3;
    pub const SQD: u32 = 4;
    pub const SQE: u32 = 5;
    pub const ERR: u32 = 6;
}
/// QP types.
pub mod qpt {
    pub const RC: u32 = 2;
    pub const UC: u32 = 3;
    pub const UD: u32 = 4;
    pub const RAW_PACKET: u32 = 8;
    pub const XRC_INI: u32 = 9;
    pub const XRC_TGT: u32 = 10;
    pub const DRIVER: u32 = 0xff;
}

/// QP attribute mask.
pub mod qp_attr {
    pub const STATE: u32 = 1 << 0;
    pub const CUR_STATE: u32 = 1 << 1;
    pub const EN_SQD_ASYNC_NOTIFY: u32 = 1 << 2;
    pub const ACCESS_FLAGS: u32 = 1 << 3;
    pub const PKEY_INDEX: u32 = 1 << 4;
    pub const PORT: u32 = 1 << 5;
    pub const QKEY: u32 = 1 << 6;
    pub const AV: u32 = 1 << 7;
    pub const PATH_MTU: u32 = 1 << 8;
    pub const TIMEOUT: u32 = 1 << 9;
    pub const RETRY_CNT: u32 = 1 << 10;
    pub const RNR_RETRY: u32 = 1 << 11;
    pub const RQ_PSN: u32 = 1 << 12;
    pub const MAX_QP_RD_ATOMIC: u32 = 1 << 13;
    pub const ALT_PATH: u32 = 1 << 14;
    pub const MIN_RNR_TIMER: u32 = 1 << 15;
    pub const SQ_PSN: u32 = 1 << 16;
    pub const MAX_DEST_RD_ATOMIC: u32 = 1 << 17;
    pub const PATH_MIG_STATE: u32 = 1 << 18;
    pub const CAP: u32 = 1 << 19;
    pub const DEST_QPN: u32 = 1 << 20;
    pub const RATE_LIMIT: u32 = 1 << 25;
    /// Everything that the old MODIFY_QP command accepts.
    pub const STANDARD: u32 = (1 << 21) - 1;
}

/// Path migration states.
pub mod path_mig {
    pub const MIGRATED: u8 = 0;
    pub const REARM: u8 = 1;
    pub const ARMED: u8 = 2;
}

/// QP create flags.
pub mod qp_create_flag {
    pub const BLOCK_MULTICAST_LOOPBACK: u32 = 1 << 1;
    pub const SCATTER_FCS: u32 = 1 << 8;
    pub const CVLAN_STRIPPING: u32 = 1 << 9;
    pub const SOURCE_QPN: u32 = 1 << 10;
    pub const PCI_WRITE_END_PADDING: u32 = 1 << 11;
    /// only in the native ioctl, which has no separate field for it
    pub const SQ_SIG_ALL: u32 = 1 << 12;
}

/// Access flags of MRs, MWs and QPs.
pub mod access {
    pub const LOCAL_WRITE: u32 = 1 << 0;
    pub const REMOTE_WRITE: u32 = 1 << 1;
    pub const REMOTE_READ: u32 = 1 << 2;
    pub const REMOTE_ATOMIC: u32 = 1 << 3;
    pub const MW_BIND: u32 = 1 << 4;
    pub const ZERO_BASED: u32 = 1 << 5;
    pub const ON_DEMAND: u32 = 1 << 6;
    pub const HUGETLB: u32 = 1 << 7;
    pub const FLUSH_GLOBAL: u32 = 1 << 8;
    pub const FLUSH_PERSISTENT: u32 = 1 << 9;
    pub const RELAXED_ORDERING: u32 = 1 << 20;
    /// Bits 20..=29 may be ignored by a device that does not know them.
    pub const OPTIONAL_RANGE: u32 = ((1 << 30) - 1) & !((1 << 20) - 1);
}

/// Flags of REREG_MR.
pub mod rereg {
    pub const TRANSLATION: u32 = 1 << 0;
    pub const PD: u32 = 1 << 1;
    pub const ACCESS: u32 = 1 << 2;
    pub const SUPPORTED: u32 = 7;
}

pub mod mw_type {
    pub const TYPE_1: u8 = 1;
    pub const TYPE_2: u8 = 2;
}

/// Work completion status.
pub mod wc_status {
    pub const SUCCESS: u32 = 0;
    pub const LOC_LEN_ERR: u32 = 1;
    pub const LOC_QP_OP_ERR: u32 = 2;
    pub const LOC_EEC_OP_ERR: u32 = 3;
    pub const LOC_PROT_ERR: u32 = 4;
    pub const WR_FLUSH_ERR: u32 = 5;
    pub const MW_BIND_ERR: u32 = 6;
    pub const BAD_RESP_ERR: u32 = 7;
    pub const LOC_ACCESS_ERR: u32 = 8;
    pub const REM_INV_REQ_ERR: u32 = 9;
    pub const REM_ACCESS_ERR: u32 = 10;
    pub const REM_OP_ERR: u32 = 11;
    pub const RETRY_EXC_ERR: u32 = 12;
    pub const RNR_RETRY_EXC_ERR: u32 = 13;
    pub const LOC_RDD_VIOL_ERR: u32 = 14;
    pub const REM_INV_RD_REQ_ERR: u32 = 15;
    pub const REM_ABORT_ERR: u32 = 16;
    pub const INV_EECN_ERR: u32 = 17;
    pub const INV_EEC_STATE_ERR: u32 = 18;
    pub const FATAL_ERR: u32 = 19;
    pub const RESP_TIMEOUT_ERR: u32 = 20;
    pub const GENERAL_ERR: u32 = 21;
    pub const TM_ERR: u32 = 22;
    pub const TM_RNDV_INCOMPLETE: u32 = 23;
}

/// Work completion opcode.
pub mod wc_opcode {
    pub const SEND: u32 = 0;
    pub const RDMA_WRITE: u32 = 1;
    pub const RDMA_READ: u32 = 2;
    pub const COMP_SWAP: u32 = 3;
    pub const FETCH_ADD: u32 = 4;
    pub const BIND_MW: u32 = 5;
    pub const LOCAL_INV: u32 = 6;
    pub const TSO: u32 = 7;
    pub const ATOMIC_WRITE: u32 = 9;
    /// every receive completion has this bit
    pub const RECV: u32 = 128;
    pub const RECV_RDMA_WITH_IMM: u32 = 129;
}

/// Work completion flags.
pub mod wc_flag {
    pub const GRH: u32 = 1 << 0;
    pub const WITH_IMM: u32 = 1 << 1;
    pub const IP_CSUM_OK: u32 = 1 << 2;
    pub const WITH_INV: u32 = 1 << 3;
}

/// Fields that a program asks an extended CQ for.
pub mod wc_ex {
    pub const BYTE_LEN: u64 = 1 << 0;
    pub const IMM: u64 = 1 << 1;
    pub const QP_NUM: u64 = 1 << 2;
    pub const SRC_QP: u64 = 1 << 3;
    pub const SLID: u64 = 1 << 4;
    pub const SL: u64 = 1 << 5;
    pub const DLID_PATH_BITS: u64 = 1 << 6;
    pub const COMPLETION_TIMESTAMP: u64 = 1 << 7;
    pub const CVLAN: u64 = 1 << 8;
    pub const FLOW_TAG: u64 = 1 << 9;
    pub const TM_INFO: u64 = 1 << 10;
    pub const COMPLETION_TIMESTAMP_WALLCLOCK: u64 = 1 << 11;
}

/// Work request opcode.
pub mod wr_opcode {
    pub const RDMA_WRITE: u32 = 0;
    pub const RDMA_WRITE_WITH_IMM: u32 = 1;
    pub const SEND: u32 = 2;
    pub const SEND_WITH_IMM: u32 = 3;
    pub const RDMA_READ: u32 = 4;
    pub const ATOMIC_CMP_AND_SWP: u32 = 5;
    pub const ATOMIC_FETCH_AND_ADD: u32 = 6;
    pub const LOCAL_INV: u32 = 7;
    pub const BIND_MW: u32 = 8;
    pub const SEND_WITH_INV: u32 = 9;
    pub const TSO: u32 = 10;
    pub const DRIVER1: u32 = 11;
    pub const ATOMIC_WRITE: u32 = 15;
}

/// Work request flags.
pub mod send_flag {
    pub const FENCE: u32 = 1 << 0;
    pub const SIGNALED: u32 = 1 << 1;
    pub const SOLICITED: u32 = 1 << 2;
    pub const INLINE: u32 = 1 << 3;
    pub const IP_CSUM: u32 = 1 << 4;
}

/// Operations that a program asks an extended QP for.
pub mod send_ops {
    pub const RDMA_WRITE: u64 = 1 << 0;
    pub const RDMA_WRITE_WITH_IMM: u64 = 1 << 1;
    pub const SEND: u64 = 1 << 2;
    pub const SEND_WITH_IMM: u64 = 1 << 3;
    pub const RDMA_READ: u64 = 1 << 4;
    pub const ATOMIC_CMP_AND_SWP: u64 = 1 << 5;
    pub const ATOMIC_FETCH_AND_ADD: u64 = 1 << 6;
    pub const LOCAL_INV: u64 = 1 << 7;
    pub const BIND_MW: u64 = 1 << 8;
    pub const SEND_WITH_INV: u64 = 1 << 9;
    pub const TSO: u64 = 1 << 10;
    pub const ATOMIC_WRITE: u64 = 1 << 12;
}

/// Async events.
pub mod event {
    pub const CQ_ERR: u32 = 0;
    pub const QP_FATAL: u32 = 1;
    pub const QP_REQ_ERR: u32 = 2;
    pub const QP_ACCESS_ERR: u32 = 3;
    pub const COMM_EST: u32 = 4;
    pub const SQ_DRAINED: u32 = 5;
    pub const PATH_MIG: u32 = 6;
    pub const PATH_MIG_ERR: u32 = 7;
    pub const DEVICE_FATAL: u32 = 8;
    pub const PORT_ACTIVE: u32 = 9;
    pub const PORT_ERR: u32 = 10;
    pub const LID_CHANGE: u32 = 11;
    pub const PKEY_CHANGE: u32 = 12;
    pub const SM_CHANGE: u32 = 13;
    pub const SRQ_ERR: u32 = 14;
    pub const SRQ_LIMIT_REACHED: u32 = 15;
    pub const QP_LAST_WQE_REACHED: u32 = 16;
    pub const CLIENT_REREGISTER: u32 = 17;
    pub const GID_CHANGE: u32 = 18;
    pub const WQ_FATAL: u32 = 19;
}

pub mod port_state {
    pub const NOP: u8 = 0;
    pub const DOWN: u8 = 1;
    pub const INIT: u8 = 2;
    pub const ARMED: u8 = 3;
    pub const ACTIVE: u8 = 4;
    pub const ACTIVE_DEFER: u8 = 5;
}

/// Physical port state (IBTA Vol. 1, PortInfo).
pub mod phys_state {
    pub const SLEEP: u8 = 1;
    pub const POLLING: u8 = 2;
    pub const DISABLED: u8 = 3;
    pub const TRAINING: u8 = 4;
    pub const LINK_UP: u8 = 5;
}

pub mod port_cap {
    pub const CM_SUP: u32 = 1 << 16;
    pub const IP_BASED_GIDS: u32 = 1 << 26;
}

pub mod mtu {
    pub const MTU_256: u8 = 1;
    pub const MTU_512: u8 = 2;
    pub const MTU_1024: u8 = 3;
    pub const MTU_2048: u8 = 4;
    pub const MTU_4096: u8 = 5;

    /// Bytes of an MTU enum; 6 is the 8192 that `hbl` adds.
    pub const fn bytes(mtu: u8) -> Option<u32> {
        match mtu {
            1..=6 => Some(128 << mtu),
            _ => None,
        }
    }
}

/// Link widths of a port.
pub mod width {
    pub const X1: u8 = 1;
    pub const X4: u8 = 2;
    pub const X8: u8 = 4;
    pub const X12: u8 = 8;
    pub const X2: u8 = 16;
}

/// Lane speeds of a port; 10 Gb/s and faster.
pub mod speed {
    pub const SDR: u8 = 1;
    pub const DDR: u8 = 2;
    pub const QDR: u8 = 4;
    pub const FDR10: u8 = 8;
    pub const FDR: u8 = 16;
    pub const EDR: u8 = 32;
    pub const HDR: u8 = 64;
    pub const NDR: u8 = 128;
}

pub mod device_cap {
    pub const RESIZE_MAX_WR: u64 = 1 << 0;
    pub const BAD_PKEY_CNTR: u64 = 1 << 1;
    pub const BAD_QKEY_CNTR: u64 = 1 << 2;
    pub const RAW_MULTI: u64 = 1 << 3;
    pub const AUTO_PATH_MIG: u64 = 1 << 4;
    pub const CHANGE_PHY_PORT: u64 = 1 << 5;
    pub const UD_AV_PORT_ENFORCE: u64 = 1 << 6;
    pub const CURR_QP_STATE_MOD: u64 = 1 << 7;
    pub const SHUTDOWN_PORT: u64 = 1 << 8;
    pub const PORT_ACTIVE_EVENT: u64 = 1 << 10;
    pub const SYS_IMAGE_GUID: u64 = 1 << 11;
    pub const RC_RNR_NAK_GEN: u64 = 1 << 12;
    pub const SRQ_RESIZE: u64 = 1 << 13;
    pub const N_NOTIFY_CQ: u64 = 1 << 14;
    pub const MEM_WINDOW: u64 = 1 << 17;
    pub const UD_IP_CSUM: u64 = 1 << 18;
    pub const XRC: u64 = 1 << 20;
    pub const MEM_MGT_EXTENSIONS: u64 = 1 << 21;
    pub const MEM_WINDOW_TYPE_2A: u64 = 1 << 23;
    pub const MEM_WINDOW_TYPE_2B: u64 = 1 << 24;
    pub const RC_IP_CSUM: u64 = 1 << 25;
    pub const RAW_IP_CSUM: u64 = 1 << 26;
    pub const MANAGED_FLOW_STEERING: u64 = 1 << 29;
    pub const RAW_SCATTER_FCS: u64 = 1 << 34;
    pub const PCI_WRITE_END_PADDING: u64 = 1 << 36;
}

pub mod atomic_cap {
    pub const NONE: u32 = 0;
    pub const HCA: u32 = 1;
    pub const GLOB: u32 = 2;
}

/// Node types as sysfs numbers them.
pub mod node_type {
    pub const CA: u32 = 1;
    pub const SWITCH: u32 = 2;
    pub const ROUTER: u32 = 3;
    pub const RNIC: u32 = 4;
    pub const USNIC: u32 = 5;
    pub const USNIC_UDP: u32 = 6;
    pub const UNSPECIFIED: u32 = 7;
}

pub mod link_layer {
    pub const UNSPECIFIED: u8 = 0;
    pub const INFINIBAND: u8 = 1;
    pub const ETHERNET: u8 = 2;
}

pub mod gid_type {
    pub const IB: u32 = 0;
    pub const ROCE_V1: u32 = 1;
    pub const ROCE_V2: u32 = 2;
}

pub mod srq_type {
    pub const BASIC: u32 = 0;
    pub const XRC: u32 = 1;
    pub const TM: u32 = 2;
}

pub mod srq_attr {
    pub const MAX_WR: u32 = 1 << 0;
    pub const LIMIT: u32 = 1 << 1;
}
