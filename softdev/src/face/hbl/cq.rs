//! CQs: one hardware CQ on one port, or one on each port of the context.

use super::super::driver::{CqInit, Udata};
use super::super::events::Native;
use super::Hbl;
use gaudi_softnic::{CqInfo, Errno, Result};
use kernel_abi::hbl;
use zerocopy::IntoBytes;

pub(super) struct Cq {
    /// Port and hardware number.
    natives: Vec<(u32, u32)>,
}

impl Cq {
    /// The hardware CQ of a QP on that port.
    pub(super) fn on_port(&self, port: u32) -> Option<u32> {
        self.natives
            .iter()
            .find(|(found, _)| *found == port)
            .map(|&(_, cq)| cq)
    }
}

fn describe(info: &CqInfo) -> hbl::CreateCqResp {
    hbl::CreateCqResp {
        mem_handle: info.mem_handle,
        pi_handle: info.pi_handle,
        regs_handle: info.regs_handle,
        regs_offset: info.regs_offset,
        cq_num: info.id,
        cq_size: info.mem_size,
        reserved: 0,
    }
}

impl Hbl {
    pub(super) fn new_cq(&mut self, handle: u32, init: &CqInit, udata: &Udata) -> Result<u32> {
        let request: hbl::CreateCqReq = udata.request();
        if init.flags != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let native = request.flags & hbl::cq_flag::NATIVE != 0;
        let ports = if native {
            self.context_ports()?
        } else {
            vec![request.port_num]
        };
        for &port in &ports {
            self.check_ready(port)?;
        }
        match request.cq_type {
            hbl::cq_type::QP => (),
            // Needs a capability that this device does not report.
            hbl::cq_type::CC => return Err(Errno::EOPNOTSUPP),
            _ => return Err(Errno::EINVAL),
        }
        let cqe = init.cqe.max(hbl::MIN_CQE);
        if !cqe.is_power_of_two() || cqe > hbl::MAX_CQE {
            return Err(Errno::EINVAL);
        }
        let mut natives = Vec::with_capacity(ports.len());
        let mut answers = vec![hbl::CreateCqResp::default(); 1];
        for port in ports {
            match self.nic()?.cq_create(port, cqe) {
                Ok(info) => {
                    natives.push((port, info.id));
                    if native {
                        // Indexed by port; element 0 of the array, behind the plain answer, stays unused.
                        answers.resize(port as usize + 1, hbl::CreateCqResp::default());
                        answers.push(describe(&info));
                    } else {
                        answers[0] = describe(&info);
                    }
                }
                Err(e) => {
                    self.drop_natives(&natives);
                    return Err(e);
                }
            }
        }
        if let Err(e) = udata.respond(answers.as_bytes()) {
            self.drop_natives(&natives);
            return Err(e);
        }
        for &(port, cq) in &natives {
            self.hub
                .watch(Native::Cq { port, cq }, handle, init.user_handle);
        }
        self.cqs.insert(handle, Cq { natives });
        Ok(cqe)
    }

    fn drop_natives(&self, natives: &[(u32, u32)]) {
        for &(port, cq) in natives {
            if let Err(e) = self.nic().and_then(|nic| nic.cq_destroy(port, cq)) {
                log::warn!("CQ {cq} of port {port} stays: {e}");
            }
        }
    }

    pub(super) fn free_cq(&mut self, handle: u32) -> Result<()> {
        let Some(cq) = self.cqs.get_mut(&handle) else {
            return Ok(());
        };
        // One after the other, so that a refusal in between leaves only what is still there.
        while let Some(&(port, number)) = cq.natives.last() {
            if let Some(nic) = &self.nic {
                nic.cq_destroy(port, number)?;
            }
            self.hub.unwatch(Native::Cq { port, cq: number });
            cq.natives.pop();
        }
        self.cqs.remove(&handle);
        Ok(())
    }
}
