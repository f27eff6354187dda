//! The accesses where no assembly was written: the kernel copies from this process to itself.
//!
//! Slower by a system call, and the atomics have a gap between check and access, in which a fault is
//! still fatal. Good enough to run and test on such machines.

use crate::Fault;
use libc::{c_int, c_void, iovec};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

const FAULT: Fault = Fault { done: 0 };
const PAGE: usize = 4096;
/// From linux/mman.h, since 5.14.
const MADV_POPULATE_WRITE: c_int = 23;

pub(crate) fn install() -> std::io::Result<()> {
    Ok(())
}

pub(crate) fn ensure() {}

fn transfer(dst: *mut u8, src: *const u8, len: usize) -> usize {
    let local = iovec {
        iov_base: dst.cast(),
        iov_len: len,
    };
    let remote = iovec {
        iov_base: src.cast_mut().cast(),
        iov_len: len,
    };
    // SAFETY: getpid has no preconditions.
    let pid = unsafe { libc::getpid() };
    // SAFETY: the kernel checks both sides.
    let got = unsafe { libc::process_vm_readv(pid, &local, 1, &remote, 1, 0) };
    usize::try_from(got).unwrap_or(0)
}

fn transfer_all(dst: *mut u8, src: *const u8, len: usize) -> Result<(), Fault> {
    let mut done = 0;
    while done < len {
        match transfer(dst.wrapping_add(done), src.wrapping_add(done), len - done) {
            0 => return Err(Fault { done }),
            more => done += more,
        }
    }
    Ok(())
}

pub(crate) unsafe fn copy(dst: *mut u8, src: *const u8, len: usize) -> Result<(), Fault> {
    let body = len.saturating_sub(8);
    transfer_all(dst, src, body)?;
    transfer_all(dst.wrapping_add(body), src.wrapping_add(body), len - body).map_err(|fault| {
        Fault {
            done: body + fault.done,
        }
    })
}

pub(crate) unsafe fn load_u64(p: *const u64) -> Result<u64, Fault> {
    let mut value = 0u64;
    transfer_all((&raw mut value).cast(), p.cast(), size_of::<u64>())?;
    Ok(value)
}

pub(crate) unsafe fn store_u64(p: *mut u64, value: u64) -> Result<(), Fault> {
    transfer_all(p.cast(), (&raw const value).cast(), size_of::<u64>())
}

fn writable(p: *mut u64) -> Result<&'static AtomicU64, Fault> {
    populate(p as usize)?;
    // SAFETY: aligned (checked by the caller) and writable a moment ago.
    Ok(unsafe { AtomicU64::from_ptr(p) })
}

fn populate(address: usize) -> Result<(), Fault> {
    let page = address & !(PAGE - 1);
    // SAFETY: faults pages in without changing them; fails where a write would.
    match unsafe { libc::madvise(page as *mut c_void, PAGE, MADV_POPULATE_WRITE) } {
        0 => Ok(()),
        _ => Err(FAULT),
    }
}

pub(crate) unsafe fn cas_u64(p: *mut u64, expect: u64, new: u64) -> Result<u64, Fault> {
    Ok(
        match writable(p)?.compare_exchange(expect, new, SeqCst, SeqCst) {
            Ok(old) | Err(old) => old,
        },
    )
}

pub(crate) unsafe fn fetch_add_u64(p: *mut u64, add: u64) -> Result<u64, Fault> {
    Ok(writable(p)?.fetch_add(add, SeqCst))
}

fn pages(first: usize, last: usize) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(first), |at| (at & !(PAGE - 1)).checked_add(PAGE))
        .take_while(move |at| *at <= last)
}

pub(crate) unsafe fn probe_read(p: *const u8, last: usize) -> Result<(), Fault> {
    let mut byte = 0u8;
    pages(p as usize, last)
        .try_for_each(|at| transfer_all(&mut byte, at as *const u8, 1).map_err(|_| FAULT))
}

pub(crate) unsafe fn probe_write(p: *mut u8, last: usize) -> Result<(), Fault> {
    pages(p as usize, last).try_for_each(populate)
}
