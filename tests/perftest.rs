//! perftest 4.5, unmodified: each tool with each of its axes. The latency tools themselves refuse `-q`, `-b` and `-l`, the write tools `-r`.

use gaudi_tests::{Fabric, Failures, rows, run_pair, start_pair};
use std::time::Duration;

const SAME: [&str; 2] = ["hbl_0", "hbl_0"];
const TWO: [&str; 2] = ["hbl_0", "hbl_1"];

/// One pair; every tool prints a table and ends with 0.
fn case(fabric: &Fabric, devices: [&str; 2], args: &str) -> Result<(), String> {
    let (server, client) = run_pair(
        |port| {
            let line = |device: &str| format!("{args} -F -d {device} -p {port}");
            (
                fabric.line(&line(devices[0])),
                fabric.line(&(line(devices[1]) + " localhost")),
            )
        },
        Duration::from_secs(if args.contains("1073741824") { 250 } else { 60 }),
    )?;
    let table = rows(&client.stdout);
    let sizes = if args.contains(" -a") { 23 } else { 1 };
    // The last column of every table is a rate or a time: zero means that nothing was measured.
    if table.len() != sizes || table.iter().any(|r| r.len() < 4 || r[3] < 0.0) {
        return Err(format!("{} of {sizes} rows\n{client}{server}", table.len()));
    }
    Ok(())
}

fn run(cases: &[String]) {
    let fabric = Fabric::two_devices();
    let mut failures = Failures::default();
    for (i, args) in cases.iter().enumerate() {
        // The first ones within a device and between two, the others in turn: each run costs perftest a second to measure the clock.
        // All of both with GAUDI_TESTS_LONG.
        let both = [SAME, TWO];
        let devices = if i < 8 || std::env::var_os("GAUDI_TESTS_LONG").is_some() {
            &both[..]
        } else {
            &both[i % 2..][..1]
        };
        for devices in devices {
            failures.note(
                &format!("{devices:?} {args}"),
                case(&fabric, *devices, args),
            );
        }
    }
    failures.check();
}

fn bandwidth_cases(tool: &str) -> Vec<String> {
    let axes = [
        "-n 500",
        "-s 1 -n 1000",
        "-s 65537 -n 500",
        "-b -n 500",
        "-q 16 -n 200",
        "-q 16 -b -n 100",
        "-t 1 -n 500",
        "-t 16 -n 500",
        "-t 512 -n 2000",
        "-t 512 -s 64 -n 5000",
        "-Q 1 -n 500",
        "-Q 100 -n 1000",
        "-Q 100 -t 512 -q 4 -n 1000",
        "--mr_per_qp -q 4 -n 200",
        "-I 0 -n 500",
        "-I 220 -s 200 -n 2000",
        "-I 220 -s 220 -b -n 2000",
        "-l 8 -n 800",
        "-l 8 -q 4 -t 64 -n 800",
        "-l 8 -b -s 100 -n 800",
        "-N -n 500",
        "-x 0 -n 200",
        "-x 2 -n 200",
        "-m 1024 -n 200",
        "-m 2048 -n 200",
        "-D 1 -q 16 -Q 10",
    ];
    axes.iter().map(|axis| format!("{tool} {axis}")).collect()
}

fn latency_cases(tool: &str) -> Vec<String> {
    let axes = [
        "-n 1000",
        "-s 1 -n 1000",
        "-s 4096 -n 1000",
        "-s 65537 -n 300",
        "-t 1 -n 500",
        "-t 16 -n 500",
        "-t 512 -n 600",
        "-I 0 -n 500",
        "-I 220 -s 220 -n 1000",
        "--mr_per_qp -n 500",
        "-Q 1 -n 500",
        "-x 1 -n 200",
        "-m 1024 -n 200",
        "-m 2048 -n 200",
    ];
    axes.iter().map(|axis| format!("{tool} {axis}")).collect()
}

