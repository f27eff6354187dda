//! Hardware layouts of GAUDI1 and the NIC ioctl of September 2020, its only posted user ABI.
//!
//! Source: netdev patches v1 and v3 (10 and 15 September 2020), the later out-of-tree `gaudi_nic.h`, hl-thunk tests.

mod context;
mod ioctl;
mod wqe;

pub use context::{ReqCtx, ResCtx};
pub use ioctl::{
    AllocConnIn, AllocConnOut, CqCreateIn, CqCreateOut, CqDestroyIn, CqPollIn, CqPollOut,
    CqUpdateConsumedIn, Cqe16, DestroyConnIn, IOCTL_NIC_2020, NicArgs, SetReqConnCtxIn,
    SetResConnCtxIn, UserWqSetIn, UserWqUnsetIn, cq_status, eq_status, nic_op,
    swq_granularity_2020,
};
pub use wqe::{Cqe, RecvWqe, SendWqe, db_value, opcode, sob};

pub const NUM_PORTS: u32 = 10;
pub const DEFAULT_PORTS_MASK: u64 = 0x3ff;
/// Id 0 is the raw Ethernet connection.
pub const MIN_CONN_ID: u32 = 1;
pub const MAX_CONN_ID: u32 = 1023;
pub const MIN_WQES: u32 = 4;
pub const MAX_WQES: u32 = 1 << 21;
pub const MAX_WQS: u32 = 32768;
pub const MIN_USER_CQES: u32 = 128;
pub const MAX_USER_CQES: u32 = 1 << 27;
pub const MAX_MSG_SIZE: u32 = 4096;
pub const WQ_ALIGN: u64 = 128;
pub const MAX_RETRIES: u8 = 0xff;

/// Syndromes of QP errors.
pub mod syndrome {
    pub const RX_QP_INVALID: u8 = 0x05;
    pub const RX_TRANSPORT: u8 = 0x06;
    pub const RX_RKEY: u8 = 0x09;
    pub const TIMER_RETRY: u8 = 0x40;
    pub const NACK_RETRY: u8 = 0x41;
    pub const DB_QP_INVALID: u8 = 0x42;
    pub const DB_SECURITY: u8 = 0x43;
    pub const TX_QP_INVALID: u8 = 0x44;
    pub const RES_TX_QP_INVALID: u8 = 0x45;
    pub const ACK_QP_INVALID: u8 = 0x46;
}

/// One word of the QP error FIFO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QpError(pub u32);

impl QpError {
    pub const fn new(qpn: u32, syndrome: u8, is_req: bool) -> Self {
        Self((qpn & 0xff_ffff) | ((syndrome & 0x7f) as u32) << 24 | (is_req as u32) << 31)
    }

    pub const fn qpn(self) -> u32 {
        self.0 & 0xff_ffff
    }

    pub const fn syndrome(self) -> u8 {
        (self.0 >> 24 & 0x7f) as u8
    }

    pub const fn is_req(self) -> bool {
        self.0 >> 31 != 0
    }
}
