//! GAUDI itself, as the protocol sees it: connections that can WRITE, memory that can be mapped, completions that say "done".

pub mod gaudi;
pub mod kernel;
#[cfg(test)]
pub mod sim;
pub mod udp;
pub mod user;
pub mod window;

use crate::verbs::types::{Errno, Result};
use core::net::IpAddr;
pub use window::Window;

/// Entries of a native send ring (and of its receive ring). One stays free: PI == CI means empty.
pub const RING_ENTRIES: u32 = 256;
/// Native slots that only acks and responses may use (hazard 8).
pub const RING_RESERVED: u32 = 24;
/// Device address of the mailbox of native id 0 on port 1: the start of the range kept for hints (native dossier 6.1), rounded up.
pub const MAILBOX_BASE: u64 = 0xFFF0_7800_0000_0000;
/// Device address space per QP.
pub const MAILBOX_STRIDE: u64 = 64 << 10;
/// Bytes of it that are backed by memory.
pub const MAILBOX_BYTES: usize = 40 << 10;
/// Native ids per port.
pub const IDS_PER_PORT: u32 = 8192;

/// Where the mailbox of a QP lies in its owner's device address space: a pure function of the number, so no side channel is needed.
pub fn mailbox_address(port: u8, id: u32) -> u64 {
    let index = u64::from(port.saturating_sub(1)) * u64::from(IDS_PER_PORT) + u64::from(id);
    MAILBOX_BASE + index * MAILBOX_STRIDE
}

/// `qp_num = generation[5:0] << 18 | port << 13 | native id` (hazard 9).
pub fn qp_number(port: u8, id: u32, generation: u32) -> u32 {
    (generation & 63) << 18 | u32::from(port & 31) << 13 | (id & 0x1fff)
}

/// Port and native id of a `qp_num`.
pub fn split_number(qp_num: u32) -> (u8, u32) {
    (((qp_num >> 13) & 31) as u8, qp_num & 0x1fff)
}

/// What this kernel can do beyond the posted ABI.
#[derive(Clone, Copy, Debug, Default)]
pub struct Features {
    /// RESET stops the responder before it returns and keeps the number.
    pub stop_sync: bool,
    /// Armed native CQs wake the event word.
    pub cq_notify: bool,
    /// The device puts events into completion channels.
    pub raise: bool,
    /// Registered memory may come and go.
    pub no_pin: bool,
    /// Device memory can be mapped for the CPU.
    pub device_memory: bool,
    /// Ports have LIDs, and a path may do without a GRH.
    pub lid_path: bool,
    /// A port's IPv4 address follows from its MAC and its LID.
    pub port_ipv4: bool,
    /// The device carries datagrams between its own QPs.
    pub frames: bool,
}

/// A native connection.
#[derive(Debug)]
pub struct NativeQp {
    /// The kernel's QP object.
    pub handle: u32,
    pub port: u8,
    pub id: u32,
    pub generation: u32,
    /// What comes back with its errors.
    pub cookie: u64,
    pub connected: bool,
    /// In INIT at the kernel: its number is final until it is stopped.
    pub ready: bool,
    /// Rings; empty windows until connected.
    pub swq: Window,
    pub rwq: Window,
    /// Free-running producer index; the slot is `pi % RING_ENTRIES`.
    pub pi: u32,
    /// Everything before it is known to be done.
    pub ci: u32,
    /// `pi` behind the newest WQE that asked for a local completion.
    pub notified: u32,
    /// PI that was last rung.
    pub rung: u32,
    /// Syndrome of what ended the connection while it was being made: its peer was killed.
    pub died: u8,
    /// Token for whatever the implementation must remember about the mailbox (offset in the arena, …).
    pub mailbox_token: u64,
}

