//! Ports that are bound to network interfaces (`--netdev`): their GID tables, states and MTUs follow what the kernel says about the
//! interface, and what changes is an event. Without that option nothing here runs.

mod netlink;
mod table;

pub(crate) use table::{Port, SLOTS};

use crate::config;
use crate::face::events::EventHub;
use gaudi_softnic::{FabricOptions, Fd, GidType, Result, port_gid};
use kernel_abi::verbs::event;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

/// What all processes agree on, and the lock of those who bring it up to date.
const STATE: &str = "netdevs";
/// How long changes may come in a row before the tables are made.
const CALM_MS: i64 = 5;
/// Whether anybody still has a device open.
const LOOK_S: i64 = 1;

/// One name per port, device by device.
static NAMES: OnceLock<Vec<String>> = OnceLock::new();
static TABLES: Mutex<Vec<Port>> = Mutex::new(Vec::new());
static HUBS: Mutex<Hubs> = Mutex::new(Hubs {
    list: Vec::new(),
    pid: 0,
});

struct Hubs {
    list: Vec<(u32, Weak<EventHub>)>,
    /// Process whose thread listens; 0 for none.
    pid: i32,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn names() -> &'static [String] {
    NAMES.get_or_init(config::netdevs_from_env)
}

/// Whether the ports of this fabric are bound to interfaces.
pub(crate) fn bound() -> bool {
    !names().is_empty()
}

/// One interface for each port, or none at all.
pub(crate) fn check(options: &FabricOptions) -> std::result::Result<(), String> {
    let ports = (options.devices * options.ports) as usize;
    if bound() && names().len() != ports {
        return Err(format!(
            "{}={} names {} interfaces for {ports} ports",
            config::ENV_NETDEV,
            list(),
            names().len()
        ));
    }
    Ok(())
}

/// The names as the environment has them; empty when nothing is bound.
pub(crate) fn list() -> String {
    names().join(",")
}

fn place(ports: u32, device: u32, port: u32) -> usize {
    (device * ports + port.saturating_sub(1)) as usize
}

/// The port as its interface is; None when ports are not bound.
pub(crate) fn port(ports: u32, device: u32, port: u32) -> Option<Port> {
    if !bound() {
        return None;
    }
    Some(
        lock(&TABLES)
            .get(place(ports, device, port))
            .cloned()
            .unwrap_or_default(),
    )
}

/// A slot of a port's GID table and the index of its interface.
pub(crate) fn gid(
    ports: u32,
    device: u32,
    number: u32,
    index: u32,
) -> Option<([u8; 16], GidType, u32)> {
    match port(ports, device, number) {
        Some(p) => p.gid(index).map(|(gid, kind)| (gid, kind, p.ifindex)),
        None => port_gid(device, number, index).map(|(gid, kind)| (gid, kind, LOOPBACK_IFINDEX)),
    }
}

/// Index of the loopback interface, which carries the ports' addresses otherwise.
const LOOPBACK_IFINDEX: u32 = 1;

/// The port of this fabric that has a GID, where ports are bound.
pub(crate) fn port_of(ports: u32, gid: &[u8; 16]) -> Option<(u32, u32)> {
    let tables = lock(&TABLES);
    let at = tables.iter().position(|p| p.gids.contains(&Some(*gid)))? as u32;
    Some((at / ports, at % ports + 1))
}

