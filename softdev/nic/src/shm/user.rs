//! Plain memory of the program that we live in, at addresses that the program named.

use crate::{Errno, Result};

/// Copies upwards between the program's memory or mapped files; false when either side is not there.
#[inline(always)]
pub(crate) fn copy(dst: *mut u8, src: *const u8, len: usize) -> bool {
    // SAFETY: both ranges were given to the MMU by the program as buffers, or lie in a file shared with peers; Rust objects of
    // ours are in neither. Whether they are mapped is what the result says.
    unsafe { usercopy::copy(dst, src, len) }.is_ok()
}

pub(crate) fn readable(src: *const u8, len: usize) -> bool {
    // SAFETY: any address may be probed.
    unsafe { usercopy::probe_read(src, len) }.is_ok()
}

/// EFAULT unless every page of the range is mapped, whatever its protection (mincore(2) answers ENOMEM for holes).
pub(crate) fn check_mapped(addr: u64, len: u64) -> Result<()> {
    const PAGE: u64 = 4096;
    const PAGES: u64 = 16384;
    let mut at = addr & !(PAGE - 1);
    let end = addr.checked_add(len).ok_or(Errno::EINVAL)?;
    let mut seen = vec![0u8; PAGES.min((end - at).div_ceil(PAGE)) as usize];
    while at < end {
        let step = (end - at).div_ceil(PAGE).min(PAGES) * PAGE;
        // SAFETY: the kernel writes one byte for each page of the step, which is at most what `seen` holds.
        let done = unsafe { libc::syscall(libc::SYS_mincore, at, step, seen.as_mut_ptr()) };
        if done != 0 {
            return Err(match Errno::last() {
                Errno::ENOMEM => Errno::EFAULT,
                e => e,
            });
        }
        at += step;
    }
    Ok(())
}
