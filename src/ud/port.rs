//! What makes a QP a datagram QP: its socket, its groups, and how requests and packets pass through them.

use super::packet::{self, Flow, Header, MAX_PACKET};
use super::{GROUP_QPN, MTU, UDP_BASE, UDP_GROUPS, grh};
use crate::native::udp::{BATCH, Slots, Socket};
use crate::native::{Frame, NativeQp, Nic, PortAddress, user};
use crate::verbs::qp::{Env, Qp};
use crate::verbs::queue::Stage;
use crate::verbs::srq::{Source, Taken};
use crate::verbs::types::{Errno, Result, Wc};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use kernel_abi::ext::{self, note};
use kernel_abi::verbs::{qps, send_flag, wc_flag, wc_opcode, wc_status, wr_opcode};

/// Batches of datagrams that one look takes from a socket: others have their turn.
const BATCHES: usize = 4;
/// Before the packet of a frame: IPv4 addresses of sender and receiver.
const LEAD: usize = 8;
/// Looks that a quiet socket is spared at most where datagrams come as frames, too: a look is a system call.
const SPARED: u8 = 15;

/// An address handle.
#[derive(Clone, Copy, Debug)]
pub struct Ah {
    pub pd: u32,
    /// The UDP port is not yet known. None: an address that nobody has.
    pub to: Option<SocketAddr>,
    pub sgid_index: u8,
    pub group: bool,
    pub link_local: bool,
}

/// The datagram part of a QP.
#[derive(Debug)]
pub struct Port {
    id: u32,
    /// One for each address of the port.
    sockets: Vec<(PortAddress, Socket)>,
    /// Multicast attachments, by GID.
    groups: Vec<([u8; 16], Socket)>,
    /// Multicast GIDs that stand for no IPv4 group are IPv6 groups.
    six: bool,
    mtu: usize,
    psn: u32,
    /// Bytes and datagrams.
    sent: [u64; 2],
    received: [u64; 2],
    /// There was no room for datagrams: the next receive looks again.
    pub hungry: bool,
    /// The device carries datagrams of its own QPs.
    frames: bool,
    /// Whom it sent to last, for those who look: number, and device where there is a rule for addresses.
    last: (u32, Option<u8>),
    /// Looks at sockets to be left out now, and after the next one that finds nothing.
    spared: [u8; 2],
}

/// Memory that all datagram QPs of a context share.
pub struct Scratch {
    rx: Slots,
    tx: Vec<u8>,
}

/// Room for a GRH right before the payload, however short the headers are.
const SLACK: usize = grh::GRH;

impl Default for Scratch {
    fn default() -> Scratch {
        Scratch {
            rx: Slots::new(SLACK, MAX_PACKET),
            tx: vec![0; LEAD + MAX_PACKET],
        }
    }
}

impl Port {
    /// EADDRINUSE: the number is taken by somebody outside this fabric.
    pub fn open(place: &Place, native: &NativeQp) -> Result<Port> {
        let mut p = Port {
            id: native.id,
            sockets: Vec::new(),
            groups: Vec::new(),
            six: place.six,
            mtu: place.mtu.min(MTU),
            psn: 0,
            sent: [0; 2],
            received: [0; 2],
            hungry: false,
            frames: false,
            last: (0, None),
            spared: [0; 2],
        };
        let mut failed = None;
        for a in &place.addresses {
            match p.socket(a) {
                Ok(s) => p.sockets.push((*a, s)),
                Err(e) if e.0 == libc::EADDRINUSE => return Err(e),
                // A host without IPv6 has link-local GIDs all the same.
                Err(e) => failed = Some(e),
            }
        }
        match failed {
            Some(e) if p.sockets.is_empty() => Err(e),
            _ => Ok(p),
        }
    }

    fn socket(&self, a: &PortAddress) -> Result<Socket> {
        Socket::bind(at(a.ip, udp_port(self.id), a.ifindex), a.ifindex)
    }

    /// Descriptors to watch.
    pub fn fds(&self) -> impl Iterator<Item = i32> {
        self.sockets().map(Socket::fd)
    }

