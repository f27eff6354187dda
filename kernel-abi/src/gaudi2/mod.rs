//! Hardware layouts of GAUDI2: what software writes into rings and doorbells and what the NIC writes back.
//!
//! Source: posted `gaudi2.h` / `gaudi2_cn.h` (June 2024), vendor simulator headers `gaudi2_prm.h`.

mod context;
mod doorbell;
mod entry;
pub mod syndrome;
mod wqe;

pub use context::{ReqCtx, ResCtx, cong_mode, conn_state, hw_wq_type, transport, trust};
pub use doorbell::{
    Doorbell, UMR_PAGE_SIZE, UMR_PAGES, cq_offset, cq_page, fifo_ci_after_pops, fifo_free,
    fifo_offset, fifo_page, umr,
};
pub use entry::{Cqe, Eqe, eq_event, eqe_type};
pub use wqe::{RecvWqe, SendWqe, SendWqe64, opcode, reduction};

/// Who is told when a message is done: SOB is a sync object of the compute engines, CQ a completion entry.
pub mod comp_type {
    pub const NONE: u8 = 0;
    pub const SOB: u8 = 1;
    pub const CQ: u8 = 2;
    pub const BOTH: u8 = 3;
}

/// PSNs are 24 bits wide and both sides start at 0, because contexts are zeroed and users cannot set them.
pub const PSN_BITS: u32 = 24;
pub const PSN_MASK: u32 = (1 << PSN_BITS) - 1;

/// Signed distance `a - b` of two PSNs on their circle.
pub const fn psn_diff(a: u32, b: u32) -> i32 {
    ((a.wrapping_sub(b) << (32 - PSN_BITS)) as i32) >> (32 - PSN_BITS)
}

pub const fn psn_add(psn: u32, n: u32) -> u32 {
    psn.wrapping_add(n) & PSN_MASK
}

/// Width of producer, consumer and last index in contexts and doorbells.
pub const INDEX_BITS: u32 = 22;
pub const INDEX_MASK: u32 = (1 << INDEX_BITS) - 1;

/// Microseconds between retransmissions: 2^(granularity + 2).
pub const fn timer_period_us(granularity: u32) -> u64 {
    1 << (if granularity > 31 { 31 } else { granularity } + 2)
}

/// Register-wide retry limits; there is no infinite value and no per-QP one.
pub const MAX_TIMEOUT_RETRIES: u8 = 0xfe;
pub const MAX_SEQ_ERR_RETRIES: u8 = 0xfe;
/// Granularity that the driver takes for timeout 0 while the RDMA device is closed.
pub const DEFAULT_TIMER_GRANULARITY: u8 = 13;
/// The requester asks for an acknowledgement at least this often, in PSNs.
pub const ACK_REQ_FREQ: u8 = 8;
pub const BURST_SIZE: u32 = 16;
pub const REQ_PRIORITY: u8 = 3;
pub const RES_PRIORITY: u8 = 2;
/// WQ window that the driver gives to user rings; 0 is the raw Ethernet ring.
pub const USER_WQ_BASE: u8 = 1;
/// `remote_wq_log_size` without a rendezvous peer.
pub const NO_REMOTE_WQ_LOG: u8 = 2;
pub const MAX_CONG_WINDOW: u32 = 1 << 23;

pub const MIN_PATH_MTU: u32 = 1024;
pub const MAX_PATH_MTU: u32 = 8192;
/// Inline data sizes of the two WQE forms.
pub const INLINE_SIZE: u32 = 16;
pub const INLINE_SIZE_64: u32 = 48;
/// UDP destination of RoCEv2, and of the default encapsulation on external ports.
pub const ROCE_UDP_PORT: u16 = 4791;
pub const ENCAP_UDP_PORT: u16 = 8224;
pub const ENCAP_HDR_BYTE: u8 = 0xa5;
pub const ENCAP_HDR_LEN: usize = 32;

/// Transport opcodes on the wire; every packet of a long write is its own WRITE ONLY.
pub mod bth {
    pub const SEND: u8 = 0x04;
    pub const WRITE: u8 = 0x0a;
    pub const ACK: u8 = 0x11;
    pub const MULTI_STRIDE_GAUDI1: u8 = 0x19;
    pub const MULTI_STRIDE: u8 = 0x1a;
    pub const RDV_WRITE: u8 = 0x1b;
    pub const RDV_READ: u8 = 0x1c;
}

/// NAK codes in the AETH (IBTA numbering).
pub mod nak {
    pub const PSN_SEQUENCE: u8 = 0;
    pub const INVALID_REQUEST: u8 = 1;
    pub const REMOTE_ACCESS: u8 = 2;
    pub const REMOTE_OPERATIONAL: u8 = 3;
    pub const INVALID_RD_REQUEST: u8 = 4;
}
