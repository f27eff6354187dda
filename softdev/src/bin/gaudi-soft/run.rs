//! `run`: prepare the fabric and the environment, then become the program.

use crate::args::RunArgs;
use crate::directory::{Directory, Hold};
use crate::files::{self, Libraries};
use crate::{Failure, OWN_FAILURE};
use softdev::config;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{ErrorKind, Read};
use std::os::fd::{IntoRawFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// libibverbs appends `-rdmav<N>.so` to the name in IBV_DRIVERS; N is the private ABI of each rdma-core from 34 (Debian 12) on.
const PABI: [u32; 5] = [34, 57, 59, 64, 65];

const CANNOT_EXECUTE: u8 = 126;
const NOT_FOUND: u8 = 127;

pub(crate) fn run(args: RunArgs) -> Result<ExitCode, Failure> {
    let libraries = Libraries::find()?;
    let mut wanted = args.wanted.clone();
    if let Some((names, namespace)) = &mut wanted.netdev {
        *namespace = network(names)?;
    }
    let Hold { users, options } =
        Directory::enter(&args.fabric, &wanted, &libraries.build_stamp())?;
    if !options.netdev.is_empty() && network(&options.netdev)? != options.netns {
        return Err(Failure::own(format!(
            "fabric {} is bound to {} of another network namespace: name another --fabric here",
            args.fabric, options.netdev
        )));
    }
    let dir = Directory::create(&args.fabric)?;
    let lib = dir.path.join("lib");
    link_all(&lib, &libraries)
        .map_err(|e| Failure::own(format!("cannot prepare {}: {e}", lib.display())))?;

    if let Some(path) = on_path(&args.program)
        && let Some(why) = invisible(&path)
    {
        eprintln!("gaudi-soft: warning: {} {why}", path.display());
    }

    let mut command = std::process::Command::new(&args.program);
    command
        .args(&args.args)
        .env(config::ENV_DIR, &dir.path)
        .envs(options.environment());
    let driver = lib.join("libgaudi");
    // LD_PRELOAD separates by spaces and colons, IBV_DRIVERS by colons and semicolons, neither with a way to quote.
    let preload = if plain(&libraries.preload) {
        libraries.preload.clone()
    } else {
        lib.join(files::PRELOAD)
    };
    if !plain(&preload) || !plain(&driver) {
        return Err(Failure::own(format!(
            "{}: no space, ':' or ';' may be in the path of the fabrics",
            dir.path.display()
        )));
    }
    let own = |entry: &str| {
        Path::new(entry)
            .file_name()
            .is_some_and(|n| n == files::PRELOAD)
    };
    command.env(
        "LD_PRELOAD",
        prepend(&preload, std::env::var_os("LD_PRELOAD"), &[' ', ':'], own),
    );
    // libibverbs reads RDMAV_DRIVERS, and IBV_DRIVERS only when that one is not set.
    let variable = if std::env::var_os("RDMAV_DRIVERS").is_some() {
        "RDMAV_DRIVERS"
    } else {
        "IBV_DRIVERS"
    };
    let own = |entry: &str| entry.ends_with("/lib/libgaudi");
    command.env(
        variable,
        prepend(&driver, std::env::var_os(variable), &[':', ';'], own),
    );

    keep_across_exec(users)?;
    // execvp(3) would give it to a shell.
    let error = if on_path(&args.program).is_some_and(|p| foreign(&p)) {
        std::io::Error::from_raw_os_error(libc::ENOEXEC)
    } else {
        command.exec()
    };
    let code = match error.kind() {
        ErrorKind::NotFound => NOT_FOUND,
        _ if error.raw_os_error().is_some() => CANNOT_EXECUTE,
        _ => OWN_FAILURE,
    };
    Err(Failure::new(
        code,
        format!(
            "{}: {error}{}",
            args.program.display(),
            advice(&error, &args.program)
        ),
    ))
}

/// What to do about a program that did not start.
fn advice(error: &std::io::Error, program: &OsStr) -> &'static str {
    let there = on_path(program).is_some_and(|p| p.exists());
    match error.raw_os_error() {
        Some(libc::ENOENT) if there => {
            ". The file is there, but the interpreter or loader that it names is not: install that"
        }
        Some(libc::ENOENT) => {
            ". Is it installed, and is its folder in PATH? Give its path otherwise"
        }
        Some(libc::EACCES) => {
            ". Is it a program, with the right to be executed (chmod +x), on a file system that is not mounted noexec?"
        }
        Some(libc::ENOEXEC) => {
            ". It is no program of this machine: damaged, or for another processor"
        }
        Some(libc::E2BIG) => ". Arguments and environment are too long",
        _ => "",
    }
}

/// The network namespace that we are in, if it has these interfaces.
fn network(names: &str) -> Result<u64, Failure> {
    let list = fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    let present: Vec<&str> = list
        .lines()
        .filter_map(|line| Some(line.split_once(':')?.0.trim()))
        .collect();
    if let Some(missing) = names.split(',').find(|n| !present.contains(n)) {
        return Err(Failure::own(format!(
            "--netdev {missing}: there is no such interface here. There are: {}",
            present.join(", ")
        )));
    }
    fs::metadata("/proc/self/ns/net")
        .map(|m| std::os::unix::fs::MetadataExt::ino(&m))
        .map_err(|e| Failure::own(format!("/proc/self/ns/net: {e}: mount /proc")))
}

