//! Stores to UMR register pages, for programs that know no paravirtual doorbell.
//!
//! The pages lie behind the end of the RDMA file: mapping them works, a store raises SIGBUS. The handler finds the file and offset
//! of the address, decodes the store, does what the register does, and goes on behind the instruction. The signal is
//! synchronous and the instruction the program's own, so this thread holds none of our locks. Slow (a scan of
//! `/proc/thread-self/maps`, a turn of the device's thread), but right.

#[cfg(target_arch = "x86_64")]
mod decode;
pub(crate) mod handover;
mod maps;
mod signal;

use crate::nic::NicContext;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering::*};

pub(crate) use signal::install;

/// An open RDMA file.
struct Watched {
    dev: AtomicU64,
    ino: AtomicU64,
    context: AtomicPtr<NicContext>,
    /// Threads in the handler that use the context.
    inside: AtomicUsize,
}

const SLOTS: usize = 256;
static WATCHED: [Watched; SLOTS] = [const {
    Watched {
        dev: AtomicU64::new(0),
        ino: AtomicU64::new(0),
        context: AtomicPtr::new(null_mut()),
        inside: AtomicUsize::new(0),
    }
}; SLOTS];
/// Incarnation of the process that the counters count for.
static COUNTED_FOR: AtomicU32 = AtomicU32::new(0);

/// From now on stores to the context's register pages are served.
pub(crate) fn watch(context: &NicContext) {
    let now = crate::shm::fork::incarnation();
    if COUNTED_FOR.swap(now, SeqCst) != now {
        // Threads that were in the handler when this process was forked are not here.
        WATCHED.iter().for_each(|slot| slot.inside.store(0, SeqCst));
        handover::reset();
    }
    let (dev, ino) = context.rdma().inode();
    let address = std::ptr::from_ref(context).cast_mut();
    for slot in &WATCHED {
        // Address 1 marks a slot that is being filled.
        if slot
            .context
            .compare_exchange(
                null_mut(),
                null_mut::<NicContext>().wrapping_byte_add(1),
                AcqRel,
                Relaxed,
            )
            .is_ok()
        {
            slot.dev.store(dev, Relaxed);
            slot.ino.store(ino, Relaxed);
            slot.context.store(address, Release);
            return;
        }
    }
    log::warn!(
        "more than {SLOTS} contexts: doorbell pages of this one do not work (its functions do)"
    );
}

/// The context goes away; no handler uses it when this returns.
pub(crate) fn forget(context: &NicContext) {
    let address = std::ptr::from_ref(context).cast_mut();
    for slot in &WATCHED {
        if slot.context.load(Acquire) == address {
            slot.context.store(null_mut(), SeqCst);
            let mut turns = 0;
            while slot.inside.load(SeqCst) != 0 {
                crate::shm::trylock::pause(&mut turns);
            }
        }
    }
}

/// Does what a store at `address` means. False if no register page is there.
fn store(address: u64, value: &[u8]) -> bool {
    let Some(place) = maps::find(address) else {
        return false;
    };
    let known = |w: &&Watched| {
        w.context.load(SeqCst).addr() > 1
            && (w.ino.load(Relaxed), w.dev.load(Relaxed)) == (place.ino, place.dev)
    };
    let Some(slot) = WATCHED.iter().find(known) else {
        return false;
    };
    slot.inside.fetch_add(1, SeqCst);
    let served = serve(slot, &place, value);
    slot.inside.fetch_sub(1, SeqCst);
    served
}

fn serve(slot: &Watched, place: &maps::Place, value: &[u8]) -> bool {
    let context = slot.context.load(SeqCst);
    if context.addr() <= 1 || slot.ino.load(Relaxed) != place.ino {
        return false;
    }
    // SAFETY: `forget` clears the slot and then waits for its counter, which counts this thread, before the context goes.
    let context = unsafe { &*context };
    let Some((port, page)) = context.rdma().layout.umr_at(place.offset) else {
        return false;
    };
    let off = (place.offset % 4096) as u32;
    let word = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |w, b| w << 8 | u64::from(*b));
    if value.is_empty() {
        return false;
    }
    if value.len() == 4 {
        context.umr_store(port, page, off, word(value), 4);
    } else {
        // A vector store of two doorbells' width is two stores; smaller ones mean nothing to a register.
        for (part, at) in value.chunks_exact(8).zip((off..).step_by(8)) {
            context.umr_store(port, page, at, word(part), 8);
        }
    }
    true
}
