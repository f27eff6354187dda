//! The command line.

use crate::help::Topic;
use crate::options::Wanted;
use crate::status::StatusArgs;
use lexopt::prelude::*;
use softdev::config::{MAX_DEVICES, MAX_PORTS};
use std::ffi::OsString;

#[derive(Debug, PartialEq)]
pub(crate) enum Command {
    Run(RunArgs),
    Devices {
        fabric: String,
    },
    Status(StatusArgs),
    Doctor,
    Clean {
        fabric: String,
    },
    Help(Topic),
    Version,
    /// Hidden: the second process of the doctor's copy test.
    Probe {
        pid: u32,
        address: u64,
    },
}

#[derive(Debug, PartialEq)]
pub(crate) struct RunArgs {
    pub(crate) fabric: String,
    pub(crate) wanted: Wanted,
    pub(crate) program: OsString,
    pub(crate) args: Vec<OsString>,
}

const DEFAULT_FABRIC: &str = "default";

pub(crate) fn parse(mut parser: lexopt::Parser) -> Result<Command, String> {
    let command = match parser.next().map_err(text)? {
        None => return Err("which command? See gaudi-soft --help".into()),
        Some(Short('h') | Long("help")) => return Ok(Command::Help(Topic::Main)),
        Some(Short('V') | Long("version")) => return Ok(Command::Version),
        Some(Value(name)) => name.string().map_err(text)?,
        Some(other) => return Err(other.unexpected().to_string()),
    };
    match command.as_str() {
        "run" => run(parser),
        "devices" => fabric_only(parser, Topic::Devices)
            .map(|r| r.map_or_else(Command::Help, |fabric| Command::Devices { fabric })),
        "status" => status(parser),
        "clean" => fabric_only(parser, Topic::Clean)
            .map(|r| r.map_or_else(Command::Help, |fabric| Command::Clean { fabric })),
        "doctor" => match parser.next().map_err(text)? {
            None => Ok(Command::Doctor),
            Some(Short('h') | Long("help")) => Ok(Command::Help(Topic::Doctor)),
            Some(other) => Err(other.unexpected().to_string()),
        },
        "help" => match parser.next().map_err(text)? {
            None => Ok(Command::Help(Topic::Main)),
            Some(Value(name)) => Topic::named(&name.to_string_lossy())
                .map(Command::Help)
                .ok_or_else(|| unknown(&name.to_string_lossy())),
            Some(other) => Err(other.unexpected().to_string()),
        },
        "probe-copy" => Ok(Command::Probe {
            pid: number(&mut parser, "pid", 1..=u64::from(u32::MAX))? as u32,
            address: number(&mut parser, "address", 0..=u64::MAX)?,
        }),
        other => Err(unknown(other)),
    }
}

fn run(mut parser: lexopt::Parser) -> Result<Command, String> {
    let mut fabric = DEFAULT_FABRIC.to_string();
    let mut wanted = Wanted::default();
    let mut netdev = None;
    loop {
        match parser.next().map_err(text)? {
            None => {
                return Err(
                    "run: which program? Usage: gaudi-soft run [OPTIONS] -- PROGRAM [ARGS]".into(),
                );
            }
            Some(Short('h') | Long("help")) => return Ok(Command::Help(Topic::Run)),
            Some(Long("fabric")) => fabric = fabric_name(&mut parser)?,
            Some(Long("devices")) => {
                wanted.devices =
                    Some(number(&mut parser, "--devices", 1..=u64::from(MAX_DEVICES))? as u32)
            }
            Some(Long("ports")) => {
                wanted.ports =
                    Some(number(&mut parser, "--ports", 1..=u64::from(MAX_PORTS))? as u32)
            }
            Some(Long("netdev")) => netdev = Some(netdevs(&mut parser)?),
            Some(Long("strict-posted")) => wanted.strict = Some(true),
            Some(Long("rxe")) => wanted.rxe = Some(true),
            Some(Long("retry-ms")) => {
                wanted.retry_ms = Some(number(&mut parser, "--retry-ms", 0..=3_600_000)? as u32)
            }
            // Everything behind the program's name is the program's, dashes or not.
            Some(Value(program)) => {
                let args = parser.raw_args().map_err(text)?.collect();
                if let Some(names) = netdev {
                    wanted.netdev = Some((netdev_fits(&names, &wanted)?, 0));
                }
                return Ok(Command::Run(RunArgs {
                    fabric,
                    wanted,
                    program,
                    args,
                }));
            }
            Some(other) => return Err(format!("run: {}", other.unexpected())),
        }
    }
}