/// The folder of links through which libibverbs finds the provider, one name per private ABI.
fn link_all(lib: &Path, libraries: &Libraries) -> std::io::Result<()> {
    match fs::create_dir(lib) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    for n in PABI {
        link(
            &libraries.provider,
            &lib.join(format!("libgaudi-rdmav{n}.so")),
        )?;
    }
    link(&libraries.preload, &lib.join(files::PRELOAD))
}

/// Puts the link in place by rename, so that a program that starts at this moment finds the old one or the new one.
fn link(target: &Path, name: &Path) -> std::io::Result<()> {
    if fs::read_link(name).is_ok_and(|old| old == target) {
        return Ok(());
    }
    let mut temporary = name.as_os_str().to_owned();
    temporary.push(format!(".{}", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let _ = fs::remove_file(&temporary);
    std::os::unix::fs::symlink(target, &temporary)?;
    fs::rename(&temporary, name)
}

/// Ours first; an older entry of ours (a run inside a run) is left out.
fn prepend(
    ours: &Path,
    old: Option<OsString>,
    separators: &[char],
    is_ours: impl Fn(&str) -> bool,
) -> OsString {
    let mut list = ours.as_os_str().to_owned();
    let old = old.unwrap_or_default();
    match old.to_str() {
        Some(old) => {
            for entry in old
                .split(separators)
                .filter(|e| !e.is_empty() && !is_ours(e))
            {
                list.push(":");
                list.push(entry);
            }
        }
        // Not text: leave it as it is.
        None => {
            list.push(":");
            list.push(old);
        }
    }
    list
}

fn plain(path: &Path) -> bool {
    path.to_str()
        .is_some_and(|p| !p.contains([' ', ':', ';', '\n', '\t', '$']))
}

/// The program inherits the lock on the fabric, on a number where nobody stumbles over it.
fn keep_across_exec(users: std::os::fd::OwnedFd) -> Result<(), Failure> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile)
        .current
        .unwrap_or(1024);
    let high = RawFd::try_from(limit.min(1024).saturating_sub(24)).unwrap_or(1000);
    let kept = rustix::io::fcntl_dupfd_cloexec(&users, high).unwrap_or(users);
    rustix::io::fcntl_setfd(&kept, rustix::io::FdFlags::empty())
        .map_err(|e| Failure::own(format!("cannot keep the fabric's lock: {e}")))?;
    // Open until the program ends: nobody here closes it.
    let _ = kept.into_raw_fd();
    Ok(())
}

/// The file that execvp(3) will take.
fn on_path(program: &OsStr) -> Option<PathBuf> {
    if program.as_encoded_bytes().contains(&b'/') {
        return Some(program.into());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|p| {
            p.metadata()
                .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
        })
}

/// Why a preloaded library does not get into this program, if so, and the cure.
fn invisible(path: &Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    let meta = path.metadata().ok()?;
    let mode = meta.permissions().mode();
    let changes_user = mode & 0o4000 != 0 && meta.uid() != rustix::process::geteuid().as_raw();
    let changes_group = mode & 0o2000 != 0 && meta.gid() != rustix::process::getegid().as_raw();
    if changes_user || changes_group {
        let kind = if changes_user {
            "set-user-ID"
        } else {
            "set-group-ID"
        };
        return Some(format!(
            "is a {kind} program, into which nothing is preloaded: it will not see the soft device. Run it as its owner, or a copy without that bit"
        ));
    }
    let root = rustix::process::geteuid().is_root();
    let mut value = [0u8; 64];
    if !root && rustix::fs::getxattr(path, "security.capability", &mut value[..]).is_ok() {
        return Some(
            "has file capabilities, so nothing is preloaded into it: it will not see the soft device. Run a copy of it (cp drops them)"
                .into(),
        );
    }
    // The loader itself names no loader, and it obeys LD_PRELOAD.
    let name = path.file_name()?.to_string_lossy();
    if name.starts_with("ld-") && name.contains(".so") {
        return None;
    }
    let mut head = Vec::new();
    fs::File::open(path)
        .ok()?
        .take(64 << 10)
        .read_to_end(&mut head)
        .ok()?;
    match loader(&head)? {
        Loader::None => Some(
            "is statically linked: it will not see the soft device. Link it dynamically".into(),
        ),
        Loader::OtherWidth => Some(
            "is a 32-bit program: it will not see the soft device, which is for 64-bit programs"
                .into(),
        ),
        Loader::Path(path) if !path.contains("ld-linux") => Some(format!(
            "is for another C library (its loader is {path}): it cannot load the soft device, which is for glibc, and may not start at all. Use a glibc build of it"
        )),
        Loader::Path(_) => None,
    }
}

