//! The SIGSEGV and SIGBUS handlers and what they owe to the host's own.
//!
//! A process may hold several copies of this crate (the provider and the soft device are libraries
//! of their own) and a host may install handlers before, between and after. Three measures keep the
//! chain finite and every copy served:
//! * each time a copy goes on top it uses another entry point ("level") with its own saved action,
//!   so a host handler that calls what it found calls an older level, never the one above it;
//! * an entry point carries a mark and the address of its copy's range table; a copy that finds
//!   another copy on top registers its range there and leaves it on top;
//! * saved actions are immutable and reached by one atomic pointer, so the handler takes no lock.

use crate::access_x86::guarded;
use libc::{c_int, c_void, sigaction, siginfo_t, ucontext_t};
use std::arch::global_asm;
use std::io;
use std::mem::{offset_of, zeroed};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicUsize, Ordering::*};

const SIGNALS: [c_int; 2] = [libc::SIGSEGV, libc::SIGBUS];
const LEVELS: usize = 8;
const ENTRY_SIZE: usize = 64;
/// What `sa_flags` of the host are taken over, because the kernel then does for us what it would
/// have done for the host's handler. Its mask is taken over as well.
const KEPT_FLAGS: c_int = libc::SA_NODEFER | libc::SA_RESTART;

/// A guarded range of code and where to resume after a fault in it.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Range {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) fixup: usize,
}

/// Ranges of the other copies in this process. Written by those copies: layout is fixed by `MARK`.
#[repr(C)]
struct Table {
    slots: [AtomicPtr<Range>; 16],
}

static TABLE: Table = Table {
    slots: [const { AtomicPtr::new(null_mut()) }; 16],
};
static SAVED: [[AtomicPtr<sigaction>; LEVELS]; 2] =
    [const { [const { AtomicPtr::new(null_mut()) }; LEVELS] }; 2];
/// Entry point of another copy that serves our range too, per signal.
static JOINED: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];
/// The process that is changing handlers, 0 for none. A pid, since a forked child inherits the value.
static BUSY: AtomicI32 = AtomicI32::new(0);

/// A sigaction holds a pointer and is not `Sync` by itself.
struct Constant(sigaction);

// SAFETY: never changed.
unsafe impl Sync for Constant {}

// SAFETY: all zeroes is a valid sigaction and means SIG_DFL.
static DEFAULT: Constant = Constant(unsafe { zeroed() });

/// "gaudi-usercopy-1": change the digit with the layout of `Table` or `Mark`.
const MARK: [u64; 2] = [
    u64::from_le_bytes(*b"gaudi-us"),
    u64::from_le_bytes(*b"ercopy-1"),
];
const MARK_AT: usize = 16;

#[repr(C)]
#[derive(Clone, Copy)]
struct Mark {
    text: [u64; 2],
    /// From the address of this field to the copy's `Table`.
    table: u64,
}

unsafe extern "C" {
    fn gaudi_usercopy_entries();
}

global_asm!(
    ".pushsection .text.gaudi_usercopy_entries,\"ax\",@progbits",
    ".p2align 6",
    ".hidden gaudi_usercopy_entries",
    ".globl gaudi_usercopy_entries",
    ".type gaudi_usercopy_entries, @function",
    "gaudi_usercopy_entries:",
    ".set .Lgaudi_level, 0",
    ".rept {LEVELS}",
    ".p2align 6",
    "endbr64",
    "mov ecx, .Lgaudi_level",
    "jmp {handler}",
    ".p2align 4",
    ".quad {MARK0}",
    ".quad {MARK1}",
    ".quad {table} - .",
    ".set .Lgaudi_level, .Lgaudi_level + 1",
    ".endr",
    ".popsection",
    LEVELS = const LEVELS,
    MARK0 = const MARK[0],
    MARK1 = const MARK[1],
    handler = sym handler,
    table = sym TABLE,
);

fn entries() -> usize {
    gaudi_usercopy_entries as *const () as usize
}

fn is_ours(handler: usize) -> bool {
    (entries()..entries() + LEVELS * ENTRY_SIZE).contains(&handler)
}

/// Puts the handlers in place, or back in place; does nothing where they already serve.
pub(crate) fn install() -> io::Result<()> {
    if SIGNALS
        .iter()
        .enumerate()
        .all(|(index, &signal)| query(signal).is_ok_and(|action| serves(index, &action)))
    {
        return Ok(());
    }
    // SAFETY: getpid has no preconditions.
    let pid = unsafe { libc::getpid() };
    loop {
        match BUSY.compare_exchange(0, pid, Acquire, Relaxed) {
            Ok(_) => break,
            // Another thread of ours is at it, and never for long.
            Err(holder) if holder == pid => std::thread::yield_now(),
            // The holder stayed behind in the parent when this process was forked.
            Err(holder) => {
                if BUSY.compare_exchange(holder, pid, Acquire, Relaxed).is_ok() {
                    break;
                }
            }
        }
    }
    let result = SIGNALS
        .iter()
        .enumerate()
        .try_for_each(|(index, &signal)| install_one(index, signal));
    BUSY.store(0, Release);
    result
}

