//! `doctor`: what on this machine would keep the soft device from working, and the cure.

use crate::directory;
use crate::files::Libraries;
use crate::probe;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Ok,
    Warn,
    Fail,
}

/// One line of the report, and the cure where there is something to cure.
#[derive(Debug)]
struct Finding {
    level: Level,
    text: String,
    cure: String,
}

fn ok(text: impl Into<String>) -> Finding {
    Finding {
        level: Level::Ok,
        text: text.into(),
        cure: String::new(),
    }
}
fn warn(text: impl Into<String>, cure: impl Into<String>) -> Finding {
    Finding {
        level: Level::Warn,
        text: text.into(),
        cure: cure.into(),
    }
}
fn fail(text: impl Into<String>, cure: impl Into<String>) -> Finding {
    Finding {
        level: Level::Fail,
        text: text.into(),
        cure: cure.into(),
    }
}

pub(crate) fn doctor() -> ExitCode {
    let uid = rustix::process::geteuid();
    let findings = [
        processor(std::env::consts::ARCH, &read("/proc/cpuinfo")),
        kernel(read("/proc/sys/kernel/osrelease").trim()),
        proc_mount(&read("/proc/self/mountinfo")),
        ptrace_scope(
            read("/proc/sys/kernel/yama/ptrace_scope").trim(),
            uid.is_root(),
        ),
        copies(probe::parent()),
        shm(),
        fabrics(),
        libraries(),
        libibverbs(&library_folders()),
        tools(),
        real_rdma(
            Path::new("/sys/module/ib_core").exists(),
            &names("/sys/class/infiniband"),
        ),
        memlock(),
        descriptors(),
        maps(read("/proc/sys/vm/max_map_count").trim()),
        identity(),
        namespace(),
        ok(
            "note: statically linked programs, set-user-ID programs and direct system calls bypass the soft device",
        ),
    ];
    let (text, worst) = report(&findings);
    let _ = crate::print(&text);
    if worst == Level::Fail {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn report(findings: &[Finding]) -> (String, Level) {
    let mut out = String::new();
    let count = |level| findings.iter().filter(|f| f.level == level).count();
    for f in findings {
        let tag = match f.level {
            Level::Ok => "OK  ",
            Level::Warn => "WARN",
            Level::Fail => "FAIL",
        };
        let _ = writeln!(out, "{tag}  {}", f.text);
        if !f.cure.is_empty() {
            let _ = writeln!(out, "      {}", f.cure);
        }
    }
    let (warnings, failures) = (count(Level::Warn), count(Level::Fail));
    let (verdict, worst) = match (failures, warnings) {
        (0, 0) => ("The soft device should work here.".to_string(), Level::Ok),
        (0, n) => (
            format!(
                "The soft device should work here; {n} thing{} to know.",
                plural(n)
            ),
            Level::Warn,
        ),
        (n, _) => (
            format!(
                "The soft device will not work here: {n} problem{} to cure first.",
                plural(n)
            ),
            Level::Fail,
        ),
    };
    let _ = writeln!(out, "\n{verdict}");
    (out, worst)
}

fn plural(n: usize) -> &'static str {
    if n == 1 { "" } else { "s" }
}

/// A CQE is published by one 16-byte compare-and-swap.
fn processor(arch: &str, cpuinfo: &str) -> Finding {
    if arch != "x86_64" {
        return fail(
            format!("processor: {arch}"),
            "x86-64 is the only processor that is supported so far",
        );
    }
    let flags = cpuinfo
        .lines()
        .find(|l| l.starts_with("flags"))
        .unwrap_or("");
    if flags.split_whitespace().any(|f| f == "cx16") {
        ok("processor: x86-64 with 16-byte compare-and-swap (cx16)")
    } else {
        fail(
            "processor: no 16-byte compare-and-swap (cx16 in /proc/cpuinfo)",
            "in a virtual machine choose a CPU model with cx16; every x86-64 since 2006 has it",
        )
    }
}

/// pidfd_open, by which processes notice each other's end, came with 5.3.
fn kernel(release: &str) -> Finding {
    let mut parts = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|p| p.parse::<u32>().unwrap_or(0));
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if version >= (5, 3) {
        ok(format!("kernel: Linux {release}"))
    } else {
        fail(
            format!("kernel: Linux {release}"),
            "5.3 or newer is needed (pidfd_open)",
        )
    }
}

