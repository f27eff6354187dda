//! The native ioctl: objects and methods with typed attributes, and INVOKE_WRITE among them.

use super::bundle::{Bundle, Spec, Type, may, need, read_header};
use super::channel::ChannelKind;
use super::command::{Call, run, shape_of};
use super::driver::{CqInit, QpInit, SrqInit};
use super::file::{FileState, NewFd, VerbsFile};
use super::objects::{ENOENT, Kind};
use gaudi_softnic::{Errno, Result};
use kernel_abi::cmd::{DestroyCqResp, DestroyQpResp, DestroySrqResp};
use kernel_abi::uverbs::{
    GidEntry, QpCap, QueryPortRespEx, async_event, cq, device, mr, obj, qp, srq,
};
use kernel_abi::verbs::{qp_create_flag, srq_type};
use kernel_abi::{hbl, uverbs};
use zerocopy::IntoBytes;

const EPROTONOSUPPORT: Errno = Errno(libc::EPROTONOSUPPORT);
use Type::{Fd, In, New, Object, Out};

/// What a method made: an object or a descriptor, and the attribute that tells its number.
#[derive(Default)]
struct Made {
    object: Option<(u16, Kind, u32)>,
    fd: Option<(u16, NewFd)>,
}

type Handler = fn(&mut FileState, &mut Bundle) -> Result<Made>;

struct Method {
    specs: &'static [Spec],
    has_udata: bool,
    handler: Handler,
}

const fn method(specs: &'static [Spec], handler: Handler) -> Method {
    Method {
        specs,
        has_udata: false,
        handler,
    }
}

const fn with_udata(specs: &'static [Spec], handler: Handler) -> Method {
    Method {
        specs,
        has_udata: true,
        handler,
    }
}

