//! Access to the program's memory: the one place of this crate with `unsafe`.
//!
//! Addresses come from the program and may be anything; a bad one is EFAULT, as in a kernel.
#![allow(unsafe_code)]

use gaudi_softnic::{Errno, Result};
use std::os::fd::{BorrowedFd, RawFd};

/// Most bytes that one request may carry in or out.
pub(crate) const MAX_COPY: usize = 1 << 20;

/// Makes sure that faults in copies come back as errors. Called once per entry from the program.
pub(crate) fn arm() {
    usercopy::ensure();
}

/// Fills `into` from the program's memory.
pub(crate) fn read(address: u64, into: &mut [u8]) -> Result<()> {
    if into.is_empty() {
        return Ok(());
    }
    let len = into.len();
    // SAFETY: `into` is a live exclusive slice of `len` bytes of plain data; the source may be anything.
    unsafe { usercopy::copy(into.as_mut_ptr(), address as *const u8, len) }
        .map_err(|_| Errno::EFAULT)
}

pub(crate) fn read_vec(address: u64, len: usize) -> Result<Vec<u8>> {
    if len > MAX_COPY {
        return Err(Errno::EINVAL);
    }
    let mut bytes = vec![0; len];
    read(address, &mut bytes)?;
    Ok(bytes)
}

/// Stores `from` into the program's memory.
pub(crate) fn write(address: u64, from: &[u8]) -> Result<()> {
    if from.is_empty() {
        return Ok(());
    }
    // SAFETY: the program names the destination as its own buffer, as it would to a kernel; a destination that is not
    // mapped or not writable is a fault.
    unsafe { usercopy::copy(address as *mut u8, from.as_ptr(), from.len()) }
        .map_err(|_| Errno::EFAULT)
}

/// A descriptor number for the length of a system call.
pub(crate) fn borrow_fd(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: not -1, the only value that is forbidden as such (callers pass checked or constant numbers); the number is only
    // handed to system calls, which answer EBADF when the program does not hold it.
    unsafe { BorrowedFd::borrow_raw(fd.max(0)) }
}

/// A buffer of the program for an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct UserOut {
    pub(crate) address: u64,
    pub(crate) len: usize,
}

impl UserOut {
    /// As much of the answer as fits; what the program offers beyond it is zeroed.
    pub(crate) fn put(&self, answer: &[u8]) -> Result<()> {
        let n = answer.len().min(self.len);
        write(self.address, answer.get(..n).unwrap_or_default())?;
        let rest = self.len - n;
        if rest > 0 {
            let zeroes = vec![0; rest.min(MAX_COPY)];
            write(self.address.wrapping_add(n as u64), &zeroes)?;
        }
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// As much of the answer as fits, nothing else, as drivers do with their own part.
    pub(crate) fn put_prefix(&self, answer: &[u8]) -> Result<()> {
        write(
            self.address,
            answer.get(..answer.len().min(self.len)).unwrap_or_default(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_addresses_are_errors() {
        arm();
        let mut byte = [0u8; 64];
        for address in [
            0,
            8,
            0xdead_beef,
            u64::MAX,
            1 << 63,
            0x8000_0000_0000_0000 - 4,
        ] {
            assert_eq!(read(address, &mut byte), Err(Errno::EFAULT), "{address:x}");
            assert_eq!(write(address, &byte), Err(Errno::EFAULT), "{address:x}");
        }
        assert_eq!(read(0, &mut []), Ok(()));
    }

    #[test]
    fn answers_are_cut_and_padded() {
        arm();
        let mut buffer = [0xffu8; 8];
        let out = UserOut {
            address: buffer.as_mut_ptr() as u64,
            len: 6,
        };
        out.put(&[1, 2, 3]).unwrap();
        assert_eq!(buffer, [1, 2, 3, 0, 0, 0, 0xff, 0xff]);
        out.put_prefix(&[9; 16]).unwrap();
        assert_eq!(buffer, [9, 9, 9, 9, 9, 9, 0xff, 0xff]);
    }
}
