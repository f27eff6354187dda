//! The built library as programs meet it: its symbols, and its registration with the installed libibverbs and with doubles of
//! all releases.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// The provider that cargo built for this test run, beside the test executable.
fn provider() -> PathBuf {
    let deps = std::env::current_exe()
        .unwrap()
        .parent()
        .unwrap()
        .to_path_buf();
    let path = deps.join("libgaudi.so");
    assert!(path.exists(), "{} is missing", path.display());
    path
}

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn compile(dir: &Path, source: &str, output: &str, args: &[&str]) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/c")
        .join(source);
    let output = dir.join(output);
    std::fs::create_dir_all(output.parent().unwrap()).unwrap();
    run(Command::new("cc")
        .arg("-o")
        .arg(&output)
        .arg(source)
        .args(args));
    output
}

/// A libibverbs of another release.
#[derive(Clone, Copy)]
struct Double {
    abi: u32,
    slots: u32,
    qp: u32,
    context: u32,
    /// What it writes into `verbs_context.sz`.
    size: u32,
}

const fn double(abi: u32, slots: u32, qp: u32, context: u32) -> Double {
    Double {
        abi,
        slots,
        qp,
        context,
        size: context,
    }
}

/// Loads the doubles and the provider into one process; its line for each double, and stderr.
fn host(doubles: &[Double], environment: &[(&str, &str)]) -> (Vec<String>, String) {
    let dir = TempDir::new().unwrap();
    let host = compile(dir.path(), "host.c", "host", &["-ldl"]);
    let device = dir.path().join("other/device");
    std::fs::create_dir_all(&device).unwrap();
    std::fs::write(device.join("vendor"), "0x15b3\n").unwrap();
    let mut command = Command::new(host);
    command
        .arg(provider())
        .arg(dir.path().join("other"))
        .env_remove("IBV_SHOW_WARNINGS")
        .envs(environment.iter().copied());
    for (i, d) in doubles.iter().enumerate() {
        let defines = [
            format!("-DABI={}", d.abi),
            format!("-DSLOTS={}", d.slots),
            format!("-DQP={}", d.qp),
            format!("-DCONTEXT={}", d.context),
            format!("-DSZ={}", d.size),
        ];
        let mut args = vec!["-shared", "-fPIC", "-Wl,-soname,libibverbs.so.1"];
        args.extend(defines.iter().map(String::as_str));
        command.arg(compile(
            dir.path(),
            "double.c",
            &format!("{i}/libibverbs.so.1"),
            &args,
        ));
    }
    let output = run(&mut command);
    (
        text(&output.stdout).lines().map(str::to_owned).collect(),
        text(&output.stderr),
    )
}

const REGISTERED: &str =
    "registered=1 name=gaudi abi=1..1 hbl_3=1 vendor=0 mlx5_0=0 core_support=1 ";

#[test]
fn nothing_is_exported_and_libibverbs_is_not_linked() {
    let output = run(Command::new("nm")
        .args(["-D", "--defined-only"])
        .arg(provider()));
    assert_eq!(text(&output.stdout), "");
    let output = run(Command::new("readelf").args(["-d", "-W"]).arg(provider()));
    let dynamic = text(&output.stdout);
    assert!(!dynamic.contains("ibverbs"), "{dynamic}");
    assert!(dynamic.contains("NODELETE"), "{dynamic}");
}

#[test]
fn every_known_release_is_registered_once() {
    for d in [
        double(34, 73, 344, 648),
        double(34, 75, 344, 648),
        double(34, 76, 344, 648),
        double(34, 76, 352, 648),
        double(34, 76, 360, 648),
        double(57, 76, 360, 648),
        double(59, 79, 360, 672),
        double(59, 81, 360, 680),
        double(64, 83, 360, 696),
        double(65, 93, 360, 696),
    ] {
        let (lines, errors) = host(&[d], &[("IBV_SHOW_WARNINGS", "1")]);
        assert_eq!(
            (lines.len(), errors.as_str()),
            (1, ""),
            "{} {}",
            d.abi,
            d.slots
        );
        assert!(lines[0].starts_with(REGISTERED), "{}", lines[0]);
        // There is no such device here: no context, an errno, and the descriptor is closed by the library.
        assert!(
            lines[0].contains("context=0 ") && !lines[0].contains("errno=0 "),
            "{}",
            lines[0]
        );
        assert!(lines[0].ends_with("released=1 closed=1"), "{}", lines[0]);
    }
}

#[test]
fn several_copies_in_one_process_are_served_by_their_own_layout() {
    let (lines, errors) = host(
        &[
            double(59, 81, 360, 680),
            double(34, 76, 352, 648),
            double(59, 79, 360, 672),
        ],
        &[],
    );
    assert_eq!((lines.len(), errors.as_str()), (3, ""));
    for line in lines {
        assert!(
            line.starts_with(REGISTERED) && line.ends_with("released=1 closed=1"),
            "{line}"
        );
    }
}

#[test]
fn unknown_layouts_are_left_alone() {
    for d in [
        double(59, 80, 360, 680),
        double(65, 94, 360, 704),
        double(34, 76, 368, 648),
        double(66, 93, 360, 696),
    ] {
        let (lines, errors) = host(&[d], &[("IBV_SHOW_WARNINGS", "1")]);
        assert_eq!(lines, ["registered=0"]);
        assert_eq!(errors.lines().count(), 1, "{errors}");
        assert!(errors.contains("not registering"), "{errors}");
    }
}

#[test]
fn a_context_of_unexpected_size_is_refused() {
    let (lines, _) = host(
        &[Double {
            size: 704,
            ..double(64, 83, 360, 696)
        }],
        &[],
    );
    let refused = format!("context=0 errno={} released=1 closed=1", libc::EPROTO);
    assert!(lines[0].ends_with(&refused), "{}", lines[0]);
}

#[test]
fn the_installed_libibverbs_finds_the_device() {
    let dir = TempDir::new().unwrap();
    let file = |path: &str, content: &str| {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    };
    file("sys/class/infiniband_verbs/abi_version", "6\n");
    file("sys/class/infiniband_verbs/uverbs0/ibdev", "hbl_4095\n");
    file("sys/class/infiniband_verbs/uverbs0/dev", "0:0\n");
    file("sys/class/infiniband_verbs/uverbs0/abi_version", "1\n");
    file("sys/class/infiniband/hbl_4095/node_type", "1: CA\n");
    file("sys/class/infiniband/hbl_4095/device/vendor", "0x1da3\n");
    for abi in [34, 57, 59, 64, 65] {
        std::os::unix::fs::symlink(
            provider(),
            dir.path().join(format!("libgaudi-rdmav{abi}.so")),
        )
        .unwrap();
    }
    let program = compile(
        dir.path(),
        "enumerate.c",
        "enumerate",
        &["-rdynamic", "-libverbs"],
    );
    let output = run(Command::new(program)
        .env("SYSFS_PATH", dir.path().join("sys"))
        .env("IBV_DRIVERS", dir.path().join("libgaudi"))
        .env("IBV_SHOW_WARNINGS", "1")
        .env_remove("GAUDI_LOG"));
    let (found, errors) = (text(&output.stdout), text(&output.stderr));
    assert!(
        !errors.contains("gaudi") && !errors.contains("hbl"),
        "{errors}"
    );
    let line = found
        .lines()
        .find(|l| l.starts_with("hbl_4095 "))
        .unwrap_or_else(|| panic!("{found}{errors}"));
    // The device behind it is /dev/null.
    assert!(
        line.contains("open=0 ") && !line.contains("errno=0 ") && line.ends_with("leaked=0"),
        "{line}"
    );
}
