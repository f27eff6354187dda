//! Extended verbs through the C API, by tests/c/extended.c.

use gaudi_tests::{Fabric, Failures, compile, spawn};
use std::time::Duration;

#[test]
fn extended_verbs() {
    let program = compile("extended");
    let fabric = Fabric::two_devices();
    let mut failures = Failures::default();
    for case in [
        "cq-ex",
        "wr",
        "dm",
        "null",
        "odp",
        "dmabuf",
        "rereg",
        "mw",
        "domains",
        "channels",
        "async",
        "moderation",
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
