//! Bit fields: setting one leaves every other bit of the structure alone, and constructors put things where readers look.

use gaudi_kernel_abi::gaudi1;
use gaudi_kernel_abi::gaudi2::{self, comp_type, opcode};
use gaudi_kernel_abi::layout::BitFields;
use proptest::prelude::*;
use zerocopy::{FromBytes, IntoBytes};

fn fields<T: BitFields>(value: &T) -> Vec<(&'static str, u64)> {
    let mut list = Vec::new();
    value.for_each(&mut |name, v| list.push((name, v)));
    list
}

fn masked(value: u64, width: u32) -> u64 {
    if width == 64 {
        value
    } else {
        value & ((1 << width) - 1)
    }
}

/// Sets one field of a structure made of `bytes` and compares everything else.
fn check<T: BitFields + FromBytes + IntoBytes + zerocopy::Immutable>(
    bytes: &[u8],
    pick: usize,
    value: u64,
) {
    let (mut t, _) = T::read_from_prefix(bytes).unwrap();
    let field = T::BITS[pick % T::BITS.len()];
    // A flag takes any non-zero number as true.
    let value = if field.width == 1 {
        value & 1
    } else {
        masked(value, field.width)
    };
    let before = fields(&t);
    let old = t.as_bytes().to_vec();
    assert!(t.set_by_name(field.name, value));
    for ((name, was), (_, is)) in before.iter().zip(fields(&t)) {
        let expected = if *name == field.name { value } else { *was };
        assert_eq!(is, expected, "{} after setting {}", name, field.name);
    }
    for (bit, (was, is)) in old
        .iter()
        .zip(t.as_bytes())
        .enumerate()
        .flat_map(|(i, (a, b))| (0..8).map(move |j| ((i * 8 + j) as u32, (a >> j & 1, b >> j & 1))))
    {
        if bit < field.lo || bit >= field.lo + field.width {
            assert_eq!(was, is, "bit {bit} after setting {}", field.name);
        } else {
            assert_eq!(
                u64::from(is),
                value >> (bit - field.lo) & 1,
                "bit {bit} of {}",
                field.name
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn one_field_at_a_time(bytes in prop::collection::vec(any::<u8>(), 128), pick: usize, value: u64) {
        check::<gaudi2::SendWqe>(&bytes, pick, value);
        check::<gaudi2::SendWqe64>(&bytes, pick, value);
        check::<gaudi2::RecvWqe>(&bytes, pick, value);
        check::<gaudi2::Cqe>(&bytes, pick, value);
        check::<gaudi2::Eqe>(&bytes, pick, value);
        check::<gaudi2::Doorbell>(&bytes, pick, value);
        check::<gaudi2::ReqCtx>(&bytes, pick, value);
        check::<gaudi2::ResCtx>(&bytes, pick, value);
        check::<gaudi1::ReqCtx>(&bytes, pick, value);
        check::<gaudi1::ResCtx>(&bytes, pick, value);
        check::<gaudi1::SendWqe>(&bytes, pick, value);
        check::<gaudi1::RecvWqe>(&bytes, pick, value);
        check::<gaudi1::Cqe>(&bytes, pick, value);
    }

    #[test]
    fn inline_data_comes_back(slot: u32, addr: u64, short: [u8; 16], long in prop::collection::vec(any::<u8>(), 48)) {
        let wqe = gaudi2::SendWqe::write_inline(slot, addr, short);
        prop_assert_eq!(wqe.inline_data(), short);
        prop_assert_eq!(&wqe.as_bytes()[16..], &short);
        prop_assert_eq!(wqe.inline_remote_addr(), addr);
        prop_assert_eq!((wqe.opcode(), wqe.inline(), wqe.ack_req(), wqe.size()), (opcode::LINEAR, true, true, 16));
        prop_assert_eq!(wqe.wqe_index(), slot as u8);

        let long: [u8; 48] = long.try_into().unwrap();
        let wqe = gaudi2::SendWqe64::write_inline(slot, addr, long);
        prop_assert_eq!(wqe.inline_data(), long);
        prop_assert_eq!(&wqe.as_bytes()[16..], &long);
        prop_assert_eq!((wqe.inline_remote_addr(), wqe.size(), wqe.inline()), (addr, 48, true));
        prop_assert_eq!(gaudi2::SendWqe64::from_short(wqe.short()).short(), wqe.short());
    }

    #[test]
    fn gaudi1_immediates_come_back(words: u64, imm: u32, odd: bool) {
        let mut cqe = gaudi1::Cqe { words: [words] };
        let (valid, responder) = (cqe.valid(), cqe.is_responder());
        cqe.set_immediate(imm);
        cqe.set_odd_port(odd);
        prop_assert_eq!((cqe.immediate(), cqe.is_odd_port()), (imm, odd));
        prop_assert_eq!((cqe.valid(), cqe.is_responder()), (valid, responder));
    }

    #[test]
    fn psns_live_on_a_circle(psn in 0u32..1 << 24, n in 0u32..1 << 23) {
        let later = gaudi2::psn_add(psn, n);
        prop_assert!(later <= gaudi2::PSN_MASK);
        prop_assert_eq!(gaudi2::psn_diff(later, psn), n as i32);
        prop_assert_eq!(gaudi2::psn_diff(psn, later), -(n as i32));
    }

    #[test]
    fn fifo_space_follows_the_lagging_ci(pushed in 1u32..1000, in_flight in 0u32..64) {
        let popped = pushed - in_flight.min(pushed);
        let free = gaudi2::fifo_free(pushed % 64, gaudi2::fifo_ci_after_pops(popped));
        // The CI page lags by one pop, so a producer sees at most one entry less than there is; with a single entry
        // left that reads as an empty FIFO, which is why producers keep two.
        let real = 64 - (pushed - popped);
        prop_assert!(free == real || free + 1 == real || real == 1, "free {} real {}", free, real);
    }
}

#[test]
fn bytes_are_where_the_hardware_reads_them() {
    let wqe = gaudi2::SendWqe::write(0x1_42, 0x1000, 0x1122_3344_5566_7788, 0x99aa_bbcc_ddee_ff00)
        .notify(0xcafe_f00d);
    let words: Vec<u32> = wqe
        .as_bytes()
        .chunks(4)
        .map(|c| u32::from_le_bytes(c.try_into().unwrap()))
        .collect();
    assert_eq!(
        words,
        [
            1 << 31 | 0x42 << 8 | 2,
            0x1000,
            0x5566_7788,
            0x1122_3344,
            0xddee_ff00,
            0x99aa_bbcc,
            0xcafe_f00d,
            2 << 30,
        ]
    );
    let wqe = gaudi2::RecvWqe::companion(0x1_42, opcode::LINEAR, 0x1000, comp_type::CQ, 7);
    assert_eq!(wqe.words, [2 << 62 | 0x42 << 8 | 2, 7 << 32 | 0x1000]);

    let cqe = gaudi2::Cqe::requester(0x12_3456, 9, 7);
    assert_eq!(cqe.words, [9 << 32 | 1 << 31 | 1 << 24 | 0x12_3456, 7]);
    let cqe = gaudi2::Cqe::responder(0x12_3456, 9, 7, 64);
    assert_eq!(cqe.words, [9 << 32 | 1 << 31 | 0x12_3456, 64 << 32 | 7]);

    let db = gaudi2::Doorbell::new(0x12_3456, 77, 3);
    assert_eq!((db.first32(), db.second32()), (77, 3 << 24 | 0x12_3456));
    assert_eq!(gaudi2::Doorbell::from_raw(db.raw()), db);
    assert_eq!(gaudi1::db_value(5, 3), 5 << 22 | 3);

    let eqe = gaudi2::Eqe::qp_err(0x12_3456, 0x48);
    assert_eq!(
        (eqe.qpn(), eqe.syndrome(), eqe.is_reset(), eqe.valid()),
        (0x12_3456, 0x48, false, true)
    );
    assert_eq!(gaudi2::Eqe::db_fifo_overrun(29).hw_fifo(), 29);
    assert_eq!(gaudi2::Eqe::comp_err(7, 99).cq_num(), 7);
    assert_eq!(gaudi2::Eqe::link(1, 1).link_status(), 1);
}

#[test]
fn umr_pages_serve_two_fifos_and_two_cqs() {
    let mut seen = std::collections::HashSet::new();
    for fifo in 1..=30 {
        assert!(seen.insert((gaudi2::fifo_page(fifo).unwrap(), gaudi2::fifo_offset(fifo))));
    }
    for cq in 2..=15 {
        assert!(seen.insert((gaudi2::cq_page(cq).unwrap(), gaudi2::cq_offset(cq))));
    }
    assert!(seen.iter().all(|(page, _)| *page < gaudi2::UMR_PAGES));
    assert_eq!((gaudi2::fifo_page(1), gaudi2::fifo_offset(1)), (Some(0), 0));
    assert_eq!(
        (gaudi2::fifo_page(30), gaudi2::fifo_offset(30)),
        (Some(14), 0x80)
    );
    assert_eq!((gaudi2::cq_page(2), gaudi2::cq_offset(2)), (Some(0), 0x100));
    assert_eq!(
        (gaudi2::cq_page(15), gaudi2::cq_offset(15)),
        (Some(6), 0x180)
    );
    for outside in [0, 31, u32::MAX] {
        assert_eq!(gaudi2::fifo_page(outside), None);
    }
    for outside in [0, 1, 16, u32::MAX] {
        assert_eq!(gaudi2::cq_page(outside), None);
    }
}

#[test]
fn requester_errors_are_those_whose_text_says_so() {
    use gaudi_kernel_abi::gaudi2::{eq_event, syndrome};
    use gaudi_kernel_abi::verbs::event;
    for code in 0..=255u8 {
        let says_req = syndrome::text(code).to_ascii_lowercase().contains("req");
        assert_eq!(
            says_req,
            syndrome::is_req(code),
            "{code:#x}: {}",
            syndrome::text(code)
        );
        assert_eq!(
            syndrome::text(code) != "unknown",
            syndrome::ALL.contains(&code)
        );
        let ib = if says_req {
            event::QP_REQ_ERR
        } else {
            event::QP_FATAL
        };
        assert_eq!(eq_event::to_ib(eq_event::QP_ERR, code, false), Some(ib));
    }
    assert!(!syndrome::is_req(syndrome::TIMER_RETRY));
    assert!(syndrome::is_req(syndrome::REQ_RX_RETRY));
    assert_eq!(
        syndrome::origin(syndrome::RX_RKEY),
        syndrome::Origin::Receive
    );
    assert_eq!(
        syndrome::origin(syndrome::TIMER_RETRY),
        syndrome::Origin::Context
    );
    assert_eq!(
        syndrome::origin(syndrome::TX_WRITE_ZERO),
        syndrome::Origin::Transmit
    );
    assert_eq!(
        eq_event::to_ib(eq_event::LINK_STATUS, 0, true),
        Some(event::PORT_ACTIVE)
    );
    assert_eq!(eq_event::to_ib(99, 0, true), None);
}

#[test]
fn timers_and_mtu_are_powers_of_two() {
    assert_eq!(gaudi2::timer_period_us(13), 32_768);
    assert_eq!(gaudi2::timer_period_us(31), 1 << 33);
    assert_eq!(gaudi2::timer_period_us(u32::MAX), 1 << 33);
    for (field, bytes) in [1024, 2048, 4096, 8192].into_iter().enumerate() {
        assert_eq!(gaudi2::ReqCtx::mtu_field(bytes), Some(field as u8));
        assert_eq!(
            gaudi2::ReqCtx::ZERO.with_mtu(field as u8).mtu_bytes(),
            bytes
        );
    }
    assert_eq!(gaudi2::ReqCtx::mtu_field(512), None);
    use gaudi_kernel_abi::verbs::mtu;
    assert_eq!(
        (mtu::bytes(mtu::MTU_256), mtu::bytes(mtu::MTU_4096)),
        (Some(256), Some(4096))
    );
    assert_eq!(
        (mtu::bytes(0), mtu::bytes(6), mtu::bytes(7)),
        (None, Some(8192), None)
    );
}
