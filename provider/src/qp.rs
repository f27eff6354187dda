//! Ops of queue pairs.

use crate::abi::{
    IbvContext, IbvCq, IbvPd, IbvQp, IbvQpInitAttr, IbvQpInitAttrEx, Plain, VerbsQp, qp_init,
};
use crate::memory::Pd;
use crate::object::{Delivered, Object, field, wait_acknowledged};
use crate::{cq, edge};
use core::ffi::c_int;
use gaudi_verbs::{Context, Errno, QpAttr, QpInit, Result};
use std::sync::Arc;

/// Our part of a QP.
pub(crate) struct QpOwn {
    pub(crate) context: Arc<Context>,
    pub(crate) handle: u32,
    pub(crate) delivered: Delivered,
    sq_sig_all: bool,
}

pub(crate) type Qp = Object<VerbsQp, QpOwn>;

/// # Safety
/// `qp` is a live QP of ours.
pub(crate) unsafe fn own<'a>(qp: *mut IbvQp) -> &'a QpOwn {
    // SAFETY: passed on.
    unsafe { Qp::own(qp.cast()) }
}

pub(crate) unsafe extern "C" fn create_qp(pd: *mut IbvPd, attr: *mut IbvQpInitAttr) -> *mut IbvQp {
    edge::object(|| {
        if attr.is_null() {
            return Err(Errno::EINVAL);
        }
        // SAFETY: the program's attributes; it leaves them alone during the call.
        let attr = unsafe { &mut *attr };
        create(pd, attr)
    })
}

pub(crate) unsafe extern "C" fn create_qp_ex(
    _ctx: *mut IbvContext,
    attr: *mut IbvQpInitAttrEx,
) -> *mut IbvQp {
    edge::object(|| {
        if attr.is_null() {
            return Err(Errno::EINVAL);
        }
        // SAFETY: as for `create_qp`.
        let ex = unsafe { &mut *attr };
        if ex.comp_mask & !(qp_init::PD | qp_init::CREATE_FLAGS) != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        if ex.comp_mask & qp_init::CREATE_FLAGS != 0 && ex.create_flags != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        if ex.comp_mask & qp_init::PD == 0 {
            return Err(Errno::EINVAL);
        }
        let mut plain = IbvQpInitAttr {
            qp_context: ex.qp_context,
            send_cq: ex.send_cq,
            recv_cq: ex.recv_cq,
            srq: ex.srq,
            cap: ex.cap,
            qp_type: ex.qp_type,
            sq_sig_all: ex.sq_sig_all,
        };
        let qp = create(ex.pd, &mut plain)?;
        ex.cap = plain.cap;
        Ok(qp)
    })
}

fn create(pd: *mut IbvPd, attr: &mut IbvQpInitAttr) -> Result<*mut IbvQp> {
    if pd.is_null() || attr.send_cq.is_null() || attr.recv_cq.is_null() {
        return Err(Errno::EINVAL);
    }
    if !attr.srq.is_null() {
        return Err(Errno::EOPNOTSUPP);
    }
    // SAFETY: a live PD of ours.
    let domain = unsafe { Pd::own(pd) };
    // SAFETY: the library fills in a PD's context right after it was made, and it never changes.
    let ctx = unsafe { field!(pd, IbvPd, context, *mut IbvContext).read() };
    let cq = |cq: *mut IbvCq| {
        // SAFETY: a live CQ of the context whose op this is.
        let cq = unsafe { cq::own(cq) };
        if Arc::ptr_eq(&cq.context, &domain.context) {
            Ok(cq.handle)
        } else {
            Err(Errno::EINVAL)
        }
    };
    let (send_cq, recv_cq) = (cq(attr.send_cq)?, cq(attr.recv_cq)?);
    let sq_sig_all = attr.sq_sig_all != 0;
    let own = QpOwn {
        context: domain.context.clone(),
        handle: 0,
        delivered: Delivered::default(),
        sq_sig_all,
    };
    // Asynchronous events carry the address of the `ibv_qp`, so it has to exist first. Zero is the initialised value of the
    // mutex and the condition, and the state RESET.
    let mut qp = Box::new(Qp {
        c: VerbsQp::zeroed(),
        own,
    });
    let init = QpInit {
        pd: domain.handle,
        send_cq,
        recv_cq,
        cap: attr.cap,
        qp_type: attr.qp_type,
        sq_sig_all,
        cookie: (&raw const *qp).addr() as u64,
    };
    let info = domain.context.create_qp(&init)?;
    qp.own.handle = info.handle;
    let base = &mut qp.c.qp_ex.qp_base;
    base.context = ctx;
    base.qp_context = attr.qp_context;
    base.pd = pd;
    base.send_cq = attr.send_cq;
    base.recv_cq = attr.recv_cq;
    base.handle = info.handle;
    base.qp_num = info.qp_num;
    base.qp_type = attr.qp_type;
    attr.cap = info.cap;
    Ok(qp.give().cast())
}

