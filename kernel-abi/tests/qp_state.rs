//! The QP state machine against a table written out attribute by attribute, independent of how the code factors it.

use gaudi_kernel_abi::verbs::qp_attr::*;
use gaudi_kernel_abi::verbs::{attr_masks, modify_qp_is_ok, qps, qpt};

const STATES: [u32; 7] = [
    qps::RESET,
    qps::INIT,
    qps::RTR,
    qps::RTS,
    qps::SQD,
    qps::SQE,
    qps::ERR,
];
const TYPES: [u32; 6] = [
    qpt::RC,
    qpt::UC,
    qpt::UD,
    qpt::XRC_INI,
    qpt::XRC_TGT,
    qpt::RAW_PACKET,
];

/// (from, to, type, required, optional) where either mask is not empty.
#[rustfmt::skip]
const TABLE: &[(u32, u32, u32, u32, u32)] = &[
    (qps::RESET, qps::INIT, qpt::UD, PKEY_INDEX | PORT | QKEY, 0),
    (qps::RESET, qps::INIT, qpt::RAW_PACKET, PORT, 0),
    (qps::RESET, qps::INIT, qpt::UC, PKEY_INDEX | PORT | ACCESS_FLAGS, 0),
    (qps::RESET, qps::INIT, qpt::RC, PKEY_INDEX | PORT | ACCESS_FLAGS, 0),
    (qps::RESET, qps::INIT, qpt::XRC_INI, PKEY_INDEX | PORT | ACCESS_FLAGS, 0),
    (qps::RESET, qps::INIT, qpt::XRC_TGT, PKEY_INDEX | PORT | ACCESS_FLAGS, 0),

    (qps::INIT, qps::INIT, qpt::UD, 0, PKEY_INDEX | PORT | QKEY),
    (qps::INIT, qps::INIT, qpt::UC, 0, PKEY_INDEX | PORT | ACCESS_FLAGS),
    (qps::INIT, qps::INIT, qpt::RC, 0, PKEY_INDEX | PORT | ACCESS_FLAGS),
    (qps::INIT, qps::INIT, qpt::XRC_INI, 0, PKEY_INDEX | PORT | ACCESS_FLAGS),
    (qps::INIT, qps::INIT, qpt::XRC_TGT, 0, PKEY_INDEX | PORT | ACCESS_FLAGS),

    (qps::INIT, qps::RTR, qpt::UD, 0, PKEY_INDEX | QKEY),
    (qps::INIT, qps::RTR, qpt::UC, AV | PATH_MTU | DEST_QPN | RQ_PSN, ALT_PATH | ACCESS_FLAGS | PKEY_INDEX),
    (qps::INIT, qps::RTR, qpt::RC, AV | PATH_MTU | DEST_QPN | RQ_PSN | MAX_DEST_RD_ATOMIC | MIN_RNR_TIMER,
     ALT_PATH | ACCESS_FLAGS | PKEY_INDEX),
    (qps::INIT, qps::RTR, qpt::XRC_INI, AV | PATH_MTU | DEST_QPN | RQ_PSN, ALT_PATH | ACCESS_FLAGS | PKEY_INDEX),
    (qps::INIT, qps::RTR, qpt::XRC_TGT, AV | PATH_MTU | DEST_QPN | RQ_PSN | MAX_DEST_RD_ATOMIC | MIN_RNR_TIMER,
     ALT_PATH | ACCESS_FLAGS | PKEY_INDEX),

    (qps::RTR, qps::RTS, qpt::UD, SQ_PSN, CUR_STATE | QKEY),
    (qps::RTR, qps::RTS, qpt::UC, SQ_PSN, CUR_STATE | ALT_PATH | ACCESS_FLAGS | PATH_MIG_STATE),
    (qps::RTR, qps::RTS, qpt::RC, TIMEOUT | RETRY_CNT | RNR_RETRY | SQ_PSN | MAX_QP_RD_ATOMIC,
     CUR_STATE | ALT_PATH | ACCESS_FLAGS | MIN_RNR_TIMER | PATH_MIG_STATE),
    (qps::RTR, qps::RTS, qpt::XRC_INI, TIMEOUT | RETRY_CNT | RNR_RETRY | SQ_PSN | MAX_QP_RD_ATOMIC,
     CUR_STATE | ALT_PATH | ACCESS_FLAGS | PATH_MIG_STATE),
    (qps::RTR, qps::RTS, qpt::XRC_TGT, TIMEOUT | SQ_PSN,
     CUR_STATE | ALT_PATH | ACCESS_FLAGS | MIN_RNR_TIMER | PATH_MIG_STATE),
    (qps::RTR, qps::RTS, qpt::RAW_PACKET, 0, RATE_LIMIT),

    (qps::RTS, qps::RTS, qpt::UD, 0, CUR_STATE | QKEY),
    (qps::RTS, qps::RTS, qpt::UC, 0, CUR_STATE | ACCESS_FLAGS | ALT_PATH | PATH_MIG_STATE),
    (qps::RTS, qps::RTS, qpt::RC, 0, CUR_STATE | ACCESS_FLAGS | ALT_PATH | PATH_MIG_STATE | MIN_RNR_TIMER),
    (qps::RTS, qps::RTS, qpt::XRC_INI, 0, CUR_STATE | ACCESS_FLAGS | ALT_PATH | PATH_MIG_STATE),
    (qps::RTS, qps::RTS, qpt::XRC_TGT, 0, CUR_STATE | ACCESS_FLAGS | ALT_PATH | PATH_MIG_STATE | MIN_RNR_TIMER),
    (qps::RTS, qps::RTS, qpt::RAW_PACKET, 0, RATE_LIMIT),

    (qps::RTS, qps::SQD, qpt::UD, 0, EN_SQD_ASYNC_NOTIFY),
    (qps::RTS, qps::SQD, qpt::UC, 0, EN_SQD_ASYNC_NOTIFY),
    (qps::RTS, qps::SQD, qpt::RC, 0, EN_SQD_ASYNC_NOTIFY),
    (qps::RTS, qps::SQD, qpt::XRC_INI, 0, EN_SQD_ASYNC_NOTIFY),
    (qps::RTS, qps::SQD, qpt::XRC_TGT, 0, EN_SQD_ASYNC_NOTIFY),

    (qps::SQD, qps::RTS, qpt::UD, 0, CUR_STATE | QKEY),
    (qps::SQD, qps::RTS, qpt::UC, 0, CUR_STATE | ALT_PATH | ACCESS_FLAGS | PATH_MIG_STATE),
    (qps::SQD, qps::RTS, qpt::RC, 0, CUR_STATE | ALT_PATH | ACCESS_FLAGS | MIN_RNR_TIMER | PATH_MIG_STATE),
    (qps::SQD, qps::RTS, qpt::XRC_INI, 0, CUR_STATE | ALT_PATH | ACCESS_FLAGS | PATH_MIG_STATE),
    (qps::SQD, qps::RTS, qpt::XRC_TGT, 0, CUR_STATE | ALT_PATH | ACCESS_FLAGS | MIN_RNR_TIMER | PATH_MIG_STATE),

    (qps::SQD, qps::SQD, qpt::UD, 0, PKEY_INDEX | QKEY),
    (qps::SQD, qps::SQD, qpt::UC, 0, AV | ALT_PATH | ACCESS_FLAGS | PKEY_INDEX | PATH_MIG_STATE),
    (qps::SQD, qps::SQD, qpt::RC, 0,
     PORT | AV | TIMEOUT | RETRY_CNT | RNR_RETRY | MAX_QP_RD_ATOMIC | MAX_DEST_RD_ATOMIC | ALT_PATH | ACCESS_FLAGS
     | PKEY_INDEX | MIN_RNR_TIMER | PATH_MIG_STATE),
    (qps::SQD, qps::SQD, qpt::XRC_INI, 0,
     PORT | AV | TIMEOUT | RETRY_CNT | RNR_RETRY | MAX_QP_RD_ATOMIC | ALT_PATH | ACCESS_FLAGS | PKEY_INDEX
     | PATH_MIG_STATE),
    (qps::SQD, qps::SQD, qpt::XRC_TGT, 0,
     PORT | AV | TIMEOUT | MAX_DEST_RD_ATOMIC | ALT_PATH | ACCESS_FLAGS | PKEY_INDEX | MIN_RNR_TIMER
     | PATH_MIG_STATE),

    (qps::SQE, qps::RTS, qpt::UD, 0, CUR_STATE | QKEY),
    (qps::SQE, qps::RTS, qpt::UC, 0, CUR_STATE | ACCESS_FLAGS),
];

