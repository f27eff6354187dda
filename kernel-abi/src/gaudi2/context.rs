//! QP contexts: one per direction, in the port's context table.

bit_struct! {
    /// Requester context, 1024 bits.
    pub struct ReqCtx [128] {
        dst_qp set_dst_qp with_dst_qp: u32 = 0, 24;
        offset_in_stride set_offset_in_stride with_offset_in_stride: u32 = 32, 32;
        stride_idx1 set_stride_idx1 with_stride_idx1: u16 = 64, 16;
        stride_idx2 set_stride_idx2 with_stride_idx2: u16 = 80, 16;
        stride_idx3 set_stride_idx3 with_stride_idx3: u16 = 96, 16;
        stride_idx4 set_stride_idx4 with_stride_idx4: u16 = 112, 16;
        /// goes into every packet; the WQE carries no key
        remote_key set_remote_key with_remote_key: u32 = 128, 32;
        dst_ip set_dst_ip with_dst_ip: u32 = 160, 32;
        /// reversed byte order, as registers hold it
        dst_mac set_dst_mac with_dst_mac: u64 = 192, 48;
        seq_err_retry_count set_seq_err_retry_count with_seq_err_retry_count: u8 = 240, 8;
        timeout_retry_count set_timeout_retry_count with_timeout_retry_count: u8 = 248, 8;
        /// next to send
        nts_psn set_nts_psn with_nts_psn: u32 = 256, 24;
        /// base of the message being sent
        bcs_psn set_bcs_psn with_bcs_psn: u32 = 288, 24;
        sched_q set_sched_q with_sched_q: u8 = 312, 8;
        /// oldest not acknowledged
        ona_psn set_ona_psn with_ona_psn: u32 = 320, 24;
        /// base of the message being completed
        bcc_psn set_bcc_psn with_bcc_psn: u32 = 352, 24;
        timer_granularity set_timer_granularity with_timer_granularity: u8 = 376, 7;
        wq_back_pressure set_wq_back_pressure with_wq_back_pressure: bool = 383, 1;
        cong_marked_acks set_cong_marked_acks with_cong_marked_acks: u32 = 384, 24;
        remote_wq_log_size set_remote_wq_log_size with_remote_wq_log_size: u8 = 408, 5;
        encap_type set_encap_type with_encap_type: u8 = 413, 3;
        cong_unmarked_acks set_cong_unmarked_acks with_cong_unmarked_acks: u32 = 416, 24;
        cq_num set_cq_num with_cq_num: u8 = 440, 5;
        rtt_state set_rtt_state with_rtt_state: u8 = 445, 2;
        encap_enable set_encap_enable with_encap_enable: bool = 447, 1;
        cong_window set_cong_window with_cong_window: u32 = 448, 24;
        rtt_timestamp set_rtt_timestamp with_rtt_timestamp: u32 = 480, 25;
        rtt_marked_psn set_rtt_marked_psn with_rtt_marked_psn: u32 = 512, 24;
        burst_size set_burst_size with_burst_size: u32 = 544, 22;
        asid set_asid with_asid: u16 = 566, 10;
        /// ring size - 1
        last_idx set_last_idx with_last_idx: u32 = 576, 22;
        execution_idx set_execution_idx with_execution_idx: u32 = 608, 22;
        consumer_idx set_consumer_idx with_consumer_idx: u32 = 640, 22;
        local_pi set_local_pi with_local_pi: u32 = 672, 22;
        remote_pi set_remote_pi with_remote_pi: u32 = 704, 22;
        remote_ci set_remote_ci with_remote_ci: u32 = 736, 22;
        oldest_unacked_remote_pi set_oldest_unacked_remote_pi with_oldest_unacked_remote_pi: u32 = 768, 22;
        psn_since_ack_req set_psn_since_ack_req with_psn_since_ack_req: u8 = 800, 8;
        ack_req_freq set_ack_req_freq with_ack_req_freq: u8 = 808, 8;
        pacing_time set_pacing_time with_pacing_time: u16 = 832, 16;
        psn_delivered set_psn_delivered with_psn_delivered: u32 = 864, 24;
        data_mmu_bypass set_data_mmu_bypass with_data_mmu_bypass: bool = 1003, 1;
        gaudi1_mode set_gaudi1_mode with_gaudi1_mode: bool = 1004, 1;
        port set_port with_port: u8 = 1005, 2;
        /// see [`hw_wq_type`]
        wq_type set_wq_type with_wq_type: u8 = 1007, 2;
        /// 1 for 64-byte WQEs
        swq_granularity set_swq_granularity with_swq_granularity: bool = 1009, 1;
        /// see [`transport`]
        transport set_transport with_transport: u8 = 1010, 1;
        priority set_priority with_priority: u8 = 1011, 2;
        /// see [`cong_mode`]
        cong_mode set_cong_mode with_cong_mode: u8 = 1013, 2;
        /// log2(MTU) - 10
        mtu set_mtu with_mtu: u8 = 1015, 2;
        wq_base_addr set_wq_base_addr with_wq_base_addr: u8 = 1017, 2;
        /// see [`trust`]
        trust_level set_trust_level with_trust_level: u8 = 1019, 2;
        in_work set_in_work with_in_work: bool = 1021, 1;
        error set_error with_error: bool = 1022, 1;
        valid set_valid with_valid: bool = 1023, 1;
    }
}

