//! Every interposed name.

use crate::{answer, errno, guard, open_with, real, show_stat, show_statx, with_path};
use libc::{
    DIR, FILE, c_char, c_int, c_uint, c_ulong, c_void, mode_t, size_t, ssize_t, stat as Stat,
    statx as Statx,
};
use real::Filter;
use softdev::face;

/// `NETLINK_RDMA`: refused, so that libibverbs enumerates through sysfs. With the kernel's own RDMA core present it would
/// otherwise get an empty list and stop there.
const NETLINK_RDMA: c_int = 20;

/// Only then is there a mode argument.
fn mode_of(flags: c_int, mode: mode_t) -> mode_t {
    let creates = flags & libc::O_CREAT != 0 || flags & libc::O_TMPFILE == libc::O_TMPFILE;
    if creates { mode } else { 0 }
}

/// Defines one function under several names.
macro_rules! names {
    ($( $($name:ident)|+ ($($arg:ident: $ty:ty),*) -> $ret:ty $body:block )*) => { $( names!{@each [$($name)+] ($($arg: $ty),*) -> $ret $body} )* };
    (@each [$($name:ident)+] $args:tt -> $ret:ty $body:block) => { $( names!{@one $name $args -> $ret $body} )+ };
    (@one $name:ident ($($arg:ident: $ty:ty),*) -> $ret:ty $body:block) => {
        // SAFETY: the name and signature are libc's; this library exists to be found under it.
        #[unsafe(no_mangle)]
        extern "C" fn $name($($arg: $ty),*) -> $ret $body
    };
}

