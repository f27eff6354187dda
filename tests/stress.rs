//! Everything at once, and everything in large numbers (tests/c/stress.c, late_death.c, scale.c, threads.c).

use gaudi_tests::{Fabric, Failures, compile, spawn};
use std::time::Duration;

/// Nobody uses a device of the fabric any more, and no QP is left of those that were killed.
fn assert_unused(fabric: &Fabric) {
    let devices = fabric.devices();
    assert!(devices.contains("No process uses it"), "{devices}");
}

/// Two processes exchange a random mix of everything while QPs fail, memory is deregistered and processes are killed.
/// `GAUDI_TESTS_LONG=1`: a minute for each of five seeds.
#[test]
fn a_random_mix_of_everything_with_errors_and_kills() {
    let program = compile("stress");
    let (seconds, kills, seeds) = match std::env::var_os("GAUDI_TESTS_LONG") {
        None => ("6", "3", 1..=2),
        Some(_) => ("60", "30", 1..=5),
    };
    let mut failures = Failures::default();
    for seed in seeds {
        let fabric = Fabric::two_devices();
        let seed = seed.to_string();
        let done = spawn(fabric.run(program.as_os_str(), [seconds, kills, &seed]))
            .finish(Duration::from_secs(100));
        print!("seed {seed}: {}", done.stdout);
        failures.note(&format!("seed {seed}"), done.expect_success());
        assert_unused(&fabric);
    }
    failures.check();
}

#[test]
fn a_peer_may_be_killed_at_any_step_of_connecting_to_it() {
    let program = compile("late_death");
    let fabric = Fabric::two_devices();
    let done = spawn(fabric.run(program.as_os_str(), [""; 0])).finish(Duration::from_secs(60));
    assert!(done.success(), "{done}");
    assert_unused(&fabric);
}

/// tests/c/scale.c
fn large_numbers(arguments: &[&str]) {
    let program = compile("scale");
    let fabric = Fabric::two_devices();
    let done = spawn(fabric.run(program.as_os_str(), arguments)).finish(Duration::from_secs(100));
    print!("{}", done.stdout);
    assert!(done.success(), "{done}");
    assert_unused(&fabric);
}

/// In milliseconds and kilobytes each, with data both ways over every one, under a limit of 1024 descriptors; when one process is killed, all
/// of the other's fail.
#[test]
fn four_thousand_pairs_of_two_processes() {
    large_numbers(&["pairs", "4000"]);
}

#[test]
fn more_queue_pairs_on_one_srq_than_a_pipe_holds_events() {
    large_numbers(&["srq", "4500"]);
}

#[test]
fn ten_thousand_regions_and_a_hundred_thousand_times_one() {
    large_numbers(&["regions", "10000", "100000"]);
}

/// tests/c/threads.c
#[test]
fn every_object_used_by_many_threads_at_once() {
    let program = compile("threads");
    let fabric = Fabric::two_devices();
    let done = spawn(fabric.run(program.as_os_str(), ["3"])).finish(Duration::from_secs(60));
    print!("{}", done.stdout);
    assert!(done.success(), "{done}");
    assert_unused(&fabric);
}