    pub fn groups(&self) -> impl Iterator<Item = &[u8; 16]> {
        self.groups.iter().map(|(gid, _)| gid)
    }

    /// The port has other addresses now. Answers the descriptors that are new.
    pub fn readdress(&mut self, place: &Place) -> Vec<i32> {
        let same = |a: &PortAddress, b: &PortAddress| (a.ip, a.ifindex) == (b.ip, b.ifindex);
        self.mtu = place.mtu.min(MTU);
        self.sockets
            .retain(|(old, _)| place.addresses.iter().any(|new| same(old, new)));
        let mut fds = Vec::new();
        for a in &place.addresses {
            if let Some((known, _)) = self.sockets.iter_mut().find(|(old, _)| same(old, a)) {
                known.indices = a.indices;
                continue;
            }
            match self.socket(a) {
                Ok(s) => {
                    fds.push(s.fd());
                    self.sockets.push((*a, s));
                }
                Err(e) => log::warn!("datagrams to {}: {e}", a.ip),
            }
        }
        fds
    }

    /// Answers the descriptor to watch, or None when the QP is attached already.
    pub fn attach(&mut self, gid: [u8; 16]) -> Result<Option<i32>> {
        if self.groups.iter().any(|(g, _)| *g == gid) {
            return Ok(None);
        }
        let group = grh::group(&gid, self.six).ok_or(Errno::EINVAL)?;
        // An interface without any address has still its groups.
        let ifindex = self.sockets.first().map_or(0, |(a, _)| a.ifindex);
        let socket = Socket::join(at(group, UDP_GROUPS, ifindex), ifindex)?;
        let fd = socket.fd();
        self.groups.push((gid, socket));
        Ok(Some(fd))
    }

    pub fn detach(&mut self, gid: &[u8; 16]) -> Result<()> {
        let at = self.groups.iter().position(|(g, _)| g == gid);
        self.groups.remove(at.ok_or(Errno::EINVAL)?);
        Ok(())
    }

    /// For those who look at the device.
    pub fn noted(&self) -> u64 {
        let (number, device) = self.last;
        note::datagrams(number, device, self.groups.len())
    }

    /// The QP receives from now on.
    pub fn open_frames<N: Nic>(&mut self, nic: &mut N, native: &NativeQp) {
        if nic.features().frames {
            match nic.frame_open(native) {
                Ok(()) => self.frames = true,
                // Its datagrams come by UDP.
                Err(e) => log::debug!("QP {:#x}: no frames: {e}", native.number()),
            }
        }
    }

    /// The QP receives no more.
    pub fn close_frames<N: Nic>(&mut self, nic: &mut N, native: &NativeQp) {
        if std::mem::take(&mut self.frames) {
            nic.frame_close(native);
        }
    }

    /// First PSN of the send queue.
    pub fn start(&mut self, psn: u32) {
        self.psn = psn;
    }

    /// Throws away what came before the QP could receive.
    pub fn drain(&self, scratch: &mut Scratch) {
        for s in self.sockets() {
            for _ in 0..BATCHES * BATCH {
                if s.receive(&mut scratch.rx, BATCH) < BATCH {
                    break;
                }
            }
        }
    }

    fn sockets(&self) -> impl Iterator<Item = &Socket> {
        let own = self.sockets.iter().map(|(_, s)| s);
        own.chain(self.groups.iter().map(|(_, s)| s))
    }

    /// What a path leaves by: its own GID's address, else one of the destination's family.
    fn leaves_by(&self, to: &SocketAddr, sgid_index: u8) -> Option<&Socket> {
        let fits = |s: &&(PortAddress, Socket)| s.1.local.is_ipv4() == to.is_ipv4();
        let mut own = self.sockets.iter().filter(fits);
        own.clone()
            .find(|(a, _)| a.indices.checked_shr(sgid_index.into()).unwrap_or(0) & 1 != 0)
            .or_else(|| own.next())
            .map(|(_, s)| s)
    }
}

/// What a port's Ethernet side is like.
pub struct Place {
    pub addresses: Vec<PortAddress>,
    pub six: bool,
    pub mtu: usize,
}

