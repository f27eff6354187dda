//! Work that several threads may bring to one lock: none of them waits, and none of it is forgotten.

use crate::shm::barrier;
use crate::shm::sync::AtomicU64;
use crate::shm::trylock::TryLock;
use std::sync::atomic::Ordering::*;

const BELL: u64 = 1 << 32;

/// Works under the lock, or leaves the bell in `again` with the thread that does. False when another thread is at it and there was no
/// bell to leave. `further` says which of two bells came last.
#[inline(always)]
pub(super) fn hand_over<T>(
    lock: &TryLock<T>,
    again: &AtomicU64,
    bell: Option<u32>,
    further: impl Fn(&T, u32, u32) -> u32,
    mut work: impl FnMut(&mut T, Option<u32>),
) -> bool {
    let mut bell = bell;
    loop {
        let Some(mut held) = lock.try_lock() else {
            match bell.take() {
                // Whoever holds the lock looks at this after letting go; if that is past, the next attempt succeeds.
                Some(pi) => again.swap(u64::from(pi) | BELL, SeqCst),
                None => return false,
            };
            // Letting go is a plain store there: now it is seen, or the holder's look comes after ours.
            barrier::on_ours();
            continue;
        };
        let handed = if again.load(Relaxed) == 0 {
            0
        } else {
            again.swap(0, SeqCst)
        };
        let bell = match (bell.take(), handed) {
            (own, 0) => own,
            (None, pi) => Some(pi as u32),
            // Two threads rang at once: the one further round the ring saw more.
            (Some(own), pi) => Some(further(&held, own, pi as u32)),
        };
        work(&mut held, bell);
        drop(held);
        if again.load(SeqCst) == 0 {
            return true;
        }
    }
}

#[cfg(test)]
mod model;
