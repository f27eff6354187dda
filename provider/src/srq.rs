//! Ops of shared receive queues.

use crate::abi::{IbvContext, IbvPd, IbvRecvWr, IbvSrq, Plain, VerbsSrq, srq_init, srq_type};
use crate::abi::{IbvSrqInitAttr, IbvSrqInitAttrEx};
use crate::memory::Pd;
use crate::object::{Object, field, wait_acknowledged};
use crate::xrc::Xrcd;
use crate::{context, cq, edge, post};
use core::ffi::c_int;
use gaudi_verbs::{Context, Errno, Result, SrqAttr, SrqInit};
use std::sync::Arc;

/// Our part of an SRQ.
pub(crate) struct SrqOwn {
    pub(crate) context: Arc<Context>,
    pub(crate) handle: u32,
    pub(crate) number: u32,
}

pub(crate) type Srq = Object<VerbsSrq, SrqOwn>;

/// # Safety
/// `srq` is a live SRQ of ours.
pub(crate) unsafe fn own<'a>(srq: *mut IbvSrq) -> &'a SrqOwn {
    // SAFETY: passed on.
    unsafe { Srq::own(srq.cast()) }
}

pub(crate) unsafe extern "C" fn create_srq(
    pd: *mut IbvPd,
    attr: *mut IbvSrqInitAttr,
) -> *mut IbvSrq {
    edge::object(|| {
        if pd.is_null() || attr.is_null() {
            return Err(Errno::EINVAL);
        }
        // SAFETY: the program's attributes; it leaves them alone during the call.
        let attr = unsafe { &mut *attr };
        create(pd, &mut attr.attr, None)
    })
}

pub(crate) unsafe extern "C" fn create_srq_ex(
    ctx: *mut IbvContext,
    attr: *mut IbvSrqInitAttrEx,
) -> *mut IbvSrq {
    edge::object(|| {
        if attr.is_null() {
            return Err(Errno::EINVAL);
        }
        // SAFETY: as for `create_srq`.
        let attr = unsafe { &mut *attr };
        let has = |bit| attr.comp_mask & bit != 0;
        let kind = if has(srq_init::TYPE) {
            attr.srq_type
        } else {
            srq_type::BASIC
        };
        if attr.comp_mask & !srq_init::KNOWN != 0 || kind > srq_type::XRC {
            return Err(Errno::EOPNOTSUPP);
        }
        if !has(srq_init::PD) || attr.pd.is_null() {
            return Err(Errno::EINVAL);
        }
        let xrc = if kind == srq_type::XRC {
            if !has(srq_init::XRCD)
                || !has(srq_init::CQ)
                || attr.xrcd.is_null()
                || attr.cq.is_null()
            {
                return Err(Errno::EINVAL);
            }
            // SAFETY: a live domain of ours.
            let domain = unsafe { Xrcd::own(attr.xrcd.cast()) };
            // SAFETY: a live CQ of ours.
            let cq = unsafe { cq::own(attr.cq) };
            // SAFETY: a live context of ours.
            let engine = &unsafe { context::own(ctx) }.context;
            if !Arc::ptr_eq(&domain.context, engine) || !Arc::ptr_eq(&cq.context, engine) {
                return Err(Errno::EINVAL);
            }
            Some(Xrc {
                domain: domain.handle,
                cq: cq.handle,
                c_domain: attr.xrcd.addr(),
                c_cq: attr.cq.addr(),
            })
        } else {
            None
        };
        let srq = create(attr.pd, &mut attr.attr, xrc)?;
        // The library fills these in for `create_srq` alone. Zero is the initialised mutex and condition.
        // SAFETY: nobody else knows the object yet.
        unsafe { field!(srq, IbvSrq, srq_context, usize).write(attr.srq_context.addr()) };
        Ok(srq)
    })
}

/// Handles and addresses of what an XRC SRQ belongs to.
struct Xrc {
    domain: u32,
    cq: u32,
    c_domain: usize,
    c_cq: usize,
}

