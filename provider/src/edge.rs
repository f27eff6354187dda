//! The convention of the C side: positive errno or NULL with errno set, and no panic ever leaves.

use core::ffi::c_int;
use core::ptr::null_mut;
use gaudi_verbs::{Errno, Result};
use std::panic::{AssertUnwindSafe, catch_unwind};

fn guarded<T>(op: impl FnOnce() -> Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(op)) {
        Ok(result) => result,
        Err(payload) => {
            // Dropping a payload may panic again.
            core::mem::forget(payload);
            Err(Errno::EIO)
        }
    }
}

/// Ops that return 0 or a positive errno.
pub(crate) fn status(op: impl FnOnce() -> Result<()>) -> c_int {
    guarded(op).map_or_else(|e| e.0, |()| 0)
}

/// Ops that return a count or a negative errno.
pub(crate) fn count(op: impl FnOnce() -> Result<usize>) -> c_int {
    guarded(op).map_or_else(|e| -e.0, |n| c_int::try_from(n).unwrap_or(c_int::MAX))
}

/// Ops that return an object or NULL with errno set.
pub(crate) fn object<T>(op: impl FnOnce() -> Result<*mut T>) -> *mut T {
    guarded(op).unwrap_or_else(|e| {
        set_errno(e);
        null_mut()
    })
}

/// Ops without a result.
pub(crate) fn quiet(op: impl FnOnce()) {
    let _ = guarded(|| {
        op();
        Ok(())
    });
}

/// Ops that answer yes or no.
pub(crate) fn yes(op: impl FnOnce() -> bool) -> bool {
    guarded(|| Ok(op())).unwrap_or(false)
}

fn set_errno(e: Errno) {
    // SAFETY: takes no argument; the pointer it returns belongs to the calling thread.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: `place` is this thread's errno.
    unsafe { place.write(e.0) };
}
