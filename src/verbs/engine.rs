//! The engine of a context: all objects behind one lock, the fast paths, and progress. Generic over the device, so that tests drive
//! it with a scripted one.

use std::collections::HashMap;

use super::cq::{Arm, Cq, Moderation, Stamp};
use super::datagrams::{self, Datagrams};
use super::mr::{Kind, Mr, MrTable, check_access};
use super::qp::{AsyncEvent, Env, Pd, Qp};
use super::queue::{Rq, Sq, Stage};
use super::regions::{Dm, NullMemory};
use super::srq::{NONE, Source, TAKEN};
use super::types::{
    AhAttr, CqInfo, CqOptions, Errno, MrInfo, QpAttr, QpCap, QpInfo, QpInit, QpQuery, Result,
    SendWr, Sge, Wc,
};
use super::xrc::Xrcd;
use crate::native::{Connect, IDS_PER_PORT, NativeEvent, Nic};
use crate::rc::conn::Conn;
use crate::rc::{self, msg, requester};
use kernel_abi::gaudi2::syndrome;
use kernel_abi::verbs::{
    access, event, modify_qp_is_ok, qp_attr, qps, qpt, send_flag, wc_status, wr_opcode,
};

/// What the shim grants at most; query_device says the same.
pub mod limits {
    pub const MAX_QP_WR: u32 = 16384;
    pub const MAX_SGE: u32 = 16;
    pub const MAX_INLINE: u32 = 256;
    pub const MAX_CQ: usize = 8192;
    pub const MAX_CQE: u32 = 1 << 20;
    pub const MAX_MR: usize = 32768;
    pub const MAX_PD: usize = 8192;
    pub const MAX_AH: usize = 8192;
    /// A power of two: SRQ numbers hold the index in their low bits.
    pub const MAX_SRQ: usize = 8192;
    pub const MAX_XRCD: usize = 4096;
    pub const MAX_MCAST_GRP: usize = 256;
    /// QPs in a group.
    pub const MAX_MCAST_QP: usize = 64;
    pub const MAX_RD_ATOMIC: u8 = 16;
    pub const MAX_MSG: u64 = 1 << 30;
    pub const MAX_MR_SIZE: u64 = 1 << 40;
}

/// A UC QP does not come back more often than this.
const REVIVAL_NS: u64 = 1_000_000_000;
/// QPs that a poll looks at before idle ones are sent to sleep early.
const CROWDED: usize = 32;
/// Looks without news after which a QP turns cold.
const IDLE_LOOKS: u32 = 100_000;
const IDLE_LOOKS_CROWDED: u32 = 256;

pub struct Engine<N: Nic> {
    pub env: Env<N>,
    pub(super) qps: Vec<Option<Box<Qp>>>,
    pub(super) xrcds: Vec<Option<Xrcd>>,
    /// QP handle + 1 by port and native id.
    by_native: Vec<Vec<u32>>,
    /// QPs that progress looks at.
    active: Vec<u32>,
    pub(super) ud: Datagrams,
    pub(super) null: Option<NullMemory>,
    pub(super) dms: Vec<Option<Dm>>,
    /// Polls of the program, for the agent: does it look by itself?
    pub looks: u64,
    /// The device is gone; every call fails.
    pub broken: bool,
}

pub(super) fn slot_of<T>(v: &mut Vec<Option<T>>, max: usize) -> Result<usize> {
    if let Some(i) = v.iter().position(Option::is_none) {
        return Ok(i);
    }
    if v.len() >= max {
        return Err(Errno::ENOMEM);
    }
    v.push(None);
    Ok(v.len() - 1)
}

impl<N: Nic> Engine<N> {
    pub fn new(nic: N) -> Engine<N> {
        Engine {
            env: Env {
                nic,
                cqs: Vec::new(),
                mrs: MrTable::new(limits::MAX_MR),
                pds: Vec::new(),
                srqs: Vec::new(),
                srq_generation: 0,
                events: Vec::new(),
                raise: Vec::new(),
                timers: false,
                revoked: Vec::new(),
                revoke: Vec::new(),
                moderated: Vec::new(),
                told: HashMap::new(),
            },
            qps: Vec::new(),
            xrcds: Vec::new(),
            by_native: Vec::new(),
            active: Vec::new(),
            ud: Datagrams::default(),
            null: None,
            dms: Vec::new(),
            looks: 0,
            broken: false,
        }
    }

    // Protection domains.

    pub fn alloc_pd(&mut self) -> Result<u32> {
        let i = slot_of(&mut self.env.pds, limits::MAX_PD)?;
        self.env.pds[i] = Some(Pd::default());
        Ok(i as u32)
    }

    pub fn dealloc_pd(&mut self, pd: u32) -> Result<()> {
        let slot = self.env.pds.get_mut(pd as usize).ok_or(Errno::EINVAL)?;
        match slot {
            Some(p) if p.users == 0 => {
                *slot = None;
                Ok(())
            }
            Some(_) => Err(Errno::EBUSY),
            None => Err(Errno::EINVAL),
        }
    }

    pub(super) fn use_pd(&mut self, pd: u32, add: bool) -> Result<()> {
        let p = self
            .env
            .pds
            .get_mut(pd as usize)
            .and_then(Option::as_mut)
            .ok_or(Errno::EINVAL)?;
        p.users = if add {
            p.users + 1
        } else {
            p.users.saturating_sub(1)
        };
        Ok(())
    }

    // Memory regions.

    pub fn reg_mr(
        &mut self,
        pd: u32,
        addr: u64,
        len: u64,
        iova: u64,
        access: u32,
    ) -> Result<MrInfo> {
        check_access(access, self.env.nic.features().no_pin)?;
        if addr == 0 && len == u64::MAX && access & access::ON_DEMAND != 0 {
            return self.reg_implicit(pd, access);
        }
        if len == 0
            || len > limits::MAX_MR_SIZE
            || addr.checked_add(len).is_none()
            || iova.checked_add(len).is_none()
        {
            return Err(Errno::EINVAL);
        }
        self.use_pd(pd, true)?;
        let made = self.make_mr(pd, addr, len, iova, access);
        if made.is_err() {
            self.use_pd(pd, false)?;
        }
        made
    }