/// Brings tables and device tree up to date; tells this process's contexts what has changed.
pub(crate) fn sync(options: &FabricOptions, tree: &Path) -> Result<()> {
    if !bound() {
        return Ok(());
    }
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let path = options.dir.join(STATE);
    let file = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600))?;
    rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
    // Asked under the lock, so that nobody overwrites a newer answer with an older one.
    let (links, addresses) = (netlink::links()?, netlink::addresses()?);
    let shared = read_state(&file);
    let mut now: Vec<Port> = Vec::new();
    for (i, name) in names().iter().enumerate() {
        let mut port = shared
            .get(i)
            .filter(|p| p.name == *name)
            .cloned()
            .unwrap_or_default();
        port.update(name, &links, &addresses);
        now.push(port);
    }
    if now != shared {
        let text: String = now.iter().map(Port::record).collect();
        rustix::fs::ftruncate(&file, 0)?;
        rustix::io::pwrite(&file, text.as_bytes(), 0)?;
    }
    for (i, port) in now.iter().enumerate() {
        let (device, number) = (i as u32 / options.ports, i as u32 % options.ports + 1);
        let name = crate::tree::device_name(options, device);
        let dir = tree.join(format!("sys/class/infiniband/{name}/ports/{number}"));
        crate::tree::write_port(&dir, port);
    }
    let before = std::mem::replace(&mut *lock(&TABLES), now.clone());
    drop(file);
    for (i, (old, new)) in before.iter().zip(&now).enumerate() {
        let (device, number) = (i as u32 / options.ports, i as u32 % options.ports + 1);
        if old.gids != new.gids || old.ifindex != new.ifindex {
            tell(device, number, event::GID_CHANGE);
        }
        if old.up != new.up {
            tell(
                device,
                number,
                if new.up {
                    event::PORT_ACTIVE
                } else {
                    event::PORT_ERR
                },
            );
        }
    }
    Ok(())
}

fn read_state(file: &OwnedFd) -> Vec<Port> {
    let mut bytes = vec![0u8; 256 << 10];
    let n = rustix::io::pread(file, &mut bytes, 0).unwrap_or(0);
    let text = String::from_utf8_lossy(bytes.get(..n).unwrap_or_default());
    text.lines()
        .map(|line| Port::parse(line).unwrap_or_default())
        .collect()
}

fn tell(device: u32, port: u32, event_type: u32) {
    let hubs: Vec<Arc<EventHub>> = lock(&HUBS)
        .list
        .iter()
        .filter(|(of, _)| *of == device)
        .filter_map(|(_, hub)| hub.upgrade())
        .collect();
    for hub in hubs {
        hub.port_event(port, event_type);
    }
}

/// A device was opened: from now on its user hears of changes.
pub(crate) fn attend(options: &FabricOptions, tree: &Path, device: u32, hub: &Arc<EventHub>) {
    if !bound() {
        return;
    }
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    let mut hubs = lock(&HUBS);
    if hubs.pid != pid {
        // Inherited by fork: they are the parent's to tell.
        hubs.list.clear();
    }
    hubs.list.retain(|(_, hub)| hub.strong_count() > 0);
    hubs.list.push((device, Arc::downgrade(hub)));
    if hubs.pid == pid {
        return;
    }
    let socket = match netlink::listen() {
        Ok(socket) => socket,
        Err(e) => {
            log::warn!("changes of interfaces will not be noticed: {e}");
            return;
        }
    };
    let (options, tree) = (options.clone(), tree.to_owned());
    let started = gaudi_softnic::without_signals(|| {
        std::thread::Builder::new()
            .name("gaudi-netdev".into())
            .stack_size(256 << 10)
            .spawn(move || listen(&socket, &options, &tree, pid))
    });
    match started {
        Ok(_) => hubs.pid = pid,
        Err(e) => log::warn!("changes of interfaces will not be noticed: {e}"),
    }
}

fn listen(socket: &Fd, options: &FabricOptions, tree: &Path, pid: i32) {
    loop {
        if wait(socket, LOOK_S, 0) {
            // Many at once when an interface goes up or down.
            while wait(socket, 0, CALM_MS) {
                netlink::drain(socket);
            }
            if let Err(e) = sync(options, tree) {
                log::warn!("interfaces: {e}");
            }
        }
        let mut hubs = lock(&HUBS);
        hubs.list.retain(|(_, hub)| hub.strong_count() > 0);
        if hubs.list.is_empty() {
            if hubs.pid == pid {
                hubs.pid = 0;
            }
            return;
        }
    }
}

fn wait(socket: &Fd, seconds: i64, ms: i64) -> bool {
    let limit = Timespec {
        tv_sec: seconds,
        tv_nsec: ms * 1_000_000,
    };
    poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&limit)).is_ok_and(|n| n > 0)
}
