//! Ops of protection domains, memory regions and address handles.

use crate::abi::{IbvAh, IbvContext, IbvPd, Plain, VerbsMr, mr_type};
use crate::object::{Handle, Object, field};
use crate::{context, domain, edge};
use core::ffi::{c_int, c_void};
use gaudi_verbs::{AhAttr, Context, Errno, MrInfo, Rereg, Sge};
use std::sync::Arc;

/// Our part of a PD.
pub(crate) struct PdOwn {
    pub(crate) context: Arc<Context>,
    pub(crate) handle: u32,
    /// It is a parent domain.
    pub(crate) parent: Option<Parent>,
}

/// What a parent domain holds beside its PD: the address of the thread domain, or 0.
pub(crate) struct Parent {
    pub(crate) td: usize,
}

pub(crate) type Pd = Object<IbvPd, PdOwn>;
pub(crate) type Mr = Object<VerbsMr, Handle>;
pub(crate) type Ah = Object<IbvAh, Handle>;

pub(crate) unsafe extern "C" fn alloc_pd(ctx: *mut IbvContext) -> *mut IbvPd {
    edge::object(|| {
        // SAFETY: a live context of ours.
        let engine = unsafe { context::own(ctx) }.context.clone();
        let handle = engine.alloc_pd()?;
        let mut pd = Box::new(Pd {
            c: IbvPd::zeroed(),
            own: PdOwn {
                context: engine,
                handle,
                parent: None,
            },
        });
        pd.c.context = ctx;
        pd.c.handle = handle;
        Ok(pd.give())
    })
}

pub(crate) unsafe extern "C" fn dealloc_pd(pd: *mut IbvPd) -> c_int {
    edge::status(|| {
        // SAFETY: a live PD of ours.
        let own = unsafe { Pd::own(pd) };
        match &own.parent {
            Some(parent) => domain::release(own, parent)?,
            None => own.context.dealloc_pd(own.handle)?,
        }
        // SAFETY: the program gives the PD up.
        unsafe { Pd::retake(pd) };
        Ok(())
    })
}

pub(crate) unsafe extern "C" fn reg_mr(
    pd: *mut IbvPd,
    addr: *mut c_void,
    length: usize,
    hca_va: u64,
    access: c_int,
) -> *mut VerbsMr {
    edge::object(|| {
        // SAFETY: a live PD of ours.
        let own = unsafe { Pd::own(pd) };
        let info = own.context.reg_mr(
            own.handle,
            addr.addr() as u64,
            length as u64,
            hca_va,
            access as u32,
        )?;
        let handle = Handle {
            context: own.context.clone(),
            handle: info.handle,
        };
        // mr_type 0 is an ordinary MR; context, pd, addr and length are filled in by the library.
        let mut mr = Box::new(Mr {
            c: VerbsMr::zeroed(),
            own: handle,
        });
        mr.c.mr.handle = info.handle;
        mr.c.mr.lkey = info.lkey;
        mr.c.mr.rkey = info.rkey;
        mr.c.access = access;
        Ok(mr.give())
    })
}

pub(crate) unsafe extern "C" fn rereg_mr(
    mr: *mut VerbsMr,
    flags: c_int,
    pd: *mut IbvPd,
    addr: *mut c_void,
    length: usize,
    access: c_int,
) -> c_int {
    /// `enum ibv_rereg_mr_flags`
    const PD: u32 = 2;
    const ACCESS: u32 = 4;
    edge::status(|| {
        // SAFETY: a live MR of ours.
        let own = unsafe { Mr::own(mr) };
        let flags = flags as u32;
        let pd = if flags & PD != 0 {
            if pd.is_null() {
                return Err(Errno::EINVAL);
            }
            // SAFETY: a live PD of ours.
            let pd = unsafe { Pd::own(pd) };
            if !Arc::ptr_eq(&pd.context, &own.context) {
                return Err(Errno::EINVAL);
            }
            pd.handle
        } else {
            0
        };
        let change = Rereg {
            flags,
            pd,
            addr: addr.addr() as u64,
            len: length as u64,
            access: access as u32,
        };
        own.context.rereg_mr(own.handle, &change)?;
        if flags & ACCESS != 0 {
            // SAFETY: the library reads the field when it deregisters; the program leaves the MR alone during the call.
            unsafe { field!(mr, VerbsMr, access, c_int).write(access) };
        }
        Ok(())
    })
}

