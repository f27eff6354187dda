//! Ops of completion queues. poll_cq and req_notify_cq are called inline from the program.

use crate::abi::{
    IbvCompChannel, IbvContext, IbvCq, IbvCqEx, IbvCqInitAttrEx, IbvModifyCqAttr, Plain,
};
use crate::cqex::{self, Poll};
use crate::memory::Pd;
use crate::object::{Object, field, wait_acknowledged};
use crate::{context, edge};
use core::ffi::c_int;
use gaudi_verbs::{Context, CqOptions, Errno, Result, Wc};
use std::sync::Arc;

/// Our part of a CQ.
pub(crate) struct CqOwn {
    pub(crate) context: Arc<Context>,
    pub(crate) handle: u32,
    pub(crate) poll: Poll,
}

/// As large as an extended CQ, since the library casts between the two.
pub(crate) type Cq = Object<IbvCqEx, CqOwn>;

/// # Safety
/// `cq` is a live CQ of ours.
pub(crate) unsafe fn own<'a>(cq: *mut IbvCq) -> &'a CqOwn {
    // SAFETY: passed on.
    unsafe { Cq::own(cq.cast()) }
}

pub(crate) unsafe extern "C" fn create_cq(
    ctx: *mut IbvContext,
    cqe: c_int,
    channel: *mut IbvCompChannel,
    comp_vector: c_int,
) -> *mut IbvCq {
    edge::object(|| {
        let cqe = u32::try_from(cqe).map_err(|_| Errno::EINVAL)?;
        let comp_vector = u32::try_from(comp_vector).map_err(|_| Errno::EINVAL)?;
        let cq = create(
            ctx,
            cqe,
            channel,
            comp_vector,
            CqOptions::default(),
            Poll::default(),
        )?;
        Ok(cq.give().cast())
    })
}

fn create(
    ctx: *mut IbvContext,
    cqe: u32,
    channel: *mut IbvCompChannel,
    comp_vector: u32,
    options: CqOptions,
    poll: Poll,
) -> Result<Box<Cq>> {
    let channel_fd = if channel.is_null() {
        None
    } else {
        // SAFETY: a live channel; its descriptor never changes.
        Some(unsafe { field!(channel, IbvCompChannel, fd, c_int).read() })
    };
    // SAFETY: a live context of ours.
    let engine = unsafe { context::own(ctx) }.context.clone();
    // Events carry the address of the `ibv_cq`, so it has to exist first. The library initialises mutex, condition and
    // counters and fills in context, channel and cq_context.
    let mut cq = Box::new(Cq {
        c: IbvCqEx::zeroed(),
        own: CqOwn {
            context: engine.clone(),
            handle: 0,
            poll,
        },
    });
    let cookie = (&raw const *cq).addr() as u64;
    let info = engine.create_cq_ex(cqe, channel_fd, comp_vector, cookie, options)?;
    cq.own.handle = info.handle;
    cq.c.cq.context = ctx;
    cq.c.cq.handle = info.handle;
    cq.c.cq.cqe = c_int::try_from(info.cqe).unwrap_or(c_int::MAX);
    Ok(cq)
}

/// `enum ibv_cq_init_attr_mask`.
mod init {
    pub(super) const FLAGS: u32 = 1;
    pub(super) const PD: u32 = 2;
}

/// `enum ibv_create_cq_attr_flags`.
mod create_flag {
    pub(super) const SINGLE_THREADED: u32 = 1;
    pub(super) const IGNORE_OVERRUN: u32 = 2;
}

