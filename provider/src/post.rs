//! Posting work requests, called inline from the program: no allocation and no lock but the engine's.

use crate::abi::{IbvAh, IbvMw, IbvMwBindInfo, IbvQp, IbvRecvWr, IbvSendWr, wr};
use crate::memory::Ah;
use crate::qp::QpOwn;
use crate::{edge, mw, qp};
use core::ffi::c_int;
use gaudi_verbs::{Context, Errno, Guard, Result, SendWr, Sge};
use std::sync::Arc;

/// A C list of work requests.
trait Linked {
    fn next(&self) -> *mut Self;
}

impl Linked for IbvSendWr {
    fn next(&self) -> *mut Self {
        self.next
    }
}

impl Linked for IbvRecvWr {
    fn next(&self) -> *mut Self {
        self.next
    }
}

/// Posts each element until one fails, whose address goes to `bad`.
///
/// # Safety
/// `list` is NULL or a list that the program leaves alone meanwhile, `bad` NULL or a place for a pointer.
unsafe fn each<T: Linked>(
    list: *mut T,
    bad: *mut *mut T,
    mut post: impl FnMut(&T) -> Result<()>,
) -> Result<()> {
    let mut current = list;
    while !current.is_null() {
        // SAFETY: an element of the list, by contract.
        let element = unsafe { &*current };
        if let Err(e) = post(element) {
            // SAFETY: by contract.
            unsafe { set_bad(bad, current) };
            return Err(e);
        }
        current = element.next();
    }
    Ok(())
}

/// # Safety
/// `bad` is NULL or a place for a pointer.
unsafe fn set_bad<T>(bad: *mut *mut T, element: *mut T) {
    if !bad.is_null() {
        // SAFETY: by contract.
        unsafe { bad.write(element) };
    }
}

pub(crate) unsafe extern "C" fn post_send(
    qp: *mut IbvQp,
    list: *mut IbvSendWr,
    bad: *mut *mut IbvSendWr,
) -> c_int {
    edge::status(|| {
        // SAFETY: a live QP of ours.
        let own = unsafe { qp::own(qp) };
        let mut guard = own.context.lock().inspect_err(|_| {
            // SAFETY: the program's place for a pointer.
            unsafe { set_bad(bad, list) }
        })?;
        // SAFETY: list and place as ibv_post_send(3) demands them.
        let result = unsafe {
            each(list, bad, |c| {
                guard.post_send(own.handle, &request(own, c)?)
            })
        };
        guard.finish();
        result
    })
}

pub(crate) unsafe extern "C" fn post_recv(
    qp: *mut IbvQp,
    list: *mut IbvRecvWr,
    bad: *mut *mut IbvRecvWr,
) -> c_int {
    edge::status(|| {
        // SAFETY: a live QP of ours.
        let own = unsafe { qp::own(qp) };
        // SAFETY: list and place as ibv_post_recv(3) demands them.
        unsafe {
            receives(&own.context, list, bad, |guard, wr_id, sges| {
                guard.post_recv(own.handle, wr_id, sges)
            })
        }
    })
}

/// Posts a list of receives with `post`, which gets work request ids and SGEs.
///
/// # Safety
/// As for [`each`].
#[inline]
pub(crate) unsafe fn receives(
    context: &Context,
    list: *mut IbvRecvWr,
    bad: *mut *mut IbvRecvWr,
    post: impl Fn(&mut Guard<'_>, u64, &[Sge]) -> Result<()>,
) -> Result<()> {
    let mut guard = context.lock().inspect_err(|_| {
        // SAFETY: passed on.
        unsafe { set_bad(bad, list) }
    })?;
    let one = |c: &IbvRecvWr| post(&mut guard, c.wr_id, sges(c.sg_list, c.num_sge)?);
    // SAFETY: passed on.
    let result = unsafe { each(list, bad, one) };
    guard.finish();
    result
}

/// A request of this QP.
#[inline]
fn request<'a>(own: &QpOwn, c: &'a IbvSendWr) -> Result<SendWr<'a>> {
    let mut wr = send_wr(c)?;
    if own.datagrams {
        // ud {ah, remote_qpn: u32, remote_qkey: u32}
        let [ah, to, ..] = c.wr;
        (wr.remote_addr, wr.remote_srqn, wr.rkey) =
            datagram(own, ah as *mut IbvAh, to as u32, (to >> 32) as u32)?;
    }
    Ok(wr)
}

/// The address of a datagram as `SendWr` has it: handle, QPN, qkey.
pub(crate) fn datagram(
    own: &QpOwn,
    ah: *mut IbvAh,
    qpn: u32,
    qkey: u32,
) -> Result<(u64, u32, u32)> {
    if ah.is_null() {
        return Err(Errno::EINVAL);
    }
    // SAFETY: a live address handle of ours (ibv_post_send(3)).
    let to = unsafe { Ah::own(ah) };
    if !Arc::ptr_eq(&to.context, &own.context) {
        return Err(Errno::EINVAL);
    }
    Ok((to.handle.into(), qpn, qkey))
}

