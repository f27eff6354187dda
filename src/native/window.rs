//! Memory that the device, and through it other processes, may change at any time. UNSAFE lives here and in `user.rs`.
//!
//! No reference to such memory is ever made: words are read and written atomically, bytes are copied.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::user::Fault;

/// A bounds-checked piece of shared memory. Reads outside answer zero, writes outside do nothing: the offsets come from our own
/// constants, so that is a bug caught by the debug assertion, never a wild access.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: a window is an address and a length; all accesses through it are atomic or fault-safe copies.
unsafe impl Send for Window {}
// SAFETY: as above.
unsafe impl Sync for Window {}

impl Window {
    /// # Safety
    /// `base..base+len` must stay mapped readable and writable as long as any copy of the window is used, and `base` must be 16-byte
    /// aligned.
    pub unsafe fn new(base: NonNull<u8>, len: usize) -> Window {
        Window { base, len }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Address in this process.
    pub fn address(&self) -> u64 {
        self.base.as_ptr() as u64
    }

    /// A part of it; empty when outside.
    pub fn part(&self, off: usize, len: usize) -> Window {
        match self.at(off, len) {
            Some(p) => Window { base: p, len },
            None => Window {
                base: self.base,
                len: 0,
            },
        }
    }

    #[inline]
    fn at(&self, off: usize, n: usize) -> Option<NonNull<u8>> {
        let ok = off.checked_add(n).is_some_and(|end| end <= self.len);
        debug_assert!(ok, "window access {off}+{n} of {}", self.len);
        if !ok {
            return None;
        }
        // SAFETY: off + n lies inside the mapping that the creator vouched for.
        Some(unsafe { self.base.add(off) })
    }

    #[inline]
    pub fn load64(&self, off: usize) -> u64 {
        debug_assert!(off.is_multiple_of(8));
        match self.at(off, 8) {
            // SAFETY: in bounds, aligned (base is, and off is a multiple of 8), mapped; only accessed atomically or by copies.
            Some(p) => unsafe { AtomicU64::from_ptr(p.as_ptr().cast()) }.load(Ordering::Acquire),
            None => 0,
        }
    }

    #[inline]
    pub fn store64(&self, off: usize, v: u64) {
        debug_assert!(off.is_multiple_of(8));
        if let Some(p) = self.at(off, 8) {
            // SAFETY: as in load64.
            unsafe { AtomicU64::from_ptr(p.as_ptr().cast()) }.store(v, Ordering::Release);
        }
    }

    #[inline]
    pub fn load32(&self, off: usize) -> u32 {
        debug_assert!(off.is_multiple_of(4));
        match self.at(off, 4) {
            // SAFETY: as in load64, four bytes.
            Some(p) => unsafe { AtomicU32::from_ptr(p.as_ptr().cast()) }.load(Ordering::Acquire),
            None => 0,
        }
    }

    #[inline]
    pub fn store32(&self, off: usize, v: u32) {
        debug_assert!(off.is_multiple_of(4));
        if let Some(p) = self.at(off, 4) {
            // SAFETY: as in load64, four bytes.
            unsafe { AtomicU32::from_ptr(p.as_ptr().cast()) }.store(v, Ordering::Release);
        }
    }

    /// The word for a futex; None outside.
    pub fn futex(&self, off: usize) -> Option<NonNull<u32>> {
        self.at(off, 4).map(NonNull::cast)
    }

    /// Copies our own bytes in.
    pub fn put(&self, off: usize, bytes: &[u8]) {
        if let Some(p) = self.at(off, bytes.len()) {
            // SAFETY: in bounds; a raw copy makes no reference to the shared side; the source is a live slice that cannot overlap.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), p.as_ptr(), bytes.len()) }
        }
    }

    /// Copies out into our own bytes.
    pub fn get(&self, off: usize, bytes: &mut [u8]) {
        if let Some(p) = self.at(off, bytes.len()) {
            // SAFETY: as in put.
            unsafe { std::ptr::copy_nonoverlapping(p.as_ptr(), bytes.as_mut_ptr(), bytes.len()) }
        }
    }

    pub fn zero(&self, off: usize, len: usize) {
        if let Some(p) = self.at(off, len) {
            // SAFETY: in bounds.
            unsafe { std::ptr::write_bytes(p.as_ptr(), 0, len) }
        }
    }

    /// Program memory into the window; a fault is an error.
    #[inline]
    pub fn put_user(&self, off: usize, addr: u64, len: usize) -> Result<(), Fault> {
        let p = self.at(off, len).ok_or(Fault)?;
        super::user::copy(p.as_ptr() as u64, addr, len)
    }

    /// The window into program memory; a fault is an error.
    #[inline]
    pub fn get_user(&self, off: usize, addr: u64, len: usize) -> Result<(), Fault> {
        let p = self.at(off, len).ok_or(Fault)?;
        super::user::copy(addr, p.as_ptr() as u64, len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rc::msg::{Header, LINE, arrived, kind, seal};
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    /// This thread, and what it spawns, on the CPU where it is.
    fn stay_here() {
        // SAFETY: an empty set is all-zero.
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        // SAFETY: no argument.
        let cpu = unsafe { libc::sched_getcpu() };
        // SAFETY: the set is live and the number the kernel's.
        unsafe { libc::CPU_SET(cpu as usize, &mut set) };
        // SAFETY: a set of the given size, for the calling thread.
        unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) };
    }

    /// The words before the trailer come in no order: a reader that is interrupted between its loads must not mix old and new. Both
    /// threads share a CPU, so that the writer's waking interrupts the reader anywhere.
    #[test]
    fn a_header_is_taken_when_all_of_it_is_there() {
        stay_here();
        let memory = vec![0u128; LINE / 16].leak();
        let base = std::ptr::NonNull::from(&mut memory[0]).cast();
        // SAFETY: leaked, 16-byte aligned.
        let win = unsafe { Window::new(base, LINE) };
        let taken = AtomicU32::new(0);
        let header = |seq: u32| Header {
            seq,
            kind: kind::SEND,
            lines: 1,
            len: seq,
            aux: !seq,
            ..Header::default()
        };
        const MESSAGES: u32 = 400;
        std::thread::scope(|s| {
            s.spawn(|| {
                for seq in 1..=MESSAGES {
                    win.store64(0, header(seq).words().0);
                    std::thread::sleep(Duration::from_micros(300));
                    seal(&win, 0, &header(seq), 77, false);
                    while taken.load(Ordering::Acquire) != seq {
                        std::thread::sleep(Duration::from_micros(50));
                    }
                }
            });
            let mut mixed = 0;
            for seq in 1..=MESSAGES {
                let found = loop {
                    if let Some(h) = arrived(&win, 0, LINE, seq, 77, false) {
                        break h;
                    }
                };
                if found != header(seq) {
                    mixed += 1;
                }
                taken.store(seq, Ordering::Release);
            }
            assert_eq!(mixed, 0, "of {MESSAGES}");
        });
    }
}
