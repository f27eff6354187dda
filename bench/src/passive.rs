//! Rows in which one side does not poll: READs and atomics, whose target sleeps; event mode; and what the agent costs a program that polls.

use crate::bare::{self, Mover};
use crate::report::{Measure, Peer, Row, Unit};
use crate::rig::{Arena, Plan, Rig};
use crate::tools::{self, Failure, Tools};
use rustix::event::{EventfdFlags, eventfd};
use std::cell::Cell;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::{Acquire, Release};

/// The provider runs no agent; see docs/testing.md.
const NO_AGENT: &str = "GAUDI_NO_AGENT";
const READY: usize = 0;
const OVER: usize = 512;

pub fn rows<'a>(rig: &'a Rig, tools: &'a Tools) -> Vec<Row<'a>> {
    let mut rows = Vec::new();
    for (size, name, iterations) in [(8, "8 B", 5000), (65536, "64 KiB", 3000)] {
        rows.push(Row {
            name: format!("ib_read_lat {name}"),
            unit: Unit::Time,
            ours: latency(tools, "ib_read_lat", size, iterations, &[]),
            peers: vec![
                ucx_latency(tools, "ucp_get", size),
                peer("process_vm_readv", move || Ok(read_time(rig, size)?)),
            ],
        });
    }
    for (size, name, iterations) in [(65536, "64 KiB", 10_000), (1 << 20, "1 MiB", 1000)] {
        rows.push(Row {
            name: format!("ib_read_bw {name}"),
            unit: Unit::Bandwidth,
            ours: Box::new(move || {
                Ok(tools
                    .perftest_throughput("ib_read_bw", size, iterations)?
                    .bandwidth)
            }),
            peers: vec![
                ucx(tools, "ucp_get", size, &[], |row| row[5] * MEGABYTE / 1e9),
                peer("process_vm_readv", move || {
                    Ok(size as f64 / read_time(rig, size)?)
                }),
                peer("process_vm_writev", move || {
                    Ok(bare::bandwidth(rig, Mover::ProcessVm, size)?)
                }),
            ],
        });
    }
    rows.push(Row {
        name: "ib_atomic_lat 8 B".into(),
        unit: Unit::Time,
        ours: latency(tools, "ib_atomic_lat", 8, 5000, &[]),
        peers: vec![ucx_latency(tools, "ucp_fadd", 8)],
    });
    rows.push(Row {
        name: "ib_atomic_bw 8 B".into(),
        unit: Unit::Rate,
        ours: Box::new(move || {
            Ok(tools
                .perftest_throughput("ib_atomic_bw", 8, 100_000)?
                .messages)
        }),
        peers: vec![ucx(tools, "ucp_fadd", 8, &[], |row| row[7] / 1e6)],
    });
    rows.push(Row {
        name: "ib_send_lat -e 2 B".into(),
        unit: Unit::Time,
        ours: latency(tools, "ib_send_lat", 2, 5000, &["-e"]),
        peers: vec![peer("eventfd", move || Ok(eventfd_latency(rig)?))],
    });
    for (tool, more, budget) in [
        ("ib_read_lat", &[][..], Some(1.1)),
        ("ib_send_lat", &["-e"][..], None),
    ] {
        rows.push(Row {
            name: [&[tool], more, &["wake-ups"]].concat().join(" "),
            unit: Unit::Count,
            ours: Box::new(move || wake_ups(tools, tool, more)),
            // By construction: a reader that sleeps is woken by each write.
            peers: vec![Peer {
                name: "eventfd",
                measure: Box::new(|| Ok(1.0)),
                budget,
            }],
        });
    }
    rows.push(Row {
        name: "ib_send_lat 2 B, agent".into(),
        unit: Unit::Time,
        ours: latency(tools, "ib_send_lat", 2, 20_000, &[]),
        peers: vec![Peer {
            name: "without its agent",
            measure: Box::new(move || {
                let [mut server, mut client] =
                    tools.perftest_pair("ib_send_lat", 2, 20_000, &[])?;
                server.0.env(NO_AGENT, "1");
                client.0.env(NO_AGENT, "1");
                typical(&tools::serve(server.0, client.0, server.1)?, 2)
            }),
            budget: Some(1.1),
        }],
    });
    rows
}

/// What ucx_perftest prints in MB/s is 2^20 bytes.
const MEGABYTE: f64 = 1048576.0;

fn peer<'a>(name: &'static str, measure: impl Fn() -> Result<f64, Failure> + 'a) -> Peer<'a> {
    Peer {
        name,
        measure: Box::new(measure),
        budget: None,
    }
}

fn typical(output: &str, size: usize) -> Result<f64, Failure> {
    tools::latency_row(output, size)
        .map(|us| us * 1000.0)
        .ok_or_else(|| tools::no_table(output))
}

fn latency<'a>(
    tools: &'a Tools,
    tool: &'static str,
    size: usize,
    iterations: u64,
    more: &'static [&'static str],
) -> Measure<'a> {
    Box::new(move || {
        let [server, client] = tools.perftest_pair(tool, size, iterations, more)?;
        typical(&tools::serve(server.0, client.0, server.1)?, size)
    })
}

