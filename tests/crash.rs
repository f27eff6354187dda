//! Processes that die or stop at any moment: the others see an error in time, and the next run works without cleaning up.

use gaudi_tests::{Dice, Fabric, Failures, Running, run_pair, start_pair};
use rustix::process::Signal;
use std::process::Command;
use std::time::{Duration, Instant};

fn commands(fabric: &Fabric, args: &str) -> impl Fn(u16) -> (Command, Command) {
    move |port| {
        let line = |device: u32| format!("ib_send_bw -F -d hbl_{device} -p {port} {args}");
        (
            fabric.line(&line(0)),
            fabric.line(&(line(1) + " localhost")),
        )
    }
}

/// Both sides running and connected with each other.
fn connected(fabric: &Fabric, args: &str) -> (Running, Running) {
    let (server, mut client) =
        start_pair(&commands(fabric, args)).unwrap_or_else(|server| panic!("{server}"));
    let deadline = Instant::now() + Duration::from_secs(10);
    // Descriptors of a process that has a socket to somebody: cheap, and it does not touch the connection.
    while !established(client.pid()) && !client.is_over() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    (server, client)
}

/// Whether the process has an established TCP connection. proc(5): state 01, and the socket's inode in field 9.
fn established(pid: u32) -> bool {
    let Ok(list) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    let sockets: Vec<String> = list
        .flatten()
        .filter_map(|e| {
            std::fs::read_link(e.path())
                .ok()?
                .to_str()?
                .strip_prefix("socket:[")?
                .strip_suffix(']')
                .map(str::to_string)
        })
        .collect();
    ["/proc/net/tcp", "/proc/net/tcp6"].iter().any(|table| {
        std::fs::read_to_string(table)
            .unwrap_or_default()
            .lines()
            .any(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                words.len() > 9 && words[3] == "01" && sockets.iter().any(|s| s == words[9])
            })
    })
}

/// A short run that must work, as the next user's would.
fn next_run(fabric: &Fabric) -> Result<(), String> {
    run_pair(commands(fabric, "-n 200 -s 4096"), Duration::from_secs(30)).map(|_| ())
}

#[test]
fn kill_either_side_fifty_times() {
    let seed = 0x6a75_6469;
    eprintln!("seed {seed:#x}");
    let mut dice = Dice::new(seed);
    let fabric = Fabric::two_devices();
    let mut failures = Failures::default();
    let mut by_completion = 0;
    for round in 0..50 {
        let delay = Duration::from_micros(dice.below(700_000));
        let kill_server = dice.below(2) == 0;
        let args = [
            "-D 60",
            "-D 60 -s 64",
            "-D 60 -s 1048576",
            "-D 60 -b",
            "-D 60 -q 4 -s 1000",
        ][dice.below(5) as usize];
        let (server, client) = connected(&fabric, args);
        std::thread::sleep(delay);
        let (victim, survivor) = if kill_server {
            (server, client)
        } else {
            (client, server)
        };
        victim.signal(Signal::KILL);
        let died = Instant::now();
        let victim = victim.finish(Duration::from_secs(5));
        let survivor = survivor.finish(Duration::from_secs(10));
        let took = died.elapsed();
        let who = if kill_server { "server" } else { "client" };
        let title =
            format!("round {round}: {who} of `{args}` killed {delay:?} after the connection");
        let result = match survivor.status {
            None => Err(format!("the survivor went on for 10 s\n{survivor}")),
            Some(status) if status.success() => {
                Err(format!("the survivor noticed nothing\n{survivor}"))
            }
            Some(status) if status.code().is_none() => {
                Err(format!("the survivor died itself\n{survivor}{victim}"))
            }
            Some(_) => Ok(()),
        };
        let in_traffic =
            format!("{}{}", survivor.stdout, survivor.stderr).contains("Completion with error");
        by_completion += u32::from(in_traffic);
        eprintln!(
            "{title}: {took:?}{}",
            if in_traffic { ", by a completion" } else { "" }
        );
        failures.note(&title, result);
        if round % 5 == 4 {
            failures.note(&format!("run after round {round}"), next_run(&fabric));
        }
    }
    // The others noticed the end of their TCP connection first, before or behind the traffic.
    let enough = if by_completion >= 25 {
        Ok(())
    } else {
        Err(format!("{by_completion}"))
    };
    failures.note(
        "at least 25 of 50 survivors were told by the device",
        enough,
    );
    let devices = fabric.devices();
    let left = if devices.contains("No process uses it") {
        Ok(())
    } else {
        Err(devices)
    };
    failures.note("nothing is left in the fabric", left);
    failures.check();
}

/// A stopped process stalls its own connection and nobody else's; both finish after it goes on.
#[test]
fn stop_and_continue() {
    let fabric = Fabric::two_devices();
    let mut failures = Failures::default();
    for (which, args) in [
        ("server", "-D 4"),
        ("client", "-D 4"),
        ("server", "-D 4 -b"),
        ("server", "-D 4 -s 8"),
        ("client", "-D 4 -s 1048576"),
    ] {
        let (server, client) = connected(&fabric, args);
        std::thread::sleep(Duration::from_millis(1500));
        let stopped = if which == "server" { &server } else { &client };
        stopped.signal(Signal::STOP);
        let others = next_run(&fabric);
        std::thread::sleep(Duration::from_secs(1));
        stopped.signal(Signal::CONT);
        failures.note(
            &format!("others while the {which} of `{args}` stands still"),
            others,
        );
        let client = client.finish(Duration::from_secs(30));
        let server = server.finish(Duration::from_secs(10));
        let result = client
            .expect_success()
            .and_then(|()| server.expect_success());
        failures.note(
            &format!("{which} of `{args}` stopped"),
            result.map_err(|_| format!("client: {client}server: {server}")),
        );
    }
    failures.check();
}
