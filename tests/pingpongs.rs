//! The pingpongs of ibverbs-utils over connections, with every option that they have. (`tools.rs` has sizes, MTUs and ports of
//! `ibv_rc_pingpong`, `ud.rs` datagrams.)

use gaudi_tests::{Fabric, Failures, run_pair};
use std::time::Duration;

const DEVICES: [[&str; 2]; 2] = [["hbl_0", "hbl_0"], ["hbl_0", "hbl_1"]];

/// One pair. With `-c` the tools compare the data themselves and only say what they found.
fn pair(fabric: &Fabric, devices: [&str; 2], args: &str) -> Result<(), String> {
    let (server, client) = run_pair(
        |port| {
            let line = |device: &str| format!("{args} -d {device} -p {port}");
            (
                fabric.line(&line(devices[0])),
                fabric.line(&(line(devices[1]) + " localhost")),
            )
        },
        Duration::from_secs(40),
    )?;
    let said = format!("{}{}", server.stdout, client.stdout);
    // Of `ibv_xsrq_pingpong` only the client says something.
    let done = client.stdout.contains("usec/iter") || client.stdout.contains("success");
    if !done || said.contains("invalid data") {
        return Err(format!("{client}{server}"));
    }
    Ok(())
}

/// Each line within a device and between two, with another GID index each time, or without one, which is by LID.
fn run(tool: &str, lines: &[&str]) {
    let fabric = Fabric::two_devices();
    let mut failures = Failures::default();
    for (i, args) in lines.iter().enumerate() {
        for (k, devices) in DEVICES.into_iter().enumerate() {
            let gid = ["", "-g 0", "-g 1", "-g 2", "-g 3"][(2 * i + k) % 5];
            let line = format!("{tool} {args} {gid}");
            failures.note(
                &format!("{devices:?} {line}"),
                pair(&fabric, devices, &line),
            );
        }
    }
    failures.check();
}

/// `-t` with `-e` is left out: the tool gives up when an event announces what it has polled already (docs/limits.md).
#[test]
fn rc() {
    run(
        "ibv_rc_pingpong",
        &[
            "-t",
            "-t -c -s 65537 -n 200",
            "-t -r 1 -n 200",
            "-j -c",
            "-j -c -s 4",
            "-j -c -s 100000 -n 200",
            "-j -c -e",
            "-N -c",
            "-N -c -e",
            "-N -c -s 65537 -n 200",
            "-N -j -c",
            "-N -t",
            "-N -j -t",
            "-j -t",
            "-o -c",
            "-o -c -e",
            "-o -P -c -s 1000000 -n 50",
            "-O -c",
            "-O -P -c",
            "-O -c -s 1000000 -n 50",
            "-o -N -t",
            "-l 3 -c",
            "-r 1 -e -n 200",
            "-r 5 -s 3 -c",
            "-n 1",
            "-n 20000 -s 8",
        ],
    );
}

#[test]
fn uc() {
    run(
        "ibv_uc_pingpong",
        &[
            "",
            "-c",
            "-c -e",
            "-e -r 1 -n 200",
            "-c -s 1 -n 200",
            "-c -s 4097 -n 200",
            "-c -s 65537 -n 200",
            "-c -s 1000000 -n 50",
            "-c -m 1024",
            "-c -m 2048",
            "-c -m 4096",
            "-r 1 -n 500",
            "-r 16 -s 64",
            "-n 1",
            "-n 20000 -s 8",
            "-l 3",
        ],
    );
}

#[test]
fn srq() {
    run(
        "ibv_srq_pingpong",
        &[
            "",
            "-c",
            "-c -e",
            "-c -q 1",
            "-c -q 4 -r 20 -n 400",
            "-c -q 16 -r 32 -e -n 200",
            "-c -s 1 -n 200",
            "-c -s 100000 -n 100",
            "-c -m 1024",
            "-c -m 2048",
            "-c -m 4096",
            "-o -c",
            "-o -e -s 65537 -n 100",
            "-n 1",
            "-q 4 -n 5000 -s 8",
        ],
    );
}

#[test]
fn xsrq() {
    run(
        "ibv_xsrq_pingpong",
        &[
            "",
            "-n 500",
            "-e -n 200",
            "-s 1 -n 100",
            "-s 4097 -n 100",
            "-s 100000 -n 50",
            "-m 1024 -n 100",
            "-m 4096 -n 100",
            "-o -n 100",
            "-o -e -s 65537 -n 50",
            "-l 3",
        ],
    );
}

/// Two clients of one XRC server, which need not be of one device.
#[test]
fn xrc_with_two_clients() {
    let fabric = Fabric::two_devices();
    let mut failures = Failures::default();
    for args in ["-n 100", "-n 100 -e", "-n 50 -s 65537"] {
        let made = run_pair(
            |port| {
                let line = |d: u32| format!("ibv_xsrq_pingpong -g 3 -d hbl_{d} {args} -p {port}");
                let both = format!("{} localhost & {} localhost && wait $!", line(0), line(1));
                (
                    fabric.line(&(line(0) + " -c 2")),
                    fabric.run("sh", ["-c".to_string(), both]),
                )
            },
            Duration::from_secs(60),
        );
        let result = made.and_then(|(server, client)| {
            if client.stdout.matches("success").count() == 2 {
                Ok(())
            } else {
                Err(format!("{server}{client}"))
            }
        });
        failures.note(args, result);
    }
    failures.check();
}