fn install_one(index: usize, signal: c_int) -> io::Result<()> {
    let found = query(signal)?;
    if serves(index, &found) {
        return Ok(());
    }
    if join(found.sa_sigaction) {
        JOINED[index].store(found.sa_sigaction, Release);
        return Ok(());
    }
    let levels = &SAVED[index];
    // A level whose saved action is the very one found can be used again; when all are taken, the
    // newest gives way: protecting our accesses matters more than a long history.
    let level = levels
        .iter()
        .position(|saved| holds(saved, &found).unwrap_or(true))
        .unwrap_or(LEVELS - 1);
    if !holds(&levels[level], &found).unwrap_or(false) {
        levels[level].store(Box::leak(Box::new(found)), Release);
    }
    let mut action = found;
    action.sa_sigaction = entries() + level * ENTRY_SIZE;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    if found.sa_sigaction > libc::SIG_IGN {
        action.sa_flags |= found.sa_flags & KEPT_FLAGS;
    } else {
        // SAFETY: the mask is a plain C structure of ours.
        unsafe { libc::sigemptyset(&mut action.sa_mask) };
    }
    let replaced = change(signal, &action)?;
    // Somebody was faster than us between the two calls: chain to them instead.
    if !same(&replaced, &found) && !is_ours(replaced.sa_sigaction) {
        levels[level].store(Box::leak(Box::new(replaced)), Release);
    }
    Ok(())
}

/// `None` if the level is free, else whether it holds this action.
fn holds(saved: &AtomicPtr<sigaction>, action: &sigaction) -> Option<bool> {
    // SAFETY: null or a leaked box that nobody changes.
    let saved = unsafe { saved.load(Acquire).as_ref() }?;
    Some(same(saved, action))
}

fn same(a: &sigaction, b: &sigaction) -> bool {
    let blocks = |action: &sigaction, signal| {
        // SAFETY: the mask is a valid set, the kernel's or one of ours.
        unsafe { libc::sigismember(&action.sa_mask, signal) }
    };
    a.sa_sigaction == b.sa_sigaction
        && a.sa_flags == b.sa_flags
        && (1..=64).all(|signal| blocks(a, signal) == blocks(b, signal))
}

/// Whether a fault in our range reaches a handler that knows it.
fn serves(index: usize, action: &sigaction) -> bool {
    is_ours(action.sa_sigaction)
        || (action.sa_sigaction != 0 && action.sa_sigaction == JOINED[index].load(Acquire))
}

/// If the handler belongs to another copy of this crate, makes it serve our range too.
fn join(handler: usize) -> bool {
    if handler <= libc::SIG_IGN || !handler.is_multiple_of(ENTRY_SIZE) {
        return false;
    }
    let mut mark = Mark {
        text: [0; 2],
        table: 0,
    };
    let at = handler + MARK_AT;
    if !peek(at, &mut mark) || mark.text != MARK {
        return false;
    }
    let table = (at + offset_of!(Mark, table)).wrapping_add(mark.table as usize) as *const Table;
    // SAFETY: the mark says that a copy of this crate with the same layout put its table there; its
    // library stays loaded, for its handler is installed.
    let table = unsafe { &*table };
    let ours = guarded();
    for slot in &table.slots {
        let mut taken = slot.load(Acquire);
        if taken.is_null() {
            let fresh = Box::into_raw(Box::new(ours));
            match slot.compare_exchange(null_mut(), fresh, AcqRel, Acquire) {
                Ok(_) => return true,
                Err(other) => {
                    // SAFETY: `fresh` was made above and given to nobody.
                    drop(unsafe { Box::from_raw(fresh) });
                    taken = other;
                }
            }
        }
        // SAFETY: entries are leaked by the copies that made them and never change.
        if unsafe { (*taken).start } == ours.start {
            return true;
        }
    }
    false
}

/// Reads at an address that need not be readable.
fn peek(address: usize, into: &mut Mark) -> bool {
    let size = size_of::<Mark>();
    let local = libc::iovec {
        iov_base: (into as *mut Mark).cast(),
        iov_len: size,
    };
    let remote = libc::iovec {
        iov_base: address as *mut c_void,
        iov_len: size,
    };
    // SAFETY: getpid has no preconditions.
    let pid = unsafe { libc::getpid() };
    // SAFETY: `local` is `into`, any bytes make a Mark, and the kernel checks the other side.
    let got = unsafe { libc::process_vm_readv(pid, &local, 1, &remote, 1, 0) };
    got == size as isize
}

