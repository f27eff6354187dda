//! Children of processes that have a device open, and programs that become others (tests/c/fork.c).

use gaudi_tests::{Fabric, compile, spawn};
use std::time::Duration;

fn case(arguments: &[&str]) {
    let program = compile("fork");
    let fabric = Fabric::two_devices();
    let done = spawn(fabric.run(program.as_os_str(), arguments)).finish(Duration::from_secs(60));
    print!("{}", done.stdout);
    assert!(done.success(), "{done}");
    let devices = fabric.devices();
    assert!(devices.contains("No process uses it"), "{devices}");
}

#[test]
fn traffic_goes_on_while_children_come_and_go() {
    case(&["children"]);
}

/// The memory of the registrations is not in the children.
#[test]
fn the_same_after_ibv_fork_init() {
    case(&["children", "fork-init"]);
}

#[test]
fn who_becomes_another_program_is_dead() {
    case(&["exec-self"]);
}

#[test]
fn a_child_that_stays_does_not_hide_that() {
    case(&["exec-with-child"]);
}

#[test]
fn a_child_that_stays_does_not_hide_a_death() {
    case(&["orphan"]);
}
