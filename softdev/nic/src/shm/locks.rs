//! Record locks that tell the living from the dead: one byte per process slot in `<dir>/locks`.
//!
//! A POSIX record lock goes away with the process and at exec(2) (the descriptor is close-on-exec), and a forked child does not
//! inherit it (fcntl(2)). Closing ANY descriptor of the file drops all of the process's locks, so a process opens it once.

use super::Fd;
use crate::{Errno, Result};
use rustix::fs::{Mode, OFlags, openat};
use std::os::fd::AsFd;

pub(crate) struct LockFile {
    pub(crate) fd: Fd,
}

/// Who holds a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    Nobody,
    Process(u32),
}

impl LockFile {
    pub(crate) fn open(dir: impl AsFd) -> Result<LockFile> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(dir, "locks", flags, Mode::from_raw_mode(0o600))?;
        Ok(LockFile { fd: Fd::high(fd) })
    }

    /// To ask only.
    pub(crate) fn look(dir: impl AsFd) -> Result<LockFile> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(dir, "locks", flags, Mode::empty())?;
        Ok(LockFile { fd: Fd::high(fd) })
    }

    /// Takes the byte if nobody has it. Bytes of this very process always count as free.
    pub(crate) fn try_take(&self, byte: u32) -> Result<bool> {
        match self.control(libc::F_SETLK, libc::F_WRLCK, byte) {
            Ok(_) => Ok(true),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
            Err(e) => Err(e),
        }
    }

    pub(crate) fn release(&self, byte: u32) {
        let _ = self.control(libc::F_SETLK, libc::F_UNLCK, byte);
    }

    /// Who else holds the byte.
    pub(crate) fn holder(&self, byte: u32) -> Result<Holder> {
        let answer = self.control(libc::F_GETLK, libc::F_WRLCK, byte)?;
        Ok(if i32::from(answer.l_type) == libc::F_UNLCK {
            Holder::Nobody
        } else {
            Holder::Process(u32::try_from(answer.l_pid).unwrap_or(0))
        })
    }

    fn control(&self, command: i32, kind: i32, byte: u32) -> Result<libc::flock> {
        // SAFETY: all zeroes is a valid flock.
        let mut lock: libc::flock = unsafe { std::mem::zeroed() };
        lock.l_type = kind as i16;
        lock.l_whence = libc::SEEK_SET as i16;
        lock.l_start = i64::from(byte);
        lock.l_len = 1;
        // SAFETY: the kernel reads and writes one flock; 64-bit targets know no other layout. A raw call, since `fcntl` is
        // a name that the soft device interposes.
        let done = unsafe { libc::syscall(libc::SYS_fcntl, self.fd.raw(), command, &raw mut lock) };
        if done < 0 {
            Err(Errno::last())
        } else {
            Ok(lock)
        }
    }
}
