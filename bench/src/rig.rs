//! Two processes on two CPUs with memory between them, and the arithmetic of repeated measurements.

use rustix::fs::MemfdFlags;
use rustix::mm::{MapFlags, ProtFlags};
use rustix::process::{Pid, WaitOptions};
use rustix::thread::CpuSet;
use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::ptr::null_mut;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

/// A pair that has not finished by then hangs.
const DEADLINE: Duration = Duration::from_secs(30);
const SPINS_BETWEEN_CHECKS: u32 = 1 << 20;

/// Memory that both processes of a pair see: a file's pages if shared, else a private copy each at
/// the same address.
pub struct Arena {
    start: *mut u8,
    len: usize,
    _file: Option<OwnedFd>,
}

impl Arena {
    /// Pages of a memfd, as the soft device's arenas are.
    pub fn shared(len: usize) -> io::Result<Arena> {
        let file = rustix::fs::memfd_create(c"gaudi-bench", MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&file, len as u64)?;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start =
            unsafe { rustix::mm::mmap(null_mut(), len, rights(), MapFlags::SHARED, &file, 0) }?;
        Ok(Arena {
            start: start.cast(),
            len,
            _file: Some(file),
        }
        .touched())
    }

    /// Anonymous pages, as a program's own buffers are.
    pub fn private(len: usize) -> io::Result<Arena> {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start =
            unsafe { rustix::mm::mmap_anonymous(null_mut(), len, rights(), MapFlags::PRIVATE) }?;
        Ok(Arena {
            start: start.cast(),
            len,
            _file: None,
        }
        .touched())
    }

    fn touched(self) -> Arena {
        self.touch();
        self
    }

    /// Writes to every page; a process of a pair does so to get its own copy of a private arena.
    pub fn touch(&self) {
        for offset in (0..self.len).step_by(4096) {
            self.word(offset)
                .fetch_or(0, std::sync::atomic::Ordering::Relaxed);
        }
    }

    /// The address of a byte.
    pub fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset < self.len);
        self.start.wrapping_add(offset)
    }

    /// An aligned word.
    pub fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.len);
        let at = self.start.wrapping_add(offset).cast();
        // SAFETY: in bounds, aligned, mapped as long as `self`, and only accessed by atomics or by
        // the copies of `usercopy` and the kernel, which are opaque to the compiler.
        unsafe { AtomicU64::from_ptr(at) }
    }

    /// Its size in bytes.
    pub fn size(&self) -> usize {
        self.len
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: our own mapping, which nobody can refer to any more.
        let _ = unsafe { rustix::mm::munmap(self.start.cast(), self.len) };
    }
}

fn rights() -> ProtFlags {
    ProtFlags::READ | ProtFlags::WRITE
}

/// The two CPUs that all measurements use.
#[derive(Clone, Copy, Debug)]
pub struct Rig {
    pub cpus: [usize; 2],
}

impl Rig {
    /// The first two CPUs that this process may use.
    pub fn new() -> io::Result<Rig> {
        let allowed = rustix::thread::sched_getaffinity(None)?;
        let mut cpus = (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu));
        match (cpus.next(), cpus.next()) {
            (Some(first), Some(second)) => Ok(Rig {
                cpus: [first, second],
            }),
            _ => Err(io::Error::other("two CPUs are needed, one is allowed")),
        }
    }

    /// Runs `near` in this process and `far` in a child, each on its CPU.
    pub fn pair<R>(
        &self,
        near: impl FnOnce(&Side) -> io::Result<R>,
        far: impl FnOnce(&Side) -> io::Result<()>,
    ) -> io::Result<R> {
        let us = rustix::process::getpid();
        let before = rustix::thread::sched_getaffinity(None)?;
        // SAFETY: the child runs `far` on this thread alone and leaves through _exit.
        let child = unsafe { libc::fork() };
        if child < 0 {
            return Err(io::Error::last_os_error());
        }
        if child == 0 {
            let side = Side::new(us, false);
            let code = match side.prepare(self.cpus[1]).and_then(|()| far(&side)) {
                Ok(()) => 0,
                Err(error) => {
                    eprintln!("far side: {error}");
                    1
                }
            };
            // SAFETY: leaves the parent's exit handlers and buffers alone.
            unsafe { libc::_exit(code) };
        }
        let child = Pid::from_raw(child).ok_or_else(|| io::Error::other("fork gave no pid"))?;
        let side = Side::new(child, true);
        let result = side.prepare(self.cpus[0]).and_then(|()| near(&side));
        if result.is_err() && side.ended.get().is_none() {
            let _ = rustix::process::kill_process(child, rustix::process::Signal::KILL);
        }
        let status = match side.ended.get() {
            Some(status) => Some(status),
            None => rustix::process::waitpid(Some(child), WaitOptions::empty())?
                .map(|(_, status)| status.as_raw()),
        };
        rustix::thread::sched_setaffinity(None, &before)?;
        let result = result?;
        if status != Some(0) {
            return Err(io::Error::other("the far side failed"));
        }
        Ok(result)
    }
}

