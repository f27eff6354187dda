//! Native CQs: one of each direction on every port.

use super::Gaudi;
use crate::native::kernel::{self, Call, Pv};
use crate::native::{Completion, Window};
use crate::verbs::types::{Errno, Result};
use kernel_abi::gaudi2::Cqe;
use kernel_abi::hbl;
use kernel_abi::uverbs::{self, obj};
use zerocopy::FromZeros;

/// Entries of a native CQ (native dossier 7.2: at most 8192).
const CQ_ENTRIES: u32 = 8192;

/// A native CQ of one port.
#[derive(Clone, Copy, Debug)]
pub(super) struct NativeCq {
    pub(super) id: u32,
    ring: Window,
    regs: Window,
    regs_offset: usize,
    pub(super) ci: u32,
    /// CI that the device knows.
    told: u32,
}

impl Gaudi {
    /// A NATIVE CQ: one hardware CQ on each port of the context.
    pub(super) fn create_cq(&mut self, which: usize) -> Result<Vec<NativeCq>> {
        use uverbs::cq::{CREATE, create};
        let req = hbl::CreateCqReq {
            port_num: 0,
            cq_type: hbl::cq_type::QP,
            flags: hbl::cq_flag::NATIVE,
            reserved: [0; 2],
        };
        let mut resp = [hbl::CreateCqResp::new_zeroed(); 1 + 25];
        let mut granted = 0u32;
        let mut c = Call::new(obj::CQ, CREATE)
            .handle(create::HANDLE, 0)
            .value(create::CQE, 4, u64::from(CQ_ENTRIES))
            .value(create::USER_HANDLE, 8, which as u64)
            .value(create::COMP_VECTOR, 4, 0)
            .value(create::FLAGS, 4, 0)
            .output(create::RESP_CQE, &mut granted)
            .input(uverbs::UHW_IN, &req)
            .output(uverbs::UHW_OUT, &mut resp);
        c.run(self.cmd_fd)?;
        self.cqs[which] = c.answered(create::HANDLE) as u32;
        let mut v = Vec::new();
        for port in 1..=usize::from(self.port_count()) {
            // The first element answers for the CQ as a whole, the array by IB port follows.
            let r = resp[1 + port];
            let ring = self.map_handle(r.mem_handle, r.cq_size as usize)?;
            if ring.len() < (CQ_ENTRIES as usize) * size_of::<Cqe>() {
                return Err(Errno::EPROTO);
            }
            let regs = if self.pv.is_some() {
                kernel::no_window()
            } else {
                kernel::map_device(self.cmd_fd, r.regs_handle, 4096)?
            };
            v.push(NativeCq {
                id: r.cq_num,
                ring,
                regs,
                regs_offset: r.regs_offset as usize,
                ci: 0,
                told: 0,
            });
        }
        Ok(v)
    }

    fn tell_ci(pv: &Option<Pv>, port: u8, cq: &mut NativeCq) {
        cq.told = cq.ci;
        match pv {
            Some(pv) => pv.cq_ci(port, cq.id, cq.ci),
            None => cq
                .regs
                .store64(cq.regs_offset, u64::from(cq.ci) << 32 | u64::from(cq.id)),
        }
    }

    #[inline]
    pub(super) fn poll(pv: &Option<Pv>, port: u8, cq: &mut NativeCq) -> Option<Completion> {
        let off = (cq.ci % CQ_ENTRIES) as usize * size_of::<Cqe>();
        let w0 = cq.ring.load64(off);
        if w0 as u32 >> 31 == 0 {
            if cq.told != cq.ci {
                Gaudi::tell_ci(pv, port, cq);
            }
            return None;
        }
        let w1 = cq.ring.load64(off + 8);
        // Software clears the valid bit and nothing else.
        cq.ring.store32(off, w0 as u32 & 0x7fff_ffff);
        cq.ci = cq.ci.wrapping_add(1);
        if cq.ci.wrapping_sub(cq.told) >= CQ_ENTRIES / 4 {
            Gaudi::tell_ci(pv, port, cq);
        }
        Some(Completion {
            port,
            id: w0 as u32 & 0xff_ffff,
            slot: (w0 >> 32) as u32,
            tag: w1 as u32,
        })
    }
}
