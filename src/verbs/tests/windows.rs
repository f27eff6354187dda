//! Memory windows, invalidation, re-registration.

use super::rig::{ALL, End, collect, pair, wr};
use crate::native::sim::Fabric;
use crate::verbs::engine::Engine;
use crate::verbs::regions::Rereg;
use crate::verbs::types::{Errno, MrInfo, SendWr, Wc};
use kernel_abi::verbs::{access, rereg, send_flag, wc_flag, wc_opcode, wc_status, wr_opcode};

const REMOTE: u32 = access::REMOTE_WRITE | access::REMOTE_READ;

fn ok(v: &[Wc]) {
    assert!(v.iter().all(|w| w.status == wc_status::SUCCESS), "{v:?}");
}

/// An MR over all of `e`'s memory that only windows expose.
fn bindable(e: &mut End) -> MrInfo {
    let (at, len) = (e.at(0), e.mem.len() as u64);
    e.e.reg_mr(e.pd, at, len, at, access::LOCAL_WRITE | access::MW_BIND)
        .unwrap()
}

fn bind(key: u32, mr: MrInfo, addr: u64, len: u64, access: u32) -> SendWr<'static> {
    SendWr {
        compare_add: len,
        swap: access.into(),
        imm: mr.lkey,
        ..wr(77, wr_opcode::BIND_MW, &[], (addr, key))
    }
}

fn invalidate(key: u32) -> SendWr<'static> {
    SendWr {
        imm: key,
        ..wr(78, wr_opcode::LOCAL_INV, &[], (0, 0))
    }
}

fn write_to(a: &mut End, b: &mut End, to: (u64, u32)) -> u32 {
    a.send(1, wr_opcode::RDMA_WRITE, 0, 16, to);
    collect(a, b, 1, 0).0[0].status
}

#[test]
fn a_window_opens_its_part_and_no_more() {
    let f = Fabric::default();
    let (mut a, mut b) = pair(&f, 8192, 16, 7);
    let mapped = f.lock().mapped;
    let mr = bindable(&mut b);
    let mw = b.e.alloc_mw(b.pd, true).unwrap();
    let (key, addr) = (mw.rkey ^ 0x55, b.at(4096));
    b.post(&bind(key, mr, addr, 1000, REMOTE));
    let (_, vb) = collect(&mut a, &mut b, 0, 1);
    ok(&vb);
    assert_eq!(vb[0].opcode, wc_opcode::BIND_MW);
    a.mem[..16].fill(9);
    assert_eq!(
        write_to(&mut a, &mut b, (addr + 984, key)),
        wc_status::SUCCESS
    );
    assert_eq!(b.mem[4096 + 984..4096 + 1000], [9; 16]);
    // The window's key is no local key, and the MR is in use.
    assert_eq!(b.e.dereg_begin(mr.handle), Err(Errno::EBUSY));
    b.post(&invalidate(key));
    ok(&collect(&mut a, &mut b, 0, 1).1);
    b.e.dereg_begin(mr.handle).unwrap();
    assert!(b.e.dereg_done(mr.handle));
    b.e.dereg_finish(mr.handle).unwrap();
    assert_eq!(
        write_to(&mut a, &mut b, (addr, key)),
        wc_status::REM_ACCESS_ERR
    );
    b.e.dealloc_mw_begin(mw.handle).unwrap();
    b.e.dereg_finish(mw.handle).unwrap();
    assert_eq!(f.lock().mapped, mapped);
}

#[test]
fn one_byte_outside_is_refused() {
    for (off, need) in [(985, REMOTE), (0, access::REMOTE_READ)] {
        let f = Fabric::default();
        let (mut a, mut b) = pair(&f, 8192, 16, 7);
        let mr = bindable(&mut b);
        let mw = b.e.alloc_mw(b.pd, true).unwrap();
        let (key, addr) = (mw.rkey + 1, b.at(4096));
        b.post(&bind(key, mr, addr, 1000, need));
        ok(&collect(&mut a, &mut b, 0, 1).1);
        assert_eq!(
            write_to(&mut a, &mut b, (addr + off, key)),
            wc_status::REM_ACCESS_ERR
        );
    }
}

