//! Event descriptors: completion channels and async event files.
//!
//! Each is a pipe in packet mode, so one read gives one event and poll, epoll, O_NONBLOCK and close need no help from us. The
//! program gets the read end. We keep, at high numbers, the write end and a read end of our own with its own flags: with it
//! the events of a destroyed object are taken out again, as the kernel does.

use gaudi_softnic::{Errno, Fd, Result};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno as Rx;
use rustix::pipe::PipeFlags;
use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering::*};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Events that may be unread; above it raising one is EAGAIN.
const CAPACITY: usize = 256;
/// Events that wait here for room in the pipe. More than any program has objects: it would have to make its objects fail over and over
/// and never read.
const MOST_KEPT: usize = 1 << 20;
/// The larger of the two kinds of event.
pub(crate) const MAX_EVENT: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChannelKind {
    /// 8 bytes: the CQ's user handle.
    Completion,
    /// 16 bytes: element, type.
    Async,
}

impl ChannelKind {
    fn event_size(self) -> usize {
        match self {
            ChannelKind::Completion => 8,
            ChannelKind::Async => MAX_EVENT,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Channel {
    kind: ChannelKind,
    inode: (u64, u64),
    /// Inode of the device file that it belongs to.
    owner: (u64, u64),
    write: Fd,
    reader: Mutex<Reader>,
    /// Some are kept; to look without the lock.
    keeps: AtomicBool,
}

/// Its lock serialises writers with [`Channel::purge`], so that order survives.
#[derive(Debug)]
struct Reader {
    fd: Fd,
    /// Behind those in the pipe.
    kept: VecDeque<[u8; MAX_EVENT]>,
}

impl Channel {
    /// The channel and the program's descriptor of it.
    pub(crate) fn create(kind: ChannelKind, owner: (u64, u64)) -> Result<(Channel, OwnedFd)> {
        let (program, write) = rustix::pipe::pipe_with(PipeFlags::DIRECT | PipeFlags::CLOEXEC)?;
        let write = Fd::high(write);
        rustix::fs::fcntl_setfl(&write, OFlags::DIRECT | OFlags::NONBLOCK)?;
        // A page per event; users above their pipe allowance stay with the default of 16 events.
        let _ = rustix::pipe::fcntl_setpipe_size(&write, CAPACITY * 4096);
        let path = format!("/proc/thread-self/fd/{}", write.as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let read = Fd::high(rustix::fs::open(path, flags, Mode::empty())?);
        let st = rustix::fs::fstat(&program)?;
        Ok((
            Channel {
                kind,
                inode: (st.st_dev, st.st_ino),
                owner,
                write,
                reader: Mutex::new(Reader {
                    fd: read,
                    kept: VecDeque::new(),
                }),
                keeps: AtomicBool::new(false),
            },
            program,
        ))
    }

    pub(crate) fn kind(&self) -> ChannelKind {
        self.kind
    }

    pub(crate) fn inode(&self) -> (u64, u64) {
        self.inode
    }

    pub(crate) fn owner(&self) -> (u64, u64) {
        self.owner
    }

    /// Our own descriptors of the pipe.
    pub(crate) fn own_fds(&self) -> Vec<RawFd> {
        vec![self.write.as_raw_fd(), self.lock().fd.as_raw_fd()]
    }

    fn lock(&self) -> MutexGuard<'_, Reader> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an event; EAGAIN when too many are unread. Never blocks.
    pub(crate) fn push(&self, event: &[u8]) -> Result<()> {
        let _order = self.lock();
        self.put(event)
    }

    /// Adds an event of an async file, which the kernel never drops: what the pipe has no room for waits for [`Channel::refill`].
    pub(crate) fn push_or_keep(&self, event: &[u8; MAX_EVENT]) -> Result<()> {
        let mut reader = self.lock();
        if reader.kept.is_empty() {
            match self.put(event) {
                Err(Errno::EAGAIN) => (),
                other => return other,
            }
        }
        if reader.kept.len() >= MOST_KEPT {
            return Err(Errno::EAGAIN);
        }
        reader.kept.push_back(*event);
        self.keeps.store(true, Release);
        Ok(())
    }

    /// Moves events that were kept into the pipe, as far as there is room: whether some were moved, and whether some are left.
    pub(crate) fn refill(&self) -> (bool, bool) {
        if !self.keeps.load(Acquire) {
            return (false, false);
        }
        self.refill_locked(&mut self.lock())
    }

    fn refill_locked(&self, reader: &mut Reader) -> (bool, bool) {
        let mut moved = false;
        while let Some(event) = reader.kept.front() {
            match self.put(event) {
                Err(Errno::EAGAIN) => return (moved, true),
                Err(e) => log::warn!("event lost: {e}"),
                Ok(()) => moved = true,
            }
            reader.kept.pop_front();
        }
        self.keeps.store(false, Release);
        (moved, false)
    }

    fn put(&self, event: &[u8]) -> Result<()> {
        debug_assert_eq!(event.len(), self.kind.event_size());
        loop {
            match rustix::io::write(&self.write, event) {
                Ok(_) => return Ok(()),
                Err(Rx::INTR) => (),
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Takes out the unread events whose first word is `element`; returns how many there were.
    pub(crate) fn purge(&self, element: u64) -> u32 {
        let mut reader = self.lock();
        let mut kept = Vec::new();
        let mut dropped = 0;
        let mut event = [0u8; MAX_EVENT];
        let size = self.kind.event_size();
        for _ in 0..CAPACITY {
            let Ok(n) = rustix::io::read(&reader.fd, &mut event) else {
                break;
            };
            let Some(event) = event.get(..size).filter(|_| n == size) else {
                break;
            };
            if event.starts_with(&element.to_ne_bytes()) {
                dropped += 1;
            } else {
                kept.push(event.to_vec());
            }
        }
        for event in kept {
            // There was room for it a moment ago, and nobody else writes.
            if let Err(e) = self.put(&event) {
                log::warn!("event lost: {e}");
            }
        }
        let before = reader.kept.len();
        reader
            .kept
            .retain(|event| !event.starts_with(&element.to_ne_bytes()));
        dropped += (before - reader.kept.len()) as u32;
        self.refill_locked(&mut reader);
        dropped
    }
}

/// One async event as the program reads it.
pub(crate) fn async_event(element: u64, event_type: u32) -> [u8; MAX_EVENT] {
    use zerocopy::IntoBytes;
    let desc = kernel_abi::uverbs::AsyncEventDesc {
        element,
        event_type,
        reserved: 0,
    };
    let mut bytes = [0; MAX_EVENT];
    bytes.copy_from_slice(desc.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_read_one_event() {
        let (channel, fd) = Channel::create(ChannelKind::Completion, (0, 0)).unwrap();
        channel.push(&1u64.to_ne_bytes()).unwrap();
        channel.push(&2u64.to_ne_bytes()).unwrap();
        let mut buffer = [0u8; 64];
        assert_eq!(rustix::io::read(&fd, &mut buffer).unwrap(), 8);
        assert_eq!(buffer[0], 1);
        assert_eq!(rustix::io::read(&fd, &mut buffer).unwrap(), 8);
        assert_eq!(buffer[0], 2);
    }

    #[test]
    fn purge_keeps_the_others_in_order() {
        let (channel, fd) = Channel::create(ChannelKind::Async, (0, 0)).unwrap();
        for n in [7, 8, 7, 9] {
            channel.push(&async_event(n, 3)).unwrap();
        }
        assert_eq!(channel.purge(7), 2);
        assert_eq!(channel.purge(7), 0);
        let mut buffer = [0u8; 64];
        for n in [8, 9] {
            assert_eq!(rustix::io::read(&fd, &mut buffer).unwrap(), 16);
            assert_eq!(buffer[..16], async_event(n, 3));
        }
    }

    /// A peer's death is an event for each QP that was connected to it.
    #[test]
    fn async_events_are_never_dropped() {
        let (channel, fd) = Channel::create(ChannelKind::Async, (0, 0)).unwrap();
        for n in 0..5000 {
            channel.push_or_keep(&async_event(n, 1)).unwrap();
        }
        assert_eq!(channel.refill(), (false, true));
        // One that is in the pipe, one that is not.
        assert_eq!((channel.purge(3), channel.purge(4000)), (1, 1));
        let mut buffer = [0u8; 64];
        let mut next = 0;
        loop {
            while rustix::io::ioctl_fionread(&fd).unwrap() > 0 {
                assert_eq!(rustix::io::read(&fd, &mut buffer).unwrap(), 16);
                next += u64::from(next == 3 || next == 4000);
                assert_eq!(buffer[..16], async_event(next, 1));
                next += 1;
            }
            if channel.refill() == (false, false) {
                break;
            }
        }
        assert_eq!(next, 5000);
    }

    #[test]
    fn full_is_eagain() {
        let (channel, _fd) = Channel::create(ChannelKind::Completion, (0, 0)).unwrap();
        let pushed = (0..10_000u64)
            .take_while(|n| channel.push(&n.to_ne_bytes()).is_ok())
            .count();
        assert!((16..=CAPACITY).contains(&pushed), "{pushed}");
        assert_eq!(channel.push(&[0; 8]), Err(Errno::EAGAIN));
        assert_eq!(channel.purge(3), 1);
        assert_eq!(channel.push(&[0; 8]), Ok(()));
    }
}
