//! QPs: a verbs handle that gets a hardware QP when it is taken to INIT.

use super::super::driver::{QpInit, Udata};
use super::super::events::Native as EventSource;
use super::{Hbl, path};
use crate::netdev;
use gaudi_softnic::{Errno, Requester, Responder, Result, RingInfo};
use kernel_abi::cmd::{ModifyQpReq, QueryQpResp};
use kernel_abi::gaudi2::{BURST_SIZE, RES_PRIORITY};
use kernel_abi::hbl;
use kernel_abi::uverbs::QpCap;
use kernel_abi::verbs::{modify_qp_is_ok, mtu, qp_attr, qps, qpt};
use zerocopy::IntoBytes;

/// The hardware QP.
#[derive(Clone, Copy)]
struct Native {
    port: u32,
    qpn: u32,
    generation: u32,
}

pub(super) struct Qp {
    /// What verbs calls the QP number; nothing to do with the hardware's.
    number: u32,
    state: u32,
    cap: QpCap,
    send_cq: Option<u32>,
    recv_cq: Option<u32>,
    user_handle: u64,
    native: Option<Native>,
    wq_type: u8,
    granularity: u8,
    mtu: u8,
    dest_qpn: u32,
    mac: [u8; 6],
    ip: u32,
}

impl Hbl {
    pub(super) fn new_qp(&mut self, handle: u32, init: &QpInit) -> Result<(u32, QpCap)> {
        if init.srq.is_some() || init.create_flags != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let number = (self.qp_low..)
            .find(|n| !self.qp_numbers.contains(n))
            .ok_or(Errno::ENOMEM)?;
        self.qp_low = number + 1;
        self.qp_numbers.insert(number);
        let qp = Qp {
            number,
            state: qps::RESET,
            cap: init.cap,
            send_cq: init.send_cq,
            recv_cq: init.recv_cq,
            user_handle: init.user_handle,
            native: None,
            wq_type: 0,
            granularity: 0,
            mtu: 0,
            dest_qpn: 0,
            mac: [0; 6],
            ip: 0,
        };
        self.qps.insert(handle, qp);
        Ok((number, init.cap))
    }

    fn qp(&self, handle: u32) -> Result<&Qp> {
        self.qps.get(&handle).ok_or(Errno::EINVAL)
    }

    fn qp_mut(&mut self, handle: u32) -> Result<&mut Qp> {
        self.qps.get_mut(&handle).ok_or(Errno::EINVAL)
    }

    fn syndrome(&self, qp: &Qp) -> u8 {
        match (&self.nic, qp.native) {
            (Some(nic), Some(native)) => nic.qp_syndrome(native.port, native.qpn),
            _ => 0,
        }
    }

    /// Any event of the hardware QP puts the verbs QP into the error state.
    fn state(&self, qp: &Qp) -> u32 {
        if qp.state != qps::RESET && self.syndrome(qp) != 0 {
            qps::ERR
        } else {
            qp.state
        }
    }

    pub(super) fn describe_qp(&self, handle: u32) -> Result<QueryQpResp> {
        let qp = self.qp(handle)?;
        let state = self.state(qp) as u8;
        Ok(QueryQpResp {
            qp_state: state,
            cur_qp_state: state,
            dest_qp_num: qp.dest_qpn,
            port_num: qp.native.map_or(0, |native| native.port as u8),
            max_send_wr: qp.cap.max_send_wr,
            max_recv_wr: qp.cap.max_recv_wr,
            max_send_sge: hbl::MAX_SGE,
            max_recv_sge: hbl::MAX_SGE,
            qp_access_flags: self.syndrome(qp).into(),
            ..QueryQpResp::default()
        })
    }

