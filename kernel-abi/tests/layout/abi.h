/* Driver and device structs as C sees them: fixed-width integers, natural alignment, no attributes.
 * Written from the public layouts; compared with the Rust declarations by layout_c.rs. */
#include <stdint.h>

struct hbl_alloc_ucontext_req { uint64_t ports_mask; int32_t core_fd; uint8_t use_dvs; uint8_t reserved[3]; };
struct hbl_alloc_ucontext_resp { uint64_t ports_mask, cap_mask; };
struct hbl_alloc_pd_resp { uint32_t pdn, reserved; };
struct hbl_create_cq_req { uint32_t port_num; uint8_t cq_type, flags, reserved[2]; };
struct hbl_create_cq_resp {
	uint64_t mem_handle, pi_handle, regs_handle;
	uint32_t regs_offset, cq_num, cq_size, reserved;
};
struct hbl_modify_qp_req {
	uint32_t local_key, remote_key, congestion_wnd, reserved0, dest_wq_size;
	uint8_t priority, wq_type, loopback, congestion_en, reserved1, reserved2, compression_en, reserved3;
	uint8_t encap_en, encap_num, reserved4, wq_granularity, reserved5, reserved6[5];
};
struct hbl_modify_qp_resp {
	uint64_t swq_mem_handle, rwq_mem_handle;
	uint32_t swq_mem_size, rwq_mem_size, qp_num, reserved;
};
struct hbl_usr_fifo_create_in {
	uint32_t port_num, reserved0, reserved1, usr_fifo_num_hint;
	uint8_t mode, reserved2, reserved3[6];
};
struct hbl_usr_fifo_create_out {
	uint64_t ci_handle, regs_handle;
	uint32_t usr_fifo_num, regs_offset, size, bp_thresh;
};
struct hbl_wq_array_attr {
	uint32_t max_num_of_wqs, max_num_of_wqes_in_wq;
	uint8_t mem_id, swq_granularity, reserved0[6];
	uint64_t reserved1[2];
};
struct hbl_set_port_ex_in {
	struct hbl_wq_array_attr wq_arr_attr[5];
	uint64_t qp_wq_bp_offs;
	uint32_t qp_wq_bp_offs_cnt, port_num;
	uint64_t reserved0;
	uint32_t reserved1;
	uint8_t reserved2, advanced, adaptive_timeout_en, reserved3;
};
struct hbl_query_port_in { uint32_t port_num, reserved; };
struct hbl_query_port_out {
	uint32_t max_num_of_qps, num_allocated_qps, max_allocated_qp_num, max_cq_size;
	uint32_t reserved0, reserved1, reserved2, reserved3, reserved4;
	uint8_t advanced, max_num_of_cqs, max_num_of_usr_fifos, max_num_of_encaps;
	uint8_t nic_macro_idx, nic_phys_port_idx, reserved[6];
};
struct hbl_encap_create_in {
	uint64_t tnl_hdr_ptr;
	uint32_t tnl_hdr_size, port_num, ipv4_addr;
	uint16_t udp_dst_port, ip_proto;
	uint8_t encap_type, reserved[7];
};
struct hbl_encap_create_out { uint32_t encap_num, reserved; };

struct accel_info_args { uint64_t return_pointer; uint32_t return_size, op, arg, pad; };
struct accel_hw_ip_info {
	uint64_t sram_base_address, dram_base_address, dram_size;
	uint32_t sram_size, num_of_events, device_id, module_id, decoder_enabled_mask;
	uint16_t first_available_interrupt_id, server_type;
	uint32_t cpld_version, psoc_pci_pll_nr, psoc_pci_pll_nf, psoc_pci_pll_od, psoc_pci_pll_div_factor;
	uint8_t tpc_enabled_mask, dram_enabled, security_enabled, mme_master_slave_mode;
	uint8_t cpucp_version[128], card_name[16];
	uint64_t tpc_enabled_mask_ext, dram_page_size;
	uint32_t edma_enabled_mask;
	uint16_t number_of_user_interrupts;
	uint8_t reserved1, reserved2;
	uint64_t reserved3, device_mem_alloc_default_page_size, nic_ports_mask, nic_ports_external_mask;
	uint32_t reserved6;
	uint8_t odp_supported, revision_id;
	uint16_t tpc_interrupt_id;
	uint32_t rotator_enabled_mask, reserved9;
	uint64_t engine_core_interrupt_reg_addr, reserved_dram_size;
};
struct accel_dram_usage { uint64_t dram_free_mem, ctx_dram_mem; };
struct accel_device_status { uint32_t status, pad; };
struct accel_mem_in {
	union {
		struct { uint64_t mem_size, page_size; } alloc;
		struct { uint64_t handle; } free;
		struct { uint64_t hint_addr, handle; } map_device;
		struct { uint64_t host_virt_addr, hint_addr, mem_size; } map_host;
		struct { uint64_t device_virt_addr; } unmap;
		struct { uint64_t addr, mem_size, offset; } export_dmabuf_fd;
	} words;
	uint32_t op, flags, ctx_id, num_of_elements;
};
struct accel_mem_out {
	union {
		uint64_t device_virt_addr;
		uint64_t handle;
		struct { uint64_t block_handle; uint32_t block_size, pad; } block;
		int32_t fd;
	} u;
};
union accel_mem_args { struct accel_mem_in in; struct accel_mem_out out; };

struct g1_nic_args { uint64_t input_ptr, output_ptr; uint32_t input_size, output_size, ctx_id, op; };
struct g1_alloc_conn_in { uint32_t port, pad; };
struct g1_alloc_conn_out { uint32_t conn_id, pad; };
struct g1_set_req_conn_ctx_in {
	uint32_t src_ip_addr, dst_ip_addr, dst_conn_id, burst_size, last_index, port, conn_id;
	uint8_t dst_mac_addr[6], sq_number, priority, enable_sob, timer_granularity, swq_granularity, wq_type;
	uint8_t version, cq_number, wq_remote_log_size, pad;
};
struct g1_set_res_conn_ctx_in {
	uint32_t src_ip_addr, dst_ip_addr, dst_conn_id, port, conn_id;
	uint8_t dst_mac_addr[6], priority, sq_number, enable_sob, wq_peer_granularity, cq_number, version;
	uint32_t conn_peer;
};
struct g1_destroy_conn_in { uint32_t port, conn_id; };
struct g1_cq_create_in { uint32_t num_entries, pad; };
struct g1_cq_create_out { uint64_t handle; };
struct g1_cq_destroy_in { uint64_t handle; };
struct g1_cq_poll_in { uint64_t handle, timeout_us; };
struct g1_cq_poll_out { uint32_t pi, num_cqes, status, pad; };
struct g1_cq_update_consumed_in { uint64_t handle; uint32_t cq_num_of_consumed_entries, pad; };
struct g1_user_wq_set_in { uint64_t addr; uint32_t port, num_of_wqs, num_of_wq_entries, wq_type; };
struct g1_user_wq_unset_in { uint32_t port, wq_type; };
struct g1_cqe16 { uint32_t value, port, qp_number; uint8_t cqe_type, is_err, pad[2]; };
