//! What perftest is run with: each tool on each connection type along each axis, one row a run.

use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Write,
    Send,
    Read,
    Atomic,
}

struct Tool {
    name: &'static str,
    verb: Verb,
    bandwidth: bool,
}

const fn tool(name: &'static str, verb: Verb, bandwidth: bool) -> Tool {
    Tool {
        name,
        verb,
        bandwidth,
    }
}

const TOOLS: [Tool; 10] = [
    tool("ib_write_bw", Verb::Write, true),
    tool("ib_write_lat", Verb::Write, false),
    tool("ib_send_bw", Verb::Send, true),
    tool("ib_send_lat", Verb::Send, false),
    tool("ib_read_bw", Verb::Read, true),
    tool("ib_read_lat", Verb::Read, false),
    tool("ib_atomic_bw", Verb::Atomic, true),
    tool("ib_atomic_lat", Verb::Atomic, false),
    tool("ib_atomic_bw -A CMP_AND_SWAP", Verb::Atomic, true),
    tool("ib_atomic_lat -A CMP_AND_SWAP", Verb::Atomic, false),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    Rc,
    Uc,
    Xrc,
}

/// How a run ends, and what it must have shown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum End {
    /// By itself, with a table of so many rows.
    Rows(usize),
    /// By itself, and no faster than so many MiB/s.
    AtMost(f64),
    /// By a signal to both sides.
    Stopped(rustix::process::Signal),
}

/// One run.
#[derive(Clone, Debug)]
pub struct Row {
    pub args: String,
    pub end: End,
    pub limit: Duration,
    /// Two devices, or one.
    pub two_devices: bool,
    /// In the short cut that every test run takes.
    pub short: bool,
}

/// All rows of a connection type.
pub fn rows_of(connection: Connection) -> Vec<Row> {
    let name = match connection {
        Connection::Rc => "RC",
        Connection::Uc => "UC",
        Connection::Xrc => "XRC",
    };
    let mut all = Vec::new();
    for (t, tool) in TOOLS.iter().enumerate() {
        if connection == Connection::Uc && matches!(tool.verb, Verb::Read | Verb::Atomic) {
            continue;
        }
        let turn = t + 3 * connection as usize;
        for (a, (axis, end)) in axes(tool, connection).into_iter().enumerate() {
            let limit = limit(&axis);
            all.push(Row {
                args: format!("{} -c {name} {axis}", tool.name),
                end,
                limit: Duration::from_secs(limit),
                two_devices: (a + turn) % 2 == 1,
                short: limit == 20 && a % SHORT == turn % SHORT,
            });
        }
    }
    all
}

/// The short cut has one row of so many, other ones for each tool.
const SHORT: usize = 6;

/// Seconds. The latency tools measure the clock for most of a second before each size; 1 GiB is filled with random numbers byte by byte.
fn limit(axis: &str) -> u64 {
    match axis {
        a if a.contains("1073741824") => 170,
        a if a.starts_with("-a") => 60,
        a if a.contains("-q 128") => 40,
        _ => 20,
    }
}

