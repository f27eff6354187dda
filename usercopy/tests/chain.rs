//! What the host's own handlers see. Dispositions belong to the process, so each case is a child.
#![cfg(target_arch = "x86_64")]

mod support;

use gaudi_usercopy::{ensure, install};
use std::mem::zeroed;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering::SeqCst};
use support::{PAGE, Pages, copy, in_child, truncate};

static CALLS: AtomicI32 = AtomicI32::new(0);
static FAULT_AT: AtomicUsize = AtomicUsize::new(0);
static OLD: AtomicUsize = AtomicUsize::new(0);
static BLOCKED: AtomicUsize = AtomicUsize::new(0);
static STACK: AtomicUsize = AtomicUsize::new(0);

type Full = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);

/// Heals the page that faulted, as a garbage collector's barrier does.
extern "C" fn heal(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    CALLS.fetch_add(1, SeqCst);
    // SAFETY: the kernel's siginfo of a fault.
    let info = unsafe { &*info };
    // SAFETY: a fault's siginfo has an address.
    let at = unsafe { info.si_addr() } as usize;
    FAULT_AT.store(at, SeqCst);
    STACK.store((&raw const at) as usize, SeqCst);
    BLOCKED.store(
        usize::from(is_blocked(libc::SIGUSR1)) + 2 * usize::from(is_blocked(libc::SIGSEGV)),
        SeqCst,
    );
    let page = (at & !(PAGE - 1)) as *mut libc::c_void;
    // SAFETY: a page of the test.
    unsafe { libc::mprotect(page, PAGE, libc::PROT_READ | libc::PROT_WRITE) };
}

extern "C" fn heal_short(_: i32) {
    CALLS.fetch_add(1, SeqCst);
    let page = FAULT_AT.load(SeqCst) as *mut libc::c_void;
    // SAFETY: a page of the test.
    unsafe { libc::mprotect(page, PAGE, libc::PROT_READ | libc::PROT_WRITE) };
}

/// Counts, then hands on to what was there before, as crash reporters do.
extern "C" fn count_and_chain(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    CALLS.fetch_add(100, SeqCst);
    // SAFETY: the address of a handler with three arguments, saved by `set`.
    let old: Full = unsafe { std::mem::transmute(OLD.load(SeqCst)) };
    old(signal, info, context);
}

extern "C" fn leave(_: i32) {
    // SAFETY: ends the child.
    unsafe { libc::_exit(42) };
}

fn is_blocked(signal: i32) -> bool {
    // SAFETY: all zeroes is an empty set.
    let mut set: libc::sigset_t = unsafe { zeroed() };
    // SAFETY: asks for the current mask.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, std::ptr::null(), &mut set) };
    // SAFETY: a valid set.
    unsafe { libc::sigismember(&set, signal) == 1 }
}

/// Sets a handler and returns the one before.
fn set(signal: i32, handler: usize, flags: i32, block: i32) -> usize {
    // SAFETY: all zeroes is a valid sigaction.
    let mut action: libc::sigaction = unsafe { zeroed() };
    // SAFETY: as above.
    let mut old: libc::sigaction = unsafe { zeroed() };
    action.sa_sigaction = handler;
    action.sa_flags = flags;
    if block != 0 {
        // SAFETY: a valid set.
        unsafe { libc::sigaddset(&mut action.sa_mask, block) };
    }
    // SAFETY: two structures of ours.
    assert_eq!(unsafe { libc::sigaction(signal, &action, &mut old) }, 0);
    old.sa_sigaction
}

fn plain(handler: extern "C" fn(i32)) -> usize {
    handler as *const () as usize
}

fn full(handler: Full) -> usize {
    handler as *const () as usize
}

/// An unguarded access.
fn touch(p: *mut u8) {
    // SAFETY: faults on purpose, in a child whose handler heals the page or that is meant to die.
    unsafe { p.write_volatile(1) };
}

/// A guarded copy must fail and an unguarded store must die of `signal`.
fn guarded_then_wild(p: *mut u8) -> i32 {
    if copy(p, [1u8; 64].as_ptr(), 64).is_ok() {
        return 1;
    }
    touch(p);
    2
}

fn protected() -> Pages {
    let pages = Pages::new(1);
    pages.protect(0, libc::PROT_NONE);
    pages
}

fn none() {
    // Rust's runtime has handlers of its own for stack overflow; these cases want a bare process.
    set(libc::SIGSEGV, libc::SIG_DFL, 0, 0);
    set(libc::SIGBUS, libc::SIG_DFL, 0, 0);
}

#[test]
fn wild_faults_still_kill() {
    let died = in_child(|| {
        none();
        install().unwrap();
        guarded_then_wild(protected().start)
    });
    assert_eq!(died, -libc::SIGSEGV);
    let died = in_child(|| {
        none();
        install().unwrap();
        let (pages, fd) = Pages::of_file(1);
        truncate(fd, 0);
        guarded_then_wild(pages.start)
    });
    assert_eq!(died, -libc::SIGBUS);
    // With Rust's own handlers underneath, too.
    let died = in_child(|| {
        install().unwrap();
        guarded_then_wild(protected().start)
    });
    assert_eq!(died, -libc::SIGSEGV);
}

#[test]
fn sent_signals_keep_their_meaning() {
    let raise = |signal| {
        // SAFETY: a signal to the child itself.
        unsafe { libc::raise(signal) };
        5
    };
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        let died = in_child(|| {
            none();
            install().unwrap();
            raise(signal)
        });
        assert_eq!(died, -signal);
        let ignored = in_child(|| {
            none();
            set(signal, libc::SIG_IGN, 0, 0);
            install().unwrap();
            raise(signal)
        });
        assert_eq!(ignored, 5);
        let handled = in_child(|| {
            set(signal, plain(leave), 0, 0);
            install().unwrap();
            raise(signal)
        });
        assert_eq!(handled, 42);
    }
}

