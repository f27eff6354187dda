//! The artefacts under test, beside the test executable.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The folder of the whole project.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ is in the workspace")
}

/// A built file: `gaudi-soft`, `libgaudi.so`, `libgaudi_softdev.so`.
pub fn artefact(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(folder).join(name)
}

/// `target/<profile>`. Cargo builds a cdylib only when asked to build it, not when it tests something else; `make test` asks
/// first, and a plain `cargo test` gets it here.
fn folder() -> PathBuf {
    let exe = std::env::current_exe().expect("a test has an executable");
    let deps = exe.parent().expect("it is in a folder");
    let folder = if deps.ends_with("deps") {
        deps.parent().expect("deps has a parent").to_path_buf()
    } else {
        deps.to_path_buf()
    };
    let there = || {
        ["gaudi-soft", "libgaudi.so", "libgaudi_softdev.so"]
            .iter()
            .all(|n| folder.join(n).is_file())
    };
    if !there() {
        let profile = match folder.file_name().and_then(|n| n.to_str()) {
            Some("debug") | None => "dev",
            Some(other) => other,
        };
        let status = Command::new(env!("CARGO"))
            .args(["build", "--profile", profile, "--workspace", "--target-dir"])
            .arg(folder.parent().expect("target/<profile>"))
            .current_dir(workspace())
            .status();
        assert!(
            status.is_ok_and(|s| s.success()) && there(),
            "the libraries are not in {} and cannot be built",
            folder.display()
        );
    }
    folder
}