/// Link-local addresses, of hosts and of groups, are those of one interface.
fn at(ip: IpAddr, port: u16, ifindex: u32) -> SocketAddr {
    match ip {
        IpAddr::V6(a) if is_link_local(&a) => SocketAddrV6::new(a, port, 0, ifindex).into(),
        _ => SocketAddr::new(ip, port),
    }
}

pub fn is_link_local(a: &Ipv6Addr) -> bool {
    let [x, y, ..] = a.octets();
    (x == 0xfe && y & 0xc0 == 0x80) || (x == 0xff && matches!(y & 0x0f, 1 | 2))
}

/// Of the QP with a native id.
fn udp_port(id: u32) -> u16 {
    UDP_BASE + (id & 0x1fff) as u16
}

/// Sends what was posted. A request that fails stops the send queue (SQE, IBTA 10.3.1.8). True: a receiver of this fabric is behind, the
/// rest waits for it.
pub fn send<N: Nic>(
    qp: &mut Qp,
    env: &mut Env<N>,
    ahs: &[Option<Ah>],
    scratch: &mut Scratch,
) -> bool {
    let Some(mut port) = qp.ud.take() else {
        return false;
    };
    let (before, last) = (port.sent, port.last);
    let mut waits = false;
    while qp.state == qps::RTS && qp.sq.issued != qp.sq.tail {
        let i = qp.sq.issued;
        let sent = send_one(qp, &mut port, env, ahs, scratch, i);
        if sent == Ok(false) {
            waits = true;
            break;
        }
        qp.sq.issued = i.wrapping_add(1);
        let status = sent.err().unwrap_or(wc_status::SUCCESS);
        if status == wc_status::SUCCESS {
            qp.complete_send(env, status);
            continue;
        }
        let e = qp.sq.at_mut(i);
        (e.stage, e.status) = (Stage::Failed, status);
        qp.state = qps::SQE;
        qp.attr.qp_state = qps::SQE;
        qp.note_state(env);
        qp.halted = true;
        qp.flush_sends(env);
    }
    if port.sent != before {
        let [bytes, n] = port.sent;
        env.nic.note(&qp.native, note::SENT_BYTES, bytes);
        env.nic.note(&qp.native, note::SENT_PACKETS, n);
    }
    let other = port.last != last;
    qp.ud = Some(port);
    if other {
        qp.note_state(env);
    }
    waits
}

/// False: not now.
fn send_one<N: Nic>(
    qp: &Qp,
    port: &mut Port,
    env: &Env<N>,
    ahs: &[Option<Ah>],
    scratch: &mut Scratch,
    i: u32,
) -> core::result::Result<bool, u32> {
    let e = qp.sq.at(i);
    let immediate = match e.opcode {
        wr_opcode::SEND => None,
        wr_opcode::SEND_WITH_IMM => Some(e.imm.to_ne_bytes()),
        _ => return Err(wc_status::LOC_QP_OP_ERR),
    };
    if e.len > port.mtu as u64 {
        return Err(wc_status::LOC_LEN_ERR);
    }
    let ah = usize::try_from(e.remote_addr)
        .ok()
        .and_then(|h| ahs.get(h).copied().flatten())
        // Its PD must be the QP's (IBTA 10.2.2.3).
        .filter(|ah| ah.pd == qp.pd)
        .ok_or(wc_status::LOC_QP_OP_ERR)?;
    let dest_qpn = qp.sq.srqn(i) & 0xff_ffff;
    let h = Header {
        immediate,
        solicited: e.flags & send_flag::SOLICITED != 0,
        dest_qpn,
        src_qpn: qp.number(),
        // A qkey with the highest bit stands for the QP's own (IBTA 10.2.5).
        qkey: if e.rkey >> 31 != 0 {
            qp.attr.qkey
        } else {
            e.rkey
        },
        psn: port.psn,
        link_local: ah.link_local,
    };
    gather(qp, env, i, &mut scratch.tx[LEAD + h.size()..])?;
    let Some(mut to) = ah.to else {
        // Lost, as what nobody receives.
        return Ok(true);
    };
    to.set_port(if ah.group {
        UDP_GROUPS
    } else {
        udp_port(crate::native::split_number(dest_qpn).1)
    });
    let Some(socket) = port.leaves_by(&to, ah.sgid_index) else {
        log::debug!("QP {:#x}: no address to reach {to} from", qp.number());
        return Ok(true);
    };
    let flow = Flow {
        src: socket.local,
        dst: to,
    };
    let gone = match frame(env, &h, &flow, ah.group, &mut scratch.tx, e.len as usize) {
        Frame::Full => return Ok(false),
        Frame::Sent => true,
        Frame::Lost => false,
        Frame::NotHere => {
            let packet = &mut scratch.tx[LEAD..];
            let n = packet::seal(&h, packet, e.len as usize, &flow);
            let done = socket.send(&packet[..n], to);
            if let Err(e) = &done {
                // Lost, as datagrams may be.
                log::debug!("QP {:#x}: datagram to {to}: {e}", qp.number());
            }
            done.is_ok()
        }
    };
    port.psn = port.psn.wrapping_add(1);
    let device = match to.ip() {
        IpAddr::V4(ip) if !ah.group && env.nic.features().port_ipv4 => {
            ext::ipv4_device(ip.octets())
        }
        _ => None,
    };
    port.last = (dest_qpn, device);
    if gone {
        port.sent[0] += e.len;
        port.sent[1] += 1;
    }
    Ok(true)
}

