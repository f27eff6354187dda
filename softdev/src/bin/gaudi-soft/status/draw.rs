//! The picture as lines: ports, who talks to whom, and each process with its QPs.

use super::picture::{Gid, Picture, Port, Process, Qp};
use super::screen::{Line, Signs, Style};
use std::collections::BTreeMap;
use std::net::Ipv6Addr;

/// So many QPs that do the same are shown one by one.
const FEW: usize = 4;

pub(super) fn lines(fabric: &str, p: &Picture, all: bool, signs: &Signs) -> Vec<Line> {
    let Some(path) = &p.path else {
        return vec![Line::default().plain(format!(
            "Fabric {fabric}: no program has opened a device in it. `gaudi-soft run -- PROGRAM` starts one."
        ))];
    };
    let qps: usize = p.processes.iter().map(|p| p.qps.len()).sum();
    let pairs = pairs(p);
    let connections: usize = pairs.iter().filter(|l| l.mutual).map(|l| l.count).sum();
    let mut out = vec![
        Line::default()
            .strong(format!("Fabric {fabric}"))
            .plain(format!(
                "{dot}{}{dot}{}{dot}{}",
                count(p.processes.len(), "process", "processes"),
                count(qps, "QP", "QPs"),
                count(connections, "connection", "connections"),
                dot = signs.dot
            ))
            .faint(format!("{}{}", signs.dot, path.display())),
        Line::default(),
    ];
    for (n, name) in p.device_names.iter().enumerate() {
        device(n as u32, name, p, signs, &mut out);
    }
    if !pairs.is_empty() {
        out.push(Line::default());
        out.push(Line::default().strong("Who talks to whom"));
        for link in &pairs {
            out.push(link_line(link, p, signs));
        }
    }
    for process in &p.processes {
        out.push(Line::default());
        tree(process, p, all, signs, &mut out);
    }
    if p.processes.is_empty() {
        out.push(Line::default());
        out.push(Line::default().faint("No process uses it."));
    }
    out
}

fn count(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

fn device(n: u32, name: &str, p: &Picture, signs: &Signs, out: &mut Vec<Line>) {
    out.push(Line::default().strong(name));
    let ports: Vec<&Port> = p.ports.iter().filter(|p| p.device == n).collect();
    for (i, port) in ports.iter().enumerate() {
        let (branch, bar) = if i + 1 == ports.len() {
            (signs.last, "   ")
        } else {
            (signs.branch, signs.bar)
        };
        let style = if port.state == "ACTIVE" {
            Style::Good
        } else {
            Style::Bad
        };
        let line = Line::default()
            .faint(branch)
            .plain(format!("port {} ", port.port))
            .add(style, port.state.clone())
            .plain(format!(" on {}", port.netdev));
        out.push(traffic(
            line.up_to(30),
            [port.send_rate, port.receive_rate],
            [port.sent[0], port.received[0]],
            signs,
        ));
        for (first, (gid, indices)) in by_gid(&port.gids).into_iter().enumerate() {
            let label = if first == 0 { "GID " } else { "    " };
            out.push(
                Line::default()
                    .faint(format!("{bar}   {label}"))
                    .plain(gid)
                    .up_to(48)
                    .faint(indices),
            );
        }
    }
}

fn traffic(line: Line, rates: [f64; 2], totals: [u64; 2], signs: &Signs) -> Line {
    let style = |rate: f64| {
        if rate > 0.0 {
            Style::Good
        } else {
            Style::Faint
        }
    };
    let [out_rate, in_rate] = rates;
    line.add(
        style(out_rate),
        format!("{} {:>10}", signs.out, per_second(out_rate)),
    )
    .plain("  ")
    .add(
        style(in_rate),
        format!("{} {:>10}", signs.into, per_second(in_rate)),
    )
    .faint(format!(
        "   in all {} {}, {} {}",
        signs.out,
        bytes(totals[0] as f64),
        signs.into,
        bytes(totals[1] as f64)
    ))
}

/// Equal GIDs of several types in one row.
fn by_gid(gids: &[Gid]) -> Vec<(String, String)> {
    let mut rows: Vec<([u8; 16], Vec<String>)> = Vec::new();
    for g in gids {
        let text = format!("{} RoCE {}", g.index, g.kind);
        match rows.iter_mut().find(|(gid, _)| *gid == g.gid) {
            Some((_, list)) => list.push(text),
            None => rows.push((g.gid, vec![text])),
        }
    }
    rows.into_iter()
        .map(|(gid, list)| (address(gid), format!("index {}", list.join(", "))))
        .collect()
}

/// An IPv4 address where the GID stands for one.
pub(super) fn address(gid: [u8; 16]) -> String {
    let ip = Ipv6Addr::from(gid);
    match ip.to_ipv4_mapped() {
        Some(v4) => v4.to_string(),
        None => ip.to_string(),
    }
}

/// All connections of a type between two processes.
struct Between<'a> {
    from: &'a Process,
    to: Option<&'a Process>,
    kind: &'static str,
    mutual: bool,
    count: usize,
    rates: [f64; 2],
    bytes: [u64; 2],
}