fn proc_mount(mountinfo: &str) -> Finding {
    // mountinfo: id parent dev root mountpoint options ... - type source super-options; proc(5)
    let line = mountinfo
        .lines()
        .rfind(|l| l.split(' ').nth(4) == Some("/proc"));
    match line.and_then(|l| l.split_once(" - ")) {
        Some((_, rest)) if rest.starts_with("proc ") => {
            if rest.contains("hidepid=4") || rest.contains("hidepid=ptraceable") {
                warn(
                    "/proc: mounted with hidepid=ptraceable",
                    "processes may be unable to see each other: mount -o remount,hidepid=0 /proc",
                )
            } else if rest.contains("hidepid=") {
                ok("/proc: mounted; hidepid hides other users only, which is fine")
            } else {
                ok("/proc: mounted")
            }
        }
        _ if Path::new("/proc/self/fd").exists() => ok("/proc: there"),
        _ => fail(
            "/proc: not mounted",
            "mount -t proc proc /proc (in a container: do not hide /proc)",
        ),
    }
}

fn ptrace_scope(value: &str, root: bool) -> Finding {
    match value {
        "" => ok("ptrace scope: no yama, processes of one user may reach each other"),
        "0" => ok("ptrace scope: 0"),
        "1" => ok(
            "ptrace scope: 1; programs with the soft device let the others in by themselves (prctl PR_SET_PTRACER)",
        ),
        "2" if root => ok("ptrace scope: 2, which root passes"),
        "2" => fail(
            "ptrace scope: 2, only root may reach other processes",
            "sysctl kernel.yama.ptrace_scope=1 (or 0), or run as root",
        ),
        "3" => fail(
            "ptrace scope: 3, no process may reach another until the next boot",
            "boot with kernel.yama.ptrace_scope=1",
        ),
        other => warn(
            format!("ptrace scope: {other}, an unknown value"),
            "see the copy test below",
        ),
    }
}

fn copies(outcome: Result<probe::Outcome, String>) -> Finding {
    let cure = "in a container allow process_vm_writev and ptrace access (docker run --cap-add=SYS_PTRACE, or a seccomp profile that permits them); \
                outside see ptrace scope above";
    match outcome {
        Err(e) => warn(
            format!("copy test: {e}"),
            "it could not be tried whether processes may write to each other",
        ),
        Ok(probe::Outcome {
            call: Ok(()),
            file: Ok(()),
        }) => ok(
            "copy test: a second process wrote into this one, by process_vm_writev and by /proc/PID/mem",
        ),
        Ok(probe::Outcome {
            call: Err(call),
            file: Ok(()),
        }) => warn(
            format!("copy test: process_vm_writev: {call}; /proc/PID/mem: works"),
            "large messages are copied twice, at half the speed; docker run --cap-add=SYS_PTRACE, or a newer seccomp profile, cures that",
        ),
        Ok(probe::Outcome { call, file }) => {
            let say = |r: Result<(), String>| r.err().unwrap_or_else(|| "works".into());
            fail(
                format!(
                    "copy test: process_vm_writev: {}; /proc/PID/mem: {}",
                    say(call),
                    say(file)
                ),
                cure,
            )
        }
    }
}

fn shm() -> Finding {
    let Ok(v) = rustix::fs::statvfs("/dev/shm") else {
        return warn(
            "/dev/shm: not there",
            "XDG_RUNTIME_DIR is used instead, or set GAUDI_SOFT_ROOT",
        );
    };
    let mib = |blocks: u64| (blocks.saturating_mul(v.f_frsize)) >> 20;
    let (size, free) = (mib(v.f_blocks), mib(v.f_bavail));
    let mode = fs::metadata("/dev/shm")
        .map(|m| std::os::unix::fs::PermissionsExt::mode(&m.permissions()) & 0o7777)
        .unwrap_or(0);
    let text = format!("/dev/shm: {size} MiB, {free} MiB free, mode {mode:o}");
    let small = free < 32;
    if mode != 0o1777 {
        warn(
            text,
            "usual is mode 1777: chmod 1777 /dev/shm (only needed when you cannot write there)",
        )
    } else if small {
        warn(
            text,
            "a fabric needs some MiB there (payload is elsewhere): free some, docker run --shm-size=256m, or set GAUDI_SOFT_ROOT",
        )
    } else {
        ok(text)
    }
}

/// Makes and removes a folder where `run` would make one.
fn fabrics() -> Finding {
    let name = format!("doctor-{}", std::process::id());
    let result = directory::Directory::create(&name).and_then(|dir| {
        let root = dir.path.parent().map(Path::to_path_buf).unwrap_or_default();
        dir.remove().map(|_| root)
    });
    match result {
        Ok(root) => ok(format!("fabrics: {} is usable", root.display())),
        Err(e) => fail(
            format!("fabrics: {}", e.text),
            "set GAUDI_SOFT_ROOT to a folder of your own, best on a tmpfs",
        ),
    }
}

