//! The command family: what write(2) and INVOKE_WRITE carry.

use super::channel::ChannelKind;
use super::driver::{CqInit, MrInit, QpInit, SrqInit, Udata, prefix};
use super::file::FileState;
use super::objects::{EINVAL, ENOENT, Kind};
use super::usermem::UserOut;
use gaudi_softnic::{Errno, Result};
use kernel_abi::cmd::{self, *};
use kernel_abi::uverbs::QpCap;
use kernel_abi::verbs::{qp_attr, srq_type};
use zerocopy::{Immutable, IntoBytes};

/// One command, taken apart.
#[derive(Debug, Default)]
pub(crate) struct Call {
    pub(crate) core_in: Vec<u8>,
    pub(crate) core_out: UserOut,
    pub(crate) udata: Udata,
}

impl Call {
    fn request<T: zerocopy::FromBytes + IntoBytes>(&self) -> T {
        prefix(&self.core_in)
    }

    fn respond<T: IntoBytes + Immutable>(&self, answer: &T) -> Result<()> {
        self.core_out.put(answer.as_bytes())
    }
}

/// Least bytes of the core's request and response, and whether driver data may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) request: usize,
    pub(crate) response: usize,
    /// The request begins with the address of the response (old family only).
    pub(crate) has_response: bool,
    pub(crate) has_udata: bool,
}

const fn shape<Q, R>(has_udata: bool) -> Shape {
    Shape {
        request: size_of::<Q>(),
        response: size_of::<R>(),
        has_response: size_of::<R>() > 0,
        has_udata,
    }
}

const fn at_least(request: usize, response: usize) -> Shape {
    Shape {
        request,
        response,
        has_response: false,
        has_udata: true,
    }
}

/// EINVAL for bits that are no command at all, EOPNOTSUPP for commands that are not known.
pub(crate) fn shape_of(command: u32) -> Result<Shape> {
    if command & !(cmd::EXTENDED | cmd::COMMAND_MASK) != 0 {
        return Err(Errno::EINVAL);
    }
    Ok(match command {
        cmd::GET_CONTEXT => shape::<GetContextReq, GetContextResp>(true),
        cmd::QUERY_DEVICE => shape::<QueryDeviceReq, QueryDeviceResp>(false),
        cmd::QUERY_PORT => shape::<QueryPortReq, QueryPortResp>(false),
        cmd::ALLOC_PD => shape::<AllocPdReq, AllocPdResp>(true),
        cmd::DEALLOC_PD => shape::<DeallocPdReq, ()>(false),
        cmd::CREATE_AH => shape::<CreateAhReq, CreateAhResp>(true),
        cmd::DESTROY_AH => shape::<DestroyAhReq, ()>(false),
        cmd::REG_MR => shape::<RegMrReq, RegMrResp>(true),
        cmd::REREG_MR => shape::<ReregMrReq, ReregMrResp>(true),
        cmd::DEREG_MR => shape::<DeregMrReq, ()>(false),
        cmd::ALLOC_MW => shape::<AllocMwReq, AllocMwResp>(true),
        cmd::DEALLOC_MW => shape::<DeallocMwReq, ()>(false),
        cmd::CREATE_COMP_CHANNEL => shape::<CreateCompChannelReq, CreateCompChannelResp>(false),
        cmd::CREATE_CQ => shape::<CreateCqReq, CreateCqResp>(true),
        cmd::RESIZE_CQ => shape::<ResizeCqReq, ResizeCqResp>(true),
        cmd::DESTROY_CQ => shape::<DestroyCqReq, DestroyCqResp>(false),
        cmd::POLL_CQ => shape::<PollCqReq, PollCqResp>(false),
        cmd::REQ_NOTIFY_CQ => shape::<ReqNotifyCqReq, ()>(false),
        cmd::CREATE_QP => shape::<CreateQpReq, CreateQpResp>(true),
        cmd::OPEN_QP => shape::<OpenQpReq, CreateQpResp>(true),
        cmd::QUERY_QP => shape::<QueryQpReq, QueryQpResp>(false),
        cmd::MODIFY_QP => shape::<ModifyQpReq, ()>(true),
        cmd::DESTROY_QP => shape::<DestroyQpReq, DestroyQpResp>(false),
        cmd::POST_SEND => shape::<PostSendReq, PostSendResp>(false),
        cmd::POST_RECV => shape::<PostRecvReq, PostRecvResp>(false),
        cmd::ATTACH_MCAST | cmd::DETACH_MCAST => shape::<McastReq, ()>(false),
        cmd::CREATE_SRQ => shape::<CreateSrqReq, CreateSrqResp>(true),
        cmd::CREATE_XSRQ => shape::<CreateXsrqReq, CreateSrqResp>(true),
        cmd::MODIFY_SRQ => shape::<ModifySrqReq, ()>(true),
        cmd::QUERY_SRQ => shape::<QuerySrqReq, QuerySrqResp>(false),
        cmd::DESTROY_SRQ => shape::<DestroySrqReq, DestroySrqResp>(false),
        cmd::POST_SRQ_RECV => shape::<PostSrqRecvReq, PostSrqRecvResp>(false),
        cmd::OPEN_XRCD => shape::<OpenXrcdReq, OpenXrcdResp>(true),
        cmd::CLOSE_XRCD => shape::<CloseXrcdReq, ()>(false),
        // Of extended structs a program may know fewer fields: up to here they have always been there.
        cmd::EX_QUERY_DEVICE => at_least(size_of::<ExQueryDeviceReq>(), 184),
        cmd::EX_CREATE_CQ => at_least(size_of::<ExCreateCqReq>(), size_of::<ExCreateCqResp>()),
        cmd::EX_CREATE_QP => at_least(52, size_of::<ExCreateQpResp>()),
        cmd::EX_MODIFY_QP => at_least(size_of::<ModifyQpReq>(), size_of::<ExModifyQpResp>()),
        cmd::EX_MODIFY_CQ => at_least(size_of::<ExModifyCqReq>(), 0),
        _ => return Err(Errno::EOPNOTSUPP),
    })
}

