//! Which QP transitions are legal and which attributes each needs or takes (IBTA Vol. 1, 10.3.1 and 11.2.5.2).
//!
//! Gives the verdicts of the kernel's `ib_modify_qp_is_ok` for the QP types a user can create.

use super::qp_attr::*;
use super::{qps, qpt};

const STATES: u32 = 7;

/// Attributes that every type with an address vector shares when its path is set up.
const PATH: u32 = AV | PATH_MTU | DEST_QPN | RQ_PSN;
/// Attributes by which a requester retries.
const RETRY: u32 = TIMEOUT | RETRY_CNT | RNR_RETRY | MAX_QP_RD_ATOMIC;
/// Attributes of a responder that answers READs and atomics.
const RESPONDER: u32 = MAX_DEST_RD_ATOMIC | MIN_RNR_TIMER;
/// What a connected QP may change whenever it reaches or stays in RTS.
const MIGRATION: u32 = CUR_STATE | ALT_PATH | ACCESS_FLAGS | PATH_MIG_STATE;

/// (required, optional) masks of a transition, without STATE itself; `None` when the transition is illegal.
pub const fn attr_masks(cur: u32, next: u32, qp_type: u32) -> Option<(u32, u32)> {
    if cur >= STATES || next >= STATES {
        return None;
    }
    match (cur, next) {
        (_, qps::RESET) => Some((0, 0)),
        (qps::RESET, qps::INIT) => Some((init(qp_type), 0)),
        (qps::RESET, _) => None,
        (_, qps::ERR) => Some((0, 0)),
        (qps::INIT, qps::INIT) => Some((0, init_again(qp_type))),
        (qps::INIT, qps::RTR) => Some(to_rtr(qp_type)),
        (qps::RTR, qps::RTS) => Some(to_rts(qp_type)),
        (qps::RTS, qps::RTS) => Some((0, in_rts(qp_type) | rate(qp_type))),
        (qps::RTS, qps::SQD) => Some((0, drain(qp_type))),
        (qps::SQD, qps::RTS) => Some((0, in_rts(qp_type))),
        (qps::SQD, qps::SQD) => Some((0, in_sqd(qp_type))),
        (qps::SQE, qps::RTS) => Some((0, from_sqe(qp_type))),
        _ => None,
    }
}

/// Whether MODIFY_QP with this mask may take a QP of this type from `cur` to `next`.
pub const fn modify_qp_is_ok(cur: u32, next: u32, qp_type: u32, mask: u32) -> bool {
    // A program may state the current state only where it can have changed behind its back.
    if mask & CUR_STATE != 0 && !matches!(cur, qps::RTR | qps::RTS | qps::SQD | qps::SQE) {
        return false;
    }
    match attr_masks(cur, next, qp_type) {
        Some((required, optional)) => {
            mask & required == required && mask & !(required | optional | STATE) == 0
        }
        None => false,
    }
}

const fn init(qp_type: u32) -> u32 {
    match qp_type {
        qpt::UD => PKEY_INDEX | PORT | QKEY,
        qpt::RC | qpt::UC | qpt::XRC_INI | qpt::XRC_TGT => PKEY_INDEX | PORT | ACCESS_FLAGS,
        qpt::RAW_PACKET => PORT,
        _ => 0,
    }
}

const fn init_again(qp_type: u32) -> u32 {
    match qp_type {
        qpt::RAW_PACKET => 0,
        _ => init(qp_type),
    }
}

const fn to_rtr(qp_type: u32) -> (u32, u32) {
    let connected = ALT_PATH | ACCESS_FLAGS | PKEY_INDEX;
    match qp_type {
        qpt::UD => (0, PKEY_INDEX | QKEY),
        qpt::UC | qpt::XRC_INI => (PATH, connected),
        qpt::RC | qpt::XRC_TGT => (PATH | RESPONDER, connected),
        _ => (0, 0),
    }
}

const fn to_rts(qp_type: u32) -> (u32, u32) {
    let required = match qp_type {
        qpt::UD | qpt::UC => SQ_PSN,
        qpt::RC | qpt::XRC_INI => SQ_PSN | RETRY,
        qpt::XRC_TGT => SQ_PSN | TIMEOUT,
        _ => 0,
    };
    (required, in_rts(qp_type) | rate(qp_type))
}

const fn in_rts(qp_type: u32) -> u32 {
    match qp_type {
        qpt::UD => CUR_STATE | QKEY,
        qpt::UC | qpt::XRC_INI => MIGRATION,
        qpt::RC | qpt::XRC_TGT => MIGRATION | MIN_RNR_TIMER,
        _ => 0,
    }
}

const fn rate(qp_type: u32) -> u32 {
    if qp_type == qpt::RAW_PACKET {
        RATE_LIMIT
    } else {
        0
    }
}

const fn drain(qp_type: u32) -> u32 {
    match qp_type {
        qpt::UD | qpt::UC | qpt::RC | qpt::XRC_INI | qpt::XRC_TGT => EN_SQD_ASYNC_NOTIFY,
        _ => 0,
    }
}

const fn in_sqd(qp_type: u32) -> u32 {
    let path = AV | ALT_PATH | ACCESS_FLAGS | PKEY_INDEX | PATH_MIG_STATE;
    match qp_type {
        qpt::UD => PKEY_INDEX | QKEY,
        qpt::UC => path,
        qpt::RC => path | PORT | RETRY | RESPONDER,
        qpt::XRC_INI => path | PORT | RETRY,
        qpt::XRC_TGT => path | PORT | TIMEOUT | RESPONDER,
        _ => 0,
    }
}

const fn from_sqe(qp_type: u32) -> u32 {
    match qp_type {
        qpt::UD => CUR_STATE | QKEY,
        qpt::UC => CUR_STATE | ACCESS_FLAGS,
        _ => 0,
    }
}