/// The methods of both drivers; what a driver lacks altogether is not there for its devices, so that the library falls back.
fn find(file: &FileState, object: u16, id: u16) -> Option<Method> {
    let srq = file.driver.has_srq();
    let hbl = file.driver.is_hbl();
    Some(match (object, id) {
        (obj::DEVICE, device::INVOKE_WRITE) => with_udata(
            const {
                &[
                    may(device::invoke_write::CORE_IN, In(0)),
                    may(device::invoke_write::CORE_OUT, Out(0)),
                    need(device::invoke_write::WRITE_CMD, In(1)),
                ]
            },
            invoke_write,
        ),
        (obj::DEVICE, device::INFO_HANDLES) => method(
            const {
                &[
                    need(device::info_handles::OBJECT_ID, In(1)),
                    may(device::info_handles::TOTAL_HANDLES, Out(4)),
                    need(device::info_handles::HANDLES_LIST, Out(4)),
                ]
            },
            info_handles,
        ),
        (obj::DEVICE, device::QUERY_PORT) => method(
            const {
                &[
                    need(device::query_port::PORT_NUM, In(1)),
                    need(device::query_port::RESP, Out(48)),
                ]
            },
            query_port,
        ),
        (obj::DEVICE, device::GET_CONTEXT) => with_udata(CONTEXT_SPECS, get_context),
        (obj::DEVICE, device::QUERY_CONTEXT) => with_udata(CONTEXT_SPECS, query_context),
        (obj::DEVICE, device::QUERY_GID_TABLE) => method(
            const {
                &[
                    need(device::query_gid_table::ENTRY_SIZE, In(8)),
                    may(device::query_gid_table::FLAGS, In(4)),
                    need(device::query_gid_table::RESP_ENTRIES, Out(0)),
                    need(device::query_gid_table::RESP_NUM_ENTRIES, Out(8)),
                ]
            },
            query_gid_table,
        ),
        (obj::DEVICE, device::QUERY_GID_ENTRY) => method(
            const {
                &[
                    need(device::query_gid_entry::PORT, In(4)),
                    need(device::query_gid_entry::GID_INDEX, In(4)),
                    may(device::query_gid_entry::FLAGS, In(4)),
                    need(device::query_gid_entry::RESP_ENTRY, Out(32)),
                ]
            },
            query_gid_entry,
        ),
        (obj::PD, uverbs::pd::DESTROY) => method(
            const { &[need(uverbs::pd::destroy::HANDLE, Object(Kind::Pd))] },
            |f, b| destroy(f, b, Kind::Pd),
        ),
        (obj::CQ, cq::CREATE) => with_udata(
            const {
                &[
                    need(cq::create::HANDLE, New),
                    need(cq::create::CQE, In(4)),
                    need(cq::create::USER_HANDLE, In(8)),
                    may(cq::create::COMP_CHANNEL, Fd),
                    need(cq::create::COMP_VECTOR, In(4)),
                    may(cq::create::FLAGS, In(4)),
                    need(cq::create::RESP_CQE, Out(4)),
                    may(cq::create::EVENT_FD, Fd),
                ]
            },
            create_cq,
        ),
        (obj::CQ, cq::DESTROY) => method(
            const {
                &[
                    need(cq::destroy::HANDLE, Object(Kind::Cq)),
                    need(cq::destroy::RESP, Out(8)),
                ]
            },
            destroy_cq,
        ),
        (obj::QP, qp::CREATE) => with_udata(
            const {
                &[
                    need(qp::create::HANDLE, New),
                    may(qp::create::XRCD_HANDLE, Object(Kind::Xrcd)),
                    may(qp::create::PD_HANDLE, Object(Kind::Pd)),
                    may(qp::create::SRQ_HANDLE, Object(Kind::Srq)),
                    may(qp::create::SEND_CQ_HANDLE, Object(Kind::Cq)),
                    may(qp::create::RECV_CQ_HANDLE, Object(Kind::Cq)),
                    need(qp::create::USER_HANDLE, In(8)),
                    need(qp::create::CAP, In(20)),
                    need(qp::create::TYPE, In(1)),
                    may(qp::create::FLAGS, In(4)),
                    may(qp::create::SOURCE_QPN, In(4)),
                    may(qp::create::EVENT_FD, Fd),
                    need(qp::create::RESP_CAP, Out(20)),
                    need(qp::create::RESP_QP_NUM, Out(4)),
                ]
            },
            create_qp,
        ),
        (obj::QP, qp::DESTROY) => method(
            const {
                &[
                    need(qp::destroy::HANDLE, Object(Kind::Qp)),
                    need(qp::destroy::RESP, Out(4)),
                ]
            },
            destroy_qp,
        ),
        (obj::SRQ, srq::CREATE) if srq => with_udata(
            const {
                &[
                    need(srq::create::HANDLE, New),
                    may(srq::create::PD_HANDLE, Object(Kind::Pd)),
                    may(srq::create::XRCD_HANDLE, Object(Kind::Xrcd)),
                    may(srq::create::CQ_HANDLE, Object(Kind::Cq)),
                    need(srq::create::USER_HANDLE, In(8)),
                    need(srq::create::MAX_WR, In(4)),
                    need(srq::create::MAX_SGE, In(4)),
                    need(srq::create::LIMIT, In(4)),
                    may(srq::create::MAX_NUM_TAGS, In(4)),
                    need(srq::create::TYPE, In(1)),
                    may(srq::create::EVENT_FD, Fd),
                    need(srq::create::RESP_MAX_WR, Out(4)),
                    need(srq::create::RESP_MAX_SGE, Out(4)),
                    may(srq::create::RESP_SRQ_NUM, Out(4)),
                ]
            },
            create_srq,
        ),
        (obj::SRQ, srq::DESTROY) if srq => method(
            const {
                &[
                    need(srq::destroy::HANDLE, Object(Kind::Srq)),
                    need(srq::destroy::RESP, Out(4)),
                ]
            },
            destroy_srq,
        ),
        (obj::AH, uverbs::ah::DESTROY) if !hbl => method(
            const { &[need(uverbs::ah::destroy::HANDLE, Object(Kind::Ah))] },
            |f, b| destroy(f, b, Kind::Ah),
        ),
        (obj::MR, mr::DESTROY) => method(
            const { &[need(mr::destroy::HANDLE, Object(Kind::Mr))] },
            |f, b| destroy(f, b, Kind::Mr),
        ),
        (obj::MR, mr::QUERY) => method(
            const {
                &[
                    need(mr::query::HANDLE, Object(Kind::Mr)),
                    need(mr::query::RESP_LKEY, Out(4)),
                    need(mr::query::RESP_RKEY, Out(4)),
                    need(mr::query::RESP_LENGTH, Out(8)),
                    may(mr::query::RESP_IOVA, Out(8)),
                ]
            },
            query_mr,
        ),
        (obj::MW, uverbs::mw::DESTROY) if !hbl => method(
            const { &[need(uverbs::mw::destroy::HANDLE, Object(Kind::Mw))] },
            |f, b| destroy(f, b, Kind::Mw),
        ),
        (obj::ASYNC_EVENT, async_event::ALLOC) => method(
            const { &[need(async_event::alloc::FD_HANDLE, New)] },
            alloc_async_fd,
        ),
        (hbl::obj::USR_FIFO, hbl::usr_fifo::CREATE) if hbl => method(
            const {
                &[
                    need(hbl::usr_fifo::create::IN, In(16)),
                    need(hbl::usr_fifo::create::OUT, Out(1)),
                    need(hbl::usr_fifo::create::HANDLE, New),
                ]
            },
            create_usr_fifo,
        ),
        (hbl::obj::USR_FIFO, hbl::usr_fifo::DESTROY) if hbl => method(
            const { &[need(hbl::usr_fifo::destroy::HANDLE, Object(Kind::UsrFifo))] },
            |f, b| destroy_at(f, b, hbl::usr_fifo::destroy::HANDLE, Kind::UsrFifo),
        ),
        (hbl::obj::SET_PORT_EX, hbl::set_port_ex::SET_PORT_EX) if hbl => method(
            const { &[need(hbl::set_port_ex::IN, In(1))] },
            |file, bundle| {
                file.need_context()?;
                file.driver
                    .set_port_ex(&bundle.value(hbl::set_port_ex::IN)?)?;
                Ok(Made::default())
            },
        ),
        (hbl::obj::QUERY_PORT, hbl::query_port::QUERY_PORT) if hbl => method(
            const {
                &[
                    need(hbl::query_port::IN, In(4)),
                    need(hbl::query_port::OUT, Out(1)),
                ]
            },
            |file, bundle| {
                file.need_context()?;
                let request: hbl::QueryPortIn = bundle.value(hbl::query_port::IN)?;
                let answer = file.driver.hbl_query_port(request.port_num)?;
                bundle.put(hbl::query_port::OUT, answer.as_bytes())?;
                Ok(Made::default())
            },
        ),
        (hbl::obj::ENCAP, hbl::encap::CREATE) if hbl => method(
            const {
                &[
                    need(hbl::encap::create::IN, In(16)),
                    need(hbl::encap::create::OUT, Out(1)),
                    need(hbl::encap::create::HANDLE, New),
                ]
            },
            create_encap,
        ),
        (hbl::obj::ENCAP, hbl::encap::DESTROY) if hbl => method(
            const { &[need(hbl::encap::destroy::HANDLE, Object(Kind::Encap))] },
            |f, b| destroy_at(f, b, hbl::encap::destroy::HANDLE, Kind::Encap),
        ),
        _ => return None,
    })
}

