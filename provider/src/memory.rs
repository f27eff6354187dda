//! Ops of protection domains, memory regions and address handles.

use crate::abi::{IbvAh, IbvContext, IbvPd, Plain, VerbsMr};
use crate::object::{Handle, Object};
use crate::{context, edge};
use core::ffi::{c_int, c_void};
use gaudi_verbs::{AhAttr, Errno};

pub(crate) type Pd = Object<IbvPd, Handle>;
type Mr = Object<VerbsMr, Handle>;
type Ah = Object<IbvAh, Handle>;

pub(crate) unsafe extern "C" fn alloc_pd(ctx: *mut IbvContext) -> *mut IbvPd {
    edge::object(|| {
        // SAFETY: a live context of ours.
        let engine = unsafe { context::own(ctx) }.context.clone();
        let handle = engine.alloc_pd()?;
        let mut pd = Box::new(Pd {
            c: IbvPd::zeroed(),
            own: Handle {
                context: engine,
                handle,
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
        own.context.dealloc_pd(own.handle)?;
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
