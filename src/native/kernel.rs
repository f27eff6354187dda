//! The kernel ABI: uverbs ioctls on the command descriptor and the accel memory ioctl. UNSAFE lives here (FFI to libc).
//!
//! libc's `open` and `ioctl` are called by name, so that a preloaded soft device sees them.

use std::ffi::CString;
use std::os::fd::RawFd;
use std::ptr::NonNull;

use super::Window;
use crate::verbs::types::{Errno, Result};
use kernel_abi::accel::{self, MemArgs};
use kernel_abi::uverbs::{self, Attr, IoctlHdr, attr_flag, device, obj};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

const MAX_ATTRS: usize = 14;

/// One uverbs ioctl under construction.
#[repr(C)]
pub struct Call {
    hdr: IoctlHdr,
    attrs: [Attr; MAX_ATTRS],
}

fn check(r: i32) -> Result<i32> {
    if r < 0 { Err(Errno::last()) } else { Ok(r) }
}

impl Call {
    pub fn new(object_id: u16, method_id: u16) -> Call {
        let mut hdr = IoctlHdr::new_zeroed();
        hdr.object_id = object_id;
        hdr.method_id = method_id;
        Call {
            hdr,
            attrs: [Attr::new_zeroed(); MAX_ATTRS],
        }
    }

    fn push(&mut self, id: u16, len: u16, data: u64) {
        let n = usize::from(self.hdr.num_attrs);
        if n < MAX_ATTRS {
            self.attrs[n] = Attr {
                attr_id: id,
                len,
                flags: attr_flag::MANDATORY,
                attr_data: 0,
                data,
            };
            self.hdr.num_attrs += 1;
        }
    }

    /// Input up to 8 bytes, in the attribute itself.
    pub fn value(mut self, id: u16, len: u16, v: u64) -> Call {
        self.push(id, len, v);
        self
    }

    /// An object or a descriptor.
    pub fn handle(mut self, id: u16, h: u32) -> Call {
        self.push(id, 0, u64::from(h));
        self
    }

    /// Input by address; up to 8 bytes go into the attribute.
    pub fn input<T: IntoBytes + Immutable>(mut self, id: u16, v: &T) -> Call {
        let b = v.as_bytes();
        if b.len() <= Attr::INLINE_MAX {
            let mut w = [0u8; 8];
            w[..b.len()].copy_from_slice(b);
            self.push(id, b.len() as u16, u64::from_ne_bytes(w));
        } else {
            self.push(id, b.len() as u16, b.as_ptr() as u64);
        }
        self
    }

    /// Output by address; `v` must outlive the call.
    pub fn output<T: IntoBytes + FromBytes>(mut self, id: u16, v: &mut T) -> Call {
        let b = v.as_mut_bytes();
        self.push(id, b.len() as u16, b.as_mut_ptr() as u64);
        self
    }

    /// Performs it.
    pub fn run(&mut self, fd: RawFd) -> Result<()> {
        self.hdr.length =
            (size_of::<IoctlHdr>() + usize::from(self.hdr.num_attrs) * size_of::<Attr>()) as u16;
        // SAFETY: the header describes exactly the attributes that follow it, and every address in them points to a live value of the
        // stated length, owned by our caller for the duration of the call.
        check(unsafe { libc::ioctl(fd, uverbs::RDMA_VERBS_IOCTL as _, std::ptr::from_mut(self)) })?;
        Ok(())
    }

    /// What the kernel wrote into the attribute `id` (new objects and descriptors).
    pub fn answered(&self, id: u16) -> u64 {
        self.attrs[..usize::from(self.hdr.num_attrs)]
            .iter()
            .find(|a| a.attr_id == id)
            .map_or(0, |a| a.data)
    }
}

/// A command of the write family, carried by the ioctl.
pub fn command<I, O>(fd: RawFd, number: u32, input: &I, output: &mut O) -> Result<()>
where
    I: IntoBytes + Immutable,
    O: IntoBytes + FromBytes,
{
    use device::invoke_write::{CORE_IN, CORE_OUT, WRITE_CMD};
    let mut c = Call::new(obj::DEVICE, device::INVOKE_WRITE)
        .value(WRITE_CMD, 4, u64::from(number))
        .input(CORE_IN, input);
    if size_of::<O>() != 0 {
        c = c.output(CORE_OUT, output);
    }
    c.run(fd)
}

