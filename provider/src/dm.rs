//! Ops of device memory.

use crate::abi::{IbvAllocDmAttr, IbvContext, IbvDm, IbvPd, Plain, VerbsMr, mr_type};
use crate::memory::{Mr, Pd};
use crate::object::{Handle, Object, field};
use crate::{context, edge};
use core::ffi::{c_int, c_void};
use gaudi_verbs::{Context, DmInfo, Errno};
use std::sync::Arc;

/// Our part of device memory.
pub(crate) struct DmOwn {
    context: Arc<Context>,
    info: DmInfo,
}

type Dm = Object<IbvDm, DmOwn>;

/// `IBV_DM_MASK_HANDLE`
const HAS_HANDLE: u32 = 1;

pub(crate) unsafe extern "C" fn alloc_dm(
    ctx: *mut IbvContext,
    attr: *const IbvAllocDmAttr,
) -> *mut IbvDm {
    edge::object(|| {
        if attr.is_null() {
            return Err(Errno::EINVAL);
        }
        // SAFETY: the program's attributes.
        let attr = unsafe { &*attr };
        if attr.comp_mask != 0 {
            return Err(Errno::EINVAL);
        }
        // SAFETY: a live context of ours.
        let engine = unsafe { context::own(ctx) }.context.clone();
        let info = engine.alloc_dm(attr.length as u64, attr.log_align_req)?;
        let mut dm = Box::new(Dm {
            c: IbvDm::zeroed(),
            own: DmOwn {
                context: engine,
                info,
            },
        });
        dm.c.context = ctx;
        dm.c.memcpy_to_dm = memcpy_to_dm as *const () as usize;
        dm.c.memcpy_from_dm = memcpy_from_dm as *const () as usize;
        dm.c.comp_mask = HAS_HANDLE;
        dm.c.handle = info.handle;
        Ok(dm.give())
    })
}

pub(crate) unsafe extern "C" fn free_dm(dm: *mut IbvDm) -> c_int {
    edge::status(|| {
        // SAFETY: live device memory of ours.
        let own = unsafe { Dm::own(dm) };
        own.context.free_dm(&own.info)?;
        // SAFETY: the program gives it up.
        unsafe { Dm::retake(dm) };
        Ok(())
    })
}

unsafe extern "C" fn memcpy_to_dm(
    dm: *mut IbvDm,
    offset: u64,
    host: *const c_void,
    length: usize,
) -> c_int {
    edge::status(|| {
        // SAFETY: live device memory of ours.
        let own = unsafe { Dm::own(dm) };
        own.context
            .copy_dm(&own.info, offset, host.addr() as u64, length as u64, true)
    })
}

unsafe extern "C" fn memcpy_from_dm(
    host: *mut c_void,
    dm: *mut IbvDm,
    offset: u64,
    length: usize,
) -> c_int {
    edge::status(|| {
        // SAFETY: live device memory of ours.
        let own = unsafe { Dm::own(dm) };
        own.context
            .copy_dm(&own.info, offset, host.addr() as u64, length as u64, false)
    })
}

pub(crate) unsafe extern "C" fn reg_dm_mr(
    pd: *mut IbvPd,
    dm: *mut IbvDm,
    offset: u64,
    length: usize,
    access: u32,
) -> *mut VerbsMr {
    edge::object(|| {
        // SAFETY: live device memory of ours.
        let memory = unsafe { Dm::own(dm) };
        // SAFETY: a live PD of ours.
        let own = unsafe { Pd::own(pd) };
        if !Arc::ptr_eq(&own.context, &memory.context) {
            return Err(Errno::EINVAL);
        }
        let info =
            own.context
                .reg_dm_mr(own.handle, &memory.info, offset, length as u64, access)?;
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
        mr.c.mr_type = mr_type::NO_ADDRESS;
        mr.c.access = access as c_int;
        Ok(mr.give())
    })
}
