//! A QP as its owner's process runs it. Objects are made at first use of a number and stay as long as the context.

use super::cq::CqAt;
use super::wqe::Work;
use crate::Requester;
use crate::fabric::{Remote, Way};
use crate::shm::sync::{AtomicBool, AtomicU8, AtomicU32, AtomicU64};
use crate::shm::trylock::TryLock;
use std::sync::{Arc, Mutex};

/// Where the two rings of a requester are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RingAt {
    pub(crate) swq: u64,
    pub(crate) rwq: u64,
    /// 64-byte send WQEs.
    pub(crate) wide: bool,
}

impl RingAt {
    #[inline(always)]
    pub(crate) fn swqe(&self, slot: u32) -> u64 {
        self.swq + (u64::from(slot) << if self.wide { 6 } else { 5 })
    }
    #[inline(always)]
    pub(crate) fn rwqe(&self, slot: u32) -> u64 {
        self.rwq + (u64::from(slot) << 4)
    }
}

pub(crate) struct Qp {
    pub(crate) port: u32,
    pub(crate) id: u32,
    pub(crate) generation: AtomicU32,
    /// First error since the last reset; 0 for none. Who sets it raises the event.
    pub(crate) syndrome: AtomicU8,
    pub(crate) run: TryLock<Run>,
    /// A doorbell that found the lock held: producer index, bit 32 set.
    pub(crate) again: AtomicU64,
    /// See [`mode`].
    pub(crate) mode: AtomicU8,
    /// Stands in the context's list of unfinished QPs.
    pub(crate) listed: AtomicBool,
    /// Since when the peer gives no answer, in µs of the monotonic clock; 0 when it does.
    pub(crate) silent_since: AtomicU64,
    /// Whom to watch for death.
    pub(crate) watch: Mutex<Watch>,
}

/// Why a QP is in the list.
pub(crate) mod mode {
    pub(crate) const IDLE: u8 = 0;
    /// Work that could run at once.
    pub(crate) const RUNNABLE: u8 = 1;
    /// Waits for the peer or for room in a CQ.
    pub(crate) const PARKED: u8 = 2;
}

/// The QP at the other end, as far as its death concerns this one.
#[derive(Default)]
pub(crate) enum Watch {
    #[default]
    Nobody,
    /// Not there yet: device, port, QP number.
    Wanted(u32, u32, u32),
    Peer {
        remote: Arc<Remote>,
        port: u32,
        qpn: u32,
        generation: u32,
    },
}

/// How far the current WQE is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Stage {
    #[default]
    Fetch,
    /// So many bytes have been moved.
    Data(u32),
    /// All data is there; the responder's entry is owed.
    TellPeer,
    /// The requester's entry is owed.
    TellMe,
}

/// The responder at the other end, as found under one state word.
pub(crate) struct Target {
    /// The context, and our way in.
    pub(crate) way: Way,
    /// State word of the QP record; while it is the same, so is everything here.
    pub(crate) state: u64,
    pub(crate) key: u32,
    pub(crate) cq: Option<CqAt>,
}

/// What the lock of a QP protects.
#[derive(Default)]
pub(crate) struct Run {
    /// The requester context is valid.
    pub(crate) valid: bool,
    pub(crate) cfg: Requester,
    pub(crate) ring: RingAt,
    pub(crate) last: u32,
    pub(crate) ci: u32,
    pub(crate) pi: u32,
    pub(crate) stage: Stage,
    pub(crate) work: Work,
    pub(crate) send_cq: Option<CqAt>,
    /// Device, port and QP number of the peer; `None` for an address that is nowhere.
    pub(crate) dest: Option<(u32, u32, u32)>,
    pub(crate) target: Option<Target>,
    /// Generation of the peer's number when it was first found; 0 for not yet.
    pub(crate) peer: u32,
    pub(crate) mtu_shift: u32,
    pub(crate) limit_us: u64,
    /// Sent: bytes, messages, packets.
    pub(crate) sent: [u64; 3],
}

impl Qp {
    pub(crate) fn new(port: u32, id: u32) -> Qp {
        Qp {
            port,
            id,
            generation: AtomicU32::new(0),
            syndrome: AtomicU8::new(0),
            run: TryLock::new(Run::default()),
            again: AtomicU64::new(0),
            mode: AtomicU8::new(mode::IDLE),
            listed: AtomicBool::new(false),
            silent_since: AtomicU64::new(0),
            watch: Mutex::default(),
        }
    }
}
