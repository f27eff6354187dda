//! Asymmetric fences. The data path announces an access and looks whether it may go on, which takes a full fence between the two; whoever
//! is rarely there (it unmaps, stops, or finds a lock taken) pays for it instead, by having every processor execute one:
//! membarrier(2). Where the kernel refuses that, both sides fence as usual.

use super::sync::fence;
use std::sync::atomic::{AtomicBool, Ordering::*, compiler_fence};

// linux/membarrier.h
const GLOBAL_EXPEDITED: i32 = 1 << 1;
const REGISTER_GLOBAL_EXPEDITED: i32 = 1 << 2;
const PRIVATE_EXPEDITED: i32 = 1 << 3;
const REGISTER_PRIVATE_EXPEDITED: i32 = 1 << 4;

/// For tests and comparisons: ordinary fences.
const ENV_OFF: &str = "GAUDI_SOFT_NO_MEMBARRIER";

/// This process is registered for both kinds.
static READY: AtomicBool = AtomicBool::new(false);
/// It was once: somebody may rely on it.
static PROMISED: AtomicBool = AtomicBool::new(false);

/// Registers the process; before it reaches into memory of others, and again in a fork child that begins anew.
pub(crate) fn begin() {
    let ready = std::env::var_os(ENV_OFF).is_none()
        && membarrier(REGISTER_GLOBAL_EXPEDITED)
        && membarrier(REGISTER_PRIVATE_EXPEDITED);
    if ready {
        PROMISED.store(true, SeqCst);
    }
    READY.store(ready, SeqCst);
}

/// Whether fences of this process's data path may be left to the other side.
#[inline(always)]
pub(crate) fn is_ready() -> bool {
    #[cfg(test)]
    if let Some(light) = super::model::is_light() {
        return light;
    }
    READY.load(Relaxed)
}

/// The place of the full fence that the other side's [`on_all`] or [`on_ours`] stands for.
#[inline(always)]
pub(crate) fn light() {
    compiler_fence(SeqCst);
}

/// A full fence here and on every processor that runs a registered process, this one or another.
pub(crate) fn on_all() {
    heavy(GLOBAL_EXPEDITED);
}

/// The same for the threads of this process.
pub(crate) fn on_ours() {
    heavy(PRIVATE_EXPEDITED);
}

#[cfg_attr(test, track_caller)]
fn heavy(command: i32) {
    #[cfg(test)]
    if super::model::is_light() == Some(true) && super::model::fence_all() {
        return;
    }
    fence(SeqCst);
    if PROMISED.load(Relaxed) && !membarrier(command) {
        // Granted at the start and refused now: the program has locked itself in (seccomp). Stores do not stay in a processor's
        // buffer for a thousandth of this time, and a thread that is not running has none.
        static TOLD: AtomicBool = AtomicBool::new(false);
        if !TOLD.swap(true, Relaxed) {
            log::warn!("membarrier(2) is refused now; unmapping memory takes longer");
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    fence(SeqCst);
}

fn membarrier(command: i32) -> bool {
    // SAFETY: takes numbers.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
}
