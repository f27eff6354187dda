//! rdma-core's own Python tests, as Debian packages them, unmodified: nothing fails, and each skip stands in docs/pyverbs-skips.md.

use gaudi_tests::{Fabric, Failures, Finished, spawn, workspace};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Debian's, which has pyverbs.
const PYTHON: &str = "/usr/bin/python3";
const PACKAGED: &str = "/usr/share/doc/rdma-core/tests";
/// Passes without what only some machines have (huge pages).
const LEAST_PASSES: usize = 130;

/// How one test ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    Ok,
    Bad,
    Skipped(String),
}

/// The packaged tests, unpacked into `dir`/tests.
fn unpack(dir: &Path) -> PathBuf {
    let mut source = PathBuf::from(PACKAGED);
    if !source.is_dir() {
        // Container images leave documentation out.
        source = download(dir);
    }
    let tests = dir.join("tests");
    std::fs::create_dir(&tests).expect("a folder");
    for file in std::fs::read_dir(&source)
        .expect("the packaged tests")
        .flatten()
    {
        std::fs::copy(file.path(), tests.join(file.file_name())).expect("a copy");
    }
    let gunzip = Command::new("sh")
        .args(["-c", "gzip -d ./*.gz"])
        .current_dir(&tests)
        .status();
    assert!(gunzip.is_ok_and(|s| s.success()), "gzip");
    tests
}

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

/// Outcomes in the output of `unittest -v`. A test begins with `name (module.Class.name)`; its end follows the dots, or stands alone when
/// something was printed meanwhile.
fn outcomes(text: &str) -> BTreeMap<String, End> {
    let mut found = BTreeMap::new();
    let mut current = None;
    for line in text.lines() {
        if line.starts_with("======") || line.starts_with("------") {
            break;
        }
        if let Some((name, rest)) = line.split_once(" (")
            && name.starts_with("test_")
            && let Some((id, _)) = rest.split_once(')')
            && id.ends_with(name)
        {
            current = Some(id.trim_start_matches("tests.").to_string());
        }
        let said = line
            .rsplit_once("... ")
            .map_or(line, |(_, said)| said)
            .trim();
        let end = match said {
            "ok" => End::Ok,
            "FAIL" | "ERROR" => End::Bad,
            _ => match said.strip_prefix("skipped ") {
                Some(why) => End::Skipped(why.trim_matches(['\'', '"']).to_string()),
                None => continue,
            },
        };
        if let Some(id) = current.take() {
            found.insert(id, end);
        }
    }
    found
}

/// The number in the line `Ran N tests`.
fn ran(text: &str) -> Option<usize> {
    let line = text.lines().rev().find(|l| l.starts_with("Ran "))?;
    line.split_whitespace().nth(1)?.parse().ok()
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
    let tests = unpack(dir.path());
    let mut modules: Vec<String> = std::fs::read_dir(&tests)
        .expect("the tests")
        .flatten()
        .filter_map(|f| {
            f.file_name()
                .to_str()?
                .strip_suffix(".py")
                .map(String::from)
        })
        // Other vendors' extensions.
        .filter(|m| m.starts_with("test_") && !m.contains("mlx5") && !m.contains("efa"))
        .collect();
    modules.sort();
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

#[test]
fn outcomes_are_read() {
    let text = "\
test_a (tests.test_x.T.test_a) ... ok
test_b (tests.test_x.T.test_b)
What it does. ... skipped 'not here'
test_c (tests.test_x.T.test_c)
Prints. ... noise
more
ERROR

======================================================================
ERROR: test_c (tests.test_x.T.test_c)
test_z (tests.test_x.T.test_z) ... ok
Ran 3 tests in 0.1s
";
    let found = outcomes(text);
    let expected = [
        ("test_x.T.test_a", End::Ok),
        ("test_x.T.test_b", End::Skipped("not here".into())),
        ("test_x.T.test_c", End::Bad),
    ];
    assert_eq!(found, expected.map(|(n, e)| (n.to_string(), e)).into());
    assert_eq!(ran(text), Some(3));
}
