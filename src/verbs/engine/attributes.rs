//! Attributes of QPs and their paths: what is accepted, and how it is kept.

use super::super::types::{AhAttr, Errno, QpAttr, Result};
use super::limits;
use crate::native::Nic;
use kernel_abi::verbs::{qp_attr, qpt};

/// Attributes that uverbs takes out of a program's mask: XRC QPs have one half each (modify_qp_mask in the kernel's uverbs_cmd.c).
pub(super) fn not_for(qp_type: u32) -> u32 {
    match qp_type {
        qpt::XRC_INI => qp_attr::MAX_DEST_RD_ATOMIC | qp_attr::MIN_RNR_TIMER,
        qpt::XRC_TGT => qp_attr::MAX_QP_RD_ATOMIC | qp_attr::RETRY_CNT | qp_attr::RNR_RETRY,
        _ => 0,
    }
}

/// What the ports of a device take.
#[derive(Clone, Copy, Debug)]
pub(in crate::verbs) struct Paths {
    pub ports: u8,
    /// Of a GID table.
    pub gids: u8,
    pub by_lid: bool,
}

impl Paths {
    pub(in crate::verbs) fn of(nic: &impl Nic) -> Paths {
        let features = nic.features();
        Paths {
            ports: nic.ports(),
            // Four by the rule of the device; else the kernel knows its table, and says so.
            gids: if features.port_ipv4 { 4 } else { u8::MAX },
            by_lid: features.lid_path,
        }
    }
}

pub(in crate::verbs) fn check_path(a: &AhAttr, p: Paths) -> Result<()> {
    // RoCE has no address without a GRH.
    if a.is_global == 0
        || a.port_num == 0
        || a.port_num > p.ports
        || a.grh.sgid_index >= p.gids
        || a.grh.dgid_bytes() == [0; 16]
    {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

pub(super) fn check_attributes(a: &QpAttr, mask: u32, p: Paths) -> Result<()> {
    let Paths { ports, by_lid, .. } = p;
    if mask & qp_attr::PORT != 0 && (a.port_num == 0 || a.port_num > ports) {
        return Err(Errno::EINVAL);
    }
    if mask & qp_attr::PKEY_INDEX != 0 && a.pkey_index != 0 {
        return Err(Errno::EINVAL);
    }
    if mask & qp_attr::AV != 0 {
        // Programs may leave the path's port to the QP's.
        let mut path = a.ah_attr;
        if path.port_num == 0 {
            path.port_num = 1;
        }
        let by_lid = by_lid && path.is_global == 0 && path.dlid != 0;
        if !by_lid {
            check_path(&path, p)?;
        }
    }
    if mask & qp_attr::PATH_MTU != 0 && !(1..=5).contains(&a.path_mtu) {
        return Err(Errno::EINVAL);
    }
    let rd = limits::MAX_RD_ATOMIC;
    if (mask & qp_attr::MAX_QP_RD_ATOMIC != 0 && a.max_rd_atomic > rd)
        || (mask & qp_attr::MAX_DEST_RD_ATOMIC != 0 && a.max_dest_rd_atomic > rd)
    {
        return Err(Errno::EINVAL);
    }
    let too_big = (mask & qp_attr::TIMEOUT != 0 && a.timeout > 31)
        || (mask & qp_attr::RETRY_CNT != 0 && a.retry_cnt > 7)
        || (mask & qp_attr::RNR_RETRY != 0 && a.rnr_retry > 7)
        || (mask & qp_attr::MIN_RNR_TIMER != 0 && a.min_rnr_timer > 31)
        || (mask & qp_attr::DEST_QPN != 0 && a.dest_qp_num > 0xff_ffff);
    if too_big { Err(Errno::EINVAL) } else { Ok(()) }
}

pub(super) fn merge(to: &mut QpAttr, a: &QpAttr, mask: u32) {
    macro_rules! take {
        ($($bit:ident => $($field:ident),+;)*) => { $( if mask & qp_attr::$bit != 0 { $( to.$field = a.$field; )+ } )* };
    }
    take! {
        ACCESS_FLAGS => qp_access_flags;
        PKEY_INDEX => pkey_index;
        PORT => port_num;
        QKEY => qkey;
        AV => ah_attr;
        PATH_MTU => path_mtu;
        TIMEOUT => timeout;
        RETRY_CNT => retry_cnt;
        RNR_RETRY => rnr_retry;
        RQ_PSN => rq_psn;
        MAX_QP_RD_ATOMIC => max_rd_atomic;
        MIN_RNR_TIMER => min_rnr_timer;
        SQ_PSN => sq_psn;
        MAX_DEST_RD_ATOMIC => max_dest_rd_atomic;
        DEST_QPN => dest_qp_num;
        EN_SQD_ASYNC_NOTIFY => en_sqd_async_notify;
    }
}
