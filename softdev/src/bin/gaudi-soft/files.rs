//! Where the two libraries are.

use crate::Failure;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

pub(crate) const PRELOAD: &str = "libgaudi_softdev.so";
pub(crate) const PROVIDER: &str = "libgaudi.so";

#[derive(Clone, Debug)]
pub(crate) struct Libraries {
    pub(crate) preload: PathBuf,
    pub(crate) provider: PathBuf,
}

impl Libraries {
    /// `$GAUDI_SOFT_LIBDIR`, else beside this executable (cargo's target folder), else where `make install` puts them.
    pub(crate) fn find() -> Result<Libraries, Failure> {
        let folders = folders();
        let found = folders.iter().find_map(|dir| {
            let preload = dir.join(PRELOAD);
            // A distribution may install the provider in libibverbs' own folder only; run still needs it by path.
            let provider = dir.join(PROVIDER);
            (preload.is_file() && provider.is_file()).then_some(Libraries { preload, provider })
        });
        found.ok_or_else(|| {
            let list: Vec<_> = folders.iter().map(|d| d.display().to_string()).collect();
            Failure::own(format!(
                "{PRELOAD} and {PROVIDER} are not in {}. Build them with `cargo build --release`, or set GAUDI_SOFT_LIBDIR to their folder",
                list.join(" nor ")
            ))
        })
    }

    /// Changes whenever the library is built again.
    pub(crate) fn build_stamp(&self) -> String {
        match std::fs::metadata(&self.preload) {
            Ok(m) => format!("{}.{}-{}-{}", m.mtime(), m.mtime_nsec(), m.size(), m.ino()),
            Err(_) => "unknown".to_string(),
        }
    }
}

fn folders() -> Vec<PathBuf> {
    if let Some(dir) = std::env::var_os("GAUDI_SOFT_LIBDIR") {
        return vec![std::path::absolute(&dir).unwrap_or_else(|_| dir.into())];
    }
    let Ok(exe) = std::env::current_exe() else {
        return Vec::new();
    };
    let beside = exe.parent().map(Path::to_path_buf).unwrap_or_default();
    let installed = beside.parent().map(|prefix| prefix.join("lib/gaudi-verbs"));
    // `cargo test` runs executables from target/<profile>/deps.
    let above = beside
        .ends_with("deps")
        .then(|| beside.parent().map(Path::to_path_buf))
        .flatten();
    [Some(beside), installed, above]
        .into_iter()
        .flatten()
        .collect()
}
