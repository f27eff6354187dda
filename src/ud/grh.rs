//! The 40 bytes before the payload of a datagram (IBTA 11.4.2.1; annex A17.4.5 for RoCEv2), and the groups of multicast GIDs.

use core::net::IpAddr;

/// Size of the area.
pub const GRH: usize = 40;
/// `wc.sl` of a datagram with an IPv4 header, by which UCX tells it from one with an IPv6 header.
pub const SL_IPV4: u8 = 2;
pub const SL_IPV6: u8 = 1;

/// UDP.
const PROTOCOL: u8 = 17;
const HOPS: u8 = 64;

/// The group of a multicast GID: IPv4 where it names one, else itself, or where the port has no IPv6 (`six`) an IPv4 group out of
/// its hash. A GID whose scope is the interface (RFC 4291 2.7), as perftest's, means the network all the same, as it does on RoCE's
/// Ethernet: IPv6 would not let it out of the host, so it goes by the link's scope.
pub fn group(gid: &[u8; 16], six: bool) -> Option<IpAddr> {
    if gid[0] != 0xff {
        return None;
    }
    if let [
        _,
        _,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0xff,
        0xff,
        a @ 224..=239,
        b,
        c,
        d,
    ] = gid
    {
        return Some([*a, *b, *c, *d].into());
    }
    if six {
        let mut group = *gid;
        if group[1] & 0xf < 2 {
            group[1] = group[1] & 0xf0 | 2;
        }
        return Some(group.into());
    }
    let [_, b, c, d] = crc32fast::hash(gid).to_be_bytes();
    Some([239, b, c, d].into())
}

/// An IPv4 header in the second half, zeros before.
pub fn ipv4(out: &mut [u8], payload: usize, src: [u8; 4], dst: [u8; 4]) {
    let out = &mut out[..GRH];
    out.fill(0);
    let ip = &mut out[20..];
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&((20 + payload) as u16).to_be_bytes());
    ip[6] = 0x40;
    ip[8] = HOPS;
    ip[9] = PROTOCOL;
    ip[12..16].copy_from_slice(&src);
    ip[16..20].copy_from_slice(&dst);
    let sum: u32 = ip
        .chunks_exact(2)
        .map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    ip[10..12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
}

/// An IPv6 header.
pub fn ipv6(out: &mut [u8], payload: usize, src: &[u8; 16], dst: &[u8; 16]) {
    let out = &mut out[..GRH];
    out.fill(0);
    out[0] = 0x60;
    out[4..6].copy_from_slice(&(payload as u16).to_be_bytes());
    out[6] = PROTOCOL;
    out[7] = HOPS;
    out[8..24].copy_from_slice(src);
    out[24..40].copy_from_slice(dst);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_header_sums_up() {
        let mut b = [0xaa; GRH];
        ipv4(&mut b, 300, [127, 16, 1, 1], [127, 17, 2, 1]);
        let sum: u32 = b[20..]
            .chunks_exact(2)
            .map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])))
            .sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
        assert_eq!(b[..20], [0; 20]);
        assert_eq!(
            (b[20], &b[32..]),
            (0x45, &[127, 16, 1, 1, 127, 17, 2, 1][..])
        );
    }

    #[test]
    fn groups() {
        let mut gid = [0; 16];
        gid[0] = 0xff;
        gid[1] = 0x0e;
        gid[10..].copy_from_slice(&[0xff, 0xff, 224, 1, 2, 3]);
        let named = Some(IpAddr::from([224, 1, 2, 3]));
        assert_eq!((group(&gid, false), group(&gid, true)), (named, named));
        gid[10] = 0;
        assert!(matches!(group(&gid, false), Some(IpAddr::V4(a)) if a.octets()[0] == 239));
        assert_eq!(group(&gid, true), Some(gid.into()));
        gid[1] = 0x11;
        let mut link = gid;
        link[1] = 0x12;
        assert_eq!(group(&gid, true), Some(link.into()));
        gid[0] = 0xfe;
        assert_eq!(group(&gid, true), None);
    }
}