fn status(mut parser: lexopt::Parser) -> Result<Command, String> {
    let mut args = StatusArgs {
        fabric: DEFAULT_FABRIC.to_string(),
        watch: None,
        all: false,
        json: false,
    };
    while let Some(arg) = parser.next().map_err(text)? {
        match arg {
            Short('h') | Long("help") => return Ok(Command::Help(Topic::Status)),
            Long("fabric") => args.fabric = fabric_name(&mut parser)?,
            Short('w') | Long("watch") => {
                let seconds = parser
                    .optional_value()
                    .map(|v| v.to_string_lossy().into_owned());
                let parsed = seconds.as_deref().map_or(Ok(1), str::parse);
                args.watch = match parsed {
                    Ok(n @ 1..=3600) => Some(n),
                    _ => return Err("--watch=SECONDS: a number from 1 to 3600 is needed".into()),
                };
            }
            Short('a') | Long("all") => args.all = true,
            Long("json") => args.json = true,
            other => return Err(format!("status: {}", other.unexpected())),
        }
    }
    Ok(Command::Status(args))
}

fn fabric_only(mut parser: lexopt::Parser, topic: Topic) -> Result<Result<String, Topic>, String> {
    let mut fabric = DEFAULT_FABRIC.to_string();
    while let Some(arg) = parser.next().map_err(text)? {
        match arg {
            Short('h') | Long("help") => return Ok(Err(topic)),
            Long("fabric") => fabric = fabric_name(&mut parser)?,
            other => return Err(other.unexpected().to_string()),
        }
    }
    Ok(Ok(fabric))
}

/// The name becomes a folder's name and a part of LD_PRELOAD-like lists, hence the narrow alphabet.
fn fabric_name(parser: &mut lexopt::Parser) -> Result<String, String> {
    let name = parser.value().map_err(text)?.to_string_lossy().into_owned();
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if name.is_empty() || name.len() > 64 || name.starts_with(['.', '-']) || !name.bytes().all(fine)
    {
        return Err(format!(
            "--fabric {name:?}: 1 to 64 letters, digits, '.', '_' or '-', beginning with none of '.' and '-'"
        ));
    }
    Ok(name)
}

/// Names of interfaces, in the alphabet that the kernel and our lists can carry.
fn netdevs(parser: &mut lexopt::Parser) -> Result<Vec<String>, String> {
    let value = parser.value().map_err(text)?.to_string_lossy().into_owned();
    let names: Vec<String> = value.split(',').map(str::to_string).collect();
    let fine = |name: &String| {
        (1..16).contains(&name.len())
            && name
                .bytes()
                .all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b',' | b'='))
    };
    let mut sorted = names.clone();
    sorted.sort();
    sorted.dedup();
    if !names.iter().all(fine) || sorted.len() != names.len() {
        return Err(format!(
            "--netdev {value:?}: different names of interfaces, separated by commas, are needed"
        ));
    }
    Ok(names)
}

/// One for each port.
fn netdev_fits(names: &[String], wanted: &Wanted) -> Result<String, String> {
    let ports = wanted.devices.unwrap_or(1) * wanted.ports.unwrap_or(1);
    if wanted.rxe == Some(true) {
        return Err("--netdev and --rxe do not go together".into());
    }
    if names.len() != ports as usize {
        return Err(format!(
            "--netdev names {}, but there {} {ports} (devices times ports): name one interface for each port, or change --devices and --ports",
            names.len(),
            if ports == 1 { "is" } else { "are" }
        ));
    }
    Ok(names.join(","))
}

