//! Ops of memory windows.

use crate::abi::{IbvContext, IbvMr, IbvMw, IbvMwBind, IbvMwBindInfo, IbvPd, IbvQp, Plain};
use crate::memory::Pd;
use crate::object::{Handle, Object, field};
use crate::{edge, qp};
use core::ffi::c_int;
use gaudi_verbs::{Errno, Result, SendWr};
use kernel_abi::verbs::wr_opcode;

pub(crate) type Mw = Object<IbvMw, Handle>;

/// `enum ibv_mw_type`.
const TYPE_1: u32 = 1;
const TYPE_2: u32 = 2;

pub(crate) unsafe extern "C" fn alloc_mw(pd: *mut IbvPd, kind: u32) -> *mut IbvMw {
    edge::object(|| {
        if kind != TYPE_1 && kind != TYPE_2 {
            return Err(Errno::EINVAL);
        }
        // SAFETY: a live PD of ours.
        let own = unsafe { Pd::own(pd) };
        let info = own.context.alloc_mw(own.handle, kind == TYPE_2)?;
        let mut mw = Box::new(Mw {
            c: IbvMw::zeroed(),
            own: Handle {
                context: own.context.clone(),
                handle: info.handle,
            },
        });
        // SAFETY: set when the PD was made.
        mw.c.context = unsafe { field!(pd, IbvPd, context, *mut IbvContext).read() };
        mw.c.pd = pd;
        mw.c.rkey = info.rkey;
        mw.c.handle = info.handle;
        mw.c.kind = kind;
        Ok(mw.give())
    })
}

pub(crate) unsafe extern "C" fn dealloc_mw(mw: *mut IbvMw) -> c_int {
    edge::status(|| {
        // SAFETY: a live window of ours.
        let own = unsafe { Mw::own(mw) };
        own.context.dealloc_mw(own.handle)?;
        // SAFETY: the program gives it up.
        unsafe { Mw::retake(mw) };
        Ok(())
    })
}

/// The work request that binds `mw` under `new_key`.
pub(crate) fn bind_wr(
    wr_id: u64,
    flags: u32,
    new_key: u32,
    info: &IbvMwBindInfo,
) -> Result<SendWr<'static>> {
    let mr_key = if info.mr.is_null() {
        if info.length != 0 {
            return Err(Errno::EINVAL);
        }
        0
    } else {
        // SAFETY: a live MR of ours, whose keys never change.
        unsafe { field!(info.mr, IbvMr, lkey, u32).read() }
    };
    Ok(SendWr {
        wr_id,
        opcode: wr_opcode::BIND_MW,
        flags,
        imm: mr_key,
        remote_addr: info.addr,
        rkey: new_key,
        compare_add: info.length,
        swap: info.access.into(),
        remote_srqn: 0,
        sges: &[],
    })
}

/// What a posted type 2 bind names: the key must be one of the window's.
pub(crate) fn type_2_key(mw: *mut IbvMw, rkey: u32) -> Result<u32> {
    if mw.is_null() {
        return Err(Errno::EINVAL);
    }
    // SAFETY: a live window of ours.
    let kind = unsafe { field!(mw, IbvMw, kind, u32).read() };
    // SAFETY: as above.
    let own = unsafe { Mw::own(mw) };
    if kind != TYPE_2 || rkey >> 8 != own.handle {
        return Err(Errno::EINVAL);
    }
    Ok(rkey)
}

/// Type 1: the library has compared the type.
pub(crate) unsafe extern "C" fn bind_mw(
    qp: *mut IbvQp,
    mw: *mut IbvMw,
    bind: *const IbvMwBind,
) -> c_int {
    edge::status(|| {
        if bind.is_null() {
            return Err(Errno::EINVAL);
        }
        // SAFETY: the program's request.
        let bind = unsafe { &*bind };
        // SAFETY: a live QP of ours.
        let own = unsafe { qp::own(qp) };
        let place = field!(mw, IbvMw, rkey, u32);
        // SAFETY: a live window of ours; binds of one window do not run at the same time.
        let old = unsafe { place.read() };
        let key = old & !0xff | old.wrapping_add(1) & 0xff;
        let wr = bind_wr(bind.wr_id, bind.send_flags, key, &bind.bind_info)?;
        let mut guard = own.context.lock()?;
        let posted = guard.post_send(own.handle, &wr);
        guard.finish();
        posted?;
        // SAFETY: as above.
        unsafe { place.write(key) };
        Ok(())
    })
}
