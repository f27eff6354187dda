//! UCX and Open MPI over the device, shared memory and TCP, as tables and as pictures.

use gaudi_bench::rig::Rig;
use gaudi_bench::tools::Tools;
use gaudi_bench::transports::{self, TESTS};
use std::path::PathBuf;
use std::process::{Command, ExitCode};

const USAGE: &str = "\
usage: transports [options]
  --repeats N      rounds, 3 unless told
  --plot FOLDER    write latency.svg and bandwidth.svg there
  --only TEXT      tests whose name contains TEXT
";

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprint!("transports: {error}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<ExitCode, Box<dyn std::error::Error>> {
    use lexopt::prelude::*;
    let (mut repeats, mut folder, mut only) = (3, None, String::new());
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("repeats") => repeats = parser.value()?.parse::<usize>()?.clamp(1, 99),
            Long("plot") => folder = Some(PathBuf::from(parser.value()?)),
            Long("only") => only = parser.value()?.string()?,
            Short('h') | Long("help") => {
                print!("{USAGE}");
                return Ok(ExitCode::SUCCESS);
            }
            other => return Err(other.unexpected().into()),
        }
    }
    let here = std::env::current_exe()?;
    let beside = here.parent().map(PathBuf::from).unwrap_or_default();
    let program = beside.join("bench-pingpong");
    let built = Command::new("mpicc")
        .args(["-O2", "-Wall", "-o"])
        .arg(&program)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/c/pingpong.c"))
        .status();
    if !built.is_ok_and(|s| s.success()) {
        return Err("cannot compile pingpong.c (needs gcc and libopenmpi-dev)".into());
    }
    let tools = Tools {
        cpus: Rig::new()?.cpus,
        soft: beside.join("gaudi-soft"),
        device: None,
    };
    println!(
        "UCX and Open MPI over the device; medians of {repeats} interleaved rounds; N x of M: ours to theirs"
    );
    let (mut outcomes, mut failed) = (Vec::new(), false);
    for test in TESTS.iter().filter(|t| t.name.contains(&only)) {
        match transports::run(&tools, *test, repeats, &program) {
            Ok(outcome) => {
                print!("{}", transports::table(&outcome));
                outcomes.push(outcome);
            }
            Err(why) => {
                println!("{} FAILED: {why}", test.name);
                failed = true;
            }
        }
    }
    if let Some(folder) = folder.filter(|_| !failed) {
        transports::plot(&outcomes, &folder)?;
        println!("pictures in {}", folder.display());
    }
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