    fn make_mr(&mut self, pd: u32, addr: u64, len: u64, iova: u64, access: u32) -> Result<MrInfo> {
        let key = self.env.mrs.reserve()?;
        let device = match self
            .env
            .nic
            .map(addr, len, access & access::LOCAL_WRITE != 0)
        {
            Ok(d) => d,
            Err(e) => {
                self.env.mrs.release(key >> 8);
                return Err(e);
            }
        };
        let iova = if access & access::ZERO_BASED != 0 {
            0
        } else {
            iova
        };
        let mr = Mr {
            kind: Kind::Plain,
            windows: 0,
            pd,
            addr,
            len,
            iova,
            access,
            key,
            device,
            dying: false,
            resolvers: Vec::new(),
            revoking: 0,
        };
        let handle = self.env.mrs.insert(Box::new(mr));
        Ok(MrInfo {
            handle,
            lkey: key,
            rkey: key,
        })
    }

    /// First step of deregistration: no new use, and the peers are told. `dereg_done` says when the second may follow.
    pub fn dereg_begin(&mut self, handle: u32) -> Result<()> {
        let mr = self.env.mrs.get_mut(handle)?;
        if mr.windows != 0 {
            return Err(Errno::EBUSY);
        }
        if mr.dying {
            // A window that is being unbound goes all the same; its peers have been told.
            return match mr.kind {
                Kind::Window(_) => Ok(()),
                _ => Err(Errno::EINVAL),
            };
        }
        mr.dying = true;
        let key = mr.key;
        let resolvers = std::mem::take(&mut mr.resolvers);
        let mut told = 0;
        for r in resolvers {
            if let Some(Some(qp)) = self.qps.get_mut(r as usize)
                && let Some(c) = qp.conn.as_mut()
            {
                c.revoke_queue.push_back(key);
                told += 1;
                self.activate(r);
            }
        }
        if let Ok(mr) = self.env.mrs.get_mut(handle) {
            mr.revoking = told;
        }
        if told != 0 {
            self.progress();
        }
        Ok(())
    }

    /// Nobody uses the key any more: no peer, and no request of ours that is under way (hazards 6 and 7).
    pub fn dereg_done(&self, handle: u32) -> bool {
        let Ok(mr) = self.env.mrs.get(handle) else {
            return true;
        };
        mr.revoking == 0 && !self.key_under_way(mr.key)
    }

    fn key_under_way(&self, key: u32) -> bool {
        self.qps
            .iter()
            .flatten()
            .filter(|q| q.native.connected)
            .any(|q| {
                let mut i = q.sq.head;
                while i != q.sq.issued {
                    let e = q.sq.at(i);
                    // A copied SEND needs its memory no more; payload of a large one and data before an IMM may still be on their way.
                    let reads = match e.stage {
                        Stage::Native | Stage::Rendezvous | Stage::Answer => true,
                        Stage::Ack => {
                            e.len > msg::EAGER_MAX as u64
                                || e.opcode == wr_opcode::RDMA_WRITE_WITH_IMM
                        }
                        _ => false,
                    };
                    if reads && q.sq.sges(i).iter().any(|s| s.lkey == key && s.length != 0) {
                        return true;
                    }
                    i = i.wrapping_add(1);
                }
                // Receives whose addresses a peer has been given.
                q.conn.as_ref().is_some_and(|c| {
                    c.inbound
                        .iter()
                        .filter(|x| !x.finished)
                        .any(|x| q.rq.sges(x.receive).iter().any(|s| s.lkey == key))
                })
            })
    }

    pub fn dereg_finish(&mut self, handle: u32) -> Result<()> {
        self.env.finish_unbind(handle);
        let mr = self.env.mrs.release(handle).ok_or(Errno::EINVAL)?;
        self.use_pd(mr.pd, false)?;
        self.drop_region(*mr)
    }

    // Completion queues.

    pub fn create_cq(&mut self, cqe: u32, channel: Option<i32>, cookie: u64) -> Result<CqInfo> {
        if cqe == 0 || cqe > limits::MAX_CQE {
            return Err(Errno::EINVAL);
        }
        let i = slot_of(&mut self.env.cqs, limits::MAX_CQ)?;
        self.env.cqs[i] = Some(Box::new(Cq::new(cqe, channel, cookie)));
        Ok(CqInfo {
            handle: i as u32,
            cqe,
        })
    }

    pub(super) fn cq(&mut self, cq: u32) -> Result<&mut Cq> {
        self.env
            .cqs
            .get_mut(cq as usize)
            .and_then(|c| c.as_deref_mut())
            .ok_or(Errno::EINVAL)
    }

    pub fn resize_cq(&mut self, cq: u32, cqe: u32) -> Result<u32> {
        let q = self.cq(cq)?;
        if cqe == 0 || cqe > limits::MAX_CQE || (cqe as usize) < q.entries.len() {
            return Err(Errno::EINVAL);
        }
        q.cqe = cqe;
        Ok(cqe)
    }

    /// Answers how many completion events the program has read or will still read: none is left unread in the channel, whose
    /// reader would follow it to a CQ that is gone.
    pub fn destroy_cq(&mut self, cq: u32) -> Result<u32> {
        let q = self.cq(cq)?;
        if q.users != 0 {
            return Err(Errno::EBUSY);
        }
        let (raised, channel, cookie) = (q.raised, q.channel, q.cookie);
        self.env.cqs[cq as usize] = None;
        let unread = match channel {
            Some(fd) if raised != 0 => self.env.nic.drain(fd, cookie),
            _ => 0,
        };
        Ok(raised.wrapping_sub(unread))
    }

    pub fn cq_options(&mut self, cq: u32, options: CqOptions) -> Result<()> {
        self.cq(cq)?.options = options;
        Ok(())
    }

    pub fn moderate_cq(&mut self, cq: u32, m: Moderation) -> Result<()> {
        let q = self.cq(cq)?;
        q.moderation = m;
        if q.due.is_some() {
            q.fire();
            self.env.raise.push(cq);
            self.settle();
        }
        Ok(())
    }