fn query(signal: c_int) -> io::Result<sigaction> {
    exchange(signal, null())
}

fn change(signal: c_int, action: &sigaction) -> io::Result<sigaction> {
    exchange(signal, action)
}

fn exchange(signal: c_int, action: *const sigaction) -> io::Result<sigaction> {
    // SAFETY: all zeroes is a valid sigaction.
    let mut old: sigaction = unsafe { zeroed() };
    // SAFETY: `action` is null or a reference of the caller, `old` is ours.
    if unsafe { libc::sigaction(signal, action, &mut old) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(old)
}

/// Common to all entry points. Async-signal-safe: no locks, no allocation.
extern "C" fn handler(signal: c_int, info: *mut siginfo_t, context: *mut c_void, level: u32) {
    if is_synchronous(signal, info) && resume(context.cast()) {
        return;
    }
    chain(signal, info, context, level as usize);
}

/// Whether the kernel raised the signal for the interrupted instruction itself. What kill(2) and
/// friends send has a code of at most 0; an early memory-failure notice concerns no instruction.
fn is_synchronous(signal: c_int, info: *mut siginfo_t) -> bool {
    const BUS_MCEERR_AO: c_int = 5;
    // SAFETY: with SA_SIGINFO the kernel passes a valid siginfo.
    let code = unsafe { (*info).si_code };
    code > 0 && !(signal == libc::SIGBUS && code == BUS_MCEERR_AO)
}

fn resume(context: *mut ucontext_t) -> bool {
    // SAFETY: with SA_SIGINFO the kernel passes the interrupted context, ours to change.
    let rip = unsafe { &mut (*context).uc_mcontext.gregs[libc::REG_RIP as usize] };
    let at = *rip as usize;
    let ours = guarded();
    if (ours.start..ours.end).contains(&at) {
        *rip = ours.fixup as i64;
        return true;
    }
    for slot in &TABLE.slots {
        // SAFETY: null or an entry that its copy leaked and never changes.
        let Some(range) = (unsafe { slot.load(Acquire).as_ref() }) else {
            return false;
        };
        if (range.start..range.end).contains(&at) {
            *rip = range.fixup as i64;
            return true;
        }
    }
    false
}

/// Does what the kernel would have done, had this level never been installed.
fn chain(signal: c_int, info: *mut siginfo_t, context: *mut c_void, level: usize) {
    let index = usize::from(signal == libc::SIGBUS);
    let slot = SAVED.get(index).and_then(|levels| levels.get(level));
    let pointer = slot.map_or(null_mut(), |slot| slot.load(Acquire));
    // SAFETY: null or a leaked box that nobody changes.
    let Some(saved) = (unsafe { pointer.as_ref() }) else {
        return die(signal, info);
    };
    match saved.sa_sigaction {
        libc::SIG_DFL => die(signal, info),
        // A fault cannot be ignored: the kernel falls back to the default.
        libc::SIG_IGN if is_synchronous(signal, info) => die(signal, info),
        libc::SIG_IGN => (),
        address => {
            if let Some(slot) = slot.filter(|_| saved.sa_flags & libc::SA_RESETHAND != 0) {
                // One shot: from now on the default, which the loser of a race finds already.
                let default = (&raw const DEFAULT.0).cast_mut();
                if slot
                    .compare_exchange(pointer, default, AcqRel, Acquire)
                    .is_err()
                {
                    return die(signal, info);
                }
            }
            // SAFETY: the host gave this address to sigaction(2). The kernel passes all three
            // arguments with and without SA_SIGINFO on x86-64, and so do we.
            let host: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) =
                unsafe { std::mem::transmute(address) };
            host(signal, info, context);
        }
    }
}

/// Lets the default action happen with the right signal, address and core dump.
fn die(signal: c_int, info: *mut siginfo_t) {
    let _ = change(signal, &DEFAULT.0);
    if is_synchronous(signal, info) {
        // The instruction runs again when the handler returns, and faults again.
        return;
    }
    // SAFETY: getpid has no preconditions.
    let pid = unsafe { libc::getpid() };
    // SAFETY: gettid has no preconditions.
    let tid = unsafe { libc::gettid() };
    // Pending until the handler returns, then fatal. The original sender's details are kept where
    // the kernel allows it.
    // SAFETY: `info` is the kernel's.
    let queued = unsafe { libc::syscall(libc::SYS_rt_tgsigqueueinfo, pid, tid, signal, info) };
    if queued != 0 {
        // SAFETY: a signal to ourselves.
        unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, signal) };
    }
}