pub(crate) unsafe extern "C" fn query_qp(
    qp: *mut IbvQp,
    attr: *mut QpAttr,
    _mask: c_int,
    init: *mut IbvQpInitAttr,
) -> c_int {
    edge::status(|| {
        if attr.is_null() || init.is_null() {
            return Err(Errno::EINVAL);
        }
        // SAFETY: a live QP of ours.
        let own = unsafe { own(qp) };
        let mut answer = own.context.query_qp(own.handle)?;
        answer.attr.cap = answer.cap;
        // SAFETY: the program's buffer, as C.
        unsafe { attr.write(answer.attr) };
        // SAFETY: fields that are set once, when the QP is created.
        let base = unsafe { field!(qp, IbvQp, context, [usize; 6]).read() };
        let [_, qp_context, _, send_cq, recv_cq, srq] = base;
        // SAFETY: as above.
        let qp_type = unsafe { field!(qp, IbvQp, qp_type, u32).read() };
        let answer = IbvQpInitAttr {
            qp_context: qp_context as *mut _,
            send_cq: send_cq as *mut _,
            recv_cq: recv_cq as *mut _,
            srq: srq as *mut _,
            cap: answer.cap,
            qp_type,
            sq_sig_all: own.sq_sig_all.into(),
        };
        // SAFETY: the program's buffer.
        unsafe { init.write(answer) };
        Ok(())
    })
}

pub(crate) unsafe extern "C" fn modify_qp(
    qp: *mut IbvQp,
    attr: *const QpAttr,
    mask: c_int,
) -> c_int {
    edge::status(|| {
        if attr.is_null() {
            return Err(Errno::EINVAL);
        }
        // SAFETY: a live QP of ours.
        let own = unsafe { own(qp) };
        // SAFETY: the program's attributes, as C.
        let attr = unsafe { attr.read() };
        let qp_num = own.context.modify_qp(own.handle, &attr, mask as u32)?;
        // The number is final once the port is known. The library keeps `state`.
        // SAFETY: only this op writes the field; a program that modifies a QP does not read it meanwhile.
        unsafe { field!(qp, IbvQp, qp_num, u32).write(qp_num) };
        Ok(())
    })
}

pub(crate) unsafe extern "C" fn destroy_qp(qp: *mut IbvQp) -> c_int {
    edge::status(|| {
        // SAFETY: a live QP of ours.
        let own = unsafe { own(qp) };
        own.context.destroy_qp(own.handle)?;
        let counters = [(
            field!(qp, IbvQp, events_completed, u32).cast_const(),
            &own.delivered,
        )];
        let mutex = field!(qp, IbvQp, mutex, libc::pthread_mutex_t);
        let cond = field!(qp, IbvQp, cond, libc::pthread_cond_t);
        // SAFETY: fields of this live QP; all-zero is an initialised mutex and condition.
        unsafe { wait_acknowledged(mutex, cond, counters) };
        // SAFETY: the program gives the QP up.
        unsafe { Qp::retake(qp.cast()) };
        Ok(())
    })
}
