//! The hbl driver: its checks, errnos and objects, driven as its own user space would.

mod common;
#[path = "common/hbl.rs"]
mod driver_side;

use common::*;
use driver_side::*;
use kernel_abi::accel::{HwIpInfo, IOCTL_INFO, IOCTL_MEMORY, InfoArgs, MemArgs, info_op};
use kernel_abi::cmd::{self, *};
use kernel_abi::ext::cap;
use kernel_abi::hbl;
use kernel_abi::uverbs::{async_event, obj};
use kernel_abi::verbs::{qp_attr, qps};
use softdev::face;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use zerocopy::{FromZeros, IntoBytes};

#[test]
fn contexts() {
    let accel = accel();
    let dev = Dev::open("/dev/infiniband/uverbs0").unwrap();
    let good = request(&accel);
    let other = Dev::open("/dev/accel/accel1").unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    for (bad, errno) in [
        (
            hbl::AllocUcontextReq {
                ports_mask: 1,
                ..good
            },
            libc::EINVAL,
        ),
        (
            hbl::AllocUcontextReq {
                ports_mask: 8,
                ..good
            },
            libc::EINVAL,
        ),
        (
            hbl::AllocUcontextReq {
                core_fd: -1,
                ..good
            },
            libc::EBADF,
        ),
        (
            hbl::AllocUcontextReq {
                core_fd: 9999,
                ..good
            },
            libc::EBADF,
        ),
        (
            hbl::AllocUcontextReq {
                core_fd: null.as_raw_fd(),
                ..good
            },
            libc::EINVAL,
        ),
        (
            hbl::AllocUcontextReq {
                core_fd: other.fd(),
                ..good
            },
            libc::EINVAL,
        ),
    ] {
        assert_eq!(get_context(&dev, &bad, 72).unwrap_err(), errno, "{bad:?}");
    }
    // Only the posted part is asked for.
    let posted = get_context(&dev, &good, 16).unwrap();
    assert_eq!(
        (posted.ports_mask, posted.cap_mask & cap::ALL),
        (0b110, cap::ALL)
    );
    assert_eq!(posted.arena_size, 0);
    assert_eq!(get_context(&dev, &good, 72).unwrap_err(), libc::EINVAL);
    let second = Dev::open("/dev/infiniband/uverbs0").unwrap();
    assert_eq!(
        get_context(&second, &good, 72).unwrap_err(),
        libc::EBUSY,
        "one context per compute context"
    );
    let more = driver_side::accel();
    let ext = get_context(&second, &request(&more), 72).unwrap();
    assert!(ext.pv_table != 0 && ext.arena_size >= ext.arena_usable && ext.arena_handle != 0);
    // The compute device goes with its context.
    drop(dev);
    let third = Dev::open("/dev/infiniband/uverbs0").unwrap();
    get_context(&third, &good, 72).unwrap();
}

#[test]
fn queries() {
    let Pair { dev, _accel, .. } = open_pair();
    let got: QueryDeviceResp = dev
        .invoke(
            cmd::QUERY_DEVICE,
            &QueryDeviceReq::default(),
            (&[], &mut []),
        )
        .unwrap();
    assert_eq!(
        (got.vendor_id, got.vendor_part_id, got.max_pd, got.max_cqe),
        (0x1da3, 0x1020, 1, 8192)
    );
    let ex: Res<ExQueryDeviceResp> = dev.invoke(
        cmd::EX_QUERY_DEVICE,
        &ExQueryDeviceReq::default(),
        (&[1; 8], &mut []),
    );
    assert_eq!(ex.err(), Some(libc::EINVAL));
    let ex: ExQueryDeviceResp = dev
        .invoke(
            cmd::EX_QUERY_DEVICE,
            &ExQueryDeviceReq::default(),
            (&[], &mut []),
        )
        .unwrap();
    assert_eq!(ex.response_length, 304);
    let port: QueryPortResp = dev
        .invoke(
            cmd::QUERY_PORT,
            &QueryPortReq {
                port_num: 2,
                ..Default::default()
            },
            (&[], &mut []),
        )
        .unwrap();
    assert_eq!((port.state, port.gid_tbl_len, port.link_layer), (4, 13, 2));
    let mr = RegMrReq {
        start: 4096,
        hca_va: 4096,
        length: 10,
        ..Default::default()
    };
    let pd = alloc_pd(&dev).unwrap();
    assert_eq!(alloc_pd(&dev), Err(libc::ESRCH));
    let mr = RegMrReq {
        pd_handle: pd,
        ..mr
    };
    assert_eq!(
        dev.invoke::<_, RegMrResp>(cmd::REG_MR, &mr, (&[], &mut []))
            .err(),
        Some(libc::EOPNOTSUPP)
    );
    let srq = CreateSrqReq {
        pd_handle: pd,
        max_wr: 1,
        ..Default::default()
    };
    assert_eq!(
        dev.invoke::<_, CreateSrqResp>(cmd::CREATE_SRQ, &srq, (&[], &mut []))
            .err(),
        Some(libc::EOPNOTSUPP)
    );
}

