//! A shared mapping of a file.

use super::cell::{W32, W64, void32, void64};
use super::fork;
use crate::Result;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};
use std::os::fd::AsFd;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::Ordering::Relaxed;

/// `len` bytes of a file, shared and writable.
pub(crate) struct Mapping {
    base: NonNull<u8>,
    len: usize,
    incarnation: u32,
}

// SAFETY: the mapping belongs to the process, not to a thread, and is reached by atomics and raw copies only.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `len` bytes.
    pub(crate) fn new(fd: impl AsFd, len: u64) -> Result<Mapping> {
        let len = usize::try_from(len).map_err(|_| crate::Errno::ENOMEM)?;
        let flags = MapFlags::SHARED | MapFlags::NORESERVE;
        // SAFETY: a new mapping replaces nothing.
        let base = unsafe {
            mmap(
                null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                flags,
                fd,
                0,
            )
        }?;
        // Virtual sizes are large; a core dump need not walk them.
        // SAFETY: the range was mapped just now.
        let _ = unsafe { madvise(base, len, Advice::LinuxDontDump) };
        let base = NonNull::new(base.cast()).ok_or(crate::Errno::ENOMEM)?;
        Ok(Mapping {
            base,
            len,
            incarnation: fork::incarnation(),
        })
    }

    pub(crate) fn len(&self) -> u64 {
        self.len as u64
    }

    /// Address of `len` bytes at `off`, if they lie inside.
    #[inline(always)]
    pub(crate) fn ptr(&self, off: u64, len: u64) -> Option<*mut u8> {
        let end = off.checked_add(len)?;
        (end <= self.len as u64).then(|| self.base.as_ptr().wrapping_add(off as usize))
    }

    /// The word at `off`, or one that nobody uses.
    #[inline(always)]
    pub(crate) fn w32(&self, off: u64) -> W32<'_> {
        match self.ptr(off, 4).and_then(|p| NonNull::new(p.cast::<u32>())) {
            // SAFETY: inside the mapping, aligned, and reached by cells or by whoever owns the file.
            Some(at) if at.is_aligned() => unsafe { W32::new(at) },
            _ => void32(),
        }
    }

    #[inline(always)]
    pub(crate) fn w64(&self, off: u64) -> W64<'_> {
        match self.ptr(off, 8).and_then(|p| NonNull::new(p.cast::<u64>())) {
            // SAFETY: as above.
            Some(at) if at.is_aligned() => unsafe { W64::new(at) },
            _ => void64(),
        }
    }

    /// `N` consecutive words, each loaded once.
    #[inline(always)]
    #[cfg_attr(test, track_caller)]
    pub(crate) fn load_words<const N: usize>(&self, off: u64) -> [u64; N] {
        let mut words = [0; N];
        if self.ptr(off, 8 * N as u64).is_none() {
            return words;
        }
        for (word, at) in words.iter_mut().zip((off..).step_by(8)) {
            *word = self.w64(at).load(Relaxed);
        }
        words
    }

    #[cfg_attr(test, track_caller)]
    pub(crate) fn store_words(&self, off: u64, words: &[u64]) {
        for (word, at) in words.iter().zip((off..).step_by(8)) {
            self.w64(at).store(*word, Relaxed);
        }
    }

    /// Copies bytes of ours in; nothing where they do not fit.
    #[inline(always)]
    pub(crate) fn put(&self, off: u64, bytes: &[u8]) {
        if let Some(to) = self.ptr(off, bytes.len() as u64) {
            // SAFETY: inside the mapping; a raw copy makes no reference to memory that others write; ours does not overlap it.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        }
    }

    /// Copies bytes out.
    #[inline(always)]
    pub(crate) fn get(&self, off: u64, bytes: &mut [u8]) {
        if let Some(from) = self.ptr(off, bytes.len() as u64) {
            // SAFETY: as in `put`.
            unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len()) };
        }
    }

    /// Sixteen-byte compare-and-swap at an offset that is a multiple of 16; what is there if it differs.
    #[inline(always)]
    #[cfg_attr(test, track_caller)]
    pub(crate) fn cas16(
        &self,
        off: u64,
        expect: [u64; 2],
        new: [u64; 2],
    ) -> std::result::Result<(), [u64; 2]> {
        #[cfg(test)]
        if let Some(p) = self.ptr(off, 16) {
            let words = || [0, 8].map(|more| self.w64(off + more).real());
            if let Some(done) = super::model::cas16(p as usize, expect, new, words) {
                return done;
            }
        }
        match self.ptr(off, 16).map(|p| p.cast::<[u64; 2]>()) {
            // SAFETY: mapped, aligned to 16 (checked here), and contexts open only on processors that have it.
            Some(at) if off.is_multiple_of(16) => unsafe { usercopy::cas16(at, expect, new) },
            _ => Err(expect),
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.incarnation != fork::incarnation() {
            return;
        }
        // SAFETY: nobody holds a cell or address of the mapping: cells borrow it, and addresses do not outlive their use.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
    }
}