/// One process of a pair.
pub struct Side {
    /// The other process.
    pub peer: Pid,
    parent: bool,
    ended: Cell<Option<i32>>,
    since: Instant,
}

impl Side {
    fn new(peer: Pid, parent: bool) -> Side {
        Side {
            peer,
            parent,
            ended: Cell::new(None),
            since: Instant::now(),
        }
    }

    fn prepare(&self, cpu: usize) -> io::Result<()> {
        let mut set = CpuSet::new();
        set.set(cpu);
        rustix::thread::sched_setaffinity(None, &set)?;
        // With Yama, only ancestors may write to a process that has not agreed to it.
        // SAFETY: no pointers are involved.
        unsafe { libc::prctl(libc::PR_SET_PTRACER, libc::PR_SET_PTRACER_ANY) };
        Ok(())
    }

    /// Spins until `ready`, or until the other process is gone or the time is up.
    #[inline]
    pub fn wait(&self, mut ready: impl FnMut() -> bool) -> io::Result<()> {
        loop {
            for _ in 0..SPINS_BETWEEN_CHECKS {
                if ready() {
                    return Ok(());
                }
            }
            let gone = self.peer_is_gone()?;
            // It may have answered just before it went.
            if gone && !ready() {
                return Err(io::Error::other("the other process ended early"));
            }
            if self.since.elapsed() > DEADLINE {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }

    #[cold]
    fn peer_is_gone(&self) -> io::Result<bool> {
        if !self.parent {
            return Ok(rustix::process::getppid() != Some(self.peer));
        }
        if self.ended.get().is_none() {
            let status = rustix::process::waitpid(Some(self.peer), WaitOptions::NOHANG)?;
            self.ended.set(status.map(|(_, status)| status.as_raw()));
        }
        Ok(self.ended.get().is_some())
    }
}

/// How a measurement is repeated. A batch is short, so that most escape the scheduler; the median of
/// the batches is the figure.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub batches: usize,
    pub per_batch: u64,
}

impl Plan {
    /// For steps of about this many nanoseconds: batches of a tenth of a millisecond.
    pub fn for_step(nanoseconds: u64) -> Plan {
        Plan {
            batches: 301,
            per_batch: (100_000 / nanoseconds.max(1)).clamp(1, 1000),
        }
    }

    /// All steps that the other side must go along with; one more batch warms up.
    pub fn steps(&self) -> u64 {
        (self.batches as u64 + 1) * self.per_batch
    }

    /// Nanoseconds per step. `step` gets the numbers from 1 on.
    pub fn time(&self, mut step: impl FnMut(u64) -> io::Result<()>) -> io::Result<f64> {
        let mut times = Vec::with_capacity(self.batches);
        let mut number = 0;
        for batch in 0..=self.batches {
            let start = Instant::now();
            for _ in 0..self.per_batch {
                number += 1;
                step(number)?;
            }
            if batch > 0 {
                times.push(start.elapsed().as_secs_f64() * 1e9 / self.per_batch as f64);
            }
        }
        Ok(median(&times))
    }
}

/// The middle value, 0 of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::SeqCst;

    #[test]
    fn medians() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0]), 3.0);
        assert_eq!(median(&[9.0, 1.0, 5.0]), 5.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 9.0]), 3.0);
    }

    #[test]
    fn a_pair_shares_and_does_not_share() {
        let Ok(rig) = Rig::new() else { return };
        let shared = Arena::shared(4096).unwrap();
        let private = Arena::private(4096).unwrap();
        let seen = rig
            .pair(
                |side| {
                    side.wait(|| shared.word(8).load(SeqCst) == 7)?;
                    Ok(private.word(0).load(SeqCst))
                },
                |_| {
                    private.word(0).store(5, SeqCst);
                    shared.word(8).store(7, SeqCst);
                    Ok(())
                },
            )
            .unwrap();
        assert_eq!(seen, 0);
    }

    #[test]
    fn a_dead_peer_is_noticed() {
        let Ok(rig) = Rig::new() else { return };
        let error = rig
            .pair(|side| side.wait(|| false), |_| Ok(()))
            .unwrap_err();
        assert!(error.to_string().contains("ended early"), "{error}");
        assert!(
            rig.pair(
                |_| Ok(()),
                |_| Err(io::Error::other("expected by this test"))
            )
            .is_err()
        );
    }
}
