//! The op tables of all releases.

#![allow(dead_code, reason = "the included module serves the provider")]

#[path = "../src/optable.rs"]
mod optable;

use optable::{KNOWN, MAX_SLOTS, OPS, fill, names};

fn index(slots: usize, name: &str) -> Option<usize> {
    names(slots).position(|n| n == name)
}

#[test]
fn known_tables_are_complete_and_sorted() {
    for (slots, context_size) in KNOWN {
        let table: Vec<_> = names(slots).collect();
        assert_eq!(table.len(), slots);
        assert!(table.is_sorted(), "{slots}");
        assert!(context_size >= 648 && context_size % 8 == 0);
    }
    assert!(
        OPS.iter()
            .all(|(_, since)| KNOWN.iter().any(|(slots, _)| slots == since))
    );
    for unknown in [0, 72, 74, 77, 78, 80, 82, 92, 94] {
        assert_eq!(names(unknown).count(), 0, "{unknown}");
    }
}

#[test]
fn ops_stand_where_driver_h_has_them() {
    // rdma-core 44: indices of struct verbs_context_ops.
    for (name, at) in [
        ("advise_mr", 0),
        ("alloc_pd", 5),
        ("async_event", 7),
        ("cq_event", 12),
        ("create_ah", 13),
        ("create_cq", 15),
        ("create_cq_ex", 16),
        ("create_qp", 19),
        ("create_qp_ex", 20),
        ("dealloc_pd", 26),
        ("dereg_mr", 28),
        ("destroy_ah", 29),
        ("destroy_cq", 31),
        ("destroy_qp", 34),
        ("free_context", 39),
        ("modify_qp", 47),
        ("poll_cq", 53),
        ("post_recv", 54),
        ("post_send", 55),
        ("query_device_ex", 58),
        ("query_port", 60),
        ("query_qp", 61),
        ("query_qp_data_in_order", 62),
        ("reg_mr", 68),
        ("req_notify_cq", 69),
        ("resize_cq", 71),
        ("unimport_pd", 75),
    ] {
        assert_eq!(index(76, name), Some(at), "{name}");
    }
    // What later releases inserted, each in its own numbering.
    let inserted: [(usize, &[(&str, usize)]); 4] = [
        (
            79,
            &[("alloc_dmah", 2), ("dealloc_dmah", 26), ("reg_mr_ex", 71)],
        ),
        (
            81,
            &[
                ("alloc_dmah", 2),
                ("dm_export_dmabuf_fd", 41),
                ("query_port_speed", 64),
                ("reg_mr_ex", 73),
            ],
        ),
        (
            83,
            &[
                ("alloc_buf", 1),
                ("alloc_dmah", 3),
                ("free_buf", 43),
                ("query_port_speed", 66),
                ("reg_mr_ex", 75),
            ],
        ),
        (
            93,
            &[
                ("alloc_buf", 1),
                ("create_comp_cntr", 16),
                ("dealloc_dmah", 28),
                ("destroy_comp_cntr", 34),
                ("dm_export_dmabuf_fd", 44),
                ("free_buf", 45),
                ("inc_comp_cntr", 52),
                ("inc_err_comp_cntr", 53),
                ("qp_attach_comp_cntr", 67),
                ("query_comp_cntr_caps", 68),
                ("query_port_speed", 72),
                ("read_comp_cntr", 77),
                ("read_err_comp_cntr", 79),
                ("reg_mr_ex", 83),
                ("set_comp_cntr", 87),
                ("set_err_comp_cntr", 89),
            ],
        ),
    ];
    for (slots, ops) in inserted {
        for &(name, at) in ops {
            assert_eq!(index(slots, name), Some(at), "{slots} {name}");
        }
    }
    // rdma-core 34 and 35 lack these.
    assert_eq!(index(73, "import_dm"), None);
    assert_eq!(index(75, "query_qp_data_in_order"), None);
}

#[test]
fn tables_hold_what_is_implemented_and_nothing_else() {
    let ops = [("poll_cq", 1000), ("reg_mr_ex", 1001), ("alloc_pd", 1002)];
    for (slots, _) in KNOWN {
        let table = fill(slots, &ops);
        assert_eq!(index(slots, "poll_cq").map(|i| table[i]), Some(1000));
        assert_eq!(index(slots, "alloc_pd").map(|i| table[i]), Some(1002));
        assert_eq!(
            table.iter().filter(|&&op| op != 0).count(),
            if slots >= 79 { 3 } else { 2 }
        );
    }
    assert_eq!(fill(80, &ops), [0; MAX_SLOTS]);
}
