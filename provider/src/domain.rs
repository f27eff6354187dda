//! Ops of thread domains and parent domains. A parent domain is its PD once more, for objects whose program promises something about
//! threads or memory; neither promise is needed here, since no lock is left out and no buffer of an object is the program's.

use crate::abi::{IbvContext, IbvParentDomainInitAttr, IbvPd, IbvTd, Plain};
use crate::memory::{Parent, Pd, PdOwn};
use crate::object::Object;
use crate::{context, edge};
use core::ffi::c_int;
use core::sync::atomic::{AtomicU32, Ordering::*};
use gaudi_verbs::Errno;
use std::sync::Arc;

/// Our part of a thread domain.
pub(crate) struct TdOwn {
    users: AtomicU32,
}

pub(crate) type Td = Object<IbvTd, TdOwn>;

/// `enum ibv_parent_domain_init_attr_mask`.
const ALLOCATORS: u32 = 1;
const PD_CONTEXT: u32 = 2;

pub(crate) unsafe extern "C" fn alloc_td(ctx: *mut IbvContext, attr: *const u32) -> *mut IbvTd {
    edge::object(|| {
        // SAFETY: `struct ibv_td_init_attr` {comp_mask}.
        if !attr.is_null() && unsafe { attr.read() } != 0 {
            return Err(Errno::EINVAL);
        }
        let mut td = Box::new(Td {
            c: IbvTd::zeroed(),
            own: TdOwn {
                users: AtomicU32::new(0),
            },
        });
        td.c.context = ctx;
        Ok(td.give())
    })
}

pub(crate) unsafe extern "C" fn dealloc_td(td: *mut IbvTd) -> c_int {
    edge::status(|| {
        // SAFETY: a live thread domain of ours.
        if unsafe { Td::own(td) }.users.load(Acquire) != 0 {
            return Err(Errno::EBUSY);
        }
        // SAFETY: the program gives it up.
        unsafe { Td::retake(td) };
        Ok(())
    })
}

pub(crate) unsafe extern "C" fn alloc_parent_domain(
    ctx: *mut IbvContext,
    attr: *const IbvParentDomainInitAttr,
) -> *mut IbvPd {
    edge::object(|| {
        if attr.is_null() {
            return Err(Errno::EINVAL);
        }
        // SAFETY: the program's attributes; it leaves them alone during the call.
        let attr = unsafe { &*attr };
        let allocators = attr.comp_mask & ALLOCATORS != 0;
        // What a newer release may ask for is not wrong, only not there.
        if attr.comp_mask & !(ALLOCATORS | PD_CONTEXT) != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        if attr.pd.is_null() || (allocators && (attr.alloc == 0 || attr.free == 0)) {
            return Err(Errno::EINVAL);
        }
        // SAFETY: a live PD of ours.
        let pd = unsafe { Pd::own(attr.pd) };
        // SAFETY: a live context of ours.
        let engine = &unsafe { context::own(ctx) }.context;
        // A parent domain cannot be the protection domain of another one (ibv_alloc_parent_domain(3)).
        if pd.parent.is_some() || !Arc::ptr_eq(engine, &pd.context) {
            return Err(Errno::EINVAL);
        }
        engine.share_pd(pd.handle, true)?;
        if !attr.td.is_null() {
            // SAFETY: a live thread domain of ours.
            unsafe { Td::own(attr.td) }.users.fetch_add(1, AcqRel);
        }
        let mut parent = Box::new(Pd {
            c: IbvPd::zeroed(),
            own: PdOwn {
                context: pd.context.clone(),
                handle: pd.handle,
                parent: Some(Parent { td: attr.td.addr() }),
            },
        });
        parent.c.context = ctx;
        parent.c.handle = pd.handle;
        Ok(parent.give())
    })
}

/// The part of dealloc_pd that concerns parent domains.
pub(crate) fn release(own: &PdOwn, parent: &Parent) -> Result<(), Errno> {
    own.context.share_pd(own.handle, false)?;
    if parent.td != 0 {
        // SAFETY: it cannot have been freed while the parent domain counted as its user.
        let td = unsafe { Td::own(parent.td as *mut IbvTd) };
        td.users.fetch_sub(1, AcqRel);
    }
    Ok(())
}
