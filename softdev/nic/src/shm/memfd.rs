//! Files of a context.

use super::remote_mem::Who;
use super::{Fd, Mapping};
use crate::{Errno, Result};
use rustix::fs::{
    FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags, fallocate, fchmod, fcntl_add_seals,
    fcntl_setfl, fstat, ftruncate, memfd_create,
};
use std::sync::Arc;

/// A sparse file without a name, of a size that never changes, mapped whole.
pub(crate) struct MemFile {
    pub(crate) fd: Fd,
    pub(crate) map: Arc<Mapping>,
    pub(crate) dev: u64,
    pub(crate) ino: u64,
}

impl MemFile {
    pub(crate) fn create(name: &str, len: u64) -> Result<MemFile> {
        check_file_size(len)?;
        let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        let fd = Fd::high(fd);
        ftruncate(&fd, len)?;
        // Only the owner's other processes may open it by way of /proc.
        fchmod(&fd, Mode::from_raw_mode(0o600))?;
        // A file that shrank would be SIGBUS for every peer.
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        // A write(2) that does not come to us (of a forked child, on a duplicate) would go into what peers read. Appending to a
        // file that may not grow is EPERM.
        fcntl_setfl(&fd, OFlags::APPEND)?;
        let stat = fstat(&fd)?;
        let map = Arc::new(Mapping::new(&fd, len)?);
        Ok(MemFile {
            fd,
            map,
            dev: stat.st_dev,
            ino: stat.st_ino,
        })
    }

    /// Takes memory for the range now, so that later accesses cannot fail for want of it.
    pub(crate) fn reserve(&self, off: u64, len: u64) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        match fallocate(&self.fd, FallocateFlags::KEEP_SIZE, off, len) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::NOSPC) => Err(Errno::ENOMEM),
            Err(e) => Err(e.into()),
        }
    }

    /// Gives memory back; the range reads as zeroes.
    pub(crate) fn punch(&self, off: u64, len: u64) {
        if len > 0 {
            let _ = fallocate(
                &self.fd,
                FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE,
                off,
                len,
            );
        }
    }
}

/// EFBIG instead of the signal that a file above the process's limit brings (setrlimit(2), RLIMIT_FSIZE).
pub(crate) fn check_file_size(len: u64) -> Result<()> {
    match rustix::process::getrlimit(rustix::process::Resource::Fsize).current {
        Some(limit) if limit < len => Err(Errno::EFBIG),
        _ => Ok(()),
    }
}

/// Opens another process's file by its descriptor number and maps up to `limit` bytes. The caller checks the header.
pub(crate) fn open_peer(who: Who, number: u32, dev: u64, ino: u64, limit: u64) -> Result<Mapping> {
    let fd = Fd::new(who.open(&format!("fd/{number}"), OFlags::RDWR)?);
    let stat = fstat(&fd)?;
    if stat.st_ino != ino || stat.st_dev != dev {
        return Err(Errno::ESTALE);
    }
    let seals = rustix::fs::fcntl_get_seals(&fd)?;
    let size = u64::try_from(stat.st_size).map_err(|_| Errno::EINVAL)?;
    if !seals.contains(SealFlags::SHRINK) || size == 0 {
        return Err(Errno::EINVAL);
    }
    Mapping::new(&fd, size.min(limit))
}
