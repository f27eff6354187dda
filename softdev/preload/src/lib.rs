//! `libgaudi_softdev.so`: the interposed libc names and nothing else.
//!
//! A name is interposed so that a program finds the soft device's tree and files; everything that is not ours goes to libc
//! after a few compares, with its errno as libc left it. Behind the names, [`softdev::face`] does the work.
//!
//! Variadic functions are defined with their fixed maximum of arguments: on the 64-bit Linux ABIs they arrive in the same
//! registers. A path that is no valid pointer crashes here where the kernel would answer EFAULT; null and kernel addresses,
//! which is what probing programs pass, are left to the kernel.

mod names;
mod real;

use libc::{c_char, c_int};
use softdev::face;
use softdev::paths::{self, MAX_PATH};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A redirected path: the tree's own place in front of the program's path.
const MAX_REDIRECTED: usize = MAX_PATH + 512;

#[used]
#[unsafe(link_section = ".init_array")]
static INIT: extern "C" fn() = init;

extern "C" fn init() {
    let errno = errno();
    real::resolve_all();
    // SAFETY: the handler is a function of this library, which is never unloaded, and does nothing but store to atomics.
    unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    set_errno(errno);
}

#[used]
#[unsafe(link_section = ".fini_array")]
static FINISH: extern "C" fn() = finish;

extern "C" fn finish() {
    guard((), face::at_exit);
}

extern "C" fn in_child() {
    guard((), face::after_fork_in_child);
}

pub(crate) fn errno() -> c_int {
    // SAFETY: glibc's own per-thread location, always valid.
    let location = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    unsafe { *location }
}

pub(crate) fn set_errno(value: c_int) {
    // SAFETY: glibc's own per-thread location, always valid.
    let location = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    unsafe { *location = value };
}

/// Runs our code: nothing of it may unwind into the program or change errno.
fn guard<R>(broken: R, run: impl FnOnce() -> R) -> R {
    let before = errno();
    let result = catch_unwind(AssertUnwindSafe(run)).unwrap_or(broken);
    set_errno(before);
    result
}

/// libc's way of returning a result.
fn answer<T, C: From<i8>>(result: Result<T, c_int>, ok: impl FnOnce(T) -> C) -> C {
    match result {
        Ok(value) => ok(value),
        Err(errno) => {
            set_errno(errno);
            C::from(-1)
        }
    }
}

/// The path's bytes if it is one of ours.
#[inline]
fn ours<'a>(path: *const c_char) -> Option<&'a [u8]> {
    // The first page and the kernel's half: what programs pass to see EFAULT.
    if !(0x1000..0x7fff_ffff_f000).contains(&(path as usize)) {
        return None;
    }
    for (at, expected) in [
        [b'/', b'/'],
        [b's', b'd'],
        [b'y', b'e'],
        [b's', b'v'],
        [b'/', b'/'],
    ]
    .iter()
    .enumerate()
    {
        // SAFETY: a C string; no byte before this one was its end, so the place is part of it.
        let place = unsafe { path.cast::<u8>().add(at) };
        // SAFETY: as above.
        let byte = unsafe { *place };
        if !expected.contains(&byte) {
            return None;
        }
    }
    bytes_of(path).filter(|bytes| paths::is_ours(bytes))
}

fn bytes_of<'a>(path: *const c_char) -> Option<&'a [u8]> {
    // SAFETY: a C string of the program.
    let len = unsafe { libc::strnlen(path, MAX_PATH) };
    // SAFETY: that many bytes were just read; the program leaves its argument alone during the call.
    (len < MAX_PATH).then(|| unsafe { std::slice::from_raw_parts(path.cast(), len) })
}

/// Calls with the path that the program's path stands for.
#[inline]
fn with_path<R>(path: *const c_char, call: impl FnOnce(*const c_char) -> R) -> R {
    match ours(path) {
        None => call(path),
        Some(bytes) => redirected(bytes, path, call),
    }
}

#[cold]
fn redirected<R>(bytes: &[u8], path: *const c_char, call: impl FnOnce(*const c_char) -> R) -> R {
    let mut buffer = [0u8; MAX_REDIRECTED];
    match guard(None, || face::redirect(bytes, &mut buffer)) {
        Some(_) => call(buffer.as_ptr().cast()),
        None => call(path),
    }
}

/// The open family: a device, a file of the tree, or somebody else's.
fn open_with(
    path: *const c_char,
    flags: c_int,
    real: impl FnOnce(*const c_char) -> c_int,
) -> c_int {
    let Some(bytes) = ours(path) else {
        return relative(path, flags, real(path));
    };
    if flags & libc::O_PATH == 0 {
        let opened = guard(Some(Err(libc::EIO)), || {
            Some(face::open(bytes, flags)?.map_err(|e| e.raw()))
        });
        if let Some(result) = opened {
            return answer(result, std::os::fd::IntoRawFd::into_raw_fd);
        }
        guard((), || face::refresh(bytes));
    }
    redirected(bytes, path, real)
}

/// A device of the tree may be named relative to its directory.
#[inline]
fn relative(path: *const c_char, flags: c_int, fd: c_int) -> c_int {
    if fd < 0 || flags & libc::O_PATH != 0 {
        return fd;
    }
    // SAFETY: the open has succeeded, so this is a C string.
    let first = unsafe { *path.cast::<u8>() };
    if first != b'u' && first != b'a' {
        fd
    } else {
        placeholder(path, flags, fd)
    }
}

#[cold]
fn placeholder(path: *const c_char, flags: c_int, fd: c_int) -> c_int {
    if bytes_of(path).is_none_or(|name| paths::Node::from_name(name).is_none()) {
        return fd;
    }
    let opened = guard(None, || {
        Some(face::open_placeholder(fd, flags)?.map_err(|e| e.raw()))
    });
    let Some(result) = opened else { return fd };
    real::close(fd);
    answer(result, std::os::fd::IntoRawFd::into_raw_fd)
}

/// Shows a device as the character device that it stands for.
#[inline]
fn show_stat(result: c_int, into: *mut libc::stat) -> c_int {
    if result == 0 {
        // SAFETY: filled by the call that has just succeeded.
        let st = unsafe { &mut *into };
        if let Some(node) = guard_node(st.st_dev, st.st_ino) {
            st.st_mode = libc::S_IFCHR | 0o666;
            st.st_rdev = libc::makedev(node.major(), node.minor());
            st.st_size = 0;
            st.st_blocks = 0;
        }
    }
    result
}

#[inline]
fn show_statx(result: c_int, into: *mut libc::statx) -> c_int {
    if result == 0 {
        // SAFETY: filled by the call that has just succeeded.
        let st = unsafe { &mut *into };
        let dev = libc::makedev(st.stx_dev_major, st.stx_dev_minor);
        if let Some(node) = guard_node(dev, st.stx_ino) {
            st.stx_mode = (libc::S_IFCHR | 0o666) as u16;
            st.stx_rdev_major = node.major();
            st.stx_rdev_minor = node.minor();
            st.stx_size = 0;
            st.stx_blocks = 0;
        }
    }
    result
}

#[inline]
fn guard_node(dev: u64, ino: u64) -> Option<paths::Node> {
    if face::may_be_ours(dev) {
        guard(None, || face::node_of_inode(dev, ino))
    } else {
        None
    }
}