/// What the tools refuse themselves is left out: sizes of atomics, `-r` of what needs no receive, `-q`, `-b` and `-l` of latency tools, `-e` of WRITE,
/// on-demand memory of UC and atomics.
fn axes(tool: &Tool, connection: Connection) -> Vec<(String, End)> {
    use Verb::*;
    let n = if tool.bandwidth { "-n 400" } else { "-n 300" };
    let mut plain: Vec<String> = Vec::new();
    let mut with = |list: &[&str]| {
        plain.extend(list.iter().map(|a| {
            if a.contains("-n ") {
                a.to_string()
            } else {
                format!("{a} {n}")
            }
        }))
    };
    with(&[
        "",
        "-t 1",
        "-t 16",
        "-t 512 -n 1000",
        "-Q 1",
        "-Q 100 -n 500",
    ]);
    with(&["-x 0", "-x 1", "-x 2", "-x 3"]);
    with(&["-m 1024", "-m 2048", "-m 4096"]);
    if tool.verb != Atomic {
        with(&["-s 1", "-s 40", "-s 4097", "-s 65537"]);
    }
    if tool.verb != Write {
        with(&["-e"]);
    }
    match tool.verb {
        Write => with(&["-I 0", "-I 64 -s 64", "-I 220 -s 220"]),
        Send => {
            with(&["-I 0", "-I 64 -s 64", "-I 220 -s 220"]);
            with(&[
                "-r 1",
                "-r 1 -t 512 -s 8 -n 1000",
                "-r 16",
                "-r 512 -n 1000",
            ]);
            with(&[
                "--use-srq",
                "--use-srq -s 65537",
                "--use-srq -e",
                "--use-srq -r 1",
            ]);
        }
        Read | Atomic => with(&["-o 1", "-o 16"]),
    }
    // ib_write_lat of 4.5 looks for the answer in the memory of its first QP, and with one MR for each QP the answer of XRC is in that of the
    // second.
    if (tool.name, connection) != ("ib_write_lat", Connection::Xrc) {
        with(&["--mr_per_qp"]);
    }
    if tool.verb != Atomic && connection != Connection::Uc {
        with(&["--odp", "--odp -s 65537"]);
    }
    if tool.bandwidth {
        // An SRQ gets as many receives as there are iterations, divided by the QPs and rounded down.
        with(&["-b", "-N", "-q 16", "-q 16 -b", "-q 128 -n 200", "-l 8"]);
        with(&[
            "-q 4 -Q 100 -t 512 -n 1000",
            "-l 8 -q 4 -t 64",
            "--mr_per_qp -q 4",
        ]);
        match tool.verb {
            Send => with(&[
                "-q 16 -r 512 -t 512",
                "-q 8 --use-srq -b",
                "-I 220 -s 220 -b",
                "-l 8 -b -s 100",
            ]),
            Write => with(&["-I 220 -s 220 -b", "-l 8 -b -s 100"]),
            Read | Atomic => {}
        }
    }
    let mut axes: Vec<(String, End)> = plain.into_iter().map(|a| (a, End::Rows(1))).collect();
    axes.push(("-D 2".to_string(), End::Rows(1)));
    if tool.verb != Atomic {
        axes.push((
            format!("-a -n {}", if tool.bandwidth { 50 } else { 20 }),
            End::Rows(23),
        ));
        axes.push(("-s 1073741824 -n 5".to_string(), End::Rows(1)));
    }
    if tool.bandwidth {
        axes.push(("-D 2 -q 16 -Q 10".to_string(), End::Rows(1)));
        let infinite = "--run_infinitely -D 1".to_string();
        axes.push((infinite.clone(), End::Stopped(rustix::process::Signal::INT)));
        axes.push((infinite, End::Stopped(rustix::process::Signal::TERM)));
        if tool.verb != Atomic {
            // 10 Gbit/s. A port of Ethernet has no static rate, so perftest limits itself.
            axes.push(("--rate_limit=10 -n 3000".to_string(), End::AtMost(1250.0)));
        }
    }
    axes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_axis_is_in_the_short_cut_of_some_tool() {
        for connection in [Connection::Rc, Connection::Uc, Connection::Xrc] {
            let all = rows_of(connection);
            let short = all.iter().filter(|r| r.short).count();
            assert!(
                short * 4 < all.len() && short > 10,
                "{short} of {}",
                all.len()
            );
            let mut lines: Vec<_> = all.iter().map(|r| &r.args).collect();
            lines.sort_unstable();
            let count = lines.len();
            lines.dedup();
            let twice = all
                .iter()
                .filter(|r| matches!(r.end, End::Stopped(_)))
                .count()
                / 2;
            assert_eq!(lines.len() + twice, count, "a row is there twice");
        }
    }
}
