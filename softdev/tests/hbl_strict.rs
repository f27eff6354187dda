//! The posted kernel and nothing more.

mod common;
#[path = "common/hbl.rs"]
mod driver_side;

use common::*;
use driver_side::*;
use kernel_abi::accel::{IOCTL_MEMORY, MemArgs};
use kernel_abi::ext::{AllocUcontextRespExt, MEM_ARENA, cap};
use kernel_abi::hbl;
use kernel_abi::verbs::qps;

#[test]
fn no_extension_at_all() {
    set_up(|options| options.strict = true);
    let accel = accel();
    let dev = Dev::open("/dev/infiniband/uverbs0").unwrap();
    assert_eq!(
        get_context(
            &dev,
            &hbl::AllocUcontextReq {
                core_fd: 0,
                ..request(&accel)
            },
            72
        )
        .unwrap_err(),
        libc::EINVAL
    );
    let ext = get_context(&dev, &request(&accel), 72).unwrap();
    let posted = AllocUcontextRespExt {
        ports_mask: 0b110,
        cap_mask: ext.cap_mask,
        ..Default::default()
    };
    assert_eq!(
        (ext.pv_table, ext.arena_size, ext.asid),
        (0, 0, 0),
        "{ext:?}"
    );
    assert_eq!(
        (ext.ports_mask, ext.cap_mask & cap::ALL),
        (posted.ports_mask, 0)
    );
    // One context per device.
    let second = Dev::open("/dev/infiniband/uverbs0").unwrap();
    assert_eq!(
        get_context(&second, &request(&accel), 72).unwrap_err(),
        libc::EBUSY
    );
    // A compute device without a context to join.
    let other = Dev::open("/dev/infiniband/uverbs1").unwrap();
    let none = hbl::AllocUcontextReq {
        core_fd: 0,
        ..request(&accel)
    };
    assert_eq!(get_context(&other, &none, 72).unwrap_err(), libc::ESRCH);
    // The arena flag means nothing here: a device mapping of an unknown handle.
    let mut args = MemArgs::map_device(0, 0x1234_5678, MEM_ARENA);
    assert_eq!(
        accel.ioctl(IOCTL_MEMORY, std::ptr::from_mut(&mut args) as u64),
        Err(libc::EINVAL)
    );

    set_port(&dev, 1).unwrap();
    set_port(&dev, 2).unwrap();
    let pd = alloc_pd(&dev).unwrap();
    let (cq, _) = create_cq(&dev, 512, NATIVE).unwrap();
    let a = create_qp(&dev, pd, cq.cq_handle).qp_handle;
    let b = create_qp(&dev, pd, cq.cq_handle).qp_handle;
    let first = modify(&dev, init(a, 1), driver()).unwrap();
    assert_eq!(first.reserved, 0, "no generation");
    // The number goes back at RESET and to whoever comes next.
    modify(&dev, to(a, qps::RESET), driver()).unwrap();
    assert_eq!(
        modify(&dev, init(b, 1), driver()).unwrap().qp_num,
        first.qp_num
    );
    assert_ne!(
        modify(&dev, init(a, 1), driver()).unwrap().qp_num,
        first.qp_num
    );
}

#[test]
fn ports_are_set_up_for_plain_users() {
    set_up(|options| options.strict = true);
    let accel = Dev::open("/dev/accel/accel1").unwrap();
    let dev = Dev::open("/dev/infiniband/uverbs1").unwrap();
    get_context(
        &dev,
        &hbl::AllocUcontextReq {
            use_dvs: 0,
            ..request(&accel)
        },
        16,
    )
    .unwrap();
    assert_eq!(set_port(&dev, 1), Err(libc::EPERM));
    create_cq(&dev, 64, NATIVE).unwrap();
}