#[test]
fn ignored_faults_kill() {
    let died = in_child(|| {
        none();
        set(libc::SIGSEGV, libc::SIG_IGN, 0, 0);
        install().unwrap();
        guarded_then_wild(protected().start)
    });
    assert_eq!(died, -libc::SIGSEGV);
}

#[test]
fn earlier_handler_is_called() {
    let code = in_child(|| {
        set(libc::SIGSEGV, full(heal), libc::SA_SIGINFO, libc::SIGUSR1);
        install().unwrap();
        let pages = protected();
        assert!(copy(pages.at(0), [1u8; 8].as_ptr(), 8).is_err());
        assert_eq!(CALLS.load(SeqCst), 0, "the host must not see our faults");
        touch(pages.at(17));
        assert_eq!(CALLS.load(SeqCst), 1);
        assert_eq!(FAULT_AT.load(SeqCst), pages.at(17) as usize);
        assert_eq!(
            BLOCKED.load(SeqCst),
            3,
            "its mask and the signal itself are blocked"
        );
        assert!(!is_blocked(libc::SIGUSR1) && !is_blocked(libc::SIGSEGV));
        0
    });
    assert_eq!(code, 0);
}

#[test]
fn flags_of_the_earlier_handler_hold() {
    let code = in_child(|| {
        set(
            libc::SIGSEGV,
            full(heal),
            libc::SA_SIGINFO | libc::SA_NODEFER | libc::SA_ONSTACK,
            0,
        );
        install().unwrap();
        let stack = Pages::new(16);
        let alternative = libc::stack_t {
            ss_sp: stack.start.cast(),
            ss_flags: 0,
            ss_size: stack.len,
        };
        // SAFETY: pages that outlive the faults below.
        assert_eq!(unsafe { libc::sigaltstack(&alternative, null_mut()) }, 0);
        touch(protected().start);
        assert_eq!(BLOCKED.load(SeqCst), 0, "SA_NODEFER leaves the signal open");
        let range = stack.start as usize..stack.start as usize + stack.len;
        assert!(
            range.contains(&STACK.load(SeqCst)),
            "SA_ONSTACK runs on the host's stack"
        );
        0
    });
    assert_eq!(code, 0);
    // Without SA_SIGINFO.
    let code = in_child(|| {
        set(libc::SIGSEGV, plain(heal_short), 0, 0);
        install().unwrap();
        let pages = protected();
        FAULT_AT.store(pages.start as usize, SeqCst);
        touch(pages.start);
        CALLS.load(SeqCst)
    });
    assert_eq!(code, 1);
    // SA_RESETHAND: once, then the default.
    let died = in_child(|| {
        set(
            libc::SIGSEGV,
            full(heal),
            libc::SA_SIGINFO | libc::SA_RESETHAND,
            0,
        );
        install().unwrap();
        touch(protected().start);
        assert_eq!(CALLS.load(SeqCst), 1);
        guarded_then_wild(protected().start)
    });
    assert_eq!(died, -libc::SIGSEGV);
}

#[test]
fn later_handler_is_topped() {
    let code = in_child(|| {
        set(libc::SIGSEGV, full(heal), libc::SA_SIGINFO, 0);
        install().unwrap();
        // A handler that chains to what it finds, installed again and again.
        for round in 1..30 {
            let old = set(libc::SIGSEGV, full(count_and_chain), libc::SA_SIGINFO, 0);
            if round == 1 {
                OLD.store(old, SeqCst);
            }
            ensure();
            ensure();
            let pages = protected();
            assert!(copy(pages.at(0), [1u8; 64].as_ptr(), 64).is_err());
            CALLS.store(0, SeqCst);
            touch(pages.start);
            assert_eq!(
                CALLS.load(SeqCst),
                101,
                "round {round}: the later one, then the earlier one"
            );
        }
        0
    });
    assert_eq!(code, 0);
}

#[test]
fn replaced_by_many_different_handlers() {
    let code = in_child(|| {
        install().unwrap();
        for flags in 0..40 {
            let extra = if flags % 2 == 0 { libc::SA_NODEFER } else { 0 };
            set(
                libc::SIGSEGV,
                full(heal),
                libc::SA_SIGINFO | extra,
                1 + flags % 20,
            );
            ensure();
            let pages = protected();
            assert!(copy(pages.at(0), [1u8; 64].as_ptr(), 64).is_err());
            CALLS.store(0, SeqCst);
            touch(pages.start);
            assert_eq!(CALLS.load(SeqCst), 1);
        }
        0
    });
    assert_eq!(code, 0);
}

#[test]
fn restored_by_the_host() {
    let code = in_child(|| {
        install().unwrap();
        let ours = set(libc::SIGSEGV, full(heal), libc::SA_SIGINFO, 0);
        ensure();
        // The host undoes its handler and leaves our older level: that serves as well.
        set(libc::SIGSEGV, ours, libc::SA_SIGINFO | libc::SA_ONSTACK, 0);
        ensure();
        i32::from(copy(protected().start, [1u8; 64].as_ptr(), 64).is_ok())
    });
    assert_eq!(code, 0);
}

#[test]
fn many_threads_install() {
    let died = in_child(|| {
        none();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    install().unwrap();
                    ensure();
                    assert!(copy(protected().start, [1u8; 64].as_ptr(), 64).is_err());
                });
            }
        });
        guarded_then_wild(protected().start)
    });
    assert_eq!(died, -libc::SIGSEGV);
}
