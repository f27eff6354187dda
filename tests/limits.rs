//! What the device advertises is what there is, to the piece (tests/c/limits.c).

use gaudi_tests::{Fabric, compile, spawn};
use std::time::Duration;

#[test]
fn each_limit_can_be_reached_and_not_exceeded() {
    let program = compile("limits");
    for ports in ["1", "2"] {
        let fabric = Fabric::with(&["--ports", ports]);
        let done = spawn(fabric.run(program.as_os_str(), [""; 0])).finish(Duration::from_secs(60));
        assert!(done.success(), "{ports} ports: {done}");
    }
}
