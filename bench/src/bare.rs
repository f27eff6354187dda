//! What the machine gives without any protocol: a cache line, the kernel's copy, memory in common.

use crate::rig::{Arena, Plan, Rig, Side};
use std::fs::File;
use std::hint::black_box;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering::{Acquire, Release};

/// Two flags on lines that no prefetcher couples.
const TO_FAR: usize = 0;
const TO_NEAR: usize = 512;
const FLAGS: usize = 4096;

/// One way of a cache line from one CPU to the other, in nanoseconds.
pub fn line(rig: &Rig) -> io::Result<f64> {
    let flags = Arena::shared(FLAGS)?;
    let plan = Plan::for_step(150);
    let round_trip = rig.pair(
        |side| {
            plan.time(|n| {
                flags.word(TO_FAR).store(n, Release);
                side.wait(|| flags.word(TO_NEAR).load(Acquire) == n)
            })
        },
        |side| {
            (1..=plan.steps()).try_for_each(|n| {
                side.wait(|| flags.word(TO_FAR).load(Acquire) == n)?;
                flags.word(TO_NEAR).store(n, Release);
                Ok(())
            })
        },
    )?;
    Ok(round_trip / 2.0)
}

/// How bytes get to the other process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mover {
    /// `process_vm_writev(2)` into its private memory.
    ProcessVm,
    /// pwrite(2) on its `/proc/<pid>/mem`.
    MemFile,
    /// A copy through memory that both map.
    Memcpy,
}

/// A mover that has found its peer.
enum Moving<'a> {
    ProcessVm(i32),
    MemFile(File),
    Memcpy(&'a Arena),
}

impl Mover {
    fn start<'a>(self, side: &Side, shared: &'a Arena) -> io::Result<Moving<'a>> {
        let pid = side.peer.as_raw_nonzero().get();
        Ok(match self {
            Mover::ProcessVm => Moving::ProcessVm(pid),
            Mover::MemFile => Moving::MemFile(
                File::options()
                    .write(true)
                    .open(format!("/proc/{pid}/mem"))?,
            ),
            Mover::Memcpy => Moving::Memcpy(shared),
        })
    }

    /// A guess that only sizes the batches.
    fn nanoseconds(self, len: usize) -> u64 {
        match self {
            Mover::Memcpy => 50 + len as u64 / 30,
            _ => 1500 + len as u64 / 10,
        }
    }
}

impl Moving<'_> {
    /// Moves the start of `from`: to the peer's private arena at `to`, or into the arena in common.
    fn put(&self, from: &Arena, to: usize, shared_offset: usize, len: usize) -> io::Result<()> {
        let moved = match self {
            Moving::ProcessVm(pid) => {
                let local = libc::iovec {
                    iov_base: from.at(0).cast(),
                    iov_len: len,
                };
                let remote = libc::iovec {
                    iov_base: to as *mut libc::c_void,
                    iov_len: len,
                };
                // SAFETY: `local` lies in `from`, and the kernel checks the other side.
                let moved = unsafe { libc::process_vm_writev(*pid, &local, 1, &remote, 1, 0) };
                usize::try_from(moved).map_err(|_| io::Error::last_os_error())?
            }
            Moving::MemFile(file) => {
                // SAFETY: the arena has at least `len` bytes and nobody writes to this one.
                let bytes = unsafe { std::slice::from_raw_parts(from.at(0), len) };
                file.write_at(bytes, to as u64)?
            }
            Moving::Memcpy(shared) => {
                assert!(shared_offset + len <= shared.size());
                // SAFETY: both ranges are inside their arenas, which do not overlap.
                unsafe { std::ptr::copy_nonoverlapping(from.at(0), shared.at(shared_offset), len) };
                black_box(shared.at(shared_offset));
                len
            }
        };
        if moved == len {
            Ok(())
        } else {
            Err(io::Error::other("short copy"))
        }
    }
}

/// The arenas of a measurement: flags and targets in common, source and target of each process.
struct Ground {
    flags: Arena,
    shared: Arena,
    source: Arena,
    target: Arena,
    len: usize,
}

impl Ground {
    fn new(len: usize) -> io::Result<Ground> {
        // The two halves of the shared arena start on lines of their own.
        let room = len.next_multiple_of(4096).max(4096);
        let private = || Arena::private(room);
        let (flags, shared) = (Arena::shared(FLAGS)?, Arena::shared(2 * room)?);
        Ok(Ground {
            flags,
            shared,
            source: private()?,
            target: private()?,
            len,
        })
    }

