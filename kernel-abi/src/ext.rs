//! Everything that the soft device adds to the posted `hbl` ABI, in one place.
//!
//! A real kernel of the June-2024 posting leaves these bits zero, because it copies only the sixteen bytes that it knows
//! of the `alloc_ucontext` response. What the provider does when a bit is off stands beside each bit; docs/abi-extensions.md
//! says the same for readers.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Capability bits in `AllocUcontextResp::cap_mask`. The posted kernel uses bits 0 and 1 only.
pub mod cap {
    /// Several contexts, of several processes, may be open on one device. Each has its own ASID, and CQ and FIFO numbers count per
    /// context. Off: the second open of the device is EBUSY.
    pub const MULTI_CONTEXT: u64 = 1 << 32;
    /// `modify_qp` to RESET returns after the responder has stopped, and keeps the QP number for the next INIT on the same port;
    /// `destroy_qp` is synchronous as well. Off: a QP that was reset gets another number, and reconnecting under the old one fails.
    pub const QP_STOP_SYNC: u64 = 1 << 33;
    /// `ModifyQpResp` bytes 28..32 hold how often this QP number has been handed out. Off: zero, so `qp_num` has generation 0.
    pub const QP_GENERATION: u64 = 1 << 34;
    /// Host arena: one mapping of the command descriptor at `arena_handle` covers all memory that the context shares with the device
    /// (rings, CQs, registers), and its first `arena_usable` bytes are the provider's, to be mapped for the device with
    /// [`MEM_ARENA`](super::MEM_ARENA). Off: each object is mapped by itself and mailboxes are ordinary user memory.
    pub const ARENA: u64 = 1 << 35;
    /// `pv_table` is the address of a [`PvTable`](super::PvTable). Off: doorbells and CQ consumer indices are stores to the register pages.
    pub const PV_DOORBELL: u64 = 1 << 36;
    /// CQs can be armed (`PvTable::cq_arm`); the event word at `event_handle` is bumped and its futex woken. Off: the
    /// agent thread polls.
    pub const CQ_NOTIFY: u64 = 1 << 37;
    /// `PvTable::raise` puts an event into a completion channel. Off: the channel is fed by the provider through dup2.
    pub const RAISE_EVENT: u64 = 1 << 38;
    /// When a process dies, the device raises QP errors ([`PEER_DIED`](super::PEER_DIED)) at both halves of every QP that was connected to it, after all
    /// that had arrived has been delivered. Off: requesters get retry exceeded, pure receivers hear nothing.
    pub const DEATH_EVENT: u64 = 1 << 39;
    /// Memory is reached without pinning: registered pages may be unmapped and mapped again. Off: no on-demand paging is offered.
    pub const NO_PIN: u64 = 1 << 40;

    /// Ports report a LID, and a path to RTR may do without a GRH when its `dlid` names the peer's port (programs that are not told a GID
    /// index, such as `ibv_rc_pingpong`, exchange only LIDs). Off: a path without GRH is EINVAL, as on every RoCE device.
    pub const LID_PATH: u64 = 1 << 41;

    /// `HL_MEM_OP_MAP_BLOCK` takes the device address of mapped device memory and answers an mmap offset of the accel descriptor and the size
    /// (posted kernels know only hardware blocks). Off: no `ibv_alloc_dm`.
    pub const DRAM_BLOCK: u64 = 1 << 42;

    /// A port's IPv4 address follows from its MAC, and from its LID ([`port_ipv4`](super::port_ipv4)). Off: GIDs are the addresses that
    /// they say, IPv4-mapped or IPv6, of the interface that the GID query names.
    pub const PORT_IPV4: u64 = 1 << 43;

    /// `PvTable::note` keeps words about a QP ([`note`](super::note)) for people who look at the device, as the kernel's
    /// restrack does. Off: `rdma resource` and the like show what the kernel knows by itself.
    pub const QP_NOTES: u64 = 1 << 44;

    /// `PvTable::frame_*` carry datagrams between the QPs of a fabric through shared memory, with a pause of the sender where a receiver is
    /// slow. Off, and without [`PORT_IPV4`], by whose addresses it finds the QP: all datagrams are UDP.
    pub const FRAMES: u64 = 1 << 45;

    /// All of them: what the soft device says unless it is told to be strict.
    pub const ALL: u64 = MULTI_CONTEXT
        | QP_STOP_SYNC
        | QP_GENERATION
        | ARENA
        | PV_DOORBELL
        | CQ_NOTIFY
        | RAISE_EVENT
        | DEATH_EVENT
        | NO_PIN
        | DRAM_BLOCK
        | LID_PATH
        | PORT_IPV4
        | QP_NOTES
        | FRAMES;
}

