//! What comes before the first message, against the budgets: opening a device, creating and connecting a QP, memory of an idle connected QP.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

fn fail(what: &str) -> ExitCode {
    eprintln!("setup: {what}");
    ExitCode::FAILURE
}

fn main() -> ExitCode {
    let Ok(me) = std::env::current_exe() else {
        return fail("who am I?");
    };
    let dir = me.parent().map(PathBuf::from).unwrap_or_default();
    let program = dir.join("bench-setup");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/c/setup.c");
    let built = Command::new("cc")
        .args(["-O2", "-Wall", "-o"])
        .arg(&program)
        .args([source, "-libverbs"])
        .status();
    if !built.is_ok_and(|s| s.success()) {
        return fail("cannot compile setup.c (needs gcc and libibverbs-dev)");
    }
    let root = std::env::temp_dir().join(format!("gaudi-bench-setup-{}", std::process::id()));
    let out = Command::new(dir.join("gaudi-soft"))
        .args(["run", "--"])
        .arg(&program)
        .env("GAUDI_SOFT_ROOT", &root)
        .output();
    let _ = std::fs::remove_dir_all(&root);
    let text = match out {
        Ok(o) if o.status.success() => String::from_utf8_lossy(&o.stdout).into_owned(),
        Ok(o) => return fail(&String::from_utf8_lossy(&o.stderr)),
        Err(e) => return fail(&e.to_string()),
    };
    let v: Vec<f64> = text
        .split_whitespace()
        .filter_map(|w| w.parse().ok())
        .collect();
    let [open, connect, memory] = v[..] else {
        return fail("no figures");
    };
    let verdict = |met: bool| if met { "met" } else { "NOT MET" };
    println!(
        "open a device            {open:9.1} us   budget 10 ms: {}",
        verdict(open <= 10_000.0)
    );
    println!(
        "create and connect a QP  {connect:9.1} us   budget 1 ms: {}",
        verdict(connect <= 1_000.0)
    );
    println!(
        "idle connected QP        {memory:9.1} KiB  budget 64 KiB: {}",
        verdict(memory <= 64.0)
    );
    ExitCode::SUCCESS
}