fn ucx<'a>(
    tools: &'a Tools,
    test: &'static str,
    size: usize,
    more: &'static [&'static str],
    pick: fn(&[f64]) -> f64,
) -> Peer<'a> {
    peer("UCX, posix+cma", move || {
        let iterations = if size > 4096 { 5000 } else { 100_000 };
        let output = tools.ucx_with(test, size, iterations, more)?;
        tools::ucx_row(&output)
            .map(|row| pick(&row))
            .ok_or_else(|| tools::no_table(&output))
    })
}

/// One operation at a time.
fn ucx_latency<'a>(tools: &'a Tools, test: &'static str, size: usize) -> Peer<'a> {
    ucx(tools, test, size, &["-O", "1"], |row| row[1] * 1000.0)
}

/// One process_vm_readv(2) from the other process's private memory, in nanoseconds.
fn read_time(rig: &Rig, len: usize) -> io::Result<f64> {
    let room = len.next_multiple_of(4096);
    let (flags, memory) = (Arena::shared(4096)?, Arena::private(room)?);
    let plan = Plan::for_step(1500 + len as u64 / 30);
    rig.pair(
        |side| {
            memory.touch();
            side.wait(|| flags.word(READY).load(Acquire) == 1)?;
            let part = libc::iovec {
                iov_base: memory.at(0).cast(),
                iov_len: len,
            };
            let pid = side.peer.as_raw_nonzero().get();
            let time = plan.time(|_| {
                // SAFETY: the local range is ours, the same address is mapped in the child, and the kernel checks both.
                let moved = unsafe { libc::process_vm_readv(pid, &part, 1, &part, 1, 0) };
                if usize::try_from(moved) == Ok(len) {
                    Ok(())
                } else {
                    Err(io::Error::last_os_error())
                }
            });
            flags.word(OVER).store(1, Release);
            time
        },
        |side| {
            memory.touch();
            flags.word(READY).store(1, Release);
            side.wait(|| flags.word(OVER).load(Acquire) == 1)
        },
    )
}

/// One way between two processes that sleep in read(2) on eventfds, in nanoseconds.
fn eventfd_latency(rig: &Rig) -> io::Result<f64> {
    let (to_far, to_near) = (
        eventfd(0, EventfdFlags::empty())?,
        eventfd(0, EventfdFlags::empty())?,
    );
    let signal = |fd: &OwnedFd| rustix::io::write(fd, &1u64.to_ne_bytes()).map(|_| ());
    let sleep = |fd: &OwnedFd| rustix::io::read(fd, &mut [0u8; 8]).map(|_| ());
    let plan = Plan::for_step(10_000);
    let round_trip = rig.pair(
        |_| {
            plan.time(|_| {
                signal(&to_far)?;
                Ok(sleep(&to_near)?)
            })
        },
        |_| {
            (1..=plan.steps()).try_for_each(|_| {
                sleep(&to_far)?;
                Ok(signal(&to_near)?)
            })
        },
    )?;
    Ok(round_trip / 2.0)
}

/// How often threads of the server went to sleep, per operation of the client.
fn wake_ups(tools: &Tools, tool: &str, more: &[&str]) -> Result<f64, Failure> {
    const OPERATIONS: u64 = 5000;
    let [server, client] = tools.perftest_pair(tool, 8, OPERATIONS, more)?;
    let (first, last) = (Cell::new(None), Cell::new(0));
    tools::serve_watched(server.0, client.0, server.1, |group| {
        // The count of a process that has ended meanwhile is not less than the one before.
        last.set(sleeps(group).max(last.get()));
        first.set(first.get().or(Some(last.get())));
    })?;
    Ok((last.get() - first.get().unwrap_or(0)) as f64 / OPERATIONS as f64)
}

/// Voluntary context switches of all threads in a process group.
fn sleeps(group: u32) -> u64 {
    let count = |status: String| -> u64 {
        let line = |l: &str| {
            l.strip_prefix("voluntary_ctxt_switches:")?
                .trim()
                .parse()
                .ok()
        };
        status.lines().find_map(line).unwrap_or(0)
    };
    let in_group = |pid: &str| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // State, parent and group follow the name, which may hold anything.
        let group = stat.rsplit(')').next()?.split_whitespace().nth(2)?;
        group.parse().ok()
    };
    let entries = |path: &str| -> Vec<String> {
        let names = fs::read_dir(path).into_iter().flatten().flatten();
        names
            .filter_map(|e| e.file_name().into_string().ok())
            .collect()
    };
    let pids = entries("/proc")
        .into_iter()
        .filter(|p| p.parse::<u32>().is_ok());
    pids.filter(|pid| in_group(pid) == Some(group))
        .flat_map(|pid| {
            entries(&format!("/proc/{pid}/task"))
                .into_iter()
                .map(move |tid| format!("/proc/{pid}/task/{tid}/status"))
        })
        .filter_map(|path| fs::read_to_string(path).ok())
        .map(count)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleeps_are_counted() {
        let mut child = std::process::Command::new("sh");
        std::os::unix::process::CommandExt::process_group(&mut child, 0);
        let script = "for i in 1 2 3 4 5 6 7 8; do sleep 0.05; done; exec sleep 5";
        let mut child = child.args(["-c", script]).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        let before = sleeps(child.id());
        std::thread::sleep(std::time::Duration::from_millis(300));
        let after = sleeps(child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(after > before, "{before} {after}");
    }

    #[test]
    fn bare_figures() {
        let Ok(rig) = Rig::new() else { return };
        assert!(read_time(&rig, 4096).unwrap() > 0.0);
        assert!(eventfd_latency(&rig).unwrap() > 0.0);
    }
}
