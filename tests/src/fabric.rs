//! A fabric of a test's own.

use crate::artefact;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A fabric in a temporary folder that goes away with it.
pub struct Fabric {
    root: tempfile::TempDir,
    options: Vec<String>,
}

impl Fabric {
    /// With options of `gaudi-soft run`, e.g. `["--devices", "2"]`.
    pub fn with(options: &[&str]) -> Fabric {
        let shm = Path::new("/dev/shm");
        let mut builder = tempfile::Builder::new();
        builder.prefix("gaudi-test-");
        let root = if shm.is_dir() {
            builder.tempdir_in(shm)
        } else {
            builder.tempdir()
        };
        Fabric {
            root: root.expect("a temporary folder"),
            options: options.iter().map(|s| s.to_string()).collect(),
        }
    }

    /// Two devices of one port.
    pub fn two_devices() -> Fabric {
        Fabric::with(&["--devices", "2"])
    }

    /// The folder that gaudi-soft makes.
    pub fn dir(&self) -> PathBuf {
        self.root.path().join("default")
    }

    /// `gaudi-soft` on this fabric's folder, without arguments yet.
    pub fn tool(&self) -> Command {
        let mut command = Command::new(artefact("gaudi-soft"));
        command
            .env("GAUDI_SOFT_ROOT", self.root.path())
            .env_remove("GAUDI_SOFT_LIBDIR")
            .env_remove("IBV_DRIVERS")
            .env_remove("RDMAV_DRIVERS");
        command
    }

    /// `gaudi-soft run OPTIONS -- PROGRAM ARGS`.
    pub fn run<I, S>(&self, program: impl AsRef<std::ffi::OsStr>, args: I) -> Command
    where
        I: IntoIterator<Item = S>,
        S: AsRef<std::ffi::OsStr>,
    {
        let mut command = self.tool();
        command
            .arg("run")
            .args(&self.options)
            .arg("--")
            .arg(program)
            .args(args);
        command
    }

    /// The same for a line of words.
    pub fn line(&self, line: &str) -> Command {
        let mut words = line.split_whitespace();
        let program = words.next().expect("a program");
        self.run(program, words)
    }

    /// What `gaudi-soft devices` says.
    pub fn devices(&self) -> String {
        let output = self
            .tool()
            .arg("devices")
            .output()
            .expect("gaudi-soft starts");
        String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr)
    }

    /// What the fabric's folder holds, as (file name, size).
    pub fn files(&self) -> Vec<(String, u64)> {
        let mut files: Vec<_> = std::fs::read_dir(self.dir())
            .map(|list| {
                list.flatten()
                    .filter_map(|e| {
                        Some((e.file_name().into_string().ok()?, e.metadata().ok()?.len()))
                    })
                    .collect()
            })
            .unwrap_or_default();
        files.sort();
        files
    }
}

/// Bytes that port 1 of hbl_0 has sent, connections and datagrams, as its port counter says: in words (IBTA Vol. 1, 16.1.3.5).
pub fn sent_by_device(fabric: &Fabric) -> u64 {
    let path = "/sys/class/infiniband/hbl_0/ports/1/counters/port_xmit_data";
    let output = fabric.run("cat", [path]).output().expect("cat starts");
    let text = String::from_utf8_lossy(&output.stdout);
    4 * text
        .trim()
        .parse::<u64>()
        .unwrap_or_else(|_| panic!("{path}: {text}"))
}