    /// One completion, for the polling functions of extended CQs.
    #[inline]
    pub fn poll_one(&mut self, cq: u32) -> Result<Option<(Wc, Stamp)>> {
        self.looks = self.looks.wrapping_add(1);
        if self.cq(cq)?.entries.is_empty() {
            self.progress();
            self.look_for_datagrams(Some(cq));
        }
        let q = self.cq(cq)?;
        match q.pop() {
            None if q.overrun => Err(Errno::EIO),
            other => Ok(other),
        }
    }

    #[inline]
    pub fn poll_cq(&mut self, cq: u32, out: &mut [Wc]) -> Result<usize> {
        self.looks = self.looks.wrapping_add(1);
        if self.cq(cq)?.entries.is_empty() {
            self.progress();
            self.look_for_datagrams(Some(cq));
        }
        let q = self.cq(cq)?;
        let n = q.entries.len().min(out.len());
        for o in &mut out[..n] {
            if let Some((wc, _)) = q.pop() {
                *o = wc;
            }
        }
        if q.overrun && n == 0 && !out.is_empty() {
            return Err(Errno::EIO);
        }
        Ok(n)
    }

    /// Arms; an entry that is there already gives its event at once.
    pub fn req_notify_cq(&mut self, cq: u32, solicited_only: bool) -> Result<()> {
        self.progress();
        self.look_for_datagrams(Some(cq));
        let q = self.cq(cq)?;
        if q.channel.is_none() {
            return Err(Errno::EINVAL);
        }
        if q.arm != Arm::Any {
            q.arm = if solicited_only {
                Arm::Solicited
            } else {
                Arm::Any
            };
        }
        q.unannounced = q.unannounced.min(q.entries.len());
        if q.unannounced != 0 && !solicited_only {
            q.fire();
            self.env.raise.push(cq);
            self.settle();
        } else {
            self.rest();
        }
        Ok(())
    }

    // Queue pairs.

    pub fn create_qp(&mut self, init: &QpInit) -> Result<QpInfo> {
        let mut init = *init;
        let source = match (init.qp_type, init.srq, init.xrcd) {
            (qpt::RC | qpt::UC | qpt::UD, srq, None) => srq.map(Source::Srq),
            (qpt::XRC_INI, None, None) => {
                init.recv_cq = NONE;
                init.cap.max_recv_wr = 0;
                init.cap.max_recv_sge = 0;
                None
            }
            (qpt::XRC_TGT, None, Some(domain)) => {
                init.pd = NONE;
                init.send_cq = NONE;
                init.recv_cq = NONE;
                init.cap = QpCap::default();
                Some(Source::Domain(domain))
            }
            (qpt::RC | qpt::UC | qpt::UD | qpt::XRC_INI | qpt::XRC_TGT, ..) => {
                return Err(Errno::EINVAL);
            }
            _ => return Err(Errno::EOPNOTSUPP),
        };
        if source.is_some() {
            init.cap.max_recv_wr = 0;
            init.cap.max_recv_sge = 0;
        }
        let cap = granted(&init.cap)?;
        let links = Links {
            pd: init.pd,
            cqs: [init.send_cq, init.recv_cq],
            source,
        };
        self.link(&links, true)?;
        let made = self.make_qp(&init, cap, source);
        if made.is_err() {
            self.link(&links, false)?;
        }
        made
    }

    /// Counts a QP in or out at everything that it names.
    fn link(&mut self, l: &Links, add: bool) -> Result<()> {
        // All of it is looked up before any of it is changed.
        for cq in l.cqs.into_iter().filter(|&c| c != NONE) {
            self.cq(cq)?;
        }
        match l.source {
            Some(Source::Srq(h)) if self.env.srq(h)?.xrc.is_some() => return Err(Errno::EINVAL),
            Some(Source::Domain(d)) => {
                self.xrcd(d)?;
            }
            _ => {}
        }
        if l.pd != NONE {
            self.use_pd(l.pd, add)?;
        }
        let count = |n: &mut u32| {
            *n = if add { *n + 1 } else { n.saturating_sub(1) };
        };
        for cq in l.cqs.into_iter().filter(|&c| c != NONE) {
            count(&mut self.cq(cq)?.users);
        }
        match l.source {
            Some(Source::Srq(h)) => count(&mut self.env.srq(h)?.users),
            Some(Source::Domain(d)) => count(&mut self.xrcd(d)?.users),
            None => {}
        }
        Ok(())
    }

    fn make_qp(&mut self, init: &QpInit, cap: QpCap, source: Option<Source>) -> Result<QpInfo> {
        let i = slot_of(&mut self.qps, 1 << 18)?;
        let rq = match source {
            Some(Source::Srq(h)) => Rq::of_taken(TAKEN, self.env.srq(h)?.rq.max_sge()),
            Some(Source::Domain(_)) => Rq::of_taken(TAKEN, limits::MAX_SGE),
            None => Rq::new(cap.max_recv_wr, cap.max_recv_sge),
        };
        let (native, ud) = if init.qp_type == qpt::UD {
            let (native, ud) = self.open_datagram(i as u32)?;
            (native, Some(ud))
        } else {
            let native = self.env.nic.qp_create(1, i as u64)?;
            self.enroll(&native, i as u32);
            (native, None)
        };
        let mut attr = QpAttr {
            qp_state: qps::RESET,
            cap,
            ..QpAttr::default()
        };
        attr.port_num = 1;
        let qp = Qp {
            handle: i as u32,
            cookie: init.cookie,
            pd: init.pd,
            send_cq: init.send_cq,
            recv_cq: init.recv_cq,
            cap,
            qp_type: init.qp_type,
            sq_sig_all: init.sq_sig_all,
            state: qps::RESET,
            attr,
            native,
            sq: if matches!(init.qp_type, qpt::XRC_INI | qpt::UD) {
                Sq::addressed(&cap)
            } else {
                Sq::new(&cap)
            },
            rq,
            source,
            waits_at: None,
            openers: Vec::new(),
            conn: None,
            ud,
            tell_drained: false,
            active: false,
            idle: 0,
            revived: 0,
            halted: false,
            nudged: false,
        };
        let qp_num = qp.number();
        self.qps[i] = Some(Box::new(qp));
        Ok(QpInfo {
            handle: i as u32,
            qp_num,
            cap,
        })
    }

