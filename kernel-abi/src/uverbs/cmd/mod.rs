//! The command family: numbers and core structs WITHOUT the write header.
//!
//! INVOKE_WRITE passes a core struct as CORE_IN; write(2) puts [`WriteHdr`] (and [`ExWriteHdr`]) in front of the same
//! bytes. Requests of the old family begin with the address of the response, which INVOKE_WRITE ignores.
//! Source: `rdma/ib_user_verbs.h`. Driver data follows a struct directly and is not part of it.

mod cq;
mod device;
mod mr;
mod qp;
mod srq;
mod wq;
mod wr;

pub use cq::*;
pub use device::*;
pub use mr::*;
pub use qp::*;
pub use srq::*;
pub use wq::*;
pub use wr::*;

/// Or-ed to a number to name the extended variant.
pub const EXTENDED: u32 = 0x8000_0000;
/// The number without flags.
pub const COMMAND_MASK: u32 = 0xff;

pub const GET_CONTEXT: u32 = 0;
pub const QUERY_DEVICE: u32 = 1;
pub const QUERY_PORT: u32 = 2;
pub const ALLOC_PD: u32 = 3;
pub const DEALLOC_PD: u32 = 4;
pub const CREATE_AH: u32 = 5;
pub const MODIFY_AH: u32 = 6;
pub const QUERY_AH: u32 = 7;
pub const DESTROY_AH: u32 = 8;
pub const REG_MR: u32 = 9;
pub const REG_SMR: u32 = 10;
pub const REREG_MR: u32 = 11;
pub const QUERY_MR: u32 = 12;
pub const DEREG_MR: u32 = 13;
pub const ALLOC_MW: u32 = 14;
pub const BIND_MW: u32 = 15;
pub const DEALLOC_MW: u32 = 16;
pub const CREATE_COMP_CHANNEL: u32 = 17;
pub const CREATE_CQ: u32 = 18;
pub const RESIZE_CQ: u32 = 19;
pub const DESTROY_CQ: u32 = 20;
pub const POLL_CQ: u32 = 21;
pub const PEEK_CQ: u32 = 22;
pub const REQ_NOTIFY_CQ: u32 = 23;
pub const CREATE_QP: u32 = 24;
pub const QUERY_QP: u32 = 25;
pub const MODIFY_QP: u32 = 26;
pub const DESTROY_QP: u32 = 27;
pub const POST_SEND: u32 = 28;
pub const POST_RECV: u32 = 29;
pub const ATTACH_MCAST: u32 = 30;
pub const DETACH_MCAST: u32 = 31;
pub const CREATE_SRQ: u32 = 32;
pub const MODIFY_SRQ: u32 = 33;
pub const QUERY_SRQ: u32 = 34;
pub const DESTROY_SRQ: u32 = 35;
pub const POST_SRQ_RECV: u32 = 36;
pub const OPEN_XRCD: u32 = 37;
pub const CLOSE_XRCD: u32 = 38;
pub const CREATE_XSRQ: u32 = 39;
pub const OPEN_QP: u32 = 40;

pub const EX_QUERY_DEVICE: u32 = EXTENDED | QUERY_DEVICE;
pub const EX_CREATE_CQ: u32 = EXTENDED | CREATE_CQ;
pub const EX_CREATE_QP: u32 = EXTENDED | CREATE_QP;
pub const EX_MODIFY_QP: u32 = EXTENDED | MODIFY_QP;
pub const EX_CREATE_FLOW: u32 = EXTENDED | 50;
pub const EX_DESTROY_FLOW: u32 = EXTENDED | 51;
pub const EX_CREATE_WQ: u32 = EXTENDED | 52;
pub const EX_MODIFY_WQ: u32 = EXTENDED | 53;
pub const EX_DESTROY_WQ: u32 = EXTENDED | 54;
pub const EX_CREATE_RWQ_IND_TBL: u32 = EXTENDED | 55;
pub const EX_DESTROY_RWQ_IND_TBL: u32 = EXTENDED | 56;
pub const EX_MODIFY_CQ: u32 = EXTENDED | 57;

abi! {
    /// `ib_uverbs_cmd_hdr`: starts every write(2). Lengths count 4-byte words including this header; for extended
    /// commands they count 8-byte words of the core part alone.
    pub struct WriteHdr [8] {
        command: u32 = 0,
        in_words: u16 = 4,
        out_words: u16 = 6,
    }

    /// `ib_uverbs_ex_cmd_hdr`: follows [`WriteHdr`] in extended commands. Lengths count 8-byte words of driver data.
    pub struct ExWriteHdr [16] {
        response: u64 = 0,
        provider_in_words: u16 = 8,
        provider_out_words: u16 = 10,
        cmd_hdr_reserved: u32 = 12,
    }
}
