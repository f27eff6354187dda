//! Doorbells from the handler to the device's thread.
//!
//! The handler may run on an alternate stack of a few kilobytes, which is too small for the data path: so it leaves the entry
//! in a slot, wakes the thread, and waits until it has been executed.

use crate::fabric::Fabric;
use crate::nic::NicContext;
use rustix::thread::futex;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering::*};

struct Slot {
    state: AtomicU32,
    context: AtomicPtr<NicContext>,
    port: AtomicU32,
    entry: AtomicU64,
}

const FREE: u32 = 0;
const FILLING: u32 = 1;
const READY: u32 = 2;
const RUNNING: u32 = 3;
const DONE: u32 = 4;

static SLOTS: [Slot; 32] = [const {
    Slot {
        state: AtomicU32::new(FREE),
        context: AtomicPtr::new(null_mut()),
        port: AtomicU32::new(0),
        entry: AtomicU64::new(0),
    }
}; 32];
/// Goes up with every entry: the thread looks through the slots only when it has changed.
static POSTED: AtomicU32 = AtomicU32::new(0);

/// In the handler: has the entry executed. The caller keeps the context alive.
pub(crate) fn ring(context: &NicContext, port: u32, entry: u64) {
    let mut turns = 0;
    let slot = loop {
        let free = |s: &&Slot| {
            s.state
                .compare_exchange(FREE, FILLING, AcqRel, Relaxed)
                .is_ok()
        };
        if let Some(slot) = SLOTS.iter().find(free) {
            break slot;
        }
        crate::shm::trylock::pause(&mut turns);
    };
    slot.context
        .store(std::ptr::from_ref(context).cast_mut(), Relaxed);
    slot.port.store(port, Relaxed);
    slot.entry.store(entry, Relaxed);
    slot.state.store(READY, SeqCst);
    POSTED.fetch_add(1, SeqCst);
    context.rdma().fabric().pipe.wake();
    loop {
        let now = slot.state.load(Acquire);
        if now == DONE {
            break;
        }
        // The thread always comes; the limit is for a wake-up lost between processes of the same number.
        let limit = futex::Timespec {
            tv_sec: 0,
            tv_nsec: 10_000_000,
        };
        let _ = futex::wait(&slot.state, futex::Flags::PRIVATE, now, Some(&limit));
    }
    slot.state.store(FREE, Release);
}

/// On the device's thread: executes what handlers have left for contexts of this fabric.
pub(crate) fn serve(fabric: &Fabric, seen: &mut u32) {
    let posted = POSTED.load(SeqCst);
    if *seen == posted {
        return;
    }
    *seen = posted;
    for slot in &SLOTS {
        if slot.state.load(Acquire) != READY {
            continue;
        }
        let context = slot.context.load(Relaxed);
        // SAFETY: the handler that filled the slot waits for DONE and keeps the context alive until then.
        let Some(context) = (unsafe { context.as_ref() }) else {
            continue;
        };
        if !std::ptr::eq(&**context.rdma().fabric(), fabric) {
            continue;
        }
        if slot
            .state
            .compare_exchange(READY, RUNNING, AcqRel, Relaxed)
            .is_err()
        {
            continue;
        }
        context.doorbell(slot.port.load(Relaxed), slot.entry.load(Relaxed));
        slot.state.store(DONE, SeqCst);
        let _ = futex::wake(&slot.state, futex::Flags::PRIVATE, 1);
    }
}

/// In a forked child: nobody waits here.
pub(super) fn reset() {
    for slot in &SLOTS {
        slot.state.store(FREE, SeqCst);
    }
}
