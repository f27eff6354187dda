//! Driver data and driver objects of the `hbl` RDMA driver as posted on 13 June 2024.
//!
//! Source: `include/uapi/rdma/hbl-abi.h`, `hbl_user_ioctl_cmds.h`, `hbl_user_ioctl_verbs.h` of that series; limits from
//! `hbl_cn.h` and `gaudi2_cn.h`.

mod counters;

pub use counters::*;

/// uverbs ABI version in the device's sysfs directory.
pub const ABI_VERSION: u32 = 1;
pub const VENDOR_ID: u32 = 0x1da3;
/// PCI device of a GAUDI2.
pub const DEVICE_ID_GAUDI2: u32 = 0x1020;
/// Device names are this and a number, the same number as `/dev/accel/accelN`.
pub const DEVICE_PREFIX: &str = "hbl_";

abi! {
    /// `hbl_ibv_alloc_ucontext_req`
    pub struct AllocUcontextReq [16] {
        /// bit p = IB port p; 0 = all
        ports_mask: u64 = 0,
        /// the open compute device
        core_fd: i32 = 8,
        /// 0: the kernel sets every port up by itself
        use_dvs: u8 = 12,
        reserved: [u8; 3] = 13,
    }
    /// `hbl_ibv_alloc_ucontext_resp`
    pub struct AllocUcontextResp [16] {
        ports_mask: u64 = 0,
        /// see [`ucontext_cap`]
        cap_mask: u64 = 8,
    }

    /// `hbl_ibv_alloc_pd_resp`
    pub struct AllocPdResp [8] {
        pdn: u32 = 0,
        reserved: u32 = 4,
    }

    /// `hbl_ibv_create_cq_req`
    pub struct CreateCqReq [8] {
        port_num: u32 = 0,
        /// see [`cq_type`]
        cq_type: u8 = 4,
        /// see [`cq_flag`]
        flags: u8 = 5,
        reserved: [u8; 2] = 6,
    }
    /// `hbl_ibv_create_cq_resp` and `hbl_ibv_port_create_cq_resp`. For a native CQ an array of the same struct follows,
    /// indexed by IB port number (element 0 unused).
    pub struct CreateCqResp [40] {
        mem_handle: u64 = 0,
        pi_handle: u64 = 8,
        regs_handle: u64 = 16,
        regs_offset: u32 = 24,
        cq_num: u32 = 28,
        cq_size: u32 = 32,
        reserved: u32 = 36,
    }

    /// `hbl_ibv_modify_qp_req`
    pub struct ModifyQpReq [40] {
        local_key: u32 = 0,
        remote_key: u32 = 4,
        congestion_wnd: u32 = 8,
        reserved0: u32 = 12,
        /// entries of the peer's ring; rendezvous only
        dest_wq_size: u32 = 16,
        priority: u8 = 20,
        /// exactly one bit of [`wq_type`]
        wq_type: u8 = 21,
        loopback: u8 = 22,
        congestion_en: u8 = 23,
        reserved1: u8 = 24,
        reserved2: u8 = 25,
        compression_en: u8 = 26,
        reserved3: u8 = 27,
        encap_en: u8 = 28,
        encap_num: u8 = 29,
        reserved4: u8 = 30,
        /// see [`wq_granularity`]
        wq_granularity: u8 = 31,
        reserved5: u8 = 32,
        reserved6: [u8; 5] = 33,
        /// C pads the struct to its alignment
        padding: [u8; 2] = 38,
    }
    /// `hbl_ibv_modify_qp_resp`
    pub struct ModifyQpResp [32] {
        swq_mem_handle: u64 = 0,
        rwq_mem_handle: u64 = 8,
        swq_mem_size: u32 = 16,
        rwq_mem_size: u32 = 20,
        /// the native QP number, known from INIT on
        qp_num: u32 = 24,
        reserved: u32 = 28,
    }

    /// `hbl_uapi_usr_fifo_create_in`
    pub struct CreateUsrFifoIn [24] {
        port_num: u32 = 0,
        reserved0: u32 = 4,
        reserved1: u32 = 8,
        /// 0 = any
        usr_fifo_num_hint: u32 = 12,
        /// see [`fifo_mode`]
        mode: u8 = 16,
        reserved2: u8 = 17,
        reserved3: [u8; 6] = 18,
    }
    /// `hbl_uapi_usr_fifo_create_out`
    pub struct CreateUsrFifoOut [32] {
        ci_handle: u64 = 0,
        regs_handle: u64 = 8,
        usr_fifo_num: u32 = 16,
        regs_offset: u32 = 20,
        /// bytes
        size: u32 = 24,
        /// bytes
        bp_thresh: u32 = 28,
    }

    /// `hbl_wq_array_attr`
    pub struct WqArrayAttr [32] {
        max_num_of_wqs: u32 = 0,
        max_num_of_wqes_in_wq: u32 = 4,
        /// see [`mem_id`]
        mem_id: u8 = 8,
        /// see [`wq_granularity`]
        swq_granularity: u8 = 9,
        reserved0: [u8; 6] = 10,
        reserved1: [u64; 2] = 16,
    }
    /// `hbl_uapi_set_port_ex_in`
    pub struct SetPortExIn [192] {
        /// only [`wq_array::GENERIC`] is read
        wq_arr_attr: [WqArrayAttr; 5] = 0,
        /// address of `qp_wq_bp_offs_cnt` u32
        qp_wq_bp_offs: u64 = 160,
        qp_wq_bp_offs_cnt: u32 = 168,
        port_num: u32 = 172,
        reserved0: u64 = 176,
        reserved1: u32 = 184,
        reserved2: u8 = 188,
        advanced: u8 = 189,
        adaptive_timeout_en: u8 = 190,
        reserved3: u8 = 191,
    }

    /// `hbl_uapi_query_port_in`
    pub struct QueryPortIn [8] {
        port_num: u32 = 0,
        reserved: u32 = 4,
    }
    /// `hbl_uapi_query_port_out`
    pub struct QueryPortOut [48] {
        max_num_of_qps: u32 = 0,
        num_allocated_qps: u32 = 4,
        max_allocated_qp_num: u32 = 8,
        /// bytes
        max_cq_size: u32 = 12,
        reserved0: u32 = 16,
        reserved1: u32 = 20,
        reserved2: u32 = 24,
        reserved3: u32 = 28,
        reserved4: u32 = 32,
        advanced: u8 = 36,
        max_num_of_cqs: u8 = 37,
        max_num_of_usr_fifos: u8 = 38,
        max_num_of_encaps: u8 = 39,
        nic_macro_idx: u8 = 40,
        nic_phys_port_idx: u8 = 41,
        reserved: [u8; 6] = 42,
    }

    /// `hbl_uapi_encap_create_in`
    pub struct CreateEncapIn [32] {
        tnl_hdr_ptr: u64 = 0,
        tnl_hdr_size: u32 = 8,
        port_num: u32 = 12,
        ipv4_addr: u32 = 16,
        udp_dst_port: u16 = 20,
        ip_proto: u16 = 22,
        /// see [`encap_type`]
        encap_type: u8 = 24,
        reserved: [u8; 7] = 25,
    }
    /// `hbl_uapi_encap_create_out`
    pub struct CreateEncapOut [8] {
        encap_num: u32 = 0,
        reserved: u32 = 4,
    }
}

