//! A process-private lock that is only ever tried, with a session number that lets others wait for the holder to pass.

use super::barrier;
use super::sync::AtomicU64;
use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::Ordering::*;

/// Taking it is a full fence: whoever sees it free after an invalidation and a fence knows that the next holder sees the invalidation.
/// Letting go is one only where there is no [`barrier`]: who leaves word for the holder because the lock is taken, and relies on the
/// holder's look behind letting go, calls [`barrier::on_ours`] and tries once more.
pub(crate) struct TryLock<T> {
    /// Odd while held; goes up by one at each change.
    word: AtomicU64,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached only by the one holder of the lock.
unsafe impl<T: Send> Sync for TryLock<T> {}

pub(crate) struct Guard<'a, T> {
    lock: &'a TryLock<T>,
    session: u64,
}

impl<T> TryLock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            word: AtomicU64::new(0),
            value: UnsafeCell::new(value),
        }
    }

    #[inline(always)]
    pub(crate) fn try_lock(&self) -> Option<Guard<'_, T>> {
        let free = self.word.load(Relaxed);
        if free & 1 != 0 {
            return None;
        }
        self.word
            .compare_exchange(free, free + 1, SeqCst, Relaxed)
            .ok()?;
        Some(Guard {
            lock: self,
            session: free + 1,
        })
    }

    /// Waits for the lock; holders work for a bounded time.
    pub(crate) fn lock(&self) -> Guard<'_, T> {
        let mut turns = 0u32;
        loop {
            if let Some(guard) = self.try_lock() {
                return guard;
            }
            pause(&mut turns);
        }
    }

    /// Waits until whoever holds the lock at this moment has let go of it.
    pub(crate) fn wait_passed(&self) {
        let seen = self.word.load(SeqCst);
        if seen & 1 == 0 {
            return;
        }
        let mut turns = 0u32;
        while self.word.load(SeqCst) == seen {
            pause(&mut turns);
        }
    }
}

/// Spins a little, then gives the processor away.
#[cfg_attr(test, track_caller)]
pub(crate) fn pause(turns: &mut u32) {
    #[cfg(test)]
    if super::model::pause() {
        return;
    }
    *turns = turns.saturating_add(1);
    if *turns < 64 {
        std::hint::spin_loop();
    } else if *turns < 1024 {
        std::thread::yield_now();
    } else {
        std::thread::sleep(std::time::Duration::from_micros(100));
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;
    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: a guard exists only while its holder has the lock.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and the guard itself is borrowed exclusively.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        // A full fence would wait until the copy that was just made has reached the other processor.
        if barrier::is_ready() {
            self.lock.word.store(self.session + 1, Release);
        } else {
            self.lock.word.store(self.session + 1, SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time() {
        let lock = TryLock::new(0u64);
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    for _ in 0..10_000 {
                        *lock.lock() += 1;
                    }
                });
            }
        });
        assert_eq!(*lock.lock(), 40_000);
        let held = lock.try_lock();
        assert!(held.is_some() && lock.try_lock().is_none());
        drop(held);
        lock.wait_passed();
    }
}