#[test]
fn bad_binds() {
    type Change = fn(&mut End, MrInfo, u32) -> SendWr<'static>;
    let cases: [(&str, Change); 6] = [
        ("range", |b, mr, key| {
            bind(key, mr, b.at(4096), 4097, REMOTE)
        }),
        ("unknown MR", |b, mr, key| {
            let mr = MrInfo {
                lkey: mr.lkey + 1,
                ..mr
            };
            bind(key, mr, b.at(0), 10, REMOTE)
        }),
        ("MR without the right", |b, _, key| {
            bind(key, b.mr, b.at(0), 10, REMOTE)
        }),
        ("window of another index", |b, mr, key| {
            bind(key + 0x300, mr, b.at(0), 10, REMOTE)
        }),
        ("type 2 of no length", |b, mr, key| {
            bind(key, mr, b.at(0), 0, 0)
        }),
        ("writes without local write", |b, _, key| {
            let at = b.at(0);
            let mr = b.e.reg_mr(b.pd, at, 100, at, access::MW_BIND).unwrap();
            bind(key, mr, at, 10, access::REMOTE_WRITE)
        }),
    ];
    for (what, change) in cases {
        let f = Fabric::default();
        let (mut a, mut b) = pair(&f, 8192, 16, 7);
        let mr = bindable(&mut b);
        let mw = b.e.alloc_mw(b.pd, true).unwrap();
        let wr = change(&mut b, mr, mw.rkey + 1);
        b.post(&wr);
        let (_, vb) = collect(&mut a, &mut b, 0, 1);
        assert_eq!(vb[0].status, wc_status::MW_BIND_ERR, "{what}");
    }
    let f = Fabric::default();
    let (mut a, mut b) = pair(&f, 8192, 16, 7);
    b.post(&invalidate(b.mr.rkey));
    let (_, vb) = collect(&mut a, &mut b, 0, 1);
    assert_eq!(vb[0].status, wc_status::LOC_QP_OP_ERR);
}

#[test]
fn a_type_1_window_moves_with_each_bind_and_its_old_key_dies() {
    let f = Fabric::default();
    let (mut a, mut b) = pair(&f, 8192, 16, 7);
    let mr = bindable(&mut b);
    let mw = b.e.alloc_mw(b.pd, false).unwrap();
    for round in 1..6u32 {
        let (key, addr) = (mw.rkey + round, b.at(1000 * round as usize));
        b.post(&bind(key, mr, addr, 500, REMOTE));
        // The rebind waits for A to forget the previous key.
        ok(&collect(&mut a, &mut b, 0, 1).1);
        assert_eq!(write_to(&mut a, &mut b, (addr, key)), wc_status::SUCCESS);
    }
    let last = (b.at(5000), mw.rkey + 5);
    b.post(&bind(mw.rkey + 6, mr, 0, 0, 0));
    ok(&collect(&mut a, &mut b, 0, 1).1);
    assert_eq!(b.e.env.mrs.get(mr.handle).unwrap().windows, 0);
    assert_eq!(write_to(&mut a, &mut b, last), wc_status::REM_ACCESS_ERR);
}

