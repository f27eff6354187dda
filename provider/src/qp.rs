//! Ops of queue pairs.

use crate::abi::{
    IbvContext, IbvCq, IbvPd, IbvQp, IbvQpEx, IbvQpInitAttr, IbvQpInitAttrEx, Plain, VerbsQp,
    qp_init, qpt,
};
use crate::memory::Pd;
use crate::object::{Object, field, wait_acknowledged};
use crate::wr::{self, Builder};
use crate::xrc::Xrcd;
use crate::{context, cq, edge, srq};
use core::ffi::{c_int, c_void};
use core::ptr::null_mut;
use gaudi_verbs::{Context, Errno, QpAttr, QpInit, Result};
use std::sync::Arc;

/// Our part of a QP.
pub(crate) struct QpOwn {
    pub(crate) context: Arc<Context>,
    pub(crate) handle: u32,
    pub(crate) builder: Builder,
    sq_sig_all: bool,
    /// Requests name address handles.
    pub(crate) datagrams: bool,
}

impl QpOwn {
    pub(crate) fn new(context: Arc<Context>, handle: u32, sq_sig_all: bool) -> QpOwn {
        QpOwn {
            context,
            handle,
            builder: Builder::default(),
            sq_sig_all,
            datagrams: false,
        }
    }
}

/// `verbs_qp.comp_mask`: the QP has the functions of an extended one.
const VERBS_QP_EX: u32 = 1 << 1;

/// "No such object" where the verbs layer expects a handle.
const NONE: u32 = u32::MAX;

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
        if pd.is_null() {
            return Err(Errno::EINVAL);
        }
        // SAFETY: the library fills in a PD's context right after it was made, and it never changes.
        let ctx = unsafe { field!(pd, IbvPd, context, *mut IbvContext).read() };
        create(ctx, pd, core::ptr::null_mut(), attr)
    })
}

pub(crate) unsafe extern "C" fn create_qp_ex(
    ctx: *mut IbvContext,
    attr: *mut IbvQpInitAttrEx,
) -> *mut IbvQp {
    edge::object(|| {
        if attr.is_null() {
            return Err(Errno::EINVAL);
        }
        // SAFETY: as for `create_qp`.
        let ex = unsafe { &mut *attr };
        const KNOWN: u32 =
            qp_init::PD | qp_init::XRCD | qp_init::CREATE_FLAGS | qp_init::SEND_OPS_FLAGS;
        if ex.comp_mask & !KNOWN != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let by_calls = ex.comp_mask & qp_init::SEND_OPS_FLAGS != 0;
        if by_calls && ex.send_ops_flags & !wr::SUPPORTED != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        if ex.comp_mask & qp_init::CREATE_FLAGS != 0 && ex.create_flags != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let given = |bit| ex.comp_mask & bit != 0;
        let pd = if given(qp_init::PD) {
            ex.pd
        } else {
            null_mut()
        };
        let xrcd = if given(qp_init::XRCD) {
            ex.xrcd
        } else {
            null_mut()
        };
        let mut plain = IbvQpInitAttr {
            qp_context: ex.qp_context,
            send_cq: ex.send_cq,
            recv_cq: ex.recv_cq,
            srq: ex.srq,
            cap: ex.cap,
            qp_type: ex.qp_type,
            sq_sig_all: ex.sq_sig_all,
        };
        let qp = create(ctx, pd, xrcd, &mut plain)?;
        ex.cap = plain.cap;
        if by_calls {
            // SAFETY: a live context of ours.
            let layout = unsafe { context::own(ctx) }.library.layout;
            let functions = field!(qp, IbvQpEx, ops, [usize; 22]);
            // SAFETY: inside our allocation, which nobody else knows yet; where this library's struct is shorter, `comp_mask` follows.
            unsafe { functions.write(wr::functions(ex.send_ops_flags)) };
            let mask = qp.wrapping_byte_add(layout.qp_comp_mask).cast::<u32>();
            // SAFETY: inside our allocation: this library's `verbs_qp.comp_mask`.
            unsafe { mask.write(VERBS_QP_EX) };
        }
        Ok(qp)
    })
}

/// An object that a QP may or must name: its handle, if it is of the same context.
fn named<T>(
    place: *mut T,
    needed: bool,
    engine: &Arc<Context>,
    own: impl FnOnce(*mut T) -> (*const Context, u32),
) -> Result<Option<u32>> {
    if place.is_null() {
        return if needed { Err(Errno::EINVAL) } else { Ok(None) };
    }
    let (context, handle) = own(place);
    if context == Arc::as_ptr(engine) {
        Ok(Some(handle))
    } else {
        Err(Errno::EINVAL)
    }
}

