//! A fabric seen from outside: nothing is attached, locked or changed.

use super::snapshot::peer;
use crate::shm::Fd;
use crate::shm::fabric_file::{Owner, qp_state};
use crate::shm::fabric_reader::{FabricReader, QpLine};
use crate::shm::locks::{Holder, LockFile};
use crate::{ContextInfo, FabricOptions, FabricSnapshot, PortTraffic, ProcessInfo, QpInfo, Result};
use kernel_abi::ext::note;
use kernel_abi::gaudi2::{ReqCtx, ResCtx};
use rustix::fs::{Mode, OFlags};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// For tools that show a fabric.
pub struct FabricView {
    dir: PathBuf,
    reader: FabricReader,
    locks: Option<LockFile>,
}

impl FabricView {
    /// ENOENT: no program has opened a device yet. EINVAL: the file is damaged or of another build.
    pub fn open(dir: &Path) -> Result<FabricView> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        let fd = Fd::new(rustix::fs::open(dir, flags, Mode::empty())?);
        Ok(FabricView {
            dir: dir.to_owned(),
            reader: FabricReader::open(&fd)?,
            locks: LockFile::look(&fd).ok(),
        })
    }

    pub fn options(&self) -> FabricOptions {
        FabricOptions {
            dir: self.dir.clone(),
            devices: self.reader.devices,
            ports: self.reader.ports,
            strict: self.reader.strict,
            retry_limit_ms: self.reader.retry_limit_ms,
            rxe: self.reader.rxe,
        }
    }

    /// What there is at about this moment. The dead are left out, and so is what does not fit together.
    pub fn look(&self) -> Result<FabricSnapshot> {
        let mut picture = FabricSnapshot::default();
        let mut pids = Vec::new();
        for p in self.reader.processes()? {
            if !self.is_alive(p.owner) {
                continue;
            }
            pids.push((p.owner, p.pid));
            picture.processes.push(ProcessInfo {
                pid: p.pid,
                comm: p.comm,
                waiting_for: p.waiting_for,
                start_time: p.start_time,
                pid_ns: p.pid_ns,
            });
        }
        for device in 0..self.reader.devices {
            let mut owners = BTreeMap::new();
            for c in self.reader.contexts(device)? {
                let Some((_, pid)) = pids.iter().find(|(owner, _)| *owner == c.owner) else {
                    continue;
                };
                owners.insert(c.asid, *pid);
                picture.contexts.push(ContextInfo {
                    device,
                    asid: c.asid,
                    pid: *pid,
                    ports_mask: c.ports_mask,
                });
            }
            for port in 1..=self.reader.ports {
                self.look_at_port(device, port, &owners, &mut picture)?;
            }
        }
        count_received(&mut picture);
        Ok(picture)
    }

    fn is_alive(&self, owner: Owner) -> bool {
        // Without an answer the table is believed.
        let holder = self.locks.as_ref().map(|l| l.holder(owner.slot));
        !matches!(holder, Some(Ok(Holder::Nobody)))
    }

    fn look_at_port(
        &self,
        device: u32,
        port: u32,
        owners: &BTreeMap<u32, u32>,
        picture: &mut FabricSnapshot,
    ) -> Result<()> {
        let (mut sent, mut received) = self.reader.totals(device, port)?;
        for line in self.reader.qps(device, port)? {
            let Some(pid) = owners.get(&qp_state::asid(line.state)) else {
                continue;
            };
            let qp = info(device, port, *pid, &line);
            let [tx_bytes, tx, rx_bytes, rx] = qp.datagrams;
            add(&mut sent, qp.sent);
            add(&mut sent, [tx_bytes, tx, tx]);
            add(&mut received, [rx_bytes, rx, rx]);
            picture.qps.push(qp);
        }
        picture.ports.push(PortTraffic {
            device,
            port,
            sent,
            received,
        });
        Ok(())
    }
}

fn add(sum: &mut [u64; 3], n: [u64; 3]) {
    for (sum, n) in sum.iter_mut().zip(n) {
        *sum = sum.wrapping_add(n);
    }
}

/// Connections count at the sender.
fn count_received(picture: &mut FabricSnapshot) {
    for qp in &picture.qps {
        let Some((device, port, _)) = qp.peer else {
            continue;
        };
        let there = picture
            .ports
            .iter_mut()
            .find(|p| (p.device, p.port) == (device, port));
        if let Some(there) = there {
            add(&mut there.received, qp.sent);
        }
    }
}

fn info(device: u32, port: u32, pid: u32, line: &QpLine) -> QpInfo {
    let [type_state, datagrams @ ..] = line.notes;
    let req = ReqCtx { words: line.req };
    let (last, device_of_last, groups) = note::split_datagrams(type_state);
    QpInfo {
        device,
        port,
        qpn: line.qpn,
        generation: line.generation,
        asid: qp_state::asid(line.state),
        pid,
        responder_valid: line.state & qp_state::RES != 0,
        requester_valid: line.state & qp_state::REQ != 0,
        error: line.state & qp_state::ERR != 0,
        syndrome: line.syndrome as u8,
        peer: peer(&req, &ResCtx { words: line.res }),
        noted: note::split_type_state(type_state),
        sent: line.sent,
        datagrams,
        last: (last, device_of_last),
        groups,
    }
}