    fn enroll(&mut self, native: &crate::native::NativeQp, qp: u32) {
        let port = usize::from(native.port);
        if self.by_native.len() <= port {
            self.by_native.resize_with(port + 1, Vec::new);
        }
        let ids = &mut self.by_native[port];
        let id = native.id as usize;
        if id < IDS_PER_PORT as usize {
            if ids.len() <= id {
                ids.resize(id + 1, 0);
            }
            ids[id] = qp + 1;
        }
    }

    fn expel(&mut self, port: u8, id: u32) {
        if let Some(slot) = self
            .by_native
            .get_mut(usize::from(port))
            .and_then(|v| v.get_mut(id as usize))
        {
            *slot = 0;
        }
    }

    fn native_owner(&self, port: u8, id: u32) -> Option<u32> {
        let v = *self.by_native.get(usize::from(port))?.get(id as usize)?;
        v.checked_sub(1)
    }

    pub fn qp(&mut self, qp: u32) -> Result<&mut Qp> {
        self.qps
            .get_mut(qp as usize)
            .and_then(|q| q.as_deref_mut())
            .ok_or(Errno::EINVAL)
    }

    /// Validates and carries out a state change; answers `qp_num`, which INIT may change by naming another port.
    pub fn modify_qp(&mut self, handle: u32, a: &QpAttr, mask: u32) -> Result<u32> {
        if mask & !(qp_attr::STANDARD | qp_attr::RATE_LIMIT) != 0 {
            return Err(Errno::EINVAL);
        }
        if mask & (qp_attr::RATE_LIMIT | qp_attr::ALT_PATH | qp_attr::PATH_MIG_STATE) != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        // The error state may have come since the program looked.
        self.progress();
        let ports = self.env.nic.ports();
        let qp = self
            .qps
            .get_mut(handle as usize)
            .and_then(Option::take)
            .ok_or(Errno::EINVAL);
        let mut qp = qp?;
        let r = self.modify(&mut qp, a, mask, ports);
        let number = qp.number();
        let retried = qp.conn.is_some();
        self.qps[handle as usize] = Some(qp);
        r?;
        if retried && matches!(a.qp_state, qps::RTS | qps::SQD) {
            self.activate(handle);
            if let Some(Some(qp)) = self.qps.get_mut(handle as usize) {
                rc::push(qp, &mut self.env);
            }
        }
        self.settle();
        Ok(number)
    }

    fn modify(&mut self, qp: &mut Qp, a: &QpAttr, mask: u32, ports: u8) -> Result<()> {
        let mask = mask & !not_for(qp.qp_type);
        let cur = if mask & qp_attr::CUR_STATE != 0 {
            a.cur_qp_state
        } else {
            qp.state
        };
        let next = if mask & qp_attr::STATE != 0 {
            a.qp_state
        } else {
            qp.state
        };
        if cur != qp.state || next > qps::ERR || !modify_qp_is_ok(qp.state, next, qp.qp_type, mask)
        {
            return Err(Errno::EINVAL);
        }
        check_attributes(a, mask, ports, self.env.nic.features().lid_path)?;
        if mask & qp_attr::CAP != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        match (qp.state, next) {
            (_, qps::RESET) => self.reset(qp)?,
            (qps::ERR, qps::ERR) => {}
            (_, qps::ERR) => {
                // What has been executed is acknowledged before the connection goes (hazard 4).
                self.last_word(qp);
                qp.enter_error(&mut self.env);
            }
            (qps::RESET | qps::INIT, qps::INIT) => {
                let port = if mask & qp_attr::PORT != 0 {
                    a.port_num
                } else {
                    qp.native.port
                };
                if qp.ud.is_some() {
                    self.move_datagram(qp, port)?;
                } else if port != qp.native.port || !qp.native.ready {
                    self.expel(qp.native.port, qp.native.id);
                    let moved = self.env.nic.qp_init(&mut qp.native, port);
                    self.enroll(&qp.native, qp.handle);
                    moved?;
                }
            }
            (from, to) if qp.ud.is_some() && datagrams::starts(from, to) => {
                self.start_datagram(qp);
            }
            (qps::INIT, qps::RTR) => self.connect(qp, a)?,
            (qps::RTS, qps::SQD) => {
                qp.tell_drained =
                    mask & qp_attr::EN_SQD_ASYNC_NOTIFY != 0 && a.en_sqd_async_notify != 0;
            }
            (qps::SQD, qps::RTS) => qp.tell_drained = false,
            (qps::SQE, qps::RTS) => qp.halted = false,
            _ => {}
        }
        merge(&mut qp.attr, a, mask);
        if mask & qp_attr::SQ_PSN != 0
            && let Some(p) = &mut qp.ud
        {
            p.start(a.sq_psn);
        }
        qp.state = next;
        qp.attr.qp_state = next;
        Ok(())
    }

    fn connect(&mut self, qp: &mut Qp, a: &QpAttr) -> Result<()> {
        let (my, peer) = (qp.number(), a.dest_qp_num & 0xff_ffff);
        let (_, dest_id) = crate::native::split_number(peer);
        let to = Connect {
            dest_id,
            dgid: (a.ah_attr.is_global != 0).then(|| a.ah_attr.grh.dgid_bytes()),
            dlid: a.ah_attr.dlid,
            sgid_index: a.ah_attr.grh.sgid_index,
            hop_limit: a.ah_attr.grh.hop_limit,
            traffic_class: a.ah_attr.grh.traffic_class,
            flow_label: a.ah_attr.grh.flow_label,
            sl: a.ah_attr.sl,
            path_mtu: a.path_mtu,
            local_key: msg::native_key(peer, my),
            remote_key: msg::native_key(my, peer),
        };
        // Completions of an earlier connection of this number must not count for the new one.
        for _ in 0..64 {
            if !self.progress() {
                break;
            }
        }
        // Progress has not found this QP in its place, and dropped it from the list.
        self.active.retain(|&h| h != qp.handle);
        qp.active = false;
        let win = self.env.nic.qp_connect(&mut qp.native, &to)?;
        let nonce = self.env.nic.random() | 1 << 40;
        let depth = u32::from(a.max_dest_rd_atomic);
        let mut c = Box::new(Conn::new(win, my, peer, nonce, qp.rq.max_sge(), depth));
        c.announce(qp.qp_type, qp.source.is_some());
        c.posted = qp.rq.tail.wrapping_sub(qp.rq.head);
        qp.conn = Some(c);
        qp.halted = false;
        Ok(())
    }

