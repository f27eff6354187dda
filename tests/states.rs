//! Ends of a connection in different states (hazard 30), by tests/c/states.c.

use gaudi_tests::{Fabric, Failures, compile, spawn};
use std::time::Duration;

#[test]
fn ends_in_different_states() {
    let program = compile("states");
    let fabric = Fabric::two_devices();
    let mut failures = Failures::default();
    for case in [
        "self",
        "two-qps",
        "straddle",
        "two-contexts",
        "rtr-only",
        "late-rtr",
        "no-poll",
        "write-target",
    ] {
        for second in ["0", "1"] {
            let done = spawn(fabric.run(program.as_os_str(), [case, second]))
                .finish(Duration::from_secs(40));
            failures.note(
                &format!("{case}, second device {second}"),
                done.expect_success(),
            );
        }
    }
    failures.check();
}

#[test]
fn a_sender_that_left_in_peace_is_no_error_of_the_receiver() {
    let program = compile("states");
    let fabric = Fabric::with(&["--devices", "2", "--retry-ms", "300"]);
    for second in ["0", "1"] {
        let done = spawn(fabric.run(program.as_os_str(), ["left", second]))
            .finish(Duration::from_secs(40));
        assert!(done.success(), "{done}");
    }
}

/// By tests/c/renewal.c.
#[test]
fn ends_that_are_reset_and_connected_again() {
    let program = compile("renewal");
    let fabric = Fabric::with(&["--devices", "2", "--retry-ms", "500"]);
    let mut failures = Failures::default();
    for case in ["both", "alone", "uc"] {
        for second in ["0", "1"] {
            let done = spawn(fabric.run(program.as_os_str(), [case, second]))
                .finish(Duration::from_secs(40));
            failures.note(
                &format!("{case}, second device {second}"),
                done.expect_success(),
            );
        }
    }
    failures.check();
}