/// The same with driver data.
pub fn command_uhw<I, O, UI, UO>(
    fd: RawFd,
    number: u32,
    input: &I,
    output: &mut O,
    uin: &UI,
    uout: &mut UO,
) -> Result<()>
where
    I: IntoBytes + Immutable,
    O: IntoBytes + FromBytes,
    UI: IntoBytes + Immutable,
    UO: IntoBytes + FromBytes,
{
    use device::invoke_write::{CORE_IN, CORE_OUT, WRITE_CMD};
    let mut c = Call::new(obj::DEVICE, device::INVOKE_WRITE)
        .value(WRITE_CMD, 4, u64::from(number))
        .input(CORE_IN, input);
    if size_of::<O>() != 0 {
        c = c.output(CORE_OUT, output);
    }
    c.input(uverbs::UHW_IN, uin)
        .output(uverbs::UHW_OUT, uout)
        .run(fd)
}

/// Nothing, as an answer.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Empty([u8; 0]);

pub fn open_accel(n: u32) -> Result<RawFd> {
    let path = CString::new(format!("/dev/accel/accel{n}")).map_err(|_| Errno::EINVAL)?;
    // SAFETY: a NUL-terminated path that lives over the call.
    check(unsafe { libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) })
}

pub fn close(fd: RawFd) {
    // SAFETY: a descriptor of ours that nobody uses afterwards.
    unsafe { libc::close(fd) };
}

pub fn memory(fd: RawFd, args: &mut MemArgs) -> Result<()> {
    // SAFETY: the request number says 40 bytes, which is the size of MemArgs.
    check(unsafe { libc::ioctl(fd, accel::IOCTL_MEMORY as _, std::ptr::from_mut(args)) })?;
    Ok(())
}

/// Maps device memory through a descriptor.
pub fn map_device(fd: RawFd, handle: u64, len: usize) -> Result<Window> {
    let off = i64::try_from(handle).map_err(|_| Errno::EINVAL)?;
    // SAFETY: a new shared mapping at an address of the kernel's choice.
    let p = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            fd,
            off,
        )
    };
    window_of(p, len)
}

/// Anonymous memory for mailboxes where there is no arena.
pub fn map_anonymous(len: usize) -> Result<Window> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new private mapping at an address of the kernel's choice.
    let p = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            flags,
            -1,
            0,
        )
    };
    window_of(p, len)
}

/// Maps a buffer of somebody else's descriptor; EOPNOTSUPP when that cannot be mapped.
pub fn map_buffer(fd: RawFd, offset: u64, len: u64, writable: bool) -> Result<Window> {
    let (off, len) = (
        i64::try_from(offset).map_err(|_| Errno::EINVAL)?,
        usize::try_from(len).map_err(|_| Errno::EINVAL)?,
    );
    let prot = if writable {
        libc::PROT_READ | libc::PROT_WRITE
    } else {
        libc::PROT_READ
    };
    // SAFETY: a new shared mapping at an address of the kernel's choice.
    let p = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, libc::MAP_SHARED, fd, off) };
    window_of(p, len).map_err(|e| match e.0 {
        libc::EBADF | libc::EINVAL | libc::ENOMEM => e,
        _ => Errno::EOPNOTSUPP,
    })
}

/// The two halves of null MRs: `len` bytes that read as zeros, and as many whose writes go to one small piece of memory over and over.
pub fn null_memory(len: u64) -> Result<(Window, Window)> {
    /// Few enough mappings, little enough memory.
    const SINK: usize = 2 << 20;
    let len = usize::try_from(len).map_err(|_| Errno::EINVAL)?;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let reserve = |prot| {
        // SAFETY: a new private mapping at an address of the kernel's choice.
        let p = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, -1, 0) };
        window_of(p, len)
    };
    // Reading private memory that nobody wrote takes no memory.
    let zeros = reserve(libc::PROT_READ)?;
    let sink = reserve(libc::PROT_NONE).inspect_err(|_| unmap(zeros))?;
    // SAFETY: a name that lives over the call.
    let fd = unsafe { libc::memfd_create(c"gaudi-null".as_ptr(), libc::MFD_CLOEXEC) };
    // SAFETY: plain ftruncate; fails on a bad descriptor.
    let sized = check(fd).and_then(|_| check(unsafe { libc::ftruncate(fd, SINK as i64) }));
    let filled = sized.and_then(|_| {
        (0..len).step_by(SINK).try_for_each(|at| {
            // SAFETY: replaces a part of the reservation made above, which nobody uses yet.
            let p = unsafe {
                libc::mmap(
                    (sink.address() + at as u64) as *mut libc::c_void,
                    SINK.min(len - at),
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_SHARED | libc::MAP_FIXED,
                    fd,
                    0,
                )
            };
            if p == libc::MAP_FAILED {
                Err(Errno::last())
            } else {
                Ok(())
            }
        })
    });
    if fd >= 0 {
        close(fd);
    }
    if let Err(e) = filled {
        unmap(zeros);
        unmap(sink);
        return Err(e);
    }
    Ok((zeros, sink))
}

