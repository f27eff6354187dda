//! Other programs of the distribution that use verbs, as they are: qperf, and libfabric's verbs provider.

use gaudi_tests::{Fabric, run_pair, sent_by_device, spawn};
use std::time::Duration;

/// Event-driven throughout; `ver_` tests check the values of atomics. The last "test" ends the server.
#[test]
fn qperf() {
    let tests = "rc_bw rc_bi_bw rc_lat rc_rdma_read_bw rc_rdma_read_lat rc_rdma_write_bw rc_rdma_write_lat rc_rdma_write_poll_lat \
                 rc_compare_swap_mr rc_fetch_add_mr ver_rc_compare_swap ver_rc_fetch_add uc_bw uc_lat uc_rdma_write_bw ud_bw ud_lat";
    let fabric = Fabric::with(&[]);
    let (_, client) = run_pair(
        |port| {
            (
                fabric.line(&format!("qperf -lp {port}")),
                fabric.line(&format!("qperf -lp {port} -t 1 127.0.0.1 {tests} quit")),
            )
        },
        Duration::from_secs(90),
    )
    .unwrap();
    for test in tests.split_whitespace() {
        // Its name, and then its figures until the next name.
        let figures: Vec<&str> = client
            .stdout
            .lines()
            .skip_while(|line| line.trim() != format!("{test}:"))
            .skip(1)
            .map_while(|line| line.split_once('='))
            .map(|(_, figure)| figure.trim())
            .collect();
        assert!(
            !figures.is_empty() && figures.iter().all(|f| !f.starts_with("0 ")),
            "{test}: {client}"
        );
    }
}

/// Reliable datagrams that libfabric makes of UD, with its check of the data.
#[test]
fn libfabric() {
    let fabric = Fabric::with(&[]);
    let info = spawn(fabric.line("fi_info -p verbs -d hbl_0")).finish(Duration::from_secs(30));
    assert!(info.stdout.contains("FI_PROTO_RDMA_CM_IB_RC"), "{info}");
    let tool = "fi_pingpong -p verbs;ofi_rxd -e rdm -c -I 20 -S";
    for size in [1, 4096, 65_536, 1_048_576] {
        run_pair(
            |port| {
                (
                    fabric.line(&format!("{tool} {size} -B {port}")),
                    fabric.line(&format!("{tool} {size} -P {port} 127.0.0.1")),
                )
            },
            Duration::from_secs(30),
        )
        .unwrap_or_else(|e| panic!("{size} bytes: {e}"));
    }
    // There and back.
    let sent = sent_by_device(&fabric);
    assert!(sent > 2 * 20 * 1_048_576, "{sent}");
}