fn pairs(p: &Picture) -> Vec<Between<'_>> {
    let mut found: BTreeMap<(u32, u32, &'static str, bool), Between> = BTreeMap::new();
    for process in &p.processes {
        for qp in &process.qps {
            let Some(to) = qp.peer else { continue };
            let there = p.qp(to);
            let other = there.map_or(0, |(process, _)| process.pid);
            // A connection is shown once: from the end with the smaller number.
            if qp.mutual && (process.pid, qp.at) > (other, to) {
                continue;
            }
            let link = found
                .entry((process.pid, other, qp.kind, qp.mutual))
                .or_insert(Between {
                    from: process,
                    to: there.map(|(process, _)| process),
                    kind: qp.kind,
                    mutual: qp.mutual,
                    count: 0,
                    rates: [0.0; 2],
                    bytes: [0; 2],
                });
            let back = there.map(|(_, qp)| qp).filter(|_| qp.mutual && qp.at != to);
            link.count += 1;
            link.rates[0] += qp.rate;
            link.bytes[0] = link.bytes[0].wrapping_add(qp.bytes);
            if let Some(back) = back {
                link.rates[1] += back.rate;
                link.bytes[1] = link.bytes[1].wrapping_add(back.bytes);
            }
        }
    }
    found.into_values().collect()
}

fn link_line(link: &Between<'_>, p: &Picture, signs: &Signs) -> Line {
    let name = |p: &Process| format!("{} {}", p.pid, p.program);
    let wide = p
        .processes
        .iter()
        .map(|p| name(p).chars().count())
        .max()
        .unwrap_or(0);
    let [left, right] = if link.mutual { signs.both } else { signs.one };
    let style = if link.mutual {
        Style::Good
    } else {
        Style::Warn
    };
    let to = match link.to {
        Some(to) if to.pid == link.from.pid => "itself".to_string(),
        Some(to) if link.mutual => name(to),
        Some(to) => format!("{} (not connected back)", name(to)),
        None => "nobody".to_string(),
    };
    let line = Line::default()
        .plain(format!("  {:<wide$} ", name(link.from)))
        .add(
            style,
            format!("{left} {} {} {right}", link.count, link.kind),
        )
        .plain(format!(" {to}"));
    let column = wide * 2 + 26;
    traffic(line.up_to(column), link.rates, link.bytes, signs)
}

fn tree(process: &Process, p: &Picture, all: bool, signs: &Signs, out: &mut Vec<Line>) {
    let mut head = Line::default()
        .strong(process.pid.to_string())
        .plain(" ")
        .strong(process.command.clone());
    if process.contexts == 0 {
        head = head.faint("  (has no device open)");
    }
    if process.waiting_for != 0 {
        head = head.add(
            Style::Warn,
            format!("  waits for the stopped process {}", process.waiting_for),
        );
    }
    out.push(head);
    // QPs of one kind and state with the same process, in order of their numbers.
    let mut groups: Vec<Vec<&Qp>> = Vec::new();
    for qp in &process.qps {
        let same = groups
            .iter_mut()
            .find(|g| g.first().is_some_and(|first| alike(first, qp, p)));
        match same {
            Some(group) => group.push(qp),
            None => groups.push(vec![qp]),
        }
    }
    let mut rows: Vec<Line> = Vec::new();
    for group in groups {
        match group.as_slice() {
            [first, .., last] if group.len() > FEW && !all => {
                rows.push(many(first, last, &group, p, signs));
            }
            _ => rows.extend(group.iter().map(|qp| one(qp, p, signs))),
        }
    }
    let n = rows.len();
    for (i, row) in rows.into_iter().enumerate() {
        let branch = if i + 1 == n { signs.last } else { signs.branch };
        let mut line = Line::default().faint(branch);
        line.0.extend(row.0);
        out.push(line);
    }
}

fn other_pid(qp: &Qp, p: &Picture) -> Option<u32> {
    p.qp(qp.peer?).map(|(process, _)| process.pid)
}

fn alike(a: &Qp, b: &Qp, p: &Picture) -> bool {
    (a.kind, a.state, a.at.0, a.at.1, a.mutual, a.peer.is_some())
        == (b.kind, b.state, b.at.0, b.at.1, b.mutual, b.peer.is_some())
        && other_pid(a, p) == other_pid(b, p)
}

fn place(p: &Picture, device: u32, port: u32) -> String {
    match p.device_names.get(device as usize) {
        Some(name) => format!("{name}/{port}"),
        None => format!("device {device} port {port}"),
    }
}

fn state_style(state: &str) -> Style {
    match state {
        "RTR" | "RTS" => Style::Good,
        "ERR" | "SQE" => Style::Bad,
        _ => Style::Warn,
    }
}

