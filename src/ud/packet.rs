//! The packets: BTH, DETH, immediate, payload, pad, ICRC (IBTA Vol. 1, chapter 9; annex A17 for RoCEv2).

use core::net::{IpAddr, SocketAddr};

/// BTH and DETH.
const HEADERS: usize = 20;
/// The longest start of a packet: with an immediate.
pub const MAX_HEADERS: usize = HEADERS + 4;
const ICRC: usize = 4;
/// The longest packet.
pub const MAX_PACKET: usize = MAX_HEADERS + super::MTU + ICRC;

const UDP: u8 = 17;
const SEND_ONLY: u8 = 0x64;
const SEND_ONLY_IMMEDIATE: u8 = 0x65;
/// Default partition, full member.
const PKEY: [u8; 2] = [0xff, 0xff];

/// What the headers say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// As the program gave it, in memory order.
    pub immediate: Option<[u8; 4]>,
    pub solicited: bool,
    pub dest_qpn: u32,
    pub src_qpn: u32,
    pub qkey: u32,
    pub psn: u32,
    /// The sender's path used link-local GIDs: lowest bit of DETH's reserved byte.
    pub link_local: bool,
}

/// The addresses that the ICRC covers; both of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    pub src: SocketAddr,
    pub dst: SocketAddr,
}

impl Header {
    pub fn size(&self) -> usize {
        HEADERS + self.immediate.map_or(0, |i| i.len())
    }

    /// As many bytes as `size` says.
    pub fn write(&self, out: &mut [u8], pad: usize) {
        let word = |n: u32| n.to_be_bytes();
        out[0] = if self.immediate.is_some() {
            SEND_ONLY_IMMEDIATE
        } else {
            SEND_ONLY
        };
        // Solicited, migrated, pad count, version 0.
        out[1] = u8::from(self.solicited) << 7 | 1 << 6 | (pad as u8) << 4;
        out[2..4].copy_from_slice(&PKEY);
        out[4..8].copy_from_slice(&word(self.dest_qpn & 0xff_ffff));
        out[8..12].copy_from_slice(&word(self.psn & 0xff_ffff));
        out[12..16].copy_from_slice(&word(self.qkey));
        out[16..20].copy_from_slice(&word(self.src_qpn & 0xff_ffff));
        out[16] = self.link_local.into();
        if let Some(i) = self.immediate {
            out[20..24].copy_from_slice(&i);
        }
    }
}

/// Completes a packet whose payload of `len` bytes stands behind room for the headers; answers its length. `packet` has room for pad and
/// ICRC, too.
pub fn seal(h: &Header, packet: &mut [u8], len: usize, flow: &Flow) -> usize {
    let pad = len.wrapping_neg() % 4;
    h.write(packet, pad);
    let end = h.size() + len;
    packet[end..end + pad].fill(0);
    let crc = icrc(&packet[..end + pad], flow);
    packet[end + pad..end + pad + ICRC].copy_from_slice(&crc.to_le_bytes());
    end + pad + ICRC
}

/// Length of a packet with that much payload, as UDP carries it.
pub fn length(h: &Header, payload: usize) -> usize {
    h.size() + payload.next_multiple_of(4) + ICRC
}

/// The headers and where the payload is; None for everything that is not a whole UD packet.
pub fn open(packet: &[u8], flow: &Flow) -> Option<(Header, core::ops::Range<usize>)> {
    let body = packet.len().checked_sub(ICRC)?;
    if !packet.len().is_multiple_of(4) {
        return None;
    }
    let crc = u32::from_le_bytes([
        packet[body],
        packet[body + 1],
        packet[body + 2],
        packet[body + 3],
    ]);
    if body < HEADERS || crc != icrc(&packet[..body], flow) {
        return None;
    }
    parse(&packet[..body])
}

/// The same of a packet without its CRC.
pub fn parse(packet: &[u8]) -> Option<(Header, core::ops::Range<usize>)> {
    let body = packet.len();
    if body < HEADERS {
        return None;
    }
    let word =
        |at: usize| -> [u8; 4] { [packet[at], packet[at + 1], packet[at + 2], packet[at + 3]] };
    let number = |at| u32::from_be_bytes(word(at));
    let immediate = match packet[0] {
        SEND_ONLY => None,
        SEND_ONLY_IMMEDIATE if body >= MAX_HEADERS => Some(word(20)),
        _ => return None,
    };
    if packet[1] & 0x0f != 0 {
        return None;
    }
    let h = Header {
        immediate,
        solicited: packet[1] & 0x80 != 0,
        dest_qpn: number(4) & 0xff_ffff,
        psn: number(8) & 0xff_ffff,
        qkey: number(12),
        src_qpn: number(16) & 0xff_ffff,
        link_local: packet[16] & 1 != 0,
    };
    let pad = usize::from(packet[1] >> 4 & 3);
    let end = body.checked_sub(pad).filter(|end| *end >= h.size())?;
    (end - h.size() <= super::MTU).then(|| (h, h.size()..end))
}

