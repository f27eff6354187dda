//! What makes a QP a datagram QP: its socket, its groups, and how requests and packets pass through them.

use super::packet::{self, Flow, Header, MAX_PACKET};
use super::{GROUP_QPN, MTU, UDP_BASE, UDP_GROUPS, grh};
use crate::native::udp::{BATCH, Slots, Socket};
use crate::native::{NativeQp, Nic, user};
use crate::verbs::qp::{Env, Qp};
use crate::verbs::queue::Stage;
use crate::verbs::srq::{Source, Taken};
use crate::verbs::types::{Errno, Result, Wc};
use kernel_abi::ext;
use kernel_abi::verbs::{qps, send_flag, wc_flag, wc_opcode, wc_status, wr_opcode};

/// Batches of datagrams that one look takes from a socket: others have their turn.
const BATCHES: usize = 4;

/// An address handle.
#[derive(Clone, Copy, Debug)]
pub struct Ah {
    pub pd: u32,
    pub to: [u8; 4],
    pub group: bool,
    pub link_local: bool,
}

/// The datagram part of a QP.
#[derive(Debug)]
pub struct Port {
    socket: Socket,
    /// Multicast attachments, by GID.
    groups: Vec<([u8; 16], Socket)>,
    psn: u32,
    /// There was no room for datagrams: the next receive looks again.
    pub hungry: bool,
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
            tx: vec![0; MAX_PACKET],
        }
    }
}

impl Port {
    /// EADDRINUSE: the number is taken by somebody outside this fabric.
    pub fn open(address: [u8; 4], native: &NativeQp) -> Result<Port> {
        Ok(Port {
            socket: Socket::bind((address, udp_port(native.id)))?,
            groups: Vec::new(),
            psn: 0,
            hungry: false,
        })
    }

    pub fn fd(&self) -> i32 {
        self.socket.fd()
    }

    pub fn groups(&self) -> impl Iterator<Item = &[u8; 16]> {
        self.groups.iter().map(|(gid, _)| gid)
    }

    /// Answers the descriptor to watch, or None when the QP is attached already.
    pub fn attach(&mut self, gid: [u8; 16]) -> Result<Option<i32>> {
        if self.groups.iter().any(|(g, _)| *g == gid) {
            return Ok(None);
        }
        let group = grh::group(&gid).ok_or(Errno::EINVAL)?;
        let socket = Socket::join((group, UDP_GROUPS), self.socket.local.0)?;
        let fd = socket.fd();
        self.groups.push((gid, socket));
        Ok(Some(fd))
    }

    pub fn detach(&mut self, gid: &[u8; 16]) -> Result<()> {
        let at = self.groups.iter().position(|(g, _)| g == gid);
        self.groups.remove(at.ok_or(Errno::EINVAL)?);
        Ok(())
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
        std::iter::once(&self.socket).chain(self.groups.iter().map(|(_, s)| s))
    }
}

/// Of the QP with a native id.
fn udp_port(id: u32) -> u16 {
    UDP_BASE + (id & 0x1fff) as u16
}

/// Sends what was posted. A request that fails stops the send queue (SQE, IBTA 10.3.1.8).
pub fn send<N: Nic>(qp: &mut Qp, env: &mut Env<N>, ahs: &[Option<Ah>], scratch: &mut Scratch) {
    let Some(mut port) = qp.ud.take() else { return };
    while qp.state == qps::RTS && qp.sq.issued != qp.sq.tail {
        let i = qp.sq.issued;
        qp.sq.issued = i.wrapping_add(1);
        let status = match send_one(qp, &mut port, env, ahs, scratch, i) {
            Ok(()) => wc_status::SUCCESS,
            Err(status) => status,
        };
        if status == wc_status::SUCCESS {
            qp.complete_send(env, status);
            continue;
        }
        let e = qp.sq.at_mut(i);
        (e.stage, e.status) = (Stage::Failed, status);
        qp.state = qps::SQE;
        qp.attr.qp_state = qps::SQE;
        qp.halted = true;
        qp.flush_sends(env);
    }
    qp.ud = Some(port);
}

