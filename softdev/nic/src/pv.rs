//! The paravirtual functions, and the few calls of a process about itself. Unsafe: the C edge.

use crate::nic::NicContext;
use crate::{Errno, Result};
use kernel_abi::ext::{FRAME_MAX, PV_VERSION, PvTable, frame};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering::*};

/// How an event gets into a completion channel.
type Raise = fn(channel_fd: i32, user_handle: u64) -> i32;

static RAISE: AtomicPtr<()> = AtomicPtr::new(std::ptr::null_mut());

/// The face registers how [`PvTable::raise`] reaches a completion channel. Called once per process.
pub fn set_raise(f: Raise) {
    RAISE.store(f as *mut (), Release);
}

fn raise_function() -> Option<Raise> {
    let f = RAISE.load(Acquire);
    if f.is_null() {
        return None;
    }
    // SAFETY: only `set_raise` stores here, and it stores a function of this type.
    Some(unsafe { std::mem::transmute::<*mut (), Raise>(f) })
}

pub(crate) fn can_raise() -> bool {
    !RAISE.load(Acquire).is_null()
}

/// Address of the table in this process.
pub(crate) fn table_address() -> u64 {
    static TABLE: OnceLock<PvTable> = OnceLock::new();
    let table = TABLE.get_or_init(|| PvTable {
        version: PV_VERSION,
        size: size_of::<PvTable>() as u32,
        doorbell: doorbell as *const () as u64,
        progress: progress as *const () as u64,
        cq_ci: cq_ci as *const () as u64,
        cq_arm: cq_arm as *const () as u64,
        raise: raise as *const () as u64,
        stalled_us: stalled_us as *const () as u64,
        note: note as *const () as u64,
        frame_open: frame_open as *const () as u64,
        frame_close: frame_close as *const () as u64,
        frame_send: frame_send as *const () as u64,
        frame_recv: frame_recv as *const () as u64,
        frame_arm: frame_arm as *const () as u64,
    });
    std::ptr::from_ref(table) as u64
}

/// The context's address. Like a mapped register page it is good until the context is closed.
pub(crate) fn cookie(context: &NicContext) -> u64 {
    std::ptr::from_ref(context) as u64
}

/// Runs a function of the context that a cookie names; a panic ends here.
#[inline(always)]
fn with<R: Default>(cookie: u64, f: impl FnOnce(&NicContext) -> R) -> R {
    // SAFETY: a cookie is null or was made by `cookie` from a context that its holder keeps open while it calls (the
    // contract of the table); contexts are never changed but through shared references.
    let Some(context) = (unsafe { (cookie as *const NicContext).as_ref() }) else {
        return R::default();
    };
    catch_unwind(AssertUnwindSafe(|| f(context))).unwrap_or_default()
}

extern "C" fn doorbell(cookie: u64, port: u32, entry: u64) -> u32 {
    with(cookie, |c| c.doorbell(port, entry))
}

extern "C" fn progress(cookie: u64, budget: u64) -> u32 {
    with(cookie, |c| c.progress(budget))
}

extern "C" fn cq_ci(cookie: u64, port: u32, cq: u32, ci: u32) {
    with(cookie, |c| c.cq_ci(port, cq, ci));
}

extern "C" fn cq_arm(cookie: u64, port: u32, cq: u32, ci: u32) -> u32 {
    with(cookie, |c| c.cq_arm(port, cq, ci))
}

extern "C" fn stalled_us(cookie: u64, port: u32, qpn: u32) -> u64 {
    with(cookie, |c| c.stalled_us(port, qpn))
}

extern "C" fn note(cookie: u64, port: u32, qpn: u32, which: u32, value: u64) {
    with(cookie, |c| c.note(port, qpn, which, value));
}

extern "C" fn frame_open(cookie: u64, port: u32, qpn: u32) -> i32 {
    let done = with(cookie, |c| Some(c.frame_open(port, qpn)));
    match done.unwrap_or(Err(Errno::EIO)) {
        Ok(()) => 0,
        Err(e) => e.0,
    }
}

extern "C" fn frame_close(cookie: u64, port: u32, qpn: u32) {
    with(cookie, |c| c.frame_close(port, qpn));
}

extern "C" fn frame_send(cookie: u64, ipv4: u32, qp_num: u32, bytes: u64, len: u64) -> u32 {
    if bytes == 0 || len > FRAME_MAX as u64 {
        return frame::LOST;
    }
    // SAFETY: the caller's own bytes, which nobody changes during the call (the contract of the table).
    let bytes = unsafe { std::slice::from_raw_parts(bytes as *const u8, len as usize) };
    with(cookie, |c| c.frame_send(ipv4, qp_num, bytes))
}

extern "C" fn frame_recv(cookie: u64, port: u32, qpn: u32, room: u64, len: u64) -> u64 {
    if room == 0 || len > isize::MAX as u64 {
        return 0;
    }
    // SAFETY: the caller's own initialized bytes, which nobody else uses during the call (the contract of the table).
    let room = unsafe { std::slice::from_raw_parts_mut(room as *mut u8, len as usize) };
    with(cookie, |c| c.frame_recv(port, qpn, room) as u64)
}

extern "C" fn frame_arm(cookie: u64) -> u32 {
    with(cookie, |c| u32::from(c.frame_arm()))
}