    pub(super) fn change_qp(
        &mut self,
        handle: u32,
        request: &ModifyQpReq,
        udata: &Udata,
    ) -> Result<()> {
        let driver: hbl::ModifyQpReq = udata.request();
        let current = self.state(self.qp(handle)?);
        let has_state = request.attr_mask & qp_attr::STATE != 0;
        let next = if has_state {
            u32::from(request.qp_state)
        } else {
            current
        };
        if !modify_qp_is_ok(current, next, qpt::RC, request.attr_mask) {
            return Err(Errno::EINVAL);
        }
        if !has_state {
            return Ok(());
        }
        let rings = match next {
            qps::RESET => {
                self.reset_qp(handle)?;
                RingInfo::default()
            }
            qps::INIT => {
                self.enter_init(handle, request, &driver)?;
                RingInfo::default()
            }
            qps::RTR => {
                let done = self.enter_rtr(handle, request, &driver);
                self.or_reset(handle, done)?;
                RingInfo::default()
            }
            qps::RTS => {
                let done = self.enter_rts(handle, request, &driver);
                self.or_reset(handle, done)?
            }
            // The driver knows nothing of the other states and says so to nobody.
            _ => return Ok(()),
        };
        let answer = self.answer(handle, &rings)?;
        let told = udata.respond(answer.as_bytes());
        self.or_reset(handle, told)
    }

    fn answer(&self, handle: u32, rings: &RingInfo) -> Result<hbl::ModifyQpResp> {
        let native = self.qp(handle)?.native;
        Ok(hbl::ModifyQpResp {
            swq_mem_handle: rings.swq_handle,
            rwq_mem_handle: rings.rwq_handle,
            swq_mem_size: rings.swq_size,
            rwq_mem_size: rings.rwq_size,
            qp_num: native.map_or(0, |native| native.qpn),
            reserved: native
                .filter(|_| !self.options.strict)
                .map_or(0, |native| native.generation),
        })
    }

    /// A failed transition leaves the QP in RESET.
    fn or_reset<T>(&mut self, handle: u32, result: Result<T>) -> Result<T> {
        if result.is_err()
            && let Err(e) = self.reset_qp(handle)
        {
            log::warn!("QP {handle} after a failed transition: {e}");
        }
        result
    }

    /// Stops the hardware QP. The posted driver gives its number back, we keep it for the next INIT on the same port.
    fn reset_qp(&mut self, handle: u32) -> Result<()> {
        let native = self.qp(handle)?.native;
        if let Some(native) = native {
            if self.options.strict {
                self.release(handle)?;
            } else {
                self.nic()?.qp_stop(native.port, native.qpn)?;
            }
        }
        let qp = self.qp_mut(handle)?;
        qp.state = qps::RESET;
        qp.dest_qpn = 0;
        Ok(())
    }

    fn release(&mut self, handle: u32) -> Result<()> {
        if let Some(Native { port, qpn, .. }) = self.qp(handle)?.native {
            self.nic()?.qp_free(port, qpn)?;
            self.hub.unwatch(EventSource::Qp { port, qpn });
            self.qp_mut(handle)?.native = None;
        }
        Ok(())
    }

    fn enter_init(
        &mut self,
        handle: u32,
        request: &ModifyQpReq,
        driver: &hbl::ModifyQpReq,
    ) -> Result<()> {
        if hbl::wq_type::to_hw(driver.wq_type).is_none()
            || driver.wq_granularity > hbl::wq_granularity::B64
        {
            return Err(Errno::EINVAL);
        }
        let qp = self.qp(handle)?;
        let port = match qp.native {
            // INIT to INIT need not name the port again.
            Some(native) if request.attr_mask & qp_attr::PORT == 0 => native.port,
            _ => u32::from(request.port_num),
        };
        self.check_ready(port)?;
        let kept = self
            .qp(handle)?
            .native
            .filter(|native| !self.options.strict && native.port == port);
        if kept.is_none() {
            self.release(handle)?;
            let (qpn, generation) = self.nic()?.qp_alloc(port)?;
            let qp = self.qp_mut(handle)?;
            qp.native = Some(Native {
                port,
                qpn,
                generation,
            });
            let user_handle = qp.user_handle;
            self.hub
                .watch(EventSource::Qp { port, qpn }, handle, user_handle);
        }
        let qp = self.qp_mut(handle)?;
        qp.state = qps::INIT;
        qp.wq_type = driver.wq_type;
        qp.granularity = driver.wq_granularity;
        Ok(())
    }

    /// The hardware CQ of the QP's port, which must exist.
    fn native_cq(&self, handle: Option<u32>, port: u32) -> Result<u32> {
        let cq = handle
            .and_then(|handle| self.cqs.get(&handle))
            .and_then(|cq| cq.on_port(port));
        let cq = cq.ok_or(Errno::EINVAL)?;
        if self.nic()?.cq_exists(port, cq) {
            Ok(cq)
        } else {
            Err(Errno::EINVAL)
        }
    }