    /// The acknowledgement of what has been executed, before the connection ends.
    fn last_word(&mut self, qp: &mut Qp) {
        if let Some(mut c) = qp.conn.take() {
            c.flush_ack(&mut self.env.nic, &mut qp.native);
            requester::ring(qp, &mut c, &mut self.env);
            qp.conn = Some(c);
        }
    }

    fn reset(&mut self, qp: &mut Qp) -> Result<()> {
        self.last_word(qp);
        let (port, id) = (qp.native.port, qp.native.id);
        qp.stop(&mut self.env);
        if (port, id) != (qp.native.port, qp.native.id) {
            self.expel(port, id);
            self.enroll(&qp.native, qp.handle);
        }
        qp.sq.clear();
        qp.rq.clear();
        qp.halted = false;
        // Nothing of it may come out of the CQs any more.
        self.purge(qp.number(), qp.send_cq, qp.recv_cq);
        let cap = qp.cap;
        qp.attr = QpAttr {
            cap,
            ..QpAttr::default()
        };
        qp.attr.port_num = qp.native.port;
        Ok(())
    }

    fn purge(&mut self, qp_num: u32, send_cq: u32, recv_cq: u32) {
        for cq in [send_cq, recv_cq] {
            if let Ok(q) = self.cq(cq) {
                q.purge(qp_num);
            }
        }
    }

    pub fn query_qp(&mut self, qp: u32) -> Result<QpQuery> {
        self.progress();
        let q = self.qp(qp)?;
        let mut attr = q.attr;
        attr.qp_state = q.state;
        attr.cur_qp_state = q.state;
        attr.sq_draining = (q.state == qps::SQD && !q.is_drained()).into();
        attr.cap = q.cap;
        Ok(QpQuery {
            attr,
            cap: q.cap,
            sq_sig_all: q.sq_sig_all,
        })
    }

    pub fn destroy_qp(&mut self, handle: u32) -> Result<()> {
        let mut qp = self
            .qps
            .get_mut(handle as usize)
            .and_then(Option::take)
            .ok_or(Errno::EINVAL)?;
        // The acknowledgement of the last message goes before the connection (hazard 4).
        rc::pump(&mut qp, &mut self.env);
        self.last_word(&mut qp);
        qp.stop(&mut self.env);
        self.env.unbind_all_of(handle);
        self.active.retain(|&h| h != handle);
        if qp.ud.is_some() {
            self.forget_datagram(handle);
        } else {
            self.expel(qp.native.port, qp.native.id);
        }
        self.purge(qp.number(), qp.send_cq, qp.recv_cq);
        self.link(
            &Links {
                pd: if qp.qp_type == qpt::XRC_TGT {
                    NONE
                } else {
                    qp.pd
                },
                cqs: [qp.send_cq, qp.recv_cq],
                source: qp.source,
            },
            false,
        )?;
        let qp = *qp;
        self.env.nic.qp_destroy(qp.native)
    }

    // Work requests.

    #[inline]
    pub fn post_send(&mut self, handle: u32, wr: &SendWr<'_>) -> Result<()> {
        let Some(Some(qp)) = self.qps.get_mut(handle as usize) else {
            return Err(Errno::EINVAL);
        };
        match qp.state {
            qps::RTS | qps::SQD | qps::SQE | qps::ERR => {}
            _ => return Err(Errno::EINVAL),
        }
        check_send(wr)?;
        if qp.qp_type != qpt::RC {
            check_type(qp.qp_type, wr)?;
        }
        if qp.native.connected && qp.sq.tail == qp.sq.head && !qp.active {
            self.active.push(handle);
            qp.active = true;
        }
        let qp = match self.qps.get_mut(handle as usize) {
            Some(Some(q)) => q,
            _ => return Err(Errno::EINVAL),
        };
        qp.sq.push(wr)?;
        qp.idle = 0;
        self.env.provide_all(wr.sges);
        Ok(())
    }

    /// Where the send queue of a QP ends now, for `unpost`.
    pub fn posted(&mut self, handle: u32) -> Result<u32> {
        Ok(self.qp(handle)?.sq.tail)
    }

    /// Takes back what was posted since `posted` answered `tail`, before any `kick`.
    pub fn unpost(&mut self, handle: u32, tail: u32) {
        if let Ok(qp) = self.qp(handle) {
            qp.sq.tail = tail;
        }
    }

    /// True when a message waits for it: `kick` then.
    #[inline]
    pub fn post_recv(&mut self, handle: u32, wr_id: u64, sges: &[Sge]) -> Result<bool> {
        let mut blocked = false;
        let Some(Some(qp)) = self.qps.get_mut(handle as usize) else {
            return Err(Errno::EINVAL);
        };
        if qp.state == qps::RESET || qp.source.is_some() || qp.qp_type == qpt::XRC_INI {
            return Err(Errno::EINVAL);
        }
        qp.rq.push(wr_id, sges)?;
        self.env.provide_all(sges);
        match &mut qp.conn {
            Some(c) => {
                c.posted = c.posted.wrapping_add(1);
                c.drop_at = 0;
                blocked = c.rnr_blocked;
                if blocked {
                    self.activate(handle);
                }
            }
            None if qp.state == qps::ERR => {
                qp.flush(&mut self.env);
                self.settle();
            }
            None if qp.ud.as_ref().is_some_and(|p| p.hungry) => blocked = true,
            None => {}
        }
        Ok(blocked)
    }

