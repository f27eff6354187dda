//! What the two libraries show to other people's programs.

use gaudi_tests::artefact;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// Names of the dynamic symbols that a library defines, without versions.
fn defined(library: &Path) -> BTreeSet<String> {
    let output = Command::new("nm")
        .args(["-D", "--defined-only"])
        .arg(library)
        .output()
        .expect("nm (apt-get install binutils)");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .filter_map(|l| l.split_whitespace().nth(2))
        .map(|n| n.split('@').next().unwrap_or(n).to_string())
        .collect()
}

/// The library that this process has loaded under that name.
fn loaded(name: &str) -> std::path::PathBuf {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines()
        .filter_map(|l| l.split_whitespace().nth(5))
        .find(|p| p.contains(name))
        .map(Into::into)
        .expect("a libc")
}

#[test]
fn the_preloaded_library_shows_libc_names_only() {
    let libc = defined(&loaded("libc.so"));
    let ours = defined(&artefact("libgaudi_softdev.so"));
    assert!(
        libc.contains("open") && ours.contains("ioctl") && ours.contains("open"),
        "{ours:?}"
    );
    let foreign: Vec<_> = ours.difference(&libc).collect();
    assert!(foreign.is_empty(), "{foreign:?}");
    // Names that would slow down or endanger every program.
    for never in ["malloc", "free", "memcpy", "pthread_create", "fork", "read"] {
        assert!(!ours.contains(never), "{never}");
    }
}

#[test]
fn the_provider_shows_nothing() {
    let ours = defined(&artefact("libgaudi.so"));
    assert!(ours.is_empty(), "{ours:?}");
}

/// One binary for every rdma-core: it finds libibverbs when it is loaded and is not linked with any.
#[test]
fn the_provider_is_not_linked_with_libibverbs() {
    let output = Command::new("readelf")
        .args(["-d"])
        .arg(artefact("libgaudi.so"))
        .output()
        .expect("readelf (binutils)");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(!text.contains("libibverbs"), "{text}");
}
