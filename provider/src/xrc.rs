//! Ops of XRC domains, and further handles on XRC receive QPs.

use crate::abi::{IbvContext, IbvQp, IbvQpOpenAttr, IbvXrcdInitAttr, Plain, VerbsQp, VerbsXrcd};
use crate::object::{Handle, Object};
use crate::qp::{Qp, QpOwn};
use crate::{context, edge};
use core::ffi::c_int;
use gaudi_verbs::Errno;

pub(crate) type Xrcd = Object<VerbsXrcd, Handle>;

/// `enum ibv_xrcd_init_attr_mask`.
const FD: u32 = 1;
const OFLAGS: u32 = 2;

pub(crate) unsafe extern "C" fn open_xrcd(
    ctx: *mut IbvContext,
    attr: *mut IbvXrcdInitAttr,
) -> *mut VerbsXrcd {
    edge::object(|| {
        if attr.is_null() {
            return Err(Errno::EINVAL);
        }
        // SAFETY: the program's attributes.
        let attr = unsafe { &*attr };
        if attr.comp_mask & !(FD | OFLAGS) != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        if attr.comp_mask & (FD | OFLAGS) != FD | OFLAGS
            || attr.oflags & !(libc::O_CREAT | libc::O_EXCL) != 0
        {
            return Err(Errno::EINVAL);
        }
        let file = if attr.fd == -1 {
            None
        } else {
            Some(identity(attr.fd)?)
        };
        // SAFETY: a live context of ours.
        let engine = unsafe { context::own(ctx) }.context.clone();
        let handle = engine.open_xrcd(
            file,
            attr.oflags & libc::O_CREAT != 0,
            attr.oflags & libc::O_EXCL != 0,
        )?;
        let mut xrcd = Box::new(Xrcd {
            c: VerbsXrcd::zeroed(),
            own: Handle {
                context: engine,
                handle,
            },
        });
        xrcd.c.context = ctx;
        xrcd.c.handle = handle;
        Ok(xrcd.give())
    })
}

/// Device and inode behind a descriptor.
fn identity(fd: c_int) -> Result<(u64, u64), Errno> {
    let mut stat = core::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: room for one `stat`.
    if unsafe { libc::fstat(fd, stat.as_mut_ptr()) } != 0 {
        return Err(Errno::last());
    }
    // SAFETY: filled in by fstat.
    let stat = unsafe { stat.assume_init() };
    Ok((stat.st_dev, stat.st_ino))
}

pub(crate) unsafe extern "C" fn close_xrcd(xrcd: *mut VerbsXrcd) -> c_int {
    edge::status(|| {
        // SAFETY: a live domain of ours.
        let own = unsafe { Xrcd::own(xrcd) };
        own.context.close_xrcd(own.handle)?;
        // SAFETY: the program gives the domain up.
        unsafe { Xrcd::retake(xrcd) };
        Ok(())
    })
}

pub(crate) unsafe extern "C" fn open_qp(
    ctx: *mut IbvContext,
    attr: *mut IbvQpOpenAttr,
) -> *mut IbvQp {
    // enum ibv_qp_open_attr_mask
    const NUM: u32 = 1;
    const XRCD: u32 = 2;
    const CONTEXT: u32 = 4;
    const TYPE: u32 = 8;
    const XRC_RECV: u32 = 10;
    edge::object(|| {
        if attr.is_null() {
            return Err(Errno::EINVAL);
        }
        // SAFETY: the program's attributes.
        let attr = unsafe { &*attr };
        if attr.comp_mask & !(NUM | XRCD | CONTEXT | TYPE) != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let needed = NUM | XRCD | TYPE;
        if attr.comp_mask & needed != needed || attr.xrcd.is_null() || attr.qp_type != XRC_RECV {
            return Err(Errno::EINVAL);
        }
        // SAFETY: a live domain of ours.
        let domain = unsafe { Xrcd::own(attr.xrcd.cast()) };
        let mut qp = Box::new(Qp {
            c: VerbsQp::zeroed(),
            own: QpOwn::new(domain.context.clone(), 0, false),
        });
        let cookie = (&raw const *qp).addr() as u64;
        let info = domain.context.open_qp(domain.handle, attr.qp_num, cookie)?;
        qp.own.handle = info.handle;
        let base = &mut qp.c.qp_ex.qp_base;
        base.context = ctx;
        if attr.comp_mask & CONTEXT != 0 {
            base.qp_context = attr.qp_context;
        }
        base.handle = info.handle;
        base.qp_num = info.qp_num;
        base.qp_type = attr.qp_type;
        Ok(qp.give().cast())
    })
}
