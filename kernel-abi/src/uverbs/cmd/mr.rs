//! Memory regions and windows. Source: `rdma/ib_user_verbs.h`.

abi! {
    /// `ib_uverbs_reg_mr`
    pub struct RegMrReq [40] {
        response: u64 = 0,
        start: u64 = 8,
        length: u64 = 16,
        hca_va: u64 = 24,
        pd_handle: u32 = 32,
        access_flags: u32 = 36,
    }
    /// `ib_uverbs_reg_mr_resp`
    pub struct RegMrResp [12] {
        mr_handle: u32 = 0,
        lkey: u32 = 4,
        rkey: u32 = 8,
    }

    /// `ib_uverbs_rereg_mr`
    pub struct ReregMrReq [48] {
        response: u64 = 0,
        mr_handle: u32 = 8,
        flags: u32 = 12,
        start: u64 = 16,
        length: u64 = 24,
        hca_va: u64 = 32,
        pd_handle: u32 = 40,
        access_flags: u32 = 44,
    }
    /// `ib_uverbs_rereg_mr_resp`
    pub struct ReregMrResp [8] {
        lkey: u32 = 0,
        rkey: u32 = 4,
    }

    /// `ib_uverbs_dereg_mr`
    pub struct DeregMrReq [4] {
        mr_handle: u32 = 0,
    }

    /// `ib_uverbs_alloc_mw`
    pub struct AllocMwReq [16] {
        response: u64 = 0,
        pd_handle: u32 = 8,
        mw_type: u8 = 12,
        reserved: [u8; 3] = 13,
    }
    /// `ib_uverbs_alloc_mw_resp`
    pub struct AllocMwResp [8] {
        mw_handle: u32 = 0,
        rkey: u32 = 4,
    }
    /// `ib_uverbs_dealloc_mw`
    pub struct DeallocMwReq [4] {
        mw_handle: u32 = 0,
    }
}
