//! `ibv_wr_*`: work requests built by calls. They are collected between wr_start and wr_complete, which posts all of them or, when
//! any of them was wrong, none.

use crate::abi::{IbvAh, IbvDataBuf, IbvMw, IbvMwBindInfo, IbvQpEx};
use crate::qp::{self, QpOwn};
use crate::{edge, mw, post};
use core::cell::UnsafeCell;
use core::ffi::{c_int, c_void};
use core::sync::atomic::{AtomicBool, Ordering::*};
use gaudi_verbs::{Errno, Result, SendWr, Sge};
use kernel_abi::verbs::{send_flag, send_ops, wr_opcode};

/// A work request under construction.
#[derive(Clone, Copy, Default)]
struct Wr {
    wr_id: u64,
    flags: u32,
    opcode: u32,
    imm: u32,
    rkey: u32,
    remote_addr: u64,
    compare_add: u64,
    swap: u64,
    remote_srqn: u32,
    /// Its part of `sges`.
    sges: (usize, usize),
    /// Its part of `inline`, which takes the place of SGEs.
    inline: Option<(usize, usize)>,
}

#[derive(Default)]
struct State {
    wrs: Vec<Wr>,
    sges: Vec<Sge>,
    inline: Vec<u8>,
    /// The first thing that went wrong.
    error: Option<Errno>,
}

impl State {
    fn clear(&mut self) {
        self.wrs.clear();
        self.sges.clear();
        self.inline.clear();
        self.error = None;
    }

    fn fail(&mut self, e: Errno) {
        self.error.get_or_insert(e);
    }
}

/// The requests of a QP between wr_start and wr_complete or wr_abort, which one thread does at a time (ibv_wr_post(3)).
#[derive(Default)]
pub(crate) struct Builder {
    busy: AtomicBool,
    state: UnsafeCell<State>,
}

// SAFETY: `state` belongs to the thread that has set `busy` in wr_start, until it completes or aborts.
unsafe impl Sync for Builder {}

impl Builder {
    fn lock(&self) {
        let mut turns = 0u32;
        while self.busy.swap(true, Acquire) {
            turns += 1;
            if turns.is_multiple_of(64) {
                std::thread::yield_now();
            } else {
                core::hint::spin_loop();
            }
        }
    }

    fn unlock(&self) {
        self.busy.store(false, Release);
    }

    #[expect(clippy::mut_from_ref, reason = "guarded by `busy`, see Sync")]
    fn state(&self) -> &mut State {
        // SAFETY: see `Sync`; no reference outlives the call that takes it.
        unsafe { &mut *self.state.get() }
    }
}

/// Operations that can be asked for.
pub(crate) const SUPPORTED: u64 = send_ops::RDMA_WRITE
    | send_ops::RDMA_WRITE_WITH_IMM
    | send_ops::SEND
    | send_ops::SEND_WITH_IMM
    | send_ops::RDMA_READ
    | send_ops::ATOMIC_CMP_AND_SWP
    | send_ops::ATOMIC_FETCH_AND_ADD
    | send_ops::LOCAL_INV
    | send_ops::BIND_MW
    | send_ops::SEND_WITH_INV
    | send_ops::ATOMIC_WRITE;

