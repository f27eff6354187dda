//! GID tables of ports that are bound to interfaces, kept as the kernel keeps them (roce_gid_mgmt): an entry stays at its index
//! as long as its address is there, and a new one takes the first free pair.

use super::netlink::{Address, Link};
use gaudi_softnic::GidType;

/// Slots of a bound port: RoCE v1 and v2 of 16 addresses.
pub(crate) const SLOTS: usize = 32;

/// A port as its interface makes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) ifindex: u32,
    pub(crate) up: bool,
    pub(crate) mtu: u32,
    /// One for each address; RoCE v1 at twice the index, v2 behind it.
    pub(crate) gids: [Option<[u8; 16]>; SLOTS / 2],
}

impl Port {
    pub(crate) fn gid(&self, index: u32) -> Option<([u8; 16], GidType)> {
        let gid = self.gids.get(index as usize / 2).copied().flatten()?;
        let kind = if index.is_multiple_of(2) {
            GidType::RoceV1
        } else {
            GidType::RoceV2
        };
        Some((gid, kind))
    }

    /// Takes over what the kernel says now.
    pub(super) fn update(&mut self, name: &str, links: &[Link], addresses: &[Address]) {
        self.name = name.to_string();
        let Some(link) = links.iter().find(|l| l.name == name) else {
            // Gone: the port is down, and nobody reaches its addresses.
            self.up = false;
            self.ifindex = 0;
            self.gids = Default::default();
            return;
        };
        (self.ifindex, self.up, self.mtu) = (link.index, link.up, link.mtu);
        let mut wanted: Vec<[u8; 16]> = Vec::new();
        // The default GID comes first (IBTA annex A17.4.3), also where IPv6 is off.
        wanted.extend(link.mac.filter(|m| *m != [0; 6]).map(default_gid));
        for a in addresses.iter().filter(|a| a.index == link.index) {
            if !wanted.contains(&a.gid) {
                wanted.push(a.gid);
            }
        }
        for slot in &mut self.gids {
            if slot.is_some_and(|gid| !wanted.contains(&gid)) {
                *slot = None;
            }
        }
        for gid in wanted {
            if self.gids.contains(&Some(gid)) {
                continue;
            }
            match self.gids.iter_mut().find(|s| s.is_none()) {
                Some(slot) => *slot = Some(gid),
                None => log::warn!("{name}: more than {} addresses", SLOTS / 2),
            }
        }
    }

    /// A line of the state file.
    pub(super) fn record(&self) -> String {
        let gids: Vec<String> = self
            .gids
            .iter()
            .map(|g| g.map_or("-".into(), |g| format!("{:032x}", u128::from_be_bytes(g))))
            .collect();
        format!(
            "{} {} {} {} {}\n",
            self.name,
            self.ifindex,
            u32::from(self.up),
            self.mtu,
            gids.join(",")
        )
    }

    pub(super) fn parse(line: &str) -> Option<Port> {
        let mut words = line.split(' ');
        let mut port = Port {
            name: words.next()?.to_string(),
            ifindex: words.next()?.parse().ok()?,
            up: words.next()? == "1",
            mtu: words.next()?.parse().ok()?,
            ..Port::default()
        };
        for (slot, text) in port.gids.iter_mut().zip(words.next()?.split(',')) {
            *slot = match text {
                "-" => None,
                hex => Some(u128::from_str_radix(hex, 16).ok()?.to_be_bytes()),
            };
        }
        Some(port)
    }
}

/// Link-local with the EUI-64 of the MAC (RFC 4291, appendix A).
fn default_gid(mac: [u8; 6]) -> [u8; 16] {
    let [a, b, c, d, e, f] = mac;
    [
        0xfe,
        0x80,
        0,
        0,
        0,
        0,
        0,
        0,
        a ^ 2,
        b,
        c,
        0xff,
        0xfe,
        d,
        e,
        f,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(last: u8) -> [u8; 16] {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, last]
    }

    fn port(addresses: &[u8], port: &mut Port) {
        let link = Link {
            index: 7,
            name: "eth0".into(),
            mac: Some([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            up: true,
        };
        let addresses: Vec<_> = addresses
            .iter()
            .map(|n| Address {
                index: 7,
                gid: v4(*n),
            })
            .chain([Address {
                index: 8,
                gid: v4(99),
            }])
            .collect();
        port.update("eth0", &[link], &addresses);
    }

    #[test]
    fn entries_keep_their_places() {
        let mut p = Port::default();
        port(&[1, 2], &mut p);
        assert_eq!(p.gid(0).unwrap().0[..2], [0xfe, 0x80]);
        assert_eq!(p.gid(2), Some((v4(1), GidType::RoceV1)));
        assert_eq!(p.gid(3), Some((v4(1), GidType::RoceV2)));
        assert_eq!(p.gid(5).unwrap().0, v4(2));
        assert_eq!(p.gid(6), None);
        // The first goes: its place stays empty until another address comes.
        port(&[2], &mut p);
        assert_eq!((p.gid(2), p.gid(4).unwrap().0), (None, v4(2)));
        port(&[2, 3, 4], &mut p);
        assert_eq!(p.gid(2).unwrap().0, v4(3));
        assert_eq!(p.gid(6).unwrap().0, v4(4));
        assert_eq!(Port::parse(p.record().trim_end()), Some(p.clone()));
        p.update("eth0", &[], &[]);
        assert!(!p.up && p.gid(0).is_none());
    }

    #[test]
    fn half_a_record_is_none() {
        let mut p = Port::default();
        port(&[1], &mut p);
        let whole = p.record();
        assert_eq!(Port::parse("eth0 1"), None);
        assert_eq!(Port::parse(&whole.replace('-', "x")), None);
    }
}
