//! Directories, files and links below an open directory, by raw system calls.

use gaudi_softnic::Result;
use rustix::fs::{AtFlags, Mode, OFlags};
use std::os::fd::OwnedFd;

pub(super) struct Dir(OwnedFd);

impl Dir {
    pub(super) fn new(fd: OwnedFd) -> Dir {
        Dir(fd)
    }

    pub(super) fn dir(&self, name: &str) -> Result<Dir> {
        rustix::fs::mkdirat(&self.0, name, Mode::from_raw_mode(0o755))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Dir(rustix::fs::openat(
            &self.0,
            name,
            flags,
            Mode::empty(),
        )?))
    }

    pub(super) fn file(&self, name: &str, text: &str) -> Result<()> {
        self.file_mode(name, text, 0o644)
    }

    pub(super) fn file_mode(&self, name: &str, text: &str, mode: u32) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.0, name, flags, Mode::from_raw_mode(mode))?;
        // The creator's umask must not decide whether consumers find the node accessible.
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode))?;
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let n = rustix::io::write(&fd, rest)?;
            rest = rest.get(n..).unwrap_or_default();
        }
        Ok(())
    }

    pub(super) fn link(&self, name: &str, target: &str) -> Result<()> {
        Ok(rustix::fs::symlinkat(target, &self.0, name)?)
    }

    pub(super) fn unlink(&self, name: &str) -> Result<()> {
        Ok(rustix::fs::unlinkat(&self.0, name, AtFlags::empty())?)
    }

    /// What is in it, in the file system's order.
    pub(super) fn names(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.0)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        Ok(names)
    }

    /// The first 256 bytes of a small file.
    pub(super) fn read(&self, name: &str) -> Result<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.0, name, flags, Mode::empty())?;
        let mut buffer = [0; 256];
        let n = rustix::io::read(&fd, &mut buffer)?;
        Ok(buffer.get(..n).unwrap_or_default().to_vec())
    }
}