pub(crate) fn run(file: &mut FileState, command: u32, call: &Call) -> Result<()> {
    if command == cmd::GET_CONTEXT {
        return get_context(file, call);
    }
    file.need_context()?;
    match command {
        cmd::QUERY_DEVICE => call.respond(&file.driver.query_device(&Udata::default())?.base),
        cmd::EX_QUERY_DEVICE => ex_query_device(file, call),
        cmd::QUERY_PORT => {
            let request: QueryPortReq = call.request();
            call.respond(&file.driver.query_port(request.port_num.into())?)
        }
        cmd::ALLOC_PD => {
            let pd_handle = file.alloc_pd(&call.udata)?;
            told(
                file,
                Kind::Pd,
                pd_handle,
                call.respond(&AllocPdResp { pd_handle }),
            )
        }
        cmd::DEALLOC_PD => gone(file, Kind::Pd, call.request::<DeallocPdReq>().pd_handle),
        cmd::CREATE_AH => {
            let request: CreateAhReq = call.request();
            let ah_handle = file.create_ah(
                request.pd_handle,
                request.user_handle,
                &request.attr,
                &call.udata,
            )?;
            told(
                file,
                Kind::Ah,
                ah_handle,
                call.respond(&CreateAhResp { ah_handle }),
            )
        }
        cmd::DESTROY_AH => gone(file, Kind::Ah, call.request::<DestroyAhReq>().ah_handle),
        cmd::REG_MR => reg_mr(file, call),
        cmd::REREG_MR => {
            let (lkey, rkey) = file.rereg_mr(&call.request())?;
            call.respond(&ReregMrResp { lkey, rkey })
        }
        cmd::DEREG_MR => gone(file, Kind::Mr, call.request::<DeregMrReq>().mr_handle),
        cmd::ALLOC_MW => {
            let request: AllocMwReq = call.request();
            let (mw_handle, rkey) = file.alloc_mw(request.pd_handle, request.mw_type)?;
            told(
                file,
                Kind::Mw,
                mw_handle,
                call.respond(&AllocMwResp { mw_handle, rkey }),
            )
        }
        cmd::DEALLOC_MW => gone(file, Kind::Mw, call.request::<DeallocMwReq>().mw_handle),
        cmd::CREATE_COMP_CHANNEL => {
            let fd = file.new_fd(ChannelKind::Completion)?;
            call.respond(&CreateCompChannelResp {
                fd: fd.number() as u32,
            })?;
            fd.commit();
            Ok(())
        }
        cmd::CREATE_CQ => create_cq(file, call),
        cmd::EX_CREATE_CQ => ex_create_cq(file, call),
        cmd::RESIZE_CQ => {
            let request: ResizeCqReq = call.request();
            file.objects.get(Kind::Cq, request.cq_handle, EINVAL)?;
            let cqe = file
                .driver
                .resize_cq(request.cq_handle, request.cqe, &call.udata)?;
            call.respond(&ResizeCqResp { cqe, reserved: 0 })
        }
        cmd::DESTROY_CQ => {
            let reported =
                file.destroy(Kind::Cq, call.request::<DestroyCqReq>().cq_handle, ENOENT)?;
            call.respond(&DestroyCqResp {
                comp_events_reported: reported.completion,
                async_events_reported: reported.asynchronous,
            })
        }
        cmd::REQ_NOTIFY_CQ => {
            let request: ReqNotifyCqReq = call.request();
            file.objects.get(Kind::Cq, request.cq_handle, EINVAL)?;
            posted(file)
        }
        cmd::CREATE_QP => create_qp(file, call),
        cmd::EX_CREATE_QP => ex_create_qp(file, call),
        cmd::QUERY_QP => {
            let request: QueryQpReq = call.request();
            file.objects.get(Kind::Qp, request.qp_handle, EINVAL)?;
            call.respond(&file.driver.query_qp(request.qp_handle)?)
        }
        cmd::MODIFY_QP => file.modify_qp(&call.request(), qp_attr::STANDARD, &call.udata),
        cmd::EX_MODIFY_QP => ex_modify_qp(file, call),
        cmd::DESTROY_QP => {
            let reported =
                file.destroy(Kind::Qp, call.request::<DestroyQpReq>().qp_handle, ENOENT)?;
            call.respond(&DestroyQpResp {
                events_reported: reported.asynchronous,
            })
        }
        cmd::POST_SEND => {
            file.objects
                .get(Kind::Qp, call.request::<PostSendReq>().qp_handle, EINVAL)?;
            posted(file)?;
            call.respond(&PostSendResp { bad_wr: 0 })
        }
        cmd::ATTACH_MCAST | cmd::DETACH_MCAST => {
            let request: McastReq = call.request();
            file.objects.get(Kind::Qp, request.qp_handle, EINVAL)?;
            if command == cmd::ATTACH_MCAST {
                file.driver.attach_mcast(request.qp_handle, request.gid)
            } else {
                file.driver.detach_mcast(request.qp_handle, request.gid)
            }
        }
        cmd::CREATE_SRQ | cmd::CREATE_XSRQ => create_srq(file, command, call),
        cmd::MODIFY_SRQ => {
            let request: ModifySrqReq = call.request();
            file.objects.get(Kind::Srq, request.srq_handle, EINVAL)?;
            let (handle, mask) = (request.srq_handle, request.attr_mask);
            file.driver
                .modify_srq(handle, mask, request.max_wr, request.srq_limit, &call.udata)
        }
        cmd::QUERY_SRQ => {
            let request: QuerySrqReq = call.request();
            file.objects.get(Kind::Srq, request.srq_handle, EINVAL)?;
            let (max_wr, max_sge, srq_limit) = file.driver.query_srq(request.srq_handle)?;
            call.respond(&QuerySrqResp {
                max_wr,
                max_sge,
                srq_limit,
                reserved: 0,
            })
        }
        cmd::DESTROY_SRQ => {
            let reported = file.destroy(
                Kind::Srq,
                call.request::<DestroySrqReq>().srq_handle,
                ENOENT,
            )?;
            call.respond(&DestroySrqResp {
                events_reported: reported.asynchronous,
            })
        }
        // Known, but no driver here offers them: XRC, polling and posting receives by the kernel, moderation.
        _ => Err(Errno::EOPNOTSUPP),
    }
}

