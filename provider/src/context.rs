//! Ops of the context, and the list of all ops.

use crate::abi::{IbvContext, IbvDeviceAttrEx, IbvQueryDeviceExInput, IbvValuesEx, Plain};
use crate::loaded::Library;
use crate::{cq, dm, domain, edge, memory, mw, post, qp, srq, xrc};
use core::ffi::{c_int, c_void};
use core::mem::ManuallyDrop;
use gaudi_verbs::{Context, DeviceAttr, Errno, PortAttr};
use std::sync::Arc;

/// What libibverbs allocates for us: its `verbs_context`, which grows at the front from release to release, and our part at
/// a fixed distance from the `ibv_context` at its end.
pub(crate) const ALLOCATION: usize = 4096;
const OWN_OFFSET: usize = 2048;
const _: () = assert!(size_of::<IbvContext>() == 328 && OWN_OFFSET >= 328);
const _: () = assert!(1024 + OWN_OFFSET + size_of::<ContextOwn>() <= ALLOCATION);

/// On-demand paging of RC and XRC: send, receive, write, read, atomics, SRQ; and of UC, which has no reads and atomics.
const ODP_RC: u32 = 0x3f;
const ODP_UC: u32 = 0x27;
/// Send, receive, SRQ.
const ODP_UD: u64 = 0x23;
/// `struct ibv_odp_caps` {general: u64, rc: u32, uc: u32, ud: u32}: explicit and implicit.
const ODP_CAPS: [u64; 3] = [0b11, ODP_RC as u64 | (ODP_UC as u64) << 32, ODP_UD];

/// Our part of a context.
pub(crate) struct ContextOwn {
    pub(crate) context: Arc<Context>,
    pub(crate) library: &'static Library,
}

pub(crate) fn own_place(ctx: *mut IbvContext) -> *mut ContextOwn {
    ctx.wrapping_byte_add(OWN_OFFSET).cast()
}

/// # Safety
/// `ctx` is a context that `alloc_context` made and `free_context` has not yet seen.
pub(crate) unsafe fn own<'a>(ctx: *mut IbvContext) -> &'a ContextOwn {
    let place = own_place(ctx);
    // SAFETY: written by `alloc_context`, never borrowed mutably.
    unsafe { &*place }
}

/// Undoes `_verbs_init_and_alloc_context`: closes the descriptors, drops the reference on the device, frees the memory.
///
/// # Safety
/// `base` came from that function of the same library and is not used again.
pub(crate) unsafe fn release(library: &Library, base: *mut c_void) {
    // SAFETY: by contract.
    unsafe { (library.uninit_context)(base) };
    // SAFETY: the library allocated it with calloc and left it to us.
    unsafe { libc::free(base) };
}

