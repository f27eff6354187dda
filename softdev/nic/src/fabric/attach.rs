//! A process's attachment to a fabric.

use super::peer::Peers;
use super::thread::ThreadControl;
use crate::nic::context::NicContext;
use crate::shm::fabric_file::{
    FabricFile, MAX_DEVICES, MAX_PORTS, MAX_PROCS, Owner, open_dir, state,
};
use crate::shm::fd::WakePipe;
use crate::shm::fork::{self, PerProcess};
use crate::shm::locks::LockFile;
use crate::{Errno, FabricOptions, Result};
use std::collections::BTreeSet;
use std::sync::atomic::Ordering::*;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

/// One attachment per process and fabric.
pub struct Fabric {
    pub(crate) incarnation: u32,
    pub(crate) opts: FabricOptions,
    pub(crate) file: FabricFile,
    /// This process's slot in the process table.
    pub(crate) me: Owner,
    pub(super) shared: Arc<DirLocks>,
    pub(crate) pipe: Arc<WakePipe>,
    pub(super) pid_ns: u64,
    pub(super) peers: Mutex<Peers>,
    pub(super) contexts: Mutex<Vec<Weak<NicContext>>>,
    pub(super) thread: ThreadControl,
    /// Strict mode: how often this process has each accel device open.
    pub(crate) accel_opens: Mutex<[u32; MAX_DEVICES as usize]>,
}

/// The lock file of a directory, open for as long as the process lives: closing any descriptor of it would drop all locks.
pub(super) struct DirLocks {
    pub(super) file: LockFile,
    /// Bytes of this process, which the kernel would give it again.
    pub(super) held: Mutex<BTreeSet<u32>>,
}

struct Known {
    dir: (u64, u64),
    locks: Arc<DirLocks>,
    fabric: Weak<Fabric>,
}

static KNOWN: PerProcess<Mutex<Vec<Known>>> = PerProcess::new();

/// A poisoned lock holds data that is as good as it was before the panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Fabric {
    /// Creates or joins; reaps dead processes. A second attachment of the same process is the first one.
    pub fn attach(opts: &FabricOptions) -> Result<Arc<Fabric>> {
        let limits =
            (1..=MAX_DEVICES).contains(&opts.devices) && (1..=MAX_PORTS).contains(&opts.ports);
        if !limits {
            log::error!("a fabric has 1..={MAX_DEVICES} devices and 1..={MAX_PORTS} ports");
            return Err(Errno::EINVAL);
        }
        let incarnation = fork::begin()?;
        crate::shm::barrier::begin();
        let dir = open_dir(opts)?;
        let stat = rustix::fs::fstat(&dir)?;
        let id = (stat.st_dev, stat.st_ino);
        let mut known = lock(KNOWN.get(|| Mutex::new(Vec::new())));
        known.retain(|k| k.locks.is_current());
        if let Some(fabric) = known
            .iter()
            .find(|k| k.dir == id)
            .and_then(|k| k.fabric.upgrade())
        {
            if fabric.opts != *opts {
                log::error!(
                    "fabric {}: this process has attached with other options",
                    opts.dir.display()
                );
                return Err(Errno::EINVAL);
            }
            return Ok(fabric);
        }
        let shared = match known.iter().find(|k| k.dir == id) {
            Some(k) => k.locks.clone(),
            None => Arc::new(DirLocks {
                file: LockFile::open(&dir)?,
                held: Mutex::default(),
            }),
        };
        let file = FabricFile::open(&dir, opts)?;
        let pid_ns = rustix::fs::stat("/proc/thread-self/ns/pid")?.st_ino;
        let pipe = Arc::new(WakePipe::new()?);
        let me = shared.claim(&file, &pipe, pid_ns)?;
        let fabric = Arc::new(Fabric {
            incarnation,
            opts: opts.clone(),
            file,
            me,
            shared: shared.clone(),
            pipe,
            pid_ns,
            peers: Mutex::default(),
            contexts: Mutex::default(),
            thread: ThreadControl::default(),
            accel_opens: Mutex::default(),
        });
        known.retain(|k| k.dir != id);
        known.push(Known {
            dir: id,
            locks: shared,
            fabric: Arc::downgrade(&fabric),
        });
        drop(known);
        fabric.reap();
        Ok(fabric)
    }

    pub fn options(&self) -> &FabricOptions {
        &self.opts
    }

    /// Whether this is the process that attached, and not a forked child.
    #[inline(always)]
    pub(crate) fn is_ours(&self) -> bool {
        self.incarnation == fork::incarnation()
    }

    pub(crate) fn local_contexts(&self) -> Vec<Arc<NicContext>> {
        lock(&self.contexts)
            .iter()
            .filter_map(Weak::upgrade)
            .collect()
    }

    pub(crate) fn register(&self, context: &Arc<NicContext>) {
        let mut contexts = lock(&self.contexts);
        contexts.retain(|c| c.strong_count() > 0);
        contexts.push(Arc::downgrade(context));
    }

    pub(crate) fn unregister(&self, asid: u32, device: u32) {
        lock(&self.contexts).retain(|c| {
            c.upgrade()
                .is_some_and(|c| (c.asid(), c.rdma().device()) != (asid, device))
        });
    }
}