#[test]
fn completion_queues() {
    let Pair { dev, _accel, .. } = open_pair();
    let on = |port_num| hbl::CreateCqReq {
        port_num,
        flags: 0,
        ..NATIVE
    };
    assert_eq!(create_cq(&dev, 16, on(3)).unwrap_err(), libc::EINVAL);
    assert_eq!(create_cq(&dev, 16, on(1)).unwrap_err(), libc::EPERM);
    set_port(&dev, 1).unwrap();
    assert_eq!(set_port(&dev, 1), Err(libc::EPERM));
    assert_eq!(set_port(&dev, 7), Err(libc::EINVAL));
    assert_eq!(
        create_cq(&dev, 16, NATIVE).unwrap_err(),
        libc::EPERM,
        "port 2 is not set up"
    );
    set_port(&dev, 2).unwrap();
    for (cqe, errno) in [(5, libc::EINVAL), (16384, libc::EINVAL)] {
        assert_eq!(create_cq(&dev, cqe, on(1)).unwrap_err(), errno, "{cqe}");
    }
    let odd = hbl::CreateCqReq {
        cq_type: 9,
        ..on(1)
    };
    assert_eq!(create_cq(&dev, 16, odd).unwrap_err(), libc::EINVAL);
    let (made, answers) = create_cq(&dev, 1, on(1)).unwrap();
    assert_eq!(made.cqe, 4);
    assert!(answers[0].mem_handle != 0 && answers[0].pi_handle != 0 && answers[0].regs_handle != 0);
    let (_, answers) = create_cq(&dev, 512, NATIVE).unwrap();
    assert_eq!(answers[0..2], [hbl::CreateCqResp::default(); 2]);
    assert_eq!((answers[2].cq_size, answers[3].cq_size), (8192, 8192));
    // Fourteen per port; one more on both leaves nothing behind.
    let mut handles = Vec::new();
    let errno = loop {
        match create_cq(&dev, 4, on(1)) {
            Ok((made, _)) => handles.push(made.cq_handle),
            Err(errno) => break errno,
        }
    };
    assert_eq!((errno, handles.len()), (libc::EBUSY, 12));
    let before = face::objects(dev.fd());
    assert_eq!(create_cq(&dev, 4, NATIVE).unwrap_err(), libc::EBUSY);
    assert_eq!(face::objects(dev.fd()), before);
    for cq_handle in handles {
        let request = DestroyCqReq {
            cq_handle,
            ..Default::default()
        };
        dev.invoke::<_, DestroyCqResp>(cmd::DESTROY_CQ, &request, (&[], &mut []))
            .unwrap();
    }
}

