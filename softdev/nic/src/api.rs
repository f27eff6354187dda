//! Plain types of the public interface.

use std::path::PathBuf;

/// Options of a fabric; fixed by its creator. A process that attaches with others is refused (EINVAL).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FabricOptions {
    pub dir: PathBuf,
    /// 1..=8
    pub devices: u32,
    /// 1..=24
    pub ports: u32,
    /// The posted kernel and nothing more: one context per device, no extension.
    pub strict: bool,
    /// How long a QP retries a peer that gives no answer at most; 0 = default.
    pub retry_limit_ms: u32,
    /// Devices are named `rxe_softN` for the stock rxe provider (a test option of the face).
    pub rxe: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GidType {
    RoceV1,
    RoceV2,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessInfo {
    pub pid: u32,
    pub comm: String,
    /// A stopped process in the middle of a copy that this one waits for (it wants to unmap memory); 0 for none.
    pub waiting_for: u32,
    /// As in `/proc/PID/stat`: with the number it tells the process from a later one.
    pub start_time: u64,
    /// Inode of its pid namespace.
    pub pid_ns: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContextInfo {
    pub device: u32,
    pub asid: u32,
    pub pid: u32,
    pub ports_mask: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QpInfo {
    pub device: u32,
    pub port: u32,
    pub qpn: u32,
    pub generation: u32,
    pub asid: u32,
    pub pid: u32,
    pub responder_valid: bool,
    pub requester_valid: bool,
    pub error: bool,
    pub syndrome: u8,
    /// Device and port that the QP's address names, when they are in this fabric, and the QP number there.
    pub peer: Option<(u32, u32, u32)>,
    /// Verbs type and state, where the provider has told them.
    pub noted: Option<(u32, u32)>,
    /// Through the connection: bytes, messages, packets.
    pub sent: [u64; 3],
    /// Datagrams: bytes and packets sent, bytes and packets received.
    pub datagrams: [u64; 4],
    /// Whom it sent a datagram to last: number (0: nobody), and the device, when it is in this fabric.
    pub last: (u32, Option<u32>),
    /// Multicast groups that it is in.
    pub groups: u32,
}

impl QpInfo {
    /// As the program sees the number: generation, port and native number.
    pub fn number(&self) -> u32 {
        (self.generation & 0x3f) << 18 | (self.port & 0x1f) << 13 | (self.qpn & 0x1fff)
    }
}

/// What went through a port so far: bytes, messages, packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortTraffic {
    pub device: u32,
    pub port: u32,
    pub sent: [u64; 3],
    pub received: [u64; 3],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CqStat {
    pub device: u32,
    pub port: u32,
    pub asid: u32,
    pub cq: u32,
    pub entries: u32,
    pub pi: u32,
    pub ci: u32,
}

/// What a fabric holds at one moment; a picture for people, not a transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FabricSnapshot {
    pub processes: Vec<ProcessInfo>,
    pub contexts: Vec<ContextInfo>,
    pub qps: Vec<QpInfo>,
    pub cqs: Vec<CqStat>,
    /// Only [`FabricView`](crate::FabricView) fills it.
    pub ports: Vec<PortTraffic>,
}

/// Called on the device's own thread (or inside a doorbell): must be quick and must not call back into the NIC except reads.
pub trait EventSink: Send + Sync {
    fn event(&self, ev: NicEvent);

    /// Hands out events that the program had no room for; whether some are left. Called again and again while that is so.
    fn refill(&self) -> bool {
        false
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NicEvent {
    CqErr { port: u32, cq: u32 },
    QpErr { port: u32, qpn: u32, syndrome: u8 },
    DbFifoErr { port: u32, hw_fifo: u32 },
    PortState { port: u32, up: bool },
    DeviceFatal,
}

/// Handles are mmap offsets on the RDMA file, never 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CqInfo {
    pub id: u32,
    pub mem_handle: u64,
    pub mem_size: u32,
    pub pi_handle: u64,
    pub regs_handle: u64,
    pub regs_offset: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FifoInfo {
    pub id: u32,
    pub ci_handle: u64,
    pub regs_handle: u64,
    pub regs_offset: u32,
    pub size: u32,
    pub bp_thresh: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingInfo {
    pub swq_handle: u64,
    pub swq_size: u32,
    pub rwq_handle: u64,
    pub rwq_size: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Responder {
    pub dest_qpn: u32,
    pub dest_mac: [u8; 6],
    /// Host order, 0 = layer 2.
    pub dest_ip: u32,
    pub local_key: u32,
    pub cq: u32,
    pub peer_granularity: u8,
    pub priority: u8,
    pub wq_type: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requester {
    pub dest_qpn: u32,
    pub dest_mac: [u8; 6],
    pub dest_ip: u32,
    pub remote_key: u32,
    pub cq: u32,
    pub timer: u8,
    pub log_mtu: u8,
    pub wq_entries: u32,
    /// 0 = 32 B, 1 = 64 B.
    pub granularity: u8,
    pub wq_type: u8,
    pub priority: u8,
    pub congestion_wnd: u32,
    pub burst: u32,
}
