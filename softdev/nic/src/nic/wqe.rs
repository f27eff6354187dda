//! Send WQEs: fetched once, checked on the copy.

use super::qp::RingAt;
use crate::shm::Mapping;
use kernel_abi::gaudi2::{
    INLINE_SIZE, INLINE_SIZE_64, RecvWqe, SendWqe, comp_type, hw_wq_type, opcode, reduction,
    syndrome,
};

/// Largest message that the driver reports.
const MAX_MESSAGE: u32 = 1 << 30;

/// What one WQE asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Work {
    /// 0 for a NOP.
    pub(crate) size: u32,
    pub(crate) local: u64,
    pub(crate) remote: u64,
    /// Offset of the data in our RDMA file if it is in the WQE itself.
    pub(crate) inline_at: Option<u64>,
    pub(crate) tag: u32,
    /// The responder gets an entry.
    pub(crate) tell_peer: bool,
    /// The requester gets an entry, with this tag.
    pub(crate) tell_me: Option<u32>,
}

/// Completion types: the CQ bit counts. There are no compute engines here, so there is no sync object that a SOB type could
/// write to: such types are accepted and the SOB half is ignored.
fn to_cq(kind: u8) -> bool {
    kind & comp_type::CQ != 0
}

/// Fetches and checks slot `slot`; the error is a syndrome.
#[inline]
pub(crate) fn fetch(map: &Mapping, ring: &RingAt, slot: u32, wq_type: u8) -> Result<Work, u8> {
    let at = ring.swqe(slot);
    let send = SendWqe {
        words: map.load_words(at),
    };
    let recv = RecvWqe {
        words: map.load_words(ring.rwqe(slot)),
    };
    let tell_me = to_cq(recv.comp_type()).then(|| recv.tag());
    check(&send, slot, ring.wide, wq_type)?;
    if send.opcode() == opcode::NOP {
        return Ok(Work {
            tell_me,
            ..Work::default()
        });
    }
    if send.inline() {
        // The form has no tag and no completion field; data follows the remote address.
        let (size, remote) = (send.size(), send.inline_remote_addr());
        return Ok(Work {
            size,
            remote,
            inline_at: Some(at + 16),
            tell_me,
            ..Work::default()
        });
    }
    Ok(Work {
        size: send.size(),
        local: send.local_addr(),
        remote: send.remote_addr(),
        inline_at: None,
        tag: send.tag(),
        tell_peer: to_cq(send.comp_type()),
        tell_me,
    })
}

fn check(w: &SendWqe, slot: u32, wide: bool, wq_type: u8) -> Result<(), u8> {
    let op = w.opcode();
    if op == opcode::NOP {
        return Ok(());
    }
    if op > 15 {
        return Err(syndrome::WQE_OPCODE_RANGE);
    }
    if wq_type == hw_wq_type::SEND_RDV {
        // The peer would have to fill in the address: rendezvous is not part of this device.
        return Err(syndrome::TX_OPCODE_RDV);
    }
    if op != opcode::LINEAR {
        // The stride family and rendezvous are legal on silicon; SEND, QoS updates and atomics are not for a write queue.
        return Err(syndrome::TX_OPCODE_WRITE);
    }
    if w.reserved0() {
        return Err(syndrome::TX_RESERVED);
    }
    if w.wqe_index() != slot as u8 {
        return Err(syndrome::TX_WQE_INDEX);
    }
    if w.solicited() {
        return Err(syndrome::WQE_SOLICITED);
    }
    match w.reduction() {
        0 => {}
        r if r & reduction::ENABLE == 0 => return Err(syndrome::WQE_REDUCTION_OFF),
        // Nothing here computes.
        _ => return Err(syndrome::TX_OPCODE_WRITE),
    }
    if w.inline() && w.size() != if wide { INLINE_SIZE_64 } else { INLINE_SIZE } {
        return Err(syndrome::TX_INLINE_SIZE);
    }
    match w.size() {
        0 => Err(syndrome::TX_WRITE_ZERO),
        n if n > MAX_MESSAGE => Err(syndrome::TX_WRITE_TOO_BIG),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> SendWqe {
        SendWqe::write(3, 64, 0x1000, 0x2000)
    }

    fn verdict(w: SendWqe) -> Result<(), u8> {
        check(&w, 3, false, hw_wq_type::WRITE)
    }

    #[test]
    fn each_check_has_its_syndrome() {
        assert_eq!(verdict(good()), Ok(()));
        assert_eq!(
            verdict(
                good()
                    .with_opcode(opcode::NOP)
                    .with_reserved0(true)
                    .with_wqe_index(9)
            ),
            Ok(())
        );
        assert_eq!(verdict(good().with_opcode(opcode::SEND)), Err(0x80));
        assert_eq!(verdict(good().with_opcode(opcode::RDV_WRITE)), Err(0x80));
        assert_eq!(verdict(good().with_opcode(16)), Err(0xb1));
        assert_eq!(verdict(good().with_size(0)), Err(0x84));
        assert_eq!(verdict(good().with_size((1 << 30) + 1)), Err(0x88));
        assert_eq!(verdict(good().with_reserved0(true)), Err(0x90));
        assert_eq!(verdict(good().with_wqe_index(4)), Err(0x91));
        assert_eq!(verdict(good().with_inline(true)), Err(0x8d));
        assert_eq!(verdict(good().with_inline(true).with_size(16)), Ok(()));
        assert_eq!(verdict(good().with_reduction(2)), Err(0xb4));
        assert_eq!(verdict(good().with_solicited(true)), Err(0xbc));
        assert_eq!(
            check(&good().with_inline(true).with_size(16), 3, true, 1),
            Err(0x8d)
        );
        assert_eq!(
            check(&good().with_inline(true).with_size(48), 3, true, 1),
            Ok(())
        );
        assert_eq!(check(&good(), 3, false, hw_wq_type::SEND_RDV), Err(0x81));
    }

    #[test]
    fn the_index_check_looks_at_the_low_byte() {
        assert_eq!(check(&good(), 0x103, false, 1), Ok(()));
        assert_eq!(check(&good(), 0x104, false, 1), Err(0x91));
    }
}
