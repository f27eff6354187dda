//! What the methods of the native ioctl do; [`super::native`] says which attributes each has.

use super::bundle::Bundle;
use super::channel::ChannelKind;
use super::command::{Call, run, shape_of};
use super::driver::{CqInit, QpInit, SrqInit};
use super::file::{FileState, NewFd};
use super::objects::{ENOENT, Kind};
use gaudi_softnic::{Errno, Result};
use kernel_abi::cmd::{DestroyCqResp, DestroyQpResp, DestroySrqResp};
use kernel_abi::hbl;
use kernel_abi::uverbs::{
    self, GidEntry, QpCap, QueryPortRespEx, async_event, cq, device, mr, obj, qp, srq,
};
use kernel_abi::verbs::{qp_create_flag, srq_type};
use zerocopy::IntoBytes;

/// What a method made: an object or a descriptor, and the attribute that tells its number.
#[derive(Default)]
pub(super) struct Made {
    pub(super) object: Option<(u16, Kind, u32)>,
    pub(super) fd: Option<(u16, NewFd)>,
}

/// Hands out a new object, unless the program's buffers for the rest of the answer are bad.
fn made(
    file: &mut FileState,
    id: u16,
    kind: Kind,
    handle: u32,
    answers: Result<()>,
) -> Result<Made> {
    if let Err(e) = answers {
        file.undo(kind, handle);
        return Err(e);
    }
    Ok(Made {
        object: Some((id, kind, handle)),
        fd: None,
    })
}

pub(super) fn destroy(file: &mut FileState, bundle: &mut Bundle, kind: Kind) -> Result<Made> {
    destroy_at(file, bundle, 0, kind)
}

pub(super) fn destroy_at(
    file: &mut FileState,
    bundle: &mut Bundle,
    id: u16,
    kind: Kind,
) -> Result<Made> {
    file.need_context()?;
    file.destroy(kind, bundle.handle(id).ok_or(Errno::EINVAL)?, ENOENT)?;
    Ok(Made::default())
}

pub(super) fn invoke_write(file: &mut FileState, bundle: &mut Bundle) -> Result<Made> {
    let command = bundle.small(device::invoke_write::WRITE_CMD)?;
    let shape = shape_of(command)?;
    let core_out = bundle.out(device::invoke_write::CORE_OUT);
    let core_in = bundle.bytes(device::invoke_write::CORE_IN)?;
    if core_in.len() < shape.request || core_out.len < shape.response {
        return Err(Errno(libc::ENOSPC));
    }
    let call = Call {
        core_in,
        core_out,
        udata: bundle.udata()?,
    };
    run(file, command, &call)?;
    bundle.mark(device::invoke_write::CORE_OUT);
    Ok(Made::default())
}

pub(super) fn info_handles(file: &mut FileState, bundle: &mut Bundle) -> Result<Made> {
    file.need_context()?;
    let kind = match bundle.small(device::info_handles::OBJECT_ID)? as u16 {
        obj::PD => Kind::Pd,
        obj::CQ => Kind::Cq,
        obj::QP => Kind::Qp,
        obj::SRQ => Kind::Srq,
        obj::AH => Kind::Ah,
        obj::MR => Kind::Mr,
        obj::MW => Kind::Mw,
        obj::XRCD => Kind::Xrcd,
        _ => return Err(Errno::EINVAL),
    };
    let room = bundle.out(device::info_handles::HANDLES_LIST).len / 4;
    let mut handles = file.objects.handles(kind);
    handles.truncate(room);
    bundle.put(device::info_handles::HANDLES_LIST, handles.as_bytes())?;
    bundle.put(
        device::info_handles::TOTAL_HANDLES,
        &(handles.len() as u32).to_ne_bytes(),
    )?;
    Ok(Made::default())
}

pub(super) fn query_port(file: &mut FileState, bundle: &mut Bundle) -> Result<Made> {
    file.need_context()?;
    let port = bundle.small(device::query_port::PORT_NUM)?;
    let answer = QueryPortRespEx {
        legacy: file.driver.query_port(port)?,
        ..QueryPortRespEx::default()
    };
    bundle.put(device::query_port::RESP, answer.as_bytes())?;
    Ok(Made::default())
}

fn context_answer(file: &FileState, bundle: &mut Bundle) -> Result<()> {
    bundle.put(
        device::get_context::NUM_COMP_VECTORS,
        &file.driver.comp_vectors().to_ne_bytes(),
    )?;
    let support = uverbs::CORE_SUPPORT_OPTIONAL_MR_ACCESS;
    bundle.put(device::get_context::CORE_SUPPORT, &support.to_ne_bytes())
}

pub(super) fn get_context(file: &mut FileState, bundle: &mut Bundle) -> Result<Made> {
    context_answer(file, bundle)?;
    file.get_context(&bundle.udata()?)?;
    Ok(Made::default())
}

pub(super) fn query_context(file: &mut FileState, bundle: &mut Bundle) -> Result<Made> {
    file.need_context()?;
    context_answer(file, bundle)?;
    Ok(Made::default())
}

