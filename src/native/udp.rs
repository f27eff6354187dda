//! UDP sockets of datagram QPs and multicast groups, and the wait for them. UNSAFE lives here (FFI to libc).

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::kernel;
use crate::verbs::types::{Errno, Result};

/// Datagrams that one call takes.
pub const BATCH: usize = 32;
/// What a socket buffers, where the system lets us: the wire.
const BUFFER: libc::c_int = 8 << 20;

fn check(r: i32) -> Result<i32> {
    if r < 0 { Err(Errno::last()) } else { Ok(r) }
}

/// A non-blocking UDP socket.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    pub local: ([u8; 4], u16),
}

fn address(to: ([u8; 4], u16)) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: to.1.to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from_ne_bytes(to.0),
        },
        sin_zero: [0; 8],
    }
}

impl Socket {
    /// Bound to an address of this host that nobody else has; EADDRINUSE otherwise.
    pub fn bind(local: ([u8; 4], u16)) -> Result<Socket> {
        let s = Socket::new(local)?;
        s.take_address()?;
        // Where multicast leaves.
        s.option(
            libc::IPPROTO_IP,
            libc::IP_MULTICAST_IF,
            &membership([0; 4], local.0),
        )?;
        s.option(libc::IPPROTO_IP, libc::IP_MULTICAST_LOOP, &1)?;
        Ok(s)
    }

    /// A member of a group on the interface that has `on`.
    pub fn join(group: ([u8; 4], u16), on: [u8; 4]) -> Result<Socket> {
        let s = Socket::new(group)?;
        s.option(libc::SOL_SOCKET, libc::SO_REUSEADDR, &1)?;
        s.option(libc::IPPROTO_IP, libc::IP_MULTICAST_ALL, &0)?;
        s.take_address()?;
        s.option(
            libc::IPPROTO_IP,
            libc::IP_ADD_MEMBERSHIP,
            &membership(group.0, on),
        )?;
        Ok(s)
    }

    fn new(local: ([u8; 4], u16)) -> Result<Socket> {
        let kind = libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: plain socket(2).
        let fd = check(unsafe { libc::socket(libc::AF_INET, kind, 0) })?;
        let fd = kernel::move_high(fd);
        // SAFETY: new, and nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let s = Socket { fd, local };
        // The first needs a privilege, the second is cut to what the system allows.
        if s.option(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &BUFFER)
            .is_err()
        {
            s.option(libc::SOL_SOCKET, libc::SO_RCVBUF, &BUFFER)?;
        }
        if s.option(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &BUFFER)
            .is_err()
        {
            s.option(libc::SOL_SOCKET, libc::SO_SNDBUF, &BUFFER)?;
        }
        Ok(s)
    }

    fn option<T>(&self, level: i32, name: i32, value: &T) -> Result<()> {
        let len = size_of::<T>() as libc::socklen_t;
        // SAFETY: `value` is a live value of `len` bytes.
        let r = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                level,
                name,
                std::ptr::from_ref(value).cast(),
                len,
            )
        };
        check(r).map(|_| ())
    }

    fn take_address(&self) -> Result<()> {
        let a = address(self.local);
        let len = size_of_val(&a) as libc::socklen_t;
        // SAFETY: a live address of `len` bytes.
        let r = unsafe { libc::bind(self.fd.as_raw_fd(), (&raw const a).cast(), len) };
        check(r).map(|_| ())
    }

    pub fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    pub fn send(&self, packet: &[u8], to: ([u8; 4], u16)) -> Result<()> {
        let a = address(to);
        let len = size_of_val(&a) as libc::socklen_t;
        // SAFETY: a live packet and a live address of the given lengths.
        let n = unsafe {
            libc::sendto(
                self.fd.as_raw_fd(),
                packet.as_ptr().cast(),
                packet.len(),
                libc::MSG_NOSIGNAL,
                (&raw const a).cast(),
                len,
            )
        };
        if n < 0 { Err(Errno::last()) } else { Ok(()) }
    }

    /// Takes up to `most` waiting datagrams into the slots; answers how many.
    pub fn receive(&self, slots: &mut Slots, most: usize) -> usize {
        let most = most.min(BATCH);
        let empty = address(([0; 4], 0));
        let mut names = [empty; BATCH];
        let mut parts = [libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        }; BATCH];
        // SAFETY: integers and pointers; all-zero is a valid value.
        let mut messages: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
        let room = slots.size - slots.slack;
        for (i, slot) in slots
            .bytes
            .chunks_exact_mut(slots.size)
            .take(most)
            .enumerate()
        {
            parts[i].iov_base = slot[slots.slack..].as_mut_ptr().cast();
            parts[i].iov_len = room;
            let m = &mut messages[i].msg_hdr;
            m.msg_name = (&raw mut names[i]).cast();
            m.msg_namelen = size_of_val(&empty) as u32;
            m.msg_iov = &raw mut parts[i];
            m.msg_iovlen = 1;
        }
        // SAFETY: each of the `most` messages describes a live address and a live slot of its own.
        let n = unsafe {
            libc::recvmmsg(
                self.fd.as_raw_fd(),
                messages.as_mut_ptr(),
                most as u32,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let n = usize::try_from(n).unwrap_or(0);
        for i in 0..n {
            let whole = messages[i].msg_hdr.msg_flags & libc::MSG_TRUNC == 0;
            slots.from[i] = (
                names[i].sin_addr.s_addr.to_ne_bytes(),
                u16::from_be(names[i].sin_port),
            );
            // What was cut is no packet.
            slots.len[i] = if whole {
                messages[i].msg_len as usize
            } else {
                0
            };
        }
        n
    }
}

