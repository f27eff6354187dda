//! What programs do with descriptors and threads around an open device (tests/c/descriptors.c).

use gaudi_tests::{Fabric, compile, spawn};
use std::time::Duration;

fn case(name: &str) {
    let program = compile("descriptors");
    let fabric = Fabric::two_devices();
    let done = spawn(fabric.run(program.as_os_str(), [name])).finish(Duration::from_secs(60));
    assert!(done.success(), "{done}");
}

#[test]
fn an_open_without_numbers_leaves_the_open_devices_alone() {
    case("full");
}

#[test]
fn the_first_thread_may_end_before_the_others() {
    case("main-exit");
}

#[test]
fn the_usual_limit_is_enough_for_two_hundred_channels() {
    case("channels");
}

#[test]
fn no_write_reaches_the_file_behind_a_device() {
    case("strangers");
}
