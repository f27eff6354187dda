//! What programs do with descriptors and threads around an open device (tests/c/descriptors.c).

use gaudi_tests::{Fabric, compile, spawn};
use std::process::Command;
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
fn a_peer_may_lose_its_first_thread() {
    case("main-exit-peer");
    case("main-exit-late");
}

#[test]
fn a_peer_is_met_when_there_are_descriptors_again() {
    case("few");
}

#[test]
fn the_usual_limit_is_enough_for_two_hundred_channels() {
    case("channels");
}

#[test]
fn no_write_reaches_the_file_behind_a_device() {
    case("strangers");
}

#[test]
fn a_program_that_closes_everything_keeps_the_device() {
    case("close-all");
}

#[test]
fn daemons_close_everything_before_and_after() {
    case("daemon");
}

/// In a mount namespace of its own, where the fabrics lie on a file system of eight megabytes.
#[test]
fn a_full_file_system_is_an_error_and_no_signal() {
    let root = rustix::process::geteuid().is_root();
    if !root
        || !Command::new("unshare")
            .args(["-m", "true"])
            .status()
            .is_ok_and(|s| s.success())
    {
        eprintln!("skipped: no right to mount");
        return;
    }
    let program = compile("descriptors");
    let fabric = Fabric::two_devices();
    let run = fabric.run(program.as_os_str(), ["room"]);
    let mount = "mount -t tmpfs -o size=8m,mode=0700 none \"$GAUDI_SOFT_ROOT\" && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", mount, "sh"]);
    command.arg(run.get_program()).args(run.get_args());
    for (name, value) in run.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let done = spawn(command).finish(Duration::from_secs(60));
    assert!(done.success(), "{done}");
}