pub(super) fn query_gid_table(file: &mut FileState, bundle: &mut Bundle) -> Result<Made> {
    file.need_context()?;
    let entry_size =
        usize::try_from(bundle.value::<u64>(device::query_gid_table::ENTRY_SIZE)?).unwrap_or(0);
    if bundle.small(device::query_gid_table::FLAGS)? != 0 || entry_size == 0 {
        return Err(Errno::EINVAL);
    }
    let room = bundle.out(device::query_gid_table::RESP_ENTRIES).len / entry_size;
    let entries = file.gids();
    if entries.len() > room {
        return Err(Errno::EINVAL);
    }
    let mut bytes = Vec::new();
    for entry in &entries {
        // The program's struct may be shorter or longer than ours.
        let mut slot = vec![0; entry_size];
        let n = entry_size.min(size_of::<GidEntry>());
        if let (Some(slot), Some(entry)) = (slot.get_mut(..n), entry.as_bytes().get(..n)) {
            slot.copy_from_slice(entry);
        }
        bytes.extend_from_slice(&slot);
    }
    bundle.put(device::query_gid_table::RESP_ENTRIES, &bytes)?;
    bundle.put(
        device::query_gid_table::RESP_NUM_ENTRIES,
        &(entries.len() as u64).to_ne_bytes(),
    )?;
    Ok(Made::default())
}

pub(super) fn query_gid_entry(file: &mut FileState, bundle: &mut Bundle) -> Result<Made> {
    file.need_context()?;
    let port = bundle.small(device::query_gid_entry::PORT)?;
    let index = bundle.small(device::query_gid_entry::GID_INDEX)?;
    if bundle.small(device::query_gid_entry::FLAGS)? != 0 {
        return Err(Errno::EINVAL);
    }
    let entry = file.gid(port, index)?;
    bundle.put(device::query_gid_entry::RESP_ENTRY, entry.as_bytes())?;
    Ok(Made::default())
}

pub(super) fn create_cq(file: &mut FileState, bundle: &mut Bundle) -> Result<Made> {
    file.need_context()?;
    let init = CqInit {
        cqe: bundle.small(cq::create::CQE)?,
        flags: bundle.small(cq::create::FLAGS)?,
        user_handle: bundle.value(cq::create::USER_HANDLE)?,
    };
    let vector = bundle.small(cq::create::COMP_VECTOR)?;
    let (channel, event_file) = (
        bundle.fd(cq::create::COMP_CHANNEL),
        bundle.fd(cq::create::EVENT_FD),
    );
    let (handle, cqe) = file.create_cq(&init, vector, channel, event_file, &bundle.udata()?)?;
    let answers = bundle.put(cq::create::RESP_CQE, &cqe.to_ne_bytes());
    made(file, cq::create::HANDLE, Kind::Cq, handle, answers)
}

pub(super) fn destroy_cq(file: &mut FileState, bundle: &mut Bundle) -> Result<Made> {
    file.need_context()?;
    let reported = file.destroy(
        Kind::Cq,
        bundle.handle(cq::destroy::HANDLE).ok_or(Errno::EINVAL)?,
        ENOENT,
    )?;
    let answer = DestroyCqResp {
        comp_events_reported: reported.completion,
        async_events_reported: reported.asynchronous,
    };
    bundle.put(cq::destroy::RESP, answer.as_bytes())?;
    Ok(Made::default())
}

pub(super) fn create_qp(file: &mut FileState, bundle: &mut Bundle) -> Result<Made> {
    file.need_context()?;
    if bundle.has(qp::create::XRCD_HANDLE) || bundle.has(qp::create::SOURCE_QPN) {
        return Err(Errno::EOPNOTSUPP);
    }
    let flags = bundle.small(qp::create::FLAGS)?;
    let init = QpInit {
        qp_type: bundle.small(qp::create::TYPE)?,
        cap: bundle.value::<QpCap>(qp::create::CAP)?,
        send_cq: bundle.handle(qp::create::SEND_CQ_HANDLE),
        recv_cq: bundle.handle(qp::create::RECV_CQ_HANDLE),
        srq: bundle.handle(qp::create::SRQ_HANDLE),
        sq_sig_all: flags & qp_create_flag::SQ_SIG_ALL != 0,
        create_flags: flags & !qp_create_flag::SQ_SIG_ALL,
        user_handle: bundle.value(qp::create::USER_HANDLE)?,
    };
    let pd = bundle.handle(qp::create::PD_HANDLE).ok_or(Errno::EINVAL)?;
    if init.send_cq.is_none() || init.recv_cq.is_none() {
        return Err(Errno::EINVAL);
    }
    let event_file = bundle.fd(qp::create::EVENT_FD);
    let (handle, (qpn, cap)) = file.create_qp(&init, pd, event_file, ENOENT, &bundle.udata()?)?;
    let answers = bundle
        .put(qp::create::RESP_CAP, cap.as_bytes())
        .and_then(|()| bundle.put(qp::create::RESP_QP_NUM, &qpn.to_ne_bytes()));
    made(file, qp::create::HANDLE, Kind::Qp, handle, answers)
}

