//! Datagram QPs as objects; what they say to each other is tested with real programs.

use super::rig::{End, wr};
use crate::native::sim::Fabric;
use crate::verbs::types::{AhAttr, QpAttr, SendWr};
use kernel_abi::verbs::{event, qp_attr, qps, qpt, wc_status, wr_opcode};

const QKEY: u32 = 0x11;

/// A datagram QP in RTS, and an address.
fn datagram_qp(e: &mut End) -> (u32, AhAttr) {
    let (qp, _) = e.create_as(qpt::UD, 8, None, None);
    let to = |qp_state| QpAttr {
        qp_state,
        port_num: 1,
        qkey: QKEY,
        ..QpAttr::default()
    };
    let init = qp_attr::STATE | qp_attr::PKEY_INDEX | qp_attr::PORT | qp_attr::QKEY;
    e.e.modify_qp(qp, &to(qps::INIT), init).unwrap();
    e.e.modify_qp(qp, &to(qps::RTR), qp_attr::STATE).unwrap();
    e.e.modify_qp(qp, &to(qps::RTS), qp_attr::STATE | qp_attr::SQ_PSN)
        .unwrap();
    let mut address = AhAttr {
        is_global: 1,
        port_num: 1,
        ..AhAttr::default()
    };
    let mut gid = [0u8; 16];
    (gid[10], gid[11]) = (0xff, 0xff);
    gid[12..].copy_from_slice(&[127, 99, 98, 97]);
    address.grh.dgid = [0, 8].map(|at| u64::from_ne_bytes(gid[at..at + 8].try_into().unwrap()));
    (qp, address)
}

fn datagram(e: &mut End, qp: u32, id: u64, ah: u32) {
    let s = [e.sge(0, 16)];
    let w = SendWr {
        remote_srqn: 1,
        ..wr(id, wr_opcode::SEND, &s, (ah.into(), QKEY))
    };
    e.post_on(qp, &w);
}

#[test]
fn a_drained_send_queue_goes_on_where_it_stopped() {
    let mut a = End::new(&Fabric::default(), 1, 4096, 16);
    let (qp, address) = datagram_qp(&mut a);
    let ah = a.e.create_ah(a.pd, &address).unwrap();
    let to = |qp_state| QpAttr {
        qp_state,
        en_sqd_async_notify: 1,
        ..QpAttr::default()
    };
    let stop = qp_attr::STATE | qp_attr::EN_SQD_ASYNC_NOTIFY;
    a.e.modify_qp(qp, &to(qps::SQD), stop).unwrap();
    assert_eq!(a.events(0x99), [event::SQ_DRAINED]);
    datagram(&mut a, qp, 5, ah);
    assert_eq!(a.poll(), []);
    a.e.modify_qp(qp, &to(qps::RTS), qp_attr::STATE).unwrap();
    let got = a.poll();
    assert_eq!((got.len(), got[0].wr_id, got[0].status), (1, 5, 0));
    assert_eq!(a.events(0x99), []);
}

#[test]
fn an_address_belongs_to_the_domain_of_its_qp() {
    let mut a = End::new(&Fabric::default(), 1, 4096, 16);
    let (qp, address) = datagram_qp(&mut a);
    let other = a.e.alloc_pd().unwrap();
    let ah = a.e.create_ah(other, &address).unwrap();
    datagram(&mut a, qp, 6, ah);
    let got = a.poll();
    assert_eq!(got.len(), 1);
    assert_eq!((got[0].wr_id, got[0].status), (6, wc_status::LOC_QP_OP_ERR));
}