/// Takes the unread records that begin with `first` out of a pipe or a socket of records of `size` bytes, and puts the others back in order
/// through `write`: how many were taken. Never blocks, whatever the flags of the program's descriptor.
pub fn drain_records(fd: RawFd, size: usize, first: u64, mut write: impl FnMut(&[u8])) -> u32 {
    const MOST: usize = 8192;
    // A description of its own, with flags of its own; sockets cannot be opened like that, but have a flag per call.
    let own = CString::new(format!("/proc/self/fd/{fd}")).map_or(-1, |path| {
        // SAFETY: a NUL-terminated path that lives over the call.
        unsafe {
            libc::open(
                path.as_ptr(),
                libc::O_RDONLY | libc::O_NONBLOCK | libc::O_CLOEXEC,
            )
        }
    });
    let (mut kept, mut taken) = (Vec::new(), 0);
    let mut record = [0u8; 16];
    let record = &mut record[..size.min(16)];
    for _ in 0..MOST {
        let n = if own >= 0 {
            // SAFETY: the buffer is a live slice.
            unsafe { libc::read(own, record.as_mut_ptr().cast(), record.len()) }
        } else {
            // SAFETY: as above.
            unsafe {
                libc::recv(
                    fd,
                    record.as_mut_ptr().cast(),
                    record.len(),
                    libc::MSG_DONTWAIT,
                )
            }
        };
        if n != record.len() as isize {
            break;
        }
        if record.starts_with(&first.to_ne_bytes()) {
            taken += 1;
        } else {
            kept.push(record.to_vec());
        }
    }
    if own >= 0 {
        close(own);
    }
    for r in kept {
        write(&r);
    }
    taken
}

fn window_of(p: *mut libc::c_void, len: usize) -> Result<Window> {
    if p == libc::MAP_FAILED {
        return Err(Errno::last());
    }
    let base = NonNull::new(p.cast::<u8>()).ok_or(Errno::ENOMEM)?;
    // SAFETY: just mapped, page-aligned; unmapped only by `unmap`, when its owner drops the window.
    Ok(unsafe { Window::new(base, len) })
}

pub fn unmap(w: Window) {
    if !w.is_empty() {
        // SAFETY: a mapping that map_device or map_anonymous made; its owner uses it no more.
        unsafe { libc::munmap(w.address() as *mut libc::c_void, w.len()) };
    }
}

/// Unmaps what map_anonymous made.
pub fn unmap_at(base: NonNull<u8>, len: usize) {
    // SAFETY: as in unmap.
    unsafe { libc::munmap(base.as_ptr().cast(), len) };
}

/// Not mapped anywhere: for connections that are not up.
pub fn no_window() -> Window {
    // SAFETY: length zero: no access is ever in bounds.
    unsafe { Window::new(NonNull::dangling(), 0) }
}

pub fn set_nonblocking(fd: RawFd) {
    // SAFETY: plain fcntl on a descriptor of ours.
    let fl = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    if fl >= 0 {
        // SAFETY: as above.
        unsafe { libc::fcntl(fd, libc::F_SETFL, fl | libc::O_NONBLOCK) };
    }
}

/// A pipe: (read end, write end), both close-on-exec, the write end non-blocking and out of the way of the program's numbers.
pub fn event_pipe() -> Result<(RawFd, RawFd)> {
    let mut fds = [-1; 2];
    // SAFETY: two descriptors are written into the array.
    check(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) })?;
    let w = move_high(fds[1]);
    set_nonblocking(w);
    Ok((fds[0], w))
}

/// A second, non-blocking reader of a pipe; -1 where there is no /proc.
pub fn reopen_nonblocking(fd: RawFd) -> RawFd {
    let Ok(path) = CString::new(format!("/proc/self/fd/{fd}")) else {
        return -1;
    };
    let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_CLOEXEC;
    // SAFETY: a path.
    let back = unsafe { libc::open(path.as_ptr(), flags) };
    if back < 0 { -1 } else { move_high(back) }
}

