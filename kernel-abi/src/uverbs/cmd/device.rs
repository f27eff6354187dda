//! Context, device, port, PD, XRC domain, completion channel. Source: `rdma/ib_user_verbs.h`.

abi! {
    /// `ib_uverbs_get_context`
    pub struct GetContextReq [8] {
        response: u64 = 0,
    }
    /// `ib_uverbs_get_context_resp`
    pub struct GetContextResp [8] {
        async_fd: u32 = 0,
        num_comp_vectors: u32 = 4,
    }

    /// `ib_uverbs_query_device`
    pub struct QueryDeviceReq [8] {
        response: u64 = 0,
    }
    /// `ib_uverbs_query_device_resp`; the two GUIDs are big-endian.
    pub struct QueryDeviceResp [176] {
        fw_ver: u64 = 0,
        node_guid: [u8; 8] = 8,
        sys_image_guid: [u8; 8] = 16,
        max_mr_size: u64 = 24,
        page_size_cap: u64 = 32,
        vendor_id: u32 = 40,
        vendor_part_id: u32 = 44,
        hw_ver: u32 = 48,
        max_qp: u32 = 52,
        max_qp_wr: u32 = 56,
        device_cap_flags: u32 = 60,
        max_sge: u32 = 64,
        max_sge_rd: u32 = 68,
        max_cq: u32 = 72,
        max_cqe: u32 = 76,
        max_mr: u32 = 80,
        max_pd: u32 = 84,
        max_qp_rd_atom: u32 = 88,
        max_ee_rd_atom: u32 = 92,
        max_res_rd_atom: u32 = 96,
        max_qp_init_rd_atom: u32 = 100,
        max_ee_init_rd_atom: u32 = 104,
        atomic_cap: u32 = 108,
        max_ee: u32 = 112,
        max_rdd: u32 = 116,
        max_mw: u32 = 120,
        max_raw_ipv6_qp: u32 = 124,
        max_raw_ethy_qp: u32 = 128,
        max_mcast_grp: u32 = 132,
        max_mcast_qp_attach: u32 = 136,
        max_total_mcast_qp_attach: u32 = 140,
        max_ah: u32 = 144,
        max_fmr: u32 = 148,
        max_map_per_fmr: u32 = 152,
        max_srq: u32 = 156,
        max_srq_wr: u32 = 160,
        max_srq_sge: u32 = 164,
        max_pkeys: u16 = 168,
        local_ca_ack_delay: u8 = 170,
        phys_port_cnt: u8 = 171,
        reserved: [u8; 4] = 172,
    }

    /// `ib_uverbs_ex_query_device`
    pub struct ExQueryDeviceReq [8] {
        comp_mask: u32 = 0,
        reserved: u32 = 4,
    }
    /// `ib_uverbs_odp_caps`
    pub struct OdpCaps [24] {
        general_caps: u64 = 0,
        rc_odp_caps: u32 = 8,
        uc_odp_caps: u32 = 12,
        ud_odp_caps: u32 = 16,
        reserved: u32 = 20,
    }
    /// `ib_uverbs_rss_caps`
    pub struct RssCaps [16] {
        supported_qpts: u32 = 0,
        max_rwq_indirection_tables: u32 = 4,
        max_rwq_indirection_table_size: u32 = 8,
        reserved: u32 = 12,
    }
    /// `ib_uverbs_tm_caps`
    pub struct TmCaps [24] {
        max_rndv_hdr_size: u32 = 0,
        max_num_tags: u32 = 4,
        flags: u32 = 8,
        max_ops: u32 = 12,
        max_sge: u32 = 16,
        reserved: u32 = 20,
    }
    /// `ib_uverbs_cq_moderation_caps`
    pub struct CqModerationCaps [8] {
        max_cq_moderation_count: u16 = 0,
        max_cq_moderation_period: u16 = 2,
        reserved: u32 = 4,
    }
    /// `ib_uverbs_ex_query_device_resp`
    pub struct ExQueryDeviceResp [304] {
        base: QueryDeviceResp = 0,
        comp_mask: u32 = 176,
        response_length: u32 = 180,
        odp_caps: OdpCaps = 184,
        timestamp_mask: u64 = 208,
        hca_core_clock: u64 = 216,
        device_cap_flags_ex: u64 = 224,
        rss_caps: RssCaps = 232,
        max_wq_type_rq: u32 = 248,
        raw_packet_caps: u32 = 252,
        tm_caps: TmCaps = 256,
        cq_moderation_caps: CqModerationCaps = 280,
        max_dm_size: u64 = 288,
        xrc_odp_caps: u32 = 296,
        reserved: u32 = 300,
    }

    /// `ib_uverbs_query_port`
    pub struct QueryPortReq [16] {
        response: u64 = 0,
        port_num: u8 = 8,
        reserved: [u8; 7] = 9,
    }
    /// `ib_uverbs_query_port_resp`
    pub struct QueryPortResp [40] {
        port_cap_flags: u32 = 0,
        max_msg_sz: u32 = 4,
        bad_pkey_cntr: u32 = 8,
        qkey_viol_cntr: u32 = 12,
        gid_tbl_len: u32 = 16,
        pkey_tbl_len: u16 = 20,
        lid: u16 = 22,
        sm_lid: u16 = 24,
        state: u8 = 26,
        max_mtu: u8 = 27,
        active_mtu: u8 = 28,
        lmc: u8 = 29,
        max_vl_num: u8 = 30,
        sm_sl: u8 = 31,
        subnet_timeout: u8 = 32,
        init_type_reply: u8 = 33,
        active_width: u8 = 34,
        active_speed: u8 = 35,
        phys_state: u8 = 36,
        link_layer: u8 = 37,
        flags: u8 = 38,
        reserved: u8 = 39,
    }

    /// `ib_uverbs_alloc_pd`
    pub struct AllocPdReq [8] {
        response: u64 = 0,
    }
    /// `ib_uverbs_alloc_pd_resp`
    pub struct AllocPdResp [4] {
        pd_handle: u32 = 0,
    }
    /// `ib_uverbs_dealloc_pd`
    pub struct DeallocPdReq [4] {
        pd_handle: u32 = 0,
    }

    /// `ib_uverbs_open_xrcd`
    pub struct OpenXrcdReq [16] {
        response: u64 = 0,
        fd: u32 = 8,
        oflags: u32 = 12,
    }
    /// `ib_uverbs_open_xrcd_resp`
    pub struct OpenXrcdResp [4] {
        xrcd_handle: u32 = 0,
    }
    /// `ib_uverbs_close_xrcd`
    pub struct CloseXrcdReq [4] {
        xrcd_handle: u32 = 0,
    }

    /// `ib_uverbs_create_comp_channel`
    pub struct CreateCompChannelReq [8] {
        response: u64 = 0,
    }
    /// `ib_uverbs_create_comp_channel_resp`
    pub struct CreateCompChannelResp [4] {
        fd: u32 = 0,
    }
}
