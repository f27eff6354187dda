//! Random operations under random schedules: order, statuses and data are those of the IBA.

use super::rig::{End, pair, wr};
use crate::native::sim::Fabric;
use crate::verbs::types::Sge;
use kernel_abi::verbs::{qpt, wc_opcode, wr_opcode};
use proptest::prelude::*;

#[derive(Clone, Copy, Debug)]
enum Do {
    Send(usize),
    Write(usize),
    WriteImm(usize),
    Read(usize),
    FetchAdd,
    Recv,
    PollA,
    PollB,
    Step(usize),
    CoolA,
    CoolB,
}

fn op() -> impl Strategy<Value = Do> {
    let len = prop_oneof![Just(0usize), 1..64usize, 3000..6000usize];
    prop_oneof![
        2 => len.clone().prop_map(Do::Send),
        2 => len.clone().prop_map(Do::Write),
        1 => len.clone().prop_map(Do::WriteImm),
        1 => len.prop_map(Do::Read),
        1 => Just(Do::FetchAdd),
        3 => Just(Do::Recv),
        6 => Just(Do::PollA),
        6 => Just(Do::PollB),
        8 => (0..7usize).prop_map(Do::Step),
        1 => Just(Do::CoolA),
        1 => Just(Do::CoolB),
    ]
}

/// What connects the two ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum How {
    Rc,
    /// RC, receives from an SRQ.
    Srq,
    Uc,
    Xrc,
}

/// Two ends, and B's SRQ with its number.
fn ends(f: &Fabric, how: How) -> (End, End, Option<(u32, u32)>) {
    let (mut a, mut b) = pair(f, 1 << 16, 64, 7);
    let (types, srq, domain) = match how {
        How::Rc => return (a, b, None),
        How::Srq => ((qpt::RC, qpt::RC), Some(b.srq(64, None)), None),
        How::Uc => ((qpt::UC, qpt::UC), None, None),
        How::Xrc => {
            let domain = b.e.open_xrcd(None, true, false).unwrap();
            let cq = b.cq;
            let srq = b.srq(64, Some((domain, cq)));
            ((qpt::XRC_INI, qpt::XRC_TGT), Some(srq), Some(domain))
        }
    };
    let basic = srq.filter(|_| domain.is_none()).map(|s| s.handle);
    (a.qp, a.num) = a.create_as(types.0, 64, None, None);
    (b.qp, b.num) = b.create_as(types.1, 64, basic, domain);
    let (qa, na, qb, nb) = (a.qp, a.num, b.qp, b.num);
    a.connect(qa, 2, nb);
    b.connect(qb, 1, na);
    (a, b, srq.map(|s| (s.handle, s.number)))
}

fn receive(b: &mut End, srq: Option<(u32, u32)>, id: u64, sges: &[Sge]) -> bool {
    let posted = match srq {
        Some((h, _)) => b.e.post_srq_recv(h, id, sges),
        None => b.e.post_recv(b.qp, id, sges),
    };
    match (posted, srq) {
        (Err(_), _) => return false,
        (Ok(true), Some((h, _))) => b.e.kick_srq(h),
        (Ok(true), None) => b.e.kick(b.qp),
        (Ok(false), _) => {}
    }
    true
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn order_and_data_hold(
        ops in proptest::collection::vec(op(), 20..200),
        how in prop_oneof![3 => Just(How::Rc), 2 => Just(How::Srq), 2 => Just(How::Uc), 2 => Just(How::Xrc)],
    ) {
        let f = Fabric::default();
        f.lock().delayed = true;
        let (mut a, mut b, srq) = ends(&f, how);
        let counter = (8 - b.at(60000) % 8) as usize % 8 + 60000;
        let (mut sent, mut expect_recv, mut recvs) = (Vec::new(), Vec::new(), 0u64);
        let (mut got_a, mut got_b) = (Vec::new(), Vec::new());
        let mut adds = 0u64;
        for (n, o) in ops.iter().enumerate() {
            let fill = n as u8 | 1;
            let mut post = |a: &mut super::rig::End, opcode: u32, len: usize, to: (u64, u32)| -> bool {
                let id = n as u64;
                let s = [a.sge(0, len)];
                let mut w = wr(id, opcode, &s, to);
                w.compare_add = 1;
                w.imm = n as u32;
                w.remote_srqn = srq.map_or(0, |s| s.1);
                if a.e.post_send(a.qp, &w).is_err() { return false; }
                a.e.kick(a.qp);
                sent.push((id, opcode));
                true
            };
            match *o {
                Do::Send(len) => { a.mem[..len].fill(fill); if post(&mut a, wr_opcode::SEND_WITH_IMM, len, (0, 0)) { expect_recv.push((n as u32, len, wc_opcode::RECV)); } }
                Do::Write(len) => { let to = (b.at(0), b.mr.rkey); post(&mut a, wr_opcode::RDMA_WRITE, len, to); }
                Do::WriteImm(len) => { let to = (b.at(0), b.mr.rkey); if post(&mut a, wr_opcode::RDMA_WRITE_WITH_IMM, len, to) { expect_recv.push((n as u32, len, wc_opcode::RECV_RDMA_WITH_IMM)); } }
                Do::Read(_) | Do::FetchAdd if how == How::Uc => {}
                Do::Read(len) => { let to = (b.at(0), b.mr.rkey); post(&mut a, wr_opcode::RDMA_READ, len, to); }
                Do::FetchAdd => { let to = (b.at(counter), b.mr.rkey); if post(&mut a, wr_opcode::ATOMIC_FETCH_AND_ADD, 8, to) { adds += 1; } }
                Do::Recv => { let s = [b.sge(16384, 8192)]; if receive(&mut b, srq, recvs, &s) { recvs += 1; } }
                Do::PollA => got_a.extend(a.poll()),
                Do::PollB => got_b.extend(b.poll()),
                Do::Step(k) => { f.step(k); }
                Do::CoolA => a.e.cool_down(),
                Do::CoolB => b.e.cool_down(),
            }
        }
        // Let it all finish: enough receives, enough steps.
        for k in 0..40_000usize {
            if got_a.len() >= sent.len() && got_b.len() >= expect_recv.len() { break; }
            if (recvs as usize) < expect_recv.len() {
                let s = [b.sge(16384, 8192)];
                if receive(&mut b, srq, recvs, &s) { recvs += 1; }
            }
            f.step(k);
            got_a.extend(a.poll());
            got_b.extend(b.poll());
        }
        prop_assert_eq!(got_a.iter().map(|w| (w.wr_id, w.status)).collect::<Vec<_>>(), sent.iter().map(|s| (s.0, 0)).collect::<Vec<_>>());
        prop_assert_eq!(got_b.iter().map(|w| (w.imm_data, w.byte_len as usize, w.opcode, w.status)).collect::<Vec<_>>(),
            expect_recv.iter().map(|e| (e.0, e.1, e.2, 0)).collect::<Vec<_>>());
        prop_assert_eq!(got_b.iter().map(|w| w.wr_id).collect::<Vec<_>>(), (0..expect_recv.len() as u64).collect::<Vec<_>>());
        prop_assert_eq!(u64::from_ne_bytes(b.mem[counter..counter + 8].try_into().unwrap()), adds);
    }
}
