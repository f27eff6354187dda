//! Flows, receive work queues and indirection tables: known so that they can be refused properly.
//! Source: `rdma/ib_user_verbs.h`.

abi! {
    /// `ib_uverbs_create_flow` with its `ib_uverbs_flow_attr` flattened; flow specs follow.
    pub struct ExCreateFlowReq [24] {
        comp_mask: u32 = 0,
        qp_handle: u32 = 4,
        flow_type: u32 = 8,
        size: u16 = 12,
        priority: u16 = 14,
        num_of_specs: u8 = 16,
        reserved: [u8; 2] = 17,
        port: u8 = 19,
        flags: u32 = 20,
    }
    /// `ib_uverbs_create_flow_resp`
    pub struct ExCreateFlowResp [8] {
        comp_mask: u32 = 0,
        flow_handle: u32 = 4,
    }
    /// `ib_uverbs_destroy_flow`
    pub struct ExDestroyFlowReq [8] {
        comp_mask: u32 = 0,
        flow_handle: u32 = 4,
    }

    /// `ib_uverbs_ex_create_wq`
    pub struct ExCreateWqReq [40] {
        comp_mask: u32 = 0,
        wq_type: u32 = 4,
        user_handle: u64 = 8,
        pd_handle: u32 = 16,
        cq_handle: u32 = 20,
        max_wr: u32 = 24,
        max_sge: u32 = 28,
        create_flags: u32 = 32,
        reserved: u32 = 36,
    }
    /// `ib_uverbs_ex_create_wq_resp`
    pub struct ExCreateWqResp [24] {
        comp_mask: u32 = 0,
        response_length: u32 = 4,
        wq_handle: u32 = 8,
        max_wr: u32 = 12,
        max_sge: u32 = 16,
        wqn: u32 = 20,
    }
    /// `ib_uverbs_ex_modify_wq`
    pub struct ExModifyWqReq [24] {
        attr_mask: u32 = 0,
        wq_handle: u32 = 4,
        wq_state: u32 = 8,
        curr_wq_state: u32 = 12,
        flags: u32 = 16,
        flags_mask: u32 = 20,
    }
    /// `ib_uverbs_ex_destroy_wq`
    pub struct ExDestroyWqReq [8] {
        comp_mask: u32 = 0,
        wq_handle: u32 = 4,
    }
    /// `ib_uverbs_ex_destroy_wq_resp`
    pub struct ExDestroyWqResp [16] {
        comp_mask: u32 = 0,
        response_length: u32 = 4,
        events_reported: u32 = 8,
        reserved: u32 = 12,
    }

    /// `ib_uverbs_ex_create_rwq_ind_table`; WQ handles follow.
    pub struct ExCreateRwqIndTblReq [8] {
        comp_mask: u32 = 0,
        log_ind_tbl_size: u32 = 4,
    }
    /// `ib_uverbs_ex_create_rwq_ind_table_resp`
    pub struct ExCreateRwqIndTblResp [16] {
        comp_mask: u32 = 0,
        response_length: u32 = 4,
        ind_tbl_handle: u32 = 8,
        ind_tbl_num: u32 = 12,
    }
    /// `ib_uverbs_ex_destroy_rwq_ind_table`
    pub struct ExDestroyRwqIndTblReq [8] {
        comp_mask: u32 = 0,
        ind_tbl_handle: u32 = 4,
    }
}
