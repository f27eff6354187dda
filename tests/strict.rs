//! The soft device as the kernel driver was posted: one context per device, no extension. docs/strict-posted.md says what works.

use gaudi_tests::{Fabric, Failures, run_pair, spawn};
use std::time::Duration;

fn pair(fabric: &Fabric, line: &str, devices: [&str; 2]) -> Result<(), String> {
    run_pair(
        |port| {
            let side = |device: &str| format!("{line} -d {device} -p {port}");
            (
                fabric.line(&side(devices[0])),
                fabric.line(&(side(devices[1]) + " localhost")),
            )
        },
        Duration::from_secs(90),
    )
    .map(|_| ())
}

#[test]
fn data_moves_between_two_devices() {
    let fabric = Fabric::with(&["--devices", "2", "--strict-posted"]);
    let mut failures = Failures::default();
    for line in [
        "ibv_rc_pingpong -c -n 100 -g 3",
        "ibv_rc_pingpong -c -s 65536 -n 50 -g 1",
        "ib_write_bw -F -n 100",
        "ib_write_bw -F -s 64 -n 100",
    ] {
        failures.note(line, pair(&fabric, line, ["hbl_0", "hbl_1"]));
    }
    failures.check();
}

#[test]
fn devinfo_works() {
    let done = spawn(Fabric::with(&["--strict-posted"]).line("ibv_devinfo -v"))
        .finish(Duration::from_secs(30));
    assert!(done.success() && done.stdout.contains("hbl_0"), "{done}");
}

/// Without a GID index ibv_rc_pingpong exchanges LIDs only, and the posted kernel's ports have none: refused as on every RoCE device.
#[test]
fn a_path_without_a_gid_is_refused() {
    let fabric = Fabric::with(&["--devices", "2", "--strict-posted"]);
    let refused = pair(&fabric, "ibv_rc_pingpong -n 10", ["hbl_0", "hbl_1"]).unwrap_err();
    assert!(refused.contains("Failed to modify QP to RTR"), "{refused}");
    assert!(!refused.contains("in time"), "{refused}");
}

/// One device serves one process: the second is refused at open and says so, it does not hang.
#[test]
fn a_second_process_is_refused() {
    let fabric = Fabric::with(&["--strict-posted"]);
    let line = "ibv_rc_pingpong -n 10";
    let refused = pair(&fabric, line, ["hbl_0", "hbl_0"]).unwrap_err();
    assert!(
        !refused.contains("in time") || refused.contains("busy") || refused.contains("get context"),
        "{refused}"
    );
}