#[test]
fn queue_pairs() {
    let Pair { dev, _accel, ext } = open_pair();
    set_port(&dev, 1).unwrap();
    set_port(&dev, 2).unwrap();
    let pd = alloc_pd(&dev).unwrap();
    let (cq, _) = create_cq(&dev, 512, NATIVE).unwrap();
    let a = create_qp(&dev, pd, cq.cq_handle);
    let b = create_qp(&dev, pd, cq.cq_handle);
    assert_eq!((a.qpn, b.qpn), (0, 1));
    let (a, b) = (a.qp_handle, b.qp_handle);
    // The mask rules, the port and the queue type are checked before anything is allocated.
    assert_eq!(
        modify(
            &dev,
            ModifyQpReq {
                attr_mask: qp_attr::STATE,
                ..init(a, 1)
            },
            driver()
        )
        .err(),
        Some(libc::EINVAL)
    );
    assert_eq!(modify(&dev, init(a, 9), driver()).err(), Some(libc::EINVAL));
    let none = hbl::ModifyQpReq {
        wq_type: 0,
        ..driver()
    };
    assert_eq!(modify(&dev, init(a, 1), none).err(), Some(libc::EINVAL));
    let two = hbl::ModifyQpReq {
        wq_type: 3,
        ..driver()
    };
    assert_eq!(modify(&dev, init(a, 1), two).err(), Some(libc::EINVAL));
    assert_eq!(
        modify(&dev, rtr(a, 1), driver()).err(),
        Some(libc::EINVAL),
        "from RESET"
    );
    let native_a = modify(&dev, init(a, 1), driver()).unwrap();
    let native_b = modify(&dev, init(b, 1), driver()).unwrap();
    assert!(native_a.qp_num >= 1 && native_a.qp_num != native_b.qp_num);
    assert_ne!(native_a.reserved, 0, "a generation");
    // No GRH on RoCE, a GID slot that is empty.
    let plain = ModifyQpReq {
        dest: QpDest {
            is_global: 0,
            ..rtr(a, 1).dest
        },
        ..rtr(a, 1)
    };
    assert_eq!(modify(&dev, plain, driver()).err(), Some(libc::EINVAL));
    let empty = ModifyQpReq {
        dest: QpDest {
            sgid_index: 7,
            ..rtr(a, 1).dest
        },
        ..rtr(a, 1)
    };
    assert_eq!(modify(&dev, empty, driver()).err(), Some(libc::EINVAL));
    assert_eq!(state(&dev, a), (qps::INIT, 0));
    modify(&dev, rtr(a, native_b.qp_num), driver()).unwrap();
    modify(&dev, rtr(b, native_a.qp_num), driver()).unwrap();
    let rings = modify(&dev, rts(a, 14), driver()).unwrap();
    assert!(rings.swq_mem_handle != 0 && rings.rwq_mem_handle != 0);
    assert_eq!((rings.swq_mem_size, rings.rwq_mem_size), (4096, 4096));
    assert_eq!(state(&dev, a), (qps::RTS, native_b.qp_num));
    // SQD and ERR are accepted and do nothing.
    modify(&dev, to(a, qps::SQD), driver()).unwrap();
    modify(&dev, to(a, qps::ERR), driver()).unwrap();
    assert_eq!(state(&dev, a).0, qps::RTS);
    // A timeout that the hardware cannot keep: the QP ends in RESET.
    assert_eq!(modify(&dev, rts(b, 18), driver()).err(), Some(libc::EINVAL));
    assert_eq!(state(&dev, b), (qps::RESET, 0));
    // The number is kept over RESET on the same port, and so is its generation.
    assert!(ext.cap_mask & cap::QP_STOP_SYNC != 0);
    let again = modify(&dev, init(b, 1), driver()).unwrap();
    assert_eq!(
        (again.qp_num, again.reserved),
        (native_b.qp_num, native_b.reserved)
    );
    modify(&dev, to(b, qps::RESET), driver()).unwrap();
    modify(&dev, init(b, 2), driver()).unwrap();
    // Priorities, MTUs and ring sizes.
    for (core, odd) in [
        (
            rtr(b, 1),
            hbl::ModifyQpReq {
                priority: 0,
                ..driver()
            },
        ),
        (
            rtr(b, 1),
            hbl::ModifyQpReq {
                priority: 4,
                ..driver()
            },
        ),
        (
            ModifyQpReq {
                path_mtu: 2,
                ..rtr(b, 1)
            },
            driver(),
        ),
        (
            rtr(b, 1),
            hbl::ModifyQpReq {
                dest_wq_size: 100,
                ..driver()
            },
        ),
        (
            rtr(b, 1),
            hbl::ModifyQpReq {
                dest_wq_size: 64,
                ..driver()
            },
        ),
        (
            rtr(b, 1),
            hbl::ModifyQpReq {
                congestion_wnd: 1 << 24,
                ..driver()
            },
        ),
    ] {
        modify(&dev, init(b, 1), driver()).unwrap();
        modify(&dev, core, driver()).unwrap();
        assert_eq!(
            modify(&dev, rts(b, 14), odd).err(),
            Some(libc::EINVAL),
            "{odd:?}"
        );
        assert_eq!(state(&dev, b).0, qps::RESET);
    }
    let busy = DestroyCqReq {
        cq_handle: cq.cq_handle,
        ..Default::default()
    };
    assert_eq!(
        dev.invoke::<_, DestroyCqResp>(cmd::DESTROY_CQ, &busy, (&[], &mut []))
            .err(),
        Some(libc::EBUSY)
    );
    for qp_handle in [a, b] {
        let request = DestroyQpReq {
            qp_handle,
            ..Default::default()
        };
        dev.invoke::<_, DestroyQpResp>(cmd::DESTROY_QP, &request, (&[], &mut []))
            .unwrap();
    }
    dev.invoke::<_, DestroyCqResp>(cmd::DESTROY_CQ, &busy, (&[], &mut []))
        .unwrap();
    assert_eq!(face::objects(dev.fd()), Some(1));
}