    /// After a list of work requests: issue them.
    #[inline]
    pub fn kick(&mut self, handle: u32) {
        if let Some(Some(qp)) = self.qps.get_mut(handle as usize) {
            if qp.state == qps::ERR || qp.state == qps::SQE {
                qp.flush(&mut self.env);
            } else if qp.conn.as_ref().is_some_and(|c| c.rnr_blocked) {
                rc::pump(qp, &mut self.env);
            } else if qp.conn.is_some() {
                rc::push(qp, &mut self.env);
            } else if qp.ud.is_some() {
                self.kick_datagram(handle);
            } else {
                self.send_without_peer(handle);
            }
        }
        if !self.env.raise.is_empty() || !self.env.revoke.is_empty() {
            self.settle();
        }
    }

    // Progress.

    pub(super) fn activate(&mut self, handle: u32) {
        if let Some(Some(qp)) = self.qps.get_mut(handle as usize) {
            qp.idle = 0;
            if let Some(c) = qp.conn.as_mut() {
                c.cold = false;
                if !qp.active {
                    qp.active = true;
                    self.active.push(handle);
                }
            }
        }
    }

    /// QPs under watch.
    pub fn watched(&self) -> usize {
        self.active.len()
    }

    /// Looks at everything that can have changed. True when something had.
    #[inline]
    pub fn progress(&mut self) -> bool {
        let mut news = false;
        for _ in 0..256 {
            let Some(c) = self.env.nic.poll_responder() else {
                break;
            };
            news = true;
            if let Some(h) = self.native_owner(c.port, c.id) {
                self.activate(h);
            }
        }
        for _ in 0..256 {
            let Some(c) = self.env.nic.poll_requester() else {
                break;
            };
            news = true;
            if let Some(h) = self.native_owner(c.port, c.id)
                && let Some(Some(qp)) = self.qps.get_mut(h as usize)
            {
                // A number that is not connected has only completions of an earlier life left.
                if qp.native.connected {
                    qp.native.retire(c.slot);
                    qp.nudged = true;
                }
                if !qp.active {
                    rc::pump(qp, &mut self.env);
                }
            }
        }
        let patience = if self.active.len() > CROWDED {
            IDLE_LOOKS_CROWDED
        } else {
            IDLE_LOOKS
        };
        let mut k = 0;
        while k < self.active.len() {
            let h = self.active[k];
            let keep = self.look_at(h, patience, &mut news);
            if keep {
                k += 1;
            } else {
                self.active.swap_remove(k);
            }
        }
        if !self.env.raise.is_empty() || !self.env.revoke.is_empty() {
            self.settle();
        }
        if self.env.timers {
            self.run_timers();
        }
        news
    }

    /// One active QP; false when it left the list.
    #[inline]
    fn look_at(&mut self, h: u32, patience: u32, news: &mut bool) -> bool {
        let Some(Some(qp)) = self.qps.get_mut(h as usize) else {
            return false;
        };
        if rc::pump(qp, &mut self.env) {
            qp.idle = 0;
            *news = true;
        } else {
            qp.idle += 1;
        }
        if qp.idle < patience {
            return true;
        }
        !cool(qp, &mut self.env)
    }

    /// Sends every idle QP to sleep: from now on the device notifies. For the agent, when the program does not poll.
    pub fn cool_down(&mut self) {
        let mut k = 0;
        while k < self.active.len() {
            let h = self.active[k];
            let left = match self.qps.get_mut(h as usize) {
                Some(Some(qp)) => cool(qp, &mut self.env),
                _ => true,
            };
            if left {
                self.active.swap_remove(k);
            } else {
                k += 1;
            }
        }
        self.settle();
    }

    /// The program is about to sleep on a channel: from now on whatever comes must wake the agent.
    pub fn rest(&mut self) {
        for _ in 0..4 {
            self.cool_down();
            if self.active.iter().all(|&h| self.is_cold(h)) {
                break;
            }
        }
        if self.env.nic.features().cq_notify && self.env.nic.arm() {
            self.progress();
            self.env.nic.arm();
        }
    }

    fn is_cold(&self, h: u32) -> bool {
        let qp = self.qps.get(h as usize).and_then(Option::as_ref);
        qp.and_then(|q| q.conn.as_ref()).is_none_or(|c| c.rests())
    }

    /// The program has armed a CQ and may be asleep.
    pub fn someone_sleeps(&self) -> bool {
        self.env.cqs.iter().flatten().any(|c| c.arm != Arm::None)
    }

    /// Timers of all watched QPs.
    pub fn run_timers(&mut self) {
        self.env.timers = false;
        let now = self.env.nic.now();
        for k in 0..self.active.len() {
            let h = self.active[k];
            if let Some(Some(qp)) = self.qps.get_mut(h as usize)
                && let Some(mut c) = qp.conn.take()
            {
                requester::timers(qp, &mut c, &mut self.env, now);
                let dead = c.dead;
                qp.conn = Some(c);
                if dead {
                    qp.connection_over(&mut self.env);
                }
            }
        }
        if !self.env.moderated.is_empty() {
            self.release_moderated();
        }
        if !self.env.raise.is_empty() {
            self.settle();
        }
    }

    /// Events whose time has come.
    fn release_moderated(&mut self) {
        let now = crate::native::kernel::now_ns();
        let mut list = std::mem::take(&mut self.env.moderated);
        list.sort_unstable();
        list.dedup();
        for i in list {
            let Some(Some(q)) = self.env.cqs.get_mut(i as usize) else {
                continue;
            };
            match q.due {
                Some(due) if now >= due => {
                    q.fire();
                    self.env.raise.push(i);
                }
                Some(_) => {
                    self.env.moderated.push(i);
                    self.env.timers = true;
                }
                None => {}
            }
        }
    }

    /// What the device had to say about QPs and ports.
    pub fn native_events(&mut self) {
        while let Some(ev) = self.env.nic.poll_event() {
            match ev {
                NativeEvent::QpError { cookie, syndrome } => {
                    self.native_error(cookie as u32, syndrome)
                }
                NativeEvent::Port { port, up } => {
                    let event = if up {
                        event::PORT_ACTIVE
                    } else {
                        event::PORT_ERR
                    };
                    self.env.events.push(AsyncEvent {
                        element: u64::from(port),
                        event,
                    });
                }
                NativeEvent::Fatal => {
                    self.broken = true;
                    self.env.events.push(AsyncEvent {
                        element: 0,
                        event: event::DEVICE_FATAL,
                    });
                }
            }
        }
        self.settle();
    }

