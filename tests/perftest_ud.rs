//! perftest 4.5 over datagrams, unmodified: every axis that UD has. Both ends wait for the last datagram, so none may be lost. The latency tool
//! itself refuses `-q`, `-b`, `-l` and `-N`, and both tools `-D` with `-e`.

use gaudi_tests::{Dice, Fabric, Failures, rows, run_pair, start_pair};
use std::process::Command;
use std::time::{Duration, Instant};

const SAME: [&str; 2] = ["hbl_0", "hbl_0"];
const TWO: [&str; 2] = ["hbl_0", "hbl_1"];

/// Server and client of a line.
fn commands(fabric: &Fabric, devices: [&str; 2], line: &str, port: u16) -> (Command, Command) {
    let end = |device: &str| format!("{line} -c UD -F -d {device} -p {port}");
    (
        fabric.line(&end(devices[0])),
        fabric.line(&(end(devices[1]) + " localhost")),
    )
}

/// One pair; both print a table and end with 0.
fn case(fabric: &Fabric, devices: [&str; 2], line: &str) -> Result<(), String> {
    let (server, client) = run_pair(
        |port| commands(fabric, devices, line, port),
        Duration::from_secs(60),
    )?;
    // 2 B to the MTU, which is the port's unless -m names another.
    let sizes = if line.contains(" -a") { 12 } else { 1 };
    let table = rows(&client.stdout);
    if table.len() != sizes || table.iter().any(|r| r.len() < 4 || r[3] < 0.0) {
        return Err(format!("{} of {sizes} rows\n{client}{server}", table.len()));
    }
    Ok(())
}

/// Each line within a device or between two, in turn, and every `step`th only; all of both with GAUDI_TESTS_LONG.
fn run(tool: &str, axes: &[&str], step: usize) {
    let fabric = Fabric::two_devices();
    let mut failures = Failures::default();
    let long = std::env::var_os("GAUDI_TESTS_LONG").is_some();
    for (i, axis) in axes.iter().enumerate() {
        if !long && i % step != 0 {
            continue;
        }
        let both = [SAME, TWO];
        let devices = if long {
            &both[..]
        } else {
            &both[i / step % 2..][..1]
        };
        for devices in devices {
            let line = format!("{tool} {axis}");
            failures.note(
                &format!("{devices:?} {line}"),
                case(&fabric, *devices, &line),
            );
        }
    }
    failures.check();
}

/// Every fourth is in the short run.
const BANDWIDTH: &[&str] = &[
    "-n 1000",
    "-n 100000",
    "-s 1 -n 1000",
    "-a -n 300",
    "-a -b -n 300",
    "-s 4096 -n 20000",
    "-b -n 5000",
    "-b -n 50000 -s 64",
    "-b -e -n 1000",
    "-q 16 -n 300",
    "-q 16 -b -n 300",
    "-q 16 -e -n 300",
    "-q 128 -t 16 -r 16 -n 100",
    "-q 128 -t 128 -r 512 -n 500",
    "-q 128 -b -t 16 -r 16 -n 50",
    "-t 1 -n 500",
    "-t 16 -n 500",
    "-t 512 -n 5000",
    "-r 1 -t 512 -n 2000",
    "-r 1 -n 500",
    "-r 512 -t 512 -n 5000",
    "-l 8 -n 800",
    "-l 8 -b -s 100 -n 800",
    "-l 8 -q 4 -t 64 -n 800",
    "-Q 1 -n 1000",
    "-Q 100 -n 1000",
    "-Q 100 -t 512 -q 4 -n 1000",
    "-I 220 -s 200 -n 5000",
    "-I 0 -n 500",
    "-I 64 -s 64 -b -n 2000",
    "-e -n 2000",
    "-e -r 1 -t 1 -n 200",
    "-e -s 8 -t 512 -n 3000",
    "--use-srq -q 4 -n 1000",
    "--use-srq -n 500",
    "--use-srq -q 16 -r 64 -n 300",
    "--mr_per_qp -q 4 -n 500",
    "-N -n 1000",
    "-x 0 -n 500",
    "-m 1024 -n 1000",
    "-m 2048 -n 1000",
    "-m 4096 -a -n 100",
    "-D 1",
    "-D 1 -b",
    "-D 2 -q 16 -Q 10",
    "-x 2 -n 500",
    "-x 1 -n 500",
    "-x 3 -n 500",
    "-g -x 1 -n 500",
    "-g -x 1 -s 8 -n 1000",
    "-g -x 1 -r 512 -n 500",
];

