//! gaudi-soft itself: exit codes, signals, fabrics.

use gaudi_tests::{Fabric, Finished, artefact, spawn};
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::Duration;

fn finish(command: Command) -> Finished {
    spawn(command).finish(Duration::from_secs(20))
}

fn code(command: Command) -> Option<i32> {
    finish(command).status.and_then(|s| s.code())
}

#[test]
fn exit_codes_and_signals_pass_through() {
    let fabric = Fabric::with(&[]);
    assert_eq!(code(fabric.run("sh", ["-c", "exit 42"])), Some(42));
    assert_eq!(code(fabric.run("true", [""; 0])), Some(0));
    assert_eq!(
        finish(fabric.run("sh", ["-c", "kill -TERM $$"]))
            .status
            .and_then(|s| s.signal()),
        Some(15)
    );
}

#[test]
fn failures_have_the_codes_of_env() {
    let fabric = Fabric::with(&[]);
    let missing = finish(fabric.run("no-such-program-anywhere", [""; 0]));
    assert_eq!(
        missing.status.and_then(|s| s.code()),
        Some(127),
        "{missing}"
    );
    assert!(
        missing
            .stderr
            .starts_with("gaudi-soft: no-such-program-anywhere: "),
        "{missing}"
    );
    assert_eq!(code(fabric.run("/etc/passwd", [""; 0])), Some(126));
    let mut usage = fabric.tool();
    usage.args(["run", "--devices", "99", "--", "true"]);
    assert_eq!(code(usage), Some(125));
}

/// Each failure is a sentence that says what to do.
#[test]
fn failures_say_what_to_do() {
    use std::os::unix::fs::PermissionsExt;
    let fabric = Fabric::with(&[]);
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &[u8], mode: u32| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    let says = |program: &std::path::Path, code: i32, what: &str| {
        let done = finish(fabric.run(program, [""; 0]));
        assert_eq!(done.status.and_then(|s| s.code()), Some(code), "{done}");
        assert!(done.stderr.contains(what), "{what} is not in {done}");
    };
    says("no-such-program-anywhere".as_ref(), 127, "in PATH?");
    says(&file("plain", b"text", 0o644), 126, "chmod +x");
    says(
        &file("lost", b"#!/no/such/interpreter\n", 0o755),
        127,
        "interpreter",
    );
    says(
        &file("format", b"\x7fELF", 0o755),
        126,
        "no program of this machine",
    );
    // Another loader, and another width: a word before it fails to start.
    let mut other = std::fs::read("/bin/true").unwrap();
    let at = other.windows(8).position(|w| w == b"ld-linux").unwrap();
    other[at..at + 8].copy_from_slice(b"ld-musl-");
    says(&file("musl", &other, 0o755), 127, "for another C library");
    let mut narrow = std::fs::read("/bin/true").unwrap();
    narrow[4] = 1;
    says(&file("narrow", &narrow, 0o755), 126, "a 32-bit program");
    // A folder that cannot be made.
    let mut nowhere = fabric.line("true");
    nowhere.env(
        "GAUDI_SOFT_ROOT",
        file("not-a-folder", b"", 0o600).join("x"),
    );
    let done = finish(nowhere);
    assert_eq!(done.status.and_then(|s| s.code()), Some(125), "{done}");
    assert!(done.stderr.contains("Set GAUDI_SOFT_ROOT"), "{done}");
}

#[test]
fn the_log_has_levels() {
    let fabric = Fabric::with(&[]);
    let said = |level: &str| {
        let mut command = fabric.line("ibv_devinfo");
        command.env("GAUDI_LOG", level);
        let done = finish(command);
        assert!(done.success(), "{done}");
        done.stderr
    };
    assert_eq!((said(""), said("off"), said("error")), Default::default());
    let info = said("info");
    assert!(
        info.contains("gaudi-softdev[") && info.contains("INFO: fabric "),
        "{info}"
    );
    assert!(!info.contains("DEBUG"), "{info}");
    assert!(said("debug").contains("DEBUG: opens Uverbs(0)"));
    assert!(said("loud").contains("none of off, error, warn, info, debug and trace"));
}

#[test]
fn the_process_is_the_program() {
    let fabric = Fabric::with(&[]);
    let running = spawn(fabric.run("sh", ["-c", "echo $$; cat /proc/$$/comm"]));
    let pid = running.pid();
    let done = running.finish(Duration::from_secs(20));
    assert_eq!(done.stdout, format!("{pid}\nsh\n"), "{done}");
}

