//! Mappings that can be taken away, and children to die in.
#![allow(dead_code, reason = "each test program uses a part")]

use std::ptr::null_mut;

pub(crate) const PAGE: usize = 4096;

/// Some anonymous or file pages, unmapped when dropped.
pub(crate) struct Pages {
    pub(crate) start: *mut u8,
    pub(crate) len: usize,
}

// SAFETY: a raw range of memory; the tests order their accesses themselves.
unsafe impl Sync for Pages {}
// SAFETY: as above.
unsafe impl Send for Pages {}

impl Pages {
    pub(crate) fn new(count: usize) -> Pages {
        Pages::map(count, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)
    }

    /// Pages of a memfd, which is handed back for truncation.
    pub(crate) fn of_file(count: usize) -> (Pages, i32) {
        // SAFETY: a C string literal and no flags.
        let fd = unsafe { libc::memfd_create(c"usercopy-test".as_ptr(), 0) };
        assert!(fd >= 0);
        truncate(fd, count * PAGE);
        (Pages::map(count, libc::MAP_SHARED, fd), fd)
    }

    fn map(count: usize, flags: i32, fd: i32) -> Pages {
        let len = count * PAGE;
        // SAFETY: a fresh mapping wherever the kernel likes.
        let start = unsafe {
            libc::mmap(
                null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                fd,
                0,
            )
        };
        assert_ne!(start, libc::MAP_FAILED);
        Pages {
            start: start.cast(),
            len,
        }
    }

    pub(crate) fn at(&self, offset: usize) -> *mut u8 {
        self.start.wrapping_add(offset)
    }

    pub(crate) fn word(&self, offset: usize) -> *mut u64 {
        self.at(offset).cast()
    }

    pub(crate) fn protect(&self, page: usize, protection: i32) {
        // SAFETY: a page of ours, which only guarded accesses touch.
        let done = unsafe { libc::mprotect(self.at(page * PAGE).cast(), PAGE, protection) };
        assert_eq!(done, 0);
    }

    pub(crate) fn unmap(&self, page: usize) {
        // SAFETY: as for `protect`.
        let done = unsafe { libc::munmap(self.at(page * PAGE).cast(), PAGE) };
        assert_eq!(done, 0);
    }

    pub(crate) fn bytes(&self, offset: usize, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        copy(out.as_mut_ptr(), self.at(offset), len).unwrap();
        out
    }

    pub(crate) fn fill(&self, offset: usize, bytes: &[u8]) {
        copy(self.at(offset), bytes.as_ptr(), bytes.len()).unwrap();
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: our own mapping.
        unsafe { libc::munmap(self.start.cast(), self.len) };
    }
}

pub(crate) fn truncate(fd: i32, len: usize) {
    // SAFETY: a descriptor of ours.
    assert_eq!(unsafe { libc::ftruncate(fd, len as i64) }, 0);
}

pub(crate) fn copy(dst: *mut u8, src: *const u8, len: usize) -> Result<(), gaudi_usercopy::Fault> {
    // SAFETY: the tests copy into their own pages and buffers, or into nothing.
    unsafe { gaudi_usercopy::copy(dst, src, len) }
}

/// Runs `body` in a forked child; its result or the fatal signal, negated.
pub(crate) fn in_child(body: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child runs only `body` and leaves through _exit.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        no_core();
        let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or(101);
        // SAFETY: ends the child without running the parent's exit handlers.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: our own child.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    if libc::WIFSIGNALED(status) {
        -libc::WTERMSIG(status)
    } else {
        libc::WEXITSTATUS(status)
    }
}

fn no_core() {
    let limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: a plain structure.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &limit) };
}
