//! One row of the matrix: a server and a client, each under a watchdog.

use super::matrix::{End, Row};
use super::rows;
use crate::{Fabric, run_pair, start_pair};
use rustix::process::Signal;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::{Duration, Instant};

/// Runs it; `Err` says what both sides said.
pub fn run(fabric: &Fabric, row: &Row) -> Result<(), String> {
    let make = |port: u16| -> (Command, Command) {
        let line = |device: u32| format!("{} -F -d hbl_{device} -p {port}", row.args);
        (
            fabric.line(&line(0)),
            fabric.line(&(line(row.two_devices.into()) + " localhost")),
        )
    };
    if let End::Stopped(signal) = row.end {
        return stop(&make, signal);
    }
    let (server, client) = run_pair(make, row.limit)?;
    let table = rows(&client.stdout);
    let wanted = if let End::Rows(n) = row.end { n } else { 1 };
    let mut why = None;
    if table.len() != wanted {
        why = Some(format!("{} of {wanted} rows", table.len()));
    } else if !table.iter().all(|r| measured(r)) {
        why = Some("nothing measured".to_string());
    } else if let End::AtMost(limit) = row.end
        && table[0][3] > limit
    {
        why = Some(format!("{} MiB/s, the limit is {limit}", table[0][3]));
    }
    why.map_or(Ok(()), |why| Err(format!("{why}\n{client}{server}")))
}

/// Bandwidth tools show five columns, the last one messages per second; latency tools show times from the third column on.
fn measured(row: &[f64]) -> bool {
    match row.len() {
        0..=3 => false,
        5 => row[4] > 0.0,
        _ => row[2] > 0.0,
    }
}

/// A run that has no end of its own: it goes on for two lines of its table, and a signal stops it.
fn stop(make: &impl Fn(u16) -> (Command, Command), signal: Signal) -> Result<(), String> {
    let (server, mut client) = start_pair(make).map_err(|s| s.to_string())?;
    let deadline = Instant::now() + Duration::from_secs(15);
    while rows(&client.so_far()).len() < 2 && !client.is_over() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    client.signal(signal);
    let client = client.finish(Duration::from_secs(5));
    server.signal(signal);
    let server = server.finish(Duration::from_secs(5));
    let table = rows(&client.stdout);
    let by = |s: Option<std::process::ExitStatus>| s.and_then(|s| s.signal());
    // The server of a run may have ended by itself when its client went.
    let ended = by(client.status) == Some(signal.as_raw())
        && server.status.is_some()
        && by(server.status).is_none_or(|s| s == signal.as_raw());
    if !ended || table.len() < 2 || !table.iter().all(|r| measured(r)) {
        return Err(format!("{} rows\n{client}{server}", table.len()));
    }
    Ok(())
}
