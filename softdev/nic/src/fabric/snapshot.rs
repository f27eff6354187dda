//! A picture of a fabric for people.

use super::attach::Fabric;
use super::process::destination;
use crate::nic::cq::CqAt;
use crate::nic::rdma_layout::CQS;
use crate::shm::fabric_file::{MAX_ASIDS, MAX_PROCS, MAX_QPS, qp_state, state};
use crate::{ContextInfo, CqStat, FabricSnapshot, ProcessInfo, QpInfo, addr};
use kernel_abi::ext::note;
use kernel_abi::gaudi2::{ReqCtx, ResCtx};
use std::sync::atomic::Ordering::*;

impl Fabric {
    /// Processes, contexts, QPs and CQs at about this moment.
    pub fn snapshot(&self) -> FabricSnapshot {
        let mut picture = FabricSnapshot::default();
        for slot in 0..self.file.proc_high().load(Acquire).min(MAX_PROCS) {
            let record = self.file.proc(slot);
            if state::kind(record.state().load(Acquire)) == state::LIVE {
                picture.processes.push(ProcessInfo {
                    pid: record.pid().load(Relaxed),
                    comm: record.comm(),
                    waiting_for: record.waiting_for().load(Relaxed),
                    start_time: record.start_time().load(Relaxed),
                    pid_ns: record.pid_ns().load(Relaxed),
                });
            }
        }
        for device in 0..self.opts.devices {
            self.picture_device(device, &mut picture);
        }
        picture
    }

    fn pid_of(&self, device: u32, asid: u32) -> u32 {
        let owner = state::owner(self.file.ctx(device, asid).state().load(Acquire));
        self.file.proc(owner.slot).pid().load(Relaxed)
    }

    fn picture_device(&self, device: u32, picture: &mut FabricSnapshot) {
        for asid in 1..self.file.asid_high(device).load(Acquire).min(MAX_ASIDS) {
            let Some(copy) = self.file.ctx(device, asid).copy() else {
                continue;
            };
            let pid = self.pid_of(device, asid);
            picture.contexts.push(ContextInfo {
                device,
                asid,
                pid,
                ports_mask: copy.ports_mask,
            });
            let Ok(remote) = self.remote(device, asid) else {
                continue;
            };
            for port in (1..=self.opts.ports).filter(|p| copy.ports_mask >> p & 1 != 0) {
                for cq in 2..CQS {
                    let (pi, ci, entries) = CqAt::new(remote.layout, port, cq).look(&remote.map);
                    if entries != 0 {
                        picture.cqs.push(CqStat {
                            device,
                            port,
                            asid,
                            cq,
                            entries,
                            pi,
                            ci,
                        });
                    }
                }
            }
        }
        for port in 1..=self.opts.ports {
            for qpn in 1..self
                .file
                .port(device, port)
                .qp_high()
                .load(Acquire)
                .min(MAX_QPS)
            {
                let record = self.file.qp(device, port, qpn);
                let word = record.state().load(Acquire);
                let asid = qp_state::asid(word);
                if asid == 0 {
                    continue;
                }
                picture.qps.push(QpInfo {
                    device,
                    port,
                    qpn,
                    generation: record.generation().load(Relaxed),
                    asid,
                    pid: self.pid_of(device, asid),
                    responder_valid: word & qp_state::RES != 0,
                    requester_valid: word & qp_state::REQ != 0,
                    error: word & qp_state::ERR != 0,
                    syndrome: record.syndrome().load(Relaxed) as u8,
                    peer: peer(
                        &ReqCtx {
                            words: record.req(),
                        },
                        &ResCtx {
                            words: record.res(),
                        },
                    ),
                    noted: note::split_type_state(record.note(note::TYPE_STATE).load(Relaxed)),
                    sent: [0, 1, 2].map(|which| record.sent(which).load(Relaxed)),
                    datagrams: [1, 2, 3, 4].map(|which| record.note(which).load(Relaxed)),
                    ..QpInfo::default()
                });
            }
        }
    }
}

/// Whom a QP is connected with, by the half that is set.
pub(super) fn peer(req: &ReqCtx, res: &ResCtx) -> Option<(u32, u32, u32)> {
    if req.valid() {
        return destination(req).map(|(device, port)| (device, port, req.dst_qp()));
    }
    let mac = super::process::mac_bytes(res.dst_mac());
    let at = addr::resolve(
        res.dst_ip(),
        mac,
        crate::shm::fabric_file::MAX_DEVICES,
        crate::shm::fabric_file::MAX_PORTS,
    );
    at.filter(|_| res.valid())
        .map(|(device, port)| (device, port, res.dst_qp()))
}
