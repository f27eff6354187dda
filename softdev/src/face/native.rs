//! The native ioctl: objects and methods with typed attributes, and INVOKE_WRITE among them.

use super::bundle::{Bundle, Spec, Type, may, need, read_header};
use super::file::{FileState, VerbsFile};
use super::methods::*;
use super::objects::{ENOENT, Kind};
use gaudi_softnic::{Errno, Result};
use kernel_abi::uverbs::{async_event, cq, device, mr, obj, qp, srq};
use kernel_abi::{hbl, uverbs};
use zerocopy::IntoBytes;

const EPROTONOSUPPORT: Errno = Errno(libc::EPROTONOSUPPORT);
use Type::{Fd, In, New, Object, Out};

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
