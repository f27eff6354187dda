//! UCX and Open MPI over the device, over shared memory and over TCP: the same programs, the same sizes, one after the other.

use crate::plot::{Panel, Series, picture};
use crate::rig::median;
use crate::tools::{Failure, MEGABYTE, Running, Tools, free_port, pinned, serve};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// What carries the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Device,
    Shared,
    Tcp,
}

pub const ALL: [Transport; 3] = [Transport::Device, Transport::Shared, Transport::Tcp];

impl Transport {
    pub fn name(self) -> &'static str {
        match self {
            Transport::Device => "soft device, rc_verbs",
            Transport::Shared => "posix + cma",
            Transport::Tcp => "TCP, loopback",
        }
    }

    /// UCX_TLS and UCX_NET_DEVICES.
    fn ucx(self) -> [&'static str; 2] {
        match self {
            Transport::Device => ["rc_verbs,ud_verbs,self", "hbl_0:1"],
            Transport::Shared => ["posix,cma,self", "all"],
            Transport::Tcp => ["tcp,self", "lo"],
        }
    }
}

/// A test, over all sizes. The name says what it is in the pictures; UCX's name, or none for Open MPI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Test {
    pub name: &'static str,
    latency: Option<&'static str>,
    bandwidth: Option<&'static str>,
}

pub const TESTS: [Test; 4] = [
    Test {
        name: "UCX tag messages",
        latency: Some("tag_lat"),
        bandwidth: Some("tag_bw"),
    },
    Test {
        name: "UCX put",
        latency: Some("ucp_put_lat"),
        bandwidth: Some("ucp_put_bw"),
    },
    Test {
        name: "UCX get",
        latency: Some("ucp_get"),
        bandwidth: None,
    },
    Test {
        name: "Open MPI ping-pong",
        latency: None,
        bandwidth: None,
    },
];

const SIZES: [usize; 8] = [8, 64, 512, 4096, 32 << 10, 256 << 10, 2 << 20, 16 << 20];

/// About as many as fit a tenth of a second on the slowest transport.
fn iterations(size: usize) -> usize {
    (100_000_000 / (size + 20_000)).clamp(6, 5000)
}

/// Size to microseconds and to GB/s.
type Figures = BTreeMap<usize, [f64; 2]>;

/// One run of a test.
pub fn measure(
    tools: &Tools,
    test: Test,
    transport: Transport,
    mpi: &Path,
) -> Result<Figures, Failure> {
    let gigabytes = |size: usize, us: f64| size as f64 / us / 1000.0;
    let Some(latency) = test.latency else {
        let text = ping_pong(tools, transport, mpi)?;
        let rows: Figures = text
            .lines()
            .filter_map(ping_pong_row)
            .map(|(size, us)| (size, [us, gigabytes(size, us)]))
            .collect();
        return whole(rows, &text);
    };
    let text = batch(tools, transport, latency)?;
    let mut rows: Figures = text
        .lines()
        .filter_map(batch_row)
        .map(|(size, us, gb)| (size, [us, gb]))
        .collect();
    if let Some(bandwidth) = test.bandwidth {
        let text = batch(tools, transport, bandwidth)?;
        for (size, _, gb) in text.lines().filter_map(batch_row) {
            if let Some(row) = rows.get_mut(&size) {
                row[1] = gb;
            }
        }
    }
    whole(rows, &text)
}

fn whole(rows: Figures, text: &str) -> Result<Figures, Failure> {
    if rows.len() == SIZES.len() {
        Ok(rows)
    } else {
        Err(Failure(format!(
            "{} of {} sizes; {text}",
            rows.len(),
            SIZES.len()
        )))
    }
}

/// All sizes in one pair of processes.
fn batch(tools: &Tools, transport: Transport, test: &str) -> Result<String, Failure> {
    let file = std::env::temp_dir().join(format!("gaudi-bench-{}.batch", std::process::id()));
    let mut out = std::fs::File::create(&file)?;
    for size in SIZES {
        let n = iterations(size);
        writeln!(
            out,
            "size{size} -t {test} -s {size} -n {n} -w {}",
            n / 10 + 2
        )?;
    }
    drop(out);
    let port = free_port()?;
    let [tls, devices] = transport.ucx();
    let command = |cpu: usize| {
        let mut command = pinned(cpu, &tools.soft.to_string_lossy());
        if transport == Transport::Device {
            command.args(["run", "--", "ucx_perftest"]);
        } else {
            command = pinned(cpu, "ucx_perftest");
        }
        command
            .env("UCX_TLS", tls)
            .env("UCX_NET_DEVICES", devices)
            .env("UCX_WARN_UNUSED_ENV_VARS", "n")
            .args(["-p", &port.to_string(), "-v", "-b"])
            .arg(&file);
        command
    };
    let mut client = command(tools.cpus[1]);
    client.arg("127.0.0.1");
    let output = serve(command(tools.cpus[0]), client, port);
    let _ = std::fs::remove_file(&file);
    output
}

fn ping_pong(tools: &Tools, transport: Transport, program: &Path) -> Result<String, Failure> {
    let [tls, devices] = transport.ucx();
    let mut command = match transport {
        Transport::Device => {
            let mut command = Command::new(&tools.soft);
            command.args(["run", "--", "mpirun"]);
            command
        }
        _ => Command::new("mpirun"),
    };
    command.args(
        "--allow-run-as-root --oversubscribe --mca mpi_yield_when_idle 0 --bind-to core -np 2"
            .split(' '),
    );
    if transport == Transport::Tcp {
        command.args("--mca pml ob1 --mca btl tcp,self --mca btl_tcp_if_include lo".split(' '));
    } else {
        command.args(
            "--mca pml ucx --mca opal_common_ucx_tls any --mca opal_common_ucx_devices any"
                .split(' '),
        );
        command.args([
            "-x",
            &format!("UCX_TLS={tls}"),
            "-x",
            &format!("UCX_NET_DEVICES={devices}"),
        ]);
    }
    command.arg(program);
    command.args(SIZES.map(|size| format!("{size}*{}", iterations(size))));
    Running::start(command)?.finish(Instant::now() + Duration::from_secs(60), "mpirun")
}