fn send_one<N: Nic>(
    qp: &Qp,
    port: &mut Port,
    env: &Env<N>,
    ahs: &[Option<Ah>],
    scratch: &mut Scratch,
    i: u32,
) -> core::result::Result<(), u32> {
    let e = qp.sq.at(i);
    let immediate = match e.opcode {
        wr_opcode::SEND => None,
        wr_opcode::SEND_WITH_IMM => Some(e.imm.to_ne_bytes()),
        _ => return Err(wc_status::LOC_QP_OP_ERR),
    };
    if e.len > MTU as u64 {
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
    gather(qp, env, i, &mut scratch.tx[h.size()..])?;
    let to = if ah.group {
        (ah.to, UDP_GROUPS)
    } else {
        (ah.to, udp_port(crate::native::split_number(dest_qpn).1))
    };
    let flow = Flow {
        src: port.socket.local,
        dst: to,
    };
    let n = packet::seal(&h, &mut scratch.tx, e.len as usize, &flow);
    port.psn = port.psn.wrapping_add(1);
    if let Err(e) = port.socket.send(&scratch.tx[..n], to) {
        // Lost, as datagrams may be.
        log::debug!("QP {:#x}: datagram to {to:?}: {e}", qp.number());
    }
    Ok(())
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

/// Takes datagrams for as many receives as there are. True when any came.
pub fn receive<N: Nic>(qp: &mut Qp, env: &mut Env<N>, scratch: &mut Scratch) -> bool {
    if !matches!(qp.state, qps::RTR | qps::RTS | qps::SQD | qps::SQE) {
        return false;
    }
    let Some(mut port) = qp.ud.take() else {
        return false;
    };
    let mut news = false;
    port.hungry = false;
    'sockets: for k in 0..=port.groups.len() {
        for _ in 0..BATCHES {
            let room = room(qp, env).min(BATCH);
            if room == 0 {
                port.hungry = true;
                break 'sockets;
            }
            let (socket, group) = match k.checked_sub(1) {
                None => (&port.socket, false),
                Some(g) => (&port.groups[g].1, true),
            };
            let n = socket.receive(&mut scratch.rx, room);
            for i in 0..n {
                deliver(
                    qp,
                    env,
                    socket.local,
                    group,
                    port.socket.local,
                    scratch.rx.slot(i),
                );
            }
            news |= n != 0;
            if n < room {
                break;
            }
        }
    }
    qp.ud = Some(port);
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

/// One datagram: `slot` has room for the GRH before it.
fn deliver<N: Nic>(
    qp: &mut Qp,
    env: &mut Env<N>,
    to: ([u8; 4], u16),
    group: bool,
    own: ([u8; 4], u16),
    (slot, len, from): (&mut [u8], usize, ([u8; 4], u16)),
) {
    let flow = Flow { src: from, dst: to };
    let Some((h, payload)) = packet::open(&slot[SLACK..SLACK + len], &flow) else {
        return;
    };
    let addressed = if group {
        h.dest_qpn == GROUP_QPN && from != own
    } else {
        h.dest_qpn == qp.number()
    };
    if !addressed || h.qkey != qp.attr.qkey {
        return;
    }
    let r = match qp.source {
        None => qp.rq.take(),
        Some(_) => match env.take_shared(qp, 0) {
            Taken::Yes(r) => Some(r),
            Taken::Later | Taken::Empty | Taken::Unknown => None,
        },
    };
    let Some(r) = r else { return };
    let (start, end) = (SLACK + payload.start - grh::GRH, SLACK + payload.end);
    let message = &mut slot[start..end];
    if h.link_local {
        let (src, dst) = (ext::ipv4_gid(from.0), ext::ipv4_gid(own.0));
        grh::ipv6(message, len + 8, &src, &dst);
    } else {
        grh::ipv4(message, len + 8, from.0, to.0);
    }
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
        wc.sl = if h.link_local {
            grh::SL_IPV6
        } else {
            grh::SL_IPV4
        };
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
