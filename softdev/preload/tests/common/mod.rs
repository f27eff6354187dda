//! Programs run under the preload library.
#![allow(dead_code, unreachable_pub)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Cargo builds the library for this package's tests and puts it beside them, or one level up.
pub fn library() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let deps = exe.parent().unwrap();
    let name = "libgaudi_softdev.so";
    let candidates = [deps.join(name), deps.parent().unwrap().join(name)];
    let newest = candidates.iter().filter(|path| path.exists());
    newest
        .max_by_key(|path| std::fs::metadata(path).unwrap().modified().unwrap())
        .expect("the library")
        .clone()
}

/// A fabric of its own, gone with the value.
pub struct Fabric {
    dir: PathBuf,
    pub rxe: bool,
}

impl Fabric {
    pub fn new(name: &str, rxe: bool) -> Fabric {
        let dir = PathBuf::from(format!(
            "/dev/shm/gaudi-preload-test-{}-{name}",
            std::process::id()
        ));
        let _ = std::fs::remove_dir_all(&dir);
        Fabric { dir, rxe }
    }

    pub fn tree(&self) -> PathBuf {
        self.dir.join("tree")
    }

    /// The program with the library; a hang is a failure.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("/usr/bin/timeout");
        command.args(["60", program]);
        command
            .env("LD_PRELOAD", library())
            .env("GAUDI_SOFT_DIR", &self.dir);
        command.env("GAUDI_SOFT_RXE", if self.rxe { "1" } else { "0" });
        command
    }

    pub fn run(&self, program: &str, args: &[&str]) -> String {
        let output = self.command(program).args(args).output().unwrap();
        text(program, &output)
    }
}

pub fn text(program: &str, output: &Output) -> String {
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program}: {}\n{out}\n{err}",
        output.status
    );
    assert!(!err.contains("panicked"), "{err}");
    out
}

impl Drop for Fabric {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Whether a tool is installed; a test without its tool has nothing to say.
pub fn have(path: &str) -> bool {
    let found = Path::new(path).exists();
    if !found {
        eprintln!("skipped: no {path}");
    }
    found
}