fn membership(group: [u8; 4], on: [u8; 4]) -> libc::ip_mreqn {
    libc::ip_mreqn {
        imr_multiaddr: libc::in_addr {
            s_addr: u32::from_ne_bytes(group),
        },
        imr_address: libc::in_addr {
            s_addr: u32::from_ne_bytes(on),
        },
        // Loopback addresses other than 127.0.0.1 are on no list from which the kernel could tell the interface.
        imr_ifindex: if on[0] == 127 { LOOPBACK } else { 0 },
    }
}

/// The loopback interface is the first of every network namespace.
const LOOPBACK: i32 = 1;

/// Room for received datagrams: each has `slack` bytes before it.
#[derive(Debug)]
pub struct Slots {
    bytes: Vec<u8>,
    size: usize,
    slack: usize,
    from: [([u8; 4], u16); BATCH],
    len: [usize; BATCH],
}

impl Slots {
    pub fn new(slack: usize, room: usize) -> Slots {
        Slots {
            bytes: vec![0; (slack + room) * BATCH],
            size: slack + room,
            slack,
            from: [([0; 4], 0); BATCH],
            len: [0; BATCH],
        }
    }

    /// Slot `i` with its slack, the length of the datagram, and where it came from.
    pub fn slot(&mut self, i: usize) -> (&mut [u8], usize, ([u8; 4], u16)) {
        let at = i * self.size;
        (
            &mut self.bytes[at..at + self.size],
            self.len[i],
            self.from[i],
        )
    }
}

/// Waits for datagrams on any of the sockets that were added, or for `wake`.
#[derive(Debug)]
pub struct Watch {
    epoll: OwnedFd,
    wake: OwnedFd,
}

impl Watch {
    pub fn new() -> Result<Watch> {
        // SAFETY: plain epoll_create1(2).
        let epoll = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: new, and nobody else's.
        let epoll = unsafe { OwnedFd::from_raw_fd(kernel::move_high(epoll)) };
        // SAFETY: plain eventfd(2).
        let wake = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        // SAFETY: as above.
        let wake = unsafe { OwnedFd::from_raw_fd(kernel::move_high(wake)) };
        let w = Watch { epoll, wake };
        w.add(w.wake.as_raw_fd())?;
        Ok(w)
    }

    /// A socket leaves by being closed. Edge-triggered: what waits for a receive must not keep the thread running.
    pub fn add(&self, fd: RawFd) -> Result<()> {
        let mut e = libc::epoll_event {
            events: (libc::EPOLLIN | libc::EPOLLET) as u32,
            u64: 0,
        };
        // SAFETY: a live event.
        let r =
            unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut e) };
        check(r).map(|_| ())
    }

    pub fn wait(&self, ms: i32) {
        let mut e = [libc::epoll_event { events: 0, u64: 0 }; 8];
        // SAFETY: room for eight events.
        unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), e.as_mut_ptr(), 8, ms) };
    }

    pub fn wake(&self) {
        if let Err(e) = kernel::write_bytes(self.wake.as_raw_fd(), &1u64.to_ne_bytes()) {
            log::debug!("waking the datagram thread: {e}");
        }
    }
}

/// Whether an address can be a destination at all.
pub fn is_unicast(a: [u8; 4]) -> bool {
    let ip = Ipv4Addr::from(a);
    !ip.is_multicast() && !ip.is_broadcast() && !ip.is_unspecified()
}
