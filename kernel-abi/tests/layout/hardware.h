/* Hardware structures as sequences of bit fields, gaps spelled out. "packed" lets a field cross a word, which some do.
 * Written from the public tables; compared with the Rust declarations by layout_c.rs. */
#include <stdint.h>

#define PACKED __attribute__((packed))
#define CAT2(a, b) a##b
#define CAT(a, b) CAT2(a, b)
#define F(name, width) uint64_t name : width;
#define GAP(width) uint64_t CAT(gap_, __LINE__) : width;

#define G2_SEND_HEAD \
	F(opcode, 5) F(trace_data, 1) F(trace_en, 1) F(reserved0, 1) F(wqe_index, 8) F(reduction, 13) \
	F(solicited, 1) F(inline_, 1) F(ack_req, 1) F(size, 32) F(local_addr, 64) F(remote_addr, 64) F(tag, 32) \
	F(remote_sob_addr, 27) F(sob_data, 2) F(sob_cmd, 1) F(comp_type, 2)

struct g2_send_wqe { G2_SEND_HEAD } PACKED;
struct g2_send_wqe64 {
	G2_SEND_HEAD
	F(stride1, 32) F(stride2, 32) F(stride3, 32) F(stride4, 32)
	F(n_strides1, 16) F(n_strides2, 16) F(n_strides3, 16) F(n_strides4, 16)
	F(stride_size, 32) F(reserved1, 32)
} PACKED;
struct g2_recv_wqe {
	F(opcode, 5) F(reserved0, 3) F(wqe_index, 8) F(reserved1, 15) F(sob_cmd, 1)
	F(local_sob_addr, 27) F(sob_data, 3) F(comp_type, 2) F(size, 32) F(tag, 32)
} PACKED;
struct g2_cqe {
	F(qpn, 24) F(is_requester, 1) F(undescribed, 6) F(valid, 1) F(wqe_index, 32) F(tag, 32) F(size, 32)
} PACKED;
struct g2_eqe {
	F(event_type, 4)
	GAP(27)
	F(valid, 1) F(data1, 32) F(data2, 32) F(data3, 32)
} PACKED;
struct g2_doorbell { F(pi, 22) F(reserved, 10) F(qpn, 24) F(port, 8) } PACKED;
struct g2_req_ctx {
	F(dst_qp, 24)
	GAP(8)
	F(offset_in_stride, 32)
	F(stride_idx1, 16) F(stride_idx2, 16) F(stride_idx3, 16) F(stride_idx4, 16)
	F(remote_key, 32) F(dst_ip, 32) F(dst_mac, 48) F(seq_err_retry_count, 8) F(timeout_retry_count, 8)
	F(nts_psn, 24)
	GAP(8)
	F(bcs_psn, 24) F(sched_q, 8) F(ona_psn, 24)
	GAP(8)
	F(bcc_psn, 24) F(timer_granularity, 7) F(wq_back_pressure, 1)
	F(cong_marked_acks, 24) F(remote_wq_log_size, 5) F(encap_type, 3)
	F(cong_unmarked_acks, 24) F(cq_num, 5) F(rtt_state, 2) F(encap_enable, 1)
	F(cong_window, 24)
	GAP(8)
	F(rtt_timestamp, 25)
	GAP(7)
	F(rtt_marked_psn, 24)
	GAP(8)
	F(burst_size, 22) F(asid, 10) F(last_idx, 22)
	GAP(10)
	F(execution_idx, 22)
	GAP(10)
	F(consumer_idx, 22)
	GAP(10)
	F(local_pi, 22)
	GAP(10)
	F(remote_pi, 22)
	GAP(10)
	F(remote_ci, 22)
	GAP(10)
	F(oldest_unacked_remote_pi, 22)
	GAP(10)
	F(psn_since_ack_req, 8) F(ack_req_freq, 8)
	GAP(16)
	F(pacing_time, 16)
	GAP(16)
	F(psn_delivered, 24)
	GAP(8)
	GAP(64)
	GAP(43)
	F(data_mmu_bypass, 1) F(gaudi1_mode, 1) F(port, 2) F(wq_type, 2) F(swq_granularity, 1) F(transport, 1)
	F(priority, 2) F(cong_mode, 2) F(mtu, 2) F(wq_base_addr, 2) F(trust_level, 2)
	F(in_work, 1) F(error, 1) F(valid, 1)
} PACKED;
struct g2_res_ctx {
	F(dst_qp, 24) F(port, 2) F(priority, 2) F(conn_state, 2) F(nack_syndrome, 2)
	F(local_key, 32) F(dst_ip, 32) F(dst_mac, 48) F(ecn_count, 5) F(transport, 1) F(asid, 10)
	F(peer_qp, 24) F(sched_q, 8) F(expected_psn, 24) F(trust_level, 2) F(gaudi1_mode, 1) F(data_mmu_bypass, 1)
	F(encap_type, 3) F(encap_enable, 1) F(cyclic_idx, 24) F(cq_num, 5) F(peer_wq_granularity, 1)
	F(in_work, 1) F(valid, 1)
} PACKED;

struct g1_req_ctx {
	F(dst_qp, 24) F(port, 4) F(priority, 2) F(congestion_en, 2) F(remote_key, 32) F(dst_ip, 32) F(src_ip, 32)
	F(dst_mac, 48) F(seq_err_retry_count, 8) F(timeout_retry_count, 8)
	F(nts_psn, 24) F(sq_num, 8) F(ona_psn, 24) F(timer_granularity, 7) F(sob_en, 1)
	F(cong_marked_acks, 22) F(cong_unmarked_acks, 22) F(cong_window, 22) F(rtt_timestamp, 25) F(rtt_marked_psn, 22)
	F(transport, 1) F(burst_size, 22) F(last_idx, 22) F(execution_idx, 22) F(consumer_idx, 22) F(producer_idx, 22)
	F(wq_base_addr, 24) F(rtt_state, 2) F(swq_granularity, 1) F(trust_level, 2)
	F(in_work, 1) F(error, 1) F(valid, 1)
} PACKED;
struct g1_res_ctx {
	F(dst_qp, 24) F(port, 4) F(priority, 2) F(conn_state, 2) F(local_key, 32) F(dst_ip, 32) F(src_ip, 32)
	F(dst_mac, 48) F(sq_num, 8) F(ecn_count, 5) F(nack_syndrome, 2) F(transport, 1)
	F(expected_psn, 24) F(log_buf_size_mask, 5) F(cyclic_idx, 30) F(sob_en, 1) F(trust_level, 2)
	F(in_work, 1) F(valid, 1)
} PACKED;
struct g1_send_wqe {
	F(n_strides, 16) F(reduction, 9) F(reserved0, 1) F(stride_type, 1) F(ack_req, 1) F(opcode, 4)
	F(local_addr, 50) F(size, 14) F(remote_addr, 50) F(stride_size, 14)
	F(remote_sob_addr, 26) F(reserved1, 5) F(sob_valid, 1) F(sob_data, 32) F(stride, 32)
} PACKED;
struct g1_recv_wqe {
	F(sob_data, 32) F(local_sob_addr, 26) F(reserved0, 4) F(cq_valid, 1) F(valid, 1)
} PACKED;
struct g1_cqe {
	F(qpn, 23) F(is_responder, 1)
	GAP(8)
	F(wqe_index, 22)
	GAP(9)
	F(valid, 1)
} PACKED;