    fn native_error(&mut self, handle: u32, code: u8) {
        let Some(Some(qp)) = self.qps.get_mut(handle as usize) else {
            return;
        };
        // Everything that arrived before is delivered first (hazard 29).
        while rc::pump(qp, &mut self.env) {}
        if rc::uc::is(qp) {
            log::debug!("QP {:#x}: native error {code:#x}, hidden", qp.number());
            if qp.conn.is_some() {
                qp.fall_silent(&mut self.env);
                self.revive(handle);
            }
            return;
        }
        let Some(mut c) = qp.conn.take() else { return };
        let status = match code {
            syndrome::TIMER_RETRY => wc_status::RETRY_EXC_ERR,
            // The key was right, we checked it: the memory behind it is gone (hazard 12).
            syndrome::REQ_RX_RETRY => wc_status::REM_OP_ERR,
            syndrome::RX_RKEY => wc_status::REM_ACCESS_ERR,
            0x41..=0x46 | 0x80..=0x9f => wc_status::LOC_QP_OP_ERR,
            0xf0 => wc_status::LOC_PROT_ERR,
            _ => wc_status::GENERAL_ERR,
        };
        log::debug!(
            "QP {:#x}: native error {code:#x} ({})",
            qp.number(),
            syndrome::text(code)
        );
        if !c.dead {
            requester::fatal(qp, &mut c, &mut self.env, status);
        }
        qp.conn = Some(c);
        qp.enter_error(&mut self.env);
    }

    /// A UC QP whose native connection has ended gets another one, so that a peer that comes (back) under the same number finds it.
    fn revive(&mut self, handle: u32) {
        let now = self.env.nic.now();
        let Some(mut qp) = self.qps.get_mut(handle as usize).and_then(Option::take) else {
            return;
        };
        if qp.revived == 0 || now.wrapping_sub(qp.revived) >= REVIVAL_NS {
            qp.revived = now;
            let attr = qp.attr;
            let halted = qp.halted;
            if let Err(e) = self.connect(&mut qp, &attr) {
                log::debug!("QP {:#x}: connecting again: {e}", qp.number());
            }
            qp.halted = halted;
        }
        self.qps[handle as usize] = Some(qp);
    }

    /// Requests on a QP that has no connection: UC sends them all the same.
    fn send_without_peer(&mut self, handle: u32) {
        let uc = |qp: &Qp| rc::uc::is(qp) && matches!(qp.state, qps::RTS);
        if !matches!(self.qps.get(handle as usize), Some(Some(qp)) if uc(qp)) {
            return;
        }
        self.revive(handle);
        if let Some(Some(qp)) = self.qps.get_mut(handle as usize) {
            if qp.conn.is_some() {
                rc::push(qp, &mut self.env);
                self.activate(handle);
            } else {
                qp.send_into_the_void(&mut self.env);
            }
        }
    }

    /// Gives the channels their events and reports overruns.
    pub fn settle(&mut self) {
        if !self.env.revoke.is_empty() {
            self.spread_revocations();
        }
        while let Some(i) = self.env.raise.pop() {
            let Some(Some(q)) = self.env.cqs.get_mut(i as usize) else {
                continue;
            };
            if q.overrun && !q.overrun_told {
                q.overrun_told = true;
                self.env.events.push(AsyncEvent {
                    element: q.cookie,
                    event: event::CQ_ERR,
                });
            }
            if std::mem::take(&mut q.raise)
                && let Some(fd) = q.channel
            {
                let cookie = q.cookie;
                if self.env.nic.raise(fd, cookie) {
                    q.raised = q.raised.wrapping_add(1);
                } else {
                    // The program reads too slowly: again with the next timers.
                    q.due = Some(0);
                    self.env.moderated.push(i);
                    self.env.timers = true;
                }
            }
        }
    }

    /// The context ends: nothing is left behind at the device.
    pub fn shut_down(&mut self) {
        for h in 0..self.qps.len() as u32 {
            if self.qp(h).is_ok()
                && let Err(e) = self.destroy_qp(h)
            {
                log::debug!("closing: QP {h}: {e}");
            }
        }
        for s in 0..self.env.srqs.len() as u32 {
            if self.env.srq(s).is_ok()
                && let Err(e) = self.destroy_srq(s)
            {
                log::debug!("closing: SRQ {s}: {e}");
            }
        }
        let all: Vec<u32> = self.env.mrs.indices().collect();
        for m in all {
            if let Err(e) = self.dereg_finish(m) {
                log::debug!("closing: MR {m}: {e}");
            }
        }
        for d in std::mem::take(&mut self.dms).into_iter().flatten() {
            if let Err(e) = self.env.nic.dm_free(d.memory) {
                log::debug!("closing: device memory: {e}");
            }
        }
        self.broken = true;
    }
}

/// Turns an idle QP cold; true when it no longer needs looking at.
fn cool<N: Nic>(qp: &mut Qp, env: &mut Env<N>) -> bool {
    if let Some(c) = qp.conn.as_mut() {
        if !c.rests() {
            c.go_cold(&mut env.nic, &mut qp.native);
        }
        if !c.rests() {
            return false;
        }
        // Once more after the promise: what came just before it carries no notification.
        if rc::pump(qp, env) {
            qp.idle = 0;
            if let Some(c) = qp.conn.as_mut() {
                c.cold = false;
            }
            return false;
        }
    }
    // Acknowledgements and answers need looking at by somebody.
    let waits = qp
        .conn
        .as_ref()
        .is_some_and(|c| c.waiting() || c.rnr.is_some());
    let works = match qp.state {
        qps::RTS => qp.sq.head != qp.sq.tail,
        qps::SQD => !qp.is_drained(),
        _ => false,
    };
    if waits || works {
        return false;
    }
    qp.active = false;
    true
}

/// The objects that a QP keeps alive; `NONE` for those that it has not.
struct Links {
    pd: u32,
    cqs: [u32; 2],
    source: Option<Source>,
}