impl NativeQp {
    /// A connection that is not up yet.
    pub fn new(handle: u32, port: u8, id: u32, generation: u32, none: Window) -> NativeQp {
        NativeQp {
            handle,
            port,
            id,
            generation,
            cookie: 0,
            connected: false,
            ready: false,
            swq: none,
            rwq: none,
            pi: 0,
            ci: 0,
            notified: 0,
            rung: 0,
            died: 0,
            mailbox_token: 0,
        }
    }

    pub fn number(&self) -> u32 {
        qp_number(self.port, self.id, self.generation)
    }

    /// Slots that a user request may take now.
    pub fn free_for_requests(&self) -> u32 {
        self.free_slots().saturating_sub(RING_RESERVED)
    }

    /// Slots that a response or an ack may take now.
    pub fn free_slots(&self) -> u32 {
        RING_ENTRIES - 1 - self.pi.wrapping_sub(self.ci).min(RING_ENTRIES - 1)
    }

    /// The WQE before index `end` was posted and is not known to be done. True for no index of long ago, as comparing positions on the
    /// circle would be.
    pub fn is_under_way(&self, end: u32) -> bool {
        end.wrapping_sub(self.ci).wrapping_sub(1) < self.pi.wrapping_sub(self.ci)
    }

    /// A requester CQE named `slot`: everything up to it is done. False when no outstanding WQE has that slot.
    pub fn retire(&mut self, slot: u32) -> bool {
        let next = self
            .ci
            .wrapping_add(slot.wrapping_sub(self.ci) % RING_ENTRIES)
            .wrapping_add(1);
        if next.wrapping_sub(self.ci) > self.pi.wrapping_sub(self.ci) {
            return false;
        }
        self.ci = next;
        true
    }
}

/// Where a connection goes.
#[derive(Clone, Copy, Debug)]
pub struct Connect {
    pub dest_id: u32,
    /// None: the path has no GRH, `dlid` names the port.
    pub dgid: Option<[u8; 16]>,
    pub dlid: u16,
    pub sgid_index: u8,
    pub hop_limit: u8,
    pub traffic_class: u8,
    pub flow_label: u32,
    pub sl: u8,
    /// `IBV_MTU_*`.
    pub path_mtu: u32,
    pub local_key: u32,
    pub remote_key: u32,
}

/// One native WRITE.
#[derive(Clone, Copy, Debug)]
pub struct Write {
    pub local: u64,
    pub remote: u64,
    pub len: u32,
    pub tag: u32,
    /// Responder CQE at the peer.
    pub notify_remote: bool,
    /// Requester CQE here.
    pub notify_local: bool,
}

/// A native completion.
#[derive(Clone, Copy, Debug)]
pub struct Completion {
    pub port: u8,
    pub id: u32,
    pub slot: u32,
    pub tag: u32,
}

/// Something that happened to a native QP or the device.
#[derive(Clone, Copy, Debug)]
pub enum NativeEvent {
    /// The kernel QP object `handle` failed; the syndrome is in the native dossier, 2.7.
    QpError {
        cookie: u64,
        syndrome: u8,
    },
    /// A port went up or down.
    Port {
        port: u8,
        up: bool,
    },
    /// A port's GID table has changed.
    Gids {
        port: u8,
    },
    Fatal,
}

/// What became of an event for a completion channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Raised {
    Yes,
    /// The channel has no room now.
    Full,
    /// It is no channel (any more): trying again would not help.
    Lost,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    Sent,
    /// The receiver is none of the device's: it is somewhere on the wire, or nowhere.
    NotHere,
    /// Again, a little later.
    Full,
    Lost,
}

/// An address of a port's Ethernet side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortAddress {
    pub ip: IpAddr,
    /// The interface that has it.
    pub ifindex: u32,
    /// GID indices that stand for it, as bits.
    pub indices: u64,
}

/// Device memory that the CPU reaches through a mapping.
#[derive(Clone, Copy, Debug)]
pub struct DeviceMemory {
    pub window: Window,
    pub device: u64,
    pub len: u64,
    /// What the implementation needs to free it.
    pub token: u64,
}

