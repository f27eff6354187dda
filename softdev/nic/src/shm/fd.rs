//! Descriptors of our own: moved out of the way of the host, closed without passing through interposed names.

use crate::Result;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::*};

/// A close-on-exec descriptor with a number that hosts rarely touch. Dropping it closes it by a raw system call, since
/// `close` is a name that the soft device itself interposes.
///
/// While it lives, programs that close "all" descriptors do not close this one: the preloaded library asks [`is_internal`].
#[derive(Debug)]
pub struct Fd(ManuallyDrop<OwnedFd>);

/// One bit for each number that is one of ours.
static INTERNAL: [AtomicU64; 1 << 12] = [const { AtomicU64::new(0) }; 1 << 12];
/// One above the highest number ever marked.
static HIGHEST: AtomicI32 = AtomicI32::new(0);

fn bit(fd: RawFd) -> Option<(&'static AtomicU64, u64)> {
    let fd = usize::try_from(fd).ok()?;
    Some((INTERNAL.get(fd / 64)?, 1 << (fd % 64)))
}

fn mark(fd: RawFd) {
    if let Some((word, bit)) = bit(fd) {
        HIGHEST.fetch_max(fd + 1, Relaxed);
        word.fetch_or(bit, Relaxed);
    }
}

fn unmark(fd: RawFd) {
    if let Some((word, bit)) = bit(fd) {
        word.fetch_and(!bit, Relaxed);
    }
}

/// Whether the number is a descriptor of our own, of which the program knows nothing; a relaxed load.
#[inline]
pub fn is_internal(fd: RawFd) -> bool {
    bit(fd).is_some_and(|(word, bit)| word.load(Relaxed) & bit != 0)
}

/// The first such number from `from` on.
pub fn next_internal(from: RawFd) -> Option<RawFd> {
    (from.max(0)..HIGHEST.load(Relaxed)).find(|fd| is_internal(*fd))
}

/// In the child of a fork, which has its own use for the numbers.
pub(crate) fn forget_internal() {
    let used = usize::try_from(HIGHEST.load(Relaxed))
        .unwrap_or(0)
        .div_ceil(64);
    for word in INTERNAL.iter().take(used) {
        word.store(0, Relaxed);
    }
}

/// Daemons close "all" descriptors up to some low bound, and programs that use select(2) want the low numbers.
const HIGH: RawFd = 1000;

impl Fd {
    pub(crate) fn new(fd: OwnedFd) -> Fd {
        mark(fd.as_raw_fd());
        Fd(ManuallyDrop::new(fd))
    }

    /// Moves the descriptor to the first free number from 1000 on, or as high as the limit allows.
    pub fn high(fd: OwnedFd) -> Fd {
        let fd = Fd::new(fd);
        for from in [HIGH, 500, 200] {
            if let Ok(moved) = rustix::io::fcntl_dupfd_cloexec(&fd, from) {
                return Fd::new(moved);
            }
        }
        fd
    }

    pub(crate) fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    pub(crate) fn dup(&self) -> Result<OwnedFd> {
        Ok(rustix::io::fcntl_dupfd_cloexec(self, 0)?)
    }
}

impl AsFd for Fd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.raw()
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        unmark(self.raw());
        // SAFETY: the field is not used again.
        let fd = unsafe { ManuallyDrop::take(&mut self.0) };
        // SAFETY: owned by us until here.
        unsafe { rustix::io::close(fd.into_raw_fd()) };
    }
}

/// The pipe by which other processes know whether this one is there, for a forked child: both ends, and the inode.
static KNOWN: (AtomicI32, AtomicI32, AtomicU64) =
    (AtomicI32::new(-1), AtomicI32::new(-1), AtomicU64::new(0));

/// In the child of a fork: the parent's pipe has no reader here, or the others would not hear when the parent becomes another program. The
/// number goes on being one of a descriptor, which somebody may yet close. Takes no lock.
pub(crate) fn stop_reading_in_child() {
    let (read, write) = (KNOWN.0.swap(-1, Relaxed), KNOWN.1.swap(-1, Relaxed));
    if read < 0 || write < 0 {
        return;
    }
    // SAFETY: only asked about, and not used when it is not the pipe (any more).
    let ends = [read, write].map(|n| unsafe { BorrowedFd::borrow_raw(n) });
    let inode = KNOWN.2.load(Relaxed);
    if ends
        .iter()
        .all(|end| rustix::fs::fstat(end).is_ok_and(|st| st.st_ino == inode))
    {
        // SAFETY: checked above: the read end's number, which nothing in this process reads from.
        let mut number = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(read) });
        let _ = rustix::io::dup3(ends[1], &mut number, rustix::io::DupFlags::CLOEXEC);
    }
}

/// A pipe whose ends are non-blocking; the write end wakes a thread that polls the read end.
pub(crate) struct WakePipe {
    pub(crate) read: Fd,
    pub(crate) write: Fd,
}

impl WakePipe {
    pub(crate) fn new() -> Result<WakePipe> {
        use rustix::pipe::{PipeFlags, pipe_with};
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(WakePipe {
            read: Fd::high(read),
            write: Fd::high(write),
        })
    }

    /// Other processes are going to be told of it.
    pub(crate) fn make_known(&self) -> Result<u64> {
        let inode = rustix::fs::fstat(&self.read)?.st_ino;
        KNOWN.2.store(inode, Relaxed);
        KNOWN.1.store(self.write.raw(), Relaxed);
        KNOWN.0.store(self.read.raw(), Relaxed);
        Ok(inode)
    }

    pub(crate) fn wake(&self) {
        wake(&self.write);
    }

    pub(crate) fn drain(&self) {
        let mut sink = [0u8; 64];
        while rustix::io::read(&self.read, &mut sink).is_ok_and(|n| n == sink.len()) {}
    }
}

/// A full pipe has been written to already.
fn wake(fd: &Fd) {
    let _ = rustix::io::write(fd, &[1]);
}

/// Wakes the thread of another process, which may have died: its pipe has no reader then.
pub(crate) fn wake_other(fd: &Fd) {
    let _ = crate::pv::without_sigpipe(|| Ok(rustix::io::write(fd, &[1]).map(drop)?));
}

/// Whole file below `/proc`, at most `limit` bytes.
pub(crate) fn read_small(path: &str, limit: usize) -> Result<Vec<u8>> {
    use rustix::fs::{Mode, OFlags, open};
    let fd = Fd::new(open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?);
    let mut text = vec![0; limit];
    let mut len = 0;
    while let Some(rest) = text.get_mut(len..).filter(|rest| !rest.is_empty()) {
        match rustix::io::read(&fd, rest) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    text.truncate(len);
    Ok(text)
}