/// Words that a provider may note about a QP, with [`cap::QP_NOTES`]. Counters only grow while the QP lives.
pub mod note {
    /// Verbs QP type in bits 0..8, verbs state + 1 in bits 8..16; 0: nothing noted. Of a datagram QP also whom it sent to last (number in bits
    /// 16..40, device + 1 in 48..56) and in how many multicast groups it is (40..48).
    pub const TYPE_STATE: u32 = 0;
    /// What left and came by the port's Ethernet side.
    pub const SENT_BYTES: u32 = 1;
    pub const SENT_PACKETS: u32 = 2;
    pub const RECEIVED_BYTES: u32 = 3;
    pub const RECEIVED_PACKETS: u32 = 4;
    pub const COUNT: u32 = 5;

    pub const fn type_state(qp_type: u32, state: u32) -> u64 {
        (qp_type & 0xff) as u64 | (((state + 1) & 0xff) as u64) << 8
    }

    /// The part about datagrams. `last`: number, and the device of the fabric that has the address.
    pub const fn datagrams(last: u32, device: Option<u8>, groups: usize) -> u64 {
        let groups = if groups < 0xff { groups as u64 } else { 0xff };
        let device = match device {
            Some(d) => d as u64 + 1,
            None => 0,
        };
        ((last & 0xff_ffff) as u64) << 16 | groups << 40 | (device & 0xff) << 48
    }

    /// Number of whom it sent to last (0: nobody), the device, groups.
    pub const fn split_datagrams(word: u64) -> (u32, Option<u32>, u32) {
        let device = (word >> 48 & 0xff) as u32;
        let device = if device == 0 { None } else { Some(device - 1) };
        (
            (word >> 16 & 0xff_ffff) as u32,
            device,
            (word >> 40 & 0xff) as u32,
        )
    }

    /// Type and state; None when nothing was noted.
    pub const fn split_type_state(word: u64) -> Option<(u32, u32)> {
        let state = (word >> 8 & 0xff) as u32;
        if state == 0 {
            return None;
        }
        Some((word as u32 & 0xff, state - 1))
    }
}

/// Syndrome of the error that [`cap::DEATH_EVENT`] announces: a code that the hardware does not use. A peer that merely no longer answers gives
/// the hardware's 0x40.
pub const PEER_DIED: u8 = 0x4f;

/// What a syndrome means, ours included.
pub const fn syndrome_text(code: u8) -> &'static str {
    if code == PEER_DIED {
        "the peer's process has died (extension)"
    } else {
        crate::gaudi2::syndrome::text(code)
    }
}

/// With [`cap::PORT_IPV4`]: the address of IB port `port` of device `device`, whose MAC is 02:1d:a3:00:dd:pp.
pub fn port_ipv4(device: u8, port: u8) -> [u8; 4] {
    [127, 16u8.wrapping_add(device), port, 1]
}

/// The device whose port has the address.
pub fn ipv4_device(address: [u8; 4]) -> Option<u8> {
    match address {
        [127, device, _, 1] => device.checked_sub(16),
        _ => None,
    }
}

/// What the link-local GIDs of all ports begin with (EUI-64 of the MAC, RFC 4291 appendix A); device and port follow.
const LINK_LOCAL: [u8; 14] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0x1d, 0xa3, 0xff, 0xfe, 0];

/// The same for the port's link-local GID.
pub fn gid_ipv4(gid: &[u8; 16]) -> Option<[u8; 4]> {
    match gid.split_last_chunk() {
        Some((head, [device, port])) if *head == LINK_LOCAL => Some(port_ipv4(*device, *port)),
        _ => None,
    }
}

/// The link-local GID of the port with this address.
pub fn ipv4_gid(address: [u8; 4]) -> [u8; 16] {
    let [_, device, port, _] = address;
    let mut gid = [0; 16];
    gid[..14].copy_from_slice(&LINK_LOCAL);
    gid[14..].copy_from_slice(&[device.wrapping_sub(16), port]);
    gid
}

/// The address of the port with this LID (with [`cap::LID_PATH`]): device * 32 + port.
pub fn lid_ipv4(lid: u16) -> [u8; 4] {
    port_ipv4((lid / 32) as u8, (lid % 32) as u8)
}

/// `hl_mem_in.flags` bit for MAP: bytes 0..8 (`host_va`) are an offset into the arena, bytes 8..16 the hint, 16..24 the size.
pub const MEM_ARENA: u32 = 0x100;

