//! Copies, atomics and probes on memory that may vanish.
//!
//! The soft device and the provider run inside other people's programs and touch memory that those
//! programs own. A program may unmap, protect or truncate it at any moment, also in the middle of a
//! copy. Every function here then returns [`Fault`] where plain code would die of SIGSEGV or SIGBUS.
//!
//! On x86-64 the accesses live in one fixed range of assembly. A handler for both signals acts only
//! if the interrupted instruction lies in that range; any other fault goes to the action that was
//! installed before, so a debugger, a crash reporter or a managed runtime sees exactly what it would
//! have seen. Elsewhere the accesses go through `process_vm_readv(2)` on the process itself.
//!
//! Two rules for callers:
//! * call [`install`] once before the first access, and [`ensure`] wherever a host may have replaced
//!   the signal handlers since;
//! * never block SIGSEGV or SIGBUS in a thread that uses this crate: the kernel kills the process
//!   for a synchronous fault whose signal is blocked, whatever the handler.

#[cfg(not(target_arch = "x86_64"))]
mod access_portable;
#[cfg(target_arch = "x86_64")]
mod access_x86;
mod cas16;
#[cfg(target_arch = "x86_64")]
mod signal;

#[cfg(not(target_arch = "x86_64"))]
use access_portable as access;
#[cfg(target_arch = "x86_64")]
use access_x86 as access;

pub use cas16::{cas16, has_cas16};

use std::fmt;

/// An access hit memory that is not there or does not allow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Bytes known to have arrived at the destination before the fault; more may have.
    pub done: usize,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "memory fault after {} bytes", self.done)
    }
}

impl std::error::Error for Fault {}

/// Installs the fault handlers. Safe to call from any thread and any number of times.
pub fn install() -> std::io::Result<()> {
    access::install()
}

/// Checks that faults still reach this crate and puts the handlers back on top if they do not.
///
/// Costs two system calls. A failure leaves things as they were.
pub fn ensure() {
    access::ensure();
}

/// Copies `len` bytes upwards.
///
/// From 8 bytes on, the last 8 are written by a single store of their own after everything else, so
/// a program that polls the end of a buffer finds the rest complete. Lengths 1, 2, 4 and 8 are one
/// load and one store. Overlapping ranges give unspecified bytes.
///
/// # Safety
/// No Rust object that is not shared memory may lie in `dst..dst + len`. Everything else about the
/// two ranges may be wrong: that is what the result is for.
#[inline]
pub unsafe fn copy(dst: *mut u8, src: *const u8, len: usize) -> Result<(), Fault> {
    // SAFETY: the caller's promise is the one that the access needs.
    unsafe { access::copy(dst, src, len) }
}

/// Loads 8 aligned bytes; an unaligned address is a fault.
///
/// # Safety
/// `p` may be any value; a device register with read side effects is the caller's concern.
#[inline]
pub unsafe fn load_u64(p: *const u64) -> Result<u64, Fault> {
    aligned(p)?;
    // SAFETY: as promised by the caller; alignment was checked.
    unsafe { access::load_u64(p) }
}

/// Stores 8 aligned bytes at once; an unaligned address is a fault.
///
/// # Safety
/// As for [`copy`]'s destination.
#[inline]
pub unsafe fn store_u64(p: *mut u64, value: u64) -> Result<(), Fault> {
    aligned(p)?;
    // SAFETY: as promised by the caller; alignment was checked.
    unsafe { access::store_u64(p, value) }
}

/// Atomic compare-and-swap; returns what was there before. It swapped if that equals `expect`.
///
/// # Safety
/// As for [`copy`]'s destination.
#[inline]
pub unsafe fn cas_u64(p: *mut u64, expect: u64, new: u64) -> Result<u64, Fault> {
    aligned(p)?;
    // SAFETY: as promised by the caller; alignment was checked.
    unsafe { access::cas_u64(p, expect, new) }
}

/// Atomic wrapping add; returns what was there before.
///
/// # Safety
/// As for [`copy`]'s destination.
#[inline]
pub unsafe fn fetch_add_u64(p: *mut u64, add: u64) -> Result<u64, Fault> {
    aligned(p)?;
    // SAFETY: as promised by the caller; alignment was checked.
    unsafe { access::fetch_add_u64(p, add) }
}

/// Reads one byte of each page of the range.
///
/// # Safety
/// As for [`load_u64`].
pub unsafe fn probe_read(p: *const u8, len: usize) -> Result<(), Fault> {
    let Some(last) = last_byte(p as usize, len)? else {
        return Ok(());
    };
    // SAFETY: as promised by the caller; the range does not wrap.
    unsafe { access::probe_read(p, last) }
}

/// Writes to each page of the range without changing a byte of it, also against concurrent writers.
///
/// # Safety
/// As for [`copy`]'s destination.
pub unsafe fn probe_write(p: *mut u8, len: usize) -> Result<(), Fault> {
    let Some(last) = last_byte(p as usize, len)? else {
        return Ok(());
    };
    // SAFETY: as promised by the caller; the range does not wrap.
    unsafe { access::probe_write(p, last) }
}

#[inline]
fn aligned(p: *const u64) -> Result<(), Fault> {
    if p.is_aligned() {
        Ok(())
    } else {
        Err(Fault { done: 0 })
    }
}

/// Address of the range's last byte, `None` if the range is empty.
fn last_byte(start: usize, len: usize) -> Result<Option<usize>, Fault> {
    let Some(more) = len.checked_sub(1) else {
        return Ok(None);
    };
    start.checked_add(more).map(Some).ok_or(Fault { done: 0 })
}
