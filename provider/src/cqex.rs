//! Polling functions of extended CQs, called inline from the program through the CQ's own pointers.
//!
//! Between start_poll and end_poll the CQ shows one completion; another thread that starts meanwhile waits (ibv_create_cq_ex(3)),
//! unless the program promised that there is none.

use crate::abi::{IbvCqEx, wc_ex};
use crate::cq::{Cq, CqOwn};
use crate::edge;
use crate::object::field;
use core::cell::UnsafeCell;
use core::ffi::c_int;
use core::sync::atomic::{AtomicBool, Ordering::*};
use gaudi_verbs::{CqOptions, Errno, Result, Stamp, Wc};

/// Polling state of an extended CQ.
#[derive(Default)]
pub(crate) struct Poll {
    single_threaded: bool,
    busy: AtomicBool,
    current: UnsafeCell<(Wc, Stamp)>,
}

// SAFETY: `current` belongs to the thread between start_poll and end_poll: it holds `busy`, or is the only one by its program's promise.
unsafe impl Sync for Poll {}

impl Poll {
    pub(crate) fn new(single_threaded: bool) -> Poll {
        Poll {
            single_threaded,
            ..Poll::default()
        }
    }

    fn lock(&self) {
        if self.single_threaded {
            return;
        }
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

    fn current(&self) -> (Wc, Stamp) {
        // SAFETY: see `Sync`; readers are called between start_poll and end_poll.
        unsafe { *self.current.get() }
    }
}

/// What of `wc_flags` can be read.
pub(crate) const SUPPORTED: u64 = wc_ex::STANDARD | wc_ex::TIMESTAMP | wc_ex::WALLCLOCK;

pub(crate) fn options(wc_flags: u64, ignore_overrun: bool) -> CqOptions {
    CqOptions {
        device_time: wc_flags & wc_ex::TIMESTAMP != 0,
        wall_time: wc_flags & wc_ex::WALLCLOCK != 0,
        ignore_overrun,
    }
}

/// The pointers in the order of `struct ibv_cq_ex`; readers that were not asked for stay NULL, except those that need no asking.
pub(crate) fn functions(wc_flags: u64) -> [usize; 18] {
    let asked = |bit: u64, f: usize| if wc_flags & bit != 0 { f } else { 0 };
    [
        start_poll as *const () as usize,
        next_poll as *const () as usize,
        end_poll as *const () as usize,
        read_opcode as *const () as usize,
        read_vendor_err as *const () as usize,
        asked(wc_ex::BYTE_LEN, read_byte_len as *const () as usize),
        asked(wc_ex::IMM, read_imm_data as *const () as usize),
        asked(wc_ex::QP_NUM, read_qp_num as *const () as usize),
        asked(wc_ex::SRC_QP, read_src_qp as *const () as usize),
        read_wc_flags as *const () as usize,
        asked(wc_ex::SLID, read_slid as *const () as usize),
        asked(wc_ex::SL, read_sl as *const () as usize),
        asked(
            wc_ex::DLID_PATH_BITS,
            read_dlid_path_bits as *const () as usize,
        ),
        asked(wc_ex::TIMESTAMP, read_completion_ts as *const () as usize),
        0,
        0,
        0,
        asked(
            wc_ex::WALLCLOCK,
            read_completion_wallclock_ns as *const () as usize,
        ),
    ]
}

/// Takes the next completion and shows it: `status` and `wr_id` in the CQ itself, the rest through the readers.
fn show(cq: *mut IbvCqEx, own: &CqOwn) -> Result<()> {
    let next = own.context.poll_one(own.handle)?.ok_or(Errno::ENOENT)?;
    // SAFETY: see `Sync` of `Poll`.
    unsafe { *own.poll.current.get() = next };
    // SAFETY: a field that only the polling thread uses.
    unsafe { field!(cq, IbvCqEx, status, u32).write(next.0.status) };
    // SAFETY: as above.
    unsafe { field!(cq, IbvCqEx, wr_id, u64).write(next.0.wr_id) };
    Ok(())
}

unsafe extern "C" fn start_poll(cq: *mut IbvCqEx, attr: *const u32) -> c_int {
    edge::status(|| {
        // SAFETY: `struct ibv_poll_cq_attr` {comp_mask}, or NULL.
        if !attr.is_null() && unsafe { attr.read() } != 0 {
            return Err(Errno::EINVAL);
        }
        // SAFETY: a live CQ of ours.
        let own = unsafe { Cq::own(cq) };
        own.poll.lock();
        // ENOENT: end_poll does not follow.
        show(cq, own).inspect_err(|_| own.poll.unlock())
    })
}

unsafe extern "C" fn next_poll(cq: *mut IbvCqEx) -> c_int {
    edge::status(|| {
        // SAFETY: a live CQ of ours.
        show(cq, unsafe { Cq::own(cq) })
    })
}

unsafe extern "C" fn end_poll(cq: *mut IbvCqEx) {
    // SAFETY: a live CQ of ours.
    unsafe { Cq::own(cq) }.poll.unlock();
}

macro_rules! readers {
    ($($name:ident -> $t:ty = $shown:ident => $value:expr;)*) => { $(
        unsafe extern "C" fn $name(cq: *mut IbvCqEx) -> $t {
            // SAFETY: a live CQ of ours, between start_poll and end_poll.
            let $shown = unsafe { Cq::own(cq) }.poll.current();
            $value
        }
    )* };
}

readers! {
    read_opcode -> u32 = c => c.0.opcode;
    read_vendor_err -> u32 = c => c.0.vendor_err;
    read_byte_len -> u32 = c => c.0.byte_len;
    read_imm_data -> u32 = c => c.0.imm_data;
    read_qp_num -> u32 = c => c.0.qp_num;
    read_src_qp -> u32 = c => c.0.src_qp;
    read_wc_flags -> u32 = c => c.0.wc_flags;
    read_slid -> u32 = c => c.0.slid.into();
    read_sl -> u8 = c => c.0.sl;
    read_dlid_path_bits -> u8 = c => c.0.dlid_path_bits;
    read_completion_ts -> u64 = c => c.1.device;
    read_completion_wallclock_ns -> u64 = c => c.1.wall;
}
