//! perftest on the soft device against UCX, the kernel's cross-process copy and plain memory.

use gaudi_bench::bare::{self, Mover};
use gaudi_bench::passive;
use gaudi_bench::report::{self, Measure, Options, Peer, Row, Totals, Unit};
use gaudi_bench::rig::Rig;
use gaudi_bench::spike::{self, Variant};
use gaudi_bench::tools::Tools;
use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "\
usage: gaudi-bench [options]
  --peers-only     leave the soft device out
  --repeats N      rounds per row, 3 unless told
  --only TEXT      rows whose name contains TEXT
  --soft PATH      the gaudi-soft program; the one next to this program unless told
  --device NAME    the RDMA device to use
";

struct Arguments {
    options: Options,
    only: String,
    soft: PathBuf,
    device: Option<String>,
}

fn arguments() -> Result<Option<Arguments>, lexopt::Error> {
    use lexopt::prelude::*;
    let beside = std::env::current_exe()
        .ok()
        .and_then(|path| Some(path.parent()?.join("gaudi-soft")));
    let mut arguments = Arguments {
        options: Options {
            repeats: 3,
            peers_only: false,
        },
        only: String::new(),
        soft: beside.unwrap_or_else(|| "gaudi-soft".into()),
        device: None,
    };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("peers-only") => arguments.options.peers_only = true,
            Long("repeats") => {
                arguments.options.repeats = parser.value()?.parse::<usize>()?.clamp(1, 99)
            }
            Long("only") => arguments.only = parser.value()?.string()?,
            Long("soft") => arguments.soft = parser.value()?.into(),
            Long("device") => arguments.device = Some(parser.value()?.string()?),
            Short('h') | Long("help") => return Ok(None),
            other => return Err(other.unexpected()),
        }
    }
    Ok(Some(arguments))
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprint!("gaudi-bench: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(arguments) {
        Ok(Totals { failed: 0, .. }) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("gaudi-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> std::io::Result<Totals> {
    let rig = Rig::new()?;
    let tools = Tools {
        cpus: rig.cpus,
        soft: arguments.soft,
        device: arguments.device,
    };
    let mut totals = Totals::default();
    println!(
        "CPUs {} and {}; medians of {} interleaved rounds; latencies are one way; ratios are ours to the peer's",
        rig.cpus[0], rig.cpus[1], arguments.options.repeats
    );
    for row in latencies(&rig, &tools)
        .into_iter()
        .chain(bandwidths(&rig, &tools))
        .chain(rates(&rig, &tools))
        .chain(passive::rows(&rig, &tools))
    {
        if row.name.contains(&arguments.only) {
            report::run(&rig, &row, arguments.options, &mut totals)?;
        }
    }
    println!(
        "budgets met: {}, not met: {}; rows failed: {}",
        totals.met, totals.missed, totals.failed
    );
    Ok(totals)
}

fn latencies<'a>(rig: &'a Rig, tools: &'a Tools) -> Vec<Row<'a>> {
    let sizes = [(2, "2 B"), (64, "64 B"), (4096, "4 KiB")];
    let ucx = move |size, budget| Peer {
        name: "UCX tag, posix+cma",
        measure: Box::new(move || tools.ucx_latency(size, 200_000)),
        budget,
    };
    let handed = move |name, mover, size, budget| Peer {
        name,
        measure: Box::new(move || Ok(bare::latency(rig, mover, size)?)),
        budget,
    };
    let ours = move |tool, size| -> Measure<'a> {
        Box::new(move || tools.perftest_latency(tool, size, 20_000))
    };
    let send = sizes.map(|(size, name)| Row {
        name: format!("ib_send_lat {name}"),
        unit: Unit::Time,
        ours: ours("ib_send_lat", size),
        // "Small messages" of the budget: what UCX sends eagerly in one piece.
        peers: vec![
            ucx(size, (size <= 64).then_some(2.0)),
            handed("shared memory, flag", Mover::Memcpy, size, None),
        ],
    });
    let write = sizes.map(|(size, name)| Row {
        name: format!("ib_write_lat {name}"),
        unit: Unit::Time,
        ours: ours("ib_write_lat", size),
        peers: vec![
            handed("process_vm, flag", Mover::ProcessVm, size, Some(1.5)),
            ucx(size, None),
        ],
    });
    send.into_iter().chain(write).collect()
}

fn bandwidths<'a>(rig: &'a Rig, tools: &'a Tools) -> Vec<Row<'a>> {
    let copies = move |name, mover, size, budget| Peer {
        name,
        measure: Box::new(move || Ok(bare::bandwidth(rig, mover, size)?)),
        budget,
    };
    let mut rows = Vec::new();
    for tool in ["ib_write_bw", "ib_send_bw"] {
        for (size, name, iterations) in [(65536, "64 KiB", 20_000), (1 << 20, "1 MiB", 2000)] {
            rows.push(Row {
                name: format!("{tool} {name}"),
                unit: Unit::Bandwidth,
                ours: Box::new(move || {
                    Ok(tools.perftest_throughput(tool, size, iterations)?.bandwidth)
                }),
                peers: vec![
                    copies("process_vm_writev", Mover::ProcessVm, size, Some(0.9)),
                    copies("memcpy", Mover::Memcpy, size, None),
                ],
            });
        }
    }
    rows
}

fn rates<'a>(rig: &'a Rig, tools: &'a Tools) -> Vec<Row<'a>> {
    let polled = Variant {
        completion: false,
        ack: true,
    };
    let row = |tool: &'static str| Row {
        name: format!("{tool} 8 B"),
        unit: Unit::Rate,
        ours: Box::new(move || Ok(tools.perftest_throughput(tool, 8, 500_000)?.messages)),
        peers: vec![
            Peer {
                name: "UCX tag, posix+cma",
                measure: Box::new(move || Ok(tools.ucx_throughput(8, 2_000_000)?.messages)),
                budget: None,
            },
            Peer {
                name: "bare message lines",
                measure: Box::new(move || Ok(spike::rate(rig, polled)?)),
                budget: None,
            },
        ],
    };
    vec![row("ib_send_bw"), row("ib_write_bw")]
}