/// The pointers in the order of `struct ibv_qp_ex`: the operations that were asked for, and all setters.
pub(crate) fn functions(asked: u64) -> [usize; 22] {
    let op = |bit: u64, f: usize| if asked & bit != 0 { f } else { 0 };
    [
        op(
            send_ops::ATOMIC_CMP_AND_SWP,
            wr_atomic_cmp_swp as *const () as usize,
        ),
        op(
            send_ops::ATOMIC_FETCH_AND_ADD,
            wr_atomic_fetch_add as *const () as usize,
        ),
        op(send_ops::BIND_MW, wr_bind_mw as *const () as usize),
        op(send_ops::LOCAL_INV, wr_local_inv as *const () as usize),
        op(send_ops::RDMA_READ, wr_rdma_read as *const () as usize),
        op(send_ops::RDMA_WRITE, wr_rdma_write as *const () as usize),
        op(
            send_ops::RDMA_WRITE_WITH_IMM,
            wr_rdma_write_imm as *const () as usize,
        ),
        op(send_ops::SEND, wr_send as *const () as usize),
        op(send_ops::SEND_WITH_IMM, wr_send_imm as *const () as usize),
        op(send_ops::SEND_WITH_INV, wr_send_inv as *const () as usize),
        // wr_send_tso
        0,
        wr_set_ud_addr as *const () as usize,
        wr_set_xrc_srqn as *const () as usize,
        wr_set_inline_data as *const () as usize,
        wr_set_inline_data_list as *const () as usize,
        wr_set_sge as *const () as usize,
        wr_set_sge_list as *const () as usize,
        wr_start as *const () as usize,
        wr_complete as *const () as usize,
        wr_abort as *const () as usize,
        op(
            send_ops::ATOMIC_WRITE,
            wr_atomic_write as *const () as usize,
        ),
        // wr_flush
        0,
    ]
}

/// # Safety
/// `qp` is a live extended QP of ours.
unsafe fn own<'a>(qp: *mut IbvQpEx) -> &'a QpOwn {
    // SAFETY: passed on; the extended QP begins with the plain one.
    unsafe { qp::own(qp.cast()) }
}

unsafe extern "C" fn wr_start(qp: *mut IbvQpEx) {
    edge::quiet(|| {
        // SAFETY: a live QP of ours.
        let builder = &unsafe { own(qp) }.builder;
        builder.lock();
        builder.state().clear();
    });
}

unsafe extern "C" fn wr_abort(qp: *mut IbvQpEx) {
    edge::quiet(|| {
        // SAFETY: a live QP of ours.
        let builder = &unsafe { own(qp) }.builder;
        builder.state().clear();
        builder.unlock();
    });
}

unsafe extern "C" fn wr_complete(qp: *mut IbvQpEx) -> c_int {
    edge::status(|| {
        // SAFETY: a live QP of ours.
        let own = unsafe { own(qp) };
        let result = submit(own, own.builder.state());
        own.builder.unlock();
        result
    })
}

fn submit(own: &QpOwn, state: &mut State) -> Result<()> {
    if let Some(e) = state.error {
        return Err(e);
    }
    if state.wrs.is_empty() {
        return Ok(());
    }
    // Inline data has its final place now.
    let base = state.inline.as_ptr().addr() as u64;
    for wr in &mut state.wrs {
        if let Some((at, len)) = wr.inline {
            wr.sges = (state.sges.len(), 1);
            wr.flags |= send_flag::INLINE;
            state.sges.push(Sge {
                addr: base + at as u64,
                length: len as u32,
                lkey: 0,
            });
        }
    }
    let list = state.wrs.iter().map(|wr| SendWr {
        wr_id: wr.wr_id,
        opcode: wr.opcode,
        flags: wr.flags,
        imm: wr.imm,
        remote_addr: wr.remote_addr,
        rkey: wr.rkey,
        compare_add: wr.compare_add,
        swap: wr.swap,
        remote_srqn: wr.remote_srqn,
        sges: state
            .sges
            .get(wr.sges.0..wr.sges.0 + wr.sges.1)
            .unwrap_or(&[]),
    });
    let mut guard = own.context.lock()?;
    let result = guard.post_all(own.handle, list);
    guard.finish();
    result
}

/// Begins a work request with the `wr_id` and `wr_flags` that the program has put into the QP.
unsafe fn begin(qp: *mut IbvQpEx, opcode: u32, fill: impl FnOnce(&mut Wr) -> Result<()>) {
    edge::quiet(|| {
        // SAFETY: a live QP of ours, between wr_start and wr_complete.
        let state = unsafe { own(qp) }.builder.state();
        let mut wr = Wr {
            // SAFETY: fields that the building thread has set.
            wr_id: unsafe { crate::object::field!(qp, IbvQpEx, wr_id, u64).read() },
            // SAFETY: as above.
            flags: unsafe { crate::object::field!(qp, IbvQpEx, wr_flags, u32).read() },
            opcode,
            ..Wr::default()
        };
        if wr.flags & send_flag::INLINE != 0 {
            // Inline data comes by its own setters.
            wr.flags &= !send_flag::INLINE;
        }
        if let Err(e) = fill(&mut wr) {
            state.fail(e);
        }
        state.wrs.push(wr);
    });
}