/// `size64,5000,0.5,…`: iterations; median, average, overall time; average, overall MB/s; rates.
fn batch_row(line: &str) -> Option<(usize, f64, f64)> {
    let fields: Vec<&str> = line.split(',').map(str::trim).collect();
    let size = fields.first()?.strip_prefix("size")?.parse().ok()?;
    let value = |i: usize| fields.get(i)?.parse::<f64>().ok();
    // Lines of tests that still run have "[thread 0]" in front of the iterations.
    value(1)?;
    Some((size, value(2)?, value(6)? * MEGABYTE / 1e9))
}

fn ping_pong_row(line: &str) -> Option<(usize, f64)> {
    let mut words = line.split_whitespace();
    (words.next()? == "pingpong").then_some(())?;
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

/// Medians of all rounds of a test: for each transport, in the order of `ALL`.
pub struct Outcome {
    pub test: Test,
    pub figures: Vec<Figures>,
}

/// Rounds of a test, the transports in turn.
pub fn run(tools: &Tools, test: Test, rounds: usize, mpi: &Path) -> Result<Outcome, Failure> {
    let mut all: Vec<Vec<Figures>> = vec![Vec::new(); ALL.len()];
    for _ in 0..rounds {
        for (transport, into) in ALL.iter().zip(&mut all) {
            into.push(
                measure(tools, test, *transport, mpi)
                    .map_err(|why| Failure(format!("{}: {why}", transport.name())))?,
            );
        }
    }
    let middle = |rounds: &Vec<Figures>| {
        SIZES
            .iter()
            .map(|size| {
                let of = |which: usize| {
                    median(
                        &rounds
                            .iter()
                            .filter_map(|r| Some(r.get(size)?[which]))
                            .collect::<Vec<f64>>(),
                    )
                };
                (*size, [of(0), of(1)])
            })
            .collect()
    };
    Ok(Outcome {
        test,
        figures: all.iter().map(middle).collect(),
    })
}

/// The table: the device's figures, and how many times the others' they are.
pub fn table(outcome: &Outcome) -> String {
    let mut text = format!("{}\n", outcome.test.name);
    for size in SIZES {
        let of = |i: usize, which: usize| {
            outcome
                .figures
                .get(i)
                .and_then(|f| f.get(&size))
                .map_or(0.0, |v| v[which])
        };
        text += &format!("{size:>10} B {:>10.2} us  ", of(0, 0));
        for (i, transport) in ALL.iter().enumerate().skip(1) {
            text += &format!(
                " {:>6.2}x of {:.2} ({})",
                of(0, 0) / of(i, 0),
                of(i, 0),
                transport.name()
            );
        }
        text += &format!("   | {:>7.3} GB/s ", of(0, 1));
        for i in 1..ALL.len() {
            text += &format!(" {:>6.2}x of {:.3}", of(0, 1) / of(i, 1), of(i, 1));
        }
        text += "\n";
    }
    text
}

/// `latency.svg` and `bandwidth.svg` in a folder.
pub fn plot(outcomes: &[Outcome], folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    for (which, file, heading, unit) in [
        (
            0,
            "latency.svg",
            "Time of a message or an access, one process to another on one host",
            "microseconds",
        ),
        (
            1,
            "bandwidth.svg",
            "Bandwidth, one process to another on one host",
            "GB/s",
        ),
    ] {
        let panels: Vec<Panel> = outcomes
            .iter()
            .map(|outcome| Panel {
                title: outcome.test.name.into(),
                series: ALL
                    .iter()
                    .zip(&outcome.figures)
                    .map(|(transport, figures)| Series {
                        name: transport.name().into(),
                        points: figures
                            .iter()
                            .map(|(size, v)| (*size as f64, v[which]))
                            .collect(),
                    })
                    .collect(),
            })
            .collect();
        std::fs::write(folder.join(file), picture(heading, unit, &panels))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_both_programs() {
        let row = "size4096,2000,7.366,8.057,8.057,484.83,1000.00,124116,124116";
        assert_eq!(batch_row(row), Some((4096, 7.366, 1.048576)));
        assert_eq!(batch_row("size8,[thread 0]   3,1,1,1,1,1,1,1"), None);
        assert_eq!(batch_row("batch,iterations,50.0_percentile_lat"), None);
        assert_eq!(ping_pong_row("pingpong 64 1.2500"), Some((64, 1.25)));
        assert_eq!(ping_pong_row("64 1.25"), None);
    }

    #[test]
    fn ratios_are_ours_to_theirs() {
        let figures = |us: f64| {
            SIZES
                .map(|s| (s, [us, 1.0]))
                .into_iter()
                .collect::<Figures>()
        };
        let outcome = Outcome {
            test: TESTS[0],
            figures: vec![figures(3.0), figures(2.0), figures(30.0)],
        };
        let text = table(&outcome);
        assert!(
            text.contains("1.50x of 2.00 (posix + cma)") && text.contains("0.10x of 30.00 (TCP"),
            "{text}"
        );
    }
}
