//! How accesses to a context are announced, and how its owner waits until they have ended.

use super::attach::Fabric;
use super::peer::Remote;
use crate::nic::rdma_layout::{self as rdma, head};
use crate::shm::fabric_file::{Owner, state};
use crate::shm::sync::AtomicU32;
use crate::shm::{Mapping, barrier};
use std::sync::Arc;
use std::sync::atomic::Ordering::*;

/// A word in the memory of a context that says that this process is accessing it.
///
/// With a word of its own, a QP (more exactly: who holds its lock) is the only one that stores there, so that plain stores do; the
/// fence between the announcement and the look at what it depends on is executed by whoever unmaps.
pub(crate) struct Way {
    pub(crate) remote: Arc<Remote>,
    at: u64,
    /// 0: shared.
    way: u32,
}

/// Which ways belong to a QP, by bit. Way 0 is everybody's.
pub(super) struct Ways(AtomicU32);

impl Ways {
    pub(super) fn new() -> Ways {
        const { assert!(rdma::INFLIGHT_WAYS < 32) };
        Ways(AtomicU32::new(1 | !0 << rdma::INFLIGHT_WAYS))
    }

    /// A free one; 0 when there is none.
    fn take(&self) -> u32 {
        let lowest = |taken: u32| (taken != !0).then(|| taken | (taken + 1));
        match self.0.fetch_update(SeqCst, SeqCst, lowest) {
            Ok(taken) => taken.trailing_ones(),
            Err(_) => 0,
        }
    }

    fn give(&self, way: u32) {
        self.0.fetch_and(!(1 << way), SeqCst);
    }
}

impl Way {
    /// Announces an access, before anything is looked up there.
    #[inline(always)]
    pub(crate) fn enter(&self) {
        let word = self.remote.map.w64(self.at);
        if self.way != 0 {
            word.store(1, Relaxed);
            barrier::light();
        } else {
            word.add(1);
        }
    }

    #[inline(always)]
    pub(crate) fn leave(&self) {
        let word = self.remote.map.w64(self.at);
        if self.way != 0 {
            word.store(0, Release);
        } else {
            word.sub(1);
        }
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        if self.way != 0 {
            self.remote.ways.give(self.way);
        }
    }
}

impl Remote {
    /// A QP's way in. While there are enough, and both sides can do without fences, a word of its own.
    pub(crate) fn way(self: &Arc<Self>) -> Way {
        let light = barrier::is_ready() && self.map.w32(head::FENCES).load(Relaxed) != 0;
        let way = if light { self.ways.take() } else { 0 };
        Way {
            at: self.block + 8 + 8 * u64::from(way),
            way,
            remote: self.clone(),
        }
    }
}

/// Waits until every access to a context of ours that was in flight when the caller invalidated something has ended.
///
/// A stopped writer is waited for, and named in the log: memory safety wins over progress. A dead one has ended.
pub(crate) fn wait_in_flight(fabric: &Fabric, map: &Mapping) {
    // Now every writer has either announced itself, or sees what was invalidated.
    barrier::on_all();
    let mut said = false;
    let high = map
        .w32(head::INFLIGHT_HIGH)
        .load(SeqCst)
        .min(crate::shm::fabric_file::MAX_PROCS);
    for slot in 0..high {
        let block = rdma::INFLIGHT + u64::from(slot) * rdma::INFLIGHT_BLOCK;
        for way in 0..rdma::INFLIGHT_WAYS {
            let counter = map.w64(block + 8 + 8 * way);
            let mut turns = 0u32;
            while counter.load(SeqCst) != 0 {
                let inc = map.w64(block).load(Acquire) as u32;
                let owner = Owner { slot, inc };
                // What a dead writer left is not cleared here: the next owner of the slot begins with a cleared block.
                let gone =
                    fabric.file.proc(slot).state().load(Acquire) != state::pack(state::LIVE, owner);
                if gone || (turns % 1024 == 1023 && !fabric.is_alive(owner)) {
                    break;
                }
                if turns == STOPPED_AFTER {
                    let pid = fabric.file.proc(slot).pid().load(Relaxed);
                    fabric
                        .file
                        .proc(fabric.me.slot)
                        .waiting_for()
                        .store(pid, Relaxed);
                    said = true;
                    log::warn!(
                        "process {pid} is in the middle of a copy and does not go on: waiting for it"
                    );
                }
                crate::shm::trylock::pause(&mut turns);
            }
        }
    }
    if said {
        fabric
            .file
            .proc(fabric.me.slot)
            .waiting_for()
            .store(0, Relaxed);
    }
}

/// About a second of [`crate::shm::trylock::pause`].
const STOPPED_AFTER: u32 = 8192;

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_has_one_owner_or_is_everybodys() {
        let ways = Ways::new();
        let own: Vec<u32> = (1..rdma::INFLIGHT_WAYS).map(|_| ways.take()).collect();
        assert_eq!(own, (1..rdma::INFLIGHT_WAYS as u32).collect::<Vec<_>>());
        assert_eq!((ways.take(), ways.take()), (0, 0));
        ways.give(7);
        ways.give(3);
        assert_eq!((ways.take(), ways.take(), ways.take()), (3, 7, 0));
    }
}
