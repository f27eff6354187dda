//! `gaudi-soft`: runs any program with a soft GAUDI2 in it, shows what exists, and finds out what would keep it from working.

mod args;
mod clean;
mod devices;
mod directory;
mod doctor;
mod files;
mod help;
mod options;
mod probe;
mod run;
mod status;
mod table;

use args::Command;
use std::fmt::Display;
use std::process::ExitCode;

/// env(1)'s codes, so that scripts can tell our failure from the program's.
const OWN_FAILURE: u8 = 125;

/// What a command ends with when it did not work: a sentence for people and an exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    text: String,
}

impl Failure {
    pub(crate) fn new(code: u8, text: impl Display) -> Failure {
        Failure {
            code,
            text: text.to_string(),
        }
    }

    /// gaudi-soft itself could not do its part.
    pub(crate) fn own(text: impl Display) -> Failure {
        Failure::new(OWN_FAILURE, text)
    }
}

fn main() -> ExitCode {
    let result = args::parse(lexopt::Parser::from_env())
        .map_err(Failure::own)
        .and_then(|command| match command {
            Command::Run(run) => run::run(run),
            Command::Devices { fabric } => devices::devices(&fabric),
            Command::Status(args) => status::status(&args),
            Command::Doctor => Ok(doctor::doctor()),
            Command::Clean { fabric } => clean::clean(&fabric),
            Command::Help(topic) => print(help::text(topic)),
            Command::Version => print(concat!("gaudi-soft ", env!("CARGO_PKG_VERSION"), "\n")),
            Command::Probe { pid, address } => Ok(probe::child(pid, address)),
        });
    result.unwrap_or_else(|failure| {
        eprintln!("gaudi-soft: {}", failure.text);
        ExitCode::from(failure.code)
    })
}

/// Writes to standard output; a reader that went away (`| head`) is no error.
pub(crate) fn print(text: &str) -> Result<ExitCode, Failure> {
    use std::io::{ErrorKind, Write};
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::own(format!("cannot write the output: {e}")))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}
