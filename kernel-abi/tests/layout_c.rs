//! Compares every struct, bit field and shared constant with what a C compiler makes of the kernel's installed headers
//! and of our own C declarations. Needs `cc` (or `$CC`) and the headers of libibverbs-dev.

mod constants;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use gaudi_kernel_abi::cmd;
use gaudi_kernel_abi::layout::{BitFields, Bits, Field, Layout};
use gaudi_kernel_abi::{accel, gaudi1, gaudi2, hbl, uverbs};

/// One Rust struct and the C type it must equal.
struct Pair {
    rust: &'static str,
    c_type: &'static str,
    size: usize,
    fields: &'static [Field],
    bits: &'static [Bits],
    /// Rust field name to C member designator, where they differ
    renames: &'static [(&'static str, &'static str)],
}

fn plain<T: Layout>(
    c_type: &'static str,
    renames: &'static [(&'static str, &'static str)],
) -> Pair {
    Pair {
        rust: T::NAME,
        c_type,
        size: T::SIZE,
        fields: T::FIELDS,
        bits: &[],
        renames,
    }
}

fn bits<T: BitFields>(c_type: &'static str) -> Pair {
    // `inline` is a keyword in C.
    Pair {
        rust: T::NAME,
        c_type,
        size: T::SIZE,
        fields: &[],
        bits: T::BITS,
        renames: &[("inline", "inline_")],
    }
}