/// B may complete an invalidation only when A's WRITEs under the key are done.
#[test]
fn an_invalidation_waits_for_who_resolved_the_key() {
    let f = Fabric::default();
    let (mut a, mut b) = pair(&f, 8192, 16, 7);
    let mr = bindable(&mut b);
    let mw = b.e.alloc_mw(b.pd, true).unwrap();
    let (key, addr) = (mw.rkey + 1, b.at(0));
    b.post(&bind(key, mr, addr, 4096, REMOTE));
    ok(&collect(&mut a, &mut b, 0, 1).1);
    assert_eq!(write_to(&mut a, &mut b, (addr, key)), wc_status::SUCCESS);
    b.post(&invalidate(key));
    b.send(79, wr_opcode::RDMA_WRITE, 0, 8, (a.at(100), a.mr.rkey));
    for _ in 0..50 {
        assert!(b.poll().is_empty(), "A has not answered yet");
    }
    let (_, vb) = collect(&mut a, &mut b, 0, 2);
    ok(&vb);
    assert_eq!((vb[0].wr_id, vb[1].wr_id), (78, 79));
    // The same value again: type 2 programs may choose it.
    b.post(&bind(key, mr, b.at(4096), 1000, REMOTE));
    ok(&collect(&mut a, &mut b, 0, 1).1);
    let again = (b.at(4096), key);
    assert_eq!(write_to(&mut a, &mut b, again), wc_status::SUCCESS);
    assert_eq!(
        write_to(&mut a, &mut b, (addr, key)),
        wc_status::REM_ACCESS_ERR
    );
}

#[test]
fn a_silent_peer_does_not_hold_an_invalidation_for_ever() {
    let f = Fabric::default();
    let (mut a, mut b) = pair(&f, 8192, 16, 7);
    let mr = bindable(&mut b);
    let mw = b.e.alloc_mw(b.pd, true).unwrap();
    b.post(&bind(mw.rkey + 1, mr, b.at(0), 4096, REMOTE));
    ok(&collect(&mut a, &mut b, 0, 1).1);
    let to = (b.at(0), mw.rkey + 1);
    assert_eq!(write_to(&mut a, &mut b, to), wc_status::SUCCESS);
    let mapped = f.lock().mapped;
    b.post(&invalidate(mw.rkey + 1));
    assert!(b.poll().is_empty());
    f.lock().now += 6_000_000_000;
    // The peer may still write there, when it goes on: the invalidation is paid for with the connection.
    let mut got = b.poll();
    got.extend(b.poll());
    assert_eq!((got.len(), got[0].status), (1, wc_status::RETRY_EXC_ERR));
    assert_eq!(f.lock().mapped, mapped - 1, "the window's own mapping went");
}

#[test]
fn a_send_invalidates_at_the_receiver_before_its_receive_completes() {
    for len in [16usize, 6000] {
        let f = Fabric::default();
        let (mut a, mut b) = pair(&f, 16384, 16, 7);
        let mr = bindable(&mut b);
        let mw = b.e.alloc_mw(b.pd, true).unwrap();
        let (key, addr) = (mw.rkey + 7, b.at(0));
        b.post(&bind(key, mr, addr, 4096, REMOTE));
        ok(&collect(&mut a, &mut b, 0, 1).1);
        a.send(1, wr_opcode::RDMA_WRITE, 0, 16, (addr, key));
        let s = [a.sge(0, len)];
        a.post(&SendWr {
            imm: key,
            ..wr(2, wr_opcode::SEND_WITH_INV, &s, (0, 0))
        });
        for _ in 0..20 {
            a.poll();
            assert!(b.poll().is_empty(), "no receive yet");
        }
        b.recv(3, 8192, 8192);
        let mut vb = Vec::new();
        for _ in 0..100 {
            a.poll();
            vb.extend(b.poll());
        }
        assert_eq!(vb.len(), 1);
        assert_eq!(
            (
                vb[0].status,
                vb[0].wc_flags,
                vb[0].imm_data,
                vb[0].byte_len as usize
            ),
            (wc_status::SUCCESS, wc_flag::WITH_INV, key, len)
        );
        assert_eq!(b.e.env.mrs.get(mr.handle).unwrap().windows, 0);
        assert_eq!(
            write_to(&mut a, &mut b, (addr, key)),
            wc_status::REM_ACCESS_ERR
        );
    }
}