/// Changes the newest work request.
unsafe fn set(qp: *mut IbvQpEx, change: impl FnOnce(&mut State, &mut Wr) -> Result<()>) {
    edge::quiet(|| {
        // SAFETY: a live QP of ours, between wr_start and wr_complete.
        let state = unsafe { own(qp) }.builder.state();
        let Some(mut wr) = state.wrs.pop() else {
            return state.fail(Errno::EINVAL);
        };
        if let Err(e) = change(state, &mut wr) {
            state.fail(e);
        }
        state.wrs.push(wr);
    });
}

macro_rules! operations {
    ($($name:ident, $opcode:ident, ($($arg:ident : $t:ty),*) => |$wr:ident| $body:expr;)*) => { $(
        unsafe extern "C" fn $name(qp: *mut IbvQpEx $(, $arg: $t)*) {
            // SAFETY: called by the program through the QP's own pointer.
            unsafe { begin(qp, wr_opcode::$opcode, |$wr| { $body; Ok(()) }) }
        }
    )* };
}

fn remote(wr: &mut Wr, rkey: u32, remote_addr: u64) {
    wr.rkey = rkey;
    wr.remote_addr = remote_addr;
}

operations! {
    wr_send, SEND, () => |wr| wr.imm = 0;
    wr_send_imm, SEND_WITH_IMM, (imm: u32) => |wr| wr.imm = imm;
    wr_send_inv, SEND_WITH_INV, (rkey: u32) => |wr| wr.imm = rkey;
    wr_local_inv, LOCAL_INV, (rkey: u32) => |wr| wr.imm = rkey;
    wr_rdma_write, RDMA_WRITE, (rkey: u32, addr: u64) => |wr| remote(wr, rkey, addr);
    wr_rdma_write_imm, RDMA_WRITE_WITH_IMM, (rkey: u32, addr: u64, imm: u32) => |wr| {
        remote(wr, rkey, addr);
        wr.imm = imm;
    };
    wr_rdma_read, RDMA_READ, (rkey: u32, addr: u64) => |wr| remote(wr, rkey, addr);
    wr_atomic_cmp_swp, ATOMIC_CMP_AND_SWP, (rkey: u32, addr: u64, compare: u64, swap: u64) => |wr| {
        remote(wr, rkey, addr);
        (wr.compare_add, wr.swap) = (compare, swap);
    };
    wr_atomic_fetch_add, ATOMIC_FETCH_AND_ADD, (rkey: u32, addr: u64, add: u64) => |wr| {
        remote(wr, rkey, addr);
        wr.compare_add = add;
    };
}

unsafe extern "C" fn wr_bind_mw(
    qp: *mut IbvQpEx,
    window: *mut IbvMw,
    rkey: u32,
    info: *const IbvMwBindInfo,
) {
    let fill = |wr: &mut Wr| {
        if info.is_null() {
            return Err(Errno::EINVAL);
        }
        let key = mw::type_2_key(window, rkey)?;
        // SAFETY: the program's request.
        let bind = mw::bind_wr(wr.wr_id, wr.flags, key, unsafe { &*info })?;
        remote(wr, bind.rkey, bind.remote_addr);
        (wr.imm, wr.compare_add, wr.swap) = (bind.imm, bind.compare_add, bind.swap);
        Ok(())
    };
    // SAFETY: called by the program through the QP's own pointer.
    unsafe { begin(qp, wr_opcode::BIND_MW, fill) }
}

unsafe extern "C" fn wr_atomic_write(qp: *mut IbvQpEx, rkey: u32, addr: u64, data: *const c_void) {
    let fill = |wr: &mut Wr| {
        if data.is_null() {
            return Err(Errno::EINVAL);
        }
        remote(wr, rkey, addr);
        // The program's eight bytes: not inline data, of which a QP may have none.
        // SAFETY: by ibv_wr_atomic_write(3).
        wr.swap = unsafe { data.cast::<u64>().read_unaligned() };
        Ok(())
    };
    // SAFETY: called by the program through the QP's own pointer.
    unsafe { begin(qp, wr_opcode::ATOMIC_WRITE, fill) };
}