fn send_wr(c: &IbvSendWr) -> Result<SendWr<'_>> {
    if c.opcode == wr::BIND_MW {
        return bind(c);
    }
    if c.opcode == wr::ATOMIC_WRITE && c.num_sge == 0 {
        return Err(Errno::EINVAL);
    }
    let [remote_addr, second, third, fourth] = c.wr;
    let atomic = matches!(c.opcode, wr::ATOMIC_CMP_AND_SWP | wr::ATOMIC_FETCH_AND_ADD);
    let (rkey, compare_add, swap) = if atomic {
        (fourth, second, third)
    } else {
        (second, 0, 0)
    };
    Ok(SendWr {
        wr_id: c.wr_id,
        opcode: c.opcode,
        flags: c.send_flags,
        imm: c.imm_data,
        remote_addr,
        // A 32-bit field in the low half of its word.
        rkey: rkey as u32,
        compare_add,
        swap,
        // union { struct { uint32_t remote_srqn; } xrc; } qp_type: the low half of its word.
        remote_srqn: c.qp_type as u32,
        sges: sges(c.sg_list, c.num_sge)?,
    })
}

/// `bind_mw` {mw, rkey, bind_info {mr, addr, length, access}} of a work request.
fn bind(c: &IbvSendWr) -> Result<SendWr<'_>> {
    let [window, rkey, mr, addr, length, access] = c.bind_or_tso;
    let key = mw::type_2_key(window as *mut IbvMw, rkey as u32)?;
    let info = IbvMwBindInfo {
        mr: mr as *mut _,
        addr,
        length,
        access: access as u32,
    };
    mw::bind_wr(c.wr_id, c.send_flags, key, &info)
}

fn sges<'a>(list: *const Sge, count: c_int) -> Result<&'a [Sge]> {
    let count = usize::try_from(count).map_err(|_| Errno::EINVAL)?;
    if count == 0 {
        return Ok(&[]);
    }
    if list.is_null() {
        return Err(Errno::EINVAL);
    }
    // SAFETY: the program's array of `count` elements, as C, which it leaves alone while its work request is being posted.
    Ok(unsafe { core::slice::from_raw_parts(list, count) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::ptr::null_mut;

    fn blank(opcode: u32, wr: [u64; 4]) -> IbvSendWr {
        IbvSendWr {
            wr_id: 7,
            next: null_mut(),
            sg_list: core::ptr::null(),
            num_sge: 0,
            opcode,
            send_flags: 2,
            imm_data: 0x0102_0304,
            wr,
            qp_type: 0,
            bind_or_tso: [0; 6],
        }
    }

    #[test]
    fn unions_are_read_by_opcode() {
        let write = blank(0, [0x1000, 0xffff_ffff_0000_0055, 3, 4]);
        let write = send_wr(&write).unwrap();
        assert_eq!(
            (write.remote_addr, write.rkey, write.compare_add, write.swap),
            (0x1000, 0x55, 0, 0)
        );
        assert_eq!((write.wr_id, write.flags, write.imm), (7, 2, 0x0102_0304));
        let swap = blank(wr::ATOMIC_CMP_AND_SWP, [0x1000, 11, 22, 0x66]);
        let swap = send_wr(&swap).unwrap();
        assert_eq!(
            (swap.remote_addr, swap.rkey, swap.compare_add, swap.swap),
            (0x1000, 0x66, 11, 22)
        );
    }

    #[test]
    fn lists_end_at_null_and_report_the_failing_element() {
        let mut third = blank(2, [0; 4]);
        let mut second = blank(2, [0; 4]);
        let mut first = blank(2, [0; 4]);
        second.next = &raw mut third;
        first.next = &raw mut second;
        let mut bad = null_mut();
        let mut seen = 0;
        let post = |_: &IbvSendWr| {
            seen += 1;
            if seen == 2 {
                Err(Errno::ENOMEM)
            } else {
                Ok(())
            }
        };
        // SAFETY: a list and a place of this function.
        let result = unsafe { each(&raw mut first, &raw mut bad, post) };
        assert_eq!(result, Err(Errno::ENOMEM));
        assert_eq!(bad, &raw mut second);
        // SAFETY: as above; NULL is allowed for the place.
        let result = unsafe { each(&raw mut first, null_mut(), |_| Ok(())) };
        assert_eq!(result, Ok(()));
    }

    #[test]
    fn sge_lists_are_checked() {
        assert_eq!(sges(core::ptr::null(), 0), Ok(&[][..]));
        assert_eq!(sges(core::ptr::null(), 1), Err(Errno::EINVAL));
        assert_eq!(sges(core::ptr::null(), -1), Err(Errno::EINVAL));
        let list = [Sge {
            addr: 1,
            length: 2,
            lkey: 3,
        }; 2];
        assert_eq!(sges(list.as_ptr(), 2), Ok(&list[..]));
    }
}
