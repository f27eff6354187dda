//! What is shown: the fabric's tables put together, with names of programs and rates.

use gaudi_softnic::{FabricOptions, FabricSnapshot, ProcessInfo, QpInfo, port_gid};
use kernel_abi::verbs::{qps, qpt};
use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// One look.
pub(super) struct Seen {
    pub(super) path: PathBuf,
    pub(super) options: FabricOptions,
    pub(super) snapshot: FabricSnapshot,
    /// Processes that `run` has started, whether or not they have opened a device.
    pub(super) holders: Vec<u32>,
}

/// Device, port and native number.
pub(super) type At = (u32, u32, u32);

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Gid {
    pub(super) index: u32,
    pub(super) gid: [u8; 16],
    pub(super) kind: String,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Port {
    pub(super) device: u32,
    pub(super) port: u32,
    pub(super) state: String,
    pub(super) netdev: String,
    pub(super) gids: Vec<Gid>,
    /// Bytes, messages, packets.
    pub(super) sent: [u64; 3],
    pub(super) received: [u64; 3],
    /// Bytes in a second.
    pub(super) send_rate: f64,
    pub(super) receive_rate: f64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Qp {
    pub(super) at: At,
    pub(super) number: u32,
    pub(super) kind: &'static str,
    pub(super) state: &'static str,
    /// Whom it addresses, and whether there is a QP that addresses this one.
    pub(super) peer: Option<At>,
    pub(super) mutual: bool,
    pub(super) bytes: u64,
    pub(super) messages: u64,
    pub(super) rate: f64,
    pub(super) datagrams: [u64; 4],
    /// Datagrams sent and received in a second.
    pub(super) datagram_rates: [f64; 2],
    pub(super) pid: u32,
    /// Of a datagram QP: number and place of whom it sent to last.
    pub(super) last: Option<(u32, Option<At>)>,
    /// Multicast groups.
    pub(super) groups: u32,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Process {
    pub(super) pid: u32,
    /// Short and whole, without control characters.
    pub(super) program: String,
    pub(super) command: String,
    pub(super) contexts: usize,
    pub(super) waiting_for: u32,
    pub(super) qps: Vec<Qp>,
}

pub(super) struct Picture {
    pub(super) taken: Instant,
    /// None: there is no fabric, or nobody has opened a device in it yet.
    pub(super) path: Option<PathBuf>,
    pub(super) device_names: Vec<String>,
    pub(super) ports: Vec<Port>,
    pub(super) processes: Vec<Process>,
}

impl Picture {
    pub(super) fn now(seen: Option<Seen>) -> Picture {
        let taken = Instant::now();
        let Some(seen) = seen else {
            return Picture {
                taken,
                path: None,
                device_names: Vec::new(),
                ports: Vec::new(),
                processes: Vec::new(),
            };
        };
        let tree = seen.path.join(softdev::tree::TREE);
        let device_names: Vec<String> = (0..seen.options.devices)
            .map(|n| softdev::tree::device_name(&seen.options, n))
            .collect();
        let ports = seen
            .snapshot
            .ports
            .iter()
            .map(|p| {
                let name = device_names
                    .get(p.device as usize)
                    .cloned()
                    .unwrap_or_default();
                let mut port = describe_port(&tree, &name, p.device, p.port);
                (port.sent, port.received) = (p.sent, p.received);
                port
            })
            .collect();
        Picture {
            taken,
            path: Some(seen.path.clone()),
            device_names,
            ports,
            processes: processes(&seen),
        }
    }

    /// Rates since an earlier picture. Counters that went back belong to something new.
    pub(super) fn compare(&mut self, before: &Picture) {
        let seconds = self.taken.duration_since(before.taken).as_secs_f64();
        if seconds <= 0.0 {
            return;
        }
        let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
        for port in &mut self.ports {
            let same = |p: &&Port| (p.device, p.port) == (port.device, port.port);
            if let Some(then) = before.ports.iter().find(same) {
                port.send_rate = rate(port.sent[0], then.sent[0]);
                port.receive_rate = rate(port.received[0], then.received[0]);
            }
        }
        let old: BTreeMap<(At, u32, u32), &Qp> = before
            .processes
            .iter()
            .flat_map(|p| &p.qps)
            .map(|q| ((q.at, q.number, q.pid), q))
            .collect();
        for qp in self.processes.iter_mut().flat_map(|p| &mut p.qps) {
            if let Some(then) = old.get(&(qp.at, qp.number, qp.pid)) {
                qp.rate = rate(qp.bytes, then.bytes);
                qp.datagram_rates = [1, 3].map(|i| rate(qp.datagrams[i], then.datagrams[i]));
            }
        }
    }

    pub(super) fn qp(&self, at: At) -> Option<(&Process, &Qp)> {
        self.processes
            .iter()
            .find_map(|p| Some((p, p.qps.iter().find(|q| q.at == at)?)))
    }
}

fn processes(seen: &Seen) -> Vec<Process> {
    let own_ns = std::fs::metadata("/proc/self/ns/pid").map_or(0, |m| {
        use std::os::unix::fs::MetadataExt;
        m.ino()
    });
    let by_place: BTreeMap<At, &QpInfo> = seen
        .snapshot
        .qps
        .iter()
        .map(|q| ((q.device, q.port, q.qpn), q))
        .collect();
    let mut all: Vec<Process> = Vec::new();
    for p in &seen.snapshot.processes {
        if all.iter().any(|known| known.pid == p.pid) {
            continue;
        }
        let qps = seen.snapshot.qps.iter().filter(|q| q.pid == p.pid);
        let (program, command) = names(p, own_ns);
        all.push(Process {
            pid: p.pid,
            program,
            command,
            contexts: seen
                .snapshot
                .contexts
                .iter()
                .filter(|c| c.pid == p.pid)
                .count(),
            waiting_for: p.waiting_for,
            qps: qps.map(|q| describe_qp(q, &by_place)).collect(),
        });
    }
    let own = std::process::id();
    for pid in &seen.holders {
        if *pid == own || all.iter().any(|known| known.pid == *pid) {
            continue;
        }
        let command = crate::devices::command_line(*pid).unwrap_or_default();
        let program = short(&command);
        all.push(Process {
            pid: *pid,
            program,
            command,
            ..Process::default()
        });
    }
    all
}

/// The process may have ended since, and its number may be another's: then what the table says.
fn names(p: &ProcessInfo, own_ns: u64) -> (String, String) {
    let comm: String = p.comm.escape_debug().collect();
    let is_it = p.pid_ns == own_ns && start_time(p.pid) == Some(p.start_time);
    let command = is_it
        .then(|| crate::devices::command_line(p.pid))
        .flatten()
        .unwrap_or_else(|| comm.clone());
    (comm, command)
}

/// Field 22 of `/proc/PID/stat` (proc(5)).
fn start_time(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

fn short(command: &str) -> String {
    let first = command.split(' ').next().unwrap_or_default();
    first.rsplit('/').next().unwrap_or_default().to_string()
}

fn describe_qp(q: &QpInfo, by_place: &BTreeMap<At, &QpInfo>) -> Qp {
    let at = (q.device, q.port, q.qpn);
    let mutual = q
        .peer
        .is_some_and(|to| by_place.get(&to).is_some_and(|peer| peer.peer == Some(at)));
    Qp {
        at,
        number: q.number(),
        kind: q.noted.map_or("QP", |(kind, _)| type_name(kind)),
        state: state_name(q),
        peer: q.peer,
        mutual,
        bytes: q.sent[0],
        messages: q.sent[1],
        rate: 0.0,
        datagrams: q.datagrams,
        datagram_rates: [0.0; 2],
        pid: q.pid,
        last: last(q.last),
        groups: q.groups,
    }
}

/// A number holds port and native number in its lower bits.
fn last((number, device): (u32, Option<u32>)) -> Option<(u32, Option<At>)> {
    let place = device.map(|d| (d, number >> 13 & 0x1f, number & 0x1fff));
    (number != 0).then_some((number, place))
}

fn type_name(kind: u32) -> &'static str {
    match kind {
        qpt::RC => "RC",
        qpt::UC => "UC",
        qpt::UD => "UD",
        qpt::XRC_INI => "XRC-INI",
        qpt::XRC_TGT => "XRC-TGT",
        _ => "QP",
    }
}

/// As the provider noted it; by what the hardware has where it says nothing.
fn state_name(q: &QpInfo) -> &'static str {
    if q.error || q.syndrome != 0 {
        return "ERR";
    }
    match q.noted {
        Some((_, qps::RESET)) => "RESET",
        Some((_, qps::INIT)) => "INIT",
        Some((_, qps::RTR)) => "RTR",
        Some((_, qps::RTS)) => "RTS",
        Some((_, qps::SQD)) => "SQD",
        Some((_, qps::SQE)) => "SQE",
        Some((_, qps::ERR)) => "ERR",
        _ if q.requester_valid => "RTS",
        _ if q.responder_valid => "RTR",
        _ => "INIT",
    }
}

/// From the device tree, which is what programs see.
fn describe_port(tree: &Path, name: &str, device: u32, port: u32) -> Port {
    let dir = tree.join(format!("sys/class/infiniband/{name}/ports/{port}"));
    let read = |path: String| -> Option<String> {
        let mut bytes = Vec::new();
        use std::io::Read;
        std::fs::File::open(dir.join(path))
            .ok()?
            .take(256)
            .read_to_end(&mut bytes)
            .ok()?;
        let text = String::from_utf8_lossy(&bytes);
        Some(text.trim().escape_debug().collect())
    };
    let mut p = Port {
        device,
        port,
        ..Port::default()
    };
    let state = read("state".into()).unwrap_or_default();
    p.state = state
        .split(": ")
        .nth(1)
        .unwrap_or("unknown")
        .chars()
        .take(16)
        .collect();
    for index in 0..GIDS {
        let Some(kind) = read(format!("gid_attrs/types/{index}")) else {
            continue;
        };
        let gid = read(format!("gids/{index}")).and_then(|text| text.parse::<Ipv6Addr>().ok());
        if p.netdev.is_empty() {
            p.netdev = read(format!("gid_attrs/ndevs/{index}")).unwrap_or_default();
        }
        if let Some(gid) = gid.filter(|g| !g.is_unspecified()) {
            p.gids.push(Gid {
                index,
                gid: gid.octets(),
                kind: if kind == "RoCE v2" { "v2" } else { "v1" }.into(),
            });
        }
    }
    if p.gids.is_empty() && p.netdev.is_empty() {
        // No tree: what the rule of the device says.
        p.gids = (0..GIDS)
            .filter_map(|index| {
                port_gid(device, port, index).map(|(gid, kind)| Gid {
                    index,
                    gid,
                    kind: match kind {
                        gaudi_softnic::GidType::RoceV1 => "v1".into(),
                        gaudi_softnic::GidType::RoceV2 => "v2".into(),
                    },
                })
            })
            .collect();
    }
    p
}

/// Entries of a table that are looked at.
const GIDS: u32 = 64;
