//! Helpers around plain structs: the memory ioctl's union, work requests, ranges, counter names.

use gaudi_kernel_abi::accel::{self, MemArgs, Range, gaudi2_map, mem_flag, mem_op};
use gaudi_kernel_abi::cmd::{AtomicWr, RdmaWr, SendWr, UdWr};
use gaudi_kernel_abi::{gaudi1, hbl};
use zerocopy::IntoBytes;

#[test]
fn memory_requests_put_words_where_the_kernel_reads_them() {
    let args = MemArgs::map_host(
        0x7000_1234,
        0xfff0_7800_0000_0000,
        0x5000,
        mem_flag::FORCE_HINT,
    );
    assert_eq!(
        (args.host_va(), args.host_hint(), args.host_size()),
        (0x7000_1234, 0xfff0_7800_0000_0000, 0x5000)
    );
    assert_eq!(
        (args.op, args.flags),
        (mem_op::MAP, mem_flag::USERPTR | mem_flag::FORCE_HINT)
    );
    assert!(args.is_userptr());
    assert_eq!(&args.as_bytes()[24..32], &[2, 0, 0, 0, 0xc, 0, 0, 0]);

    let args = MemArgs::map_device(1, 2, mem_flag::USERPTR);
    assert_eq!(
        (
            args.map_device_hint(),
            args.map_device_handle(),
            args.is_userptr()
        ),
        (1, 2, false)
    );
    let args = MemArgs::alloc(5, 6, mem_flag::SHARED);
    assert_eq!(
        (args.mem_size(), args.page_size(), args.op),
        (5, 6, mem_op::ALLOC)
    );
    let args = MemArgs::export_dmabuf(1, 2, 3, 0o2000000);
    assert_eq!(
        (args.export_addr(), args.export_size(), args.export_offset()),
        (1, 2, 3)
    );
    assert_eq!(MemArgs::reg_dmabuf(-1, 9).reg_fd(), -1);
    assert_eq!(MemArgs::reg_dmabuf(4, 9).reg_length(), 9);
    assert_eq!(MemArgs::ts_alloc(8).num_of_elements, 8);
    assert_eq!(MemArgs::map_block(8).block_addr(), 8);

    let mut args = MemArgs::unmap(77);
    assert_eq!(args.device_va(), 77);
    args.set_block(1, 2);
    assert_eq!((args.handle(), args.block_size()), (1, 2));
    args.set_fd(-1);
    assert_eq!((args.fd(), args.as_bytes()[4]), (-1, 0));
    assert_eq!(MemArgs::free(3).free_handle(), 3);
}

#[test]
fn ioctl_numbers_name_their_sizes() {
    let size_of_arg = |request: u32| (request >> 16 & 0x3fff) as usize;
    assert_eq!(size_of_arg(accel::IOCTL_MEMORY), size_of::<MemArgs>());
    assert_eq!(size_of_arg(accel::IOCTL_INFO), size_of::<accel::InfoArgs>());
    assert_eq!(size_of_arg(accel::IOCTL_NIC), size_of::<gaudi1::NicArgs>());
    assert_eq!(
        size_of_arg(gaudi1::IOCTL_NIC_2020),
        size_of::<gaudi1::NicArgs>()
    );
    assert_eq!(
        size_of_arg(gaudi_kernel_abi::uverbs::RDMA_VERBS_IOCTL),
        size_of::<gaudi_kernel_abi::uverbs::IoctlHdr>()
    );
}

#[test]
fn arms_of_a_send_request_share_their_words() {
    let mut wr = SendWr::default();
    let rdma = RdmaWr {
        remote_addr: 1 << 40,
        rkey: 7,
    };
    wr.set_rdma(rdma);
    assert_eq!(wr.rdma(), rdma);
    let atomic = AtomicWr {
        remote_addr: 1 << 40,
        compare_add: 2,
        swap: 3,
        rkey: u32::MAX,
    };
    wr.set_atomic(atomic);
    assert_eq!(wr.atomic(), atomic);
    let ud = UdWr {
        ah: 1,
        remote_qpn: 0xff_ffff,
        remote_qkey: 0x1111_1111,
    };
    wr.set_ud(ud);
    assert_eq!(wr.ud(), ud);
    assert_eq!(
        &wr.as_bytes()[24..36],
        &[1, 0, 0, 0, 0xff, 0xff, 0xff, 0, 0x11, 0x11, 0x11, 0x11]
    );
}

#[test]
fn ranges_do_not_wrap() {
    let range = Range::new(0x1000, 0x3000);
    assert!(
        range.contains(0x1000, 0x2000)
            && !range.contains(0x1000, 0x2001)
            && !range.contains(0xfff, 1)
    );
    assert!(!range.contains(0x2000, u64::MAX));
    assert!(range.overlaps(0xfff, 2) && !range.overlaps(0xfff, 1) && !range.overlaps(0x3000, 1));
    assert!(range.overlaps(0x2fff, u64::MAX));
    assert_eq!((range.len(), range.is_empty()), (0x2000, false));

    for (inner, outer) in [
        (gaudi2_map::HBM_HINTS, gaudi2_map::HBM_VA),
        (gaudi2_map::HOST_HINTS, gaudi2_map::HOST_VA),
        (gaudi2_map::HOST_HUGE_HINTS, gaudi2_map::HOST_HUGE_VA),
    ] {
        assert!(outer.contains(inner.start, inner.len()));
    }
    assert_eq!(gaudi2_map::DRAM_PAGE, 768 << 20);
}

#[test]
fn counters_have_distinct_names() {
    for (i, name) in hbl::PORT_COUNTERS.iter().enumerate() {
        assert_eq!(hbl::port_counter(name), Some(i), "{name} occurs twice");
    }
    assert_eq!(hbl::port_counter("no_such"), None);
}

#[test]
fn only_one_wq_type_at_a_time() {
    use hbl::wq_type::*;
    let hw: Vec<_> = [WRITE, RECV_RDV, READ_RDV, SEND_RDV, READ_RDV_ENDP]
        .into_iter()
        .map(to_hw)
        .collect();
    assert_eq!(hw, [Some(1), Some(1), Some(1), Some(3), Some(2)]);
    for bad in [0, WRITE | RECV_RDV, 0x20, 0xff] {
        assert_eq!(to_hw(bad), None);
    }
}

#[test]
fn gaudi1_errors_pack_into_a_word() {
    let error = gaudi1::QpError::new(0x12_3456, gaudi1::syndrome::TIMER_RETRY, true);
    assert_eq!(
        (error.qpn(), error.syndrome(), error.is_req()),
        (0x12_3456, 0x40, true)
    );
    assert_eq!(error.0, 0xc012_3456);
}