#[test]
fn driver_objects() {
    let Pair { dev, _accel, .. } = open_pair();
    let fifo = |port_num, usr_fifo_num_hint, mode| {
        let request = hbl::CreateUsrFifoIn {
            port_num,
            usr_fifo_num_hint,
            mode,
            ..Default::default()
        };
        let mut answer = hbl::CreateUsrFifoOut::default();
        let mut attrs = [
            input(hbl::usr_fifo::create::IN, request.as_bytes()),
            output(hbl::usr_fifo::create::OUT, answer.as_mut_bytes()),
            number(hbl::usr_fifo::create::HANDLE, 0),
        ];
        dev.native(hbl::obj::USR_FIFO, hbl::usr_fifo::CREATE, &mut attrs)
            .map(|()| (attrs[2].data, answer))
    };
    assert_eq!(fifo(1, 0, 0).unwrap_err(), libc::EPERM);
    set_port(&dev, 1).unwrap();
    assert_eq!(fifo(1, 0, 2).unwrap_err(), libc::EINVAL);
    let (handle, made) = fifo(1, 4, 0).unwrap();
    assert_eq!(
        (made.usr_fifo_num, made.size, made.bp_thresh),
        (4, 512, 256)
    );
    assert!(made.ci_handle != 0 && made.regs_handle != 0);
    assert_eq!(fifo(1, 4, 0).unwrap_err(), libc::EBUSY);
    let mut attrs = [number(hbl::usr_fifo::destroy::HANDLE, handle)];
    dev.native(hbl::obj::USR_FIFO, hbl::usr_fifo::DESTROY, &mut attrs)
        .unwrap();
    assert_eq!(
        dev.native(hbl::obj::USR_FIFO, hbl::usr_fifo::DESTROY, &mut attrs),
        Err(libc::ENOENT)
    );

    let mut out = hbl::QueryPortOut::default();
    let query = hbl::QueryPortIn {
        port_num: 1,
        reserved: 0,
    };
    let mut attrs = [
        input(hbl::query_port::IN, query.as_bytes()),
        output(hbl::query_port::OUT, out.as_mut_bytes()),
    ];
    dev.native(
        hbl::obj::QUERY_PORT,
        hbl::query_port::QUERY_PORT,
        &mut attrs,
    )
    .unwrap();
    assert_eq!(
        (
            out.max_num_of_qps,
            out.num_allocated_qps,
            out.max_num_of_cqs
        ),
        (8192, 1, 14)
    );

    let header = [0u8; 32];
    let encap = |request: &hbl::CreateEncapIn| {
        let mut answer = hbl::CreateEncapOut::default();
        let mut attrs = [
            input(hbl::encap::create::IN, request.as_bytes()),
            output(hbl::encap::create::OUT, answer.as_mut_bytes()),
            number(hbl::encap::create::HANDLE, 0),
        ];
        dev.native(hbl::obj::ENCAP, hbl::encap::CREATE, &mut attrs)
            .map(|()| answer.encap_num)
    };
    let udp = hbl::CreateEncapIn {
        tnl_hdr_ptr: header.as_ptr() as u64,
        tnl_hdr_size: 32,
        port_num: 1,
        encap_type: hbl::encap_type::UDP,
        ..Default::default()
    };
    assert_eq!(
        encap(&hbl::CreateEncapIn {
            tnl_hdr_size: 20,
            ..udp
        }),
        Err(libc::EOPNOTSUPP)
    );
    assert_eq!(
        encap(&hbl::CreateEncapIn {
            tnl_hdr_ptr: 0,
            ..udp
        }),
        Err(libc::EFAULT)
    );
    assert_eq!(encap(&udp), Ok(0));
    assert_eq!(encap(&udp), Err(libc::EBUSY));
}

