//! perftest 4.5, unmodified: each tool on each connection type along each axis (`gaudi_tests::perftest::matrix`).

use gaudi_tests::perftest::matrix::{Connection, rows_of};
use gaudi_tests::{Fabric, Failures, perftest, start_pair};
use std::time::{Duration, Instant};

/// The part that GAUDI_TESTS_PART=K/N names: every Nth row from the Kth on.
fn part() -> (usize, usize) {
    let Some(text) = std::env::var_os("GAUDI_TESTS_PART") else {
        return (1, 1);
    };
    let text = text.to_string_lossy().into_owned();
    let numbers: Vec<usize> = text.split('/').filter_map(|n| n.parse().ok()).collect();
    match numbers[..] {
        [k, n] if k >= 1 && k <= n => (k, n),
        _ => panic!("GAUDI_TESTS_PART is {text}, not K/N"),
    }
}

/// The short cut, or everything with GAUDI_TESTS_LONG.
fn run(connection: Connection) {
    let long = std::env::var_os("GAUDI_TESTS_LONG").is_some();
    let (k, n) = part();
    let fabric = Fabric::two_devices();
    let mut failures = Failures::default();
    let chosen = rows_of(connection).into_iter().filter(|r| long || r.short);
    for row in chosen.skip(k - 1).step_by(n) {
        let start = Instant::now();
        let result = perftest::run(&fabric, &row);
        let devices = 1 + u32::from(row.two_devices);
        println!(
            "{:5.1} s  {} ({devices} device)",
            start.elapsed().as_secs_f64(),
            row.args
        );
        failures.note(&format!("{devices} device: {}", row.args), result);
    }
    failures.check();
}

#[test]
fn rc() {
    run(Connection::Rc);
}

#[test]
fn uc() {
    run(Connection::Uc);
}

#[test]
fn xrc() {
    run(Connection::Xrc);
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
