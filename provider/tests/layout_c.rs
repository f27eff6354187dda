//! The structs declared for the C side, against the installed `infiniband/verbs.h`.

#![allow(dead_code, reason = "only the layouts of the included module are used")]

#[path = "../src/abi.rs"]
mod abi;

use core::mem::offset_of;
use gaudi_verbs::{AhAttr, DeviceAttr, GlobalRoute, PortAttr, QpAttr, QpCap, Sge, SrqAttr, Wc};
use std::collections::HashMap;
use std::fmt::Write;
use std::process::Command;

/// A struct: its C name, our size, `(C path of a field, our offset)`.
struct Declared {
    c: &'static str,
    size: usize,
    fields: Vec<(&'static str, usize)>,
}

macro_rules! declared {
    ($t:ty, $c:literal: $($f:ident $(. $g:ident)* $(= $name:literal)?),* $(,)?) => {
        Declared {
            c: $c,
            size: size_of::<$t>(),
            fields: vec![$((declared!(@name $f $(. $g)* $(= $name)?), offset_of!($t, $f $(. $g)*))),*],
        }
    };
    (@name $($f:ident).+ = $name:literal) => { $name };
    (@name $f:ident $(. $g:ident)*) => { concat!(stringify!($f) $(, ".", stringify!($g))*) };
}

fn all() -> Vec<Declared> {
    vec![
        declared!(abi::IbvDevice, "ibv_device": node_type, transport_type, name, dev_name, dev_path, ibdev_path),
        declared!(abi::IbvContext, "ibv_context": device, ops, cmd_fd, async_fd, num_comp_vectors, mutex, abi_compat),
        declared!(abi::IbvCompChannel, "ibv_comp_channel": context, fd, refcnt),
        declared!(abi::IbvPd, "ibv_pd": context, handle),
        declared!(abi::IbvMr, "ibv_mr": context, pd, addr, length, handle, lkey, rkey),
        declared!(abi::IbvAh, "ibv_ah": context, pd, handle),
        declared!(abi::IbvCq, "ibv_cq": context, channel, cq_context, handle, cqe, mutex, cond, comp_events_completed,
            async_events_completed),
        declared!(abi::IbvCqEx, "ibv_cq_ex": cq.context = "context", cq.cond = "cond",
            cq.async_events_completed = "async_events_completed", comp_mask, status, wr_id, ops = "start_poll"),
        declared!(abi::IbvQp, "ibv_qp": context, qp_context, pd, send_cq, recv_cq, srq, handle, qp_num, state, qp_type,
            mutex, cond, events_completed),
        declared!(abi::IbvQpEx, "ibv_qp_ex": qp_base, comp_mask, wr_id, wr_flags, ops = "wr_atomic_cmp_swp"),
        declared!(abi::IbvQpInitAttr, "ibv_qp_init_attr": qp_context, send_cq, recv_cq, srq, cap, qp_type, sq_sig_all),
        declared!(abi::IbvQpInitAttrEx, "ibv_qp_init_attr_ex": qp_context, send_cq, recv_cq, srq, cap, qp_type,
            sq_sig_all, comp_mask, pd, xrcd, create_flags, max_tso_header, rwq_ind_tbl, rx_hash_conf, source_qpn,
            send_ops_flags),
        declared!(abi::IbvSendWr, "ibv_send_wr": wr_id, next, sg_list, num_sge, opcode, send_flags, imm_data, wr,
            qp_type, bind_or_tso = "bind_mw"),
        declared!(abi::IbvRecvWr, "ibv_recv_wr": wr_id, next, sg_list, num_sge),
        declared!(abi::IbvCqInitAttrEx, "ibv_cq_init_attr_ex": cqe, cq_context, channel, comp_vector, wc_flags, comp_mask,
            flags, parent_domain),
        declared!(abi::IbvModifyCqAttr, "ibv_modify_cq_attr": attr_mask, cq_count = "moderate.cq_count",
            cq_period = "moderate.cq_period"),
        declared!(abi::IbvTd, "ibv_td": context),
        declared!(abi::IbvSrq, "ibv_srq": context, srq_context, pd, handle, mutex, cond, events_completed),
        declared!(abi::IbvSrqInitAttr, "ibv_srq_init_attr": srq_context, attr),
        declared!(abi::IbvSrqInitAttrEx, "ibv_srq_init_attr_ex": srq_context, attr, comp_mask, srq_type, pd, xrcd, cq, tm_cap),
        declared!(SrqAttr, "ibv_srq_attr": max_wr, max_sge, srq_limit),
        declared!(abi::IbvXrcdInitAttr, "ibv_xrcd_init_attr": comp_mask, fd, oflags),
        declared!(abi::IbvQpOpenAttr, "ibv_qp_open_attr": comp_mask, qp_num, xrcd, qp_context, qp_type),
        declared!(abi::IbvParentDomainInitAttr, "ibv_parent_domain_init_attr": pd, td, comp_mask, alloc, free, pd_context),
        declared!(abi::IbvMw, "ibv_mw": context, pd, rkey, handle, kind = "type"),
        declared!(abi::IbvMwBindInfo, "ibv_mw_bind_info": mr, addr, length, access = "mw_access_flags"),
        declared!(abi::IbvMwBind, "ibv_mw_bind": wr_id, send_flags, bind_info),
        declared!(abi::IbvDm, "ibv_dm": context, memcpy_to_dm, memcpy_from_dm, comp_mask, handle),
        declared!(abi::IbvAllocDmAttr, "ibv_alloc_dm_attr": length, log_align_req, comp_mask),
        declared!(abi::IbvDataBuf, "ibv_data_buf": addr, length),
        declared!(abi::IbvValuesEx, "ibv_values_ex": comp_mask, raw_clock),
        declared!(abi::IbvQueryDeviceExInput, "ibv_query_device_ex_input": comp_mask),
        declared!(abi::IbvDeviceAttrEx, "ibv_device_attr_ex": orig_attr, comp_mask, odp_caps, completion_timestamp_mask,
            hca_core_clock, device_cap_flags_ex, tso_caps, rss_caps, max_wq_type_rq, packet_pacing_caps,
            raw_packet_caps, tm_caps, cq_mod_caps, max_dm_size, pci_atomic_caps, xrc_odp_caps, phys_port_cnt_ex),
        declared!(Sge, "ibv_sge": addr, length, lkey),
        declared!(Wc, "ibv_wc": wr_id, status, opcode, vendor_err, byte_len, imm_data, qp_num, src_qp, wc_flags,
            pkey_index, slid, sl, dlid_path_bits),
        declared!(GlobalRoute, "ibv_global_route": dgid, flow_label, sgid_index, hop_limit, traffic_class),
        declared!(AhAttr, "ibv_ah_attr": grh, dlid, sl, src_path_bits, static_rate, is_global, port_num),
        declared!(QpCap, "ibv_qp_cap": max_send_wr, max_recv_wr, max_send_sge, max_recv_sge, max_inline_data),
        declared!(QpAttr, "ibv_qp_attr": qp_state, cur_qp_state, path_mtu, path_mig_state, qkey, rq_psn, sq_psn,
            dest_qp_num, qp_access_flags, cap, ah_attr, alt_ah_attr, pkey_index, alt_pkey_index, en_sqd_async_notify,
            sq_draining, max_rd_atomic, max_dest_rd_atomic, min_rnr_timer, port_num, timeout, retry_cnt, rnr_retry,
            alt_port_num, alt_timeout, rate_limit),
        declared!(PortAttr, "ibv_port_attr": state, max_mtu, active_mtu, gid_tbl_len, port_cap_flags, max_msg_sz,
            bad_pkey_cntr, qkey_viol_cntr, pkey_tbl_len, lid, sm_lid, lmc, max_vl_num, sm_sl, subnet_timeout,
            init_type_reply, active_width, active_speed, phys_state, link_layer, flags, port_cap_flags2),
        declared!(DeviceAttr, "ibv_device_attr": fw_ver, node_guid, sys_image_guid, max_mr_size, page_size_cap,
            vendor_id, vendor_part_id, hw_ver, max_qp, max_qp_wr, device_cap_flags, max_sge, max_sge_rd, max_cq,
            max_cqe, max_mr, max_pd, max_qp_rd_atom, max_ee_rd_atom, max_res_rd_atom, max_qp_init_rd_atom,
            max_ee_init_rd_atom, atomic_cap, max_ee, max_rdd, max_mw, max_raw_ipv6_qp, max_raw_ethy_qp, max_mcast_grp,
            max_mcast_qp_attach, max_total_mcast_qp_attach, max_ah, max_fmr, max_map_per_fmr, max_srq, max_srq_wr,
            max_srq_sge, max_pkeys, local_ca_ack_delay, phys_port_cnt),
    ]
}

/// What differs in size between releases; ours is the largest known.
const GROWN: [&str; 2] = ["ibv_qp_ex", "ibv_port_attr"];

/// Numbers that `abi` takes from the header's enums and unions.
const CONSTANTS: [(&str, usize); 22] = [
    ("IBV_QP_INIT_ATTR_XRCD", abi::qp_init::XRCD as usize),
    ("IBV_QPT_XRC_SEND", abi::qpt::XRC_INI as usize),
    ("IBV_QPT_XRC_RECV", abi::qpt::XRC_TGT as usize),
    ("IBV_SRQT_XRC", abi::srq_type::XRC as usize),
    ("IBV_SRQ_INIT_ATTR_CQ", abi::srq_init::CQ as usize),
    (
        "offsetof(struct ibv_send_wr, qp_type.xrc.remote_srqn)",
        offset_of!(abi::IbvSendWr, qp_type),
    ),
    ("IBV_QP_INIT_ATTR_PD", abi::qp_init::PD as usize),
    (
        "IBV_QP_INIT_ATTR_CREATE_FLAGS",
        abi::qp_init::CREATE_FLAGS as usize,
    ),
    (
        "IBV_QP_INIT_ATTR_SEND_OPS_FLAGS",
        abi::qp_init::SEND_OPS_FLAGS as usize,
    ),
    ("IBV_WC_STANDARD_FLAGS", abi::wc_ex::STANDARD as usize),
    (
        "IBV_WC_EX_WITH_COMPLETION_TIMESTAMP",
        abi::wc_ex::TIMESTAMP as usize,
    ),
    (
        "IBV_WC_EX_WITH_COMPLETION_TIMESTAMP_WALLCLOCK",
        abi::wc_ex::WALLCLOCK as usize,
    ),
    ("IBV_WR_BIND_MW", abi::wr::BIND_MW as usize),
    (
        "offsetof(struct ibv_send_wr, bind_mw.bind_info.mw_access_flags)",
        offset_of!(abi::IbvSendWr, bind_or_tso) + 40,
    ),
    (
        "offsetof(struct ibv_qp_ex, wr_abort)",
        offset_of!(abi::IbvQpEx, ops) + 19 * 8,
    ),
    (
        "IBV_WR_ATOMIC_CMP_AND_SWP",
        abi::wr::ATOMIC_CMP_AND_SWP as usize,
    ),
    (
        "IBV_WR_ATOMIC_FETCH_AND_ADD",
        abi::wr::ATOMIC_FETCH_AND_ADD as usize,
    ),
    (
        "offsetof(struct ibv_send_wr, wr.rdma.rkey)",
        offset_of!(abi::IbvSendWr, wr) + 8,
    ),
    (
        "offsetof(struct ibv_send_wr, wr.atomic.compare_add)",
        offset_of!(abi::IbvSendWr, wr) + 8,
    ),
    (
        "offsetof(struct ibv_send_wr, wr.atomic.swap)",
        offset_of!(abi::IbvSendWr, wr) + 16,
    ),
    (
        "offsetof(struct ibv_send_wr, wr.atomic.rkey)",
        offset_of!(abi::IbvSendWr, wr) + 24,
    ),
    (
        "offsetof(struct ibv_cq_ex, read_completion_wallclock_ns)",
        offset_of!(abi::IbvCqEx, ops) + 17 * 8,
    ),
];

/// Values of C expressions, by compiling and running a program that prints them.
fn values(expressions: &[String]) -> HashMap<String, usize> {
    let dir = tempfile::tempdir().unwrap();
    let mut source = String::from(
        "#include <stdio.h>\n#include <stddef.h>\n#include <infiniband/verbs.h>\nint main(void) {\n",
    );
    for e in expressions {
        writeln!(source, "printf(\"%zu\\n\", (size_t)({e}));").unwrap();
    }
    source.push_str("return 0; }\n");
    let (file, binary) = (dir.path().join("probe.c"), dir.path().join("probe"));
    std::fs::write(&file, source).unwrap();
    let compiled = Command::new("cc")
        .arg("-o")
        .arg(&binary)
        .arg(&file)
        .output()
        .unwrap();
    assert!(
        compiled.status.success(),
        "{}",
        String::from_utf8_lossy(&compiled.stderr)
    );
    let output = Command::new(&binary).output().unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    let values: Vec<usize> = lines.lines().map(|l| l.parse().unwrap()).collect();
    assert_eq!(values.len(), expressions.len());
    expressions.iter().cloned().zip(values).collect()
}

#[test]
fn structs_match_the_installed_header() {
    let all = all();
    let size = |s: &Declared| format!("sizeof(struct {})", s.c);
    let offset = |s: &Declared, f: &str| format!("offsetof(struct {}, {f})", s.c);
    let mut expressions: Vec<String> = CONSTANTS.iter().map(|(e, _)| e.to_string()).collect();
    for s in &all {
        expressions.push(size(s));
        expressions.extend(s.fields.iter().map(|(f, _)| offset(s, f)));
    }
    let c = values(&expressions);
    for (e, ours) in CONSTANTS {
        assert_eq!(c[e], ours, "{e}");
    }
    for s in &all {
        let theirs = c[&size(s)];
        if GROWN.contains(&s.c) {
            assert!(theirs <= s.size, "{}: {theirs} > {}", s.c, s.size);
        } else {
            assert_eq!(theirs, s.size, "size of {}", s.c);
        }
        for (f, ours) in &s.fields {
            assert_eq!(c[&offset(s, f)], *ours, "{}.{f}", s.c);
        }
    }
    // The last bytes of the 44..48 form, which is what a query_port may write there.
    let end = c["offsetof(struct ibv_port_attr, port_cap_flags2)"] + 2;
    assert!(end <= 52);
}