const LATENCY: &[&str] = &[
    "-n 2000",
    "-s 1 -n 2000",
    "-s 4096 -n 2000",
    "-a -n 200",
    "-a -e -n 50",
    "-t 1 -n 500",
    "-e -n 1000",
    "-e -s 4096 -n 500",
    "-t 16 -n 500",
    "-r 1 -n 500",
    "-r 512 -n 500",
    "-t 512 -n 600",
    "-I 220 -s 220 -n 1000",
    "-I 0 -n 500",
    "-I 64 -n 500",
    "--mr_per_qp -n 500",
    "-x 0 -n 500",
    "-x 2 -n 500",
    "-m 1024 -n 500",
    "-m 2048 -s 2048 -n 500",
    "-D 1",
    "-Q 1 -n 200",
    "-g -x 1 -n 300",
    "-g -x 1 -e -n 100",
];

#[test]
fn ib_send_bw() {
    run("ib_send_bw", BANDWIDTH, 4);
}

#[test]
fn ib_send_lat() {
    run("ib_send_lat", LATENCY, 4);
}

/// Until they are told to stop; the fabric is as good as before.
#[test]
fn run_infinitely() {
    let fabric = Fabric::two_devices();
    let line = "ib_send_bw --run_infinitely -D 1";
    let make = |port| commands(&fabric, TWO, line, port);
    let (mut server, mut client) = start_pair(&make).unwrap_or_else(|e| panic!("{e}"));
    let deadline = Instant::now() + Duration::from_secs(30);
    while rows(&client.so_far()).len() < 2 && Instant::now() < deadline {
        assert!(!client.is_over() && !server.is_over());
        std::thread::sleep(Duration::from_millis(50));
    }
    let seen = client.so_far();
    assert!(rows(&seen).len() >= 2, "{seen}");
    for end in [&client, &server] {
        end.signal(rustix::process::Signal::INT);
    }
    for end in [client, server] {
        let done = end.finish(Duration::from_secs(10));
        assert!(done.status.is_some(), "{done}");
    }
    case(&fabric, TWO, "ib_send_bw -n 1000").unwrap();
}

/// Either end is killed at any instant, again and again; those that come after are served.
#[test]
fn killed_ends_leave_nothing_behind() {
    let fabric = Fabric::two_devices();
    let seed = std::time::UNIX_EPOCH
        .elapsed()
        .map_or(1, |d| d.as_nanos() as u64);
    println!("seed {seed:#x}");
    let mut dice = Dice::new(seed);
    for round in 0..12 {
        let line = ["ib_send_bw -D 30 -q 4", "ib_send_bw -D 30 -b -s 64"][round % 2];
        let make = |port| commands(&fabric, TWO, line, port);
        let (server, client) = start_pair(&make).unwrap_or_else(|e| panic!("{e}"));
        std::thread::sleep(Duration::from_micros(100_000 + dice.below(200_000)));
        let (first, second) = if dice.below(2) == 0 {
            (server, client)
        } else {
            (client, server)
        };
        first.signal(rustix::process::Signal::KILL);
        std::thread::sleep(Duration::from_micros(dice.below(20_000)));
        // The other one would wait for ever, as with any adapter.
        drop((first, second));
    }
    case(&fabric, TWO, "ib_send_bw -n 20000").unwrap();
    case(&fabric, SAME, "ib_send_lat -n 1000").unwrap();
}
