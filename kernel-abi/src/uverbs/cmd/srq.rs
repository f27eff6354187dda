//! Shared receive queues. Source: `rdma/ib_user_verbs.h`.

abi! {
    /// `ib_uverbs_create_srq`
    pub struct CreateSrqReq [32] {
        response: u64 = 0,
        user_handle: u64 = 8,
        pd_handle: u32 = 16,
        max_wr: u32 = 20,
        max_sge: u32 = 24,
        srq_limit: u32 = 28,
    }
    /// `ib_uverbs_create_xsrq`
    pub struct CreateXsrqReq [48] {
        response: u64 = 0,
        user_handle: u64 = 8,
        srq_type: u32 = 16,
        pd_handle: u32 = 20,
        max_wr: u32 = 24,
        max_sge: u32 = 28,
        srq_limit: u32 = 32,
        max_num_tags: u32 = 36,
        xrcd_handle: u32 = 40,
        cq_handle: u32 = 44,
    }
    /// `ib_uverbs_create_srq_resp`
    pub struct CreateSrqResp [16] {
        srq_handle: u32 = 0,
        max_wr: u32 = 4,
        max_sge: u32 = 8,
        srqn: u32 = 12,
    }

    /// `ib_uverbs_modify_srq`
    pub struct ModifySrqReq [16] {
        srq_handle: u32 = 0,
        attr_mask: u32 = 4,
        max_wr: u32 = 8,
        srq_limit: u32 = 12,
    }

    /// `ib_uverbs_query_srq`
    pub struct QuerySrqReq [16] {
        response: u64 = 0,
        srq_handle: u32 = 8,
        reserved: u32 = 12,
    }
    /// `ib_uverbs_query_srq_resp`
    pub struct QuerySrqResp [16] {
        max_wr: u32 = 0,
        max_sge: u32 = 4,
        srq_limit: u32 = 8,
        reserved: u32 = 12,
    }

    /// `ib_uverbs_destroy_srq`
    pub struct DestroySrqReq [16] {
        response: u64 = 0,
        srq_handle: u32 = 8,
        reserved: u32 = 12,
    }
    /// `ib_uverbs_destroy_srq_resp`
    pub struct DestroySrqResp [4] {
        events_reported: u32 = 0,
    }
}
