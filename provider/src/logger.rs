//! Sink of the `log` crate: stderr, when `GAUDI_LOG` names a level.

use log::{LevelFilter, Log, Metadata, Record};
use std::io::Write;

struct Stderr;

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let line = format!(
                "gaudi[{}] {}: {}\n",
                std::process::id(),
                record.level(),
                record.args()
            );
            // One write a line; a closed stderr is nobody's error.
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
    }

    fn flush(&self) {}
}

/// Called when a context is opened, not at load time: constructors read no environment unless they must complain.
pub(crate) fn init() {
    let Some(value) = std::env::var_os("GAUDI_LOG") else {
        return;
    };
    let level = value
        .to_str()
        .and_then(|v| v.parse().ok())
        .unwrap_or(LevelFilter::Warn);
    if log::set_logger(&Stderr).is_ok() {
        log::set_max_level(level);
    }
}