pub(crate) unsafe extern "C" fn create_cq_ex(
    ctx: *mut IbvContext,
    attr: *const IbvCqInitAttrEx,
) -> *mut IbvCqEx {
    edge::object(|| {
        if attr.is_null() {
            return Err(Errno::EINVAL);
        }
        // SAFETY: the program's attributes; it leaves them alone during the call.
        let attr = unsafe { &*attr };
        let flags = if attr.comp_mask & init::FLAGS != 0 {
            attr.flags
        } else {
            0
        };
        if attr.comp_mask & !(init::FLAGS | init::PD) != 0
            || flags & !(create_flag::SINGLE_THREADED | create_flag::IGNORE_OVERRUN) != 0
            || attr.wc_flags & !cqex::SUPPORTED != 0
        {
            return Err(Errno::EOPNOTSUPP);
        }
        if attr.comp_mask & init::PD != 0 {
            if attr.parent_domain.is_null() {
                return Err(Errno::EINVAL);
            }
            // SAFETY: a live PD of ours.
            if unsafe { Pd::own(attr.parent_domain) }.parent.is_none() {
                return Err(Errno::EINVAL);
            }
        }
        let options = cqex::options(attr.wc_flags, flags & create_flag::IGNORE_OVERRUN != 0);
        let poll = Poll::new(flags & create_flag::SINGLE_THREADED != 0);
        let mut cq = create(ctx, attr.cqe, attr.channel, attr.comp_vector, options, poll)?;
        cq.c.ops = cqex::functions(attr.wc_flags);
        Ok(cq.give())
    })
}

pub(crate) unsafe extern "C" fn modify_cq(cq: *mut IbvCq, attr: *const IbvModifyCqAttr) -> c_int {
    /// `IBV_CQ_ATTR_MODERATE`
    const MODERATE: u32 = 1;
    edge::status(|| {
        if attr.is_null() {
            return Err(Errno::EINVAL);
        }
        // SAFETY: the program's attributes.
        let attr = unsafe { &*attr };
        if attr.attr_mask != MODERATE {
            return Err(Errno::EINVAL);
        }
        // SAFETY: a live CQ of ours.
        let own = unsafe { own(cq) };
        own.context
            .moderate_cq(own.handle, attr.cq_count, attr.cq_period)
    })
}

pub(crate) unsafe extern "C" fn poll_cq(cq: *mut IbvCq, entries: c_int, wc: *mut Wc) -> c_int {
    edge::count(|| {
        let entries = usize::try_from(entries).map_err(|_| Errno::EINVAL)?;
        if entries == 0 {
            return Ok(0);
        }
        if wc.is_null() {
            return Err(Errno::EINVAL);
        }
        // SAFETY: a live CQ of ours.
        let own = unsafe { own(cq) };
        // SAFETY: the program's array of `entries` completions, as C; any bytes are a valid `Wc`.
        let out = unsafe { core::slice::from_raw_parts_mut(wc, entries) };
        own.context.poll_cq(own.handle, out)
    })
}

pub(crate) unsafe extern "C" fn req_notify_cq(cq: *mut IbvCq, solicited_only: c_int) -> c_int {
    edge::status(|| {
        // SAFETY: a live CQ of ours.
        let own = unsafe { own(cq) };
        own.context.req_notify_cq(own.handle, solicited_only != 0)
    })
}

pub(crate) unsafe extern "C" fn resize_cq(cq: *mut IbvCq, cqe: c_int) -> c_int {
    edge::status(|| {
        let cqe = u32::try_from(cqe).map_err(|_| Errno::EINVAL)?;
        // SAFETY: a live CQ of ours.
        let own = unsafe { own(cq) };
        let granted = own.context.resize_cq(own.handle, cqe)?;
        // SAFETY: only this op writes the field; programs read it between their calls.
        unsafe {
            field!(cq, IbvCq, cqe, c_int).write(c_int::try_from(granted).unwrap_or(c_int::MAX))
        };
        Ok(())
    })
}

pub(crate) unsafe extern "C" fn destroy_cq(cq: *mut IbvCq) -> c_int {
    edge::status(|| {
        // SAFETY: a live CQ of ours.
        let own = unsafe { own(cq) };
        let (events, asynchronous) = own.context.destroy_cq(own.handle)?;
        let counters = [
            (
                field!(cq, IbvCq, comp_events_completed, u32).cast_const(),
                events,
            ),
            (
                field!(cq, IbvCq, async_events_completed, u32).cast_const(),
                asynchronous,
            ),
        ];
        let mutex = field!(cq, IbvCq, mutex, libc::pthread_mutex_t);
        let cond = field!(cq, IbvCq, cond, libc::pthread_cond_t);
        // SAFETY: fields of this live CQ, initialised by the library when it was created.
        unsafe { wait_acknowledged(mutex, cond, counters) };
        // SAFETY: the program gives the CQ up.
        unsafe { Cq::retake(cq.cast()) };
        Ok(())
    })
}