fn libraries() -> Finding {
    match Libraries::find() {
        Ok(l) => ok(format!(
            "own libraries: {} and {}",
            l.preload.display(),
            l.provider.display()
        )),
        Err(e) => fail("own libraries: missing", e.text),
    }
}

fn library_folders() -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> = std::env::var_os("LD_LIBRARY_PATH")
        .map(|p| std::env::split_paths(&p).collect())
        .unwrap_or_default();
    dirs.extend(
        [
            "/usr/local/lib",
            "/usr/lib/x86_64-linux-gnu",
            "/lib/x86_64-linux-gnu",
            "/usr/lib64",
            "/lib64",
            "/usr/lib",
            "/lib",
        ]
        .map(Into::into),
    );
    dirs
}

fn libibverbs(folders: &[PathBuf]) -> Finding {
    let Some(path) = folders
        .iter()
        .map(|d| d.join("libibverbs.so.1"))
        .find(|p| p.is_file())
    else {
        return fail(
            "libibverbs: not installed",
            "apt-get install libibverbs1 (Fedora, RHEL: dnf install libibverbs)",
        );
    };
    let real = path.canonicalize().unwrap_or_else(|_| path.clone());
    match private_abi(&fs::read(&real).unwrap_or_default()) {
        Some(n @ (34 | 57 | 59 | 64 | 65)) => {
            ok(format!("libibverbs: {} (provider ABI {n})", real.display()))
        }
        Some(n) => fail(
            format!("libibverbs: {} has provider ABI {n}", real.display()),
            "supported are 34, 57, 59, 64 and 65: rdma-core 34 to 65",
        ),
        None => warn(
            format!(
                "libibverbs: {} does not tell its provider ABI",
                real.display()
            ),
            "if it is a static or very old build, providers cannot be loaded",
        ),
    }
}

/// The number in the version node `IBVERBS_PRIVATE_<n>` of the library.
fn private_abi(library: &[u8]) -> Option<u32> {
    let name = b"IBVERBS_PRIVATE_";
    let at = library.windows(name.len()).position(|w| w == name)? + name.len();
    let digits: String = library[at..]
        .iter()
        .take(4)
        .take_while(|b| b.is_ascii_digit())
        .map(|b| char::from(*b))
        .collect();
    digits.parse().ok()
}

fn tools() -> Finding {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = |name: &str| std::env::split_paths(&path).any(|d| d.join(name).is_file());
    let missing: Vec<&str> = ["ibv_devinfo", "ibv_rc_pingpong", "ib_write_bw"]
        .into_iter()
        .filter(|t| !there(t))
        .collect();
    if missing.is_empty() {
        ok("tools: ibverbs-utils and perftest are installed")
    } else {
        warn(
            format!("tools: no {}", missing.join(", ")),
            "apt-get install ibverbs-utils perftest, if you want to try the device with them",
        )
    }
}

fn real_rdma(core: bool, devices: &[String]) -> Finding {
    // Inside a run this sees the soft device's own tree.
    if std::env::var_os(softdev::config::ENV_DIR).is_some() {
        return ok("kernel RDMA: not looked at, since this doctor runs inside `gaudi-soft run`");
    }
    match (core, devices) {
        (false, []) => ok("kernel RDMA: none, which is what the soft device is for"),
        (true, []) => ok(
            "kernel RDMA: ib_core is loaded, no device; inside a run its netlink socket is refused and only soft devices are seen",
        ),
        (_, devices) => warn(
            format!("kernel RDMA: {} present", devices.join(", ")),
            "nothing to cure: a program under `gaudi-soft run` sees the soft devices instead of the real ones",
        ),
    }
}

fn memlock() -> Finding {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
    let text = limit.map_or("unlimited".to_string(), |b| format!("{} KiB", b >> 10));
    ok(format!(
        "locked memory limit: {text}; the soft device pins nothing, so it does not matter"
    ))
}

fn descriptors() -> Finding {
    match rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
        Some(n) if n < 256 => warn(
            format!("open files limit: {n}"),
            "each peer process costs a few descriptors: ulimit -n 1024",
        ),
        Some(n) => ok(format!("open files limit: {n}")),
        None => ok("open files limit: none"),
    }
}

fn maps(value: &str) -> Finding {
    match value.parse::<u64>() {
        Ok(n) if n < 16384 => warn(
            format!("mappings per process: {n}"),
            "programs with many peers need more: sysctl vm.max_map_count=65530",
        ),
        Ok(n) => ok(format!("mappings per process: {n}")),
        Err(_) => ok("mappings per process: unknown"),
    }
}