extern "C" fn raise(_cookie: u64, channel_fd: i32, user_handle: u64) -> i32 {
    let Some(f) = raise_function() else {
        return libc::ENOSYS;
    };
    catch_unwind(|| f(channel_fd, user_handle)).unwrap_or(libc::EIO)
}

/// Lets every process of this user copy into this one where yama asks (prctl(2)); without yama a call that fails.
pub(crate) fn allow_ptrace() {
    const PR_SET_PTRACER: i64 = 0x5961_6d61;
    // SAFETY: takes two numbers; -1 is PR_SET_PTRACER_ANY.
    unsafe { libc::syscall(libc::SYS_prctl, PR_SET_PTRACER, -1i64, 0i64, 0i64, 0i64) };
}

/// What a thread that is being started inherits: everything blocked but what the thread's own instructions raise.
fn block_signals() -> libc::sigset_t {
    // SAFETY: all zeroes is a valid set.
    let mut all: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    let mut old: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is ours.
    unsafe { libc::sigfillset(&mut all) };
    for own in [
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGFPE,
        libc::SIGILL,
        libc::SIGTRAP,
        libc::SIGABRT,
    ] {
        // SAFETY: the set is ours.
        unsafe { libc::sigdelset(&mut all, own) };
    }
    // SAFETY: both sets are ours.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut old) };
    old
}

fn restore_signals(old: &libc::sigset_t) {
    // SAFETY: the set came from `block_signals`.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, old, std::ptr::null_mut()) };
}

/// Runs a write to a pipe whose reader may have died. The error is all that we want: the signal would end the program.
pub(crate) fn without_sigpipe(write: impl FnOnce() -> Result<()>) -> Result<()> {
    // SAFETY: all zeroes is a valid set.
    let mut pipe: libc::sigset_t = unsafe { std::mem::zeroed() };
    let (mut old, mut before) = (pipe, pipe);
    // SAFETY: the set is ours.
    unsafe { libc::sigaddset(&mut pipe, libc::SIGPIPE) };
    // SAFETY: both sets are ours.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &pipe, &mut old) };
    // One that the program has pending already stays its own. Where the signal was not blocked there is none.
    // SAFETY: the set is the kernel's.
    if unsafe { libc::sigismember(&old, libc::SIGPIPE) } == 1 {
        // SAFETY: the set is ours.
        unsafe { libc::sigpending(&mut before) };
    }
    let done = write();
    // SAFETY: the set is ours.
    let pending = unsafe { libc::sigismember(&before, libc::SIGPIPE) } == 1;
    if done == Err(Errno(libc::EPIPE)) && !pending {
        let now = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: set and time are ours, and nobody asks for the details.
        unsafe { libc::sigtimedwait(&pipe, std::ptr::null_mut(), &now) };
    }
    restore_signals(&old);
    done
}

/// Runs `f`, which starts a thread, so that the thread inherits no signals of the program.
pub fn without_signals<R>(f: impl FnOnce() -> R) -> R {
    let blocked = block_signals();
    let result = f();
    restore_signals(&blocked);
    result
}

/// sigaction(2), returning what was there.
pub(crate) fn exchange_action(signal: i32, new: &libc::sigaction) -> Result<libc::sigaction> {
    // SAFETY: all zeroes is a valid action.
    let mut old: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: both are ours; the handler in `new` is installed by the module that wrote it.
    if unsafe { libc::sigaction(signal, new, &mut old) } != 0 {
        return Err(Errno::last());
    }
    Ok(old)
}

/// fork: called in the child by the face's atfork handler (or detected by the wiped page): contexts of the parent are dead here;
/// touches no shared state.
pub fn after_fork_in_child() {
    crate::shm::fork::forget();
    crate::shm::fd::forget_internal();
    crate::shm::fd::stop_reading_in_child();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::fd::{Fd, WakePipe, wake_other};
    use std::sync::atomic::AtomicU32;

    static SEEN: AtomicU32 = AtomicU32::new(0);

    extern "C" fn count(_signal: i32) {
        SEEN.fetch_add(1, SeqCst);
    }

    #[test]
    fn waking_the_dead_raises_no_signal() {
        // SAFETY: all zeroes is a valid action.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = count as *const () as usize;
        let before = exchange_action(libc::SIGPIPE, &action).unwrap();
        let WakePipe { read, write } = WakePipe::new().unwrap();
        drop::<Fd>(read);
        wake_other(&write);
        assert_eq!(SEEN.load(SeqCst), 0);
        // One that was pending before is still there afterwards.
        // SAFETY: all zeroes is a valid set.
        let mut pipe: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: the set is ours.
        unsafe { libc::sigaddset(&mut pipe, libc::SIGPIPE) };
        let mut old = pipe;
        // SAFETY: both sets are ours.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &pipe, &mut old) };
        // SAFETY: a signal to this thread, which has a handler for it.
        unsafe { libc::raise(libc::SIGPIPE) };
        wake_other(&write);
        assert_eq!(SEEN.load(SeqCst), 0);
        restore_signals(&old);
        assert_eq!(SEEN.load(SeqCst), 1);
        exchange_action(libc::SIGPIPE, &before).unwrap();
    }
}