impl Pair {
    fn c_member(&self, name: &'static str) -> &'static str {
        self.renames
            .iter()
            .find(|(rust, _)| *rust == name)
            .map_or(name, |(_, c)| c)
    }

    /// Fields that C leaves to padding have no member.
    fn c_fields(&self) -> impl Iterator<Item = (&Field, &'static str)> {
        self.fields
            .iter()
            .map(|f| (f, self.c_member(f.name)))
            .filter(|(_, c)| !c.is_empty())
    }
}

macro_rules! plain {
    ($( $rust:ty => $c:literal $( [ $($r:literal = $cm:literal),* $(,)? ] )? ),* $(,)?) => {
        vec![ $( plain::<$rust>($c, &[ $( $( ($r, $cm) ),* )? ]) ),* ]
    };
}

fn uapi_pairs() -> Vec<Pair> {
    plain![
        uverbs::IoctlHdr => "struct ib_uverbs_ioctl_hdr",
        uverbs::Attr => "struct ib_uverbs_attr",
        uverbs::QueryPortRespEx => "struct ib_uverbs_query_port_resp_ex" ["legacy" = "legacy_resp"],
        uverbs::GidEntry => "struct ib_uverbs_gid_entry",
        uverbs::QpCap => "struct ib_uverbs_qp_cap",
        uverbs::AsyncEventDesc => "struct ib_uverbs_async_event_desc",
        uverbs::CompEventDesc => "struct ib_uverbs_comp_event_desc",
        cmd::WriteHdr => "struct ib_uverbs_cmd_hdr",
        cmd::ExWriteHdr => "struct ib_uverbs_ex_cmd_hdr",
        cmd::GetContextReq => "struct ib_uverbs_get_context",
        cmd::GetContextResp => "struct ib_uverbs_get_context_resp",
        cmd::QueryDeviceReq => "struct ib_uverbs_query_device",
        cmd::QueryDeviceResp => "struct ib_uverbs_query_device_resp",
        cmd::ExQueryDeviceReq => "struct ib_uverbs_ex_query_device",
        cmd::OdpCaps => "struct ib_uverbs_odp_caps" [
            "rc_odp_caps" = "per_transport_caps.rc_odp_caps",
            "uc_odp_caps" = "per_transport_caps.uc_odp_caps",
            "ud_odp_caps" = "per_transport_caps.ud_odp_caps",
        ],
        cmd::RssCaps => "struct ib_uverbs_rss_caps",
        cmd::TmCaps => "struct ib_uverbs_tm_caps",
        cmd::CqModerationCaps => "struct ib_uverbs_cq_moderation_caps",
        cmd::ExQueryDeviceResp => "struct ib_uverbs_ex_query_device_resp",
        cmd::QueryPortReq => "struct ib_uverbs_query_port",
        cmd::QueryPortResp => "struct ib_uverbs_query_port_resp",
        cmd::AllocPdReq => "struct ib_uverbs_alloc_pd",
        cmd::AllocPdResp => "struct ib_uverbs_alloc_pd_resp",
        cmd::DeallocPdReq => "struct ib_uverbs_dealloc_pd",
        cmd::OpenXrcdReq => "struct ib_uverbs_open_xrcd",
        cmd::OpenXrcdResp => "struct ib_uverbs_open_xrcd_resp",
        cmd::CloseXrcdReq => "struct ib_uverbs_close_xrcd",
        cmd::CreateCompChannelReq => "struct ib_uverbs_create_comp_channel",
        cmd::CreateCompChannelResp => "struct ib_uverbs_create_comp_channel_resp",
        cmd::RegMrReq => "struct ib_uverbs_reg_mr",
        cmd::RegMrResp => "struct ib_uverbs_reg_mr_resp",
        cmd::ReregMrReq => "struct ib_uverbs_rereg_mr",
        cmd::ReregMrResp => "struct ib_uverbs_rereg_mr_resp",
        cmd::DeregMrReq => "struct ib_uverbs_dereg_mr",
        cmd::AllocMwReq => "struct ib_uverbs_alloc_mw",
        cmd::AllocMwResp => "struct ib_uverbs_alloc_mw_resp",
        cmd::DeallocMwReq => "struct ib_uverbs_dealloc_mw",
        cmd::CreateCqReq => "struct ib_uverbs_create_cq",
        cmd::CreateCqResp => "struct ib_uverbs_create_cq_resp",
        cmd::ExCreateCqReq => "struct ib_uverbs_ex_create_cq",
        cmd::ExCreateCqResp => "struct ib_uverbs_ex_create_cq_resp",
        cmd::ResizeCqReq => "struct ib_uverbs_resize_cq",
        cmd::ResizeCqResp => "struct ib_uverbs_resize_cq_resp",
        cmd::PollCqReq => "struct ib_uverbs_poll_cq",
        cmd::PollCqResp => "struct ib_uverbs_poll_cq_resp",
        cmd::Wc => "struct ib_uverbs_wc",
        cmd::ReqNotifyCqReq => "struct ib_uverbs_req_notify_cq",
        cmd::DestroyCqReq => "struct ib_uverbs_destroy_cq",
        cmd::DestroyCqResp => "struct ib_uverbs_destroy_cq_resp",
        cmd::ExModifyCqReq => "struct ib_uverbs_ex_modify_cq" [
            "cq_count" = "attr.cq_count", "cq_period" = "attr.cq_period",
        ],
        cmd::CreateQpReq => "struct ib_uverbs_create_qp",
        cmd::CreateQpResp => "struct ib_uverbs_create_qp_resp",
        cmd::ExCreateQpReq => "struct ib_uverbs_ex_create_qp",
        cmd::ExCreateQpResp => "struct ib_uverbs_ex_create_qp_resp",
        cmd::OpenQpReq => "struct ib_uverbs_open_qp",
        cmd::QpDest => "struct ib_uverbs_qp_dest",
        cmd::QueryQpReq => "struct ib_uverbs_query_qp",
        cmd::QueryQpResp => "struct ib_uverbs_query_qp_resp",
        cmd::ModifyQpReq => "struct ib_uverbs_modify_qp",
        cmd::ExModifyQpReq => "struct ib_uverbs_ex_modify_qp",
        cmd::ExModifyQpResp => "struct ib_uverbs_ex_modify_qp_resp",
        cmd::DestroyQpReq => "struct ib_uverbs_destroy_qp",
        cmd::DestroyQpResp => "struct ib_uverbs_destroy_qp_resp",
        cmd::AhAttr => "struct ib_uverbs_ah_attr" [
            "dgid" = "grh.dgid", "flow_label" = "grh.flow_label", "sgid_index" = "grh.sgid_index",
            "hop_limit" = "grh.hop_limit", "traffic_class" = "grh.traffic_class", "grh_reserved" = "grh.reserved",
        ],
        cmd::CreateAhReq => "struct ib_uverbs_create_ah",
        cmd::CreateAhResp => "struct ib_uverbs_create_ah_resp",
        cmd::DestroyAhReq => "struct ib_uverbs_destroy_ah",
        cmd::McastReq => "struct ib_uverbs_attach_mcast",
        cmd::McastReq => "struct ib_uverbs_detach_mcast",
        cmd::CreateSrqReq => "struct ib_uverbs_create_srq",
        cmd::CreateXsrqReq => "struct ib_uverbs_create_xsrq",
        cmd::CreateSrqResp => "struct ib_uverbs_create_srq_resp",
        cmd::ModifySrqReq => "struct ib_uverbs_modify_srq",
        cmd::QuerySrqReq => "struct ib_uverbs_query_srq",
        cmd::QuerySrqResp => "struct ib_uverbs_query_srq_resp",
        cmd::DestroySrqReq => "struct ib_uverbs_destroy_srq",
        cmd::DestroySrqResp => "struct ib_uverbs_destroy_srq_resp",
        cmd::PostSendReq => "struct ib_uverbs_post_send",
        cmd::PostSendResp => "struct ib_uverbs_post_send_resp",
        cmd::SendWr => "struct ib_uverbs_send_wr",
        cmd::Sge => "struct ib_uverbs_sge",
        cmd::PostRecvReq => "struct ib_uverbs_post_recv",
        cmd::PostRecvResp => "struct ib_uverbs_post_recv_resp",
        cmd::RecvWr => "struct ib_uverbs_recv_wr",
        cmd::PostSrqRecvReq => "struct ib_uverbs_post_srq_recv",
        cmd::PostSrqRecvResp => "struct ib_uverbs_post_srq_recv_resp",
        cmd::ExCreateFlowReq => "struct ib_uverbs_create_flow" [
            "flow_type" = "flow_attr.type", "size" = "flow_attr.size", "priority" = "flow_attr.priority",
            "num_of_specs" = "flow_attr.num_of_specs", "reserved" = "flow_attr.reserved",
            "port" = "flow_attr.port", "flags" = "flow_attr.flags",
        ],
        cmd::ExCreateFlowResp => "struct ib_uverbs_create_flow_resp",
        cmd::ExDestroyFlowReq => "struct ib_uverbs_destroy_flow",
        cmd::ExCreateWqReq => "struct ib_uverbs_ex_create_wq",
        cmd::ExCreateWqResp => "struct ib_uverbs_ex_create_wq_resp",
        cmd::ExModifyWqReq => "struct ib_uverbs_ex_modify_wq",
        cmd::ExDestroyWqReq => "struct ib_uverbs_ex_destroy_wq",
        cmd::ExDestroyWqResp => "struct ib_uverbs_ex_destroy_wq_resp",
        cmd::ExCreateRwqIndTblReq => "struct ib_uverbs_ex_create_rwq_ind_table",
        cmd::ExCreateRwqIndTblResp => "struct ib_uverbs_ex_create_rwq_ind_table_resp",
        cmd::ExDestroyRwqIndTblReq => "struct ib_uverbs_ex_destroy_rwq_ind_table",
    ]
}

fn driver_pairs() -> Vec<Pair> {
    plain![
        hbl::AllocUcontextReq => "struct hbl_alloc_ucontext_req",
        hbl::AllocUcontextResp => "struct hbl_alloc_ucontext_resp",
        hbl::AllocPdResp => "struct hbl_alloc_pd_resp",
        hbl::CreateCqReq => "struct hbl_create_cq_req",
        hbl::CreateCqResp => "struct hbl_create_cq_resp",
        hbl::ModifyQpReq => "struct hbl_modify_qp_req" ["padding" = ""],
        hbl::ModifyQpResp => "struct hbl_modify_qp_resp",
        hbl::CreateUsrFifoIn => "struct hbl_usr_fifo_create_in",
        hbl::CreateUsrFifoOut => "struct hbl_usr_fifo_create_out",
        hbl::WqArrayAttr => "struct hbl_wq_array_attr",
        hbl::SetPortExIn => "struct hbl_set_port_ex_in",
        hbl::QueryPortIn => "struct hbl_query_port_in",
        hbl::QueryPortOut => "struct hbl_query_port_out",
        hbl::CreateEncapIn => "struct hbl_encap_create_in",
        hbl::CreateEncapOut => "struct hbl_encap_create_out",
        accel::InfoArgs => "struct accel_info_args",
        accel::HwIpInfo => "struct accel_hw_ip_info",
        accel::DramUsage => "struct accel_dram_usage",
        accel::DeviceStatus => "struct accel_device_status",
        accel::MemArgs => "union accel_mem_args" [
            "words" = "in.words", "op" = "in.op", "flags" = "in.flags", "ctx_id" = "in.ctx_id",
            "num_of_elements" = "in.num_of_elements",
        ],
        gaudi1::NicArgs => "struct g1_nic_args",
        gaudi1::AllocConnIn => "struct g1_alloc_conn_in",
        gaudi1::AllocConnOut => "struct g1_alloc_conn_out",
        gaudi1::SetReqConnCtxIn => "struct g1_set_req_conn_ctx_in",
        gaudi1::SetResConnCtxIn => "struct g1_set_res_conn_ctx_in",
        gaudi1::DestroyConnIn => "struct g1_destroy_conn_in",
        gaudi1::CqCreateIn => "struct g1_cq_create_in",
        gaudi1::CqCreateOut => "struct g1_cq_create_out",
        gaudi1::CqDestroyIn => "struct g1_cq_destroy_in",
        gaudi1::CqPollIn => "struct g1_cq_poll_in",
        gaudi1::CqPollOut => "struct g1_cq_poll_out",
        gaudi1::CqUpdateConsumedIn => "struct g1_cq_update_consumed_in",
        gaudi1::UserWqSetIn => "struct g1_user_wq_set_in",
        gaudi1::UserWqUnsetIn => "struct g1_user_wq_unset_in",
        gaudi1::Cqe16 => "struct g1_cqe16",
    ]
}

fn hardware_pairs() -> Vec<Pair> {
    vec![
        bits::<gaudi2::SendWqe>("struct g2_send_wqe"),
        bits::<gaudi2::SendWqe64>("struct g2_send_wqe64"),
        bits::<gaudi2::RecvWqe>("struct g2_recv_wqe"),
        bits::<gaudi2::Cqe>("struct g2_cqe"),
        bits::<gaudi2::Eqe>("struct g2_eqe"),
        bits::<gaudi2::Doorbell>("struct g2_doorbell"),
        bits::<gaudi2::ReqCtx>("struct g2_req_ctx"),
        bits::<gaudi2::ResCtx>("struct g2_res_ctx"),
        bits::<gaudi1::ReqCtx>("struct g1_req_ctx"),
        bits::<gaudi1::ResCtx>("struct g1_res_ctx"),
        bits::<gaudi1::SendWqe>("struct g1_send_wqe"),
        bits::<gaudi1::RecvWqe>("struct g1_recv_wqe"),
        bits::<gaudi1::Cqe>("struct g1_cqe"),
    ]
}

/// Compiles and runs a program made of these includes and this body of `main`; returns its lines.
fn run_c(name: &str, includes: &[&str], body: &str) -> Vec<String> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let here: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/layout");
    let source = dir.join(format!("{name}.c"));
    let binary = dir.join(name);
    let mut text = String::from("#include <stddef.h>\n#include <stdio.h>\n#include <string.h>\n");
    for include in includes {
        writeln!(text, "#include {include}").unwrap();
    }
    // All ones in one field of a zeroed struct shows which bits the compiler gave it.
    text.push_str(
        "#define BITS(type, field) do { type v; memset(&v, 0, sizeof v); v.field = ~(__typeof__(v.field + 0ull))0; \\\n\
         for (size_t i = 0; i < sizeof v; i++) printf(\"%02x\", ((unsigned char *)&v)[i]); puts(\"\"); } while (0)\n\
         #define SIZE(type) printf(\"%zu\\n\", sizeof(type))\n\
         #define FIELD(type, field) printf(\"%zu %zu\\n\", offsetof(type, field), sizeof(((type *)0)->field))\n\
         #define VALUE(expr) printf(\"%llu\\n\", (unsigned long long)(expr))\n\
         int main(void) {\n",
    );
    text.push_str(body);
    text.push_str("return 0; }\n");
    std::fs::write(&source, text).unwrap();

