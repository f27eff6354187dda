//! Datagrams: ibverbs-utils, and what they do not look at (tests/c/ud.c).

use gaudi_tests::{Fabric, Failures, compile, run_pair, spawn};
use std::time::Duration;

fn pair(fabric: &Fabric, tool: &str, devices: [&str; 2]) -> Result<String, String> {
    let (server, client) = run_pair(
        |port| {
            let line = |device: &str| format!("{tool} -d {device} -p {port}");
            (
                fabric.line(&line(devices[0])),
                fabric.line(&(line(devices[1]) + " localhost")),
            )
        },
        Duration::from_secs(60),
    )?;
    if format!("{}{}", server.stdout, client.stdout).contains("invalid data") {
        return Err(format!("{server}{client}"));
    }
    Ok(client.stdout)
}

#[test]
fn ud_pingpong() {
    let fabric = Fabric::two_devices();
    let mut failures = Failures::default();
    for devices in [["hbl_0", "hbl_0"], ["hbl_0", "hbl_1"]] {
        for args in ["", "-e", "-s 1", "-s 4096", "-s 4096 -e", "-r 1 -n 50"] {
            // By LID and by each GID.
            for gid in ["", "-g 0", "-g 1", "-g 2", "-g 3"] {
                let line = format!("ibv_ud_pingpong -c {args} {gid}");
                let done = pair(&fabric, &line, devices).map(|_| ());
                failures.note(&format!("{devices:?} {line}"), done);
            }
        }
    }
    failures.check();
}

#[test]
fn fields_errors_and_groups() {
    let program = compile("ud");
    let fabric = Fabric::two_devices();
    let mut failures = Failures::default();
    for case in [
        "fields 0",
        "fields 1",
        "fields 2",
        "fields 3",
        "errors",
        "late 0",
        "late 1",
        "multicast ff0e::ffff:239.1.2.3",
        "multicast ff0e::1234",
        "multicast ff12:401b:ffff::1",
    ] {
        let command = fabric.run(program.as_os_str(), case.split(' '));
        let done = spawn(command).finish(Duration::from_secs(60));
        failures.note(case, done.expect_success());
    }
    failures.check();
}

/// Two fabrics of one host have the same addresses: their QPs do without each other's UDP ports.
#[test]
fn two_fabrics_at_once() {
    let program = compile("ud");
    let fabrics = [Fabric::two_devices(), Fabric::two_devices()];
    let mut failures = Failures::default();
    let start = |f: &Fabric| spawn(f.run(program.as_os_str(), ["late", "0"]));
    let running: Vec<_> = (0..8).map(|k| start(&fabrics[k % 2])).collect();
    for (k, r) in running.into_iter().enumerate() {
        let done = r.finish(Duration::from_secs(60));
        failures.note(&format!("program {k}"), done.expect_success());
    }
    failures.check();
}