/// Driver objects of the uverbs ioctl.
pub mod obj {
    pub const USR_FIFO: u16 = 0x1000;
    pub const SET_PORT_EX: u16 = 0x1001;
    pub const QUERY_PORT: u16 = 0x1002;
    pub const RESERVED: u16 = 0x1003;
    pub const ENCAP: u16 = 0x1004;
}

/// Methods of [`obj::USR_FIFO`].
pub mod usr_fifo {
    pub const CREATE: u16 = 0x1000;
    pub const DESTROY: u16 = 0x1001;
    pub mod create {
        pub const IN: u16 = 0x1000;
        pub const OUT: u16 = 0x1001;
        pub const HANDLE: u16 = 0x1002;
    }
    pub mod destroy {
        pub const HANDLE: u16 = 0x1000;
    }
}

/// Method of [`obj::SET_PORT_EX`]; global, no handle.
pub mod set_port_ex {
    pub const SET_PORT_EX: u16 = 0x1000;
    pub const IN: u16 = 0x1000;
}

/// Method of [`obj::QUERY_PORT`]; its number continues the enum of [`set_port_ex`].
pub mod query_port {
    pub const QUERY_PORT: u16 = 0x1001;
    pub const IN: u16 = 0x1000;
    pub const OUT: u16 = 0x1001;
}

/// Methods of [`obj::ENCAP`].
pub mod encap {
    pub const CREATE: u16 = 0x1000;
    pub const DESTROY: u16 = 0x1001;
    pub mod create {
        pub const IN: u16 = 0x1000;
        pub const OUT: u16 = 0x1001;
        pub const HANDLE: u16 = 0x1002;
    }
    pub mod destroy {
        pub const HANDLE: u16 = 0x1000;
    }
}

pub mod ucontext_cap {
    pub const MMAP_UMR: u64 = 1;
    pub const CC: u64 = 2;
}

/// What a QP's work queue is for (request bits).
pub mod wq_type {
    pub const WRITE: u8 = 0x01;
    pub const RECV_RDV: u8 = 0x02;
    pub const READ_RDV: u8 = 0x04;
    pub const SEND_RDV: u8 = 0x08;
    pub const READ_RDV_ENDP: u8 = 0x10;

