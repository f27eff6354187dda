//! Waking the waiters of a word in shared memory.

use super::W32;
use std::sync::atomic::AtomicU32;

/// Wakes every waiter of the word, in any process (no private futex).
pub(crate) fn wake_all(word: W32<'_>) {
    use rustix::thread::futex;
    #[cfg(test)]
    if super::model::active() {
        return;
    }
    // SAFETY: a cell points to a mapped, aligned word that is only accessed atomically.
    let word: &AtomicU32 = unsafe { AtomicU32::from_ptr(word.ptr()) };
    let _ = futex::wake(word, futex::Flags::empty(), i32::MAX as u32);
}