/// Legal moves, one row per state, columns in the order of `STATES`.
#[rustfmt::skip]
const LEGAL: [[u8; 7]; 7] = [
    // RESET INIT RTR RTS SQD SQE ERR
    [1, 1, 0, 0, 0, 0, 0], // RESET
    [1, 1, 1, 0, 0, 0, 1], // INIT
    [1, 0, 0, 1, 0, 0, 1], // RTR
    [1, 0, 0, 1, 1, 0, 1], // RTS
    [1, 0, 0, 1, 1, 0, 1], // SQD
    [1, 0, 0, 1, 0, 0, 1], // SQE
    [1, 0, 0, 0, 0, 0, 1], // ERR
];

fn expected(cur: u32, next: u32, qp_type: u32) -> Option<(u32, u32)> {
    (LEGAL[cur as usize][next as usize] == 1).then(|| {
        TABLE
            .iter()
            .find(|row| (row.0, row.1, row.2) == (cur, next, qp_type))
            .map_or((0, 0), |row| (row.3, row.4))
    })
}

fn all() -> impl Iterator<Item = (u32, u32, u32)> {
    STATES.into_iter().flat_map(|cur| {
        STATES
            .into_iter()
            .flat_map(move |next| TYPES.into_iter().map(move |t| (cur, next, t)))
    })
}