    /// The value that goes into the requester context; `None` when not exactly one known bit is set.
    pub const fn to_hw(wq_type: u8) -> Option<u8> {
        match wq_type {
            WRITE | RECV_RDV | READ_RDV => Some(1),
            READ_RDV_ENDP => Some(2),
            SEND_RDV => Some(3),
            _ => None,
        }
    }
}

pub mod cq_type {
    pub const QP: u8 = 0;
    pub const CC: u8 = 1;
}

pub mod cq_flag {
    /// one hardware CQ on every port of the context
    pub const NATIVE: u8 = 1;
}

/// Where a WQ array lives.
pub mod mem_id {
    pub const HOST: u8 = 1;
    pub const DEVICE: u8 = 2;
}

pub mod wq_granularity {
    pub const B32: u8 = 0;
    pub const B64: u8 = 1;
}

/// Index into [`SetPortExIn::wq_arr_attr`].
pub mod wq_array {
    pub const GENERIC: usize = 0;
    pub const COUNT: usize = 5;
}

pub mod fifo_mode {
    pub const DOORBELL: u8 = 0;
    pub const CONGESTION: u8 = 1;
}

pub mod encap_type {
    pub const NONE: u8 = 0;
    pub const IPV4: u8 = 1;
    pub const UDP: u8 = 2;
}

/// Path MTU enum value for 8192, beyond the verbs' own.
pub const MTU_8192: u8 = 6;

/// Native QP ids run from 1; 0 is the raw Ethernet QP.
pub const MIN_QP_ID: u32 = 1;
pub const MAX_QP_ID: u32 = 8191;
pub const MAX_QPS: u32 = 8192;
pub const MAX_QP_WR: u32 = 32768;

pub const MIN_WQES: u32 = 16;
pub const MAX_WQES: u32 = 32768;
pub const MIN_WQS: u32 = 2;
pub const MAX_WQS: u32 = 1 << 24;
/// What the kernel sets up itself when `use_dvs` is 0.
pub const DEFAULT_WQS: u32 = 128;
pub const DEFAULT_WQES: u32 = 256;
/// Host WQs hold a multiple of this many entries.
pub const WQES_ROUND: u32 = 256;
/// Up to this size a host WQ array is one block; above it every QP gets its own memory at RTS.
pub const WQ_ARRAY_BLOCK_MAX: u64 = 4 << 20;
/// Device WQs are a multiple of this many bytes.
pub const WQ_DEVICE_ALIGN: u64 = 128;

pub const MIN_CQE: u32 = 4;
pub const MAX_CQE: u32 = 8192;
/// CQ id of the raw queue, the id that swallows completions, and the user ids.
pub const RAW_CQ_ID: u32 = 0;
pub const NO_CQ_ID: u32 = 1;
pub const MIN_USER_CQ_ID: u32 = 2;
pub const MAX_USER_CQ_ID: u32 = 15;
pub const NUM_USER_CQS: u32 = 14;
/// Bytes reserved for each CQ id in the port's CQ region.
pub const CQ_SLOT_SIZE: u32 = 128 << 10;
pub const MIN_CC_CQE: u32 = 16;
pub const MAX_CC_CQE: u32 = 131_072;

pub const MIN_DB_FIFO_ID: u32 = 1;
pub const MAX_DB_FIFO_ID: u32 = 30;
pub const NUM_DB_FIFOS: u32 = 30;
pub const DB_FIFO_ENTRIES: u32 = 64;
/// `size` and `bp_thresh` of [`CreateUsrFifoOut`], both in bytes.
pub const DB_FIFO_SIZE: u32 = 512;
pub const DB_FIFO_BP_THRESH: u32 = 256;

pub const MAX_PORTS: u32 = 24;
/// Encapsulation entries that query_port reports; one of them can be created.
pub const MAX_ENCAPS: u8 = 2;
pub const ENCAP_HDR_SIZE: u32 = 32;
pub const MAX_BP_OFFS: u32 = 16;
pub const MAX_CONGESTION_WND: u32 = 1 << 23;
pub const MAX_MSG_SIZE: u32 = 1 << 30;
pub const MAX_SGE: u32 = 2;
pub const MIN_PRIORITY: u8 = 1;
pub const MAX_PRIORITY: u8 = 3;
/// Non-zero timeouts that pass modify to RTS.
pub const MAX_TIMEOUT: u8 = 17;
pub const PKEY: u16 = 0xffff;
/// GID table lengths of ports with and without a netdev.
pub const EXT_GID_TBL_LEN: u32 = 13;
pub const INT_GID_TBL_LEN: u32 = 1;
/// Events kept per ASID before the newest is dropped.
pub const EVENT_QUEUE_LEN: usize = 256;