fn granted(want: &QpCap) -> Result<QpCap> {
    if want.max_send_wr > limits::MAX_QP_WR
        || want.max_recv_wr > limits::MAX_QP_WR
        || want.max_send_sge > limits::MAX_SGE
        || want.max_recv_sge > limits::MAX_SGE
        || want.max_inline_data > limits::MAX_INLINE
    {
        return Err(Errno::EINVAL);
    }
    Ok(*want)
}

#[inline]
fn check_send(wr: &SendWr<'_>) -> Result<()> {
    let known = send_flag::FENCE | send_flag::SIGNALED | send_flag::SOLICITED | send_flag::INLINE;
    if wr.flags & !known != 0 {
        return Err(Errno::EINVAL);
    }
    let inline = wr.flags & send_flag::INLINE != 0;
    match wr.opcode {
        wr_opcode::SEND
        | wr_opcode::SEND_WITH_IMM
        | wr_opcode::RDMA_WRITE
        | wr_opcode::RDMA_WRITE_WITH_IMM => Ok(()),
        wr_opcode::RDMA_READ | wr_opcode::ATOMIC_CMP_AND_SWP | wr_opcode::ATOMIC_FETCH_AND_ADD
            if !inline =>
        {
            Ok(())
        }
        wr_opcode::SEND_WITH_INV | wr_opcode::ATOMIC_WRITE => Ok(()),
        wr_opcode::LOCAL_INV | wr_opcode::BIND_MW if !inline && wr.sges.is_empty() => Ok(()),
        _ => Err(Errno::EINVAL),
    }
}

/// Attributes that uverbs takes out of a program's mask: XRC QPs have one half each (modify_qp_mask in the kernel's uverbs_cmd.c).
fn not_for(qp_type: u32) -> u32 {
    match qp_type {
        qpt::XRC_INI => qp_attr::MAX_DEST_RD_ATOMIC | qp_attr::MIN_RNR_TIMER,
        qpt::XRC_TGT => qp_attr::MAX_QP_RD_ATOMIC | qp_attr::RETRY_CNT | qp_attr::RNR_RETRY,
        _ => 0,
    }
}

/// What the other connected types can do: no READs and atomics on UC, nothing at all on XRC receive QPs.
#[cold]
fn check_type(qp_type: u32, wr: &SendWr<'_>) -> Result<()> {
    let known = match qp_type {
        qpt::UC => matches!(
            wr.opcode,
            wr_opcode::SEND
                | wr_opcode::SEND_WITH_IMM
                | wr_opcode::SEND_WITH_INV
                | wr_opcode::RDMA_WRITE
                | wr_opcode::RDMA_WRITE_WITH_IMM
                | wr_opcode::BIND_MW
                | wr_opcode::LOCAL_INV
        ),
        qpt::XRC_TGT => false,
        _ => true,
    };
    if known { Ok(()) } else { Err(Errno::EINVAL) }
}

pub(super) fn check_path(a: &AhAttr, ports: u8) -> Result<()> {
    // RoCE has no address without a GRH.
    if a.is_global == 0
        || a.port_num == 0
        || a.port_num > ports
        || a.grh.sgid_index >= 4
        || a.grh.dgid_bytes() == [0; 16]
    {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

fn check_attributes(a: &QpAttr, mask: u32, ports: u8, lid_path: bool) -> Result<()> {
    if mask & qp_attr::PORT != 0 && (a.port_num == 0 || a.port_num > ports) {
        return Err(Errno::EINVAL);
    }
    if mask & qp_attr::PKEY_INDEX != 0 && a.pkey_index != 0 {
        return Err(Errno::EINVAL);
    }
    if mask & qp_attr::AV != 0 {
        // Programs may leave the path's port to the QP's.
        let mut path = a.ah_attr;
        if path.port_num == 0 {
            path.port_num = 1;
        }
        let by_lid = lid_path && path.is_global == 0 && path.dlid != 0;
        if !by_lid {
            check_path(&path, ports)?;
        }
    }
    if mask & qp_attr::PATH_MTU != 0 && !(1..=5).contains(&a.path_mtu) {
        return Err(Errno::EINVAL);
    }
    let rd = limits::MAX_RD_ATOMIC;
    if (mask & qp_attr::MAX_QP_RD_ATOMIC != 0 && a.max_rd_atomic > rd)
        || (mask & qp_attr::MAX_DEST_RD_ATOMIC != 0 && a.max_dest_rd_atomic > rd)
    {
        return Err(Errno::EINVAL);
    }
    let too_big = (mask & qp_attr::TIMEOUT != 0 && a.timeout > 31)
        || (mask & qp_attr::RETRY_CNT != 0 && a.retry_cnt > 7)
        || (mask & qp_attr::RNR_RETRY != 0 && a.rnr_retry > 7)
        || (mask & qp_attr::MIN_RNR_TIMER != 0 && a.min_rnr_timer > 31)
        || (mask & qp_attr::DEST_QPN != 0 && a.dest_qp_num > 0xff_ffff);
    if too_big { Err(Errno::EINVAL) } else { Ok(()) }
}

fn merge(to: &mut QpAttr, a: &QpAttr, mask: u32) {
    macro_rules! take {
        ($($bit:ident => $($field:ident),+;)*) => { $( if mask & qp_attr::$bit != 0 { $( to.$field = a.$field; )+ } )* };
    }
    take! {
        ACCESS_FLAGS => qp_access_flags;
        PKEY_INDEX => pkey_index;
        PORT => port_num;
        QKEY => qkey;
        AV => ah_attr;
        PATH_MTU => path_mtu;
        TIMEOUT => timeout;
        RETRY_CNT => retry_cnt;
        RNR_RETRY => rnr_retry;
        RQ_PSN => rq_psn;
        MAX_QP_RD_ATOMIC => max_rd_atomic;
        MIN_RNR_TIMER => min_rnr_timer;
        SQ_PSN => sq_psn;
        MAX_DEST_RD_ATOMIC => max_dest_rd_atomic;
        DEST_QPN => dest_qp_num;
        EN_SQD_ASYNC_NOTIFY => en_sqd_async_notify;
    }
}
