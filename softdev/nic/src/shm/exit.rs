//! How a process that is no child of ours has ended.

use super::Fd;
use super::fd::read_small;

/// `struct pidfd_info` (linux/pidfd.h), as far as it was in Linux 6.15, where the exit code came.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}
const _: () = assert!(size_of::<PidfdInfo>() == 64);

/// _IOWR(0xff, 11, struct pidfd_info)
const PIDFD_GET_INFO: u64 = 3 << 30 | 64 << 16 | 0xff << 8 | 11;
const PIDFD_INFO_EXIT: u64 = 1 << 3;

/// Whether the process ended by exit(2), and not by a signal; `None` if nobody can say any more. The descriptor has
/// reported the end.
pub(crate) fn by_itself(pidfd: &Fd, pid: u32) -> Option<bool> {
    zombie_status(pidfd, pid)
        .or_else(|| reaped_status(pidfd))
        .map(|status| status & 0x7f == 0)
}

/// As long as its parent has not waited for it, `/proc/<pid>/stat` has the status (proc(5), field 52).
fn zombie_status(pidfd: &Fd, pid: u32) -> Option<i64> {
    let text = read_small(&format!("/proc/{pid}/stat"), 1024).ok()?;
    let text = String::from_utf8_lossy(&text);
    let mut fields = text.rsplit(')').next()?.split_ascii_whitespace();
    if fields.next()? != "Z" {
        return None;
    }
    let status = fields.nth(48)?.parse().ok()?;
    // Still a zombie: then the number has belonged to it all the time.
    // SAFETY: signal 0 and no siginfo; the kernel checks the rest.
    let there = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.raw(), 0, 0usize, 0) };
    (there == 0).then_some(status)
}

/// Afterwards the descriptor itself knows, since Linux 6.15.
fn reaped_status(pidfd: &Fd) -> Option<i64> {
    let mut info = PidfdInfo {
        mask: PIDFD_INFO_EXIT,
        ..PidfdInfo::default()
    };
    // SAFETY: the kernel writes one structure of this size. A raw call, since `ioctl` is a name that the soft device interposes.
    let done =
        unsafe { libc::syscall(libc::SYS_ioctl, pidfd.raw(), PIDFD_GET_INFO, &raw mut info) };
    (done == 0 && info.mask & PIDFD_INFO_EXIT != 0).then_some(i64::from(info.exit_code))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn end_of(script: &str, wait_first: bool) -> Option<bool> {
        let mut child = Command::new("sh").args(["-c", script]).spawn().unwrap();
        let pid = child.id();
        let number = rustix::process::Pid::from_raw(pid as i32).unwrap();
        let fd = rustix::process::pidfd_open(number, rustix::process::PidfdFlags::empty()).unwrap();
        let mut poll = [rustix::event::PollFd::new(
            &fd,
            rustix::event::PollFlags::IN,
        )];
        rustix::event::poll(&mut poll, None).unwrap();
        let fd = Fd::new(fd.try_clone().unwrap());
        if wait_first {
            child.wait().unwrap();
        }
        let end = by_itself(&fd, pid);
        child.wait().unwrap();
        end
    }

    #[test]
    fn exit_and_signals_are_told_apart() {
        assert_eq!(end_of("exit 3", false), Some(true));
        assert_eq!(end_of("exit 0", false), Some(true));
        assert_eq!(end_of("kill -9 $$", false), Some(false));
        assert_eq!(end_of("kill -SEGV $$", false), Some(false));
        // Afterwards only newer kernels know.
        assert!(matches!(end_of("exit 0", true), None | Some(true)));
        assert!(matches!(end_of("kill -9 $$", true), None | Some(false)));
    }
}
