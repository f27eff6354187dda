//! UCX as Debian packages it, over the device and nothing else.

use gaudi_tests::{Fabric, run_pair, sent_by_device, spawn};
use std::fmt::Write;
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

/// One line of a batch file: options of ucx_perftest, and what its messages amount to.
struct Case {
    options: String,
    bytes: u64,
}

fn case(test: &str, size: u64, more: &str) -> Case {
    let n = match size {
        0..=65536 => 200,
        65537..=1_048_576 => 20,
        _ => 3,
    };
    Case {
        // `more` in front: behind, ucx_perftest 1.13 misses the name of the test in some lines.
        options: format!("{more} -t {test} -s {size} -n {n} -w 2")
            .trim_start()
            .into(),
        bytes: n * size,
    }
}

/// Each test with each size.
fn each(tests: &str, sizes: &[u64], more: &str) -> Vec<Case> {
    tests
        .split_whitespace()
        .flat_map(|test| sizes.iter().map(move |size| case(test, *size, more)))
        .collect()
}

/// All cases in one pair of processes; the port's counter says that their bytes went through the device.
fn perftest(tls: &str, cases: &[Case]) {
    let fabric = Fabric::with(&[]);
    let before = sent_by_device(&fabric);
    let mut batch = tempfile::NamedTempFile::new().unwrap();
    let lines = cases
        .iter()
        .enumerate()
        .fold(String::new(), |mut all, (i, c)| {
            let _ = writeln!(all, "case{i} {}", c.options);
            all
        });
    std::io::Write::write_all(&mut batch, lines.as_bytes()).unwrap();
    let file = batch.path().display();
    let (_, client) = run_pair(
        |port| {
            let server = fabric.line(&format!("ucx_perftest -p {port} -b {file}"));
            let client = fabric.line(&format!("ucx_perftest -p {port} 127.0.0.1 -v -b {file}"));
            (with(server, tls), with(client, tls))
        },
        Duration::from_secs(150),
    )
    .unwrap_or_else(|why| panic!("{tls}\n{why}\n{lines}"));
    // "case3,  200,0.5,…": the final line; those of running threads have a word after the comma.
    for (i, c) in cases.iter().enumerate() {
        let start = format!("case{i},");
        let reported = client.stdout.lines().any(|l| {
            l.strip_prefix(&start)
                .is_some_and(|rest| !rest.contains("[thread"))
        });
        assert!(reported, "{tls} {}: no figures\n{client}", c.options);
    }
    let bytes: u64 = cases.iter().map(|c| c.bytes).sum();
    let sent = sent_by_device(&fabric) - before;
    assert!(
        sent >= bytes,
        "{tls}: the device sent {sent} of {bytes} bytes"
    );
}

fn over_rc(cases: &[Case]) {
    perftest(BOTH, cases);
}

const SIZES: &[u64] = &[
    1,
    8,
    100,
    2048,
    4096,
    8192,
    65536,
    300_000,
    1 << 20,
    8 << 20,
    64 << 20,
];
const FEW: &[u64] = &[8, 8192, 300_000, 64 << 20];
const WORDS: &[u64] = &[4, 8];

#[test]
fn ucx_messages_over_rc() {
    let mut cases = each("tag_lat tag_bw ucp_am_lat ucp_am_bw", SIZES, "");
    cases.extend(each("tag_sync_lat stream_lat stream_bw", FEW, ""));
    over_rc(&cases);
}

#[test]
fn ucx_memory_over_rc() {
    let mut cases = each("ucp_put_lat ucp_put_bw ucp_get", SIZES, "");
    cases.extend(each("ucp_add ucp_fadd ucp_swap ucp_cswap", WORDS, ""));
    over_rc(&cases);
}

/// Threads, messages that nobody expects, wildcards, lists of pieces, and the alias that Open MPI's users write.
#[test]
fn ucx_variants_over_rc() {
    let mut cases = each(
        "tag_lat tag_bw ucp_am_bw stream_bw ucp_put_bw ucp_get",
        &[8, 8192, 300_000],
        "-T 2 -M multi",
    );
    cases.extend(each("ucp_fadd ucp_cswap", &[8], "-T 2 -M multi"));
    cases.extend(each("tag_lat", FEW, "-U"));
    cases.extend(each("tag_bw", &[4096], "-C"));
    cases.extend(each("stream_bw", &[8192, 1 << 20], "-r recv_data"));
    cases.push(Case {
        options: "-t tag_lat -s 4096,100,90000 -i 100000 -D iov,iov -n 100 -w 2".into(),
        bytes: 94196 * 100,
    });
    perftest("rc_v", &cases);
}

#[test]
fn ucx_over_ud_alone() {
    let mut cases = each(
        "tag_lat tag_bw ucp_am_lat stream_bw ucp_put_lat ucp_get",
        &[8, 8192, 1 << 20],
        "",
    );
    cases.extend(each(
        "tag_sync_lat ucp_am_bw stream_lat ucp_put_bw",
        &[8192],
        "",
    ));
    cases.extend(each("ucp_add ucp_fadd ucp_swap ucp_cswap", &[8], ""));
    cases.extend(each("tag_bw", &[64 << 20], ""));
    perftest("ud_verbs", &cases);
}

/// Two hundred connections of one process to another, each with work on it at the same time.
#[test]
fn two_hundred_connections() {
    let fabric = Fabric::with(&[]);
    for tool in ["ib_send_bw -q 200 -t 8 -r 8", "ib_write_bw -q 200 -t 8"] {
        let tool = format!("{tool} -F -s 4096 -n 40");
        let before = sent_by_device(&fabric);
        run_pair(
            |port| {
                (
                    fabric.line(&format!("{tool} -p {port}")),
                    fabric.line(&format!("{tool} -p {port} 127.0.0.1")),
                )
            },
            Duration::from_secs(60),
        )
        .unwrap_or_else(|why| panic!("{tool}\n{why}"));
        let sent = sent_by_device(&fabric) - before;
        assert!(sent >= 200 * 40 * 4096, "{tool}: {sent} bytes");
    }
}
