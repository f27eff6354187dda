//! Queue pairs, address handles, multicast. Source: `rdma/ib_user_verbs.h`.

abi! {
    /// `ib_uverbs_create_qp`
    pub struct CreateQpReq [56] {
        response: u64 = 0,
        user_handle: u64 = 8,
        pd_handle: u32 = 16,
        send_cq_handle: u32 = 20,
        recv_cq_handle: u32 = 24,
        srq_handle: u32 = 28,
        max_send_wr: u32 = 32,
        max_recv_wr: u32 = 36,
        max_send_sge: u32 = 40,
        max_recv_sge: u32 = 44,
        max_inline_data: u32 = 48,
        sq_sig_all: u8 = 52,
        qp_type: u8 = 53,
        is_srq: u8 = 54,
        reserved: u8 = 55,
    }
    /// `ib_uverbs_create_qp_resp`, also the answer of OPEN_QP
    pub struct CreateQpResp [32] {
        qp_handle: u32 = 0,
        qpn: u32 = 4,
        max_send_wr: u32 = 8,
        max_recv_wr: u32 = 12,
        max_send_sge: u32 = 16,
        max_recv_sge: u32 = 20,
        max_inline_data: u32 = 24,
        reserved: u32 = 28,
    }

    /// `ib_uverbs_ex_create_qp`
    pub struct ExCreateQpReq [64] {
        user_handle: u64 = 0,
        pd_handle: u32 = 8,
        send_cq_handle: u32 = 12,
        recv_cq_handle: u32 = 16,
        srq_handle: u32 = 20,
        max_send_wr: u32 = 24,
        max_recv_wr: u32 = 28,
        max_send_sge: u32 = 32,
        max_recv_sge: u32 = 36,
        max_inline_data: u32 = 40,
        sq_sig_all: u8 = 44,
        qp_type: u8 = 45,
        is_srq: u8 = 46,
        reserved: u8 = 47,
        comp_mask: u32 = 48,
        create_flags: u32 = 52,
        rwq_ind_tbl_handle: u32 = 56,
        source_qpn: u32 = 60,
    }
    /// `ib_uverbs_ex_create_qp_resp`
    pub struct ExCreateQpResp [40] {
        base: CreateQpResp = 0,
        comp_mask: u32 = 32,
        response_length: u32 = 36,
    }

    /// `ib_uverbs_open_qp`; answered with [`CreateQpResp`]
    pub struct OpenQpReq [32] {
        response: u64 = 0,
        user_handle: u64 = 8,
        pd_handle: u32 = 16,
        qpn: u32 = 20,
        qp_type: u8 = 24,
        reserved: [u8; 7] = 25,
    }

    /// `ib_uverbs_qp_dest`, the address block of query and modify
    pub struct QpDest [32] {
        dgid: [u8; 16] = 0,
        flow_label: u32 = 16,
        dlid: u16 = 20,
        reserved: u16 = 22,
        sgid_index: u8 = 24,
        hop_limit: u8 = 25,
        traffic_class: u8 = 26,
        sl: u8 = 27,
        src_path_bits: u8 = 28,
        static_rate: u8 = 29,
        is_global: u8 = 30,
        port_num: u8 = 31,
    }

    /// `ib_uverbs_query_qp`
    pub struct QueryQpReq [16] {
        response: u64 = 0,
        qp_handle: u32 = 8,
        attr_mask: u32 = 12,
    }
    /// `ib_uverbs_query_qp_resp`
    pub struct QueryQpResp [128] {
        dest: QpDest = 0,
        alt_dest: QpDest = 32,
        max_send_wr: u32 = 64,
        max_recv_wr: u32 = 68,
        max_send_sge: u32 = 72,
        max_recv_sge: u32 = 76,
        max_inline_data: u32 = 80,
        qkey: u32 = 84,
        rq_psn: u32 = 88,
        sq_psn: u32 = 92,
        dest_qp_num: u32 = 96,
        qp_access_flags: u32 = 100,
        pkey_index: u16 = 104,
        alt_pkey_index: u16 = 106,
        qp_state: u8 = 108,
        cur_qp_state: u8 = 109,
        path_mtu: u8 = 110,
        path_mig_state: u8 = 111,
        sq_draining: u8 = 112,
        max_rd_atomic: u8 = 113,
        max_dest_rd_atomic: u8 = 114,
        min_rnr_timer: u8 = 115,
        port_num: u8 = 116,
        timeout: u8 = 117,
        retry_cnt: u8 = 118,
        rnr_retry: u8 = 119,
        alt_port_num: u8 = 120,
        alt_timeout: u8 = 121,
        sq_sig_all: u8 = 122,
        reserved: [u8; 5] = 123,
    }

    /// `ib_uverbs_modify_qp`
    pub struct ModifyQpReq [112] {
        dest: QpDest = 0,
        alt_dest: QpDest = 32,
        qp_handle: u32 = 64,
        attr_mask: u32 = 68,
        qkey: u32 = 72,
        rq_psn: u32 = 76,
        sq_psn: u32 = 80,
        dest_qp_num: u32 = 84,
        qp_access_flags: u32 = 88,
        pkey_index: u16 = 92,
        alt_pkey_index: u16 = 94,
        qp_state: u8 = 96,
        cur_qp_state: u8 = 97,
        path_mtu: u8 = 98,
        path_mig_state: u8 = 99,
        en_sqd_async_notify: u8 = 100,
        max_rd_atomic: u8 = 101,
        max_dest_rd_atomic: u8 = 102,
        min_rnr_timer: u8 = 103,
        port_num: u8 = 104,
        timeout: u8 = 105,
        retry_cnt: u8 = 106,
        rnr_retry: u8 = 107,
        alt_port_num: u8 = 108,
        alt_timeout: u8 = 109,
        reserved: [u8; 2] = 110,
    }
    /// `ib_uverbs_ex_modify_qp`
    pub struct ExModifyQpReq [120] {
        base: ModifyQpReq = 0,
        rate_limit: u32 = 112,
        reserved: u32 = 116,
    }
    /// `ib_uverbs_ex_modify_qp_resp`
    pub struct ExModifyQpResp [8] {
        comp_mask: u32 = 0,
        response_length: u32 = 4,
    }

    /// `ib_uverbs_destroy_qp`
    pub struct DestroyQpReq [16] {
        response: u64 = 0,
        qp_handle: u32 = 8,
        reserved: u32 = 12,
    }
    /// `ib_uverbs_destroy_qp_resp`
    pub struct DestroyQpResp [4] {
        events_reported: u32 = 0,
    }

    /// `ib_uverbs_ah_attr` with its `ib_uverbs_global_route` flattened
    pub struct AhAttr [32] {
        dgid: [u8; 16] = 0,
        flow_label: u32 = 16,
        sgid_index: u8 = 20,
        hop_limit: u8 = 21,
        traffic_class: u8 = 22,
        grh_reserved: u8 = 23,
        dlid: u16 = 24,
        sl: u8 = 26,
        src_path_bits: u8 = 27,
        static_rate: u8 = 28,
        is_global: u8 = 29,
        port_num: u8 = 30,
        reserved: u8 = 31,
    }
    /// `ib_uverbs_create_ah`
    pub struct CreateAhReq [56] {
        response: u64 = 0,
        user_handle: u64 = 8,
        pd_handle: u32 = 16,
        reserved: u32 = 20,
        attr: AhAttr = 24,
    }
    /// `ib_uverbs_create_ah_resp`
    pub struct CreateAhResp [4] {
        ah_handle: u32 = 0,
    }
    /// `ib_uverbs_destroy_ah`
    pub struct DestroyAhReq [4] {
        ah_handle: u32 = 0,
    }

    /// `ib_uverbs_attach_mcast` and `ib_uverbs_detach_mcast`
    pub struct McastReq [24] {
        gid: [u8; 16] = 0,
        qp_handle: u32 = 16,
        mlid: u16 = 20,
        reserved: u16 = 22,
    }
}

/// `comp_mask` of [`ExCreateQpReq`]: an indirection table is named.
pub const CREATE_QP_MASK_IND_TABLE: u32 = 1;