/// Everything we implement, for the op table of any release. What is missing keeps the library's answer: not supported.
pub(crate) fn ops() -> [(&'static str, usize); 49] {
    macro_rules! op {
        ($module:ident :: $name:ident) => {
            (stringify!($name), $module::$name as *const () as usize)
        };
        ($name:ident) => {
            (stringify!($name), $name as *const () as usize)
        };
    }
    [
        op!(free_context),
        op!(query_device_ex),
        op!(query_port),
        op!(memory::alloc_pd),
        op!(memory::create_ah),
        op!(memory::dealloc_pd),
        op!(memory::dereg_mr),
        op!(memory::destroy_ah),
        op!(memory::reg_mr),
        op!(cq::create_cq),
        op!(cq::create_cq_ex),
        op!(cq::destroy_cq),
        op!(cq::poll_cq),
        op!(cq::req_notify_cq),
        op!(cq::resize_cq),
        op!(qp::create_qp),
        op!(qp::create_qp_ex),
        op!(qp::destroy_qp),
        op!(qp::modify_qp),
        op!(qp::query_qp),
        op!(qp::attach_mcast),
        op!(qp::detach_mcast),
        op!(post::post_recv),
        op!(post::post_send),
        op!(query_rt_values),
        op!(memory::rereg_mr),
        op!(memory::alloc_null_mr),
        op!(memory::reg_dmabuf_mr),
        op!(memory::advise_mr),
        op!(cq::modify_cq),
        op!(domain::alloc_td),
        op!(domain::dealloc_td),
        op!(domain::alloc_parent_domain),
        op!(mw::alloc_mw),
        op!(mw::dealloc_mw),
        op!(mw::bind_mw),
        op!(dm::alloc_dm),
        op!(dm::free_dm),
        op!(dm::reg_dm_mr),
        op!(srq::create_srq),
        op!(srq::create_srq_ex),
        op!(srq::destroy_srq),
        op!(srq::get_srq_num),
        op!(srq::modify_srq),
        op!(srq::post_srq_recv),
        op!(srq::query_srq),
        op!(xrc::close_xrcd),
        op!(xrc::open_qp),
        op!(xrc::open_xrcd),
    ]
}

unsafe extern "C" fn free_context(ctx: *mut IbvContext) {
    edge::quiet(|| {
        let place = own_place(ctx).cast::<ManuallyDrop<ContextOwn>>();
        // SAFETY: written by `alloc_context`; the context ends here, so nobody else takes it.
        let own = ManuallyDrop::into_inner(unsafe { place.read() });
        own.context.close();
        let base = ctx.wrapping_byte_sub(own.library.layout.context_offset());
        // SAFETY: `base` is where `alloc_context` got it from this library.
        unsafe { release(own.library, base.cast()) };
    });
}

unsafe extern "C" fn query_device_ex(
    ctx: *mut IbvContext,
    input: *const IbvQueryDeviceExInput,
    attr: *mut IbvDeviceAttrEx,
    attr_size: usize,
) -> c_int {
    edge::status(|| {
        if attr_size < size_of::<DeviceAttr>() {
            return Err(Errno::EINVAL);
        }
        if !input.is_null() {
            // SAFETY: a valid input by ibv_query_device_ex(3); may be NULL.
            let input = unsafe { &*input };
            if input.comp_mask != 0 {
                return Err(Errno::EINVAL);
            }
        }
        // SAFETY: a live context of ours.
        let own = unsafe { own(ctx) };
        let mut answer = IbvDeviceAttrEx::zeroed();
        answer.orig_attr = own.context.query_device();
        /// `IBV_DEVICE_ATOMIC_WRITE`, which rdma-core 44 has no name for yet.
        const ATOMIC_WRITE: u64 = 1 << 40;
        answer.device_cap_flags_ex = u64::from(answer.orig_attr.device_cap_flags) | ATOMIC_WRITE;
        answer.phys_port_cnt_ex = answer.orig_attr.phys_port_cnt.into();
        if own.context.on_demand_paging() {
            answer.odp_caps = ODP_CAPS;
            answer.xrc_odp_caps = ODP_RC;
        }
        // Completion timestamps are nanoseconds.
        answer.completion_timestamp_mask = u64::MAX;
        answer.hca_core_clock = 1_000_000;
        answer.cq_mod_caps = [u16::MAX; 2];
        answer.max_dm_size = own.context.max_dm_size();
        let attr = attr.cast::<u8>();
        // SAFETY: the caller's buffer has `attr_size` bytes.
        unsafe { attr.write_bytes(0, attr_size) };
        let known = attr_size.min(size_of::<IbvDeviceAttrEx>());
        // SAFETY: `known` bytes exist on both sides.
        unsafe { attr.copy_from_nonoverlapping((&raw const answer).cast(), known) };
        Ok(())
    })
}

unsafe extern "C" fn query_port(ctx: *mut IbvContext, port: u8, attr: *mut PortAttr) -> c_int {
    edge::status(|| {
        // SAFETY: a live context of ours.
        let own = unsafe { own(ctx) };
        let answer = own.context.query_port(port)?;
        let len = own.library.layout.port_attr;
        // SAFETY: the library guarantees room for the `ibv_port_attr` it was built with, of which `len` bytes certainly exist.
        unsafe {
            attr.cast::<u8>()
                .copy_from_nonoverlapping((&raw const answer).cast(), len)
        };
        Ok(())
    })
}

unsafe extern "C" fn query_rt_values(ctx: *mut IbvContext, values: *mut IbvValuesEx) -> c_int {
    /// `IBV_VALUES_MASK_RAW_CLOCK`
    const RAW_CLOCK: u32 = 1;
    edge::status(|| {
        if values.is_null() {
            return Err(Errno::EINVAL);
        }
        // SAFETY: a live context of ours.
        let own = unsafe { own(ctx) };
        // SAFETY: the program's struct.
        let values = unsafe { &mut *values };
        if values.comp_mask & !RAW_CLOCK != 0 {
            return Err(Errno::EINVAL);
        }
        if values.comp_mask & RAW_CLOCK != 0 {
            // Ticks in the low word, as other devices answer.
            values.raw_clock = [0, own.context.device_clock() as i64];
        }
        Ok(())
    })
}