fn own_end(qp: &Qp, number: String, p: &Picture) -> Line {
    Line::default()
        .plain(format!("{} ", place(p, qp.at.0, qp.at.1)))
        .strong(qp.kind)
        .plain(format!(" {number} "))
        .add(state_style(qp.state), qp.state)
}

fn one(qp: &Qp, p: &Picture, signs: &Signs) -> Line {
    let line = own_end(qp, format!("{:#08x}", qp.number), p);
    far_end(line, qp, p, qp.rate, signs, qp.bytes, qp.messages, true)
}

fn many(first: &Qp, last: &Qp, group: &[&Qp], p: &Picture, signs: &Signs) -> Line {
    let numbers = format!(
        "x{} {:#08x}..{:#08x}",
        group.len(),
        first.number,
        last.number
    );
    let line = own_end(first, numbers, p);
    let rate = group.iter().map(|q| q.rate).sum();
    let sum = |f: fn(&Qp) -> u64| group.iter().fold(0u64, |n, q| n.wrapping_add(f(q)));
    let mut whole = first.clone();
    for i in 0..4 {
        whole.datagrams[i] = group
            .iter()
            .fold(0u64, |n, q| n.wrapping_add(q.datagrams[i]));
    }
    for i in 0..2 {
        whole.datagram_rates[i] = group.iter().map(|q| q.datagram_rates[i]).sum();
    }
    far_end(
        line,
        &whole,
        p,
        rate,
        signs,
        sum(|q| q.bytes),
        sum(|q| q.messages),
        false,
    )
}

fn far_end(
    line: Line,
    qp: &Qp,
    p: &Picture,
    rate: f64,
    signs: &Signs,
    total: u64,
    messages: u64,
    single: bool,
) -> Line {
    if qp.kind == "UD" {
        let [_, sent, _, received] = qp.datagrams;
        let [out, into] = qp.datagram_rates;
        let line = line.up_to(38).faint(format!(
            "datagrams {} {sent} ({out:.0}/s), {} {received} ({into:.0}/s)",
            signs.out, signs.into
        ));
        let line = match qp.groups {
            0 => line,
            n => line.faint(format!(", in {}", count(n as usize, "group", "groups"))),
        };
        return if single { last_peer(line, qp, p) } else { line };
    }
    let Some(to) = qp.peer else {
        return line.up_to(38).faint("not connected");
    };
    let arrow = if qp.mutual {
        signs.both[1]
    } else {
        signs.one[1]
    };
    let style = if qp.mutual { Style::Good } else { Style::Warn };
    let line = line.plain(" ").add(style, arrow).plain(" ");
    let line = match p.qp(to) {
        Some((process, peer)) => {
            let line = line
                .strong(process.pid.to_string())
                .plain(format!(" {} ", process.program))
                .plain(format!("{} ", place(p, to.0, to.1)));
            if single {
                line.plain(format!("{} {:#08x} ", peer.kind, peer.number))
                    .add(state_style(peer.state), peer.state)
            } else {
                line.add(state_style(peer.state), peer.state)
            }
        }
        None => line.add(
            Style::Warn,
            format!(
                "nobody ({} id {} is not in use)",
                place(p, to.0, to.1),
                to.2
            ),
        ),
    };
    let style = if rate > 0.0 {
        Style::Good
    } else {
        Style::Faint
    };
    line.plain("  ")
        .add(style, format!("{} {}", signs.out, per_second(rate)))
        .faint(format!(
            "  in all {} in {}",
            bytes(total as f64),
            count(messages as usize, "write", "writes")
        ))
}

/// Whom a datagram QP sent to last.
fn last_peer(line: Line, qp: &Qp, p: &Picture) -> Line {
    let Some((number, at)) = qp.last else {
        return line;
    };
    let line = line.faint(", last to ");
    if number == MULTICAST {
        return line.faint("a group");
    }
    let there = at.and_then(|at| p.qp(at));
    match there.filter(|(_, peer)| peer.number == number) {
        Some((process, peer)) => line
            .strong(process.pid.to_string())
            .plain(format!(" {} ", process.program))
            .plain(format!("{} ", place(p, peer.at.0, peer.at.1)))
            .plain(format!("{} {number:#08x}", peer.kind)),
        None => line.faint(format!("{number:#08x}")),
    }
}

/// Destination number of multicast datagrams (IBTA 10.5.2).
const MULTICAST: u32 = 0xff_ffff;

fn per_second(rate: f64) -> String {
    format!("{}/s", bytes(rate))
}

/// With three digits and a decimal prefix.
pub(super) fn bytes(n: f64) -> String {
    let mut n = n;
    for unit in ["B", "kB", "MB", "GB", "TB", "PB"] {
        if n < 999.5 || unit == "PB" {
            return if unit == "B" || n >= 99.95 {
                format!("{n:.0} {unit}")
            } else if n >= 9.995 {
                format!("{n:.1} {unit}")
            } else {
                format!("{n:.2} {unit}")
            };
        }
        n /= 1000.0;
    }
    String::new()
}
