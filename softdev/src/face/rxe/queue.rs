//! The memory that the rxe provider maps: one queue after another in the device file itself.

use super::super::file::Inode;
use gaudi_softnic::{Errno, Fd, Result};
use rustix::fs::{FallocateFlags, MemfdFlags};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

const PAGE: u64 = 4096;
/// `struct rxe_queue_buf`: parameters and the two indices, each in a cache line of its own.
const HEADER: u64 = 384;
/// Far above what any program makes; keeps offsets positive.
const MAX_FILE: u64 = 1 << 46;

/// A mapped queue: offset and size, as `struct mminfo` names them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Extent {
    offset: u64,
    size: u32,
}

impl Extent {
    pub(super) fn mminfo(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.offset.to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.size.to_ne_bytes());
        bytes
    }
}

/// Offsets are never reused, so a queue that the program still maps is never another object's; its pages are given back.
pub(super) struct Memory {
    fd: Fd,
    inode: Inode,
    end: u64,
}

impl Memory {
    pub(super) fn create() -> Result<Memory> {
        let fd = Fd::high(rustix::fs::memfd_create("gaudi-rxe", MemfdFlags::CLOEXEC)?);
        let st = rustix::fs::fstat(&fd)?;
        Ok(Memory {
            fd,
            inode: (st.st_dev, st.st_ino),
            end: PAGE,
        })
    }

    pub(super) fn inode(&self) -> Inode {
        self.inode
    }

    pub(super) fn dup_fd(&self) -> Result<OwnedFd> {
        Ok(rustix::io::fcntl_dupfd_cloexec(&self.fd, 0)?)
    }

    pub(super) fn raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// A queue for at least `entries` elements; returns how many it holds.
    pub(super) fn queue(&mut self, entries: u32, element: u32) -> Result<(Extent, u32)> {
        let slots = entries
            .checked_add(1)
            .and_then(u32::checked_next_power_of_two)
            .ok_or(Errno::EINVAL)?;
        let element = element.next_power_of_two();
        let bytes = HEADER + u64::from(slots) * u64::from(element);
        let size = bytes.next_multiple_of(PAGE);
        let (offset, end) = (self.end, self.end + size);
        let len = u32::try_from(bytes).map_err(|_| Errno::EINVAL)?;
        if end > MAX_FILE {
            return Err(Errno::ENOMEM);
        }
        rustix::fs::ftruncate(&self.fd, end)?;
        self.end = end;
        let mut header = [0; 8];
        header[..4].copy_from_slice(&element.trailing_zeros().to_ne_bytes());
        header[4..].copy_from_slice(&(slots - 1).to_ne_bytes());
        rustix::io::pwrite(&self.fd, &header, offset)?;
        Ok((Extent { offset, size: len }, slots - 1))
    }

    pub(super) fn free(&mut self, queue: Extent) {
        let size = u64::from(queue.size).next_multiple_of(PAGE);
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if let Err(e) = rustix::fs::fallocate(&self.fd, hole, queue.offset, size) {
            log::debug!("queue memory stays: {e}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_have_headers() {
        let mut memory = Memory::create().unwrap();
        let (a, n) = memory.queue(100, 64).unwrap();
        let (b, _) = memory.queue(1, 500).unwrap();
        assert_eq!((n, a.offset, a.size), (127, 4096, 384 + 128 * 64));
        assert_eq!((b.offset, b.size), (4096 * 4, 384 + 2 * 512));
        let mut header = [0u8; 8];
        rustix::io::pread(memory.dup_fd().unwrap(), &mut header[..], a.offset).unwrap();
        assert_eq!(header, [6, 0, 0, 0, 127, 0, 0, 0]);
        memory.free(a);
        rustix::io::pread(memory.dup_fd().unwrap(), &mut header[..], 4096).unwrap();
        assert_eq!(header, [0; 8]);
    }
}