#[test]
fn masks_equal_the_table() {
    for (cur, next, qp_type) in all() {
        assert_eq!(
            attr_masks(cur, next, qp_type),
            expected(cur, next, qp_type),
            "{cur} -> {next}, type {qp_type}"
        );
    }
}

#[test]
fn every_single_attribute_counts() {
    for (cur, next, qp_type) in all() {
        let Some((required, optional)) = expected(cur, next, qp_type) else {
            assert!(!modify_qp_is_ok(cur, next, qp_type, STATE));
            continue;
        };
        let ok = |mask| modify_qp_is_ok(cur, next, qp_type, mask);
        assert!(ok(required | STATE));
        assert!(ok(required), "the state bit itself is not asked for");
        for bit in (0..32).map(|b| 1u32 << b) {
            if required & bit != 0 {
                assert!(
                    !ok(required & !bit | STATE),
                    "{cur} -> {next}, type {qp_type}: {bit:#x} is required"
                );
            } else if bit != STATE {
                // CUR_STATE additionally needs a state that can change by itself.
                let allowed = optional & bit != 0
                    && (bit != CUR_STATE
                        || [qps::RTR, qps::RTS, qps::SQD, qps::SQE].contains(&cur));
                assert_eq!(
                    ok(required | STATE | bit),
                    allowed,
                    "{cur} -> {next}, type {qp_type}: {bit:#x}"
                );
            }
        }
        if optional & CUR_STATE == 0 || cur >= qps::RTR {
            assert!(ok(required | optional | STATE));
        }
    }
}

#[test]
fn what_programs_send_is_accepted() {
    let path = [
        (
            qps::RESET,
            qps::INIT,
            STATE | PKEY_INDEX | PORT | ACCESS_FLAGS,
        ),
        (
            qps::INIT,
            qps::RTR,
            STATE | AV | PATH_MTU | DEST_QPN | RQ_PSN | MAX_DEST_RD_ATOMIC | MIN_RNR_TIMER,
        ),
        (
            qps::RTR,
            qps::RTS,
            STATE | TIMEOUT | RETRY_CNT | RNR_RETRY | SQ_PSN | MAX_QP_RD_ATOMIC,
        ),
    ];
    for (cur, next, mask) in path {
        assert!(modify_qp_is_ok(cur, next, qpt::RC, mask));
    }
    assert!(!modify_qp_is_ok(qps::RESET, qps::RTS, qpt::RC, STATE));
    assert!(!modify_qp_is_ok(qps::RESET, qps::ERR, qpt::RC, STATE));
}

#[test]
fn nonsense_is_refused() {
    for state in [7, 8, u32::MAX] {
        for qp_type in TYPES {
            assert!(!modify_qp_is_ok(state, qps::RESET, qp_type, STATE));
            assert!(!modify_qp_is_ok(qps::RESET, state, qp_type, STATE));
        }
    }
    assert!(!modify_qp_is_ok(
        qps::INIT,
        qps::INIT,
        qpt::RC,
        STATE | CUR_STATE
    ));
    assert!(!modify_qp_is_ok(
        qps::ERR,
        qps::RESET,
        qpt::RC,
        STATE | CUR_STATE
    ));
}