/// The device. One implementation drives the kernel ABI; the tests have a scripted one.
pub trait Nic: Send {
    fn features(&self) -> Features;
    /// Monotonic nanoseconds.
    fn now(&self) -> u64;
    /// Random bits for nonces.
    fn random(&mut self) -> u64;

    /// A kernel QP in INIT on `port`. `cookie` comes back with its errors.
    fn qp_create(&mut self, port: u8, cookie: u64) -> Result<NativeQp>;
    /// INIT on (another) port, after creation or stop.
    fn qp_init(&mut self, qp: &mut NativeQp, port: u8) -> Result<()>;
    /// Maps the mailbox and brings the connection all the way up; answers the mailbox.
    fn qp_connect(&mut self, qp: &mut NativeQp, to: &Connect) -> Result<Window>;
    /// Stops both halves: when it returns, no peer writes any more through this connection (with `stop_sync`). The mailbox is unmapped.
    fn qp_stop(&mut self, qp: &mut NativeQp) -> Result<()>;
    fn qp_destroy(&mut self, qp: NativeQp) -> Result<()>;

    /// Addresses of a port's Ethernet side, by its GIDs. EOPNOTSUPP: it has none.
    fn addresses(&self, port: u8) -> Result<Vec<PortAddress>>;
    /// Largest datagram of a port.
    fn port_mtu(&self, port: u8) -> usize;
    /// Number of IB ports.
    fn ports(&self) -> u8;
    /// Program memory for the device; answers the device address of `addr`. EFAULT when it is not mapped (or not writable).
    fn map(&mut self, addr: u64, len: u64, writable: bool) -> Result<u64>;
    fn unmap(&mut self, device_address: u64) -> Result<()>;

    /// Writes a WQE; the caller has checked `free_slots`. Not visible to the device before `ring`.
    fn post(&mut self, qp: &mut NativeQp, w: &Write);
    /// Doorbell. With a paravirtual device the WRITEs of small messages have happened, and are fenced, when it returns.
    fn ring(&mut self, qp: &mut NativeQp);
    fn poll_requester(&mut self) -> Option<Completion>;
    fn poll_responder(&mut self) -> Option<Completion>;
    /// Arms both native CQs of all ports and the frames; true when something is there already.
    fn arm(&mut self) -> bool;
    /// For how many microseconds the peer of this connection has not answered at all.
    fn stalled_us(&self, qp: &NativeQp) -> u64;
    /// Puts an event into a completion channel.
    fn raise(&mut self, channel_fd: i32, cookie: u64) -> Raised;
    /// Takes the unread events of `cookie` out of a completion channel again: how many there were.
    fn drain(&mut self, channel_fd: i32, cookie: u64) -> u32;
    /// Device memory, aligned to `align` (a power of two). EOPNOTSUPP where the CPU cannot reach it.
    fn dm_alloc(&mut self, len: u64, align: u64) -> Result<DeviceMemory>;
    fn dm_free(&mut self, dm: DeviceMemory) -> Result<()>;
    /// A word about a QP for those who look at the device (`kernel_abi::ext::note`).
    fn note(&self, qp: &NativeQp, which: u32, value: u64);
    /// From now on the device keeps frames for this QP.
    fn frame_open(&mut self, _qp: &NativeQp) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }
    /// No more; those that it has kept are gone.
    fn frame_close(&mut self, _qp: &NativeQp) {}
    /// To the QP with this number at that address.
    fn frame_send(&self, _to: [u8; 4], _number: u32, _frame: &[u8]) -> Frame {
        Frame::NotHere
    }
    /// The next frame for a QP: its length, 0 when there is none.
    fn frame_recv(&self, _qp: &NativeQp, _room: &mut [u8]) -> usize {
        0
    }
    /// Next native event, without waiting.
    fn poll_event(&mut self) -> Option<NativeEvent>;
    /// Whether the last doorbells left bulk work behind that `bulk` can do without the engine's lock.
    fn take_pending(&mut self) -> bool;
}
