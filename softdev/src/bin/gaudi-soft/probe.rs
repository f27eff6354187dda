//! Tries out what the soft device does all the time: one process writes into another.

use std::os::unix::fs::FileExt;
use std::process::{Command, ExitCode, Stdio};

/// What of the two ways worked; the text of the error otherwise.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) call: Result<(), String>,
    pub(crate) file: Result<(), String>,
}

const PATTERN: [u8; 8] = *b"gaudi-wr";

/// Starts a child that writes into this process: upwards, since yama always lets a parent reach its children.
pub(crate) fn parent() -> Result<Outcome, String> {
    let exe = std::env::current_exe().map_err(|e| format!("own executable: {e}"))?;
    // What the preloaded library does at open, so that yama's default setting lets the peers in.
    let allowed = rustix::process::set_ptracer(rustix::process::PTracer::Any);
    let target: Box<[std::sync::atomic::AtomicU64; 2]> = Box::default();
    let child = Command::new(exe)
        .args([
            "probe-copy",
            &std::process::id().to_string(),
            &(target.as_ptr().expose_provenance()).to_string(),
        ])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    if allowed.is_ok() {
        let _ = rustix::process::set_ptracer(rustix::process::PTracer::None);
    }
    let output = child.map_err(|e| format!("cannot start a second process: {e}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let answer = |name: &str, index: usize| match said.lines().find_map(|l| l.strip_prefix(name)) {
        Some("ok")
            if target[index].load(std::sync::atomic::Ordering::Relaxed)
                == u64::from_ne_bytes(PATTERN) =>
        {
            Ok(())
        }
        Some("ok") => Err("reported success, but nothing arrived".to_string()),
        Some(error) => Err(error.to_string()),
        None => Err(format!(
            "the second process ended early ({})",
            output.status
        )),
    };
    Ok(Outcome {
        call: answer("call=", 0),
        file: answer("file=", 1),
    })
}

/// The second process.
pub(crate) fn child(pid: u32, address: u64) -> ExitCode {
    let show = |name: &str, r: std::io::Result<usize>| match r {
        Ok(8) => println!("{name}=ok"),
        Ok(n) => println!("{name}=moved {n} of 8 bytes"),
        Err(e) => println!("{name}={e}"),
    };
    show("call", write_by_call(pid, address));
    let file = std::fs::File::options()
        .write(true)
        .open(format!("/proc/{pid}/mem"));
    show("file", file.and_then(|f| f.write_at(&PATTERN, address + 8)));
    ExitCode::SUCCESS
}

fn write_by_call(pid: u32, address: u64) -> std::io::Result<usize> {
    let bytes = PATTERN;
    let local = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let remote = libc::iovec {
        iov_base: std::ptr::without_provenance_mut(address as usize),
        iov_len: bytes.len(),
    };
    // SAFETY: the local range is a live array that is only read; the kernel checks the remote one, in another process.
    let moved = unsafe {
        libc::process_vm_writev(
            pid.cast_signed(),
            &raw const local,
            1,
            &raw const remote,
            1,
            0,
        )
    };
    usize::try_from(moved).map_err(|_| std::io::Error::last_os_error())
}
