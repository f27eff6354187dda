//! Sixteen-byte compare-and-swap, with which a completion is published in one step.
//!
//! For shared memory of our own only: it does not survive a fault.

use std::arch::asm;

/// Whether this processor can do [`cas16`].
#[cfg(target_arch = "x86_64")]
pub fn has_cas16() -> bool {
    std::arch::is_x86_feature_detected!("cmpxchg16b")
}

/// Whether this processor can do [`cas16`].
#[cfg(target_arch = "aarch64")]
pub fn has_cas16() -> bool {
    true
}

/// Stores `new` if the 16 bytes at `p` equal `expect`, all at once; else returns what is there.
///
/// # Safety
/// `p` is 16-byte aligned, mapped and writable, accessed by others only with atomics, and
/// [`has_cas16`] was true.
#[cfg(target_arch = "x86_64")]
#[inline]
pub unsafe fn cas16(p: *mut [u64; 2], expect: [u64; 2], new: [u64; 2]) -> Result<(), [u64; 2]> {
    let (seen_low, seen_high): (u64, u64);
    let flag: u64;
    // SAFETY: `p` is as the caller promised. LLVM lets nobody name rbx, so it is swapped with the
    // register that holds the low half of `new` and restored at the end. The other operands are
    // named, lest they be given rbx; for `low` that would be harmless.
    unsafe {
        asm!(
            "xchg rbx, {low}",
            "lock cmpxchg16b [rdi]",
            "sete cl",
            "mov rbx, {low}",
            low = inout(reg) new[0] => _,
            in("rdi") p,
            inout("rcx") new[1] => flag,
            inout("rax") expect[0] => seen_low,
            inout("rdx") expect[1] => seen_high,
            options(nostack),
        );
    }
    if flag as u8 != 0 {
        Ok(())
    } else {
        Err([seen_low, seen_high])
    }
}

/// Stores `new` if the 16 bytes at `p` equal `expect`, all at once; else returns what is there.
///
/// # Safety
/// `p` is 16-byte aligned, mapped and writable, accessed by others only with atomics.
#[cfg(target_arch = "aarch64")]
#[inline]
pub unsafe fn cas16(p: *mut [u64; 2], expect: [u64; 2], new: [u64; 2]) -> Result<(), [u64; 2]> {
    let (seen_low, seen_high): (u64, u64);
    // SAFETY: `p` is as the caller promised. A load-exclusive pair is one access only if the store
    // succeeds, so a mismatch stores back what it loaded.
    unsafe {
        asm!(
            "2: ldaxp {lo}, {hi}, [{p}]",
            "cmp {lo}, {e0}",
            "ccmp {hi}, {e1}, #0, eq",
            "csel {t0}, {n0}, {lo}, eq",
            "csel {t1}, {n1}, {hi}, eq",
            "stlxp {fail:w}, {t0}, {t1}, [{p}]",
            "cbnz {fail:w}, 2b",
            p = in(reg) p,
            e0 = in(reg) expect[0],
            e1 = in(reg) expect[1],
            n0 = in(reg) new[0],
            n1 = in(reg) new[1],
            lo = out(reg) seen_low,
            hi = out(reg) seen_high,
            t0 = out(reg) _,
            t1 = out(reg) _,
            fail = out(reg) _,
            options(nostack),
        );
    }
    let seen = [seen_low, seen_high];
    if seen == expect { Ok(()) } else { Err(seen) }
}
