//! Port counters, from what each QP has sent.
//!
//! A requester counts in its own QP record; what a port has received is what all QPs have sent to it. So counting costs the data
//! path three plain stores into a line of its own.

use super::attach::Fabric;
use super::process::destination;
use crate::shm::fabric_file::{MAX_QPS, QpRec, qp_state};
use kernel_abi::ext::note;
use kernel_abi::gaudi2::ReqCtx;
use kernel_abi::hbl::PORT_COUNTERS;
use std::sync::atomic::Ordering::*;

/// Ethernet 14, IPv4 20, UDP 8, BTH 12, RETH 16, ICRC 4, FCS 4.
const HEADERS: u64 = 78;

/// Bytes, messages, packets.
type Sent = [u64; 3];

impl Fabric {
    /// The counters of a port under the driver's names. What this device has no notion of (lanes, FEC, pause frames) is zero.
    pub fn counters(&self, device: u32, port: u32) -> Vec<(&'static str, u64)> {
        let (sent, received) = self.totals(device, port);
        PORT_COUNTERS
            .iter()
            .map(|name| (*name, value(name, &sent, &received)))
            .collect()
    }

    fn totals(&self, device: u32, port: u32) -> (Sent, Sent) {
        let words = self.file.port(device, port);
        let mut sent = [0, 1, 2].map(|which| words.total(false, which).load(Relaxed));
        let mut received = [0, 1, 2].map(|which| words.total(true, which).load(Relaxed));
        for d in 0..self.opts.devices {
            for p in 1..=self.opts.ports {
                for qpn in 1..self.file.port(d, p).qp_high().load(Acquire).min(MAX_QPS) {
                    let record = self.file.qp(d, p, qpn);
                    if qp_state::asid(record.state().load(Acquire)) == 0 {
                        continue;
                    }
                    if (d, p) == (device, port) {
                        datagrams(record, &mut sent, &mut received);
                    }
                    let to = destination(&ReqCtx {
                        words: record.req(),
                    });
                    for which in 0..3u64 {
                        let n = record.sent(which).load(Relaxed);
                        let add = |sum: &mut Sent| {
                            if let Some(sum) = sum.get_mut(which as usize) {
                                *sum = sum.wrapping_add(n);
                            }
                        };
                        if (d, p) == (device, port) {
                            add(&mut sent);
                        }
                        if to == Some((device, port)) {
                            add(&mut received);
                        }
                    }
                }
            }
        }
        (sent, received)
    }
}

/// What a QP sent and took by the port's Ethernet side.
fn datagrams(record: QpRec<'_>, sent: &mut Sent, received: &mut Sent) {
    for (sum, bytes, packets) in [
        (sent, note::SENT_BYTES, note::SENT_PACKETS),
        (received, note::RECEIVED_BYTES, note::RECEIVED_PACKETS),
    ] {
        let n = record.note(packets).load(Relaxed);
        let add = [record.note(bytes).load(Relaxed), n, n];
        for (sum, n) in sum.iter_mut().zip(add) {
            *sum = sum.wrapping_add(n);
        }
    }
}

fn value(name: &str, sent: &Sent, received: &Sent) -> u64 {
    let (dir, rest) = if let Some(rest) = name.strip_prefix("tx_") {
        (sent, rest)
    } else if let Some(rest) = name.strip_prefix("rx_") {
        (received, rest)
    } else {
        return 0;
    };
    let [bytes, _, packets] = *dir;
    match rest {
        "Octets" | "OctetsReceivedOK" | "OctetsTransmittedOK" => {
            bytes.wrapping_add(packets.wrapping_mul(HEADERS))
        }
        "Pkts"
        | "ifInUcastPkts"
        | "ifOutUcastPkts"
        | "aFramesReceivedOK"
        | "aFramesTransmittedOK" => packets,
        _ => 0,
    }
}
