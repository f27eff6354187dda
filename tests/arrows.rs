//! The arrows of docs/design.md: who may use whom.

use gaudi_tests::workspace;
use std::path::{Path, PathBuf};

/// Packages of this workspace in a manifest's `[dependencies]`.
fn dependencies(manifest: &str) -> Vec<String> {
    let text = std::fs::read_to_string(workspace().join(manifest)).unwrap();
    let ours = [
        "kernel-abi",
        "usercopy",
        "gaudi-verbs",
        "gaudi-softnic",
        "gaudi-softdev",
        "gaudi-provider",
        "gaudi-preload",
        "gaudi-bench",
        "gaudi-tests",
    ];
    let mut in_section = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.starts_with('[') {
            in_section = line.trim() == "[dependencies]";
        } else if in_section {
            let name = line.split(['.', '=', ' ']).next().unwrap_or("");
            if ours.contains(&name) {
                found.push(name.to_string());
            }
        }
    }
    found
}

#[test]
fn packages_depend_downwards_only() {
    let allowed: &[(&str, &[&str])] = &[
        ("kernel-abi/Cargo.toml", &[]),
        ("usercopy/Cargo.toml", &[]),
        ("Cargo.toml", &["kernel-abi", "usercopy"]),
        (
            "provider/Cargo.toml",
            &["kernel-abi", "gaudi-verbs", "usercopy"],
        ),
        ("softdev/nic/Cargo.toml", &["kernel-abi", "usercopy"]),
        (
            "softdev/Cargo.toml",
            &["kernel-abi", "usercopy", "gaudi-softnic"],
        ),
        (
            "softdev/preload/Cargo.toml",
            &["kernel-abi", "usercopy", "gaudi-softnic", "gaudi-softdev"],
        ),
        ("bench/Cargo.toml", &["usercopy"]),
        ("tests/Cargo.toml", &["kernel-abi"]),
    ];
    for (manifest, may) in allowed {
        for name in dependencies(manifest) {
            assert!(may.contains(&name.as_str()), "{manifest} depends on {name}");
        }
    }
    assert!(
        dependencies("softdev/Cargo.toml").contains(&"gaudi-softnic".to_string()),
        "the reader of manifests works"
    );
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found
}

/// Lines of code, without comments.
fn code(path: &Path) -> Vec<(usize, String)> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .enumerate()
        .map(|(i, l)| (i + 1, l.split("//").next().unwrap_or("").to_string()))
        .filter(|(_, l)| !l.trim().is_empty())
        .collect()
}

fn forbid(dir: &str, words: &[&str], why: &str) {
    let files = sources(&workspace().join(dir));
    assert!(!files.is_empty(), "{dir} has no sources");
    for file in files {
        for (number, line) in code(&file) {
            for word in words {
                assert!(
                    !line.contains(word),
                    "{}:{number}: `{word}`: {why}",
                    file.display()
                );
            }
        }
    }
}

#[test]
fn the_protocol_does_no_io() {
    let words = [
        "unsafe ",
        "libc::",
        "std::fs",
        "std::net",
        "std::thread",
        "std::process",
        "Instant::now",
        "SystemTime",
        "native::gaudi",
        "native::kernel",
    ];
    forbid(
        "src/rc",
        &words,
        "rc/ is sans-IO: no unsafe, no clock, no device",
    );
}

#[test]
fn the_abi_has_no_unsafe() {
    forbid("kernel-abi/src", &["unsafe "], "kernel-abi/ only describes");
    let lib = std::fs::read_to_string(workspace().join("kernel-abi/src/lib.rs")).unwrap();
    assert!(lib.contains("no_std") && lib.contains("forbid(unsafe_code)"));
}

#[test]
fn the_driver_does_not_know_the_soft_device() {
    for dir in ["src", "provider/src"] {
        forbid(
            dir,
            &["softdev", "softnic", "GAUDI_SOFT"],
            "no `if soft` in the driver",
        );
    }
}

#[test]
fn the_nic_knows_no_protocol_and_no_face() {
    forbid(
        "softdev/nic/src",
        &["gaudi_verbs", "softdev::", "uverbs::cmd"],
        "the NIC knows WRITE only",
    );
}

/// The interposed names live in a leaf: a `no_mangle` elsewhere would be exported by everything that links it.
#[test]
fn interposed_names_live_in_the_leaf() {
    for dir in [
        "softdev/src",
        "softdev/nic/src",
        "src",
        "usercopy/src",
        "kernel-abi/src",
    ] {
        forbid(
            dir,
            &["no_mangle"],
            "exported names belong to a leaf cdylib",
        );
    }
}

/// docs/abi-extensions.md says of every capability bit what the provider does without it.
#[test]
fn every_capability_bit_is_documented() {
    let ext = std::fs::read_to_string(workspace().join("kernel-abi/src/ext.rs")).unwrap();
    let docs = std::fs::read_to_string(workspace().join("docs/abi-extensions.md")).unwrap();
    let mut bits = 0;
    for line in ext.lines().map(str::trim) {
        let Some(rest) = line.strip_prefix("pub const ") else {
            continue;
        };
        let (Some((name, _)), Some((_, bit))) = (rest.split_once(':'), rest.split_once("1 << "))
        else {
            continue;
        };
        let row = format!("| {} | `{name}` |", bit.trim_end_matches(';'));
        assert!(
            docs.lines().any(|l| l.starts_with(&row)),
            "docs/abi-extensions.md has no line for `{name}`, bit {bit}"
        );
        bits += 1;
    }
    assert!(bits >= 9, "the reader of ext.rs works");
}