pub(super) fn destroy_qp(file: &mut FileState, bundle: &mut Bundle) -> Result<Made> {
    file.need_context()?;
    let reported = file.destroy(
        Kind::Qp,
        bundle.handle(qp::destroy::HANDLE).ok_or(Errno::EINVAL)?,
        ENOENT,
    )?;
    bundle.put(
        qp::destroy::RESP,
        DestroyQpResp {
            events_reported: reported.asynchronous,
        }
        .as_bytes(),
    )?;
    Ok(Made::default())
}

pub(super) fn create_srq(file: &mut FileState, bundle: &mut Bundle) -> Result<Made> {
    file.need_context()?;
    let init = SrqInit {
        max_wr: bundle.small(srq::create::MAX_WR)?,
        max_sge: bundle.small(srq::create::MAX_SGE)?,
        limit: bundle.small(srq::create::LIMIT)?,
        srq_type: bundle.small(srq::create::TYPE)?,
    };
    if init.srq_type != srq_type::BASIC {
        return Err(Errno::EOPNOTSUPP);
    }
    let pd = bundle.handle(srq::create::PD_HANDLE).ok_or(Errno::EINVAL)?;
    let user_handle = bundle.value(srq::create::USER_HANDLE)?;
    let event_file = bundle.fd(srq::create::EVENT_FD);
    let (handle, made_srq) =
        file.create_srq(&init, pd, user_handle, event_file, ENOENT, &bundle.udata()?)?;
    let answers = bundle
        .put(srq::create::RESP_MAX_WR, &made_srq.max_wr.to_ne_bytes())
        .and_then(|()| bundle.put(srq::create::RESP_MAX_SGE, &made_srq.max_sge.to_ne_bytes()))
        .and_then(|()| bundle.put(srq::create::RESP_SRQ_NUM, &made_srq.number.to_ne_bytes()));
    made(file, srq::create::HANDLE, Kind::Srq, handle, answers)
}

pub(super) fn destroy_srq(file: &mut FileState, bundle: &mut Bundle) -> Result<Made> {
    file.need_context()?;
    let reported = file.destroy(
        Kind::Srq,
        bundle.handle(srq::destroy::HANDLE).ok_or(Errno::EINVAL)?,
        ENOENT,
    )?;
    bundle.put(
        srq::destroy::RESP,
        DestroySrqResp {
            events_reported: reported.asynchronous,
        }
        .as_bytes(),
    )?;
    Ok(Made::default())
}

pub(super) fn query_mr(file: &mut FileState, bundle: &mut Bundle) -> Result<Made> {
    file.need_context()?;
    let handle = bundle.handle(mr::query::HANDLE).ok_or(Errno::EINVAL)?;
    let ((lkey, rkey), length, iova) = file.driver.query_mr(handle)?;
    bundle.put(mr::query::RESP_LKEY, &lkey.to_ne_bytes())?;
    bundle.put(mr::query::RESP_RKEY, &rkey.to_ne_bytes())?;
    bundle.put(mr::query::RESP_LENGTH, &length.to_ne_bytes())?;
    bundle.put(mr::query::RESP_IOVA, &iova.to_ne_bytes())?;
    Ok(Made::default())
}

pub(super) fn alloc_async_fd(file: &mut FileState, _bundle: &mut Bundle) -> Result<Made> {
    file.need_context()?;
    let fd = file.new_fd(ChannelKind::Async)?;
    Ok(Made {
        object: None,
        fd: Some((async_event::alloc::FD_HANDLE, fd)),
    })
}

pub(super) fn create_usr_fifo(file: &mut FileState, bundle: &mut Bundle) -> Result<Made> {
    file.need_context()?;
    let request: hbl::CreateUsrFifoIn = bundle.value(hbl::usr_fifo::create::IN)?;
    let (handle, answer) = file.create_driver_object(Kind::UsrFifo, |driver, handle| {
        driver.create_usr_fifo(handle, &request)
    })?;
    let answers = bundle.put(hbl::usr_fifo::create::OUT, answer.as_bytes());
    made(
        file,
        hbl::usr_fifo::create::HANDLE,
        Kind::UsrFifo,
        handle,
        answers,
    )
}

pub(super) fn create_encap(file: &mut FileState, bundle: &mut Bundle) -> Result<Made> {
    file.need_context()?;
    let request: hbl::CreateEncapIn = bundle.value(hbl::encap::create::IN)?;
    let (handle, answer) = file.create_driver_object(Kind::Encap, |driver, handle| {
        driver.create_encap(handle, &request)
    })?;
    let answers = bundle.put(hbl::encap::create::OUT, answer.as_bytes());
    made(
        file,
        hbl::encap::create::HANDLE,
        Kind::Encap,
        handle,
        answers,
    )
}
