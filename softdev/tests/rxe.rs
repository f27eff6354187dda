//! The generic objects in each of the three dialects, on the rxe personality.

mod common;

use common::*;
use kernel_abi::cmd::{self, *};
use kernel_abi::uverbs::{QpCap, attr_flag, cq, device, obj, pd, qp};
use kernel_abi::verbs::qpt;
use softdev::face;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

fn open() -> Dev {
    set_up(|options| options.rxe = true);
    Dev::open("/dev/infiniband/uverbs0").unwrap()
}

fn context(dev: &Dev) {
    let mut vectors = [0; 4];
    let attrs = &mut [output(device::get_context::NUM_COMP_VECTORS, &mut vectors)];
    dev.native(obj::DEVICE, device::GET_CONTEXT, attrs).unwrap();
    assert_eq!(
        attrs[0].flags & attr_flag::VALID_OUTPUT,
        attr_flag::VALID_OUTPUT
    );
    assert_eq!(vectors, 1u32.to_ne_bytes());
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Dialect {
    Invoke,
    Write,
}

impl Dialect {
    fn call<Q: IntoBytes + zerocopy::Immutable, R: FromBytes + IntoBytes>(
        self,
        dev: &Dev,
        command: u32,
        request: &Q,
        out: &mut [u8],
    ) -> Res<R> {
        match self {
            Dialect::Invoke => dev.invoke(command, request, (&[], out)),
            Dialect::Write => dev.write(command, request, &[], out),
        }
    }
}

#[test]
fn commands_in_both_old_dialects() {
    for dialect in [Dialect::Invoke, Dialect::Write] {
        let dev = open();
        let got: GetContextResp = dialect
            .call(&dev, cmd::GET_CONTEXT, &GetContextReq::default(), &mut [])
            .unwrap();
        assert!(got.async_fd > 2 && got.num_comp_vectors == 1);
        let query = dialect.call::<_, QueryDeviceResp>(
            &dev,
            cmd::QUERY_DEVICE,
            &QueryDeviceReq::default(),
            &mut [],
        );
        assert_eq!(query.unwrap().phys_port_cnt, 2);
        let pd: AllocPdResp = dialect
            .call(&dev, cmd::ALLOC_PD, &AllocPdReq::default(), &mut [])
            .unwrap();
        let channel: CreateCompChannelResp = dialect
            .call(
                &dev,
                cmd::CREATE_COMP_CHANNEL,
                &CreateCompChannelReq::default(),
                &mut [],
            )
            .unwrap();
        let mut mminfo = [0; 16];
        let request = CreateCqReq {
            cqe: 10,
            comp_channel: channel.fd as i32,
            user_handle: 77,
            ..Default::default()
        };
        let cq: CreateCqResp = dialect
            .call(&dev, cmd::CREATE_CQ, &request, &mut mminfo)
            .unwrap();
        assert_eq!(cq.cqe, 15);
        let offset = u64::from_ne_bytes(mminfo[..8].try_into().unwrap());
        assert!(offset >= 4096 && offset % 4096 == 0, "{offset}");
        let bad = CreateCqReq {
            comp_channel: dev.fd(),
            ..request
        };
        assert_eq!(
            dialect
                .call::<_, CreateCqResp>(&dev, cmd::CREATE_CQ, &bad, &mut mminfo)
                .err(),
            Some(libc::EBADF)
        );
        let bad = CreateCqReq {
            comp_vector: 1,
            ..request
        };
        assert_eq!(
            dialect
                .call::<_, CreateCqResp>(&dev, cmd::CREATE_CQ, &bad, &mut mminfo)
                .err(),
            Some(libc::EINVAL)
        );

        let request = CreateQpReq {
            pd_handle: pd.pd_handle,
            send_cq_handle: cq.cq_handle,
            recv_cq_handle: cq.cq_handle,
            max_send_wr: 4,
            max_recv_wr: 4,
            max_send_sge: 1,
            max_recv_sge: 1,
            qp_type: qpt::RC as u8,
            ..Default::default()
        };
        let qp: CreateQpResp = dialect
            .call(&dev, cmd::CREATE_QP, &request, &mut [0; 32])
            .unwrap();
        assert_eq!(qp.max_send_wr, 7);
        let destroy_cq = DestroyCqReq {
            cq_handle: cq.cq_handle,
            ..Default::default()
        };
        let busy = dialect.call::<_, DestroyCqResp>(&dev, cmd::DESTROY_CQ, &destroy_cq, &mut []);
        assert_eq!(busy.err(), Some(libc::EBUSY));
        let busy = dialect.call::<_, [u8; 0]>(
            &dev,
            cmd::DEALLOC_PD,
            &DeallocPdReq {
                pd_handle: pd.pd_handle,
            },
            &mut [],
        );
        assert_eq!(busy.err(), Some(libc::EBUSY));
        let destroy_qp = DestroyQpReq {
            qp_handle: qp.qp_handle,
            ..Default::default()
        };
        dialect
            .call::<_, DestroyQpResp>(&dev, cmd::DESTROY_QP, &destroy_qp, &mut [])
            .unwrap();
        let gone = dialect.call::<_, DestroyQpResp>(&dev, cmd::DESTROY_QP, &destroy_qp, &mut []);
        assert_eq!(gone.err(), Some(libc::ENOENT));
        dialect
            .call::<_, DestroyCqResp>(&dev, cmd::DESTROY_CQ, &destroy_cq, &mut [])
            .unwrap();
        dialect
            .call::<_, [u8; 0]>(
                &dev,
                cmd::DEALLOC_PD,
                &DeallocPdReq {
                    pd_handle: pd.pd_handle,
                },
                &mut [],
            )
            .unwrap();
        assert_eq!(face::objects(dev.fd()), Some(0));
        for fd in [got.async_fd, channel.fd] {
            close(fd as i32);
        }
    }
}

fn close(fd: i32) {
    use std::os::fd::FromRawFd;
    // SAFETY: a number that the device has just given to this test, which is its only owner.
    drop(Dev::adopt(unsafe { std::os::fd::OwnedFd::from_raw_fd(fd) }));
}

#[test]
fn the_probe_of_libibverbs() {
    let dev = open();
    let mut attrs = [input(
        device::invoke_write::WRITE_CMD,
        &cmd::QUERY_DEVICE.to_ne_bytes(),
    )];
    assert_eq!(
        dev.native(obj::DEVICE, device::INVOKE_WRITE, &mut attrs),
        Err(libc::ENOSPC)
    );
}

#[test]
fn errors_of_the_native_dialect() {
    let dev = open();
    // No context yet.
    let mut port = [0; 48];
    let mut attrs = [
        input(device::query_port::PORT_NUM, &[1]),
        output(device::query_port::RESP, &mut port),
    ];
    assert_eq!(
        dev.native(obj::DEVICE, device::QUERY_PORT, &mut attrs),
        Err(libc::EINVAL)
    );
    context(&dev);
    dev.native(obj::DEVICE, device::QUERY_PORT, &mut attrs)
        .unwrap();
    assert_eq!(port[26], 4);
    // A second context, unknown object and method, unknown mandatory and optional attributes, twice the same, too short.
    assert_eq!(
        dev.native(obj::DEVICE, device::GET_CONTEXT, &mut []),
        Err(libc::EINVAL)
    );
    assert_eq!(dev.native(99, 0, &mut []), Err(libc::EPROTONOSUPPORT));
    assert_eq!(
        dev.native(obj::DEVICE, 99, &mut []),
        Err(libc::EPROTONOSUPPORT)
    );
    assert_eq!(
        dev.native(kernel_abi::hbl::obj::USR_FIFO, 0x1000, &mut []),
        Err(libc::EPROTONOSUPPORT)
    );
    let mut with = attrs.to_vec();
    with.push(number(40, 0));
    assert_eq!(
        dev.native(obj::DEVICE, device::QUERY_PORT, &mut with),
        Err(libc::EPROTONOSUPPORT)
    );
    with[2].flags = 0;
    assert_eq!(
        dev.native(obj::DEVICE, device::QUERY_PORT, &mut with),
        Ok(())
    );
    with[2] = with[0];
    assert_eq!(
        dev.native(obj::DEVICE, device::QUERY_PORT, &mut with),
        Err(libc::EINVAL)
    );
    let mut short = attrs;
    short[1].len = 40;
    assert_eq!(
        dev.native(obj::DEVICE, device::QUERY_PORT, &mut short),
        Err(libc::EINVAL)
    );
    assert_eq!(
        dev.native(obj::DEVICE, device::QUERY_PORT, &mut attrs[..1]),
        Err(libc::EINVAL)
    );
    let mut bad = attrs;
    bad[1].data = 8;
    assert_eq!(
        dev.native(obj::DEVICE, device::QUERY_PORT, &mut bad),
        Err(libc::EFAULT)
    );
    // Handles that are not there or of another kind.
    assert_eq!(
        dev.native(obj::PD, pd::DESTROY, &mut [number(pd::destroy::HANDLE, 5)]),
        Err(libc::ENOENT)
    );
    // GIDs: outside the table, an empty slot, one that exists.
    let mut entry = [0; 32];
    for (index, expected) in [
        (13u32, Err(libc::EINVAL)),
        (12, Err(libc::ENODATA)),
        (3, Ok(())),
    ] {
        let mut attrs = [
            input(device::query_gid_entry::PORT, &2u32.to_ne_bytes()),
            input(device::query_gid_entry::GID_INDEX, &index.to_ne_bytes()),
            output(device::query_gid_entry::RESP_ENTRY, &mut entry),
        ];
        assert_eq!(
            dev.native(obj::DEVICE, device::QUERY_GID_ENTRY, &mut attrs),
            expected,
            "{index}"
        );
    }
    let mut table = vec![0; 32 * 8];
    let mut count = [0; 8];
    for (room, expected) in [(7, Err(libc::EINVAL)), (8, Ok(()))] {
        let mut attrs = [
            input(device::query_gid_table::ENTRY_SIZE, &32u64.to_ne_bytes()),
            output(
                device::query_gid_table::RESP_ENTRIES,
                &mut table[..32 * room],
            ),
            output(device::query_gid_table::RESP_NUM_ENTRIES, &mut count),
        ];
        assert_eq!(
            dev.native(obj::DEVICE, device::QUERY_GID_TABLE, &mut attrs),
            expected,
            "{room}"
        );
    }
    assert_eq!(u64::from_ne_bytes(count), 8);
}

#[test]
fn native_objects_and_a_bad_answer_buffer() {
    let dev = open();
    context(&dev);
    let pd: AllocPdResp = dev
        .invoke(cmd::ALLOC_PD, &AllocPdReq::default(), (&[], &mut []))
        .unwrap();
    let mut cqe = [0; 4];
    let mut attrs = [
        number(cq::create::HANDLE, 0),
        input(cq::create::CQE, &5u32.to_ne_bytes()),
        input(cq::create::USER_HANDLE, &1u64.to_ne_bytes()),
        input(cq::create::COMP_VECTOR, &0u32.to_ne_bytes()),
        output(cq::create::RESP_CQE, &mut cqe),
    ];
    dev.native(obj::CQ, cq::CREATE, &mut attrs).unwrap();
    let cq_handle = attrs[0].data;
    assert_eq!(u32::from_ne_bytes(cqe), 7);
    let before = face::objects(dev.fd());
    attrs[4].data = 0x10;
    assert_eq!(
        dev.native(obj::CQ, cq::CREATE, &mut attrs),
        Err(libc::EFAULT)
    );
    assert_eq!(
        face::objects(dev.fd()),
        before,
        "the CQ that nobody heard of is gone"
    );
    let cap = QpCap {
        max_send_wr: 1,
        max_recv_wr: 1,
        max_send_sge: 1,
        max_recv_sge: 1,
        max_inline_data: 0,
    };
    let (mut cap_out, mut qpn) = (QpCap::new_zeroed(), [0; 4]);
    let mut attrs = [
        number(qp::create::HANDLE, 0),
        number(qp::create::PD_HANDLE, pd.pd_handle.into()),
        number(qp::create::SEND_CQ_HANDLE, cq_handle),
        number(qp::create::RECV_CQ_HANDLE, cq_handle),
        input(qp::create::USER_HANDLE, &2u64.to_ne_bytes()),
        input(qp::create::CAP, cap.as_bytes()),
        input(qp::create::TYPE, &u64::from(qpt::UD).to_ne_bytes()),
        output(qp::create::RESP_CAP, cap_out.as_mut_bytes()),
        output(qp::create::RESP_QP_NUM, &mut qpn),
    ];
    dev.native(obj::QP, qp::CREATE, &mut attrs).unwrap();
    assert_eq!(cap_out.max_send_sge, 1);
    let qp_handle = attrs[0].data;
    attrs[1].data = cq_handle;
    assert_eq!(
        dev.native(obj::QP, qp::CREATE, &mut attrs),
        Err(libc::EINVAL),
        "a CQ is no PD"
    );
    let mut reported = [0; 8];
    let mut destroy = [
        number(cq::destroy::HANDLE, cq_handle),
        output(cq::destroy::RESP, &mut reported),
    ];
    assert_eq!(
        dev.native(obj::CQ, cq::DESTROY, &mut destroy),
        Err(libc::EBUSY)
    );
    let mut qp_destroy = [
        number(qp::destroy::HANDLE, qp_handle),
        output(qp::destroy::RESP, &mut reported[..4]),
    ];
    dev.native(obj::QP, qp::DESTROY, &mut qp_destroy).unwrap();
    dev.native(obj::CQ, cq::DESTROY, &mut destroy).unwrap();
}
