//! Objects handed to C: the C struct first, our part behind it. libibverbs and programs write into the C part whenever they
//! like, so Rust references are made to our part only.

use gaudi_verbs::Context;
use std::sync::Arc;

/// Pointer to a field of a C object that C code may change at the same time, made without a reference to the object.
macro_rules! field {
    ($ptr:expr, $t:ty, $($f:ident).+, $ft:ty) => {
        $ptr.cast::<u8>().wrapping_add(core::mem::offset_of!($t, $($f).+)).cast::<$ft>()
    };
}
pub(crate) use field;

#[repr(C)]
pub(crate) struct Object<C, O> {
    pub(crate) c: C,
    pub(crate) own: O,
}

impl<C, O> Object<C, O> {
    /// Gives the object to C. `retake` is its inverse.
    pub(crate) fn give(self: Box<Self>) -> *mut C {
        Box::into_raw(self).cast()
    }

    /// Our part of an object.
    ///
    /// # Safety
    /// `ptr` came from `give` of the same type and has not been retaken; nobody retakes it while the reference lives (the
    /// verbs leave that to the program: ibv_destroy_qp(3) and its likes).
    pub(crate) unsafe fn own<'a>(ptr: *mut C) -> &'a O {
        let own = field!(ptr, Self, own, O);
        // SAFETY: by the contract, `ptr` is the start of a live `Object<C, O>`, whose `own` is never borrowed mutably.
        unsafe { &*own }
    }

    /// Takes the object back and frees it.
    ///
    /// # Safety
    /// As for [`Self::own`]; the pointer must not be used afterwards.
    pub(crate) unsafe fn retake(ptr: *mut C) {
        // SAFETY: `give` made the pointer from a Box of this type.
        let object = unsafe { Box::from_raw(ptr.cast::<Self>()) };
        drop(object);
    }
}

/// Our part of most objects.
pub(crate) struct Handle {
    pub(crate) context: Arc<Context>,
    pub(crate) handle: u32,
}

/// Blocks until each counter, which the program advances under the mutex, has reached the number of events that the program has
/// taken (ibv_ack_cq_events(3), ibv_ack_async_event(3)).
///
/// # Safety
/// `mutex` and `cond` are the initialised ones of a live object and guard all `counters` (pointers into that object).
pub(crate) unsafe fn wait_acknowledged<const N: usize>(
    mutex: *mut libc::pthread_mutex_t,
    cond: *mut libc::pthread_cond_t,
    counters: [(*const u32, u32); N],
) {
    // SAFETY: initialised by contract.
    unsafe { libc::pthread_mutex_lock(mutex) };
    while counters.iter().any(|(acknowledged, taken)| {
        // SAFETY: inside a live object by contract; writers hold the mutex, as we do.
        let acknowledged = unsafe { acknowledged.read_volatile() };
        acknowledged != *taken
    }) {
        // SAFETY: initialised by contract, and the mutex is held.
        unsafe { libc::pthread_cond_wait(cond, mutex) };
    }
    // SAFETY: locked above.
    unsafe { libc::pthread_mutex_unlock(mutex) };
}

#[cfg(test)]
mod tests {
    use super::wait_acknowledged;
    use crate::abi::{IbvQp, Plain};
    use std::time::Duration;

    #[test]
    fn destroying_waits_for_the_last_acknowledgement() {
        let mut qp = IbvQp::zeroed();
        let qp = (&raw mut qp).addr();
        let mutex = move || field!((qp as *mut IbvQp), IbvQp, mutex, libc::pthread_mutex_t);
        let cond = move || field!((qp as *mut IbvQp), IbvQp, cond, libc::pthread_cond_t);
        let counter = move || field!((qp as *mut IbvQp), IbvQp, events_completed, u32);
        // What ibv_ack_async_event(3) does.
        let program = std::thread::spawn(move || {
            for acknowledged in 1..=2 {
                std::thread::sleep(Duration::from_millis(20));
                // SAFETY: the mutex of `qp`, which outlives this thread.
                unsafe { libc::pthread_mutex_lock(mutex()) };
                // SAFETY: the counter of `qp`, under its mutex.
                unsafe { counter().write_volatile(acknowledged) };
                // SAFETY: the condition of `qp`.
                unsafe { libc::pthread_cond_signal(cond()) };
                // SAFETY: locked above.
                unsafe { libc::pthread_mutex_unlock(mutex()) };
            }
        });
        // SAFETY: zero is the initialised value of both; the counter belongs to the same QP.
        unsafe { wait_acknowledged(mutex(), cond(), [(counter().cast_const(), 2)]) };
        // SAFETY: the last writer has acknowledged.
        assert_eq!(unsafe { counter().read_volatile() }, 2);
        program.join().unwrap();
    }
}
