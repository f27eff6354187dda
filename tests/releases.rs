//! One libgaudi.so under every release of rdma-core that is at hand, each with its own programs, headers and Python tests. `make test` has
//! the system's; `make test-releases` brings others.

use gaudi_tests::{
    End, Fabric, Failures, Release, outcomes, ran, rows, run_pair, spawn, test_modules, unpack,
};
use std::path::Path;
use std::time::Duration;

/// Runs a case under every release.
fn each(case: impl Fn(&Release, &Fabric, &mut Failures)) {
    let mut failures = Failures::default();
    for release in Release::all() {
        case(&release, &Fabric::two_devices(), &mut failures);
    }
    failures.check();
}

fn pair(release: &Release, fabric: &Fabric, line: &str) -> Result<String, String> {
    let (server, client) = run_pair(
        |port| {
            let line = |device: u32| format!("{line} -d hbl_{device} -p {port}");
            (
                release.line(fabric, &line(0)),
                release.line(fabric, &(line(1) + " localhost")),
            )
        },
        Duration::from_secs(40),
    )?;
    if server.stdout.contains("invalid data") || client.stdout.contains("invalid data") {
        return Err(format!("{server}{client}"));
    }
    Ok(client.stdout)
}

/// What every release prints alike must be what the system's says of the same device; its layouts are known to be right from other tests.
#[test]
fn devinfo() {
    const ALIKE: [&str; 12] = [
        "hca_id",
        "transport",
        "fw_ver",
        "node_guid",
        "vendor_id",
        "hw_ver",
        "max_qp:",
        "max_mr_size",
        "max_srq_sge",
        "hca_core_clock",
        "max_msg_sz",
        "phys_state",
    ];
    let told = |release: &Release, fabric: &Fabric| {
        let done = spawn(release.line(fabric, "ibv_devinfo -v")).finish(Duration::from_secs(30));
        done.expect_success()?;
        // A release that was built, and not installed, misses other people's providers.
        let warnings = done.stderr.lines();
        if warnings
            .filter(|l| !l.contains("couldn't load driver"))
            .count()
            != 0
        {
            return Err(done.to_string());
        }
        let lines = done.stdout.lines().map(str::trim);
        let alike: Vec<String> = lines
            .filter(|l| ALIKE.iter().any(|name| l.starts_with(name)))
            // Widths of the columns differ.
            .map(|l| l.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        Ok::<_, String>((alike, done.stdout))
    };
    let releases = Release::all();
    let (expected, _) = told(&releases[0], &Fabric::two_devices()).expect("the system's");
    assert_eq!(expected.len(), 2 * ALIKE.len(), "{expected:?}");
    each(|release, fabric, failures| {
        let result = told(release, fabric).and_then(|(found, all)| {
            if found == expected && all.contains("GID[") && all.contains("PORT_ACTIVE") {
                Ok(())
            } else {
                Err(format!("{all}\nexpected {expected:?}"))
            }
        });
        failures.note(&format!("{}: ibv_devinfo", release.name), result);
    });
}

#[test]
fn pingpongs() {
    each(|release, fabric, failures| {
        for line in [
            "ibv_rc_pingpong -c",
            "ibv_rc_pingpong -c -e -s 100000 -n 100",
            // By ibv_wr_*, and with timestamps of an extended CQ.
            "ibv_rc_pingpong -c -N",
            "ibv_rc_pingpong -c -t",
            "ibv_srq_pingpong -c",
            "ibv_xsrq_pingpong -n 200",
            "ibv_uc_pingpong -c",
            "ibv_ud_pingpong -c",
        ] {
            let result = pair(release, fabric, line).map(|_| ());
            failures.note(&format!("{}: {line}", release.name), result);
        }
    });
}

/// The C programs of this project, compiled for the release: each object of the interface, each op that libibverbs may call.
#[test]
fn programs() {
    let cases: [(&str, &[&str]); 5] = [
        (
            "extended",
            &[
                "cq-ex 1",
                "wr 1",
                "dm 0",
                "null 1",
                "odp 1",
                "dmabuf 1",
                "rereg 1",
                "mw 1",
                "domains 1",
                "channels 1",
                "async 1",
                "moderation 1",
            ],
        ),
        (
            "srq_uc_xrc",
            &["srq-events 1", "srq-shared 1", "xrc-objects 1"],
        ),
        (
            "ud",
            &["fields 3", "errors", "multicast ff0e::ffff:239.1.2.3"],
        ),
        ("states", &["self 0", "two-contexts 1", "straddle 1"]),
        ("access", &["1"]),
    ];
    each(|release, fabric, failures| {
        let dir = tempfile::tempdir().expect("a folder");
        for (name, lines) in cases {
            let program = release.compile(name, dir.path());
            for line in lines {
                let args: Vec<&str> = line.split(' ').collect();
                let done =
                    spawn(release.run(fabric, &program, &args)).finish(Duration::from_secs(60));
                failures.note(
                    &format!("{}: {name} {line}", release.name),
                    done.expect_success(),
                );
            }
        }
    });
}

#[test]
fn perftest() {
    each(|release, fabric, failures| {
        for tool in ["ib_write_bw", "ib_send_bw", "ib_read_bw", "ib_send_lat"] {
            if !release.has(tool) {
                continue;
            }
            let result = pair(release, fabric, &format!("{tool} -F -n 500")).and_then(|text| {
                if rows(&text).len() == 1 {
                    Ok(())
                } else {
                    Err(text)
                }
            });
            failures.note(&format!("{}: {tool}", release.name), result);
        }
    });
}

/// The system's are in pyverbs.rs.
#[test]
fn python_tests() {
    for release in Release::all() {
        let Some((python, source)) = release.python() else {
            continue;
        };
        let dir = tempfile::tempdir().expect("a folder");
        let modules = test_modules(&unpack(&source, dir.path()));
        assert!(modules.len() >= 20, "{modules:?}");
        let fabric = Fabric::with(&[]);
        let mut failures = Failures::default();
        let (mut passed, mut skipped) = (0, 0);
        for module in modules {
            let result = python_module(&release, &fabric, python, dir.path(), &module).map(
                |(ok, not_run)| {
                    passed += ok;
                    skipped += not_run;
                },
            );
            failures.note(&format!("{}: {module}", release.name), result);
        }
        eprintln!("{}: {passed} passed, {skipped} skipped", release.name);
        failures.check();
        assert!(passed >= 120, "{passed} passed");
    }
}

fn python_module(
    release: &Release,
    fabric: &Fabric,
    python: &str,
    dir: &Path,
    module: &str,
) -> Result<(usize, usize), String> {
    let module = format!("tests.{module}");
    let args = [
        "-W",
        "ignore",
        "tests/run_tests.py",
        "-v",
        "--dev",
        "hbl_0",
        &module,
    ];
    let mut command = release.run(fabric, python, &args);
    // From 3.14 on Python does not fork by default, and the tests hand over what cannot be handed over otherwise.
    let fork = "import multiprocessing\nmultiprocessing.set_start_method('fork', force=True)\n";
    std::fs::write(dir.join("sitecustomize.py"), fork).expect("a file");
    command
        .current_dir(dir)
        .env("PYTHONPATH", dir)
        .env("PATH", without_rdma_tool(dir));
    let done = spawn(command).finish(Duration::from_secs(180));
    let ends = outcomes(&done.stderr);
    if ran(&done.stderr) != Some(ends.len()) || !done.success() {
        return Err(done.to_string());
    }
    for (test, end) in &ends {
        if let End::Skipped(why) = end {
            eprintln!("skipped {test}: {why}");
        }
    }
    let passed = ends.values().filter(|end| **end == End::Ok).count();
    Ok((passed, ends.len() - passed))
}

/// Newer tests ask `rdma link` for the device's network interface and do not take an error for an answer. The tool speaks RDMA netlink,
/// which the soft device refuses (docs/limits.md): another one in front of it says that there is no such link.
fn without_rdma_tool(dir: &Path) -> std::ffi::OsString {
    use std::os::unix::fs::PermissionsExt;
    let bin = dir.join("bin");
    std::fs::create_dir_all(&bin).expect("a folder");
    let tool = bin.join("rdma");
    std::fs::write(&tool, "#!/bin/sh\necho '[]'\n").expect("a script");
    std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755)).expect("its mode");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(bin).chain(std::env::split_paths(&path));
    std::env::join_paths(folders).expect("a PATH")
}