    fn half(&self, far: bool) -> usize {
        if far { self.shared.size() / 2 } else { 0 }
    }

    fn touch(&self) {
        self.source.touch();
        self.target.touch();
    }

    /// Looks at the last byte of what arrived, as a program would.
    fn look(&self, mover: Mover, half: usize) {
        let arena = if mover == Mover::Memcpy {
            &self.shared
        } else {
            &self.target
        };
        let offset = if mover == Mover::Memcpy { half } else { 0 };
        black_box(arena.word(offset + (self.len - 1) / 8 * 8).load(Acquire));
    }
}

/// One way of `len` bytes and a flag behind them, in nanoseconds.
pub fn latency(rig: &Rig, mover: Mover, len: usize) -> io::Result<f64> {
    let ground = Ground::new(len)?;
    let plan = Plan::for_step(2 * mover.nanoseconds(len));
    let put =
        |moving: &Moving, half| moving.put(&ground.source, ground.target.at(0) as usize, half, len);
    let round_trip = rig.pair(
        |side| {
            ground.touch();
            let moving = mover.start(side, &ground.shared)?;
            plan.time(|n| {
                put(&moving, ground.half(true))?;
                ground.flags.word(TO_FAR).store(n, Release);
                side.wait(|| ground.flags.word(TO_NEAR).load(Acquire) == n)?;
                ground.look(mover, ground.half(false));
                Ok(())
            })
        },
        |side| {
            ground.touch();
            let moving = mover.start(side, &ground.shared)?;
            (1..=plan.steps()).try_for_each(|n| {
                side.wait(|| ground.flags.word(TO_FAR).load(Acquire) == n)?;
                ground.look(mover, ground.half(true));
                put(&moving, ground.half(false))?;
                ground.flags.word(TO_NEAR).store(n, Release);
                Ok(())
            })
        },
    )?;
    Ok(round_trip / 2.0)
}

/// Back-to-back copies of `len` bytes into the other process, in GB/s.
pub fn bandwidth(rig: &Rig, mover: Mover, len: usize) -> io::Result<f64> {
    let ground = Ground::new(len)?;
    let plan = Plan::for_step(mover.nanoseconds(len) / 3);
    let nanoseconds = rig.pair(
        |side| {
            ground.touch();
            side.wait(|| ground.flags.word(TO_NEAR).load(Acquire) == 1)?;
            let moving = mover.start(side, &ground.shared)?;
            let time =
                plan.time(|_| moving.put(&ground.source, ground.target.at(0) as usize, 0, len));
            ground.flags.word(TO_FAR).store(1, Release);
            time
        },
        |side| {
            ground.touch();
            ground.flags.word(TO_NEAR).store(1, Release);
            side.wait(|| ground.flags.word(TO_FAR).load(Acquire) == 1)
        },
    )?;
    Ok(len as f64 / nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn movers_move() {
        let Ok(rig) = Rig::new() else { return };
        for mover in [Mover::ProcessVm, Mover::MemFile, Mover::Memcpy] {
            let ground = Ground::new(100).unwrap();
            ground.source.word(0).store(11, Release);
            let end = rig.pair(
                |side| {
                    ground.touch();
                    side.wait(|| ground.flags.word(TO_NEAR).load(Acquire) == 1)?;
                    let moving = mover.start(side, &ground.shared)?;
                    moving.put(
                        &ground.source,
                        ground.target.at(0) as usize,
                        ground.half(true),
                        100,
                    )?;
                    ground.flags.word(TO_FAR).store(1, Release);
                    Ok(())
                },
                |side| {
                    ground.touch();
                    ground.flags.word(TO_NEAR).store(1, Release);
                    side.wait(|| ground.flags.word(TO_FAR).load(Acquire) == 1)?;
                    let word = match mover {
                        Mover::Memcpy => ground.shared.word(ground.half(true)),
                        _ => ground.target.word(0),
                    };
                    if word.load(Acquire) == 11 {
                        Ok(())
                    } else {
                        Err(io::Error::other("nothing arrived"))
                    }
                },
            );
            assert!(end.is_ok(), "{mover:?}: {end:?}");
        }
    }
}
