//! The dead and what they leave behind.

use super::attach::{Fabric, lock};
use crate::addr;
use crate::shm::fabric_file::{
    FabricFile, MAX_ASIDS, MAX_DEVICES, MAX_PORTS, MAX_PROCS, MAX_QPS, Owner, QpRec, qp_state,
    state,
};
use crate::shm::locks::Holder;
use kernel_abi::ext::note;
use kernel_abi::gaudi2::ReqCtx;
use std::sync::atomic::Ordering::*;

impl Fabric {
    /// Reclaims what dead processes held.
    pub fn reap(&self) {
        if !self.is_ours() {
            return;
        }
        let held = lock(&self.shared.held);
        for slot in 0..self.file.proc_high().load(Acquire).min(MAX_PROCS) {
            let word = self.file.proc(slot).state().load(Acquire);
            if held.contains(&slot) || state::kind(word) == state::FREE {
                continue;
            }
            // Taking the byte decides who reaps; a reaper that dies is followed by another.
            if self.shared.file.try_take(slot).is_ok_and(|taken| taken) {
                reap_slot(&self.file, slot);
                self.shared.file.release(slot);
            }
        }
    }

    /// Whether the process that had the slot in that incarnation lives.
    pub(crate) fn is_alive(&self, owner: Owner) -> bool {
        if owner == self.me {
            return true;
        }
        let word = self.file.proc(owner.slot).state().load(Acquire);
        if state::kind(word) == state::FREE || state::owner(word) != owner {
            return false;
        }
        // An error of the question is no proof of death.
        !matches!(self.shared.file.holder(owner.slot), Ok(Holder::Nobody))
    }
}

/// Undoes what the dead owner of a slot did. The caller holds the slot's lock byte. Every step may be repeated.
pub(crate) fn reap_slot(file: &FabricFile, slot: u32) {
    let record = file.proc(slot);
    let word = record.state().load(Acquire);
    if state::kind(word) == state::FREE {
        return;
    }
    for device in 0..file.devices() {
        for asid in 0..file.asid_high(device).load(Acquire).min(MAX_ASIDS) {
            let context = file.ctx(device, asid).state();
            let owned = context.load(Acquire);
            if state::kind(owned) == state::FREE || state::owner(owned).slot != slot {
                continue;
            }
            if asid != 0 {
                free_qps(file, device, asid);
            }
            let _ = context.cas(owned, state::FREE);
        }
    }
    let inc = state::owner(word).inc;
    record
        .state()
        .store(state::pack(state::FREE, Owner { slot: 0, inc }), SeqCst);
}

fn free_qps(file: &FabricFile, device: u32, asid: u32) {
    for port in 1..=file.ports() {
        for qpn in 1..file.port(device, port).qp_high().load(Acquire).min(MAX_QPS) {
            if qp_state::asid(file.qp(device, port, qpn).state().load(Acquire)) == asid {
                free_qp(file, device, port, qpn);
            }
        }
    }
}

/// Gives a QP number back. Its generation stays.
pub(crate) fn free_qp(file: &FabricFile, device: u32, port: u32, qpn: u32) {
    let record = file.qp(device, port, qpn);
    fold_counters(file, device, port, record);
    loop {
        let word = record.state().load(Acquire);
        if record.state().cas(word, qp_state::next(word, 0)).is_ok() {
            break;
        }
    }
    file.port(device, port).qp_hint().min(qpn);
}

/// What a QP has sent stays counted when it is gone, at both ports.
fn fold_counters(file: &FabricFile, device: u32, port: u32, record: QpRec<'_>) {
    let to = destination(&ReqCtx {
        words: record.req(),
    });
    let to = to.filter(|(device, port)| *device < file.devices() && *port <= file.ports());
    // Datagrams: bytes, messages and packets of both directions.
    let noted = [
        note::SENT_BYTES,
        note::SENT_PACKETS,
        note::RECEIVED_BYTES,
        note::RECEIVED_PACKETS,
    ]
    .map(|which| record.note(which).swap(0));
    let total = file.port(device, port);
    for (received, which, n) in [
        (false, 0, noted[0]),
        (false, 1, noted[1]),
        (false, 2, noted[1]),
        (true, 0, noted[2]),
        (true, 1, noted[3]),
        (true, 2, noted[3]),
    ] {
        total.total(received, which).add(n);
    }
    for which in 0..3 {
        let sent = record.sent(which).swap(0);
        if sent == 0 {
            continue;
        }
        file.port(device, port).total(false, which).add(sent);
        if let Some((device, port)) = to {
            file.port(device, port).total(true, which).add(sent);
        }
    }
}

/// Device and port that a requester context names.
pub(super) fn destination(req: &ReqCtx) -> Option<(u32, u32)> {
    addr::resolve(
        req.dst_ip(),
        mac_bytes(req.dst_mac()),
        MAX_DEVICES,
        MAX_PORTS,
    )
}

/// A MAC as contexts hold it: the last byte lowest.
pub(crate) fn mac_word(mac: [u8; 6]) -> u64 {
    mac.iter()
        .fold(0, |word, byte| word << 8 | u64::from(*byte))
}

pub(crate) fn mac_bytes(word: u64) -> [u8; 6] {
    let [_, _, a, b, c, d, e, f] = word.to_be_bytes();
    [a, b, c, d, e, f]
}

/// Field 22 of `/proc/<who>/stat`, behind the parenthesised name (proc(5)).
pub(super) fn start_time(who: &str) -> u64 {
    let text = crate::shm::fd::read_small(&format!("/proc/{who}/stat"), 1024).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut fields = text
        .rsplit(')')
        .next()
        .unwrap_or("")
        .split_ascii_whitespace();
    fields.nth(19).and_then(|f| f.parse().ok()).unwrap_or(0)
}