bit_struct! {
    /// Responder context, 256 bits.
    pub struct ResCtx [32] {
        dst_qp set_dst_qp with_dst_qp: u32 = 0, 24;
        port set_port with_port: u8 = 24, 2;
        priority set_priority with_priority: u8 = 26, 2;
        /// see [`conn_state`]
        conn_state set_conn_state with_conn_state: u8 = 28, 2;
        nack_syndrome set_nack_syndrome with_nack_syndrome: u8 = 30, 2;
        /// compared with the key of every incoming packet
        local_key set_local_key with_local_key: u32 = 32, 32;
        dst_ip set_dst_ip with_dst_ip: u32 = 64, 32;
        dst_mac set_dst_mac with_dst_mac: u64 = 96, 48;
        ecn_count set_ecn_count with_ecn_count: u8 = 144, 5;
        transport set_transport with_transport: u8 = 149, 1;
        asid set_asid with_asid: u16 = 150, 10;
        /// local QP whose send ring a rendezvous write fills
        peer_qp set_peer_qp with_peer_qp: u32 = 160, 24;
        sched_q set_sched_q with_sched_q: u8 = 184, 8;
        expected_psn set_expected_psn with_expected_psn: u32 = 192, 24;
        trust_level set_trust_level with_trust_level: u8 = 216, 2;
        gaudi1_mode set_gaudi1_mode with_gaudi1_mode: bool = 218, 1;
        data_mmu_bypass set_data_mmu_bypass with_data_mmu_bypass: bool = 219, 1;
        encap_type set_encap_type with_encap_type: u8 = 220, 3;
        encap_enable set_encap_enable with_encap_enable: bool = 223, 1;
        cyclic_idx set_cyclic_idx with_cyclic_idx: u32 = 224, 24;
        cq_num set_cq_num with_cq_num: u8 = 248, 5;
        peer_wq_granularity set_peer_wq_granularity with_peer_wq_granularity: bool = 253, 1;
        in_work set_in_work with_in_work: bool = 254, 1;
        valid set_valid with_valid: bool = 255, 1;
    }
}

impl ReqCtx {
    /// Path MTU in bytes.
    #[inline]
    pub const fn mtu_bytes(&self) -> u32 {
        1024 << self.mtu()
    }

    /// Field value for a path MTU; `None` unless it is one of the four the hardware knows.
    pub const fn mtu_field(bytes: u32) -> Option<u8> {
        match bytes {
            1024 => Some(0),
            2048 => Some(1),
            4096 => Some(2),
            8192 => Some(3),
            _ => None,
        }
    }
}

/// What the requester's ring is for (hardware numbering).
pub mod hw_wq_type {
    pub const WRITE: u8 = 1;
    /// entries come from the wire only
    pub const READ_RDV_ENDP: u8 = 2;
    /// addresses are filled in by the peer
    pub const SEND_RDV: u8 = 3;
}

pub mod transport {
    pub const RC: u8 = 0;
    pub const RAW: u8 = 1;
}

pub mod trust {
    pub const UNSECURED: u8 = 0;
    pub const SECURED: u8 = 1;
    pub const PRIVILEGED: u8 = 2;
}

pub mod cong_mode {
    pub const OFF: u8 = 0;
    pub const BBR_SWIFT: u8 = 1;
    pub const WINDOW: u8 = 2;
}

pub mod conn_state {
    pub const OPEN: u8 = 0;
    pub const CLOSED: u8 = 1;
    pub const RESYNC: u8 = 2;
    pub const ERROR: u8 = 3;
}