#[test]
fn ib_write_bw() {
    run(&bandwidth_cases("ib_write_bw"));
}

#[test]
fn ib_send_bw() {
    let mut cases = bandwidth_cases("ib_send_bw");
    cases.extend(
        [
            "-r 1 -n 300",
            "-r 16 -n 500",
            "-r 512 -n 2000",
            "-r 512 -t 512 -q 16 -n 600",
            "-r 1 -t 512 -s 8 -n 1000",
        ]
        .map(|a| format!("ib_send_bw {a}")),
    );
    run(&cases);
}

#[test]
fn ib_write_lat() {
    run(&latency_cases("ib_write_lat"));
}

#[test]
fn ib_send_lat() {
    let mut cases = latency_cases("ib_send_lat");
    cases.extend(
        ["-r 1 -n 300", "-r 16 -n 500", "-r 512 -n 600"].map(|a| format!("ib_send_lat {a}")),
    );
    run(&cases);
}

/// 2 B to 8 MiB. The latency tools measure the clock for most of a second before each size, so they run on one pair each.
#[test]
fn all_sizes() {
    let bandwidth = [
        "ib_write_bw -a -n 100",
        "ib_send_bw -a -n 100",
        "ib_write_bw -a -b -n 50",
        "ib_send_bw -a -b -n 50",
    ];
    run(&bandwidth.map(str::to_string));
    let fabric = Fabric::two_devices();
    let mut failures = Failures::default();
    for (devices, args) in [
        (SAME, "ib_write_lat -a -n 20"),
        (TWO, "ib_send_lat -a -n 20"),
    ] {
        failures.note(args, case(&fabric, devices, args));
    }
    failures.check();
}

/// By time: two seconds.
#[test]
fn by_duration() {
    let fabric = Fabric::two_devices();
    let mut failures = Failures::default();
    for tool in ["ib_write_bw", "ib_send_bw", "ib_write_lat", "ib_send_lat"] {
        let args = format!("{tool} -D 2");
        failures.note(&args, case(&fabric, TWO, &args));
    }
    failures.note("-b", case(&fabric, SAME, "ib_send_bw -D 2 -b"));
    failures.check();
}

/// 1 GiB, five times. perftest fills its buffers byte by byte with random numbers, which takes most of the time.
#[test]
fn one_gibibyte() {
    let fabric = Fabric::with(&[]);
    let mut failures = Failures::default();
    for tool in ["ib_write_bw", "ib_send_bw"] {
        let args = format!("{tool} -s 1073741824 -n 5 -t 2 -N");
        failures.note(&args, case(&fabric, SAME, &args));
    }
    failures.check();
}

/// Four pairs at the same time on one fabric.
#[test]
fn four_pairs_at_once() {
    let fabric = Fabric::two_devices();
    let lines = [
        "ib_write_bw -n 3000",
        "ib_send_bw -n 3000 -b",
        "ib_send_lat -n 500",
        "ib_write_bw -q 16 -n 500",
    ];
    let pairs: Vec<_> = lines
        .iter()
        .enumerate()
        .map(|(i, args)| {
            let make = |port: u16| {
                let line = |device: usize| format!("{args} -F -d hbl_{device} -p {port}");
                (
                    fabric.line(&line(0)),
                    fabric.line(&(line(i % 2) + " localhost")),
                )
            };
            start_pair(&make)
        })
        .collect();
    let mut failures = Failures::default();
    for (args, pair) in lines.iter().zip(pairs) {
        let result = pair
            .map_err(|server| server.to_string())
            .and_then(|(server, client)| {
                let client = client.finish(Duration::from_secs(90));
                let server = server.finish(Duration::from_secs(10));
                client
                    .expect_success()
                    .and_then(|()| server.expect_success())
                    .map_err(|_| format!("client: {client}server: {server}"))
            });
        failures.note(args, result);
    }
    failures.check();
}
