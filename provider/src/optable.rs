//! `struct verbs_context_ops` of each release. It is a struct of function pointers sorted by name, so new ops land in the
//! middle; the number of slots is what identifies a release (rdma-core 34: 73, 35: 75, 36..58: 76, 59: 79, 62: 81, 64: 83,
//! 65: 93). The list below names each op with the number of slots of the first table that has it.

/// Slots of the largest known table.
pub(crate) const MAX_SLOTS: usize = 93;

/// Sizes of `struct verbs_context_ops` in slots, with the size of `struct verbs_context` that goes with it.
pub(crate) const KNOWN: [(usize, usize); 7] = [
    (73, 648),
    (75, 648),
    (76, 648),
    (79, 672),
    (81, 680),
    (83, 696),
    (MAX_SLOTS, 696),
];

#[rustfmt::skip]
pub(crate) const OPS: [(&str, usize); MAX_SLOTS] = [
    ("advise_mr", 73), ("alloc_buf", 83), ("alloc_dm", 73), ("alloc_dmah", 79), ("alloc_mw", 73), ("alloc_null_mr", 73),
    ("alloc_parent_domain", 73), ("alloc_pd", 73), ("alloc_td", 73), ("async_event", 73),
    ("attach_counters_point_flow", 73), ("attach_mcast", 73), ("bind_mw", 73), ("close_xrcd", 73), ("cq_event", 73),
    ("create_ah", 73), ("create_comp_cntr", 93), ("create_counters", 73), ("create_cq", 73), ("create_cq_ex", 73),
    ("create_flow", 73), ("create_flow_action_esp", 73), ("create_qp", 73), ("create_qp_ex", 73),
    ("create_rwq_ind_table", 73), ("create_srq", 73), ("create_srq_ex", 73), ("create_wq", 73), ("dealloc_dmah", 79),
    ("dealloc_mw", 73), ("dealloc_pd", 73), ("dealloc_td", 73), ("dereg_mr", 73), ("destroy_ah", 73),
    ("destroy_comp_cntr", 93), ("destroy_counters", 73), ("destroy_cq", 73), ("destroy_flow", 73),
    ("destroy_flow_action", 73), ("destroy_qp", 73), ("destroy_rwq_ind_table", 73), ("destroy_srq", 73),
    ("destroy_wq", 73), ("detach_mcast", 73), ("dm_export_dmabuf_fd", 81), ("free_buf", 83), ("free_context", 73),
    ("free_dm", 73), ("get_srq_num", 73), ("import_dm", 75), ("import_mr", 73), ("import_pd", 73),
    ("inc_comp_cntr", 93), ("inc_err_comp_cntr", 93), ("modify_cq", 73), ("modify_flow_action_esp", 73),
    ("modify_qp", 73), ("modify_qp_rate_limit", 73), ("modify_srq", 73), ("modify_wq", 73), ("open_qp", 73),
    ("open_xrcd", 73), ("poll_cq", 73), ("post_recv", 73), ("post_send", 73), ("post_srq_ops", 73),
    ("post_srq_recv", 73), ("qp_attach_comp_cntr", 93), ("query_comp_cntr_caps", 93), ("query_device_ex", 73),
    ("query_ece", 73), ("query_port", 73), ("query_port_speed", 81), ("query_qp", 73), ("query_qp_data_in_order", 76),
    ("query_rt_values", 73), ("query_srq", 73), ("read_comp_cntr", 93), ("read_counters", 73),
    ("read_err_comp_cntr", 93), ("reg_dm_mr", 73), ("reg_dmabuf_mr", 73), ("reg_mr", 73), ("reg_mr_ex", 79),
    ("req_notify_cq", 73), ("rereg_mr", 73), ("resize_cq", 73), ("set_comp_cntr", 93), ("set_ece", 73),
    ("set_err_comp_cntr", 93), ("unimport_dm", 75), ("unimport_mr", 73), ("unimport_pd", 73),
];

/// Names of the ops of a table, in its order; empty for a number of slots that no known release has.
pub(crate) fn names(slots: usize) -> impl Iterator<Item = &'static str> {
    let known = KNOWN.iter().any(|&(n, _)| n == slots);
    OPS.iter()
        .filter(move |(_, since)| known && *since <= slots)
        .map(|&(name, _)| name)
}

/// A table for a library with `slots` slots. Ops that the release does not have are left out, slots without an op stay
/// zero, which keeps the library's own "not supported".
pub(crate) fn fill(slots: usize, ops: &[(&str, usize)]) -> [usize; MAX_SLOTS] {
    let mut table = [0; MAX_SLOTS];
    for (slot, name) in table.iter_mut().zip(names(slots)) {
        *slot = ops
            .iter()
            .find(|(n, _)| *n == name)
            .map_or(0, |&(_, op)| op);
    }
    table
}