/// The response of `alloc_ucontext` with the extension behind the posted sixteen bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct AllocUcontextRespExt {
    /// Posted: 1-based mask of the context's ports.
    pub ports_mask: u64,
    /// Posted bits 0 and 1, ours from 32 (see [`cap`]).
    pub cap_mask: u64,
    /// Address of a [`PvTable`] in the calling process.
    pub pv_table: u64,
    /// First argument of every function in the table.
    pub pv_cookie: u64,
    /// mmap offset of the arena on the command descriptor.
    pub arena_handle: u64,
    /// Bytes to map there.
    pub arena_size: u64,
    /// How many of them, from the start, belong to the provider.
    pub arena_usable: u64,
    /// mmap offset of the page whose first u32 is the event word; inside the arena mapping.
    pub event_handle: u64,
    /// The context's ASID, for logs.
    pub asid: u32,
    pub _rsvd: u32,
}
const _: () = assert!(size_of::<AllocUcontextRespExt>() == 72);

/// The paravirtual functions: like a vDSO, code of the device that runs in the caller. All are `extern "C"`, thread-safe, never
/// unwind and never block.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PvTable {
    /// [`PV_VERSION`].
    pub version: u32,
    /// `size_of::<PvTable>()`.
    pub size: u32,
    /// `fn(cookie: u64, port: u32, entry: u64) -> u32`: a doorbell entry as it would be stored to a FIFO of that IB port. Executes at
    /// most [`PV_DOORBELL_BYTES`] of payload; returns [`PV_PENDING`] when work of this context is left over.
    pub doorbell: u64,
    /// `fn(cookie: u64, budget: u64) -> u32`: executes up to about `budget` bytes of pending work of the whole context, QPs in turn. Returns
    /// [`PV_PENDING`] when some is left that could run at once. Without calls the device's own thread does the work, later.
    pub progress: u64,
    /// `fn(cookie: u64, port: u32, cq: u32, ci: u32)`: the CQ consumer index register.
    pub cq_ci: u64,
    /// `fn(cookie: u64, port: u32, cq: u32, ci: u32) -> u32`: arm: the next CQE at or behind `ci` bumps and wakes the event word, once.
    /// Returns 1 (and does not arm) when one is there already.
    pub cq_arm: u64,
    /// `fn(cookie: u64, channel_fd: i32, user_handle: u64) -> i32`: one completion event into the channel; 0 or a positive errno.
    pub raise: u64,
    /// `fn(cookie: u64, port: u32, qpn: u32) -> u64`: for how many microseconds the QP's oldest WQE has got no answer from
    /// its peer (peer QP not ready or gone); 0 when it is not waiting for that.
    pub stalled_us: u64,
    /// `fn(cookie: u64, port: u32, qpn: u32, which: u32, value: u64)`: keeps one word about the QP ([`note`]).
    pub note: u64,
    /// `fn(cookie: u64, port: u32, qpn: u32) -> i32`: from now on frames to this QP are kept for it; 0 or a positive errno.
    pub frame_open: u64,
    /// `fn(cookie: u64, port: u32, qpn: u32)`: no more, and those that were kept are gone.
    pub frame_close: u64,
    /// `fn(cookie: u64, ipv4: u32, qp_num: u32, frame: u64, len: u64) -> u32`: copies a frame of at most [`FRAME_MAX`] bytes at that address
    /// to the QP of this fabric that has the IPv4 address (host order) and the 24-bit number; answers a word of [`frame`].
    pub frame_send: u64,
    /// `fn(cookie: u64, port: u32, qpn: u32, room: u64, len: u64) -> u64`: the next frame of an own QP to that address; its length, 0: there is none.
    pub frame_recv: u64,
    /// `fn(cookie: u64) -> u32`: the next frame of any own QP bumps and wakes the event word, once. 1 (and not armed) when one is there.
    pub frame_arm: u64,
}
const _: () = assert!(size_of::<PvTable>() == 104);

/// What became of a frame.
pub mod frame {
    pub const SENT: u32 = 0;
    /// No QP of this fabric has that address and number: try the wire.
    pub const NOT_HERE: u32 = 1;
    /// The receiver is behind: again, a little later.
    pub const FULL: u32 = 2;
    /// The receiver has taken nothing for long: lost.
    pub const LOST: u32 = 3;
}

/// The longest frame: an MTU and what goes before it.
pub const FRAME_MAX: usize = 4096 + 256;

/// Version of [`PvTable`].
pub const PV_VERSION: u32 = 3;
/// Work is left over.
pub const PV_PENDING: u32 = 1;
/// Most payload bytes that one doorbell call moves before it leaves the rest to `progress`.
pub const PV_DOORBELL_BYTES: u64 = 16 << 10;
