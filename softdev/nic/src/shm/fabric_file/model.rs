//! Records that change hands while others read them, in every order.

use super::*;
use crate::FabricOptions;
use crate::fabric::process::{free_qp, reap_slot};
use crate::shm::model::{Ended, Scenario, ended, mark, marks, require};

struct Rig {
    _dir: tempfile::TempDir,
    file: FabricFile,
}

const FIRST: Owner = Owner { slot: 1, inc: 1 };
const SECOND: Owner = Owner { slot: 2, inc: 1 };
const ASID: u32 = 1;

fn copy_of(owner: Owner, n: u64) -> CtxCopy {
    CtxCopy {
        owner,
        nonce: n,
        rdma_fd: n as u32,
        accel_fd: n as u32,
        rdma_ino: n,
        accel_ino: n,
        ports_mask: n,
        dev: n,
    }
}

impl Rig {
    fn new() -> Rig {
        crate::shm::fork::begin().unwrap();
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let opts = FabricOptions {
            dir: dir.path().join("fabric"),
            devices: 1,
            ports: 1,
            strict: false,
            retry_limit_ms: 0,
            rxe: false,
        };
        let file = FabricFile::open(&open_dir(&opts).unwrap(), &opts).unwrap();
        for owner in [FIRST, SECOND] {
            file.proc(owner.slot)
                .state()
                .store(state::pack(state::LIVE, owner), SeqCst);
        }
        file.asid_high(0).max(ASID + 1);
        Rig { _dir: dir, file }
    }

    fn context(&self) -> CtxRec<'_> {
        self.file.ctx(0, ASID)
    }

    /// As a context is opened.
    fn open(&self, owner: Owner, n: u64) -> bool {
        let record = self.context();
        if !record.claim(owner) {
            return false;
        }
        mark(n);
        record.publish(&copy_of(owner, n));
        true
    }

    fn close(&self, owner: Owner, n: u64) {
        mark(100 + n);
        self.context().release(owner);
    }
}

/// What is copied out of a record was in it at one time, whatever the record goes through meanwhile.
#[test]
fn a_copy_is_of_one_owner() {
    let rig = Rig::new();
    assert!(rig.open(FIRST, 1));
    let caught = Scenario::new()
        .thread(|| {
            rig.close(FIRST, 1);
            rig.open(SECOND, 2);
        })
        .thread(|| {
            if let Some(copy) = rig.context().copy() {
                let of = if copy.owner == FIRST {
                    copy_of(FIRST, 1)
                } else {
                    copy_of(SECOND, 2)
                };
                require(copy == of, "half of each");
            }
        })
        .check("context record");
    // Showing it, and both looks of who copies.
    assert_eq!(caught, 3);
}

/// A thread closes a context while another one of the same process opens one, and so does another process.
#[test]
fn a_record_goes_from_hand_to_hand() {
    let rig = Rig::new();
    assert!(rig.open(FIRST, 1));
    let caught = Scenario::new()
        .thread(|| rig.close(FIRST, 1))
        .thread(|| {
            rig.open(FIRST, 3);
        })
        .thread(|| {
            rig.open(SECOND, 2);
        })
        .after(|| {
            let order: Vec<u64> = marks().into_iter().filter(|m| *m < 100).collect();
            require(order.len() <= 1, "two owners at once");
            let now = rig.context().copy().map(|c| c.nonce);
            require(now == order.first().copied(), "somebody else's record");
        })
        .check("context record, from hand to hand");
    assert_eq!(caught, 0);
}

/// A process dies while it opens a context; who finds it dead undoes that, and somebody else wants the record.
#[test]
fn a_record_has_one_owner() {
    let rig = Rig::new();
    let caught = Scenario::new()
        .mortal(|| {
            rig.open(FIRST, 1);
        })
        .thread(|| {
            if ended(0) == Some(Ended::Killed) {
                mark(101);
                reap_slot(&rig.file, FIRST.slot);
            }
        })
        .thread(|| {
            rig.open(SECOND, 2);
        })
        .after(|| {
            let order: Vec<u64> = marks();
            let taken = [
                vec![1],
                vec![2],
                vec![1, 101],
                vec![101, 2],
                vec![2, 101],
                vec![101],
                vec![1, 101, 2],
                vec![],
            ];
            require(taken.contains(&order), "two owners at once");
            let owner = rig.context().copy().map(|c| (c.owner, c.nonce));
            let wanted = match order.as_slice() {
                [.., 2] | [2, ..] => Some((SECOND, 2)),
                [1] if ended(0) == Some(Ended::ByItself) => Some((FIRST, 1)),
                _ => None,
            };
            require(owner == wanted, "somebody else's record");
        })
        .check("context record, an owner dies");
    assert_eq!(caught, 0);
}

/// A QP's number: two want it, and the one that had it gives it back.
#[test]
fn a_number_has_one_owner() {
    let rig = Rig::new();
    rig.file.reserve_qp(0, 1, 7).unwrap();
    let word = rig.file.qp(0, 1, 7).state();
    word.store(qp_state::next(0, 1), SeqCst);
    let claim = |asid: u32| {
        if rig.file.qp(0, 1, 7).claim(asid) {
            mark(u64::from(asid));
        }
    };
    let caught = Scenario::new()
        .interruptions(2)
        .thread(|| {
            mark(1);
            free_qp(&rig.file, 0, 1, 7);
        })
        .thread(|| claim(2))
        .thread(|| claim(3))
        .after(|| {
            let owners: Vec<u64> = marks().into_iter().filter(|m| *m != 1).collect();
            let now = u64::from(qp_state::asid(word.load(Acquire)));
            require(
                owners.len() <= 1 && now == owners.first().copied().unwrap_or(0),
                "two owners",
            );
        })
        .check("QP record");
    assert_eq!(caught, 0);
}
