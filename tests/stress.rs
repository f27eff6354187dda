//! Everything at once, and everything in large numbers (tests/c/stress.c, tests/c/late_death.c).

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