#[test]
fn a_send_with_a_key_that_is_no_bound_window_is_refused() {
    let f = Fabric::default();
    let (mut a, mut b) = pair(&f, 8192, 16, 7);
    b.recv(3, 0, 100);
    let s = [a.sge(0, 16)];
    a.post(&SendWr {
        imm: b.mr.rkey,
        ..wr(2, wr_opcode::SEND_WITH_INV, &s, (0, 0))
    });
    let (va, vb) = collect(&mut a, &mut b, 1, 1);
    assert_eq!(
        (va[0].status, vb[0].status),
        (wc_status::REM_ACCESS_ERR, wc_status::WR_FLUSH_ERR)
    );
}

#[test]
fn a_type_2_window_belongs_to_its_qp() {
    let f = Fabric::default();
    let (mut a, mut b) = pair(&f, 8192, 16, 7);
    let (qa, na) = a.create(16);
    let (qb, nb) = b.create(16);
    a.init(qa);
    b.init(qb);
    a.rtr(qa, 2, nb);
    b.rtr(qb, 1, na);
    a.rts(qa, 7);
    b.rts(qb, 7);
    let mr = bindable(&mut b);
    let mw = b.e.alloc_mw(b.pd, true).unwrap();
    let (key, addr) = (mw.rkey + 1, b.at(0));
    b.post(&bind(key, mr, addr, 4096, REMOTE));
    ok(&collect(&mut a, &mut b, 0, 1).1);
    assert_eq!(write_to(&mut a, &mut b, (addr, key)), wc_status::SUCCESS);
    let s = [a.sge(0, 16)];
    a.e.post_send(qa, &wr(5, wr_opcode::RDMA_WRITE, &s, (addr, key)))
        .unwrap();
    a.e.kick(qa);
    assert_eq!(
        collect(&mut a, &mut b, 1, 0).0[0].status,
        wc_status::REM_ACCESS_ERR
    );
    // The window goes with the QP.
    b.e.destroy_qp(b.qp).unwrap();
    assert_eq!(b.e.env.mrs.get(mr.handle).unwrap().windows, 0);
}

fn rereg_now(e: &mut Engine<crate::native::sim::SimNic>, mr: u32, r: &Rereg) -> Result<(), Errno> {
    e.rereg_begin(mr, r)?;
    e.rereg_finish(mr, r)
}

#[test]
fn re_registration_changes_rights_range_and_domain() {
    let f = Fabric::default();
    let (mut a, mut b) = pair(&f, 8192, 16, 7);
    let none = Rereg {
        flags: 0,
        pd: 0,
        addr: 0,
        len: 0,
        access: 0,
    };
    let to = (b.at(0), b.mr.rkey);
    assert_eq!(write_to(&mut a, &mut b, to), wc_status::SUCCESS);
    assert_eq!(rereg_now(&mut b.e, b.mr.handle, &none), Err(Errno::EINVAL));
    // A has the key: the change waits until it has forgotten it.
    let mapped = f.lock().mapped;
    let r = Rereg {
        flags: rereg::TRANSLATION | rereg::ACCESS,
        addr: b.at(4096),
        len: 4096,
        access: ALL,
        ..none
    };
    b.e.rereg_begin(b.mr.handle, &r).unwrap();
    assert!(!b.e.dereg_done(b.mr.handle));
    for _ in 0..10 {
        a.poll();
        b.poll();
    }
    assert!(b.e.dereg_done(b.mr.handle));
    b.e.rereg_finish(b.mr.handle, &r).unwrap();
    assert_eq!(f.lock().mapped, mapped);
    assert_eq!(
        write_to(&mut a, &mut b, (to.0 + 4096, to.1)),
        wc_status::SUCCESS
    );
    // Another PD, then back.
    let other = b.e.alloc_pd().unwrap();
    let pd = |pd| Rereg {
        flags: rereg::PD,
        pd,
        ..none
    };
    let moved = |b: &mut End, a: &mut End, to| {
        b.e.rereg_begin(b.mr.handle, &pd(to)).unwrap();
        for _ in 0..10 {
            a.poll();
            b.poll();
        }
        b.e.rereg_finish(b.mr.handle, &pd(to)).unwrap();
    };
    moved(&mut b, &mut a, other);
    assert_eq!(b.e.dealloc_pd(other), Err(Errno::EBUSY));
    let home = b.pd;
    moved(&mut b, &mut a, home);
    b.e.dealloc_pd(other).unwrap();
    assert_eq!(
        write_to(&mut a, &mut b, (to.0 + 4096, to.1)),
        wc_status::SUCCESS
    );
    assert_eq!(
        write_to(&mut a, &mut b, (to.0 + 4095, to.1)),
        wc_status::REM_ACCESS_ERR
    );
}

