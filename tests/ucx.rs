//! UCX and Open MPI as Debian packages them, over the device and nothing else.

use gaudi_tests::{Fabric, Failures, compile_with, run_pair, spawn};
use std::process::Command;
use std::time::Duration;

const BOTH: &str = "rc_verbs,ud_verbs";

fn with(mut command: Command, tls: &str) -> Command {
    command
        .env("UCX_TLS", tls)
        .env("UCX_NET_DEVICES", "hbl_0:1")
        .env("UCX_WARN_UNUSED_ENV_VARS", "n");
    command
}

#[test]
fn ucx_info_lists_the_transports() {
    let done = spawn(Fabric::with(&[]).line("ucx_info -d")).finish(Duration::from_secs(30));
    done.expect_success().unwrap();
    let mut found = Vec::new();
    let mut transport = "";
    for line in done.stdout.lines() {
        if let Some((_, name)) = line.split_once("Transport: ") {
            transport = name.trim();
        } else if line.contains("Device: hbl_0:1") {
            found.push(transport);
        }
    }
    for name in ["rc_verbs", "ud_verbs"] {
        assert!(found.contains(&name), "{name}: {done}");
    }
}

fn perftest(fabric: &Fabric, tls: &str, test: &str) -> Result<(), String> {
    let (_, client) = run_pair(
        |port| {
            let server = fabric.line(&format!("ucx_perftest -p {port}"));
            let client = fabric.line(&format!("ucx_perftest -p {port} 127.0.0.1 -t {test}"));
            (with(server, tls), with(client, tls))
        },
        Duration::from_secs(90),
    )?;
    if client.stdout.contains("Final:") {
        Ok(())
    } else {
        Err(client.to_string())
    }
}

fn matrix(tls: &str, cases: &[(&str, &[u64])]) {
    let fabric = Fabric::with(&[]);
    let mut failures = Failures::default();
    for (test, sizes) in cases {
        for size in *sizes {
            let n = if *size > 65536 { 20 } else { 500 };
            let case = format!("{test} -s {size} -n {n} -w 10");
            failures.note(&format!("{tls} {case}"), perftest(&fabric, tls, &case));
        }
    }
    failures.check();
}

const SIZES: &[u64] = &[1, 8, 2048, 8192, 65536, 1 << 20];
const FEW: &[u64] = &[8, 8192, 1 << 20];
const WORD: &[u64] = &[8];

#[test]
fn ucx_messages_over_rc() {
    matrix(
        BOTH,
        &[
            ("tag_lat", SIZES),
            ("tag_bw", SIZES),
            ("tag_sync_lat", FEW),
            ("ucp_am_lat", SIZES),
            ("ucp_am_bw", FEW),
            ("stream_lat", FEW),
            ("stream_bw", FEW),
        ],
    );
}

#[test]
fn ucx_memory_over_rc() {
    matrix(
        BOTH,
        &[
            ("ucp_put_lat", SIZES),
            ("ucp_put_bw", FEW),
            ("ucp_get", SIZES),
            ("ucp_add", WORD),
            ("ucp_fadd", WORD),
            ("ucp_swap", WORD),
            ("ucp_cswap", WORD),
            ("tag_bw -T 2", FEW),
        ],
    );
}

#[test]
fn ucx_over_ud_alone() {
    matrix(
        "ud_verbs",
        &[
            ("tag_lat", FEW),
            ("tag_bw", FEW),
            ("ucp_am_lat", FEW),
            ("stream_bw", FEW),
            ("ucp_put_lat", WORD),
            ("ucp_get", WORD),
            ("ucp_fadd", WORD),
        ],
    );
}

/// Every collective and one-sided operation of tests/c/mpi.c checks what it gets.
#[test]
fn open_mpi() {
    let program = compile_with("mpi", "mpicc");
    let fabric = Fabric::with(&[]);
    let mut failures = Failures::default();
    for (ranks, tls) in [
        (2, "rc_v,self"),
        (4, "rc_v,self"),
        (8, "rc_v,self"),
        (4, "ud_v,self"),
    ] {
        let mut command = fabric.line(&format!(
            "mpirun --allow-run-as-root --oversubscribe -np {ranks} --mca pml ucx --mca osc ucx \
             --mca opal_common_ucx_tls any --mca opal_common_ucx_devices any --mca btl ^vader,tcp,openib \
             -x UCX_TLS={tls} -x UCX_NET_DEVICES=hbl_0:1"
        ));
        command.arg(program.as_os_str());
        let done = spawn(command).finish(Duration::from_secs(150));
        let wanted = format!("{ranks} ranks, 0 wrong");
        let result = done.expect_success().and_then(|()| {
            if done.stdout.contains(&wanted) {
                Ok(())
            } else {
                Err(done.to_string())
            }
        });
        failures.note(&format!("{ranks} ranks over {tls}"), result);
    }
    failures.check();
}