/// An ELF file that no x86-64 kernel starts.
fn foreign(path: &Path) -> bool {
    let mut head = Vec::new();
    let read = fs::File::open(path).and_then(|f| f.take(64).read_to_end(&mut head));
    read.is_ok()
        && head.starts_with(b"\x7fELF")
        && !matches!(head.get(..20), Some([_, _, _, _, class, .., low, high]) if matches!((class, low, high), (2, 62, 0) | (1, 3, 0)))
}

#[derive(Debug, PartialEq, Eq)]
enum Loader {
    None,
    OtherWidth,
    Path(String),
}

/// Which loader an ELF executable names (PT_INTERP); `None` for everything else, scripts for example.
fn loader(head: &[u8]) -> Option<Loader> {
    if head.get(..4)? != b"\x7fELF" {
        return None;
    }
    if *head.get(4)? != 2 {
        return Some(Loader::OtherWidth);
    }
    let u16_at = |at: usize| {
        Some(usize::from(u16::from_le_bytes(
            head.get(at..at + 2)?.try_into().ok()?,
        )))
    };
    let u64_at = |at: usize| {
        let bytes = head.get(at..at.checked_add(8)?)?.try_into().ok()?;
        usize::try_from(u64::from_le_bytes(bytes)).ok()
    };
    let table = u64_at(32)?;
    let (size, count) = (u16_at(54)?, u16_at(56)?);
    const PT_INTERP: u32 = 3;
    for i in 0..count {
        let at = table.checked_add(i.checked_mul(size)?)?;
        if u32::from_le_bytes(head.get(at..at.checked_add(4)?)?.try_into().ok()?) == PT_INTERP {
            let from = u64_at(at.checked_add(8)?)?;
            // Far behind, as some linkers place it: then it is taken for what nearly all are.
            let text = head.get(from..).unwrap_or(b"ld-linux");
            let text = text.split(|b| *b == 0).next().unwrap_or_default();
            return Some(Loader::Path(
                String::from_utf8_lossy(text).escape_debug().collect(),
            ));
        }
    }
    Some(Loader::None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_comes_first_and_once() {
        let own = |e: &str| e.ends_with("/ours.so");
        let join = |old: Option<&str>| {
            prepend(
                Path::new("/new/ours.so"),
                old.map(Into::into),
                &[' ', ':'],
                own,
            )
        };
        assert_eq!(join(None), "/new/ours.so");
        assert_eq!(join(Some("")), "/new/ours.so");
        assert_eq!(join(Some("/a.so /b.so")), "/new/ours.so:/a.so:/b.so");
        assert_eq!(join(Some("/old/ours.so:/a.so")), "/new/ours.so:/a.so");
    }

    #[test]
    fn links_are_made_once_and_replaced() {
        let tmp = tempfile::tempdir().unwrap();
        let lib = tmp.path().join("lib");
        let libraries = |at: &str| Libraries {
            preload: format!("/{at}/p.so").into(),
            provider: format!("/{at}/libgaudi.so").into(),
        };
        link_all(&lib, &libraries("one")).unwrap();
        link_all(&lib, &libraries("one")).unwrap();
        link_all(&lib, &libraries("two")).unwrap();
        assert_eq!(fs::read_dir(&lib).unwrap().count(), PABI.len() + 1);
        assert_eq!(
            fs::read_link(lib.join("libgaudi-rdmav34.so")).unwrap(),
            Path::new("/two/libgaudi.so")
        );
    }

    #[test]
    fn elf_headers() {
        let this = fs::read("/proc/self/exe").unwrap();
        assert!(matches!(loader(&this), Some(Loader::Path(p)) if p.contains("ld-linux")));
        assert_eq!(loader(b"#!/bin/sh\n"), None);
        assert_eq!(loader(b"\x7fELF\x01"), Some(Loader::OtherWidth));
        let mut none = this[..64].to_vec();
        none[56] = 0;
        none[57] = 0;
        assert_eq!(loader(&none), Some(Loader::None));
        for cut in 0..64 {
            loader(&this[..cut]);
        }
    }

    #[test]
    fn the_loader_is_not_taken_for_a_static_program() {
        let tmp = tempfile::tempdir().unwrap();
        let mut header = fs::read("/proc/self/exe").unwrap()[..64].to_vec();
        (header[56], header[57]) = (0, 0);
        for (name, expected) in [
            ("static", Some("statically linked")),
            ("ld-linux-x86-64.so.2", None),
        ] {
            let path = tmp.path().join(name);
            fs::write(&path, &header).unwrap();
            let why = invisible(&path);
            assert_eq!(why.is_some(), expected.is_some(), "{name}");
            assert!(expected.is_none_or(|e| why.is_some_and(|w| w.contains(e))));
        }
    }

    #[test]
    fn paths_that_lists_cannot_carry() {
        assert!(plain(Path::new("/a/b-c_d.so")));
        for bad in ["/a b", "/a:b", "/a;b", "/$ORIGIN"] {
            assert!(!plain(Path::new(bad)), "{bad}");
        }
    }
}