    fn enter_rtr(
        &mut self,
        handle: u32,
        request: &ModifyQpReq,
        driver: &hbl::ModifyQpReq,
    ) -> Result<()> {
        let qp = self.qp(handle)?;
        let Native { port, qpn, .. } = qp.native.ok_or(Errno::EINVAL)?;
        let cq = self.native_cq(qp.recv_cq, port)?;
        if driver.encap_num != 0 && driver.encap_en == 0 {
            return Err(Errno::EINVAL);
        }
        let (mac, ip) = if request.dest.is_global != 0 {
            path::resolve(&request.dest.dgid, self.options.devices, self.options.ports)
        } else if self.options.strict || netdev::bound() {
            return Err(Errno::EINVAL);
        } else {
            let (device, port) = gaudi_softnic::resolve_lid(request.dest.dlid);
            if device >= self.options.devices || !(1..=self.options.ports).contains(&port) {
                return Err(Errno::EINVAL);
            }
            (gaudi_softnic::port_mac(device, port), 0)
        };
        let responder = Responder {
            dest_qpn: request.dest_qp_num & 0xff_ffff,
            dest_mac: mac,
            dest_ip: ip,
            local_key: driver.local_key,
            cq,
            peer_granularity: driver.wq_granularity,
            priority: RES_PRIORITY,
            wq_type: qp.wq_type,
        };
        self.nic()?.qp_set_responder(port, qpn, &responder)?;
        let qp = self.qp_mut(handle)?;
        qp.state = qps::RTR;
        qp.mtu = request.path_mtu;
        qp.dest_qpn = responder.dest_qpn;
        (qp.mac, qp.ip) = (mac, ip);
        Ok(())
    }

    fn enter_rts(
        &mut self,
        handle: u32,
        request: &ModifyQpReq,
        driver: &hbl::ModifyQpReq,
    ) -> Result<RingInfo> {
        let qp = self.qp(handle)?;
        let Native { port, qpn, .. } = qp.native.ok_or(Errno::EINVAL)?;
        let cq = self.native_cq(qp.send_cq, port)?;
        let hw_type = hbl::wq_type::to_hw(qp.wq_type).ok_or(Errno::EINVAL)?;
        let entries = qp.cap.max_send_wr;
        let remote = driver.dest_wq_size;
        let wrong = qp.state == qps::RTS
            || request.timeout > hbl::MAX_TIMEOUT
            || !(mtu::MTU_1024..=hbl::MTU_8192).contains(&qp.mtu)
            || !(hbl::MIN_PRIORITY..=hbl::MAX_PRIORITY).contains(&driver.priority)
            || entries == 0
            || remote != 0 && !remote.is_power_of_two()
            // A roll-back would pass a smaller remote ring twice.
            || remote != 0 && hw_type == 1 && u64::from(entries) * 4 > u64::from(remote)
            || driver.congestion_wnd > hbl::MAX_CONGESTION_WND;
        if wrong {
            return Err(Errno::EINVAL);
        }
        let requester = Requester {
            dest_qpn: qp.dest_qpn,
            dest_mac: qp.mac,
            dest_ip: qp.ip,
            remote_key: driver.remote_key,
            cq,
            timer: request.timeout,
            log_mtu: qp.mtu + 7,
            wq_entries: entries,
            granularity: qp.granularity,
            wq_type: qp.wq_type,
            priority: driver.priority,
            congestion_wnd: driver.congestion_wnd,
            burst: BURST_SIZE,
        };
        let rings = self.nic()?.qp_set_requester(port, qpn, &requester)?;
        self.qp_mut(handle)?.state = qps::RTS;
        Ok(rings)
    }

    pub(super) fn free_qp(&mut self, handle: u32) -> Result<()> {
        if !self.qps.contains_key(&handle) {
            return Ok(());
        }
        self.release(handle)?;
        if let Some(qp) = self.qps.remove(&handle) {
            self.qp_numbers.remove(&qp.number);
            self.qp_low = self.qp_low.min(qp.number);
        }
        Ok(())
    }
}