fn create(
    ctx: *mut IbvContext,
    pd: *mut IbvPd,
    xrcd: *mut c_void,
    attr: &mut IbvQpInitAttr,
) -> Result<*mut IbvQp> {
    // SAFETY: a live context of ours.
    let engine = unsafe { context::own(ctx) }.context.clone();
    let target = attr.qp_type == qpt::XRC_TGT;
    let domain = named(pd, !target, &engine, |pd| {
        // SAFETY: a live PD of ours.
        let own = unsafe { Pd::own(pd) };
        (Arc::as_ptr(&own.context), own.handle)
    })?;
    let cq = |cq: *mut IbvCq, needed| {
        named(cq, needed, &engine, |cq| {
            // SAFETY: a live CQ of ours.
            let own = unsafe { cq::own(cq) };
            (Arc::as_ptr(&own.context), own.handle)
        })
    };
    let send_cq = cq(attr.send_cq, !target)?;
    let recv_cq = cq(attr.recv_cq, !target && attr.qp_type != qpt::XRC_INI)?;
    let srq = named(attr.srq.cast(), false, &engine, |srq| {
        // SAFETY: a live SRQ of ours.
        let own = unsafe { srq::own(srq) };
        (Arc::as_ptr(&own.context), own.handle)
    })?;
    let xrcd = named(xrcd.cast(), target, &engine, |xrcd| {
        // SAFETY: a live XRC domain of ours.
        let own = unsafe { Xrcd::own(xrcd) };
        (Arc::as_ptr(&own.context), own.handle)
    })?;
    let sq_sig_all = attr.sq_sig_all != 0;
    let mut own = QpOwn::new(engine.clone(), 0, sq_sig_all);
    own.datagrams = attr.qp_type == qpt::UD;
    // Asynchronous events carry the address of the `ibv_qp`, so it has to exist first. Zero is the initialised value of the
    // mutex and the condition, and the state RESET.
    let mut qp = Box::new(Qp {
        c: VerbsQp::zeroed(),
        own,
    });
    let init = QpInit {
        pd: domain.unwrap_or(NONE),
        send_cq: send_cq.unwrap_or(NONE),
        recv_cq: recv_cq.unwrap_or(NONE),
        srq,
        xrcd,
        cap: attr.cap,
        qp_type: attr.qp_type,
        sq_sig_all,
        cookie: (&raw const *qp).addr() as u64,
    };
    let info = engine.create_qp(&init)?;
    qp.own.handle = info.handle;
    let base = &mut qp.c.qp_ex.qp_base;
    base.context = ctx;
    base.qp_context = attr.qp_context;
    base.pd = pd;
    base.send_cq = attr.send_cq;
    base.recv_cq = attr.recv_cq;
    base.srq = attr.srq;
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

/// # Safety
/// As the calls below: a live QP of ours, and a readable `union ibv_gid` or null.
unsafe fn group(
    qp: *mut IbvQp,
    gid: *const [u8; 16],
    change: impl FnOnce(&Context, u32, [u8; 16]) -> Result<()>,
) -> c_int {
    edge::status(|| {
        if gid.is_null() {
            return Err(Errno::EINVAL);
        }
        // SAFETY: a live QP of ours.
        let own = unsafe { own(qp) };
        // SAFETY: the program's GID.
        change(&own.context, own.handle, unsafe { gid.read() })
    })
}

/// The LID means nothing on Ethernet.
pub(crate) unsafe extern "C" fn attach_mcast(
    qp: *mut IbvQp,
    gid: *const [u8; 16],
    _: u16,
) -> c_int {
    // SAFETY: the caller's QP and GID, as libibverbs hands them on.
    unsafe { group(qp, gid, Context::attach_mcast) }
}

pub(crate) unsafe extern "C" fn detach_mcast(
    qp: *mut IbvQp,
    gid: *const [u8; 16],
    _: u16,
) -> c_int {
    // SAFETY: as for `attach_mcast`.
    unsafe { group(qp, gid, Context::detach_mcast) }
}

pub(crate) unsafe extern "C" fn destroy_qp(qp: *mut IbvQp) -> c_int {
    edge::status(|| {
        // SAFETY: a live QP of ours.
        let own = unsafe { own(qp) };
        let taken = own.context.destroy_qp(own.handle, qp.addr() as u64)?;
        let counters = [(field!(qp, IbvQp, events_completed, u32).cast_const(), taken)];
        let mutex = field!(qp, IbvQp, mutex, libc::pthread_mutex_t);
        let cond = field!(qp, IbvQp, cond, libc::pthread_cond_t);
        // SAFETY: fields of this live QP; all-zero is an initialised mutex and condition.
        unsafe { wait_acknowledged(mutex, cond, counters) };
        // SAFETY: the program gives the QP up.
        unsafe { Qp::retake(qp.cast()) };
        Ok(())
    })
}