fn number(
    parser: &mut lexopt::Parser,
    what: &str,
    range: std::ops::RangeInclusive<u64>,
) -> Result<u64, String> {
    let value = parser.value().map_err(|e| format!("{what}: {e}"))?;
    let value = value.to_string_lossy();
    match value.parse() {
        Ok(n) if range.contains(&n) => Ok(n),
        _ => Err(format!(
            "{what} {value}: a number from {} to {} is needed",
            range.start(),
            range.end()
        )),
    }
}

fn unknown(name: &str) -> String {
    format!(
        "no command {name:?}; there are run, status, devices, doctor and clean. See gaudi-soft --help"
    )
}

fn text(e: lexopt::Error) -> String {
    e.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(line: &str) -> Result<Command, String> {
        parse(lexopt::Parser::from_args(line.split_whitespace()))
    }

    fn run(line: &str) -> RunArgs {
        match command(line) {
            Ok(Command::Run(run)) => run,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn options_end_at_the_program() {
        let r = run("run --fabric a.b --devices 2 --ports 24 -- ib_write_bw --devices 9 -- -x");
        assert_eq!(
            (r.fabric.as_str(), r.wanted.devices, r.wanted.ports),
            ("a.b", Some(2), Some(24))
        );
        assert_eq!(r.program, "ib_write_bw");
        assert_eq!(r.args, ["--devices", "9", "--", "-x"]);
    }

    #[test]
    fn interfaces_are_those_of_all_ports() {
        let r = run("run --netdev eth0,eth1 --ports 2 -- x");
        assert_eq!(r.wanted.netdev, Some(("eth0,eth1".to_string(), 0)));
    }

    #[test]
    fn the_dashes_may_be_left_out() {
        let r = run("run --strict-posted ibv_devinfo -v");
        assert_eq!(
            (r.wanted.strict, r.wanted.rxe, r.wanted.retry_ms),
            (Some(true), None, None)
        );
        assert_eq!(
            (r.program, r.args),
            ("ibv_devinfo".into(), vec!["-v".into()])
        );
        assert_eq!(r.fabric, "default");
    }

    #[test]
    fn a_program_may_begin_with_a_dash_behind_the_dashes() {
        assert_eq!(run("run -- -odd").program, "-odd");
    }

    #[test]
    fn what_is_out_of_range_is_refused() {
        for line in [
            "",
            "walk",
            "run",
            "run --",
            "run --devices 0 -- x",
            "run --devices 9 -- x",
            "run --ports 25 -- x",
            "run --ports many -- x",
            "run --fabric ../up -- x",
            "run --fabric .hidden -- x",
            "run --nonsense -- x",
            "run --netdev a,b -- x",
            "run --netdev a,a --ports 2 -- x",
            "run --netdev a/b -- x",
            "run --netdev eth0 --rxe -- x",
            "devices extra",
            "doctor --fabric x",
            "help nothing",
            "status --watch=0",
            "status --watch=soon",
            "status extra",
        ] {
            assert!(command(line).is_err(), "{line:?} was taken");
        }
    }

    #[test]
    fn help_of_each_command() {
        for (line, topic) in [
            ("--help", Topic::Main),
            ("-h", Topic::Main),
            ("help", Topic::Main),
            ("run --help", Topic::Run),
            ("help run", Topic::Run),
            ("devices -h", Topic::Devices),
            ("status --help", Topic::Status),
            ("doctor --help", Topic::Doctor),
            ("clean --help", Topic::Clean),
        ] {
            assert_eq!(command(line), Ok(Command::Help(topic)), "{line}");
        }
        assert_eq!(command("--version"), Ok(Command::Version));
    }
}