impl DirLocks {
    /// Whether the file is still the one in the directory (it may have been removed with the directory).
    fn is_current(&self) -> bool {
        rustix::fs::fstat(&self.file.fd).is_ok_and(|s| s.st_nlink > 0)
    }

    /// Takes the first slot that no living process holds.
    fn claim(&self, file: &FabricFile, pipe: &WakePipe, pid_ns: u64) -> Result<Owner> {
        refuse_strangers(self, file, pid_ns)?;
        let mut held = lock(&self.held);
        for slot in 0..MAX_PROCS {
            if held.contains(&slot) || !self.file.try_take(slot)? {
                continue;
            }
            // The byte is ours, so whoever had the slot is dead, and nobody else undoes what it did.
            let record = file.proc(slot);
            super::process::reap_slot(file, slot);
            let inc = state::owner(record.state().load(Acquire))
                .inc
                .wrapping_add(1)
                .max(1);
            let owner = Owner { slot, inc };
            record
                .state()
                .store(state::pack(state::CLAIMED, owner), SeqCst);
            file.proc_high().max(slot + 1);
            let pid = rustix::process::getpid().as_raw_nonzero().get();
            record.pid().store(pid as u32, Relaxed);
            record.thread().store(0, Relaxed);
            record.wake_fd().store(pipe.read.raw() as u32, Relaxed);
            record.pipe_ino().store(pipe.make_known()?, Relaxed);
            record
                .start_time()
                .store(super::process::start_time("self"), Relaxed);
            record.pid_ns().store(pid_ns, Relaxed);
            record.set_comm(
                crate::shm::fd::read_small("/proc/self/comm", 16)
                    .unwrap_or_default()
                    .trim_ascii_end(),
            );
            record
                .state()
                .store(state::pack(state::LIVE, owner), SeqCst);
            held.insert(slot);
            return Ok(owner);
        }
        log::error!("fabric: all {MAX_PROCS} process slots are taken");
        Err(Errno::ENFILE)
    }
}

/// Process numbers of another namespace mean other processes here.
fn refuse_strangers(locks: &DirLocks, file: &FabricFile, pid_ns: u64) -> Result<()> {
    use crate::shm::locks::Holder;
    let held = lock(&locks.held);
    for slot in 0..file.proc_high().load(Acquire).min(MAX_PROCS) {
        let record = file.proc(slot);
        if held.contains(&slot)
            || state::kind(record.state().load(Acquire)) != state::LIVE
            || record.pid_ns().load(Relaxed) == pid_ns
        {
            continue;
        }
        if locks.file.holder(slot)? != Holder::Nobody {
            log::error!(
                "this fabric is used from another pid namespace; give each container a fabric of its own"
            );
            return Err(Errno::EXDEV);
        }
    }
    Ok(())
}

impl Drop for Fabric {
    fn drop(&mut self) {
        if !self.is_ours() {
            return;
        }
        self.stop_thread();
        let mut held = lock(&self.shared.held);
        super::process::reap_slot(&self.file, self.me.slot);
        held.remove(&self.me.slot);
        self.shared.file.release(self.me.slot);
    }
}