/// The short way, to a QP of the same fabric: addresses, headers and payload, without pad and CRC.
fn frame<N: Nic>(
    env: &Env<N>,
    h: &Header,
    flow: &Flow,
    group: bool,
    tx: &mut [u8],
    payload: usize,
) -> Frame {
    let (IpAddr::V4(src), IpAddr::V4(dst)) = (flow.src.ip(), flow.dst.ip()) else {
        return Frame::NotHere;
    };
    if group || !env.nic.features().frames {
        return Frame::NotHere;
    }
    tx[..4].copy_from_slice(&src.octets());
    tx[4..LEAD].copy_from_slice(&dst.octets());
    h.write(&mut tx[LEAD..], 0);
    let whole = &tx[..LEAD + h.size() + payload];
    env.nic.frame_send(dst.octets(), h.dest_qpn, whole)
}

fn gather<N: Nic>(qp: &Qp, env: &Env<N>, i: u32, out: &mut [u8]) -> core::result::Result<(), u32> {
    let e = qp.sq.at(i);
    if e.flags & send_flag::INLINE != 0 {
        out[..e.len as usize].copy_from_slice(qp.sq.inline(i));
        return Ok(());
    }
    let mut at = 0;
    for sge in qp.sq.sges(i).iter().filter(|s| s.length != 0) {
        let place = env
            .mrs
            .local(qp.pd, sge, false)
            .map_err(|_| wc_status::LOC_PROT_ERR)?;
        // The caller has seen that the sum fits.
        let part = &mut out[at..at + sge.length as usize];
        user::copy(part.as_mut_ptr().addr() as u64, place.host, part.len())
            .map_err(|_| wc_status::LOC_PROT_ERR)?;
        at += part.len();
    }
    Ok(())
}

/// Where to look for datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// A program polls: at sockets from time to time.
    Often,
    /// Not at sockets, which have a thread.
    Frames,
    Everywhere,
}

/// Takes datagrams for as many receives as there are. True when any came.
#[inline]
pub fn receive<N: Nic>(qp: &mut Qp, env: &mut Env<N>, scratch: &mut Scratch, look: Look) -> bool {
    if !matches!(qp.state, qps::RTR | qps::RTS | qps::SQD | qps::SQE) {
        return false;
    }
    let Some(mut port) = qp.ud.take() else {
        return false;
    };
    let before = port.received;
    port.hungry = false;
    let mut news = port.frames && take_frames(qp, env, &mut port, scratch);
    if port.looks_at_sockets(look) {
        let came = take_packets(qp, env, &mut port, scratch);
        port.spare(came);
        news |= came;
    }
    if port.received != before {
        let [bytes, n] = port.received;
        env.nic.note(&qp.native, note::RECEIVED_BYTES, bytes);
        env.nic.note(&qp.native, note::RECEIVED_PACKETS, n);
    }
    qp.ud = Some(port);
    news
}

