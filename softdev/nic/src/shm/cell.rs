//! Atomic words in shared memory, as values that borrow the mapping.

use super::sync::{AtomicU32, AtomicU64};
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

macro_rules! cell {
    ($(#[$meta:meta])* $name:ident, $int:ty, $atomic:ty) => {
        $(#[$meta])*
        #[derive(Clone, Copy)]
        pub(crate) struct $name<'a> {
            at: NonNull<$int>,
            mapping: PhantomData<&'a $atomic>,
        }

        impl<'a> $name<'a> {
            /// # Safety
            /// `at` is aligned and mapped readable and writable for `'a`, and other accesses to it are atomic and of this size, or
            /// come from programs that only harm themselves.
            pub(crate) unsafe fn new(at: NonNull<$int>) -> Self {
                Self { at, mapping: PhantomData }
            }

            #[inline(always)]
            fn atomic(self) -> &'a $atomic {
                // SAFETY: as promised to `new`; an atomic is the one kind of reference that others may write behind.
                unsafe { <$atomic>::from_ptr(self.at.as_ptr()) }
            }

            #[inline(always)]
            #[cfg_attr(test, track_caller)]
            pub(crate) fn load(self, order: Ordering) -> $int {
                self.atomic().load(order)
            }

            #[inline(always)]
            #[cfg_attr(test, track_caller)]
            pub(crate) fn store(self, value: $int, order: Ordering) {
                self.atomic().store(value, order);
            }

            #[inline(always)]
            #[cfg_attr(test, track_caller)]
            pub(crate) fn swap(self, value: $int) -> $int {
                self.atomic().swap(value, Ordering::SeqCst)
            }

            #[inline(always)]
            #[cfg_attr(test, track_caller)]
            pub(crate) fn cas(self, expect: $int, new: $int) -> Result<$int, $int> {
                self.atomic().compare_exchange(expect, new, Ordering::SeqCst, Ordering::SeqCst)
            }

            #[inline(always)]
            #[cfg_attr(test, track_caller)]
            pub(crate) fn add(self, value: $int) -> $int {
                self.atomic().fetch_add(value, Ordering::SeqCst)
            }


    #[cfg_attr(test, track_caller)]
            pub(crate) fn or(self, value: $int) -> $int {
                self.atomic().fetch_or(value, Ordering::SeqCst)
            }

        }
    };
}

cell!(
    /// A 32-bit word.
    W32,
    u32,
    AtomicU32
);
cell!(
    /// A 64-bit word.
    W64,
    u64,
    AtomicU64
);

impl W32<'_> {
    #[cfg_attr(test, track_caller)]
    pub(crate) fn max(self, value: u32) -> u32 {
        self.atomic().fetch_max(value, Ordering::SeqCst)
    }

    #[cfg_attr(test, track_caller)]
    pub(crate) fn min(self, value: u32) -> u32 {
        self.atomic().fetch_min(value, Ordering::SeqCst)
    }

    /// For the kernel.
    pub(crate) fn ptr(self) -> *mut u32 {
        self.at.as_ptr()
    }
}

impl W64<'_> {
    /// What is there, also for a thread of an exploration.
    #[cfg(test)]
    pub(crate) fn real(self) -> u64 {
        self.atomic().real()
    }

    #[inline(always)]
    #[cfg_attr(test, track_caller)]
    pub(crate) fn sub(self, value: u64) -> u64 {
        self.atomic().fetch_sub(value, Ordering::Release)
    }
}

/// Where offsets end that do not fit. Nothing that is stored here is ever used.
#[repr(C, align(64))]
struct Void([AtomicU64; 8]);
static VOID: Void = Void([const { AtomicU64::new(0) }; 8]);

pub(crate) fn void32() -> W32<'static> {
    let at = NonNull::from(&VOID.0[0]).cast();
    // SAFETY: a static, aligned for more than a word, used by nobody.
    unsafe { W32::new(at) }
}

pub(crate) fn void64() -> W64<'static> {
    let at = NonNull::from(&VOID.0[1]).cast();
    // SAFETY: as above.
    unsafe { W64::new(at) }
}
