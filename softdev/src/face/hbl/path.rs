//! From a destination GID to what a QP context holds: a MAC, and an IPv4 address unless the path is layer 2.

use crate::netdev;
use gaudi_softnic::{port_ipv4, port_mac};

/// MAC and IPv4 in host order (0 for a layer-2 path).
pub(super) fn resolve(dgid: &[u8; 16], devices: u32, ports: u32) -> ([u8; 6], u32) {
    if netdev::bound() {
        // An address of ours, or one that only a wire would reach: nobody answers there.
        return match netdev::port_of(ports, dgid) {
            Some((device, port)) => (port_mac(device, port), 0),
            None => ([0xff; 6], 0),
        };
    }
    let [a, b, c, d, e, f, g, h, tail @ ..] = *dgid;
    let [m0, m1, m2, _, _, m3, m4, m5] = tail;
    if [a, b, c, d, e, f, g, h] == [0xfe, 0x80, 0, 0, 0, 0, 0, 0] {
        // EUI-64: the universal bit is inverted and ff:fe sits in the middle (RFC 4291, appendix A).
        return ([m0 ^ 2, m1, m2, m3, m4, m5], 0);
    }
    // The driver takes the last four bytes of any other GID for IPv4.
    let [.., w, x, y, z] = *dgid;
    let ip = [w, x, y, z];
    (
        neighbour(ip, devices, ports).unwrap_or([0xff; 6]),
        u32::from_be_bytes(ip),
    )
}

/// What the kernel would find in its neighbour table.
fn neighbour(ip: [u8; 4], devices: u32, ports: u32) -> Option<[u8; 6]> {
    let mut all = (0..devices).flat_map(|device| (1..=ports).map(move |port| (device, port)));
    all.find(|&(device, port)| port_ipv4(device, port) == ip)
        .map(|(device, port)| port_mac(device, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gaudi_softnic::port_gid;

    #[test]
    fn gids_lead_to_their_port() {
        for index in 0..4 {
            let (gid, _) = port_gid(1, 3, index).unwrap();
            let (mac, ip) = resolve(&gid, 2, 4);
            assert_eq!(mac, port_mac(1, 3));
            assert_eq!(ip == 0, index < 2);
        }
    }

    #[test]
    fn strangers_keep_their_ip() {
        let mut gid = [0; 16];
        gid[10..].copy_from_slice(&[0xff, 0xff, 10, 0, 0, 1]);
        assert_eq!(resolve(&gid, 2, 4), ([0xff; 6], 0x0a00_0001));
    }
}