/// An MR whose fields the library does not fill in.
fn whole(
    own: &PdOwn,
    pd: *mut IbvPd,
    info: &MrInfo,
    length: usize,
    kind: u32,
    access: c_int,
) -> *mut VerbsMr {
    let mut mr = Box::new(Mr {
        c: VerbsMr::zeroed(),
        own: Handle {
            context: own.context.clone(),
            handle: info.handle,
        },
    });
    // SAFETY: set when the PD was made.
    mr.c.mr.context = unsafe { field!(pd, IbvPd, context, *mut IbvContext).read() };
    mr.c.mr.pd = pd;
    mr.c.mr.length = length;
    mr.c.mr.handle = info.handle;
    mr.c.mr.lkey = info.lkey;
    mr.c.mr.rkey = info.rkey;
    mr.c.mr_type = kind;
    mr.c.access = access;
    mr.give()
}

pub(crate) unsafe extern "C" fn alloc_null_mr(pd: *mut IbvPd) -> *mut VerbsMr {
    edge::object(|| {
        // SAFETY: a live PD of ours.
        let own = unsafe { Pd::own(pd) };
        let mut info = own.context.alloc_null_mr(own.handle)?;
        // It is never a remote key.
        info.rkey = 0;
        Ok(whole(own, pd, &info, usize::MAX, mr_type::NO_ADDRESS, 0))
    })
}

pub(crate) unsafe extern "C" fn reg_dmabuf_mr(
    pd: *mut IbvPd,
    offset: u64,
    length: usize,
    iova: u64,
    fd: c_int,
    access: c_int,
) -> *mut VerbsMr {
    edge::object(|| {
        // SAFETY: a live PD of ours.
        let own = unsafe { Pd::own(pd) };
        let info = own.context.reg_dmabuf_mr(
            own.handle,
            fd,
            offset,
            length as u64,
            iova,
            access as u32,
        )?;
        Ok(whole(own, pd, &info, length, mr_type::DMABUF, access))
    })
}

pub(crate) unsafe extern "C" fn advise_mr(
    pd: *mut IbvPd,
    advice: u32,
    flags: u32,
    list: *const Sge,
    count: u32,
) -> c_int {
    edge::status(|| {
        if list.is_null() && count != 0 {
            return Err(Errno::EINVAL);
        }
        // SAFETY: a live PD of ours.
        let own = unsafe { Pd::own(pd) };
        let list = if count == 0 {
            &[]
        } else {
            // SAFETY: the program's array of `count` elements, which it leaves alone during the call.
            unsafe { core::slice::from_raw_parts(list, count as usize) }
        };
        own.context.advise_mr(own.handle, advice, flags, list)
    })
}

pub(crate) unsafe extern "C" fn dereg_mr(mr: *mut VerbsMr) -> c_int {
    edge::status(|| {
        // SAFETY: a live MR of ours.
        let own = unsafe { Mr::own(mr) };
        own.context.dereg_mr(own.handle)?;
        // SAFETY: the program gives the MR up.
        unsafe { Mr::retake(mr) };
        Ok(())
    })
}

pub(crate) unsafe extern "C" fn create_ah(pd: *mut IbvPd, attr: *const AhAttr) -> *mut IbvAh {
    edge::object(|| {
        if attr.is_null() {
            return Err(Errno::EINVAL);
        }
        // SAFETY: a live PD of ours.
        let own = unsafe { Pd::own(pd) };
        // SAFETY: the program's attributes, as C.
        let attr = unsafe { attr.read() };
        let handle = own.context.create_ah(own.handle, &attr)?;
        let mut ah = Box::new(Ah {
            c: IbvAh::zeroed(),
            own: Handle {
                context: own.context.clone(),
                handle,
            },
        });
        ah.c.handle = handle;
        Ok(ah.give())
    })
}

pub(crate) unsafe extern "C" fn destroy_ah(ah: *mut IbvAh) -> c_int {
    edge::status(|| {
        // SAFETY: a live AH of ours.
        let own = unsafe { Ah::own(ah) };
        own.context.destroy_ah(own.handle)?;
        // SAFETY: the program gives the AH up.
        unsafe { Ah::retake(ah) };
        Ok(())
    })
}
