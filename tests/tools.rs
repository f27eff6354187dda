//! ibverbs-utils, unmodified.

use gaudi_tests::{Fabric, Failures, Finished, run_pair, spawn};
use std::process::Command;
use std::time::Duration;

fn finish(command: Command) -> Finished {
    spawn(command).finish(Duration::from_secs(30))
}

#[test]
fn ibv_devices_lists_them() {
    let done = finish(Fabric::two_devices().line("ibv_devices"));
    done.expect_success().unwrap();
    for device in ["hbl_0", "hbl_1"] {
        assert!(done.stdout.contains(device), "{done}");
    }
    let done = finish(Fabric::with(&[]).line("ibv_devices"));
    assert!(
        done.stdout.contains("hbl_0") && !done.stdout.contains("hbl_1"),
        "{done}"
    );
}

/// The values of one field in `ibv_devinfo -v`.
fn fields<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    text.lines()
        .filter_map(|line| {
            line.trim()
                .strip_prefix(name)?
                .trim_start()
                .strip_prefix(':')
        })
        .map(str::trim)
        .collect()
}

#[test]
fn ibv_devinfo_tells_the_truth() {
    let done = finish(Fabric::with(&["--devices", "2", "--ports", "3"]).line("ibv_devinfo -v"));
    done.expect_success().unwrap();
    assert_eq!(done.stderr, "", "no warnings");
    let text = &done.stdout;
    let mut failures = Failures::default();
    failures.note("as in sysfs", same_in_sysfs(text));
    let mut check = |name: &str, expected: &[&str]| {
        let found = fields(text, name);
        let result = if found == expected {
            Ok(())
        } else {
            Err(format!("is {found:?}, not {expected:?}\n{text}"))
        };
        failures.note(name, result);
    };
    check("hca_id", &["hbl_0", "hbl_1"]);
    check("transport", &["InfiniBand (0)"; 2]);
    check("node_guid", &["001d:a3ff:fe00:0000", "001d:a3ff:fe00:0100"]);
    check(
        "sys_image_guid",
        &["001d:a3ff:fe00:0000", "001d:a3ff:fe00:0100"],
    );
    check("vendor_id", &["0x1da3"; 2]);
    check("vendor_part_id", &["4128"; 2]);
    check("board_id", &["SOFT_GAUDI2"; 2]);
    // The kernel's words, not the provider's.
    check("fw_ver", &["1.17.0"; 2]);
    check("hw_ver", &["0x1"; 2]);
    check("phys_port_cnt", &["3"; 2]);
    check("max_qp", &["24573"; 2]);
    check("max_qp_wr", &["16384"; 2]);
    check("max_sge", &["16"; 2]);
    check("max_res_rd_atom", &["393168"; 2]);
    check("max_pkeys", &["1"; 2]);
    check("active_mtu", &["4096 (5)"; 6]);
    check("gid_tbl_len", &["13"; 6]);
    check("max_msg_sz", &["0x40000000"; 6]);
    check("port", &["1", "2", "3", "1", "2", "3"]);
    check("state", &["PORT_ACTIVE (4)"; 6]);
    check("link_layer", &["Ethernet"; 6]);
    check("max_mtu", &["4096 (5)"; 6]);
    check("phys_state", &["LINK_UP (5)"; 6]);
    failures.note("GIDs", gids(text));
    failures.check();
}

/// The kernel shows some of it twice: by the query and in sysfs.
fn same_in_sysfs(text: &str) -> Result<(), String> {
    let files = ["fw_ver", "node_guid", "sys_image_guid", "board_id"];
    let fabric = Fabric::two_devices();
    for file in files {
        let done = finish(fabric.line(&format!("cat /sys/class/infiniband/hbl_1/{file}")));
        let found = fields(text, file);
        if found.get(1) != Some(&done.stdout.trim()) {
            return Err(format!("{file}: {found:?}, sysfs: {done}"));
        }
    }
    Ok(())
}

/// Four GIDs per port: EUI-64 of the MAC and the IPv4 address, each for RoCE v1 and v2.
fn gids(text: &str) -> Result<(), String> {
    for gid in [
        "fe80:0000:0000:0000:001d:a3ff:fe00:0001",
        "::ffff:127.16.1.1",
        "::ffff:127.17.3.1",
    ] {
        let count = text
            .lines()
            .filter(|l| l.contains("GID[") && l.contains(gid))
            .count();
        if count == 0 {
            return Err(format!("{gid} is missing\n{text}"));
        }
    }
    let (v1, v2) = (
        text.matches("RoCE v1").count(),
        text.matches("RoCE v2").count(),
    );
    if (v1, v2) == (0, 12) || (v1, v2) == (12, 12) {
        return Ok(());
    }
    // ibv_devinfo 44 marks only the v2 entries of a table that has both.
    Err(format!("{v1} entries of RoCE v1, {v2} of v2\n{text}"))
}

/// Runs ibv_rc_pingpong between two devices; with `-c` it validates the data itself.
fn pingpong(fabric: &Fabric, devices: [&str; 2], args: &str) -> Result<(), String> {
    let (server, client) = run_pair(
        |port| {
            let line = |device: &str| format!("ibv_rc_pingpong -d {device} -p {port} {args}");
            (
                fabric.line(&line(devices[0])),
                fabric.line(&(line(devices[1]) + " localhost")),
            )
        },
        Duration::from_secs(40),
    )?;
    for side in [server, client] {
        if !side.stdout.contains("usec/iter") || side.stdout.contains("invalid data") {
            return Err(side.to_string());
        }
    }
    Ok(())
}

#[test]
fn rc_pingpong_of_all_sizes() {
    let fabric = Fabric::two_devices();
    let mut failures = Failures::default();
    let mut sizes: Vec<u32> = vec![
        1, 2, 7, 40, 41, 64, 255, 256, 257, 1000, 4095, 4096, 4097, 16384, 65536, 65537,
    ];
    sizes.extend([100_000, 262_144, 1 << 20, (1 << 20) + 1, 4 << 20]);
    for size in sizes {
        let iterations = if size > 100_000 { 20 } else { 200 };
        let args = format!("-c -s {size} -n {iterations}");
        failures.note(&args, pingpong(&fabric, ["hbl_0", "hbl_0"], &args));
    }
    failures.check();
}

#[test]
fn rc_pingpong_of_all_mtus_and_devices() {
    let fabric = Fabric::two_devices();
    let mut failures = Failures::default();
    for mtu in [1024, 2048, 4096] {
        for devices in [["hbl_0", "hbl_0"], ["hbl_0", "hbl_1"], ["hbl_1", "hbl_0"]] {
            // Without a GID index, as everybody calls it, and with each index.
            for gid in ["", "-g 0", "-g 1", "-g 2", "-g 3"] {
                let args = format!("-c -m {mtu} -n 100 {gid}");
                failures.note(
                    &format!("{devices:?} {args}"),
                    pingpong(&fabric, devices, &args),
                );
            }
        }
    }
    for args in ["-c", "-e -c", "-r 1 -n 50", "-s 100 -n 20000"] {
        failures.note(args, pingpong(&fabric, ["hbl_0", "hbl_0"], args));
    }
    failures.check();
}

#[test]
fn rc_pingpong_on_another_port() {
    let fabric = Fabric::with(&["--devices", "2", "--ports", "24"]);
    let mut failures = Failures::default();
    for port in [2, 24] {
        let args = format!("-c -n 100 -i {port} -g 3");
        failures.note(&args, pingpong(&fabric, ["hbl_0", "hbl_1"], &args));
    }
    failures.check();
}
