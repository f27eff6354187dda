//! `HL_IOCTL_NIC`: one ioctl, a container and an operation number. The later out-of-tree form keeps container and
//! numbers and moves to [`crate::accel::IOCTL_NIC`].

/// `_IOWR('H', 0x07, struct hl_nic_args)`
pub const IOCTL_NIC_2020: u32 = 0xc020_4807;

abi! {
    /// `hl_nic_args`
    pub struct NicArgs [32] {
        input_ptr: u64 = 0,
        output_ptr: u64 = 8,
        input_size: u32 = 16,
        output_size: u32 = 20,
        ctx_id: u32 = 24,
        /// see [`nic_op`]
        op: u32 = 28,
    }

    /// ALLOC_CONN, in
    pub struct AllocConnIn [8] {
        port: u32 = 0,
        pad: u32 = 4,
    }
    /// ALLOC_CONN, out
    pub struct AllocConnOut [8] {
        conn_id: u32 = 0,
        pad: u32 = 4,
    }

    /// SET_REQ_CONN_CTX, in
    pub struct SetReqConnCtxIn [44] {
        src_ip_addr: u32 = 0,
        dst_ip_addr: u32 = 4,
        dst_conn_id: u32 = 8,
        /// must not be 0
        burst_size: u32 = 12,
        last_index: u32 = 16,
        port: u32 = 20,
        conn_id: u32 = 24,
        dst_mac_addr: [u8; 6] = 28,
        sq_number: u8 = 34,
        priority: u8 = 35,
        enable_sob: u8 = 36,
        timer_granularity: u8 = 37,
        /// see [`swq_granularity_2020`]
        swq_granularity: u8 = 38,
        wq_type: u8 = 39,
        version: u8 = 40,
        cq_number: u8 = 41,
        wq_remote_log_size: u8 = 42,
        pad: u8 = 43,
    }

    /// SET_RES_CONN_CTX, in
    pub struct SetResConnCtxIn [36] {
        src_ip_addr: u32 = 0,
        dst_ip_addr: u32 = 4,
        dst_conn_id: u32 = 8,
        port: u32 = 12,
        conn_id: u32 = 16,
        dst_mac_addr: [u8; 6] = 20,
        priority: u8 = 26,
        sq_number: u8 = 27,
        enable_sob: u8 = 28,
        wq_peer_granularity: u8 = 29,
        cq_number: u8 = 30,
        version: u8 = 31,
        conn_peer: u32 = 32,
    }

    /// DESTROY_CONN, in
    pub struct DestroyConnIn [8] {
        port: u32 = 0,
        conn_id: u32 = 4,
    }

    /// CQ_CREATE, in
    pub struct CqCreateIn [8] {
        num_entries: u32 = 0,
        pad: u32 = 4,
    }
    /// CQ_CREATE, out
    pub struct CqCreateOut [8] {
        handle: u64 = 0,
    }
    /// CQ_DESTROY, in
    pub struct CqDestroyIn [8] {
        handle: u64 = 0,
    }
    /// CQ_WAIT and CQ_POLL, in
    pub struct CqPollIn [16] {
        handle: u64 = 0,
        timeout_us: u64 = 8,
    }
    /// CQ_WAIT and CQ_POLL, out
    pub struct CqPollOut [16] {
        pi: u32 = 0,
        num_cqes: u32 = 4,
        /// see [`cq_status`]
        status: u32 = 8,
        pad: u32 = 12,
    }
    /// CQ_UPDATE_CONSUMED, in
    pub struct CqUpdateConsumedIn [16] {
        handle: u64 = 0,
        cq_num_of_consumed_entries: u32 = 8,
        pad: u32 = 12,
    }

    /// USER_WQ_SET, in
    pub struct UserWqSetIn [24] {
        addr: u64 = 0,
        port: u32 = 8,
        num_of_wqs: u32 = 12,
        num_of_wq_entries: u32 = 16,
        /// 0 send, 1 receive
        wq_type: u32 = 20,
    }
    /// USER_WQ_UNSET, in
    pub struct UserWqUnsetIn [8] {
        port: u32 = 0,
        wq_type: u32 = 4,
    }

    /// `hl_nic_cqe`: entry of the software CQ into which the driver copies; errors are entries here.
    pub struct Cqe16 [16] {
        /// WQE index, message id or syndrome
        value: u32 = 0,
        port: u32 = 4,
        qp_number: u32 = 8,
        cqe_type: u8 = 12,
        is_err: u8 = 13,
        pad: [u8; 2] = 14,
    }
}

/// Operations. 0..=10 are the posted ones, the rest came later out of tree and in part equal the kernel's own.
pub mod nic_op {
    pub const ALLOC_CONN: u32 = 0;
    pub const SET_REQ_CONN_CTX: u32 = 1;
    pub const SET_RES_CONN_CTX: u32 = 2;
    pub const DESTROY_CONN: u32 = 3;
    pub const CQ_CREATE: u32 = 4;
    pub const CQ_DESTROY: u32 = 5;
    pub const CQ_WAIT: u32 = 6;
    pub const CQ_POLL: u32 = 7;
    pub const CQ_UPDATE_CONSUMED: u32 = 8;
    pub const USER_WQ_SET: u32 = 9;
    pub const USER_WQ_UNSET: u32 = 10;
    pub const USER_CQ_SET: u32 = 11;
    pub const USER_CQ_UNSET: u32 = 12;
    pub const USER_CQ_UPDATE_CI: u32 = 13;
    pub const ALLOC_USER_CQ_ID: u32 = 14;
    pub const SET_USER_APP_PARAMS: u32 = 15;
    pub const GET_USER_APP_PARAMS: u32 = 16;
    pub const ALLOC_USER_DB_FIFO: u32 = 17;
    pub const USER_DB_FIFO_SET: u32 = 18;
    pub const USER_DB_FIFO_UNSET: u32 = 19;
    pub const EQ_POLL: u32 = 20;
    pub const USER_ENCAP_ALLOC: u32 = 21;
    pub const USER_ENCAP_SET: u32 = 22;
    pub const USER_ENCAP_UNSET: u32 = 23;
    pub const USER_CCQ_SET: u32 = 24;
    pub const USER_CCQ_UNSET: u32 = 25;
    pub const USER_CQ_ID_SET: u32 = 26;
    pub const USER_CQ_ID_UNSET: u32 = 27;
    pub const ALLOC_COLL_CONN: u32 = 28;
    pub const DUMP_QP: u32 = 29;
}

/// The 2020 text counts the other way round than everything after it.
pub mod swq_granularity_2020 {
    pub const B64: u8 = 0;
    pub const B32: u8 = 1;
}

/// Result of waiting for or polling the software CQ.
pub mod cq_status {
    pub const SUCCESS: u32 = 0;
    pub const TIMEOUT: u32 = 1;
    pub const OVERFLOW: u32 = 2;
}

/// Result of EQ_POLL.
pub mod eq_status {
    pub const SUCCESS: u32 = 0;
    pub const EMPTY: u32 = 1;
    pub const UNSUPPORTED: u32 = 2;
    pub const NO_SUCH_PORT: u32 = 3;
    pub const PORT_DISABLED: u32 = 4;
    pub const NO_EQ: u32 = 5;
    pub const UNDEFINED: u32 = 6;
}
