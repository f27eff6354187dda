//! Queue pairs: creation, state changes, connections, and their end.

use super::super::datagrams;
use super::super::qp::Qp;
use super::super::queue::{Rq, Sq};
use super::super::srq::{NONE, Source, TAKEN};
use super::super::types::{Errno, QpAttr, QpCap, QpInfo, QpInit, QpQuery, Result};
use super::attributes::{Paths, check_attributes, merge, not_for};
use super::{Engine, limits, slot_of};
use crate::native::{Connect, IDS_PER_PORT, NativeEvent, NativeQp, Nic, split_number};
use crate::rc::conn::Conn;
use crate::rc::{self, msg, requester};
use kernel_abi::verbs::{access, modify_qp_is_ok, qp_attr, qps, qpt};

impl<N: Nic> Engine<N> {
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
            lost_in_rtr: false,
            nudged: false,
        };
        let qp_num = qp.number();
        qp.note_state(&self.env);
        self.qps[i] = Some(Box::new(qp));
        Ok(QpInfo {
            handle: i as u32,
            qp_num,
            cap,
        })
    }

    fn enroll(&mut self, native: &NativeQp, qp: u32) {
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

    #[inline]
    pub(super) fn native_owner(&self, port: u8, id: u32) -> Option<u32> {
        let v = *self.by_native.get(usize::from(port))?.get(id as usize)?;
        v.checked_sub(1)
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
        self.look(handle);
        let qp = self
            .qps
            .get_mut(handle as usize)
            .and_then(Option::take)
            .ok_or(Errno::EINVAL);
        let mut qp = qp?;
        let r = self.modify(&mut qp, a, mask);
        let number = qp.number();
        let retried = qp.conn.is_some();
        self.qps[handle as usize] = Some(qp);
        r?;
        if retried && (matches!(a.qp_state, qps::RTS | qps::SQD) || !self.forgotten(handle)) {
            self.activate(handle);
            if let Some(Some(qp)) = self.qps.get_mut(handle as usize) {
                rc::push(qp, &mut self.env);
            }
        } else if !retried {
            self.without_connection(handle);
        }
        self.settle();
        Ok(number)
    }

    /// What follows a state change of a QP whose requests no connection carries on: it has drained at once, or goes on with what was posted.
    fn without_connection(&mut self, handle: u32) {
        let Ok(qp) = self.qp(handle) else { return };
        if qp.state == qps::RTS && !qp.sq.is_empty() {
            return self.kick(handle);
        }
        let event = qp.drained();
        self.env.events.extend(event);
    }

    fn modify(&mut self, qp: &mut Qp, a: &QpAttr, mask: u32) -> Result<()> {
        let mask = mask & !not_for(qp.qp_type);
        if qp.lost_in_rtr && mask & qp_attr::STATE != 0 && a.qp_state == qps::RTS {
            // As if the peer had died a moment later: a program that connects need not expect a failure of this step.
            qp.lost_in_rtr = false;
            let sound = modify_qp_is_ok(qps::RTR, qps::RTS, qp.qp_type, mask);
            check_attributes(a, mask, Paths::of(&self.env.nic))?;
            if sound && (mask & qp_attr::CUR_STATE == 0 || a.cur_qp_state == qps::RTR) {
                merge(&mut qp.attr, a, mask);
                return Ok(());
            }
        }
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
        check_attributes(a, mask, Paths::of(&self.env.nic))?;
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
        if mask & qp_attr::ACCESS_FLAGS != 0
            && qp.attr.qp_access_flags & !a.qp_access_flags & access::REMOTE_WRITE != 0
        {
            self.withdraw_keys(qp);
        }
        merge(&mut qp.attr, a, mask);
        if mask & qp_attr::SQ_PSN != 0
            && let Some(p) = &mut qp.ud
        {
            p.start(a.sq_psn);
        }
        qp.state = next;
        qp.attr.qp_state = next;
        qp.note_state(&self.env);
        Ok(())
    }

    pub(super) fn connect(&mut self, qp: &mut Qp, a: &QpAttr) -> Result<()> {
        let (my, peer) = (qp.number(), a.dest_qp_num & 0xff_ffff);
        let (_, dest_id) = split_number(peer);
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
            if !self.take_completions() {
                break;
            }
        }
        self.forget_native_events(qp.handle);
        // Progress has not found this QP in its place, and dropped it from the list.
        self.active.retain(|&h| h != qp.handle);
        qp.active = false;
        let (port, id) = (qp.native.port, qp.native.id);
        let win = self.env.nic.qp_connect(&mut qp.native, &to);
        if (port, id) != (qp.native.port, qp.native.id) {
            self.expel(port, id);
            self.enroll(&qp.native, qp.handle);
        }
        let win = win?;
        let nonce = self.env.nic.random() | 1 << 40;
        let depth = u32::from(a.max_dest_rd_atomic);
        let mut c = Box::new(Conn::new(win, my, peer, nonce, qp.rq.max_sge(), depth));
        c.announce(qp.qp_type, qp.source.is_some());
        c.posted = qp.rq.tail.wrapping_sub(qp.rq.head);
        qp.conn = Some(c);
        qp.halted = false;
        let syndrome = std::mem::take(&mut qp.native.died);
        if syndrome != 0 {
            // The event itself may be there already, or come; it says nothing any more.
            self.forget_native_events(qp.handle);
            let cookie = u64::from(qp.handle);
            self.held
                .push_back(NativeEvent::QpError { cookie, syndrome });
        }
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
        qp.lost_in_rtr = false;
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
        self.look(qp);
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
        self.forget_held_events(handle);
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
