//! `devices`: what a fabric holds and who uses it.

use crate::directory::{self, Directory};
use crate::options::{Options, Wanted};
use crate::table::{format as columns, row};
use crate::{Failure, print};
use gaudi_softnic::{Fabric, FabricOptions, FabricSnapshot};
use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::ExitCode;

pub(crate) fn devices(fabric: &str) -> Result<ExitCode, Failure> {
    let mut out = String::new();
    let hold = match Directory::existing(fabric)? {
        Some(dir) => dir.look()?.map(|hold| (dir, hold)),
        None => None,
    };
    let Some((dir, hold)) = hold else {
        let options = Wanted::default().fill("");
        let _ = writeln!(
            out,
            "Fabric {fabric} does not exist yet. `gaudi-soft run` makes it in {}, with {options}:\n",
            directory::root()?.display()
        );
        out += &list(&options);
        return print(&out);
    };
    let options = FabricOptions {
        dir: dir.path.clone(),
        devices: hold.options.devices,
        ports: hold.options.ports,
        strict: hold.options.strict,
        retry_limit_ms: hold.options.retry_ms,
        rxe: hold.options.rxe,
    };
    let attached = Fabric::attach(&options).map_err(|e| {
        Failure::new(
            1,
            format!(
                "fabric {fabric} in {} cannot be read: {}",
                dir.path.display(),
                std::io::Error::from_raw_os_error(e.0)
            ),
        )
    })?;
    attached.reap();
    let _ = writeln!(
        out,
        "Fabric {fabric} in {}: {}\n",
        dir.path.display(),
        hold.options
    );
    out += &list(&hold.options);
    out += &users(
        &attached.snapshot(),
        &dir.holders(),
        &hold.options,
        std::process::id(),
    );
    print(&out)
}

fn list(options: &Options) -> String {
    let mut rows = vec![row(["DEVICE", "GUID", "PORT", "MAC", "IPV4", "GID"])];
    for device in 0..options.devices {
        for port in 1..=options.ports {
            let mac = gaudi_softnic::port_mac(device, port)
                .map(|b| format!("{b:02x}"))
                .join(":");
            if !options.netdev.is_empty() {
                // Addresses and GIDs are the interface's.
                let at = (device * options.ports + port - 1) as usize;
                let name = options.netdev.split(',').nth(at).unwrap_or_default();
                let mut line = row(["", "", "", "-", "", "see gaudi-soft status"]);
                line[0] = options.device_name(device);
                line[1] = format!("{:016x}", gaudi_softnic::device_guid(device));
                line[2] = port.to_string();
                line[4] = format!("of {name}");
                rows.push(line);
                continue;
            }
            let gid = gaudi_softnic::port_gid(device, port, 0)
                .map(|(raw, _)| Ipv6Addr::from(raw).to_string())
                .unwrap_or_default();
            rows.push(vec![
                options.device_name(device),
                format!("{:016x}", gaudi_softnic::device_guid(device)),
                port.to_string(),
                mac,
                Ipv4Addr::from(gaudi_softnic::port_ipv4(device, port)).to_string(),
                gid,
            ]);
        }
    }
    columns(&rows)
}