    let cc = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let out = Command::new(&cc)
        .args(["-std=gnu11", "-w", "-I"])
        .arg(&here)
        .arg("-o")
        .arg(&binary)
        .arg(&source)
        .output()
        .unwrap_or_else(|e| {
            panic!(
                "{}: {e}; this test needs a C compiler",
                cc.to_string_lossy()
            )
        });
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let out = Command::new(&binary).output().unwrap();
    assert!(out.status.success());
    String::from_utf8(out.stdout)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect()
}

fn compare(name: &str, includes: &[&str], pairs: &[Pair]) {
    let mut body = String::new();
    for pair in pairs {
        writeln!(body, "SIZE({});", pair.c_type).unwrap();
        for (_, c) in pair.c_fields() {
            writeln!(body, "FIELD({}, {c});", pair.c_type).unwrap();
        }
        for field in pair.bits {
            writeln!(
                body,
                "BITS({}, {});",
                pair.c_type,
                pair.c_member(field.name)
            )
            .unwrap();
        }
    }
    let lines = run_c(name, includes, &body);
    let mut lines = lines.iter();
    for pair in pairs {
        assert_eq!(
            lines.next().unwrap(),
            &pair.size.to_string(),
            "size of {} / {}",
            pair.rust,
            pair.c_type
        );
        for (field, c) in pair.c_fields() {
            let expected = format!("{} {}", field.offset, field.size);
            assert_eq!(
                lines.next().unwrap(),
                &expected,
                "{}.{} / {}.{c}",
                pair.rust,
                field.name,
                pair.c_type
            );
        }
        for field in pair.bits {
            let mut bytes = vec![0u8; pair.size];
            for bit in field.lo..field.lo + field.width {
                bytes[bit as usize / 8] |= 1 << (bit % 8);
            }
            let expected: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(
                lines.next().unwrap(),
                &expected,
                "{}.{} / {}",
                pair.rust,
                field.name,
                pair.c_type
            );
        }
    }
    assert!(lines.next().is_none());
}

const RDMA_HEADERS: &[&str] = &[
    "<rdma/ib_user_ioctl_verbs.h>",
    "<rdma/ib_user_ioctl_cmds.h>",
    "<rdma/rdma_user_ioctl_cmds.h>",
];

#[test]
fn uverbs_structs_equal_the_kernel_headers() {
    compare("uapi", RDMA_HEADERS, &uapi_pairs());
}

#[test]
fn driver_structs_equal_c() {
    compare("driver", &["\"abi.h\""], &driver_pairs());
}

#[test]
fn hardware_bits_equal_c() {
    compare("hardware", &["\"hardware.h\""], &hardware_pairs());
}

#[test]
fn constants_equal_the_kernel_headers() {
    let mut includes = RDMA_HEADERS.to_vec();
    includes.push("<infiniband/verbs.h>");
    let all = constants::all();
    let body: String = all.iter().map(|(c, _)| format!("VALUE({c});\n")).collect();
    let lines = run_c("constants", &includes, &body);
    assert_eq!(lines.len(), all.len());
    for ((c, rust), line) in all.iter().zip(&lines) {
        assert_eq!(line, &rust.to_string(), "{c}");
    }
}