impl Port {
    fn looks_at_sockets(&mut self, look: Look) -> bool {
        let [now, _] = &mut self.spared;
        match look {
            Look::Everywhere => true,
            Look::Frames => false,
            Look::Often if self.frames && *now != 0 => {
                *now -= 1;
                false
            }
            Look::Often => true,
        }
    }

    fn spare(&mut self, came: bool) {
        let [now, next] = &mut self.spared;
        *next = if came { 0 } else { (*next * 2 + 1).min(SPARED) };
        *now = *next;
    }
}

/// What other QPs of the fabric have sent.
fn take_frames<N: Nic>(
    qp: &mut Qp,
    env: &mut Env<N>,
    port: &mut Port,
    scratch: &mut Scratch,
) -> bool {
    for taken in 0..BATCHES * BATCH {
        if room(qp, env) == 0 {
            port.hungry = true;
            return taken != 0;
        }
        let (slot, ..) = scratch.rx.slot(0);
        let n = env.nic.frame_recv(&qp.native, &mut slot[SLACK - LEAD..]);
        if n == 0 {
            return taken != 0;
        }
        if let Some(len) = deliver_frame(qp, env, port, slot, n) {
            port.received[0] += len as u64;
            port.received[1] += 1;
        }
    }
    true
}

fn deliver_frame<N: Nic>(
    qp: &mut Qp,
    env: &mut Env<N>,
    port: &Port,
    slot: &mut [u8],
    n: usize,
) -> Option<usize> {
    let lead = slot.get(SLACK - LEAD..SLACK)?;
    let address = |at: usize| [lead[at], lead[at + 1], lead[at + 2], lead[at + 3]];
    let (src, dst) = (address(0), address(4));
    let packet = slot.get(SLACK..(SLACK + n).checked_sub(LEAD)?)?;
    let (h, payload) = packet::parse(packet)?;
    let way = Way {
        from: (src, udp_port(crate::native::split_number(h.src_qpn).1)).into(),
        to: (dst, udp_port(port.id)).into(),
        group: false,
        length: packet::length(&h, payload.len()),
    };
    deliver(qp, env, port, &way, slot, (h, payload))
}

/// What has come by UDP.
fn take_packets<N: Nic>(
    qp: &mut Qp,
    env: &mut Env<N>,
    port: &mut Port,
    scratch: &mut Scratch,
) -> bool {
    let mut news = false;
    let count = port.sockets.len() + port.groups.len();
    'sockets: for k in 0..count {
        for _ in 0..BATCHES {
            let room = room(qp, env).min(BATCH);
            if room == 0 {
                port.hungry = true;
                break 'sockets;
            }
            let (socket, group) = match port.sockets.get(k) {
                Some((_, socket)) => (socket, false),
                None => match port.groups.get(k - port.sockets.len()) {
                    Some((_, socket)) => (socket, true),
                    None => break,
                },
            };
            let n = socket.receive(&mut scratch.rx, room);
            let mut came = [0; 2];
            for i in 0..n {
                let (slot, len, from) = scratch.rx.slot(i);
                let way = Way {
                    from,
                    to: socket.local,
                    group,
                    length: len,
                };
                let flow = Flow {
                    src: from,
                    dst: socket.local,
                };
                let found = packet::open(&slot[SLACK..SLACK + len], &flow);
                if let Some(found) = found
                    && let Some(len) = deliver(qp, env, port, &way, slot, found)
                {
                    came[0] += len as u64;
                    came[1] += 1;
                }
            }
            port.received[0] += came[0];
            port.received[1] += came[1];
            news |= n != 0;
            if n < room {
                break;
            }
        }
    }
    news
}

/// Receives that are posted. When there is none, the next one of an SRQ wakes the QP.
fn room<N: Nic>(qp: &mut Qp, env: &mut Env<N>) -> usize {
    let Some(Source::Srq(h)) = qp.source else {
        return qp.rq.tail.wrapping_sub(qp.rq.next) as usize;
    };
    let handle = qp.handle;
    let waiting = qp.waits_at.is_some();
    let Ok(srq) = env.srq(h) else { return 0 };
    let n = srq.posted() as usize;
    if n == 0 && !waiting {
        srq.waiting.push_back(handle);
        qp.waits_at = Some(h);
    }
    n
}

