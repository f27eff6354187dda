//! Other contexts of the fabric and the processes that own them.

use super::attach::{Fabric, lock};
use super::way::Ways;
use crate::nic::mmu;
use crate::nic::rdma_layout::{self as rdma, Layout, head};
use crate::shm::fabric_file::{CtxCopy, Owner, state};
use crate::shm::fd::WakePipe;
use crate::shm::locks::Holder;
use crate::shm::remote_mem::{RemoteMem, Who};
use crate::shm::{Fd, Mapping, memfd};
use crate::{Errno, Result};
use rustix::fs::{OFlags, fstat};
use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::*};

#[derive(Default)]
pub(super) struct Peers {
    pub(super) links: HashMap<u32, Arc<Link>>,
    remotes: HashMap<(u32, u32), Arc<Remote>>,
}

impl Peers {
    /// Lets go of what nobody uses. What a context that is being opened at this moment has found stays: a second object would give its
    /// ways out twice.
    fn release(&mut self) {
        self.remotes.retain(|_, r| Arc::strong_count(r) > 1);
        self.links.retain(|_, l| Arc::strong_count(l) > 1);
    }
}

/// A process of the fabric, held by things that do not pass to another process with its number.
pub(crate) struct Link {
    pub(crate) owner: Owner,
    pub(crate) pid: u32,
    /// Our own process: plain copies reach its memory.
    pub(crate) is_self: bool,
    /// Our own process's pipe.
    own: Option<Arc<WakePipe>>,
    pub(super) pidfd: Option<Fd>,
    mem: Result<RemoteMem>,
    /// Write end of the process's pipe. In an error state once the process has exited or called exec.
    pub(super) wake: Option<Fd>,
    pub(super) dead: AtomicBool,
}

impl Link {
    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Acquire)
    }

    pub(crate) fn mem(&self) -> Result<&RemoteMem> {
        self.mem.as_ref().map_err(|e| *e)
    }

    pub(crate) fn wake(&self) {
        if let Some(pipe) = &self.own {
            pipe.wake();
        } else if let Some(fd) = &self.wake {
            crate::shm::fd::wake_other(fd);
        }
    }

    fn open(fabric: &Fabric, owner: Owner) -> Result<Link> {
        let record = fabric.file.proc(owner.slot);
        let live = state::pack(state::LIVE, owner);
        if record.state().load(Acquire) != live {
            return Err(Errno::ESRCH);
        }
        let pid = record.pid().load(Relaxed);
        if owner == fabric.me {
            return Ok(Link {
                owner,
                pid,
                is_self: true,
                own: Some(fabric.pipe.clone()),
                pidfd: None,
                mem: Err(Errno::EINVAL),
                wake: None,
                dead: AtomicBool::new(false),
            });
        }
        if record.pid_ns().load(Relaxed) != fabric.pid_ns {
            return Err(Errno::EXDEV);
        }
        let number = i32::try_from(pid)
            .ok()
            .and_then(rustix::process::Pid::from_raw)
            .ok_or(Errno::ESRCH)?;
        let pidfd = rustix::process::pidfd_open(number, rustix::process::PidfdFlags::empty())?;
        // Opened before the checks below: if the number changes hands in between, this belongs to somebody who is dead by then.
        let who = fabric.who(owner.slot);
        let mem = match RemoteMem::open(who) {
            Err(e @ (Errno::EPERM | Errno::EACCES)) => {
                explain_denial(fabric, pid, e);
                Err(e)
            }
            // Want of descriptors passes; a link that has none would last.
            other => Ok(other?),
        };
        let path = format!("fd/{}", record.wake_fd().load(Relaxed));
        let wake = Fd::high(who.open(&path, OFlags::WRONLY | OFlags::NONBLOCK)?);
        if fstat(&wake)?.st_ino != record.pipe_ino().load(Relaxed) {
            return Err(Errno::ESRCH);
        }
        let holder = fabric.shared.file.holder(owner.slot)?;
        if holder != Holder::Process(pid) || record.state().load(Acquire) != live {
            return Err(Errno::ESRCH);
        }
        let pidfd = Some(Fd::high(pidfd));
        Ok(Link {
            owner,
            pid,
            is_self: false,
            own: None,
            pidfd,
            mem,
            wake: Some(wake),
            dead: AtomicBool::new(false),
        })
    }
}

/// Says once how to let processes of one user reach each other.
fn explain_denial(fabric: &Fabric, pid: u32, e: Errno) {
    if !fabric.thread.denial_told.swap(true, Relaxed) {
        log::error!(
            "no access to the memory of process {pid} ({e}): with kernel.yama.ptrace_scope above 0 it must allow it by \
             prctl(PR_SET_PTRACER), which the soft device does unless GAUDI_SOFT_NO_PTRACER is set; scope 3 or another user \
             cannot be helped"
        );
    }
}