/// A new object stays only if its number has reached the program.
fn told(file: &mut FileState, kind: Kind, handle: u32, response: Result<()>) -> Result<()> {
    if response.is_err() {
        file.undo(kind, handle);
    }
    response
}

fn gone(file: &mut FileState, kind: Kind, handle: u32) -> Result<()> {
    file.destroy(kind, handle, ENOENT).map(|_| ())
}

/// Commands of a data path that the driver has nothing behind.
fn posted(file: &FileState) -> Result<()> {
    if file.driver.has_post() {
        Ok(())
    } else {
        Err(Errno::EOPNOTSUPP)
    }
}

fn get_context(file: &mut FileState, call: &Call) -> Result<()> {
    let fd = file.new_fd(ChannelKind::Async)?;
    let answer = GetContextResp {
        async_fd: fd.number() as u32,
        num_comp_vectors: file.driver.comp_vectors(),
    };
    // Before the driver's part, since a context cannot be taken back.
    call.respond(&answer)?;
    file.get_context(&call.udata)?;
    fd.commit();
    Ok(())
}

fn ex_query_device(file: &mut FileState, call: &Call) -> Result<()> {
    let request: ExQueryDeviceReq = call.request();
    if request.comp_mask != 0 || request.reserved != 0 {
        return Err(Errno::EINVAL);
    }
    let mut answer = file.driver.query_device(&call.udata)?;
    answer.response_length = size_of::<ExQueryDeviceResp>().min(call.core_out.len) as u32;
    call.respond(&answer)
}

