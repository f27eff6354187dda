//! Shared receive queues, UC and XRC: what other people's tools do not look at (tests/c/srq_uc_xrc.c).

use gaudi_tests::{Fabric, Failures, compile, spawn};
use std::time::Duration;

#[test]
fn events_drops_deaths_and_domains() {
    let program = compile("srq_uc_xrc");
    let fabric = Fabric::two_devices();
    let mut failures = Failures::default();
    for case in [
        "srq-events",
        "srq-shared",
        "uc-drop",
        "uc-death",
        "xrc-objects",
        "xrc-events",
    ] {
        for second in ["0", "1"] {
            let done = spawn(fabric.run(program.as_os_str(), [case, second]))
                .finish(Duration::from_secs(60));
            failures.note(
                &format!("{case}, second device {second}"),
                done.expect_success(),
            );
        }
    }
    failures.check();
}
