//! Sink of the `log` crate in the program that has the soft device loaded: standard error, when `GAUDI_LOG` names a level.

use log::{LevelFilter, Log, Metadata, Record};

/// Also read by the provider, whose copy of the `log` crate has a sink of its own.
const ENV_LOG: &str = "GAUDI_LOG";

struct Stderr;

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            say(&format!("{}: {}", record.level(), record.args()));
        }
    }

    fn flush(&self) {}
}

/// One write a line, by a raw system call; a closed standard error is nobody's error.
pub(super) fn say(text: &str) {
    let pid = rustix::process::getpid().as_raw_nonzero();
    let line = format!("gaudi-softdev[{pid}] {text}\n");
    let _ = rustix::io::write(super::usermem::borrow_fd(2), line.as_bytes());
}

/// At the first use of the device, not at load time.
pub(super) fn init() {
    let Some(value) = std::env::var_os(ENV_LOG).filter(|v| !v.is_empty()) else {
        return;
    };
    let level = value.to_str().and_then(|v| v.parse().ok());
    if log::set_logger(&Stderr).is_ok() {
        log::set_max_level(level.unwrap_or(LevelFilter::Warn));
    }
    if level.is_none() {
        log::warn!(
            "{ENV_LOG}={value:?} is none of off, error, warn, info, debug and trace: it counts as warn"
        );
    }
}
