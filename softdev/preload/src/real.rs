//! The functions behind the interposed names.
//!
//! All are looked up once, in the constructor, because a look-up allocates. What is called earlier, by constructors of other
//! libraries or by an allocator that is starting up, goes to the kernel directly where the name is a plain system call, and is
//! looked up on the spot where it is more than that.

use libc::{
    DIR, FILE, c_char, c_int, c_long, c_uint, c_ulong, c_void, mode_t, size_t, ssize_t,
    stat as Stat, statx as Statx,
};
use std::ffi::CStr;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering::*};

type Slot = AtomicPtr<c_void>;

/// The next definition of a name behind ours.
#[cold]
fn look_up(slot: &Slot, name: &CStr) -> *mut c_void {
    // SAFETY: the name is a C string; glibc's dlsym does not call anything that we interpose.
    let found = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
    slot.store(found, Release);
    found
}

fn fail(errno: c_int) {
    crate::set_errno(errno);
}

/// Declares one function per name. `plain` ones fall back to a system call while they are not looked up yet, the others are
/// looked up then; the block is what is left when libc has no such name.
macro_rules! real {
    ($( $kind:ident $name:ident($($arg:ident: $ty:ty),*) as ($($sig:tt)*) -> $ret:ty $otherwise:block )*) => {
        /// One pointer per name.
        #[allow(non_upper_case_globals)]
        mod slots {
            use super::*;
            $( pub(super) static $name: Slot = Slot::new(null_mut()); )*
        }

        /// Looks all names up.
        pub(crate) fn resolve_all() {
            $( look_up(&slots::$name, name_of!($name)); )*
        }

        $(
            #[inline]
            pub(crate) fn $name($($arg: $ty),*) -> $ret {
                let found = slots::$name.load(Acquire);
                let found = real!(@$kind found $name);
                if found.is_null() {
                    return $otherwise;
                }
                // SAFETY: libc's function of this name, which has this signature.
                let call = unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($sig)*) -> $ret>(found) };
                // SAFETY: the program's own arguments, or a path that we replaced by a longer-lived one.
                unsafe { call($($arg),*) }
            }
        )*
    };
    (@plain $found:ident $name:ident) => { $found };
    (@library $found:ident $name:ident) => {
        if $found.is_null() { look_up(&slots::$name, name_of!($name)) } else { $found }
    };
}

macro_rules! name_of {
    ($name:ident) => {
        // The literal has its NUL and no other.
        match CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
            Ok(name) => name,
            Err(_) => c"",
        }
    };
}

/// A system call with libc's conventions. Arguments as the kernel takes them.
macro_rules! sys {
    ($number:expr $(, $arg:expr)*) => {{
        // SAFETY: the kernel checks every argument; the result and errno are as the wrapped function has them.
        unsafe { libc::syscall($number $(, $arg as c_long)*) }
    }};
}

const AT: c_int = libc::AT_FDCWD;

pub(crate) type Filter = *const c_void;