/// libibverbs takes no driver names from the environment of a privileged program, the loader no LD_PRELOAD.
fn identity() -> Finding {
    let (uid, euid) = (rustix::process::getuid(), rustix::process::geteuid());
    if uid == euid {
        ok(format!(
            "identity: user {}, not changed by set-user-ID",
            uid.as_raw()
        ))
    } else {
        fail(
            format!(
                "identity: real user {}, effective user {}",
                uid.as_raw(),
                euid.as_raw()
            ),
            "start it as one user (sudo, not a set-user-ID program)",
        )
    }
}

fn namespace() -> Finding {
    match fs::read_link("/proc/self/ns/pid") {
        Ok(ns) => ok(format!(
            "process namespace: {}; only processes of the same one share a fabric (containers: docker run --pid, podman --pid)",
            ns.display()
        )),
        Err(e) => warn(
            format!("process namespace: cannot be read ({e})"),
            "containers that do not share one cannot share a fabric",
        ),
    }
}

fn read(path: &str) -> String {
    fs::read(path)
        .map(|b| String::from_utf8_lossy(&b).into_owned())
        .unwrap_or_default()
}

fn names(dir: &str) -> Vec<String> {
    fs::read_dir(dir)
        .map(|l| {
            l.flatten()
                .map(|e| e.file_name().to_string_lossy().into_owned())
                .collect()
        })
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors() {
        assert_eq!(
            processor("x86_64", "flags\t\t: fpu cx16 sse\n").level,
            Level::Ok
        );
        assert_eq!(
            processor("x86_64", "flags\t\t: fpu cx8 sse\n").level,
            Level::Fail
        );
        assert_eq!(processor("s390x", "").level, Level::Fail);
    }

    #[test]
    fn kernels() {
        for (release, level) in [
            ("6.1.0-13-amd64", Level::Ok),
            ("5.3", Level::Ok),
            ("5.2.9", Level::Fail),
            ("4.18.0-477.el8", Level::Fail),
            ("", Level::Fail),
        ] {
            assert_eq!(kernel(release).level, level, "{release}");
        }
    }

    #[test]
    fn mounts_of_proc() {
        let line = |options: &str| {
            format!(
                "24 1 0:22 / /proc rw,nosuid - proc proc rw{options}\n25 1 0:23 / /sys rw - sysfs sysfs rw\n"
            )
        };
        assert_eq!(proc_mount(&line("")).level, Level::Ok);
        assert_eq!(proc_mount(&line(",hidepid=invisible")).level, Level::Ok);
        assert_eq!(proc_mount(&line(",hidepid=ptraceable")).level, Level::Warn);
    }

    #[test]
    fn scopes() {
        for (value, root, level) in [
            ("", false, Level::Ok),
            ("1", false, Level::Ok),
            ("2", false, Level::Fail),
            ("2", true, Level::Ok),
            ("3", true, Level::Fail),
        ] {
            assert_eq!(ptrace_scope(value, root).level, level, "{value}");
        }
    }

    #[test]
    fn provider_abi_from_the_version_node() {
        assert_eq!(
            private_abi(b"\0IBVERBS_1.1\0IBVERBS_PRIVATE_34\0"),
            Some(34)
        );
        assert_eq!(private_abi(b"IBVERBS_PRIVATE_"), None);
        assert_eq!(private_abi(b""), None);
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(libibverbs(&[empty.path().into()]).level, Level::Fail);
        fs::write(
            empty.path().join("libibverbs.so.1"),
            b"..IBVERBS_PRIVATE_35\0",
        )
        .unwrap();
        assert_eq!(libibverbs(&[empty.path().into()]).level, Level::Fail);
    }

    #[test]
    fn failures_decide_the_verdict() {
        let (text, worst) = report(&[ok("a"), warn("b", "do b"), fail("c", "do c")]);
        assert_eq!(worst, Level::Fail);
        assert_eq!(
            text,
            "OK    a\nWARN  b\n      do b\nFAIL  c\n      do c\n\nThe soft device will not work here: 1 problem to cure first.\n"
        );
        assert_eq!(report(&[ok("a")]).1, Level::Ok);
    }

    #[test]
    fn real_devices_are_worth_a_line() {
        assert_eq!(real_rdma(false, &[]).level, Level::Ok);
        assert_eq!(real_rdma(true, &["mlx5_0".into()]).level, Level::Warn);
    }
}
