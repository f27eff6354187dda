//! Addresses of the fabric: device `d` (0..7), IB port `p` (1..24) have MAC 02:1d:a3:00:dd:pp and IPv4 127.(16+d).p.1.

use crate::GidType;

/// Node GUID: the EUI-64 shape of the MAC of the device's (absent) port 0.
pub fn device_guid(device: u32) -> u64 {
    u64::from_be_bytes(eui64(port_mac(device, 0)))
}

pub fn port_mac(device: u32, port: u32) -> [u8; 6] {
    let [d, ..] = device.to_le_bytes();
    let [p, ..] = port.to_le_bytes();
    [0x02, 0x1d, 0xa3, 0x00, d, p]
}

pub fn port_ipv4(device: u32, port: u32) -> [u8; 4] {
    let [d, ..] = device.to_le_bytes();
    let [p, ..] = port.to_le_bytes();
    [127, 16u8.wrapping_add(d), p, 1]
}

/// LID of a port, for paths without GRH: never 0, unique in the fabric.
pub fn port_lid(device: u32, port: u32) -> u16 {
    (device * 32 + port) as u16
}

/// The device and port that a LID names.
pub fn resolve_lid(lid: u16) -> (u32, u32) {
    (u32::from(lid) / 32, u32::from(lid) % 32)
}

/// Four entries: link-local (v1, v2), then IPv4-mapped (v1, v2).
pub fn port_gid(device: u32, port: u32, index: u32) -> Option<([u8; 16], GidType)> {
    let mut gid = [0; 16];
    match index {
        0 | 1 => {
            gid[..2].copy_from_slice(&[0xfe, 0x80]);
            gid[8..].copy_from_slice(&eui64(port_mac(device, port)));
        }
        2 | 3 => {
            gid[10..12].fill(0xff);
            gid[12..].copy_from_slice(&port_ipv4(device, port));
        }
        _ => return None,
    }
    Some((
        gid,
        if index.is_multiple_of(2) {
            GidType::RoceV1
        } else {
            GidType::RoceV2
        },
    ))
}

/// The device and port that a QP context's destination names: by IPv4 when there is one, else by MAC.
pub(crate) fn resolve(ip: u32, mac: [u8; 6], devices: u32, ports: u32) -> Option<(u32, u32)> {
    let (device, port) = if ip != 0 {
        let [a, b, c, d] = ip.to_be_bytes();
        if a != 127 || b < 16 || d != 1 {
            return None;
        }
        (u32::from(b - 16), u32::from(c))
    } else {
        let [0x02, 0x1d, 0xa3, 0x00, d, p] = mac else {
            return None;
        };
        (u32::from(d), u32::from(p))
    };
    (device < devices && (1..=ports).contains(&port)).then_some((device, port))
}

fn eui64(mac: [u8; 6]) -> [u8; 8] {
    let [a, b, c, d, e, f] = mac;
    [a ^ 2, b, c, 0xff, 0xfe, d, e, f]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_leads_back_to_its_port() {
        for d in 0..8 {
            for p in 1..=24 {
                let ip = u32::from_be_bytes(port_ipv4(d, p));
                assert_eq!(resolve(ip, [0; 6], 8, 24), Some((d, p)));
                assert_eq!(resolve(0, port_mac(d, p), 8, 24), Some((d, p)));
            }
        }
    }

    #[test]
    fn strangers_are_nowhere() {
        assert_eq!(resolve(0x7f00_0001, [0; 6], 8, 24), None);
        assert_eq!(resolve(0, [0xff; 6], 8, 24), None);
        assert_eq!(
            resolve(u32::from_be_bytes(port_ipv4(1, 1)), [0; 6], 1, 1),
            None
        );
        assert_eq!(
            resolve(u32::from_be_bytes(port_ipv4(0, 2)), [0; 6], 1, 1),
            None
        );
        assert_eq!(port_gid(0, 1, 4), None);
    }
}