#[test]
fn channels_and_async_files() {
    let Pair { dev, _accel, .. } = open_pair();
    let channel: CreateCompChannelResp = dev
        .invoke(
            cmd::CREATE_COMP_CHANNEL,
            &CreateCompChannelReq::default(),
            (&[], &mut []),
        )
        .unwrap();
    // SAFETY: a number that the device has just given to this test, which is its only owner.
    let channel = Dev::adopt(unsafe { OwnedFd::from_raw_fd(channel.fd as i32) });
    let mut attrs = [number(async_event::alloc::FD_HANDLE, 0)];
    dev.native(obj::ASYNC_EVENT, async_event::ALLOC, &mut attrs)
        .unwrap();
    // SAFETY: as above.
    let events = Dev::adopt(unsafe { OwnedFd::from_raw_fd(attrs[0].data as i32) });
    assert_eq!(face::raise(events.fd(), 1), libc::EBADF);
    assert_eq!(face::raise(dev.fd(), 1), libc::EBADF);
    assert_eq!(face::raise(-1, 1), libc::EBADF);
    assert_eq!(face::raise(channel.fd(), 0x77), 0);
    // A duplicate is the same channel, also when the first number is gone.
    let copy = rustix::io::dup(std::os::fd::AsFd::as_fd(&borrowed(&channel))).unwrap();
    drop(channel);
    assert_eq!(face::raise(copy.as_raw_fd(), 0x78), 0);
    let mut buffer = [0u8; 64];
    for expected in [0x77, 0x78] {
        assert_eq!(rustix::io::read(&copy, &mut buffer).unwrap(), 8);
        assert_eq!(buffer[0], expected);
    }
    let copy = Dev::adopt(copy);
    let number = copy.fd();
    drop(copy);
    assert_eq!(face::raise(number, 1), libc::EBADF);
}

fn borrowed(dev: &Dev) -> std::os::fd::BorrowedFd<'_> {
    // SAFETY: open as long as `dev`.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(dev.fd()) }
}

#[test]
fn compute_device() {
    let accel = accel();
    let memory = |args: &mut MemArgs| accel.ioctl(IOCTL_MEMORY, std::ptr::from_mut(args) as u64);
    let mut args = MemArgs::alloc(1 << 20, 0, 0);
    memory(&mut args).unwrap();
    let handle = args.handle();
    let mut map = MemArgs::map_device(0, handle, 0);
    memory(&mut map).unwrap();
    assert!(map.device_va() >= 0x1001_0000_0000_0000);
    assert_eq!(
        memory(&mut MemArgs::free(handle)),
        Err(libc::EINVAL),
        "still mapped"
    );
    memory(&mut MemArgs::unmap(map.device_va())).unwrap();
    memory(&mut MemArgs::free(handle)).unwrap();
    assert_eq!(memory(&mut MemArgs::free(handle)), Err(libc::EINVAL));
    let page = vec![0u8; 10_000];
    let mut map = MemArgs::map_host(page.as_ptr() as u64, 0, 10_000, 0);
    memory(&mut map).unwrap();
    assert_eq!(map.device_va() & 4095, page.as_ptr() as u64 & 4095);
    assert_eq!(
        memory(&mut MemArgs::unmap(map.device_va() + 1)),
        Err(libc::EINVAL)
    );
    memory(&mut MemArgs::unmap(map.device_va())).unwrap();
    assert_eq!(
        memory(&mut MemArgs::map_host(0x1000, 0, 10, 0)),
        Err(libc::EFAULT)
    );
    assert_eq!(memory(&mut MemArgs::map_block(0)), Err(libc::EINVAL));
    assert_eq!(
        memory(&mut MemArgs::export_dmabuf(0, 0, 0, 0)),
        Err(libc::EOPNOTSUPP)
    );
    let mut odd = MemArgs::free(0);
    odd.op = 77;
    assert_eq!(memory(&mut odd), Err(libc::EINVAL));
    assert_eq!(accel.ioctl(IOCTL_MEMORY, 8), Err(libc::EFAULT));
    let mut info = HwIpInfo::new_zeroed();
    let mut args = InfoArgs {
        return_pointer: std::ptr::from_mut(&mut info) as u64,
        return_size: size_of::<HwIpInfo>() as u32,
        op: info_op::HW_IP_INFO,
        ..Default::default()
    };
    accel
        .ioctl(IOCTL_INFO, std::ptr::from_mut(&mut args) as u64)
        .unwrap();
    assert_eq!((info.device_id, info.nic_ports_mask), (0x1020, 0b11));
    args.op = 99;
    assert_eq!(
        accel.ioctl(IOCTL_INFO, std::ptr::from_mut(&mut args) as u64),
        Err(libc::EINVAL)
    );
    assert_eq!(accel.ioctl(0xc018_6441, 0), Err(libc::ENOTTY));
}
