//! Shared receive queues, UC and XRC: ibverbs-utils, perftest, and the cases of tests/c/srq_uc_xrc.c.

use gaudi_tests::{Fabric, Failures, compile, rows, run_pair, spawn};
use std::time::Duration;

const DEVICES: [[&str; 2]; 2] = [["hbl_0", "hbl_0"], ["hbl_0", "hbl_1"]];

/// One pair of a pingpong.
fn pingpong(fabric: &Fabric, devices: [&str; 2], args: &str) -> Result<(), String> {
    run_pair(
        |port| {
            let line = |device: &str| format!("{args} -g 3 -d {device} -p {port}");
            (
                fabric.line(&line(devices[0])),
                fabric.line(&(line(devices[1]) + " localhost")),
            )
        },
        Duration::from_secs(60),
    )
    .map(|_| ())
}

/// One pair of perftest: a table, and 0 from both.
fn perftest(fabric: &Fabric, devices: [&str; 2], args: &str) -> Result<(), String> {
    let (server, client) = run_pair(
        |port| {
            let line = |device: &str| format!("{args} -F -d {device} -p {port}");
            (
                fabric.line(&line(devices[0])),
                fabric.line(&(line(devices[1]) + " localhost")),
            )
        },
        Duration::from_secs(90),
    )?;
    let table = rows(&client.stdout);
    let sizes = if args.contains(" -a") { 23 } else { 1 };
    if table.len() != sizes {
        return Err(format!("{} of {sizes} rows\n{client}{server}", table.len()));
    }
    Ok(())
}

type Case = fn(&Fabric, [&str; 2], &str) -> Result<(), String>;

fn run<S: AsRef<str>>(case: Case, all: &[S]) {
    let fabric = Fabric::two_devices();
    let mut failures = Failures::default();
    for args in all {
        for devices in DEVICES {
            let args = args.as_ref();
            failures.note(&format!("{devices:?} {args}"), case(&fabric, devices, args));
        }
    }
    failures.check();
}

#[test]
fn pingpongs() {
    run(
        pingpong,
        &[
            "ibv_srq_pingpong -c",
            "ibv_srq_pingpong -c -e",
            "ibv_srq_pingpong -c -q 4 -r 20 -n 400",
            "ibv_srq_pingpong -c -s 100000 -n 100",
            "ibv_uc_pingpong -c",
            "ibv_uc_pingpong -c -e",
            "ibv_uc_pingpong -c -s 1 -n 200",
            "ibv_uc_pingpong -c -s 65537 -n 200",
            "ibv_xsrq_pingpong -n 200",
            "ibv_xsrq_pingpong -e -n 200",
            "ibv_xsrq_pingpong -s 100000 -n 50",
        ],
    );
}

/// Two clients of one XRC server.
#[test]
fn xrc_with_two_clients() {
    let fabric = Fabric::two_devices();
    let (server, client) = run_pair(
        |port| {
            let server = format!("ibv_xsrq_pingpong -g 3 -d hbl_0 -c 2 -n 100 -p {port}");
            let client =
                |d: u32| format!("ibv_xsrq_pingpong -g 3 -d hbl_{d} -n 100 -p {port} localhost");
            let both = fabric.run(
                "sh",
                [
                    "-c".to_string(),
                    format!("{} & {} && wait $!", client(0), client(1)),
                ],
            );
            (fabric.line(&server), both)
        },
        Duration::from_secs(60),
    )
    .unwrap();
    assert!(client.stdout.contains("success"), "{server}{client}");
}

#[test]
fn perftest_srq() {
    run(
        perftest,
        &[
            "ib_send_bw --use-srq -n 1000",
            "ib_send_bw --use-srq -q 8 -n 500",
            "ib_send_bw --use-srq -b -q 4 -n 500",
            "ib_send_bw --use-srq -r 1 -n 300",
            "ib_send_bw --use-srq -e -n 1000",
            "ib_send_bw --use-srq -a -n 50",
            "ib_send_lat --use-srq -n 1000",
            "ib_send_lat --use-srq -s 65537 -n 200",
        ],
    );
}

#[test]
fn perftest_uc() {
    run(
        perftest,
        &[
            "ib_send_bw -c UC -n 1000",
            "ib_send_bw -c UC -a -n 50",
            "ib_send_bw -c UC -b -q 4 -n 500",
            "ib_send_bw -c UC -e -n 1000",
            "ib_send_bw -c UC -I 220 -s 200 -n 1000",
            "ib_send_bw -c UC -D 2",
            "ib_send_lat -c UC -n 1000",
            "ib_send_lat -c UC -e -n 500",
            "ib_write_bw -c UC -n 1000",
            "ib_write_bw -c UC -a -n 50",
            "ib_write_bw -c UC -b -q 16 -n 200",
            "ib_write_bw -c UC -I 64 -s 64 -n 1000",
            "ib_write_lat -c UC -n 1000",
            "ib_write_lat -c UC -a -n 20",
        ],
    );
}

#[test]
fn perftest_xrc() {
    run(
        perftest,
        &[
            "ib_send_bw -c XRC -n 1000",
            "ib_send_bw -c XRC -a -n 50",
            "ib_send_bw -c XRC -b -q 4 -n 500",
            "ib_send_bw -c XRC -e -n 1000",
            "ib_send_bw -c XRC -D 2",
            "ib_send_lat -c XRC -n 1000",
            "ib_write_bw -c XRC -n 1000",
            "ib_write_bw -c XRC -a -q 2 -n 50",
            "ib_write_lat -c XRC -n 1000",
            "ib_read_bw -c XRC -n 500",
            "ib_read_bw -c XRC -a -n 20",
            "ib_read_lat -c XRC -n 200",
            "ib_atomic_bw -c XRC -n 500",
            "ib_atomic_bw -c XRC -A CMP_AND_SWAP -n 500",
            "ib_atomic_lat -c XRC -n 200",
        ],
    );
}

#[test]
fn events_drops_deaths_and_domains() {
    let program = compile("srq_uc_xrc");
    let fabric = Fabric::two_devices();
    let mut failures = Failures::default();
    for case in [
        "srq-events",
        "srq-shared",
        "uc-drop",
        "uc-death",
        "xrc-objects",
    ] {
        for second in ["0", "1"] {
            let done = spawn(fabric.run(program.as_os_str(), [case, second]))
                .finish(Duration::from_secs(60));
            failures.note(
                &format!("{case}, second device {second}"),
                done.expect_success(),
            );
        }
    }
    failures.check();
}
