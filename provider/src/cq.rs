//! Ops of completion queues. poll_cq and req_notify_cq are called inline from the program.

use crate::abi::{IbvCompChannel, IbvContext, IbvCq, IbvCqEx, Plain};
use crate::object::{Delivered, Object, field, wait_acknowledged};
use crate::{context, edge};
use core::ffi::{c_int, c_void};
use gaudi_verbs::{Context, Errno, Wc};
use std::sync::Arc;

/// Our part of a CQ.
pub(crate) struct CqOwn {
    pub(crate) context: Arc<Context>,
    pub(crate) handle: u32,
    comp_delivered: Delivered,
    pub(crate) async_delivered: Delivered,
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
        let channel_fd = if channel.is_null() {
            None
        } else {
            // SAFETY: a live channel; its descriptor never changes.
            Some(unsafe { field!(channel, IbvCompChannel, fd, c_int).read() })
        };
        // SAFETY: a live context of ours.
        let engine = unsafe { context::own(ctx) }.context.clone();
        let own = CqOwn {
            context: engine.clone(),
            handle: 0,
            comp_delivered: Delivered::default(),
            async_delivered: Delivered::default(),
        };
        // Events carry the address of the `ibv_cq`, so it has to exist first. The library initialises mutex, condition and
        // counters and fills in context, channel and cq_context.
        let mut cq = Box::new(Cq {
            c: IbvCqEx::zeroed(),
            own,
        });
        let cookie = (&raw const *cq).addr() as u64;
        let info = engine.create_cq(cqe, channel_fd, comp_vector, cookie)?;
        cq.own.handle = info.handle;
        cq.c.cq.context = ctx;
        cq.c.cq.handle = info.handle;
        cq.c.cq.cqe = c_int::try_from(info.cqe).unwrap_or(c_int::MAX);
        Ok(cq.give().cast())
    })
}

/// Extended CQs are not offered; programs fall back to plain ones.
pub(crate) unsafe extern "C" fn create_cq_ex(
    _ctx: *mut IbvContext,
    _attr: *mut c_void,
) -> *mut IbvCqEx {
    edge::object(|| Err(Errno::EOPNOTSUPP))
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

/// Runs once for each event that the library took from a completion channel.
pub(crate) unsafe extern "C" fn cq_event(cq: *mut IbvCq) {
    edge::quiet(|| {
        // SAFETY: the cookie of a CQ of ours; destroy_cq removes its events from the channel first.
        let own = unsafe { own(cq) };
        own.comp_delivered.add();
    });
}

pub(crate) unsafe extern "C" fn destroy_cq(cq: *mut IbvCq) -> c_int {
    edge::status(|| {
        // SAFETY: a live CQ of ours.
        let own = unsafe { own(cq) };
        own.context.destroy_cq(own.handle)?;
        let counters = [
            (
                field!(cq, IbvCq, comp_events_completed, u32).cast_const(),
                &own.comp_delivered,
            ),
            (
                field!(cq, IbvCq, async_events_completed, u32).cast_const(),
                &own.async_delivered,
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