/// Moves a descriptor above the numbers that programs hand around; itself where the limit is low.
pub fn move_high(fd: RawFd) -> RawFd {
    // SAFETY: plain fcntl; the old number is ours to close.
    let high = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 1000) };
    if high < 0 {
        return fd;
    }
    close(fd);
    high
}

pub fn write_bytes(fd: RawFd, b: &[u8]) -> Result<()> {
    // SAFETY: the buffer is a live slice.
    let n = unsafe { libc::write(fd, b.as_ptr().cast(), b.len()) };
    if n == b.len() as isize {
        Ok(())
    } else {
        Err(Errno::last())
    }
}

/// How much of a pipe is unread; 0 where that cannot be said.
pub fn unread_bytes(fd: RawFd) -> usize {
    let mut n: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int (ioctl_tty(2), pipe(7)).
    let r = unsafe { libc::ioctl(fd, libc::FIONREAD, &raw mut n) };
    if r < 0 { 0 } else { n.max(0) as usize }
}

/// Reads one record; None when there is none.
pub fn read_bytes(fd: RawFd, b: &mut [u8]) -> Option<usize> {
    // SAFETY: the buffer is a live slice.
    let n = unsafe { libc::read(fd, b.as_mut_ptr().cast(), b.len()) };
    usize::try_from(n).ok().filter(|n| *n > 0)
}

/// Gives a completion channel a writer of ours where the device has none: the number stays, the file behind it is replaced (hazard 22:
/// flags copied). Answers the write end.
pub fn adopt_channel(channel: RawFd) -> Result<RawFd> {
    let mut fds = [-1; 2];
    // SAFETY: two descriptors are written into the array.
    check(unsafe {
        libc::socketpair(
            libc::AF_UNIX,
            libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC,
            0,
            fds.as_mut_ptr(),
        )
    })?;
    // SAFETY: plain fcntl.
    let fl = unsafe { libc::fcntl(channel, libc::F_GETFL) };
    // SAFETY: the program's number keeps meaning its channel.
    let r = check(unsafe { libc::dup3(fds[0], channel, libc::O_CLOEXEC) });
    close(fds[0]);
    if fl >= 0 && fl & libc::O_NONBLOCK != 0 {
        set_nonblocking(channel);
    }
    let w = move_high(fds[1]);
    if let Err(e) = r {
        close(w);
        return Err(e);
    }
    set_nonblocking(w);
    Ok(w)
}

pub fn now_ns() -> u64 {
    clock(libc::CLOCK_MONOTONIC)
}

/// Nanoseconds since 1970.
pub fn wall_ns() -> u64 {
    clock(libc::CLOCK_REALTIME)
}

fn clock(id: libc::clockid_t) -> u64 {
    let mut t = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writes one timespec.
    unsafe { libc::clock_gettime(id, &raw mut t) };
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

pub fn random() -> u64 {
    let mut b = [0u8; 8];
    // SAFETY: eight bytes into the array.
    let n = unsafe { libc::getrandom(b.as_mut_ptr().cast(), 8, 0) };
    if n == 8 {
        u64::from_ne_bytes(b)
    } else {
        now_ns().wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }
}

/// Sleeps until the word is no longer `val`, somebody wakes it, or the time is over.
pub fn futex_wait(word: Word, val: u32, timeout_ns: u64) {
    let t = libc::timespec {
        tv_sec: (timeout_ns / 1_000_000_000) as i64,
        tv_nsec: (timeout_ns % 1_000_000_000) as i64,
    };
    // SAFETY: the word lies in a mapping that outlives the agent; a shared futex, since the device wakes it from other processes.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.0.as_ptr(),
            libc::FUTEX_WAIT,
            val,
            &raw const t,
        )
    };
}