#[test]
fn the_environment_names_device_and_provider() {
    let fabric = Fabric::with(&["--devices", "3", "--retry-ms", "70"]);
    let mut command = fabric.run("env", [""; 0]);
    command
        .env("IBV_DRIVERS", "/x/libfoo")
        .env("LD_PRELOAD", "");
    let done = finish(command);
    let lib = fabric.dir().join("lib/libgaudi");
    for line in [
        format!("IBV_DRIVERS={}:/x/libfoo", lib.display()),
        format!("LD_PRELOAD={}", artefact("libgaudi_softdev.so").display()),
        format!("GAUDI_SOFT_DIR={}", fabric.dir().display()),
        "GAUDI_SOFT_DEVICES=3".to_string(),
        "GAUDI_SOFT_PORTS=1".to_string(),
        "GAUDI_SOFT_RETRY_MS=70".to_string(),
    ] {
        assert!(
            done.stdout.lines().any(|l| l == line),
            "{line} is missing\n{done}"
        );
    }
    for abi in [34, 57, 59, 64, 65] {
        let link = format!("{}-rdmav{abi}.so", lib.display());
        assert_eq!(
            std::fs::canonicalize(&link).unwrap(),
            artefact("libgaudi.so").canonicalize().unwrap()
        );
    }
}

/// Options of a fabric in use stand; of an unused one they are replaced.
#[test]
fn options_are_fixed_while_the_fabric_is_used() {
    let fabric = Fabric::with(&[]);
    let with = |options: &[&str]| {
        let mut command = fabric.tool();
        command
            .arg("run")
            .args(options)
            .args(["--", "sh", "-c", "echo $GAUDI_SOFT_DEVICES"]);
        finish(command)
    };
    assert_eq!(with(&["--devices", "2"]).stdout, "2\n");
    let mut holder = fabric.tool();
    holder.args(["run", "--devices", "3", "--", "sleep", "100"]);
    let mut holder = spawn(holder);
    let expected = "GAUDI_SOFT_DEVICES=3";
    while !std::fs::read(format!("/proc/{}/environ", holder.pid()))
        .is_ok_and(|e| String::from_utf8_lossy(&e).contains(expected))
    {
        assert!(!holder.is_over());
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(
        with(&[]).stdout,
        "3\n",
        "what is not said is taken from the fabric"
    );
    let refused = with(&["--devices", "2"]);
    assert_eq!(refused.status.and_then(|s| s.code()), Some(125));
    assert!(
        refused.stderr.contains("--devices 3, not 2")
            && refused.stderr.contains("gaudi-soft devices"),
        "{refused}"
    );
    let mut clean = fabric.tool();
    clean.arg("clean");
    assert_eq!(code(clean), Some(1));
    holder.signal(rustix::process::Signal::KILL);
    holder.finish(Duration::from_secs(5));
    assert_eq!(with(&["--devices", "2"]).stdout, "2\n");
    let mut clean = fabric.tool();
    clean.arg("clean");
    assert_eq!(code(clean), Some(0));
    assert!(!fabric.dir().exists());
}

#[test]
fn many_at_once_agree_on_one_fabric() {
    let fabric = Fabric::with(&["--devices", "2"]);
    let all: Vec<_> = (0..20).map(|_| spawn(fabric.line("ibv_devices"))).collect();
    for one in all {
        let done = one.finish(Duration::from_secs(30));
        assert!(done.success() && done.stdout.contains("hbl_1"), "{done}");
    }
}

#[test]
fn doctor_and_devices_speak() {
    let fabric = Fabric::with(&[]);
    let mut doctor = fabric.tool();
    doctor.arg("doctor");
    let done = finish(doctor);
    assert!(
        done.success() && done.stdout.contains("The soft device should work here"),
        "{done}"
    );
    assert!(fabric.devices().contains("does not exist yet"));
    assert!(finish(fabric.line("true")).success());
    let devices = fabric.devices();
    assert!(
        devices.contains("hbl_0") && devices.contains("No process uses it"),
        "{devices}"
    );
}

/// Programs that have nothing to do with RDMA run as ever.
#[test]
fn other_programs_notice_nothing() {
    let fabric = Fabric::with(&[]);
    let script = "for i in 1 2 3; do (echo $i | cat) ; done; ls / >/dev/null && stat /proc/self >/dev/null && readlink -f /dev/null";
    let done = finish(fabric.run("bash", ["-c", script]));
    assert_eq!(
        (done.stdout.as_str(), done.stderr.as_str()),
        ("1\n2\n3\n/dev/null\n", ""),
        "{done}"
    );
    let done = finish(fabric.line("ls /sys/class/infiniband"));
    assert_eq!(done.stdout, "hbl_0\n", "{done}");
    let python = "import os,subprocess; print(subprocess.run(['cat','/sys/class/infiniband/hbl_0/node_type'],capture_output=True,text=True).stdout.strip())";
    let done = finish(fabric.run("/usr/bin/python3", ["-c", python]));
    assert_eq!(done.stdout, "1: CA\n", "{done}");
}
