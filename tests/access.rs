//! Wrong keys, bounds, rights and lengths (tests/c/access.c): the right status and not one byte written.

use gaudi_tests::{Fabric, Failures, compile, spawn};
use std::time::Duration;

#[test]
fn the_right_status_and_no_byte_written() {
    let program = compile("access");
    let fabric = Fabric::two_devices();
    let mut failures = Failures::default();
    for second in ["0", "1"] {
        let done =
            spawn(fabric.run(program.as_os_str(), [second])).finish(Duration::from_secs(120));
        failures.note(&format!("second device {second}"), done.expect_success());
    }
    failures.check();
}