fn reg_mr(file: &mut FileState, call: &Call) -> Result<()> {
    let request: RegMrReq = call.request();
    let init = MrInit {
        start: request.start,
        length: request.length,
        hca_va: request.hca_va,
        access: request.access_flags,
    };
    let (mr_handle, (lkey, rkey)) = file.reg_mr(request.pd_handle, &init)?;
    told(
        file,
        Kind::Mr,
        mr_handle,
        call.respond(&RegMrResp {
            mr_handle,
            lkey,
            rkey,
        }),
    )
}

fn create_cq(file: &mut FileState, call: &Call) -> Result<()> {
    let request: CreateCqReq = call.request();
    let init = CqInit {
        cqe: request.cqe,
        flags: 0,
        user_handle: request.user_handle,
    };
    let channel = (request.comp_channel >= 0).then_some(request.comp_channel);
    let (cq_handle, cqe) =
        file.create_cq(&init, request.comp_vector, channel, None, &call.udata)?;
    told(
        file,
        Kind::Cq,
        cq_handle,
        call.respond(&CreateCqResp { cq_handle, cqe }),
    )
}

fn ex_create_cq(file: &mut FileState, call: &Call) -> Result<()> {
    let request: ExCreateCqReq = call.request();
    if request.comp_mask != 0 || request.reserved != 0 {
        return Err(Errno::EINVAL);
    }
    let init = CqInit {
        cqe: request.cqe,
        flags: request.flags,
        user_handle: request.user_handle,
    };
    let channel = (request.comp_channel >= 0).then_some(request.comp_channel);
    let (cq_handle, cqe) =
        file.create_cq(&init, request.comp_vector, channel, None, &call.udata)?;
    let answer = ExCreateCqResp {
        base: CreateCqResp { cq_handle, cqe },
        comp_mask: 0,
        response_length: size_of::<ExCreateCqResp>() as u32,
    };
    told(file, Kind::Cq, cq_handle, call.respond(&answer))
}

fn qp_response(qp_handle: u32, qpn: u32, cap: &QpCap) -> CreateQpResp {
    CreateQpResp {
        qp_handle,
        qpn,
        max_send_wr: cap.max_send_wr,
        max_recv_wr: cap.max_recv_wr,
        max_send_sge: cap.max_send_sge,
        max_recv_sge: cap.max_recv_sge,
        max_inline_data: cap.max_inline_data,
        reserved: 0,
    }
}