#[test]
fn rights_that_are_taken_away_are_gone() {
    let f = Fabric::default();
    let (mut a, mut b) = pair(&f, 8192, 16, 7);
    let to = (b.at(0), b.mr.rkey);
    let r = Rereg {
        flags: rereg::ACCESS,
        pd: 0,
        addr: 0,
        len: 0,
        access: access::LOCAL_WRITE,
    };
    rereg_now(&mut b.e, b.mr.handle, &r).unwrap();
    assert_eq!(write_to(&mut a, &mut b, to), wc_status::REM_ACCESS_ERR);
}

#[test]
fn eight_bytes_are_written_at_once() {
    let f = Fabric::default();
    let (mut a, mut b) = pair(&f, 8192, 16, 7);
    a.mem[..8].copy_from_slice(&77u64.to_ne_bytes());
    let off = (8 - b.at(0) % 8) as usize % 8;
    a.send(1, wr_opcode::ATOMIC_WRITE, 0, 8, (b.at(off), b.mr.rkey));
    let (va, _) = collect(&mut a, &mut b, 1, 0);
    ok(&va);
    assert_eq!(va[0].opcode, wc_opcode::ATOMIC_WRITE);
    assert_eq!(b.mem[off..off + 8], 77u64.to_ne_bytes());
    a.send(1, wr_opcode::ATOMIC_WRITE, 0, 8, (b.at(off) + 4, b.mr.rkey));
    assert_eq!(
        collect(&mut a, &mut b, 1, 0).0[0].status,
        wc_status::REM_INV_REQ_ERR
    );
    let f = Fabric::default();
    let (mut a, mut b) = pair(&f, 8192, 16, 7);
    let eight = 5u64.to_ne_bytes();
    let s = [crate::verbs::types::Sge {
        addr: eight.as_ptr() as u64,
        length: 8,
        lkey: 0,
    }];
    let mut w = wr(1, wr_opcode::ATOMIC_WRITE, &s, (b.at(off), b.mr.rkey));
    w.flags |= send_flag::INLINE;
    a.post(&w);
    ok(&collect(&mut a, &mut b, 1, 0).0);
    a.send(1, wr_opcode::ATOMIC_WRITE, 0, 16, (b.at(off), b.mr.rkey));
    assert_eq!(
        collect(&mut a, &mut b, 1, 0).0[0].status,
        wc_status::LOC_LEN_ERR
    );
}

