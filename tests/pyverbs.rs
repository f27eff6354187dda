//! rdma-core's own Python tests, as Debian packages them, unmodified: nothing fails, and each skip stands in docs/pyverbs-skips.md.

use gaudi_tests::{
    End, Fabric, Failures, Finished, outcomes, ran, spawn, test_modules, unpack, workspace,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Debian's, which has pyverbs.
const PYTHON: &str = "/usr/bin/python3";
const PACKAGED: &str = "/usr/share/doc/rdma-core/tests";
/// Passes without what only some machines have (huge pages).
const LEAST_PASSES: usize = 130;

fn download(dir: &Path) -> PathBuf {
    let script = "apt-get download rdma-core && dpkg -x rdma-core_*.deb package";
    let done = Command::new("sh")
        .args(["-c", script])
        .current_dir(dir)
        .output();
    let tests = dir.join("package").join(PACKAGED.trim_start_matches('/'));
    assert!(
        tests.is_dir(),
        "{PACKAGED} is not there and cannot be downloaded (apt-get install rdma-core): {done:?}"
    );
    tests
}

/// Rows of docs/pyverbs-skips.md: test, whether it is skipped on every machine.
fn documented() -> BTreeMap<String, bool> {
    let text =
        std::fs::read_to_string(workspace().join("docs/pyverbs-skips.md")).expect("the list");
    let mut listed = BTreeMap::new();
    for line in text.lines() {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        if let [tests, when, _reason] = cells[..]
            && (when == "always" || when == "machine")
        {
            for test in tests.split_whitespace() {
                let test = test.trim_matches(['`', ',']);
                listed.insert(test.to_string(), when == "always");
            }
        }
    }
    listed
}

fn run(fabric: &Fabric, dir: &Path, module: &str) -> Finished {
    let mut command = fabric.run(
        PYTHON,
        [
            "-W",
            "ignore",
            "tests/run_tests.py",
            "-v",
            "--dev",
            "hbl_0",
            &format!("tests.{module}"),
        ],
    );
    command.current_dir(dir);
    spawn(command).finish(Duration::from_secs(180))
}

#[test]
fn rdma_cores_tests_find_nothing_wrong() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut source = PathBuf::from(PACKAGED);
    if !source.is_dir() {
        // Container images leave documentation out.
        source = download(dir.path());
    }
    let modules = test_modules(&unpack(&source, dir.path()));
    assert!(modules.len() >= 20, "{modules:?}");
    let fabric = Fabric::with(&[]);
    let mut failures = Failures::default();
    let mut all = BTreeMap::new();
    for module in &modules {
        let done = run(&fabric, dir.path(), module);
        let ends = outcomes(&done.stderr);
        let result = match ran(&done.stderr) {
            Some(n) if n == ends.len() && done.success() => Ok(()),
            n => Err(format!("{n:?} tests ran, {} are told\n{done}", ends.len())),
        };
        failures.note(module, result);
        all.extend(ends);
    }
    let listed = documented();
    let (mut passed, mut skipped) = (0, 0);
    for (test, end) in &all {
        let result = match (end, listed.get(test)) {
            (End::Ok, Some(true)) => {
                Err("passes, and docs/pyverbs-skips.md says that it is skipped".to_string())
            }
            (End::Skipped(why), None) => Err(format!(
                "skipped without an entry in docs/pyverbs-skips.md: {why}"
            )),
            (End::Bad, _) => Err("failed".to_string()),
            _ => Ok(()),
        };
        match end {
            End::Ok => passed += 1,
            End::Skipped(_) => skipped += 1,
            End::Bad => {}
        }
        failures.note(test, result);
    }
    for test in listed.keys().filter(|t| !all.contains_key(*t)) {
        failures.note(test, Err("listed, but there is no such test".to_string()));
    }
    eprintln!("{} tests: {passed} passed, {skipped} skipped", all.len());
    failures.check();
    assert!(passed >= LEAST_PASSES, "{passed} passed");
}
