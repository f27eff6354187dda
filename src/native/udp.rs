//! UDP sockets of datagram QPs and multicast groups, and the wait for them. UNSAFE lives here (FFI to libc).

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
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
    pub local: SocketAddr,
}

/// In the room of the longer form: the fields before the address lie where IPv4's do, whose address is in place of `sin6_flowinfo`
/// (ip(7), ipv6(7)).
fn raw(to: SocketAddr) -> (libc::sockaddr_in6, libc::socklen_t) {
    let mut a = libc::sockaddr_in6 {
        sin6_family: libc::AF_INET as u16,
        sin6_port: to.port().to_be(),
        sin6_flowinfo: 0,
        sin6_addr: libc::in6_addr { s6_addr: [0; 16] },
        sin6_scope_id: 0,
    };
    match to {
        SocketAddr::V4(v4) => {
            a.sin6_flowinfo = u32::from_ne_bytes(v4.ip().octets());
            (a, size_of::<libc::sockaddr_in>() as libc::socklen_t)
        }
        SocketAddr::V6(v6) => {
            a.sin6_family = libc::AF_INET6 as u16;
            a.sin6_addr.s6_addr = v6.ip().octets();
            a.sin6_scope_id = v6.scope_id();
            (a, size_of_val(&a) as libc::socklen_t)
        }
    }
}

fn cooked(a: &libc::sockaddr_in6) -> SocketAddr {
    let port = u16::from_be(a.sin6_port);
    if i32::from(a.sin6_family) == libc::AF_INET6 {
        SocketAddrV6::new(a.sin6_addr.s6_addr.into(), port, 0, a.sin6_scope_id).into()
    } else {
        (a.sin6_flowinfo.to_ne_bytes(), port).into()
    }
}

impl Socket {
    /// Bound to an address of this host that nobody else has; EADDRINUSE otherwise. `ifindex`: the interface that has it.
    pub fn bind(local: SocketAddr, ifindex: u32) -> Result<Socket> {
        let s = Socket::new(local)?;
        let out = ifindex.cast_signed();
        // Where multicast leaves. An address may be ours a little later, or once more: IPv6 tries it out first (DAD).
        match local {
            SocketAddr::V4(a) => {
                s.option(libc::IPPROTO_IP, libc::IP_FREEBIND, &1)?;
                s.take_address()?;
                let m = membership([0; 4], a.ip().octets(), out);
                s.option(libc::IPPROTO_IP, libc::IP_MULTICAST_IF, &m)?;
                s.option(libc::IPPROTO_IP, libc::IP_MULTICAST_LOOP, &1)?;
            }
            SocketAddr::V6(_) => {
                s.option(libc::IPPROTO_IPV6, IPV6_FREEBIND, &1)?;
                s.take_address()?;
                s.option(libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_IF, &out)?;
                s.option(libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_LOOP, &1)?;
            }
        }
        Ok(s)
    }

    /// A member of a group on an interface.
    pub fn join(group: SocketAddr, ifindex: u32) -> Result<Socket> {
        let s = Socket::new(group)?;
        s.option(libc::SOL_SOCKET, libc::SO_REUSEADDR, &1)?;
        let on = ifindex.cast_signed();
        match group {
            SocketAddr::V4(a) => {
                s.option(libc::IPPROTO_IP, libc::IP_MULTICAST_ALL, &0)?;
                s.take_address()?;
                let m = membership(a.ip().octets(), [0; 4], on);
                s.option(libc::IPPROTO_IP, libc::IP_ADD_MEMBERSHIP, &m)?;
            }
            SocketAddr::V6(a) => {
                s.option(libc::IPPROTO_IPV6, IPV6_MULTICAST_ALL, &0)?;
                s.take_address()?;
                let m = libc::ipv6_mreq {
                    ipv6mr_multiaddr: libc::in6_addr {
                        s6_addr: a.ip().octets(),
                    },
                    ipv6mr_interface: ifindex,
                };
                s.option(libc::IPPROTO_IPV6, libc::IPV6_ADD_MEMBERSHIP, &m)?;
            }
        }
        Ok(s)
    }

    fn new(local: SocketAddr) -> Result<Socket> {
        let family = if local.is_ipv4() {
            libc::AF_INET
        } else {
            libc::AF_INET6
        };
        let kind = libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: plain socket(2).
        let fd = check(unsafe { libc::socket(family, kind, 0) })?;
        let fd = kernel::move_high(fd);
        // SAFETY: new, and nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let s = Socket { fd, local };
        if local.is_ipv6() {
            s.option(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, &1)?;
        }
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
        let (a, len) = raw(self.local);
        // SAFETY: a live address of `len` bytes.
        let r = unsafe { libc::bind(self.fd.as_raw_fd(), (&raw const a).cast(), len) };
        check(r).map(|_| ())
    }

    pub fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    pub fn send(&self, packet: &[u8], to: SocketAddr) -> Result<()> {
        let (a, len) = raw(to);
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
        let (empty, _) = raw(NOBODY);
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
            slots.from[i] = cooked(&names[i]);
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

const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
/// Missing in libc 0.2 (linux/in6.h).
const IPV6_MULTICAST_ALL: i32 = 29;
const IPV6_FREEBIND: i32 = 78;

fn membership(group: [u8; 4], on: [u8; 4], ifindex: i32) -> libc::ip_mreqn {
    libc::ip_mreqn {
        imr_multiaddr: libc::in_addr {
            s_addr: u32::from_ne_bytes(group),
        },
        imr_address: libc::in_addr {
            s_addr: u32::from_ne_bytes(on),
        },
        imr_ifindex: ifindex,
    }
}

/// Room for received datagrams: each has `slack` bytes before it.
#[derive(Debug)]
pub struct Slots {
    bytes: Vec<u8>,
    size: usize,
    slack: usize,
    from: [SocketAddr; BATCH],
    len: [usize; BATCH],
}

impl Slots {
    pub fn new(slack: usize, room: usize) -> Slots {
        Slots {
            bytes: vec![0; (slack + room) * BATCH],
            size: slack + room,
            slack,
            from: [NOBODY; BATCH],
            len: [0; BATCH],
        }
    }

    /// Slot `i` with its slack, the length of the datagram, and where it came from.
    pub fn slot(&mut self, i: usize) -> (&mut [u8], usize, SocketAddr) {
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
pub fn is_unicast(ip: IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(a) if a.is_broadcast());
    !ip.is_multicast() && !ip.is_unspecified() && !broadcast
}
