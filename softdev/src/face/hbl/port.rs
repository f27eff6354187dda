//! The driver's own objects: doorbell FIFOs, port set-up, port query, encapsulation.

use super::super::usermem;
use super::Hbl;
use gaudi_softnic::{Errno, Result};
use kernel_abi::hbl;

/// Width of a back-pressure offset.
const BP_OFFSET_BITS: u32 = 27;
/// Only ARC and QMAN have one.
const BP_OFFSETS: u32 = 2;

impl Hbl {
    pub(super) fn new_fifo(
        &mut self,
        handle: u32,
        request: &hbl::CreateUsrFifoIn,
    ) -> Result<hbl::CreateUsrFifoOut> {
        self.check_ready(request.port_num)?;
        if request.mode > hbl::fifo_mode::CONGESTION {
            return Err(Errno::EINVAL);
        }
        let info =
            self.nic()?
                .fifo_create(request.port_num, request.usr_fifo_num_hint, request.mode)?;
        self.fifos.insert(handle, (request.port_num, info.id));
        Ok(hbl::CreateUsrFifoOut {
            ci_handle: info.ci_handle,
            regs_handle: info.regs_handle,
            usr_fifo_num: info.id,
            regs_offset: info.regs_offset,
            size: info.size,
            bp_thresh: info.bp_thresh,
        })
    }

    pub(super) fn set_port(&mut self, request: &hbl::SetPortExIn) -> Result<()> {
        self.check_port(request.port_num)?;
        if self.nic()?.port_ready(request.port_num) {
            return Err(Errno::EPERM);
        }
        back_pressure(request)?;
        let array = &request.wq_arr_attr[hbl::wq_array::GENERIC];
        let given = array.max_num_of_wqs != 0 && array.max_num_of_wqes_in_wq != 0;
        let known = matches!(array.mem_id, hbl::mem_id::HOST | hbl::mem_id::DEVICE)
            && array.swq_granularity <= hbl::wq_granularity::B64;
        if given && !known {
            return Err(Errno::EINVAL);
        }
        self.nic()?.set_port_ex(
            request.port_num,
            array.max_num_of_wqs,
            array.max_num_of_wqes_in_wq,
            array.swq_granularity,
            array.mem_id == hbl::mem_id::DEVICE,
            request.advanced != 0,
        )
    }

    pub(super) fn describe_port(&self, port: u32) -> Result<hbl::QueryPortOut> {
        self.check_port(port)?;
        let (count, max) = self.nic()?.qps_allocated(port);
        Ok(hbl::QueryPortOut {
            max_num_of_qps: hbl::MAX_QPS,
            // The raw Ethernet QP is always there.
            num_allocated_qps: count + 1,
            max_allocated_qp_num: max,
            max_cq_size: hbl::CQ_SLOT_SIZE,
            max_num_of_cqs: hbl::NUM_USER_CQS as u8,
            max_num_of_usr_fifos: hbl::NUM_DB_FIFOS as u8,
            max_num_of_encaps: hbl::MAX_ENCAPS,
            ..hbl::QueryPortOut::default()
        })
    }

    pub(super) fn new_encap(
        &mut self,
        handle: u32,
        request: &hbl::CreateEncapIn,
    ) -> Result<hbl::CreateEncapOut> {
        self.check_ready(request.port_num)?;
        let udp = request.encap_type == hbl::encap_type::UDP
            && request.tnl_hdr_size == hbl::ENCAP_HDR_SIZE;
        if !udp {
            return Err(Errno::EOPNOTSUPP);
        }
        // Copied as the driver does; nothing here puts it on a wire.
        usermem::read_vec(request.tnl_hdr_ptr, hbl::ENCAP_HDR_SIZE as usize)?;
        if self.encaps.values().any(|&port| port == request.port_num) {
            return Err(Errno::EBUSY);
        }
        self.encaps.insert(handle, request.port_num);
        // Two entries per macro, which two ports share; the second of a pair is the driver's default.
        let encap_num = if request.port_num & 1 == 1 { 0 } else { 2 };
        Ok(hbl::CreateEncapOut {
            encap_num,
            reserved: 0,
        })
    }
}

fn back_pressure(request: &hbl::SetPortExIn) -> Result<()> {
    let count = request.qp_wq_bp_offs_cnt;
    if count == 0 {
        return Ok(());
    }
    if request.qp_wq_bp_offs == 0 || count > hbl::MAX_BP_OFFS {
        return Err(Errno::EINVAL);
    }
    let bytes = usermem::read_vec(request.qp_wq_bp_offs, count as usize * 4)?;
    let used = bytes
        .chunks_exact(4)
        .take(BP_OFFSETS as usize)
        .map(super::super::driver::prefix::<u32>);
    for offset in used {
        if offset != 0 && request.advanced == 0 || offset >> BP_OFFSET_BITS != 0 {
            return Err(Errno::EINVAL);
        }
    }
    Ok(())
}