names! {
    open | open64 (path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
        open_with(path, flags, |path| real::open(path, flags, mode_of(flags, mode)))
    }
    openat | openat64 (dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
        open_with(path, flags, |path| real::openat(dir, path, flags, mode_of(flags, mode)))
    }
    // The checked forms, which have no mode.
    __open_2 | __open64_2 (path: *const c_char, flags: c_int) -> c_int {
        open_with(path, flags, |path| real::open(path, flags, 0))
    }
    __openat_2 | __openat64_2 (dir: c_int, path: *const c_char, flags: c_int) -> c_int {
        open_with(path, flags, |path| real::openat(dir, path, flags, 0))
    }

    fopen (path: *const c_char, mode: *const c_char) -> *mut FILE {
        refreshed(path, |path| real::fopen(path, mode))
    }
    fopen64 (path: *const c_char, mode: *const c_char) -> *mut FILE {
        refreshed(path, |path| real::fopen64(path, mode))
    }
    freopen (path: *const c_char, mode: *const c_char, file: *mut FILE) -> *mut FILE {
        refreshed(path, |path| real::freopen(path, mode, file))
    }
    freopen64 (path: *const c_char, mode: *const c_char, file: *mut FILE) -> *mut FILE {
        refreshed(path, |path| real::freopen64(path, mode, file))
    }

    opendir (path: *const c_char) -> *mut DIR { with_path(path, real::opendir) }
    scandir (path: *const c_char, list: *mut c_void, filter: Filter, compare: Filter) -> c_int {
        with_path(path, |path| real::scandir(path, list, filter, compare))
    }
    scandir64 (path: *const c_char, list: *mut c_void, filter: Filter, compare: Filter) -> c_int {
        with_path(path, |path| real::scandir64(path, list, filter, compare))
    }
    glob (pattern: *const c_char, flags: c_int, on_error: Filter, into: *mut c_void) -> c_int {
        with_path(pattern, |pattern| real::glob(pattern, flags, on_error, into))
    }
    glob64 (pattern: *const c_char, flags: c_int, on_error: Filter, into: *mut c_void) -> c_int {
        with_path(pattern, |pattern| real::glob64(pattern, flags, on_error, into))
    }

    stat | stat64 (path: *const c_char, into: *mut Stat) -> c_int {
        show_stat(with_path(path, |path| real::stat(path, into)), into)
    }
    lstat | lstat64 (path: *const c_char, into: *mut Stat) -> c_int {
        show_stat(with_path(path, |path| real::lstat(path, into)), into)
    }
    fstat | fstat64 (fd: c_int, into: *mut Stat) -> c_int {
        show_stat(real::fstat(fd, into), into)
    }
    fstatat | fstatat64 (dir: c_int, path: *const c_char, into: *mut Stat, flags: c_int) -> c_int {
        show_stat(with_path(path, |path| real::fstatat(dir, path, into, flags)), into)
    }
    statx (dir: c_int, path: *const c_char, flags: c_int, mask: c_uint, into: *mut Statx) -> c_int {
        show_statx(with_path(path, |path| real::statx(dir, path, flags, mask, into)), into)
    }
    // Programs built before glibc 2.33.
    __xstat | __xstat64 (version: c_int, path: *const c_char, into: *mut Stat) -> c_int {
        versioned(version, || show_stat(with_path(path, |path| real::stat(path, into)), into))
    }
    __lxstat | __lxstat64 (version: c_int, path: *const c_char, into: *mut Stat) -> c_int {
        versioned(version, || show_stat(with_path(path, |path| real::lstat(path, into)), into))
    }
    __fxstat | __fxstat64 (version: c_int, fd: c_int, into: *mut Stat) -> c_int {
        versioned(version, || show_stat(real::fstat(fd, into), into))
    }
    __fxstatat | __fxstatat64 (version: c_int, dir: c_int, path: *const c_char, into: *mut Stat, flags: c_int) -> c_int {
        versioned(version, || show_stat(with_path(path, |path| real::fstatat(dir, path, into, flags)), into))
    }

    access (path: *const c_char, mode: c_int) -> c_int { with_path(path, |path| real::access(path, mode)) }
    eaccess | euidaccess (path: *const c_char, mode: c_int) -> c_int {
        with_path(path, |path| real::euidaccess(path, mode))
    }
    faccessat (dir: c_int, path: *const c_char, mode: c_int, flags: c_int) -> c_int {
        with_path(path, |path| real::faccessat(dir, path, mode, flags))
    }
    readlink (path: *const c_char, buffer: *mut c_char, size: size_t) -> ssize_t {
        with_path(path, |path| real::readlink(path, buffer, size))
    }
    readlinkat (dir: c_int, path: *const c_char, buffer: *mut c_char, size: size_t) -> ssize_t {
        with_path(path, |path| real::readlinkat(dir, path, buffer, size))
    }
    __readlink_chk (path: *const c_char, buffer: *mut c_char, size: size_t, room: size_t) -> ssize_t {
        with_path(path, |path| real::__readlink_chk(path, buffer, size, room))
    }
    __readlinkat_chk (dir: c_int, path: *const c_char, buffer: *mut c_char, size: size_t, room: size_t) -> ssize_t {
        with_path(path, |path| real::__readlinkat_chk(dir, path, buffer, size, room))
    }
    realpath (path: *const c_char, into: *mut c_char) -> *mut c_char {
        with_path(path, |path| real::realpath(path, into))
    }
    __realpath_chk (path: *const c_char, into: *mut c_char, size: size_t) -> *mut c_char {
        with_path(path, |path| real::__realpath_chk(path, into, size))
    }
    canonicalize_file_name (path: *const c_char) -> *mut c_char {
        with_path(path, real::canonicalize_file_name)
    }

    // What `ls -l` asks for each name.
    getxattr (path: *const c_char, name: *const c_char, value: *mut c_void, size: size_t) -> ssize_t {
        with_path(path, |path| real::getxattr(path, name, value, size))
    }
    lgetxattr (path: *const c_char, name: *const c_char, value: *mut c_void, size: size_t) -> ssize_t {
        with_path(path, |path| real::lgetxattr(path, name, value, size))
    }
    listxattr (path: *const c_char, list: *mut c_char, size: size_t) -> ssize_t {
        with_path(path, |path| real::listxattr(path, list, size))
    }
    llistxattr (path: *const c_char, list: *mut c_char, size: size_t) -> ssize_t {
        with_path(path, |path| real::llistxattr(path, list, size))
    }

    ioctl (fd: c_int, request: c_ulong, argument: c_ulong) -> c_int {
        if face::is_our_request(request) {
            let done = guard(Some(Err(libc::EIO)), || Some(face::ioctl(fd, request, argument)?.map_err(|e| e.raw())));
            if let Some(result) = done {
                return answer(result, |value| value);
            }
        }
        real::ioctl(fd, request, argument)
    }
    write (fd: c_int, buffer: *const c_void, count: size_t) -> ssize_t {
        if face::is_ours(fd) {
            let done = guard(Some(Err(libc::EIO)), || {
                Some(face::write(fd, buffer as u64, count)?.map_err(|e| e.raw()))
            });
            if let Some(result) = done {
                return answer(result, |written: usize| written as ssize_t);
            }
        }
        let written = real::write(fd, buffer, count);
        if written >= 0 || errno() != libc::EPERM {
            return written;
        }
        let done = guard(Some(Err(libc::EIO)), || {
            Some(face::refused_write(fd, buffer as u64, count)?.map_err(|e| e.raw()))
        });
        done.map_or(written, |result| answer(result, |written: usize| written as ssize_t))
    }
    // Descriptors that the program does not know of are none for it, or a loop over all numbers would end the device.
    close (fd: c_int) -> c_int {
        if face::is_internal(fd) {
            crate::set_errno(libc::EBADF);
            return -1;
        }
        if !face::is_ours(fd) {
            return real::close(fd);
        }
        let closing = guard(None, || face::closing(fd));
        let result = real::close(fd);
        if let Some(closing) = closing {
            guard((), || face::closed(closing));
        }
        result
    }
    close_range (first: c_uint, last: c_uint, flags: c_int) -> c_int {
        close_range_around(first, last, flags)
    }
    closefrom (first: c_int) -> () {
        if close_range_around(first.max(0) as c_uint, c_uint::MAX, 0) != 0 {
            real::closefrom(first);
        }
    }
    dup2 (old: c_int, new: c_int) -> c_int {
        if face::is_internal(new) {
            crate::set_errno(libc::EBUSY);
            return -1;
        }
        real::dup2(old, new)
    }
    dup3 (old: c_int, new: c_int, flags: c_int) -> c_int {
        if face::is_internal(new) {
            crate::set_errno(libc::EBUSY);
            return -1;
        }
        real::dup3(old, new, flags)
    }
    socket (domain: c_int, kind: c_int, protocol: c_int) -> c_int {
        if domain == libc::AF_NETLINK && protocol == NETLINK_RDMA && guard(false, face::is_active) {
            crate::set_errno(libc::EPROTONOSUPPORT);
            return -1;
        }
        real::socket(domain, kind, protocol)
    }
}

/// The ranges between our own descriptors.
fn close_range_around(first: c_uint, last: c_uint, flags: c_int) -> c_int {
    if first > last {
        return real::close_range(first, last, flags);
    }
    let (mut first, mut done) = (first, 0);
    loop {
        let ours = c_int::try_from(first).ok().and_then(face::next_internal);
        let Some(ours) = ours.map(|fd| fd as c_uint).filter(|fd| *fd <= last) else {
            return real::close_range(first, last, flags);
        };
        if ours > first {
            done = real::close_range(first, ours - 1, flags);
        }
        if done != 0 || ours == last {
            return done;
        }
        first = ours + 1;
    }
}

/// Opens through stdio, which reads counters like any other file.
fn refreshed<R>(path: *const c_char, call: impl FnOnce(*const c_char) -> R) -> R {
    if let Some(bytes) = crate::ours(path) {
        guard((), || face::refresh(bytes));
    }
    with_path(path, call)
}

/// The kernel's structure is version 1, and 0 for programs of the first port.
fn versioned(version: c_int, call: impl FnOnce() -> c_int) -> c_int {
    if !(0..=1).contains(&version) {
        crate::set_errno(libc::EINVAL);
        return -1;
    }
    call()
}