fn create_qp(file: &mut FileState, call: &Call) -> Result<()> {
    let r: CreateQpReq = call.request();
    let init = QpInit {
        qp_type: r.qp_type.into(),
        cap: QpCap {
            max_send_wr: r.max_send_wr,
            max_recv_wr: r.max_recv_wr,
            max_send_sge: r.max_send_sge,
            max_recv_sge: r.max_recv_sge,
            max_inline_data: r.max_inline_data,
        },
        send_cq: Some(r.send_cq_handle),
        recv_cq: Some(r.recv_cq_handle),
        srq: (r.is_srq != 0).then_some(r.srq_handle),
        sq_sig_all: r.sq_sig_all != 0,
        create_flags: 0,
        user_handle: r.user_handle,
    };
    let (handle, (qpn, cap)) = file.create_qp(&init, r.pd_handle, None, EINVAL, &call.udata)?;
    told(
        file,
        Kind::Qp,
        handle,
        call.respond(&qp_response(handle, qpn, &cap)),
    )
}

fn ex_create_qp(file: &mut FileState, call: &Call) -> Result<()> {
    let r: ExCreateQpReq = call.request();
    if r.comp_mask & !CREATE_QP_MASK_IND_TABLE != 0 {
        return Err(Errno::EINVAL);
    }
    if r.comp_mask != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let init = QpInit {
        qp_type: r.qp_type.into(),
        cap: QpCap {
            max_send_wr: r.max_send_wr,
            max_recv_wr: r.max_recv_wr,
            max_send_sge: r.max_send_sge,
            max_recv_sge: r.max_recv_sge,
            max_inline_data: r.max_inline_data,
        },
        send_cq: Some(r.send_cq_handle),
        recv_cq: Some(r.recv_cq_handle),
        srq: (r.is_srq != 0).then_some(r.srq_handle),
        sq_sig_all: r.sq_sig_all != 0,
        create_flags: r.create_flags,
        user_handle: r.user_handle,
    };
    let (handle, (qpn, cap)) = file.create_qp(&init, r.pd_handle, None, EINVAL, &call.udata)?;
    let answer = ExCreateQpResp {
        base: qp_response(handle, qpn, &cap),
        comp_mask: 0,
        response_length: size_of::<ExCreateQpResp>() as u32,
    };
    told(file, Kind::Qp, handle, call.respond(&answer))
}

fn ex_modify_qp(file: &mut FileState, call: &Call) -> Result<()> {
    let request: ExModifyQpReq = call.request();
    file.modify_qp(
        &request.base,
        qp_attr::STANDARD | qp_attr::RATE_LIMIT,
        &call.udata,
    )?;
    let response_length = size_of::<ExModifyQpResp>() as u32;
    call.respond(&ExModifyQpResp {
        comp_mask: 0,
        response_length,
    })
}

fn create_srq(file: &mut FileState, command: u32, call: &Call) -> Result<()> {
    let (init, pd, user_handle) = if command == cmd::CREATE_SRQ {
        let r: CreateSrqReq = call.request();
        let init = SrqInit {
            max_wr: r.max_wr,
            max_sge: r.max_sge,
            limit: r.srq_limit,
            srq_type: srq_type::BASIC,
        };
        (init, r.pd_handle, r.user_handle)
    } else {
        let r: CreateXsrqReq = call.request();
        let init = SrqInit {
            max_wr: r.max_wr,
            max_sge: r.max_sge,
            limit: r.srq_limit,
            srq_type: r.srq_type,
        };
        (init, r.pd_handle, r.user_handle)
    };
    let (srq_handle, made) = file.create_srq(&init, pd, user_handle, None, EINVAL, &call.udata)?;
    let answer = CreateSrqResp {
        srq_handle,
        max_wr: made.max_wr,
        max_sge: made.max_sge,
        srqn: made.number,
    };
    told(file, Kind::Srq, srq_handle, call.respond(&answer))
}
