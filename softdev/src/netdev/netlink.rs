//! What rtnetlink(7) says about interfaces and their addresses. Sockets of our own, by raw system calls: programs whose netlink
//! is refused see nothing of it.

use gaudi_softnic::{Errno, Fd, Result};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTMGRP_LINK: u32 = 1;
const RTMGRP_IPV4_IFADDR: u32 = 0x10;
const RTMGRP_IPV6_IFADDR: u32 = 0x100;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFF_UP: u32 = 1;
const IFF_LOWER_UP: u32 = 1 << 16;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const HEADER: usize = 16;
/// Messages that one answer may have.
const BOUND: usize = 1 << 16;

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) mac: Option<[u8; 6]>,
    pub(super) mtu: u32,
    /// Up, and with a carrier.
    pub(super) up: bool,
}

/// An address of an interface, as a GID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) index: u32,
    pub(super) gid: [u8; 16],
}

fn open(groups: u32) -> Result<Fd> {
    let fd = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        // NETLINK_ROUTE.
        None,
    )?;
    let fd = Fd::high(fd);
    rustix::net::bind(&fd, &SocketAddrNetlink::new(0, groups))?;
    Ok(fd)
}

/// Becomes readable whenever an interface or an address changes.
pub(super) fn listen() -> Result<Fd> {
    open(RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR)
}

/// Takes what has come; its contents do not matter, since everything is asked anew.
pub(super) fn drain(fd: &Fd) {
    let mut buffer = [0u8; 8192];
    for _ in 0..256 {
        match rustix::net::recv(fd, &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((n, _)) if n > 0 => {}
            // Overrun: something was lost, and the look that follows finds it.
            Err(rustix::io::Errno::NOBUFS) => {}
            _ => break,
        }
    }
}

pub(super) fn links() -> Result<Vec<Link>> {
    let mut found = Vec::new();
    dump(RTM_GETLINK, RTM_NEWLINK, |body| {
        let (Some(index), Some(flags)) = (word(body, 4), word(body, 8)) else {
            return;
        };
        let mut link = Link {
            index,
            up: flags & IFF_UP != 0 && flags & IFF_LOWER_UP != 0,
            ..Link::default()
        };
        for (kind, value) in attributes(body, 16) {
            match kind {
                IFLA_IFNAME => {
                    let name = value.split(|b| *b == 0).next().unwrap_or_default();
                    link.name = String::from_utf8_lossy(name).into_owned();
                }
                IFLA_ADDRESS => link.mac = value.try_into().ok(),
                IFLA_MTU => link.mtu = word(value, 0).unwrap_or(0),
                _ => {}
            }
        }
        found.push(link);
    })?;
    Ok(found)
}

/// In the kernel's order.
pub(super) fn addresses() -> Result<Vec<Address>> {
    let mut found = Vec::new();
    dump(RTM_GETADDR, RTM_NEWADDR, |body| {
        let (Some(family), Some(index)) = (body.first().copied(), word(body, 4)) else {
            return;
        };
        // On a point-to-point link IFA_ADDRESS is the other end's.
        let mut own: Option<&[u8]> = None;
        for (kind, value) in attributes(body, 8) {
            match kind {
                IFA_LOCAL => own = Some(value),
                IFA_ADDRESS if own.is_none() => own = Some(value),
                _ => {}
            }
        }
        let gid = match (family, own) {
            (AF_INET, Some(&[a, b, c, d])) => {
                [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
            }
            (AF_INET6, Some(ip)) => match ip.try_into() {
                Ok(gid) => gid,
                Err(_) => return,
            },
            _ => return,
        };
        found.push(Address { index, gid });
    })?;
    Ok(found)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(four.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    let two = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_ne_bytes(two.try_into().ok()?))
}

/// Type and value of each attribute behind a header of `skip` bytes.
fn attributes(body: &[u8], skip: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = body.get(skip..).unwrap_or_default();
    std::iter::from_fn(move || {
        let len = usize::from(half(rest, 0)?);
        let kind = half(rest, 2)? & 0x3fff;
        let value = rest.get(4..len)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// One message of a datagram and what is behind it.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let len = word(bytes, 0)? as usize;
    let kind = half(bytes, 4)?;
    let body = bytes.get(HEADER..len)?;
    Some((
        kind,
        body,
        bytes.get(len.next_multiple_of(4)..).unwrap_or_default(),
    ))
}

fn dump(request: u16, answer: u16, mut each: impl FnMut(&[u8])) -> Result<()> {
    let fd = open(0)?;
    let mut ask = [0u8; HEADER + 16];
    let len = ask.len() as u32;
    ask[..4].copy_from_slice(&len.to_ne_bytes());
    ask[4..6].copy_from_slice(&request.to_ne_bytes());
    ask[6..8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    rustix::net::sendto(&fd, &ask, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    // The kernel fills pages of at most 32 KiB.
    let mut buffer = vec![0u8; 64 << 10];
    for _ in 0..BOUND {
        let (n, _) = match rustix::net::recv(&fd, &mut buffer[..], RecvFlags::empty()) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        let mut rest = buffer.get(..n).unwrap_or_default();
        while let Some((kind, body, next)) = message(rest) {
            match kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => {
                    let code = word(body, 0).unwrap_or(0).cast_signed();
                    return Err(Errno(-code));
                }
                k if k == answer => each(body),
                _ => {}
            }
            rest = next;
        }
    }
    Err(Errno::EIO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_there() {
        let links = links().unwrap();
        let lo = links.iter().find(|l| l.name == "lo").unwrap();
        assert!(lo.mtu >= 1500, "{lo:?}");
        let own = addresses().unwrap();
        let localhost = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1];
        assert!(own.contains(&Address {
            index: lo.index,
            gid: localhost
        }));
    }

    #[test]
    fn broken_messages_end_the_walk() {
        let mut bytes = vec![0u8; 64];
        bytes[..4].copy_from_slice(&40u32.to_ne_bytes());
        for cut in 0..64 {
            let _ = message(&bytes[..cut]);
            assert!(attributes(&bytes[..cut], 16).count() <= 64);
        }
        bytes[0] = 3;
        assert!(message(&bytes).is_none());
    }
}