/// A context of the fabric, mapped.
pub(crate) struct Remote {
    pub(crate) device: u32,
    pub(crate) nonce: u64,
    pub(crate) link: Arc<Link>,
    pub(crate) map: Arc<Mapping>,
    pub(crate) accel: Arc<Mapping>,
    pub(crate) layout: Layout,
    /// This process's block of words for accesses in flight.
    pub(super) block: u64,
    pub(super) ways: Ways,
    /// Device memory ends here.
    pub(crate) dram_end: u64,
}

impl Remote {
    pub(crate) fn was_closed(&self) -> bool {
        self.map.w32(head::CLOSED).load(Acquire) != 0
    }

    /// Generation under which the owner has this QP, 0 for not at all.
    pub(crate) fn live_generation(&self, port: u32, qpn: u32) -> u32 {
        self.map
            .w32(rdma::LIVE + 4 * rdma::qp_index(port, qpn))
            .load(Acquire)
    }

    /// Tells the owner about an error of its QP. Each step is harmless without the next.
    pub(crate) fn report(&self, port: u32, qpn: u32, syndrome: u8) {
        let index = rdma::qp_index(port, qpn);
        self.map
            .w32(rdma::SYNDROME + 4 * index)
            .store(u32::from(syndrome), Release);
        self.map
            .w64(rdma::SYNDROME_BITS + index / 64 * 8)
            .or(1 << (index % 64));
        self.map.w32(head::INBOX).or(1 << (port % 32));
        self.link.wake();
    }

    fn new(fabric: &Fabric, device: u32, asid: u32, copy: &CtxCopy) -> Result<Remote> {
        let link = fabric.link(copy.owner)?;
        let (map, accel) = if link.is_self {
            let local = fabric
                .local_contexts()
                .into_iter()
                .find(|c| c.asid() == asid && c.rdma().device() == device);
            local
                .filter(|c| c.nonce() == copy.nonce)
                .ok_or(Errno::ESRCH)?
                .mappings()
        } else {
            let who = fabric.who(copy.owner.slot);
            let open = |fd, ino| memfd::open_peer(who, fd, copy.dev, ino, u64::MAX).map(Arc::new);
            (
                open(copy.rdma_fd, copy.rdma_ino)?,
                open(copy.accel_fd, copy.accel_ino)?,
            )
        };
        let header: [u64; 7] = map.load_words(0);
        let layout = Layout::checked(header[5], header[6]).ok_or(Errno::EINVAL)?;
        let ids = u64::from(asid) | u64::from(device) << 32;
        let expected = [rdma::MAGIC, u64::from(rdma::VERSION), copy.nonce, ids];
        if header[..4] != expected
            || map.len() < layout.total()
            || accel.w64(0).load(Relaxed) != mmu::MAGIC
        {
            return Err(Errno::ESTALE);
        }
        let dram_end = mmu::DRAM
            .saturating_add(accel.w64(mmu::HEAD_DRAM).load(Relaxed))
            .min(accel.len());
        if fabric.file.ctx(device, asid).copy().as_ref() != Some(copy) {
            return Err(Errno::ESRCH);
        }
        Ok(Remote {
            device,
            nonce: copy.nonce,
            link,
            map,
            accel,
            layout,
            block: rdma::INFLIGHT + u64::from(fabric.me.slot) * rdma::INFLIGHT_BLOCK,
            ways: Ways::new(),
            dram_end,
        })
    }

    /// Clears the words that a dead process of the same slot has left, before they count again. By one thread, and before anybody
    /// has the value: what is counted already would be lost.
    fn claim_block(&self, me: Owner) {
        let mine = u64::from(me.inc);
        self.map.w32(head::INFLIGHT_HIGH).max(me.slot + 1);
        if self.map.w64(self.block).load(Acquire) != mine {
            self.map
                .store_words(self.block + 8, &[0; rdma::INFLIGHT_WAYS as usize]);
            self.map.w64(self.block).store(mine, SeqCst);
        }
    }
}

impl Fabric {
    fn who(&self, slot: u32) -> Who {
        let record = self.file.proc(slot);
        Who {
            pid: record.pid().load(Relaxed),
            thread: record.thread().load(Relaxed),
        }
    }