const CONTEXT_SPECS: &[Spec] = &[
    may(device::get_context::NUM_COMP_VECTORS, Out(4)),
    may(device::get_context::CORE_SUPPORT, Out(8)),
];

/// The ioctl with its argument at `address`.
pub(crate) fn ioctl(file: &VerbsFile, address: u64) -> Result<()> {
    let header = read_header(address)?;
    let mut state = file.lock();
    let method = find(&state, header.object_id, header.method_id).ok_or(EPROTONOSUPPORT)?;
    let mut bundle = Bundle::read(address, header.num_attrs, method.specs, method.has_udata)?;
    // The kernel looks objects up while it reads the attributes, before the method sees any of them.
    for spec in method.specs {
        if let (Object(kind), Some(handle)) = (spec.kind, bundle.handle(spec.id)) {
            state.objects.get(kind, handle, ENOENT)?;
        }
    }
    let made = (method.handler)(&mut state, &mut bundle)?;
    let number = match (&made.object, &made.fd) {
        (Some((id, _, handle)), _) => Some((*id, u64::from(*handle))),
        (None, Some((id, fd))) => Some((*id, fd.number() as u64)),
        (None, None) => None,
    };
    if let Err(e) = bundle.finish(number) {
        if let Some((_, kind, handle)) = made.object {
            state.undo(kind, handle);
        }
        return Err(e);
    }
    if let Some((_, fd)) = made.fd {
        fd.commit();
    }
    Ok(())
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

fn destroy(file: &mut FileState, bundle: &mut Bundle, kind: Kind) -> Result<Made> {
    destroy_at(file, bundle, 0, kind)
}

fn destroy_at(file: &mut FileState, bundle: &mut Bundle, id: u16, kind: Kind) -> Result<Made> {
    file.need_context()?;
    file.destroy(kind, bundle.handle(id).ok_or(Errno::EINVAL)?, ENOENT)?;
    Ok(Made::default())
}

fn invoke_write(file: &mut FileState, bundle: &mut Bundle) -> Result<Made> {
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

fn info_handles(file: &mut FileState, bundle: &mut Bundle) -> Result<Made> {
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

fn query_port(file: &mut FileState, bundle: &mut Bundle) -> Result<Made> {
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

fn get_context(file: &mut FileState, bundle: &mut Bundle) -> Result<Made> {
    context_answer(file, bundle)?;
    file.get_context(&bundle.udata()?)?;
    Ok(Made::default())
}

fn query_context(file: &mut FileState, bundle: &mut Bundle) -> Result<Made> {
    file.need_context()?;
    context_answer(file, bundle)?;
    Ok(Made::default())
}

fn query_gid_table(file: &mut FileState, bundle: &mut Bundle) -> Result<Made> {
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

fn query_gid_entry(file: &mut FileState, bundle: &mut Bundle) -> Result<Made> {
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

fn create_cq(file: &mut FileState, bundle: &mut Bundle) -> Result<Made> {
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

fn destroy_cq(file: &mut FileState, bundle: &mut Bundle) -> Result<Made> {
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

fn create_qp(file: &mut FileState, bundle: &mut Bundle) -> Result<Made> {
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

fn destroy_qp(file: &mut FileState, bundle: &mut Bundle) -> Result<Made> {
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

fn create_srq(file: &mut FileState, bundle: &mut Bundle) -> Result<Made> {
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

fn destroy_srq(file: &mut FileState, bundle: &mut Bundle) -> Result<Made> {
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

fn query_mr(file: &mut FileState, bundle: &mut Bundle) -> Result<Made> {
    file.need_context()?;
    let handle = bundle.handle(mr::query::HANDLE).ok_or(Errno::EINVAL)?;
    let ((lkey, rkey), length, iova) = file.driver.query_mr(handle)?;
    bundle.put(mr::query::RESP_LKEY, &lkey.to_ne_bytes())?;
    bundle.put(mr::query::RESP_RKEY, &rkey.to_ne_bytes())?;
    bundle.put(mr::query::RESP_LENGTH, &length.to_ne_bytes())?;
    bundle.put(mr::query::RESP_IOVA, &iova.to_ne_bytes())?;
    Ok(Made::default())
}

fn alloc_async_fd(file: &mut FileState, _bundle: &mut Bundle) -> Result<Made> {
    file.need_context()?;
    let fd = file.new_fd(ChannelKind::Async)?;
    Ok(Made {
        object: None,
        fd: Some((async_event::alloc::FD_HANDLE, fd)),
    })
}

fn create_usr_fifo(file: &mut FileState, bundle: &mut Bundle) -> Result<Made> {
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

fn create_encap(file: &mut FileState, bundle: &mut Bundle) -> Result<Made> {
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
