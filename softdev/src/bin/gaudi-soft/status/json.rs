//! The picture for programs: one JSON object on a line.

use super::draw::address;
use super::picture::{At, Picture, Port, Process, Qp};
use std::fmt::Write;

pub(super) fn text(fabric: &str, p: &Picture) -> String {
    let path = p.path.as_ref().map(|p| p.display().to_string());
    format!(
        "{{\"fabric\":{},\"path\":{},\"ports\":[{}],\"processes\":[{}]}}\n",
        string(fabric),
        path.map_or("null".into(), |p| string(&p)),
        list(&p.ports, |port| port_text(p, port)),
        list(&p.processes, |process| process_text(p, process)),
    )
}

fn list<T>(items: &[T], each: impl Fn(&T) -> String) -> String {
    let parts: Vec<String> = items.iter().map(each).collect();
    parts.join(",")
}

fn port_text(p: &Picture, port: &Port) -> String {
    let gids = list(&port.gids, |g| {
        format!(
            "{{\"index\":{},\"address\":{},\"type\":{}}}",
            g.index,
            string(&address(g.gid)),
            string(&g.kind)
        )
    });
    format!(
        "{{\"device\":{},\"port\":{},\"state\":{},\"netdev\":{},\"gids\":[{gids}],\
         \"sent_bytes\":{},\"sent_messages\":{},\"received_bytes\":{},\"received_messages\":{},\
         \"sent_bytes_per_s\":{:.0},\"received_bytes_per_s\":{:.0}}}",
        string(&name(p, port.device)),
        port.port,
        string(&port.state),
        string(&port.netdev),
        port.sent[0],
        port.sent[1],
        port.received[0],
        port.received[1],
        port.send_rate,
        port.receive_rate,
    )
}

fn process_text(p: &Picture, process: &Process) -> String {
    format!(
        "{{\"pid\":{},\"program\":{},\"command\":{},\"contexts\":{},\"qps\":[{}]}}",
        process.pid,
        string(&process.program),
        string(&process.command),
        process.contexts,
        list(&process.qps, |qp| qp_text(p, qp)),
    )
}

fn qp_text(p: &Picture, qp: &Qp) -> String {
    let [tx_bytes, tx, rx_bytes, rx] = qp.datagrams;
    format!(
        "{{\"device\":{},\"port\":{},\"number\":{},\"type\":{},\"state\":{},\"peer\":{},\"mutual\":{},\
         \"sent_bytes\":{},\"sent_messages\":{},\"sent_bytes_per_s\":{:.0},\
         \"datagrams\":{{\"sent\":{tx},\"sent_bytes\":{tx_bytes},\"received\":{rx},\"received_bytes\":{rx_bytes},\
         \"last_to\":{},\"groups\":{}}}}}",
        string(&name(p, qp.at.0)),
        qp.at.1,
        qp.number,
        string(qp.kind),
        string(qp.state),
        qp.peer.map_or("null".into(), |to| peer_text(p, to)),
        qp.mutual,
        qp.bytes,
        qp.messages,
        qp.rate,
        qp.last.map_or("null".into(), |(n, _)| n.to_string()),
        qp.groups,
    )
}

fn peer_text(p: &Picture, to: At) -> String {
    let there = p.qp(to);
    let number = |n: Option<u32>| n.map_or("null".into(), |n| n.to_string());
    format!(
        "{{\"device\":{},\"port\":{},\"pid\":{},\"number\":{}}}",
        string(&name(p, to.0)),
        to.1,
        number(there.map(|(process, _)| process.pid)),
        number(there.map(|(_, qp)| qp.number)),
    )
}

fn name(p: &Picture, device: u32) -> String {
    p.device_names
        .get(device as usize)
        .cloned()
        .unwrap_or_else(|| format!("device {device}"))
}

/// RFC 8259, section 7.
fn string(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if (c as u32) < 0x20 => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped() {
        assert_eq!(string("a\"b\\c\n\u{1}é"), "\"a\\\"b\\\\c\\u000a\\u0001é\"");
    }
}
