//! Accesses, and an owner that takes a mapping away, in every order.

use super::*;
use crate::fabric::attach::lock;
use crate::nic::mmu::{self, Entry, Place, Table};
use crate::shm::model::{self, Ended, Scenario, mark, marks, require};
use crate::shm::sync::AtomicU64;
use crate::{AccelFile, EventSink, FabricOptions, NicContext, NicEvent, RdmaFile};

struct Deaf;
impl EventSink for Deaf {
    fn event(&self, _: NicEvent) {}
}

struct Rig {
    _dir: tempfile::TempDir,
    fabric: Arc<Fabric>,
    accel: Arc<AccelFile>,
    context: Arc<NicContext>,
    remote: Arc<Remote>,
    entry: u64,
    /// What copies change.
    data: AtomicU64,
}

const FIRST: Entry = Entry {
    va: mmu::HOST_BASE + mmu::SLOT,
    size: 4096,
    place: Place::Host(0x10_0000),
};
/// Takes the place of the first.
const SECOND: Entry = Entry {
    va: FIRST.va + 64,
    size: 8192,
    place: Place::Rdma(0x20_0000),
};
const AT: u64 = FIRST.va + 128;
/// A process that is another one.
const OTHER: Owner = Owner { slot: 1, inc: 3 };
const GONE: u64 = 1;
const BEGIN: u64 = 2;
const END: u64 = 3;

impl Rig {
    fn new() -> Rig {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let fabric = Fabric::attach(&FabricOptions {
            dir: dir.path().join("fabric"),
            devices: 1,
            ports: 1,
            strict: false,
            retry_limit_ms: 0,
            rxe: false,
        })
        .unwrap();
        let accel = AccelFile::create(&fabric, 0).unwrap();
        let rdma = RdmaFile::create(&fabric, 0).unwrap();
        let context = rdma
            .open_context(0, Some(accel.clone()), Arc::new(Deaf))
            .unwrap();
        let remote = fabric.remote(0, context.asid()).unwrap();
        let entry = Table::Host.offset(1);
        mmu::publish(&remote.accel, entry, &FIRST);
        let other = fabric.file.proc(OTHER.slot).state();
        other.store(state::pack(state::LIVE, OTHER), SeqCst);
        remote.map.w32(head::INFLIGHT_HIGH).max(OTHER.slot + 1);
        let block = rdma::INFLIGHT + u64::from(OTHER.slot) * rdma::INFLIGHT_BLOCK;
        remote.map.w64(block).store(u64::from(OTHER.inc), SeqCst);
        Rig {
            _dir: dir,
            fabric,
            accel,
            context,
            remote,
            entry,
            data: AtomicU64::new(0),
        }
    }

    /// Words of accesses that nobody makes here, of both processes.
    fn quiet(&self) -> [std::ops::Range<usize>; 2] {
        [self.fabric.me.slot, OTHER.slot].map(|slot| {
            let block = rdma::INFLIGHT + u64::from(slot) * rdma::INFLIGHT_BLOCK;
            let at = |way: u64| self.remote.map.ptr(block + 8 + 8 * way, 8).unwrap() as usize;
            at(3)..at(rdma::INFLIGHT_WAYS)
        })
    }

    fn way(&self, slot: u32, way: u32) -> Way {
        let block = rdma::INFLIGHT + u64::from(slot) * rdma::INFLIGHT_BLOCK;
        Way {
            at: block + 8 + 8 * u64::from(way),
            way,
            remote: self.remote.clone(),
        }
    }

    /// As the engine does it.
    fn access(&self, way: &Way) {
        way.enter();
        match mmu::translate(&self.remote.accel, AT, 8) {
            None => {}
            Some(Place::Host(0x10_0080)) => {
                mark(BEGIN);
                require(!marks().contains(&GONE), "a copy begins behind the unmap");
                self.data.fetch_add(1, Relaxed);
                mark(END);
            }
            Some(Place::Rdma(0x20_0040)) => {
                require(marks().contains(&GONE), "a mapping that is not there yet")
            }
            Some(_) => require(false, "half of each mapping"),
        }
        way.leave();
    }

    fn replace(&self) {
        mmu::invalidate(&self.remote.accel, self.entry);
        wait_in_flight(&self.fabric, &self.remote.map);
        mark(GONE);
        let count = |m| marks().iter().filter(|x| **x == m).count();
        require(count(BEGIN) == count(END), "a copy is under way");
        let seen = self.data.load(Relaxed);
        require(
            seen == self.data.fetch_add(0, Relaxed),
            "a copy is not seen",
        );
        mmu::publish(&self.remote.accel, self.entry, &SECOND);
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.fabric
            .file
            .proc(OTHER.slot)
            .state()
            .store(state::FREE, SeqCst);
        self.context.close();
        self.accel.close();
        drop(lock(&self.fabric.peers));
    }
}

fn unmap(name: &str, ways: [u32; 2], light: bool) -> usize {
    let rig = Rig::new();
    let [mine, theirs] = rig.quiet();
    let scenario = Scenario::new()
        .quiet(mine)
        .quiet(theirs)
        .thread(|| {
            rig.access(&rig.way(rig.fabric.me.slot, ways[0]));
        })
        .thread(|| rig.access(&rig.way(OTHER.slot, ways[1])))
        .thread(|| rig.replace())
        .interruptions(2);
    if light {
        scenario.check(name)
    } else {
        scenario.without_membarrier().check(name)
    }
}

#[test]
fn nobody_writes_behind_an_unmap() {
    // The fence of all, the entry's tag on both sides, leaving, and the look at who is inside.
    assert_eq!(unmap("unmap", [1, 2], true), 5);
    assert_eq!(unmap("unmap, shared words", [0, 0], false), 5);
}

/// A dead writer is not waited for, and the one that lives is.
#[test]
fn a_dead_writer_has_ended() {
    let rig = Rig::new();
    let [mine, theirs] = rig.quiet();
    let caught = Scenario::new()
        .quiet(mine)
        .quiet(theirs)
        .mortal(|| {
            let way = rig.way(OTHER.slot, 1);
            rig.access(&way);
        })
        .thread(|| {
            // Whoever sees the death.
            let mut turns = 0;
            loop {
                match model::ended(0) {
                    Some(Ended::Killed) => break,
                    Some(Ended::ByItself) => return,
                    None => crate::shm::trylock::pause(&mut turns),
                }
            }
            rig.fabric
                .file
                .proc(OTHER.slot)
                .state()
                .store(state::FREE, SeqCst);
        })
        .thread(|| {
            mmu::invalidate(&rig.remote.accel, rig.entry);
            wait_in_flight(&rig.fabric, &rig.remote.map);
            mark(GONE);
        })
        .check("unmap, a writer dies");
    // The fence of all.
    assert_eq!(caught, 1);
}
