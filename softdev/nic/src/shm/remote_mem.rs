//! Another process's private memory, held by something that is bound to its address space: an open `/proc/<pid>/mem` yields
//! nothing after death or exec, whoever has the pid then.
//!
//! A process whose first thread has called pthread_exit(3) is a zombie by its own number: neither its directory below `/proc` nor
//! process_vm_writev(2) lead to its memory. Those of any other of its threads do.

use super::{Fd, clock};
use crate::{Errno, Result};
use rustix::fs::{Mode, OFlags, open};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// A process as the kernel is asked about it: by its number, and by that of one of its threads unless that is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Who {
    pub(crate) pid: u32,
    pub(crate) thread: u32,
}

impl Who {
    fn number(self) -> u32 {
        if self.thread == 0 {
            self.pid
        } else {
            self.thread
        }
    }

    /// Opens what is below the process's directory. A thread that has ended, or belongs to somebody else by now, is not below it.
    pub(crate) fn open(self, path: &str, flags: OFlags) -> Result<OwnedFd> {
        let Who { pid, thread } = self;
        let flags = flags | OFlags::CLOEXEC;
        if thread != 0 {
            match open(
                format!("/proc/{pid}/task/{thread}/{path}"),
                flags,
                Mode::empty(),
            ) {
                Err(rustix::io::Errno::NOENT | rustix::io::Errno::SRCH) => {}
                other => return Ok(other?),
            }
        }
        Ok(open(format!("/proc/{pid}/{path}"), flags, Mode::empty())?)
    }
}

pub(crate) struct RemoteMem {
    fd: Fd,
    pid: i32,
    /// When the address space was last seen to exist, in µs.
    proven: AtomicU64,
    /// `process_vm_writev` is refused (old seccomp filters of containers): everything goes by the descriptor, at half the speed.
    refused: AtomicBool,
}

/// How a copy into another process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RemoteError {
    /// Our own side is not readable.
    Local,
    /// The target is not mapped or not writable.
    Remote,
    /// The address space is gone.
    Dead,
    /// We may not (yama, see ptrace(2)).
    Denied,
}

/// How long an answer to that question is good, in µs. Whoever asks may be preempted before the copy anyway; this is far
/// below the time that exec(2) takes to map anything at a data address, or a process number to come round again.
const PROOF: u64 = 50;
/// Keeps signals and the unmapping side waiting for no longer than a few tens of microseconds.
const SLICE: usize = 512 << 10;

impl RemoteMem {
    pub(crate) fn open(who: Who) -> Result<RemoteMem> {
        let fd = who.open("mem", OFlags::RDWR)?;
        let pid = i32::try_from(who.number()).map_err(|_| Errno::ESRCH)?;
        let mem = RemoteMem {
            proven: AtomicU64::new(0),
            refused: AtomicBool::new(false),
            fd: Fd::high(fd),
            pid,
        };
        // Of a zombie, or of a process that is gone: nothing would ever be reached through it.
        if mem.alive() {
            Ok(mem)
        } else {
            Err(Errno::ESRCH)
        }
    }

    /// Copies upwards; the last aligned 8 bytes are stored after all others, by an element of their own. That is one of the
    /// local side, where an element costs nothing: each remote one makes the kernel look up and pin its pages anew.
    pub(crate) fn write(
        &self,
        addr: u64,
        src: *const u8,
        len: usize,
    ) -> std::result::Result<(), RemoteError> {
        if split(addr, len).0 == 0 {
            // One element: here the descriptor is cheaper than `process_vm_writev`, and needs no question before it.
            return self.write_by_descriptor(addr, src, len);
        }
        let mut done = 0;
        while done < len {
            let step = (len - done).min(SLICE);
            let at = addr.checked_add(done as u64).ok_or(RemoteError::Remote)?;
            let from = src.wrapping_add(done);
            if self.refused.load(Relaxed) {
                self.write_by_descriptor(at, from, step)?;
            } else {
                self.write_slice(at, from, step)?;
            }
            done += step;
        }
        Ok(())
    }