unsafe extern "C" fn wr_set_xrc_srqn(qp: *mut IbvQpEx, number: u32) {
    let change = |_: &mut State, wr: &mut Wr| {
        wr.remote_srqn = number;
        Ok(())
    };
    // SAFETY: called by the program through the QP's own pointer.
    unsafe { set(qp, change) }
}

unsafe extern "C" fn wr_set_ud_addr(qp: *mut IbvQpEx, ah: *mut IbvAh, qpn: u32, qkey: u32) {
    // SAFETY: a live QP of ours.
    let own = unsafe { own(qp) };
    let change = |_: &mut State, wr: &mut Wr| {
        (wr.remote_addr, wr.remote_srqn, wr.rkey) = post::datagram(own, ah, qpn, qkey)?;
        Ok(())
    };
    // SAFETY: called by the program through the QP's own pointer.
    unsafe { set(qp, change) }
}

unsafe extern "C" fn wr_set_sge(qp: *mut IbvQpEx, lkey: u32, addr: u64, length: u32) {
    let change = |state: &mut State, wr: &mut Wr| {
        wr.inline = None;
        wr.sges = (state.sges.len(), 1);
        state.sges.push(Sge { addr, length, lkey });
        Ok(())
    };
    // SAFETY: called by the program through the QP's own pointer.
    unsafe { set(qp, change) }
}

unsafe extern "C" fn wr_set_sge_list(qp: *mut IbvQpEx, count: usize, list: *const Sge) {
    let change = |state: &mut State, wr: &mut Wr| {
        let list = list_of(list, count)?;
        wr.inline = None;
        wr.sges = (state.sges.len(), list.len());
        state.sges.extend_from_slice(list);
        Ok(())
    };
    // SAFETY: called by the program through the QP's own pointer.
    unsafe { set(qp, change) }
}

unsafe extern "C" fn wr_set_inline_data(qp: *mut IbvQpEx, addr: *const c_void, length: usize) {
    let one = IbvDataBuf {
        addr: addr.addr() as u64,
        length,
    };
    // SAFETY: called by the program through the QP's own pointer.
    unsafe { set(qp, |state, wr| copy_inline(state, wr, &[one])) }
}

unsafe extern "C" fn wr_set_inline_data_list(
    qp: *mut IbvQpEx,
    count: usize,
    list: *const IbvDataBuf,
) {
    // SAFETY: called by the program through the QP's own pointer.
    unsafe {
        set(qp, |state, wr| {
            copy_inline(state, wr, list_of(list, count)?)
        })
    }
}

/// Copied at once: the program may reuse its buffers when the setter returns.
fn copy_inline(state: &mut State, wr: &mut Wr, list: &[IbvDataBuf]) -> Result<()> {
    /// Above what any QP grants; keeps a nonsensical length from being copied.
    const MOST: usize = 64 << 10;
    let start = state.inline.len();
    for b in list {
        if b.length > MOST || state.inline.len() - start + b.length > MOST {
            return Err(Errno::EINVAL);
        }
        if b.length != 0 {
            // SAFETY: the program's buffer, which it leaves alone during the call.
            let bytes = unsafe { core::slice::from_raw_parts(b.addr as *const u8, b.length) };
            state.inline.extend_from_slice(bytes);
        }
    }
    wr.inline = Some((start, state.inline.len() - start));
    Ok(())
}

fn list_of<'a, T>(list: *const T, count: usize) -> Result<&'a [T]> {
    /// More elements than any work request has.
    const MOST: usize = 1024;
    if count == 0 {
        return Ok(&[]);
    }
    if list.is_null() || count > MOST {
        return Err(Errno::EINVAL);
    }
    // SAFETY: the program's array of `count` elements, which it leaves alone during the call.
    Ok(unsafe { core::slice::from_raw_parts(list, count) })
}