real! {
    plain open(path: *const c_char, flags: c_int, mode: mode_t) as (*const c_char, c_int, ...) -> c_int {
        sys!(libc::SYS_openat, AT, path, flags, mode) as c_int
    }
    plain openat(dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) as (c_int, *const c_char, c_int, ...) -> c_int {
        sys!(libc::SYS_openat, dir, path, flags, mode) as c_int
    }
    plain close(fd: c_int) as (c_int) -> c_int { sys!(libc::SYS_close, fd) as c_int }
    plain close_range(first: c_uint, last: c_uint, flags: c_int) as (c_uint, c_uint, c_int) -> c_int {
        sys!(libc::SYS_close_range, first, last, flags) as c_int
    }
    library closefrom(first: c_int) as (c_int) -> () {}
    plain dup2(old: c_int, new: c_int) as (c_int, c_int) -> c_int { sys!(libc::SYS_dup2, old, new) as c_int }
    plain dup3(old: c_int, new: c_int, flags: c_int) as (c_int, c_int, c_int) -> c_int {
        sys!(libc::SYS_dup3, old, new, flags) as c_int
    }
    plain write(fd: c_int, buffer: *const c_void, count: size_t) as (c_int, *const c_void, size_t) -> ssize_t {
        sys!(libc::SYS_write, fd, buffer, count) as ssize_t
    }
    plain ioctl(fd: c_int, request: c_ulong, argument: c_ulong) as (c_int, c_ulong, ...) -> c_int {
        sys!(libc::SYS_ioctl, fd, request, argument) as c_int
    }
    plain socket(domain: c_int, kind: c_int, protocol: c_int) as (c_int, c_int, c_int) -> c_int {
        sys!(libc::SYS_socket, domain, kind, protocol) as c_int
    }
    plain access(path: *const c_char, mode: c_int) as (*const c_char, c_int) -> c_int {
        sys!(libc::SYS_faccessat, AT, path, mode) as c_int
    }
    library faccessat(dir: c_int, path: *const c_char, mode: c_int, flags: c_int) as (c_int, *const c_char, c_int, c_int) -> c_int {
        sys!(libc::SYS_faccessat, dir, path, mode) as c_int
    }
    library euidaccess(path: *const c_char, mode: c_int) as (*const c_char, c_int) -> c_int {
        sys!(libc::SYS_faccessat, AT, path, mode) as c_int
    }
    plain readlink(path: *const c_char, buffer: *mut c_char, size: size_t) as (*const c_char, *mut c_char, size_t) -> ssize_t {
        sys!(libc::SYS_readlinkat, AT, path, buffer, size) as ssize_t
    }
    plain readlinkat(dir: c_int, path: *const c_char, buffer: *mut c_char, size: size_t)
        as (c_int, *const c_char, *mut c_char, size_t) -> ssize_t {
        sys!(libc::SYS_readlinkat, dir, path, buffer, size) as ssize_t
    }
    // The stat family has one structure on 64-bit Linux, under whatever name.
    plain stat(path: *const c_char, into: *mut Stat) as (*const c_char, *mut Stat) -> c_int {
        sys!(libc::SYS_newfstatat, AT, path, into, 0) as c_int
    }
    plain lstat(path: *const c_char, into: *mut Stat) as (*const c_char, *mut Stat) -> c_int {
        sys!(libc::SYS_newfstatat, AT, path, into, libc::AT_SYMLINK_NOFOLLOW) as c_int
    }
    plain fstat(fd: c_int, into: *mut Stat) as (c_int, *mut Stat) -> c_int {
        sys!(libc::SYS_fstat, fd, into) as c_int
    }
    plain fstatat(dir: c_int, path: *const c_char, into: *mut Stat, flags: c_int)
        as (c_int, *const c_char, *mut Stat, c_int) -> c_int {
        sys!(libc::SYS_newfstatat, dir, path, into, flags) as c_int
    }
    plain statx(dir: c_int, path: *const c_char, flags: c_int, mask: c_uint, into: *mut Statx)
        as (c_int, *const c_char, c_int, c_uint, *mut Statx) -> c_int {
        sys!(libc::SYS_statx, dir, path, flags, mask, into) as c_int
    }

    plain getxattr(path: *const c_char, name: *const c_char, value: *mut c_void, size: size_t)
        as (*const c_char, *const c_char, *mut c_void, size_t) -> ssize_t {
        sys!(libc::SYS_getxattr, path, name, value, size) as ssize_t
    }
    plain lgetxattr(path: *const c_char, name: *const c_char, value: *mut c_void, size: size_t)
        as (*const c_char, *const c_char, *mut c_void, size_t) -> ssize_t {
        sys!(libc::SYS_lgetxattr, path, name, value, size) as ssize_t
    }
    plain listxattr(path: *const c_char, list: *mut c_char, size: size_t)
        as (*const c_char, *mut c_char, size_t) -> ssize_t {
        sys!(libc::SYS_listxattr, path, list, size) as ssize_t
    }
    plain llistxattr(path: *const c_char, list: *mut c_char, size: size_t)
        as (*const c_char, *mut c_char, size_t) -> ssize_t {
        sys!(libc::SYS_llistxattr, path, list, size) as ssize_t
    }

    library fopen(path: *const c_char, mode: *const c_char) as (*const c_char, *const c_char) -> *mut FILE {
        { fail(libc::ENOSYS); null_mut() }
    }
    library fopen64(path: *const c_char, mode: *const c_char) as (*const c_char, *const c_char) -> *mut FILE {
        { fail(libc::ENOSYS); null_mut() }
    }
    library freopen(path: *const c_char, mode: *const c_char, file: *mut FILE)
        as (*const c_char, *const c_char, *mut FILE) -> *mut FILE {
        { fail(libc::ENOSYS); null_mut() }
    }
    library freopen64(path: *const c_char, mode: *const c_char, file: *mut FILE)
        as (*const c_char, *const c_char, *mut FILE) -> *mut FILE {
        { fail(libc::ENOSYS); null_mut() }
    }
    library opendir(path: *const c_char) as (*const c_char) -> *mut DIR {
        { fail(libc::ENOSYS); null_mut() }
    }
    library scandir(path: *const c_char, list: *mut c_void, filter: Filter, compare: Filter)
        as (*const c_char, *mut c_void, Filter, Filter) -> c_int {
        { fail(libc::ENOSYS); -1 }
    }
    library scandir64(path: *const c_char, list: *mut c_void, filter: Filter, compare: Filter)
        as (*const c_char, *mut c_void, Filter, Filter) -> c_int {
        { fail(libc::ENOSYS); -1 }
    }
    library realpath(path: *const c_char, into: *mut c_char) as (*const c_char, *mut c_char) -> *mut c_char {
        { fail(libc::ENOSYS); null_mut() }
    }
    library __realpath_chk(path: *const c_char, into: *mut c_char, size: size_t)
        as (*const c_char, *mut c_char, size_t) -> *mut c_char {
        realpath(path, into)
    }
    library canonicalize_file_name(path: *const c_char) as (*const c_char) -> *mut c_char {
        realpath(path, null_mut())
    }
    library __readlink_chk(path: *const c_char, buffer: *mut c_char, size: size_t, room: size_t)
        as (*const c_char, *mut c_char, size_t, size_t) -> ssize_t {
        readlink(path, buffer, size.min(room))
    }
    library __readlinkat_chk(dir: c_int, path: *const c_char, buffer: *mut c_char, size: size_t, room: size_t)
        as (c_int, *const c_char, *mut c_char, size_t, size_t) -> ssize_t {
        readlinkat(dir, path, buffer, size.min(room))
    }
    library glob(pattern: *const c_char, flags: c_int, on_error: Filter, into: *mut c_void)
        as (*const c_char, c_int, Filter, *mut c_void) -> c_int {
        libc::GLOB_ABORTED
    }
    library glob64(pattern: *const c_char, flags: c_int, on_error: Filter, into: *mut c_void)
        as (*const c_char, c_int, Filter, *mut c_void) -> c_int {
        libc::GLOB_ABORTED
    }
}
