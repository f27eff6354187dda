//! Ten thousand receivers that take their last message and end at once.

use gaudi_tests::{Fabric, compile, spawn};
use std::time::Duration;

#[test]
fn the_sender_never_sees_an_error() {
    let program = compile("last_exit");
    let command = Fabric::two_devices().run(program.as_os_str(), ["10000", "1"]);
    let done = spawn(command).finish(Duration::from_secs(800));
    assert!(done.success(), "{done}");
    eprintln!("{}", done.stdout.trim());
}
