//! The hbl driver's own user space: contexts, CQs, QPs.
#![allow(dead_code, unreachable_pub)]

use super::common::*;
use kernel_abi::cmd::{self, *};
use kernel_abi::ext::AllocUcontextRespExt;
use kernel_abi::hbl;
use kernel_abi::uverbs::{UHW_IN, UHW_OUT, device, obj};
use kernel_abi::verbs::{qp_attr, qps};
use zerocopy::IntoBytes;

pub fn accel() -> Dev {
    set_up(|_| ());
    Dev::open("/dev/accel/accel0").unwrap()
}

pub fn get_context(
    dev: &Dev,
    request: &hbl::AllocUcontextReq,
    room: usize,
) -> Res<AllocUcontextRespExt> {
    let mut answer = AllocUcontextRespExt::default();
    let mut attrs = [
        input(UHW_IN, request.as_bytes()),
        output(UHW_OUT, &mut answer.as_mut_bytes()[..room]),
    ];
    dev.native(obj::DEVICE, device::GET_CONTEXT, &mut attrs)
        .map(|()| answer)
}

pub fn request(accel: &Dev) -> hbl::AllocUcontextReq {
    hbl::AllocUcontextReq {
        core_fd: accel.fd(),
        use_dvs: 1,
        ..Default::default()
    }
}

pub struct Pair {
    // Dropped in this order: the context before the compute device.
    pub dev: Dev,
    pub _accel: Dev,
    pub ext: AllocUcontextRespExt,
}

pub fn open_pair() -> Pair {
    let accel = accel();
    let dev = Dev::open("/dev/infiniband/uverbs0").unwrap();
    let ext = get_context(&dev, &request(&accel), 72).unwrap();
    Pair {
        dev,
        _accel: accel,
        ext,
    }
}

pub fn set_port(dev: &Dev, port_num: u32) -> Res<()> {
    let mut request = hbl::SetPortExIn {
        port_num,
        ..Default::default()
    };
    request.wq_arr_attr[0] = hbl::WqArrayAttr {
        max_num_of_wqs: 64,
        max_num_of_wqes_in_wq: 256,
        mem_id: hbl::mem_id::HOST,
        ..Default::default()
    };
    dev.native(
        hbl::obj::SET_PORT_EX,
        hbl::set_port_ex::SET_PORT_EX,
        &mut [input(hbl::set_port_ex::IN, request.as_bytes())],
    )
}

pub fn alloc_pd(dev: &Dev) -> Res<u32> {
    let mut pdn = [0; 8];
    let pd: AllocPdResp = dev.invoke(cmd::ALLOC_PD, &AllocPdReq::default(), (&[], &mut pdn))?;
    assert_eq!(pdn[0], 1);
    Ok(pd.pd_handle)
}

pub fn create_cq(
    dev: &Dev,
    cqe: u32,
    driver: hbl::CreateCqReq,
) -> Res<(CreateCqResp, Vec<hbl::CreateCqResp>)> {
    let mut answers = vec![hbl::CreateCqResp::default(); 4];
    let request = CreateCqReq {
        cqe,
        comp_channel: -1,
        user_handle: 0xc0,
        ..Default::default()
    };
    let made = dev.invoke(
        cmd::CREATE_CQ,
        &request,
        (driver.as_bytes(), answers.as_mut_bytes()),
    )?;
    Ok((made, answers))
}

pub const NATIVE: hbl::CreateCqReq = hbl::CreateCqReq {
    port_num: 0,
    cq_type: hbl::cq_type::QP,
    flags: hbl::cq_flag::NATIVE,
    reserved: [0; 2],
};

pub fn create_qp(dev: &Dev, pd: u32, cq: u32) -> CreateQpResp {
    let request = CreateQpReq {
        user_handle: 0xabcd,
        pd_handle: pd,
        send_cq_handle: cq,
        recv_cq_handle: cq,
        max_send_wr: 64,
        max_recv_wr: 64,
        qp_type: 2,
        ..Default::default()
    };
    dev.invoke(cmd::CREATE_QP, &request, (&[], &mut []))
        .unwrap()
}

pub fn modify(dev: &Dev, core: ModifyQpReq, driver: hbl::ModifyQpReq) -> Res<hbl::ModifyQpResp> {
    let mut answer = hbl::ModifyQpResp::default();
    let request = ExModifyQpReq {
        base: core,
        ..Default::default()
    };
    dev.invoke::<_, ExModifyQpResp>(
        cmd::EX_MODIFY_QP,
        &request,
        (driver.as_bytes(), answer.as_mut_bytes()),
    )?;
    Ok(answer)
}

pub fn init(qp_handle: u32, port: u8) -> ModifyQpReq {
    ModifyQpReq {
        qp_handle,
        attr_mask: qp_attr::STATE | qp_attr::PKEY_INDEX | qp_attr::PORT | qp_attr::ACCESS_FLAGS,
        qp_state: qps::INIT as u8,
        port_num: port,
        ..Default::default()
    }
}

pub fn rtr(qp_handle: u32, dest: u32) -> ModifyQpReq {
    let (dgid, _) = gaudi_softnic::port_gid(0, 1, 3).unwrap();
    ModifyQpReq {
        qp_handle,
        attr_mask: qp_attr::STATE
            | qp_attr::AV
            | qp_attr::PATH_MTU
            | qp_attr::DEST_QPN
            | qp_attr::RQ_PSN
            | qp_attr::MAX_DEST_RD_ATOMIC
            | qp_attr::MIN_RNR_TIMER,
        qp_state: qps::RTR as u8,
        path_mtu: 5,
        dest_qp_num: dest,
        dest: QpDest {
            dgid,
            sgid_index: 3,
            is_global: 1,
            port_num: 1,
            ..Default::default()
        },
        ..Default::default()
    }
}

pub fn rts(qp_handle: u32, timeout: u8) -> ModifyQpReq {
    ModifyQpReq {
        qp_handle,
        attr_mask: qp_attr::STATE
            | qp_attr::TIMEOUT
            | qp_attr::RETRY_CNT
            | qp_attr::RNR_RETRY
            | qp_attr::SQ_PSN
            | qp_attr::MAX_QP_RD_ATOMIC,
        qp_state: qps::RTS as u8,
        timeout,
        ..Default::default()
    }
}

pub fn to(qp_handle: u32, state: u32) -> ModifyQpReq {
    ModifyQpReq {
        qp_handle,
        attr_mask: qp_attr::STATE,
        qp_state: state as u8,
        ..Default::default()
    }
}

pub const WRITE: u8 = hbl::wq_type::WRITE;

pub fn driver() -> hbl::ModifyQpReq {
    hbl::ModifyQpReq {
        wq_type: WRITE,
        priority: 1,
        local_key: 5,
        remote_key: 5,
        ..Default::default()
    }
}

pub fn state(dev: &Dev, qp_handle: u32) -> (u32, u32) {
    let request = QueryQpReq {
        qp_handle,
        ..Default::default()
    };
    let got: QueryQpResp = dev.invoke(cmd::QUERY_QP, &request, (&[], &mut [])).unwrap();
    (got.qp_state.into(), got.dest_qp_num)
}
