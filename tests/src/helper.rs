//! The small C programs of tests/c.

use crate::workspace;
use std::process::Command;
use tempfile::TempPath;

/// Compiles `tests/c/<name>.c` against the installed libibverbs; the executable goes away with the value.
pub fn compile(name: &str) -> TempPath {
    compile_with(name, "cc")
}

/// The same with another compiler, such as mpicc.
pub fn compile_with(name: &str, compiler: &str) -> TempPath {
    let source = workspace().join(format!("tests/c/{name}.c"));
    let out = tempfile::Builder::new()
        .prefix(&format!("gaudi-{name}-"))
        .tempfile()
        .expect("a temporary file")
        .into_temp_path();
    let output = Command::new(compiler)
        .args([
            "-std=gnu11",
            "-O2",
            "-g",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-o",
        ])
        .arg(&out)
        .arg(&source)
        .args(["-libverbs", "-lpthread"])
        .output()
        .unwrap_or_else(|e| panic!("{compiler}: {e} (apt-get install gcc libopenmpi-dev)"));
    assert!(
        output.status.success(),
        "{}: {} (apt-get install libibverbs-dev)",
        source.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    out
}