/// The invariant CRC: fields that routers may change count as ones (A17.3.3). `body` is everything behind UDP's header but the CRC.
fn icrc(body: &[u8], flow: &Flow) -> u32 {
    let udp = (8 + body.len() + ICRC) as u16;
    let mut crc = crc32fast::Hasher::new();
    // Stands for the LRH of InfiniBand.
    crc.update(&[0xff; 8]);
    match (flow.src.ip(), flow.dst.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut ip = [0xffu8; 20];
            ip[0] = 0x45;
            ip[2..4].copy_from_slice(&(20 + udp).to_be_bytes());
            // Identification 0, do not fragment.
            ip[4..8].copy_from_slice(&[0, 0, 0x40, 0]);
            ip[9] = UDP;
            ip[12..16].copy_from_slice(&src.octets());
            ip[16..20].copy_from_slice(&dst.octets());
            crc.update(&ip);
        }
        (src, dst) => {
            let mut ip = [0xffu8; 40];
            ip[0] = 0x6f;
            ip[4..6].copy_from_slice(&udp.to_be_bytes());
            ip[6] = UDP;
            ip[8..24].copy_from_slice(&six(src));
            ip[24..40].copy_from_slice(&six(dst));
            crc.update(&ip);
        }
    }
    let mut head = [0xffu8; 8 + 12];
    head[0..2].copy_from_slice(&flow.src.port().to_be_bytes());
    head[2..4].copy_from_slice(&flow.dst.port().to_be_bytes());
    head[4..6].copy_from_slice(&udp.to_be_bytes());
    head[8..20].copy_from_slice(&body[..12]);
    // Congestion bits.
    head[12] = 0xff;
    crc.update(&head);
    crc.update(&body[12..]);
    crc.finalize()
}

/// As a GID has it.
pub fn six(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
        IpAddr::V6(a) => a.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn flows() -> impl Strategy<Value = Flow> {
        let v4 = || any::<([u8; 4], u16)>().prop_map(SocketAddr::from);
        let v6 = || any::<([u8; 16], u16)>().prop_map(SocketAddr::from);
        prop_oneof![(v4(), v4()), (v6(), v6())].prop_map(|(src, dst)| Flow { src, dst })
    }

    fn headers() -> impl Strategy<Value = Header> {
        let n = 0u32..1 << 24;
        (
            any::<Option<[u8; 4]>>(),
            any::<(bool, bool, u32)>(),
            n.clone(),
            n.clone(),
            n,
        )
            .prop_map(
                |(immediate, (solicited, link_local, qkey), dest_qpn, src_qpn, psn)| Header {
                    immediate,
                    solicited,
                    dest_qpn,
                    src_qpn,
                    qkey,
                    psn,
                    link_local,
                },
            )
    }

    fn make(h: &Header, payload: &[u8], flow: &Flow) -> Vec<u8> {
        let mut packet = vec![0xee; MAX_PACKET];
        packet[h.size()..h.size() + payload.len()].copy_from_slice(payload);
        let n = seal(h, &mut packet, payload.len(), flow);
        packet.truncate(n);
        packet
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens(h in headers(), flow in flows(), payload in prop::collection::vec(any::<u8>(), 0..300)) {
            let packet = make(&h, &payload, &flow);
            let (found, at) = open(&packet, &flow).unwrap();
            prop_assert_eq!(found, h);
            prop_assert_eq!(&packet[at], &payload[..]);
        }

        #[test]
        fn a_changed_bit_is_noticed(h in headers(), flow in flows(), payload in prop::collection::vec(any::<u8>(), 0..64), bit: prop::sample::Index) {
            let mut packet = make(&h, &payload, &flow);
            let bit = bit.index(packet.len() * 8);
            // The congestion byte is the routers'.
            prop_assume!(bit / 8 != 4);
            packet[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(open(&packet, &flow), None);
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..80), flow in flows()) {
            prop_assert_eq!(open(&bytes, &flow), None);
        }
    }

    #[test]
    fn the_longest_packet_fits() {
        let flow = Flow {
            src: ([127, 16, 1, 1], 20481).into(),
            dst: ([127, 17, 1, 1], 20482).into(),
        };
        let h = Header {
            immediate: Some([1, 2, 3, 4]),
            ..Header::default()
        };
        let packet = make(&h, &[7; crate::ud::MTU], &flow);
        assert_eq!(packet.len(), MAX_PACKET);
        assert_eq!(open(&packet, &flow).unwrap().1.len(), crate::ud::MTU);
    }
}
