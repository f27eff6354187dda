//! Two libraries with a copy of this crate each, and a host between them.
#![cfg(target_arch = "x86_64")]

mod support;

use gaudi_usercopy::{ensure, install};
use std::ffi::{CStr, CString};
use std::mem::{transmute, zeroed};
use support::{Pages, copy, in_child};

struct Second {
    ensure: extern "C" fn(),
    copy: unsafe extern "C" fn(*mut u8, *const u8, usize) -> bool,
}

impl Second {
    fn load() -> Second {
        let program = std::env::current_exe().unwrap();
        let folder = program
            .parent()
            .unwrap()
            .parent()
            .unwrap()
            .join("examples/libsecond_copy.so");
        let path = CString::new(folder.to_str().unwrap()).unwrap();
        // SAFETY: a library of ours without initialisers.
        let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        assert!(!library.is_null(), "{path:?}");
        let symbol = |name: &CStr| {
            // SAFETY: an open library.
            let found = unsafe { libc::dlsym(library, name.as_ptr()) };
            assert!(!found.is_null());
            found
        };
        // SAFETY: the type it is defined with.
        let ensure =
            unsafe { transmute::<*mut libc::c_void, extern "C" fn()>(symbol(c"second_ensure")) };
        let address = symbol(c"second_copy");
        // SAFETY: the type it is defined with.
        let copy = unsafe {
            transmute::<*mut libc::c_void, unsafe extern "C" fn(*mut u8, *const u8, usize) -> bool>(
                address,
            )
        };
        Second { ensure, copy }
    }

    fn copy(&self, dst: *mut u8) -> bool {
        // SAFETY: pages of the test.
        unsafe { (self.copy)(dst, [0u8; 64].as_ptr(), 64) }
    }
}

fn current() -> usize {
    // SAFETY: all zeroes is a valid sigaction.
    let mut action: libc::sigaction = unsafe { zeroed() };
    // SAFETY: only asks.
    unsafe { libc::sigaction(libc::SIGSEGV, std::ptr::null(), &mut action) };
    action.sa_sigaction
}

fn host(handler: usize) {
    // SAFETY: all zeroes is a valid sigaction.
    let mut action: libc::sigaction = unsafe { zeroed() };
    action.sa_sigaction = handler;
    // SAFETY: the child dies with it.
    unsafe { libc::sigaction(libc::SIGSEGV, &action, std::ptr::null_mut()) };
}

extern "C" fn leave(_: i32) {
    // SAFETY: ends the child.
    unsafe { libc::_exit(42) };
}

#[test]
fn both_are_served() {
    let code = in_child(|| {
        let second = Second::load();
        host(leave as *const () as usize);
        install().unwrap();
        let ours = current();
        (second.ensure)();
        assert_eq!(current(), ours, "the second copy joins the first");
        let pages = Pages::new(1);
        pages.protect(0, libc::PROT_NONE);
        let both_fail =
            || copy(pages.start, [0u8; 64].as_ptr(), 64).is_err() && !second.copy(pages.start);
        assert!(both_fail());
        // A host handler on top: whoever notices first goes on top of it, the other joins.
        for round in 0..20 {
            host(leave as *const () as usize);
            if round % 2 == 0 {
                (second.ensure)();
                ensure();
            } else {
                ensure();
                (second.ensure)();
            }
            let settled = current();
            ensure();
            (second.ensure)();
            assert_eq!(current(), settled, "they must not take turns on top");
            assert!(both_fail());
        }
        // SAFETY: a wild access, which must find the host's handler.
        unsafe { pages.start.write_volatile(1) };
        1
    });
    assert_eq!(code, 42);
}