pub fn futex_wake(word: Word) {
    // SAFETY: as in futex_wait.
    unsafe { libc::syscall(libc::SYS_futex, word.0.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
}

/// The address of a word in shared memory, for the calls below.
#[derive(Clone, Copy, Debug)]
pub struct Word(NonNull<u32>);

// SAFETY: only an address; the calls below access it atomically.
unsafe impl Send for Word {}
// SAFETY: as above.
unsafe impl Sync for Word {}

impl Word {
    /// The word of a window, which must stay mapped as long as the context lives.
    pub fn of(w: &Window, off: usize) -> Option<Word> {
        w.futex(off).map(Word)
    }
}

pub fn load_word(word: Word) -> u32 {
    // SAFETY: a word of the shared event page, mapped as long as the context lives.
    unsafe { std::sync::atomic::AtomicU32::from_ptr(word.0.as_ptr()) }
        .load(std::sync::atomic::Ordering::SeqCst)
}

/// What the device does to announce something, done by ourselves.
pub fn bump_and_wake(word: Word) {
    // SAFETY: as in load_word.
    unsafe { std::sync::atomic::AtomicU32::from_ptr(word.0.as_ptr()) }
        .fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    futex_wake(word);
}

/// Blocks every signal in this thread but those of memory faults, which the fault-safe copies need.
pub fn block_signals() {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: initialises the set.
    unsafe { libc::sigfillset(set.as_mut_ptr()) };
    for s in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE] {
        // SAFETY: the set is initialised.
        unsafe { libc::sigdelset(set.as_mut_ptr(), s) };
    }
    // SAFETY: the set is initialised; only this thread's mask changes.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) };
}

/// A page that the kernel zeroes in a forked child: how inherited contexts know that they are dead (hazard 23).
#[derive(Debug)]
pub struct ForkMark(Window);

impl Drop for ForkMark {
    fn drop(&mut self) {
        unmap(self.0);
    }
}

impl ForkMark {
    pub fn new() -> Result<ForkMark> {
        let mark = ForkMark(map_anonymous(4096)?);
        // SAFETY: our own fresh page.
        let r = unsafe {
            libc::madvise(
                mark.0.address() as *mut libc::c_void,
                4096,
                libc::MADV_WIPEONFORK,
            )
        };
        check(r)?;
        mark.0.store32(0, 1);
        Ok(mark)
    }

    #[inline]
    pub fn in_owner(&self) -> bool {
        self.0.load32(0) == 1
    }
}

/// The paravirtual functions of the device (`kernel_abi::ext::PvTable`).
#[derive(Clone, Copy)]
pub struct Pv {
    cookie: u64,
    doorbell: extern "C" fn(u64, u32, u64) -> u32,
    progress: extern "C" fn(u64, u64) -> u32,
    cq_ci: extern "C" fn(u64, u32, u32, u32),
    cq_arm: extern "C" fn(u64, u32, u32, u32) -> u32,
    raise: extern "C" fn(u64, i32, u64) -> i32,
    stalled_us: extern "C" fn(u64, u32, u32) -> u64,
    note: extern "C" fn(u64, u32, u32, u32, u64),
    frame_open: extern "C" fn(u64, u32, u32) -> i32,
    frame_close: extern "C" fn(u64, u32, u32),
    frame_send: extern "C" fn(u64, u32, u32, u64, u64) -> u32,
    frame_recv: extern "C" fn(u64, u32, u32, u64, u64) -> u64,
    frame_arm: extern "C" fn(u64) -> u32,
}

impl Pv {
    /// Reads the table whose address the kernel answered.
    pub fn load(address: u64, cookie: u64) -> Option<Pv> {
        use kernel_abi::ext::{PV_VERSION, PvTable};
        if address == 0 || !address.is_multiple_of(8) {
            return None;
        }
        // SAFETY: the device that answered alloc_ucontext vouches for a table at this address, for the life of the process.
        let t = unsafe { std::ptr::read(address as *const PvTable) };
        let all = [
            t.doorbell,
            t.progress,
            t.cq_ci,
            t.cq_arm,
            t.raise,
            t.stalled_us,
            t.note,
            t.frame_open,
            t.frame_close,
            t.frame_send,
            t.frame_recv,
            t.frame_arm,
        ];
        if t.version != PV_VERSION || (t.size as usize) < size_of::<PvTable>() || all.contains(&0) {
            return None;
        }
        Some(Pv {
            cookie,
            // SAFETY: the table's version fixes the signature of each of its functions.
            doorbell: unsafe {
                std::mem::transmute::<u64, extern "C" fn(u64, u32, u64) -> u32>(t.doorbell)
            },
            // SAFETY: as above.
            progress: unsafe {
                std::mem::transmute::<u64, extern "C" fn(u64, u64) -> u32>(t.progress)
            },
            // SAFETY: as above.
            cq_ci: unsafe {
                std::mem::transmute::<u64, extern "C" fn(u64, u32, u32, u32)>(t.cq_ci)
            },
            // SAFETY: as above.
            cq_arm: unsafe {
                std::mem::transmute::<u64, extern "C" fn(u64, u32, u32, u32) -> u32>(t.cq_arm)
            },
            // SAFETY: as above.
            raise: unsafe {
                std::mem::transmute::<u64, extern "C" fn(u64, i32, u64) -> i32>(t.raise)
            },
            // SAFETY: as above.
            stalled_us: unsafe {
                std::mem::transmute::<u64, extern "C" fn(u64, u32, u32) -> u64>(t.stalled_us)
            },
            // SAFETY: as above.
            note: unsafe {
                std::mem::transmute::<u64, extern "C" fn(u64, u32, u32, u32, u64)>(t.note)
            },
            // SAFETY: as above.
            frame_open: unsafe {
                std::mem::transmute::<u64, extern "C" fn(u64, u32, u32) -> i32>(t.frame_open)
            },
            // SAFETY: as above.
            frame_close: unsafe {
                std::mem::transmute::<u64, extern "C" fn(u64, u32, u32)>(t.frame_close)
            },
            // SAFETY: as above.
            frame_send: unsafe {
                std::mem::transmute::<u64, extern "C" fn(u64, u32, u32, u64, u64) -> u32>(
                    t.frame_send,
                )
            },
            // SAFETY: as above.
            frame_recv: unsafe {
                std::mem::transmute::<u64, extern "C" fn(u64, u32, u32, u64, u64) -> u64>(
                    t.frame_recv,
                )
            },
            // SAFETY: as above.
            frame_arm: unsafe {
                std::mem::transmute::<u64, extern "C" fn(u64) -> u32>(t.frame_arm)
            },
        })
    }

    #[inline]
    pub fn doorbell(&self, port: u8, entry: u64) -> bool {
        (self.doorbell)(self.cookie, u32::from(port), entry) & kernel_abi::ext::PV_PENDING != 0
    }

    /// True when work is left.
    pub fn progress(&self, budget: u64) -> bool {
        (self.progress)(self.cookie, budget) & kernel_abi::ext::PV_PENDING != 0
    }

    pub fn cq_ci(&self, port: u8, cq: u32, ci: u32) {
        (self.cq_ci)(self.cookie, u32::from(port), cq, ci);
    }

    pub fn cq_arm(&self, port: u8, cq: u32, ci: u32) -> bool {
        (self.cq_arm)(self.cookie, u32::from(port), cq, ci) != 0
    }

    pub fn raise(&self, channel: i32, cookie: u64) -> i32 {
        (self.raise)(self.cookie, channel, cookie)
    }

    pub fn stalled_us(&self, port: u8, qpn: u32) -> u64 {
        (self.stalled_us)(self.cookie, u32::from(port), qpn)
    }

    pub fn note(&self, port: u8, qpn: u32, which: u32, value: u64) {
        (self.note)(self.cookie, u32::from(port), qpn, which, value);
    }

    pub fn frame_open(&self, port: u8, qpn: u32) -> Result<()> {
        match (self.frame_open)(self.cookie, u32::from(port), qpn) {
            0 => Ok(()),
            e => Err(Errno(e)),
        }
    }

    pub fn frame_close(&self, port: u8, qpn: u32) {
        (self.frame_close)(self.cookie, u32::from(port), qpn);
    }

    /// A word of `kernel_abi::ext::frame`.
    #[inline]
    pub fn frame_send(&self, ipv4: u32, qp_num: u32, bytes: &[u8]) -> u32 {
        let (at, len) = (bytes.as_ptr() as u64, bytes.len() as u64);
        (self.frame_send)(self.cookie, ipv4, qp_num, at, len)
    }

    /// The length of the frame that is in `room` now; 0 for none.
    #[inline]
    pub fn frame_recv(&self, port: u8, qpn: u32, room: &mut [u8]) -> usize {
        let (at, len) = (room.as_mut_ptr() as u64, room.len() as u64);
        let n = (self.frame_recv)(self.cookie, u32::from(port), qpn, at, len);
        (n as usize).min(room.len())
    }

    pub fn frame_arm(&self) -> bool {
        (self.frame_arm)(self.cookie) != 0
    }
}

/// Is the range mapped, and (where asked) writable? Its first and last page are touched; what lies between is the device's business.
pub fn probe(addr: u64, len: u64, writable: bool) -> bool {
    let touch = |a: u64| {
        if writable {
            // SAFETY: usercopy survives addresses that are not mapped; the write probe changes nothing.
            unsafe { usercopy::probe_write(a as *mut u8, 1) }.is_ok()
        } else {
            // SAFETY: as above.
            unsafe { usercopy::probe_read(a as *const u8, 1) }.is_ok()
        }
    };
    touch(addr) && touch(addr + len - 1)
}
