//! Random operations under random schedules: order, statuses and data are those of the IBA.

use super::rig::{pair, wr};
use crate::native::sim::Fabric;
use kernel_abi::verbs::{wc_opcode, wr_opcode};
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn order_and_data_hold(ops in proptest::collection::vec(op(), 20..200)) {
        let f = Fabric::default();
        f.lock().delayed = true;
        let (mut a, mut b) = pair(&f, 1 << 16, 64, 7);
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
                if a.e.post_send(a.qp, &w).is_err() { return false; }
                a.e.kick(a.qp);
                sent.push((id, opcode));
                true
            };
            match *o {
                Do::Send(len) => { a.mem[..len].fill(fill); if post(&mut a, wr_opcode::SEND_WITH_IMM, len, (0, 0)) { expect_recv.push((n as u32, len, wc_opcode::RECV)); } }
                Do::Write(len) => { let to = (b.at(0), b.mr.rkey); post(&mut a, wr_opcode::RDMA_WRITE, len, to); }
                Do::WriteImm(len) => { let to = (b.at(0), b.mr.rkey); if post(&mut a, wr_opcode::RDMA_WRITE_WITH_IMM, len, to) { expect_recv.push((n as u32, len, wc_opcode::RECV_RDMA_WITH_IMM)); } }
                Do::Read(len) => { let to = (b.at(0), b.mr.rkey); post(&mut a, wr_opcode::RDMA_READ, len, to); }
                Do::FetchAdd => { let to = (b.at(counter), b.mr.rkey); if post(&mut a, wr_opcode::ATOMIC_FETCH_AND_ADD, 8, to) { adds += 1; } }
                Do::Recv => { let s = [b.sge(16384, 8192)]; if let Ok(k) = b.e.post_recv(b.qp, recvs, &s) { recvs += 1; if k { b.e.kick(b.qp); } } }
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
                if let Ok(kick) = b.e.post_recv(b.qp, recvs, &s) { recvs += 1; if kick { b.e.kick(b.qp); } }
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