fn create(pd: *mut IbvPd, attr: &mut SrqAttr, xrc: Option<Xrc>) -> Result<*mut IbvSrq> {
    // SAFETY: a live PD of ours.
    let domain = unsafe { Pd::own(pd) };
    // SAFETY: the library fills in a PD's context right after it was made, and it never changes.
    let ctx = unsafe { field!(pd, IbvPd, context, *mut IbvContext).read() };
    let mut srq = Box::new(Srq {
        c: VerbsSrq::zeroed(),
        own: SrqOwn {
            context: domain.context.clone(),
            handle: 0,
            number: 0,
        },
    });
    let info = domain.context.create_srq(&SrqInit {
        pd: domain.handle,
        max_wr: attr.max_wr,
        max_sge: attr.max_sge,
        xrc: xrc.as_ref().map(|x| (x.domain, x.cq)),
        // Asynchronous events carry the address of the `ibv_srq`.
        cookie: (&raw const *srq).addr() as u64,
    })?;
    srq.own.handle = info.handle;
    srq.own.number = info.number;
    srq.c.srq.context = ctx;
    srq.c.srq.pd = pd;
    srq.c.srq.handle = info.handle;
    srq.c.srq_num = info.number;
    if let Some(x) = xrc {
        srq.c.srq_type = srq_type::XRC;
        srq.c.xrcd = x.c_domain;
        srq.c.cq = x.c_cq;
    }
    attr.max_wr = info.max_wr;
    attr.max_sge = info.max_sge;
    Ok(srq.give().cast())
}

pub(crate) unsafe extern "C" fn modify_srq(
    srq: *mut IbvSrq,
    attr: *const SrqAttr,
    mask: c_int,
) -> c_int {
    const MAX_WR: c_int = 1;
    const LIMIT: c_int = 2;
    edge::status(|| {
        if attr.is_null() || mask & !(MAX_WR | LIMIT) != 0 {
            return Err(Errno::EINVAL);
        }
        // SAFETY: a live SRQ of ours.
        let own = unsafe { own(srq) };
        // SAFETY: the program's attributes, as C.
        let attr = unsafe { attr.read() };
        let max_wr = (mask & MAX_WR != 0).then_some(attr.max_wr);
        let limit = (mask & LIMIT != 0).then_some(attr.srq_limit);
        own.context.modify_srq(own.handle, max_wr, limit)
    })
}

pub(crate) unsafe extern "C" fn query_srq(srq: *mut IbvSrq, attr: *mut SrqAttr) -> c_int {
    edge::status(|| {
        if attr.is_null() {
            return Err(Errno::EINVAL);
        }
        // SAFETY: a live SRQ of ours.
        let own = unsafe { own(srq) };
        let answer = own.context.query_srq(own.handle)?;
        // SAFETY: the program's buffer, as C.
        unsafe { attr.write(answer) };
        Ok(())
    })
}

pub(crate) unsafe extern "C" fn get_srq_num(srq: *mut IbvSrq, number: *mut u32) -> c_int {
    edge::status(|| {
        if number.is_null() {
            return Err(Errno::EINVAL);
        }
        // SAFETY: a live SRQ of ours.
        let own = unsafe { own(srq) };
        // SAFETY: the program's place for a number.
        unsafe { number.write(own.number) };
        Ok(())
    })
}

pub(crate) unsafe extern "C" fn destroy_srq(srq: *mut IbvSrq) -> c_int {
    edge::status(|| {
        // SAFETY: a live SRQ of ours.
        let own = unsafe { own(srq) };
        let taken = own.context.destroy_srq(own.handle, srq.addr() as u64)?;
        let counters = [(
            field!(srq, IbvSrq, events_completed, u32).cast_const(),
            taken,
        )];
        let mutex = field!(srq, IbvSrq, mutex, libc::pthread_mutex_t);
        let cond = field!(srq, IbvSrq, cond, libc::pthread_cond_t);
        // SAFETY: fields of this live SRQ; all-zero is an initialised mutex and condition.
        unsafe { wait_acknowledged(mutex, cond, counters) };
        // SAFETY: the program gives the SRQ up.
        unsafe { Srq::retake(srq.cast()) };
        Ok(())
    })
}

pub(crate) unsafe extern "C" fn post_srq_recv(
    srq: *mut IbvSrq,
    list: *mut IbvRecvWr,
    bad: *mut *mut IbvRecvWr,
) -> c_int {
    edge::status(|| {
        // SAFETY: a live SRQ of ours.
        let own = unsafe { own(srq) };
        // SAFETY: list and place as ibv_post_srq_recv(3) demands them.
        unsafe {
            post::receives(&own.context, list, bad, |guard, wr_id, sges| {
                guard.post_srq_recv(own.handle, wr_id, sges)
            })
        }
    })
}