    /// The context that has this ASID now. Slow at first; later one look into a table.
    pub(crate) fn remote(&self, device: u32, asid: u32) -> Result<Arc<Remote>> {
        let copy = self.file.ctx(device, asid).copy().ok_or(Errno::ESRCH)?;
        let known = |peers: &Peers| {
            let found = peers.remotes.get(&(device, asid));
            let remote = found.filter(|remote| remote.nonce == copy.nonce)?;
            Some(if remote.link.is_dead() {
                Err(Errno::ESRCH)
            } else {
                Ok(remote.clone())
            })
        };
        if let Some(remote) = known(&lock(&self.peers)) {
            return remote;
        }
        let fresh = Arc::new(Remote::new(self, device, asid, &copy)?);
        let mut peers = lock(&self.peers);
        // Another thread has met the context at the same time. One object only for each: it knows which ways are taken.
        if let Some(remote) = known(&peers) {
            return remote;
        }
        if fresh.was_closed() {
            return Err(Errno::ESRCH);
        }
        fresh.claim_block(self.me);
        peers
            .remotes
            .retain(|_, r| !r.was_closed() && !r.link.is_dead());
        peers.remotes.insert((device, asid), fresh.clone());
        drop(peers);
        self.wake_thread();
        Ok(fresh)
    }

    fn link(&self, owner: Owner) -> Result<Arc<Link>> {
        let known = lock(&self.peers).links.get(&owner.slot).cloned();
        if let Some(link) = known.filter(|l| l.owner == owner) {
            return if link.is_dead() {
                Err(Errno::ESRCH)
            } else {
                Ok(link)
            };
        }
        let fresh = Arc::new(Link::open(self, owner)?);
        let mut peers = lock(&self.peers);
        Ok(match peers.links.get(&owner.slot) {
            Some(link) if link.owner == owner => link.clone(),
            _ => {
                peers.links.insert(owner.slot, fresh.clone());
                fresh
            }
        })
    }

    /// For the thread, which watches them. It may have held some of them when the last context was closed: they go now.
    pub(super) fn links(&self) -> Vec<Arc<Link>> {
        let unused = self.local_contexts().is_empty();
        let mut peers = lock(&self.peers);
        if unused {
            peers.release();
        }
        peers.links.values().cloned().collect()
    }

    pub(super) fn drop_peer(&self, link: &Arc<Link>) {
        let mut peers = lock(&self.peers);
        peers.links.retain(|_, l| !Arc::ptr_eq(l, link));
        peers.remotes.retain(|_, r| !Arc::ptr_eq(&r.link, link));
    }

    /// Forgets what is mapped of a context of this process, so that closing it gives its memory back; with the last one also the
    /// other processes, whose descriptors nobody needs any more.
    pub(crate) fn drop_remote(&self, device: u32, nonce: u64) {
        let last = self.local_contexts().is_empty();
        let mut peers = lock(&self.peers);
        if !last {
            peers
                .remotes
                .retain(|_, r| (r.device, r.nonce) != (device, nonce));
            return;
        }
        peers.release();
        drop(peers);
        // It watches them.
        self.wake_thread();
    }
}

/// For `poll`.
pub(super) fn as_fd(fd: &Option<Fd>) -> Option<std::os::fd::BorrowedFd<'_>> {
    fd.as_ref().map(|fd| fd.as_fd())
}

#[cfg(test)]
mod tests {
    use super::super::way::Way;
    use super::*;
    use crate::{AccelFile, EventSink, FabricOptions, NicEvent, RdmaFile};
    use std::sync::atomic::AtomicUsize;

    struct Deaf;
    impl EventSink for Deaf {
        fn event(&self, _: NicEvent) {}
    }

    /// Each of them clearing the block would drop what the others have counted already.
    #[test]
    fn threads_that_meet_a_context_at_once_count_in_one_place() {
        const THREADS: usize = 2;
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let fabric = Fabric::attach(&FabricOptions {
            dir: dir.path().join("fabric"),
            devices: 1,
            ports: 1,
            strict: false,
            retry_limit_ms: 0,
            rxe: false,
        })
        .unwrap();
        for _ in 0..50 {
            let accel = AccelFile::create(&fabric, 0).unwrap();
            let rdma = RdmaFile::create(&fabric, 0).unwrap();
            let context = rdma
                .open_context(0, Some(accel.clone()), Arc::new(Deaf))
                .unwrap();
            let ready = AtomicUsize::new(0);
            let found: Vec<Way> = std::thread::scope(|s| {
                let meet = || {
                    ready.fetch_add(1, SeqCst);
                    while ready.load(SeqCst) < THREADS {
                        std::hint::spin_loop();
                    }
                    let remote = fabric.remote(0, context.asid()).unwrap();
                    let way = remote.way();
                    way.enter();
                    way
                };
                let threads: Vec<_> = (0..THREADS).map(|_| s.spawn(meet)).collect();
                threads.into_iter().map(|t| t.join().unwrap()).collect()
            });
            let remote = &found[0].remote;
            let words = (0..rdma::INFLIGHT_WAYS).map(|way| remote.block + 8 + 8 * way);
            let counted: u64 = words.map(|at| remote.map.w64(at).swap(0)).sum();
            context.close();
            accel.close();
            assert_eq!(counted, THREADS as u64);
            assert!(found.iter().all(|w| Arc::ptr_eq(&w.remote, remote)));
        }
    }
}
