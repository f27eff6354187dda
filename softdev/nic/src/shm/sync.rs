//! The atomics of this crate's own process. In unit tests every order of their operations can be gone through ([`super::model`]).

#[cfg(not(test))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, fence};

#[cfg(test)]
pub(crate) use modelled::*;

#[cfg(test)]
mod modelled {
    use super::super::model;
    use std::sync::atomic::{self, Ordering};

    #[track_caller]
    pub(crate) fn fence(order: Ordering) {
        if !model::fence(order) {
            atomic::fence(order);
        }
    }

    macro_rules! modelled {
        ($name:ident, $int:ty, |$value:ident| $into:expr, |$word:ident| $from:expr) => {
            #[derive(Debug, Default)]
            #[repr(transparent)]
            pub(crate) struct $name(atomic::$name);

            #[allow(dead_code, reason = "the same operations for all")]
            impl $name {
                pub(crate) const fn new(value: $int) -> Self {
                    Self(atomic::$name::new(value))
                }
                /// # Safety
                /// As of the standard library's function of this name.
                pub(crate) unsafe fn from_ptr<'a>(at: *mut $int) -> &'a Self {
                    // SAFETY: the same memory; promised by the caller.
                    unsafe { &*at.cast::<Self>() }
                }
                fn at(&self) -> usize {
                    self.0.as_ptr() as usize
                }
                pub(crate) fn real(&self) -> u64 {
                    let $value = self.0.load(Ordering::Relaxed);
                    $into
                }
                #[track_caller]
                pub(crate) fn load(&self, order: Ordering) -> $int {
                    match model::load(self.at(), size_of::<$int>(), order, || self.real()) {
                        Some($word) => $from,
                        None => self.0.load(order),
                    }
                }
                #[track_caller]
                pub(crate) fn store(&self, $value: $int, order: Ordering) {
                    if model::store(self.at(), size_of::<$int>(), $into, order, || self.real())
                        .is_none()
                    {
                        self.0.store($value, order);
                    }
                }
                #[track_caller]
                fn update(
                    &self,
                    order: Ordering,
                    mut change: impl FnMut($int) -> Option<$int>,
                ) -> Result<$int, $int> {
                    let inner = |$word: u64| change($from).map(|$value| $into);
                    match model::update(self.at(), size_of::<$int>(), order, || self.real(), inner)
                    {
                        Some(Ok($word)) => Ok($from),
                        Some(Err($word)) => Err($from),
                        None => self.0.fetch_update(order, Ordering::Relaxed, change),
                    }
                }
                #[track_caller]
                pub(crate) fn swap(&self, value: $int, order: Ordering) -> $int {
                    self.update(order, |_| Some(value)).unwrap_or(value)
                }
                #[track_caller]
                pub(crate) fn compare_exchange(
                    &self,
                    expect: $int,
                    new: $int,
                    order: Ordering,
                    failed: Ordering,
                ) -> Result<$int, $int> {
                    if model::active() {
                        self.update(order, |old| (old == expect).then_some(new))
                    } else {
                        self.0.compare_exchange(expect, new, order, failed)
                    }
                }
                #[track_caller]
                pub(crate) fn fetch_update(
                    &self,
                    order: Ordering,
                    fetch: Ordering,
                    change: impl FnMut($int) -> Option<$int>,
                ) -> Result<$int, $int> {
                    if model::active() {
                        self.update(order, change)
                    } else {
                        self.0.fetch_update(order, fetch, change)
                    }
                }
            }
        };
    }

    macro_rules! numbers {
        ($($name:ident, $int:ty;)*) => { $(
            modelled!($name, $int, |v| u64::from(v), |w| w as $int);
            #[allow(dead_code, reason = "the same operations for all")]
            impl $name {
                #[track_caller]
                pub(crate) fn fetch_add(&self, n: $int, order: Ordering) -> $int {
                    self.update(order, |old| Some(old.wrapping_add(n))).unwrap_or(0)
                }
                #[track_caller]
                pub(crate) fn fetch_sub(&self, n: $int, order: Ordering) -> $int {
                    self.update(order, |old| Some(old.wrapping_sub(n))).unwrap_or(0)
                }
                #[track_caller]
                pub(crate) fn fetch_or(&self, n: $int, order: Ordering) -> $int {
                    self.update(order, |old| Some(old | n)).unwrap_or(0)
                }
                #[track_caller]
                pub(crate) fn fetch_max(&self, n: $int, order: Ordering) -> $int {
                    self.update(order, |old| Some(old.max(n))).unwrap_or(0)
                }
                #[track_caller]
                pub(crate) fn fetch_min(&self, n: $int, order: Ordering) -> $int {
                    self.update(order, |old| Some(old.min(n))).unwrap_or(0)
                }
                #[track_caller]
                pub(crate) fn fetch_and(&self, n: $int, order: Ordering) -> $int {
                    self.update(order, |old| Some(old & n)).unwrap_or(0)
                }
            }
        )* };
    }

    modelled!(AtomicBool, bool, |v| u64::from(v), |w| w != 0);
    numbers! {
        AtomicU8, u8;
        AtomicU32, u32;
        AtomicU64, u64;
    }
}
