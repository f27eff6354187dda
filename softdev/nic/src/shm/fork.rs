//! Which process this is. A forked child inherits objects, locks in any state and no threads; every object remembers the
//! incarnation that made it and is dead in another.

use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering::*};

/// A page that fork(2) empties in the child (MADV_WIPEONFORK): holds the incarnation, never 0.
static PAGE: AtomicPtr<u32> = AtomicPtr::new(null_mut());
/// Last incarnation given out; ordinary memory, so a child continues from its parent's.
static LAST: AtomicU32 = AtomicU32::new(0);

fn page() -> Option<NonNull<u32>> {
    NonNull::new(PAGE.load(Acquire))
}

fn word<'a>(at: NonNull<u32>) -> &'a AtomicU32 {
    // SAFETY: the page is never unmapped, and every access to it is this one.
    unsafe { AtomicU32::from_ptr(at.as_ptr()) }
}

/// The incarnation of this process; 0 before the first [`begin`] and in a child that has not begun anew.
#[inline(always)]
pub(crate) fn incarnation() -> u32 {
    page().map_or(0, |at| word(at).load(Relaxed))
}

/// Makes sure that this process has an incarnation.
pub(crate) fn begin() -> crate::Result<u32> {
    let at = match page() {
        Some(at) => at,
        None => map_page()?,
    };
    let mine = word(at);
    loop {
        match mine.load(Acquire) {
            0 => {
                let next = LAST.fetch_add(1, AcqRel) + 1;
                let _ = mine.compare_exchange(0, next.max(1), AcqRel, Acquire);
            }
            have => return Ok(have),
        }
    }
}

fn map_page() -> crate::Result<NonNull<u32>> {
    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
    // SAFETY: a new mapping replaces nothing.
    let fresh = unsafe {
        mmap_anonymous(
            null_mut(),
            4096,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE,
        )
    }?;
    // SAFETY: the page was just mapped and nobody knows it.
    unsafe { madvise(fresh, 4096, Advice::LinuxWipeOnFork) }?;
    match PAGE.compare_exchange(null_mut(), fresh.cast(), AcqRel, Acquire) {
        Ok(_) => NonNull::new(fresh.cast()).ok_or(crate::Errno::ENOMEM),
        Err(other) => {
            // SAFETY: nobody else has seen this page.
            let _ = unsafe { munmap(fresh, 4096) };
            NonNull::new(other).ok_or(crate::Errno::ENOMEM)
        }
    }
}

/// Called in a fork child by the face: the same as what the kernel did to the page.
pub(crate) fn forget() {
    if let Some(at) = page() {
        word(at).store(0, Release);
    }
}

/// Something that a process has once, made anew after a fork.
pub(crate) struct PerProcess<T>(AtomicPtr<(u32, T)>);

impl<T: Sync> PerProcess<T> {
    pub(crate) const fn new() -> Self {
        Self(AtomicPtr::new(null_mut()))
    }

    /// The value of this incarnation; a forked child leaves its parent's alone, whose locks may be held forever.
    pub(crate) fn get(&'static self, make: fn() -> T) -> &'static T {
        let now = incarnation();
        let seen = self.0.load(Acquire);
        // SAFETY: null or a box that was leaked below and is never changed.
        if let Some((made, value)) = unsafe { seen.as_ref() }
            && *made == now
        {
            return value;
        }
        let fresh = Box::into_raw(Box::new((now, make())));
        match self.0.compare_exchange(seen, fresh, AcqRel, Acquire) {
            // SAFETY: leaked just now.
            Ok(_) => unsafe { &(*fresh).1 },
            // Another thread of this incarnation was faster; ours stays behind, once in a process's life.
            // SAFETY: not null, since somebody stored a leaked box.
            Err(other) => unsafe { &(*other).1 },
        }
    }
}