/// Whatever the order of WRITEs, looks and invalidations: once an invalidation has completed at its owner nothing of the window changes
/// any more (hazard 6).
#[test]
fn nothing_is_written_after_an_invalidation_has_completed() {
    let mut late = 0;
    for seed in 1..400u64 {
        let mut dice = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut roll = |n: u64| {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            dice % n
        };
        let f = Fabric::default();
        let (mut a, mut b) = pair(&f, 8192, 32, 7);
        let mr = bindable(&mut b);
        let type_2 = roll(3) != 0;
        let mw = b.e.alloc_mw(b.pd, type_2).unwrap();
        let (key, addr) = (mw.rkey + 1, b.at(0));
        b.post(&bind(key, mr, addr, 4096, REMOTE));
        ok(&collect(&mut a, &mut b, 0, 1).1);
        for i in 0..4 {
            b.recv(900 + i, 4096, 4096);
        }
        f.lock().delayed = true;
        let remote = type_2 && roll(2) == 0;
        let (writes, when) = (3 + roll(8), roll(300));
        let (mut posted, mut asked, mut done_at) = (0, false, None);
        for turn in 0..3000u64 {
            match roll(4) {
                0 | 1 => {
                    f.step(roll(8) as usize);
                }
                2 => drop(a.poll()),
                _ => {
                    for w in b.poll() {
                        let inv =
                            w.wr_id == 78 || w.wc_flags & wc_flag::WITH_INV != 0 || w.wr_id == 77;
                        if inv && w.status == wc_status::SUCCESS && done_at.is_none() {
                            done_at = Some(b.mem[..4096].to_vec());
                        }
                    }
                }
            }
            if posted < writes && roll(40) == 0 {
                posted += 1;
                late += u32::from(done_at.is_some());
                a.mem[..64].fill(turn as u8 | 1);
                let s = [a.sge(0, 1 + roll(64) as usize)];
                let to = (addr + roll(4000), key);
                // The QP may have failed meanwhile.
                let _ =
                    a.e.post_send(a.qp, &wr(posted, wr_opcode::RDMA_WRITE, &s, to));
                a.e.kick(a.qp);
            }
            if !asked && turn >= when {
                asked = true;
                if remote {
                    let s = [a.sge(128, 16 + 6000 * (roll(2) as usize))];
                    let send = SendWr {
                        imm: key,
                        ..wr(70, wr_opcode::SEND_WITH_INV, &s, (0, 0))
                    };
                    let _ = a.e.post_send(a.qp, &send);
                    a.e.kick(a.qp);
                } else if type_2 {
                    b.post(&invalidate(key));
                } else {
                    b.post(&bind(key + 1, mr, 0, 0, 0));
                }
            }
        }
        if let Some(then) = done_at {
            assert!(b.mem[..4096] == then[..], "seed {seed}: written afterwards");
        } else {
            let dead = b.e.query_qp(b.qp).unwrap().attr.qp_state == kernel_abi::verbs::qps::ERR;
            assert!(dead, "seed {seed}: the invalidation did not complete");
        }
    }
    assert!(late > 100, "the schedules were too kind: {late}");
}

/// A READ that came before the SEND that takes its memory away has its data.
#[test]
fn a_send_that_invalidates_does_not_overtake_the_data_of_a_read() {
    for steps in 0..60usize {
        let f = Fabric::default();
        let (mut a, mut b) = pair(&f, 16384, 32, 7);
        let mr = bindable(&mut b);
        let mw = b.e.alloc_mw(b.pd, true).unwrap();
        let (key, addr) = (mw.rkey + 1, b.at(0));
        b.post(&bind(key, mr, addr, 8192, REMOTE));
        ok(&collect(&mut a, &mut b, 0, 1).1);
        b.mem[..8192].fill(7);
        b.recv(9, 12000, 64);
        f.lock().delayed = true;
        let (s, t) = ([a.sge(0, 8000)], [a.sge(9000, 16)]);
        a.post(&wr(1, wr_opcode::RDMA_READ, &s, (addr, key)));
        a.post(&SendWr {
            imm: key,
            ..wr(2, wr_opcode::SEND_WITH_INV, &t, (0, 0))
        });
        // B's device does nothing for a while; what A's sends arrives.
        let (mut sent, mut received) = (Vec::new(), Vec::new());
        for turn in 0..4000 {
            if turn < steps {
                f.step(0);
            } else {
                f.step(turn);
            }
            sent.extend(a.poll());
            let before = received.len();
            received.extend(b.poll());
            if received.len() > before {
                assert!(
                    a.mem[..8000].iter().all(|x| *x == 7),
                    "after {steps} steps the memory went before the READ"
                );
            }
        }
        ok(&sent);
        ok(&received);
        assert_eq!((sent.len(), received.len()), (2, 1), "{steps}");
    }
}