/// One line per process that has the device open or could (it was started by `run`), without the process that looks.
fn users(snapshot: &FabricSnapshot, holders: &[u32], options: &Options, own: u32) -> String {
    let mut rows = vec![row([
        "PID", "COMMAND", "DEVICES", "CONTEXTS", "QPS", "IN ERROR", "CQS",
    ])];
    for process in snapshot.processes.iter().filter(|p| p.pid != own) {
        let contexts: Vec<_> = snapshot
            .contexts
            .iter()
            .filter(|c| c.pid == process.pid)
            .collect();
        let mut names: Vec<String> = contexts
            .iter()
            .map(|c| options.device_name(c.device))
            .collect();
        names.sort();
        names.dedup();
        let qps: Vec<_> = snapshot
            .qps
            .iter()
            .filter(|q| q.pid == process.pid)
            .collect();
        let cqs = snapshot
            .cqs
            .iter()
            .filter(|q| {
                contexts
                    .iter()
                    .any(|c| (c.device, c.asid) == (q.device, q.asid))
            })
            .count();
        rows.push(vec![
            process.pid.to_string(),
            command_line(process.pid).unwrap_or_else(|| process.comm.clone()),
            if names.is_empty() {
                "-".into()
            } else {
                names.join(",")
            },
            contexts.len().to_string(),
            qps.len().to_string(),
            qps.iter().filter(|q| q.error).count().to_string(),
            cqs.to_string(),
        ]);
    }
    for pid in holders
        .iter()
        .filter(|p| **p != own && snapshot.processes.iter().all(|known| known.pid != **p))
    {
        let command = command_line(*pid).unwrap_or_else(|| "-".into());
        let mut line = row(["", "", "-", "0", "0", "0", "0"]);
        line[0] = pid.to_string();
        line[1] = command;
        rows.push(line);
    }
    if rows.len() == 1 {
        "\nNo process uses it.\n".to_string()
    } else {
        format!("\n{}", columns(&rows))
    }
}

pub(crate) fn command_line(pid: u32) -> Option<String> {
    let raw = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<String> = raw
        .split(|b| *b == 0)
        .filter(|w| !w.is_empty())
        .map(|w| String::from_utf8_lossy(w).escape_debug().to_string())
        .collect();
    let line = words.join(" ");
    (!line.is_empty()).then(|| line.chars().take(60).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use gaudi_softnic::{ContextInfo, ProcessInfo, QpInfo};

    #[test]
    fn processes_with_what_they_hold() {
        let mut options = Wanted {
            devices: Some(2),
            ..Wanted::default()
        }
        .fill("");
        let process = |pid| ProcessInfo {
            pid,
            comm: format!("p{pid}"),
            ..ProcessInfo::default()
        };
        let context = |pid, device, asid| ContextInfo {
            pid,
            device,
            asid,
            ports_mask: 2,
        };
        // No such process can exist, so that the name comes from the snapshot.
        let (a, b, own) = (u32::MAX - 1, u32::MAX - 2, u32::MAX - 3);
        let snapshot = FabricSnapshot {
            processes: vec![process(a), process(b), process(own)],
            contexts: vec![context(a, 1, 1), context(a, 0, 1)],
            qps: vec![
                QpInfo {
                    pid: a,
                    error: true,
                    ..QpInfo::default()
                },
                QpInfo {
                    pid: a,
                    ..QpInfo::default()
                },
            ],
            cqs: vec![],
            ports: vec![],
        };
        let text = users(&snapshot, &[a, u32::MAX - 4, own], &options, own);
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|l| l.split_whitespace().collect())
            .collect();
        assert_eq!(
            lines[2][1..],
            [&format!("p{a}"), "hbl_0,hbl_1", "2", "2", "1", "0"]
        );
        assert_eq!(lines[3][1..], [&format!("p{b}"), "-", "0", "0", "0", "0"]);
        assert_eq!(
            lines[4],
            [&(u32::MAX - 4).to_string(), "-", "-", "0", "0", "0", "0"]
        );
        assert_eq!(lines.len(), 5);
        options.rxe = true;
        assert_eq!(options.device_name(1), "rxe_soft1");
    }

    #[test]
    fn every_port_is_listed() {
        let options = Wanted {
            devices: Some(2),
            ports: Some(3),
            ..Wanted::default()
        }
        .fill("");
        let text = list(&options);
        assert_eq!(text.lines().count(), 7);
        assert!(
            text.contains("hbl_1")
                && text.contains("127.17.3.1")
                && text.contains("02:1d:a3:00:01:03"),
            "{text}"
        );
    }
}