/// How a datagram came.
struct Way {
    from: SocketAddr,
    /// An address of the port or of a group.
    to: SocketAddr,
    group: bool,
    /// Of the packet, as UDP carries it.
    length: usize,
}

/// One datagram: `slot` has room for the GRH before it. Answers the payload's length when it took a receive.
fn deliver<N: Nic>(
    qp: &mut Qp,
    env: &mut Env<N>,
    port: &Port,
    way: &Way,
    slot: &mut [u8],
    (h, payload): (Header, core::ops::Range<usize>),
) -> Option<usize> {
    let (from, to, len) = (way.from, way.to, way.length);
    let addressed = if way.group {
        let own = |(_, s): &(PortAddress, Socket)| {
            (s.local.ip(), s.local.port()) == (from.ip(), from.port())
        };
        h.dest_qpn == GROUP_QPN && !port.sockets.iter().any(own)
    } else {
        h.dest_qpn == qp.number()
    };
    if !addressed || h.qkey != qp.attr.qkey {
        return None;
    }
    let r = match qp.source {
        None => qp.rq.take(),
        Some(_) => match env.take_shared(qp, 0) {
            Taken::Yes(r) => Some(r),
            Taken::Later | Taken::Empty | Taken::Unknown => None,
        },
    };
    let r = r?;
    let (start, end) = (SLACK + payload.start - grh::GRH, SLACK + payload.end);
    let message = &mut slot[start..end];
    let sl = match (from.ip(), to.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) if h.link_local => {
            // Of an IPv4 address that stands for a link-local GID.
            let dst = match port.sockets.first().map(|(a, _)| a.ip) {
                Some(IpAddr::V4(own)) => own,
                _ => dst,
            };
            let gid = |a: Ipv4Addr| ext::ipv4_gid(a.octets());
            grh::ipv6(message, len + 8, &gid(src), &gid(dst));
            grh::SL_IPV6
        }
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            grh::ipv4(message, len + 8, src.octets(), dst.octets());
            grh::SL_IPV4
        }
        (src, dst) => {
            grh::ipv6(message, len + 8, &packet::six(src), &packet::six(dst));
            grh::SL_IPV6
        }
    };
    let status = scatter(qp, env, r, message);
    let mut wc = Wc {
        wr_id: qp.rq.at(r).wr_id,
        status,
        opcode: wc_opcode::RECV,
        qp_num: qp.number(),
        ..Wc::default()
    };
    if status == wc_status::SUCCESS {
        wc.byte_len = message.len() as u32;
        wc.src_qp = h.src_qpn;
        wc.wc_flags = wc_flag::GRH;
        wc.sl = sl;
        if let Some(i) = h.immediate {
            wc.wc_flags |= wc_flag::WITH_IMM;
            wc.imm_data = u32::from_ne_bytes(i);
        }
    }
    let e = qp.rq.at_mut(r);
    e.wc = wc;
    e.solicited = h.solicited || status != wc_status::SUCCESS;
    e.done = true;
    qp.complete_receives(env);
    Some(payload.len())
}

/// GRH and payload into the buffers of receive `r`.
fn scatter<N: Nic>(qp: &Qp, env: &Env<N>, r: u32, message: &[u8]) -> u32 {
    let pd = qp.rq.home(r).map_or(qp.pd, |h| h.pd);
    let mut rest = message;
    for sge in qp.rq.sges(r) {
        let n = rest.len().min(sge.length as usize);
        if n == 0 {
            continue;
        }
        let Ok(place) = env.mrs.local(pd, sge, true) else {
            return wc_status::LOC_PROT_ERR;
        };
        if user::copy(place.host, rest.as_ptr().addr() as u64, n).is_err() {
            return wc_status::LOC_PROT_ERR;
        }
        rest = &rest[n..];
    }
    if rest.is_empty() {
        wc_status::SUCCESS
    } else {
        wc_status::LOC_LEN_ERR
    }
}