    fn write_by_descriptor(
        &self,
        addr: u64,
        src: *const u8,
        len: usize,
    ) -> std::result::Result<(), RemoteError> {
        let (local, first) = parts(addr, src, len);
        let at = libc::off_t::try_from(addr).map_err(|_| RemoteError::Remote)?;
        // SAFETY: the kernel checks both sides; the elements are ours. Arguments as the raw call has them: position low, high.
        let n = unsafe {
            libc::syscall(
                libc::SYS_pwritev,
                self.fd.raw(),
                local.as_ptr().wrapping_add(first),
                2 - first,
                at,
                0usize,
            )
        };
        match usize::try_from(n) {
            Ok(n) if n == len => Ok(()),
            Ok(0) if !self.alive() => Err(RemoteError::Dead),
            // Partial, or nothing: one of the two sides ended.
            Ok(_) => Err(blame(src, len)),
            Err(_) => Err(match Errno::last() {
                Errno::EFAULT => RemoteError::Local,
                Errno::EPERM | Errno::EACCES => RemoteError::Denied,
                Errno::ESRCH => RemoteError::Dead,
                _ => blame(src, len),
            }),
        }
    }

    fn write_slice(
        &self,
        addr: u64,
        src: *const u8,
        len: usize,
    ) -> std::result::Result<(), RemoteError> {
        // The call below takes a pid, which may be somebody else's by now: the descriptor knows.
        let now = clock::now_us();
        if now.saturating_sub(self.proven.load(Relaxed)) < PROOF {
            // Good for a while yet.
        } else if self.alive() {
            self.proven.store(now, Relaxed);
        } else {
            return Err(RemoteError::Dead);
        }
        let (local, first) = parts(addr, src, len);
        let remote = part(addr as *const u8, len);
        // SAFETY: the kernel checks both sides; the elements are ours.
        let n = unsafe {
            libc::syscall(
                libc::SYS_process_vm_writev,
                libc::c_long::from(self.pid),
                local.as_ptr().wrapping_add(first),
                2 - first,
                &raw const remote,
                1usize,
                // A full register: the flags are an unsigned long.
                0usize,
            )
        };
        match usize::try_from(n) {
            Ok(n) if n == len => Ok(()),
            Ok(_) => Err(blame(src, len)),
            Err(_) => Err(match Errno::last() {
                Errno::ESRCH if !self.alive() => RemoteError::Dead,
                // ESRCH: the thread has ended, the process has not.
                Errno::ESRCH | Errno::EPERM | Errno::ENOSYS => {
                    self.refused.store(true, Relaxed);
                    return self.write_by_descriptor(addr, src, len);
                }
                _ => blame(src, len),
            }),
        }
    }

    /// Whether the address space still exists: a read of it gives an error for an unmapped address, but nothing at all when it
    /// is gone. Address 0 is unmapped as a rule, which makes the question half as dear.
    fn alive(&self) -> bool {
        let mut byte = [0u8; 1];
        !matches!(rustix::io::pread(&self.fd, &mut byte, 0), Ok(0))
    }
}

/// The bytes in front of the last aligned 8 of the target, and the rest.
fn split(addr: u64, len: usize) -> (usize, usize) {
    let end = addr.wrapping_add(len as u64);
    let tail = 8 + (end % 8) as usize;
    if len > tail {
        (len - tail, tail)
    } else {
        (0, len)
    }
}

/// The local elements of a copy to `addr`, and which of the two is the first.
fn parts(addr: u64, src: *const u8, len: usize) -> ([libc::iovec; 2], usize) {
    let (head, tail) = split(addr, len);
    let parts = [part(src, head), part(src.wrapping_add(head), tail)];
    (parts, usize::from(head == 0))
}

fn part(at: *const u8, len: usize) -> libc::iovec {
    libc::iovec {
        iov_base: at.cast_mut().cast(),
        iov_len: len,
    }
}

/// The kernel does not say which side it could not reach.
fn blame(src: *const u8, len: usize) -> RemoteError {
    // SAFETY: any address may be probed; these are the program's plain memory.
    match unsafe { usercopy::probe_read(src, len) } {
        Ok(()) => RemoteError::Remote,
        Err(_) => RemoteError::Local,
    }
}
