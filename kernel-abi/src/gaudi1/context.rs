//! QP contexts. No ASID: it comes from per-port registers.

bit_struct! {
    /// Requester context, 512 bits.
    pub struct ReqCtx [64] {
        dst_qp set_dst_qp with_dst_qp: u32 = 0, 24;
        port set_port with_port: u8 = 24, 4;
        priority set_priority with_priority: u8 = 28, 2;
        congestion_en set_congestion_en with_congestion_en: u8 = 30, 2;
        remote_key set_remote_key with_remote_key: u32 = 32, 32;
        dst_ip set_dst_ip with_dst_ip: u32 = 64, 32;
        src_ip set_src_ip with_src_ip: u32 = 96, 32;
        dst_mac set_dst_mac with_dst_mac: u64 = 128, 48;
        seq_err_retry_count set_seq_err_retry_count with_seq_err_retry_count: u8 = 176, 8;
        timeout_retry_count set_timeout_retry_count with_timeout_retry_count: u8 = 184, 8;
        nts_psn set_nts_psn with_nts_psn: u32 = 192, 24;
        sq_num set_sq_num with_sq_num: u8 = 216, 8;
        ona_psn set_ona_psn with_ona_psn: u32 = 224, 24;
        timer_granularity set_timer_granularity with_timer_granularity: u8 = 248, 7;
        sob_en set_sob_en with_sob_en: bool = 255, 1;
        cong_marked_acks set_cong_marked_acks with_cong_marked_acks: u32 = 256, 22;
        cong_unmarked_acks set_cong_unmarked_acks with_cong_unmarked_acks: u32 = 278, 22;
        cong_window set_cong_window with_cong_window: u32 = 300, 22;
        rtt_timestamp set_rtt_timestamp with_rtt_timestamp: u32 = 322, 25;
        rtt_marked_psn set_rtt_marked_psn with_rtt_marked_psn: u32 = 347, 22;
        transport set_transport with_transport: u8 = 369, 1;
        burst_size set_burst_size with_burst_size: u32 = 370, 22;
        last_idx set_last_idx with_last_idx: u32 = 392, 22;
        execution_idx set_execution_idx with_execution_idx: u32 = 414, 22;
        consumer_idx set_consumer_idx with_consumer_idx: u32 = 436, 22;
        producer_idx set_producer_idx with_producer_idx: u32 = 458, 22;
        /// connection id, which selects the WQ
        wq_base_addr set_wq_base_addr with_wq_base_addr: u32 = 480, 24;
        rtt_state set_rtt_state with_rtt_state: u8 = 504, 2;
        swq_granularity set_swq_granularity with_swq_granularity: bool = 506, 1;
        trust_level set_trust_level with_trust_level: u8 = 507, 2;
        in_work set_in_work with_in_work: bool = 509, 1;
        error set_error with_error: bool = 510, 1;
        valid set_valid with_valid: bool = 511, 1;
    }
}

bit_struct! {
    /// Responder context, 256 bits.
    pub struct ResCtx [32] {
        dst_qp set_dst_qp with_dst_qp: u32 = 0, 24;
        port set_port with_port: u8 = 24, 4;
        priority set_priority with_priority: u8 = 28, 2;
        conn_state set_conn_state with_conn_state: u8 = 30, 2;
        local_key set_local_key with_local_key: u32 = 32, 32;
        dst_ip set_dst_ip with_dst_ip: u32 = 64, 32;
        src_ip set_src_ip with_src_ip: u32 = 96, 32;
        dst_mac set_dst_mac with_dst_mac: u64 = 128, 48;
        sq_num set_sq_num with_sq_num: u8 = 176, 8;
        ecn_count set_ecn_count with_ecn_count: u8 = 184, 5;
        nack_syndrome set_nack_syndrome with_nack_syndrome: u8 = 189, 2;
        transport set_transport with_transport: u8 = 191, 1;
        expected_psn set_expected_psn with_expected_psn: u32 = 192, 24;
        log_buf_size_mask set_log_buf_size_mask with_log_buf_size_mask: u8 = 216, 5;
        cyclic_idx set_cyclic_idx with_cyclic_idx: u32 = 221, 30;
        sob_en set_sob_en with_sob_en: bool = 251, 1;
        trust_level set_trust_level with_trust_level: u8 = 252, 2;
        in_work set_in_work with_in_work: bool = 254, 1;
        valid set_valid with_valid: bool = 255, 1;
    }
}
