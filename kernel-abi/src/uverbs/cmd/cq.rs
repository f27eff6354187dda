//! Completion queues. Source: `rdma/ib_user_verbs.h`.

abi! {
    /// `ib_uverbs_create_cq`; `comp_channel` is an fd or negative.
    pub struct CreateCqReq [32] {
        response: u64 = 0,
        user_handle: u64 = 8,
        cqe: u32 = 16,
        comp_vector: u32 = 20,
        comp_channel: i32 = 24,
        reserved: u32 = 28,
    }
    /// `ib_uverbs_create_cq_resp`
    pub struct CreateCqResp [8] {
        cq_handle: u32 = 0,
        cqe: u32 = 4,
    }

    /// `ib_uverbs_ex_create_cq`
    pub struct ExCreateCqReq [32] {
        user_handle: u64 = 0,
        cqe: u32 = 8,
        comp_vector: u32 = 12,
        comp_channel: i32 = 16,
        comp_mask: u32 = 20,
        flags: u32 = 24,
        reserved: u32 = 28,
    }
    /// `ib_uverbs_ex_create_cq_resp`
    pub struct ExCreateCqResp [16] {
        base: CreateCqResp = 0,
        comp_mask: u32 = 8,
        response_length: u32 = 12,
    }

    /// `ib_uverbs_resize_cq`
    pub struct ResizeCqReq [16] {
        response: u64 = 0,
        cq_handle: u32 = 8,
        cqe: u32 = 12,
    }
    /// `ib_uverbs_resize_cq_resp`
    pub struct ResizeCqResp [8] {
        cqe: u32 = 0,
        reserved: u32 = 4,
    }

    /// `ib_uverbs_poll_cq`
    pub struct PollCqReq [16] {
        response: u64 = 0,
        cq_handle: u32 = 8,
        ne: u32 = 12,
    }
    /// `ib_uverbs_poll_cq_resp`; `count` times [`Wc`] follow.
    pub struct PollCqResp [8] {
        count: u32 = 0,
        reserved: u32 = 4,
    }
    /// `ib_uverbs_wc`
    pub struct Wc [48] {
        wr_id: u64 = 0,
        status: u32 = 8,
        opcode: u32 = 12,
        vendor_err: u32 = 16,
        byte_len: u32 = 20,
        /// immediate data in network order, or the invalidated rkey
        ex: u32 = 24,
        qp_num: u32 = 28,
        src_qp: u32 = 32,
        wc_flags: u32 = 36,
        pkey_index: u16 = 40,
        slid: u16 = 42,
        sl: u8 = 44,
        dlid_path_bits: u8 = 45,
        port_num: u8 = 46,
        reserved: u8 = 47,
    }

    /// `ib_uverbs_req_notify_cq`
    pub struct ReqNotifyCqReq [8] {
        cq_handle: u32 = 0,
        solicited_only: u32 = 4,
    }

    /// `ib_uverbs_destroy_cq`
    pub struct DestroyCqReq [16] {
        response: u64 = 0,
        cq_handle: u32 = 8,
        reserved: u32 = 12,
    }
    /// `ib_uverbs_destroy_cq_resp`
    pub struct DestroyCqResp [8] {
        comp_events_reported: u32 = 0,
        async_events_reported: u32 = 4,
    }

    /// `ib_uverbs_ex_modify_cq`, the moderation pair flattened.
    pub struct ExModifyCqReq [16] {
        cq_handle: u32 = 0,
        attr_mask: u32 = 4,
        cq_count: u16 = 8,
        cq_period: u16 = 10,
        reserved: u32 = 12,
    }
}

/// `flags` of the create call.
pub mod cq_flag {
    pub const TIMESTAMP_COMPLETION: u32 = 1;
    pub const IGNORE_OVERRUN: u32 = 2;
}

/// `attr_mask` of modify.
pub mod cq_attr {
    pub const MODERATE: u32 = 1;
}
