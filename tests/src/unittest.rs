//! Python's unittest: the tests that rdma-core brings, and what became of each.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How one test ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    Ok,
    Bad,
    Skipped(String),
}

/// Copies packaged tests from `source` to `dir`/tests, uncompressed.
pub fn unpack(source: &Path, dir: &Path) -> PathBuf {
    let tests = dir.join("tests");
    std::fs::create_dir(&tests).expect("a folder");
    for file in std::fs::read_dir(source)
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

/// Those of its modules that are not about another vendor's extensions.
pub fn test_modules(tests: &Path) -> Vec<String> {
    let mut modules: Vec<String> = std::fs::read_dir(tests)
        .expect("the tests")
        .flatten()
        .filter_map(|f| {
            f.file_name()
                .to_str()?
                .strip_suffix(".py")
                .map(String::from)
        })
        .filter(|m| m.starts_with("test_") && !m.contains("mlx5") && !m.contains("efa"))
        .collect();
    modules.sort();
    modules
}

/// Outcomes in the output of `unittest -v`. A test begins with `name (module.Class.name)`; its end follows the dots, or stands alone when
/// something was printed meanwhile.
pub fn outcomes(text: &str) -> BTreeMap<String, End> {
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
pub fn ran(text: &str) -> Option<usize> {
    let line = text.lines().rev().find(|l| l.starts_with("Ran "))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
