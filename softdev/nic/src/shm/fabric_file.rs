//! The fabric file: what every process of a fabric must see. Fixed layout, sparse, never shrinks.
//!
//! | part | records |
//! |---|---|
//! | header | magic, version, layout hash, the creator's options |
//! | process table | 1024 of 128 B |
//! | per device: context table | 1024 (ASIDs) of 64 B; record 0 is the device's own (strict mode: who opened the accel device) |
//! | per device and port: a page of port words and the QP table | 8192 of 256 B |
//!
//! Every table is changed by compare-and-swap on a record's state word that names the owner, so each prefix of what a killed
//! process did is a legal state, and whoever finds the owner dead can undo it.

use super::cell::{W32, W64};
use super::{Fd, Mapping};
use crate::{Errno, FabricOptions, Result};
use rustix::fs::{AtFlags, Mode, OFlags, fstat, ftruncate, linkat, mkdir, open, openat, unlinkat};
use std::sync::atomic::Ordering::*;

pub(crate) const MAX_DEVICES: u32 = 8;
pub(crate) const MAX_PORTS: u32 = 24;
pub(crate) const MAX_PROCS: u32 = 1024;
/// ASID 0 is the kernel's.
pub(crate) const MAX_ASIDS: u32 = 1024;
/// QP numbers of a port; 0 is the raw Ethernet QP.
pub(crate) const MAX_QPS: u32 = 8192;

pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"gaudifab");
pub(super) const VERSION: u32 = 1;
pub(super) const PROC_SIZE: u64 = 128;
pub(super) const CTX_SIZE: u64 = 64;
pub(super) const QP_SIZE: u64 = 256;
/// Of the provider's notes in a QP's record.
pub(super) const NOTES_AT: u64 = 216;
pub(super) const PORT_HEAD: u64 = 4096;
pub(super) const PROCS_AT: u64 = 4096;
pub(super) const CTXS_AT: u64 = PROCS_AT + MAX_PROCS as u64 * PROC_SIZE;
const PORTS_AT: u64 = CTXS_AT + (MAX_DEVICES * MAX_ASIDS) as u64 * CTX_SIZE;
const PORT_SIZE: u64 = PORT_HEAD + MAX_QPS as u64 * QP_SIZE;
pub(super) const FILE_SIZE: u64 = PORTS_AT + (MAX_DEVICES * MAX_PORTS) as u64 * PORT_SIZE;

/// Differs whenever a build places anything elsewhere: FNV-1a over all that this file and the context files fix.
pub(super) const fn layout_hash() -> u64 {
    use crate::nic::{mmu, rdma_layout as rdma};
    let parts = [
        VERSION as u64,
        PROC_SIZE,
        CTX_SIZE,
        QP_SIZE,
        FILE_SIZE,
        rdma::VERSION as u64,
        rdma::ARENA,
        rdma::FIXED_TAIL,
        mmu::VERSION as u64,
        mmu::DRAM,
    ];
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut i = 0;
    while i < parts.len() {
        hash = (hash ^ parts[i]).wrapping_mul(0x100_0000_01b3);
        i += 1;
    }
    hash
}

pub(crate) struct FabricFile {
    map: Mapping,
    fd: Fd,
    devices: u32,
    ports: u32,
}

/// Owner of a record, as its state word names it: process slot and incarnation of that slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) slot: u32,
    pub(crate) inc: u32,
}

/// State words of processes and contexts: kind in bits 0..4, slot in bits 4..16, incarnation in the upper half.
pub(crate) mod state {
    use super::Owner;
    pub(crate) const FREE: u64 = 0;
    pub(crate) const CLAIMED: u64 = 1;
    pub(crate) const LIVE: u64 = 2;

    pub(crate) const fn pack(kind: u64, owner: Owner) -> u64 {
        kind | ((owner.slot & 0xfff) as u64) << 4 | (owner.inc as u64) << 32
    }
    pub(crate) const fn kind(word: u64) -> u64 {
        word & 0xf
    }
    pub(crate) const fn owner(word: u64) -> Owner {
        Owner {
            slot: (word >> 4) as u32 & 0xfff,
            inc: (word >> 32) as u32,
        }
    }
}

/// State words of QPs: ASID in bits 0..10, flags, and in the upper half an epoch that goes up at every change.
pub(crate) mod qp_state {
    pub(crate) const RES: u64 = 1 << 12;
    pub(crate) const REQ: u64 = 1 << 13;
    pub(crate) const ERR: u64 = 1 << 14;
    const EPOCH: u64 = 1 << 32;

    pub(crate) const fn asid(word: u64) -> u32 {
        word as u32 & 0x3ff
    }
    pub(crate) const fn receives(word: u64) -> bool {
        word & (RES | ERR) == RES && asid(word) != 0
    }
    /// The next word: another low half under the next epoch.
    pub(crate) const fn next(word: u64, low: u64) -> u64 {
        (word.wrapping_add(EPOCH) & !0xffff_ffff) | (low & 0xffff_ffff)
    }
    pub(crate) const fn low(word: u64) -> u64 {
        word & 0xffff_ffff
    }
}

#[derive(Clone, Copy)]
pub(crate) struct ProcRec<'a> {
    map: &'a Mapping,
    at: u64,
}

impl<'a> ProcRec<'a> {
    pub(crate) fn state(self) -> W64<'a> {
        self.map.w64(self.at)
    }
    pub(crate) fn pid(self) -> W32<'a> {
        self.map.w32(self.at + 8)
    }
    /// Number of the read end of the process's wake pipe.
    pub(crate) fn wake_fd(self) -> W32<'a> {
        self.map.w32(self.at + 12)
    }
    pub(crate) fn start_time(self) -> W64<'a> {
        self.map.w64(self.at + 16)
    }
    pub(crate) fn pid_ns(self) -> W64<'a> {
        self.map.w64(self.at + 24)
    }
    pub(crate) fn pipe_ino(self) -> W64<'a> {
        self.map.w64(self.at + 32)
    }
    /// The stopped process whose copy this process waits for, for those who look; 0 for none.
    pub(crate) fn waiting_for(self) -> W32<'a> {
        self.map.w32(self.at + 56)
    }
    /// The process's thread for the device, once it runs. `/proc` shows the process by it when its first thread has ended.
    pub(crate) fn thread(self) -> W32<'a> {
        self.map.w32(self.at + 60)
    }
    pub(crate) fn set_comm(self, comm: &[u8]) {
        let mut text = [0u8; 16];
        for (to, from) in text.iter_mut().zip(comm) {
            *to = *from;
        }
        let word = |half: &[u8]| half.iter().rev().fold(0u64, |w, b| w << 8 | u64::from(*b));
        self.map
            .store_words(self.at + 40, &[word(&text[..8]), word(&text[8..])]);
    }
    pub(crate) fn comm(self) -> String {
        let words: [u64; 2] = self.map.load_words(self.at + 40);
        let bytes: Vec<u8> = words
            .iter()
            .flat_map(|w| w.to_le_bytes())
            .take_while(|b| *b != 0)
            .collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

#[derive(Clone, Copy)]
pub(crate) struct CtxRec<'a> {
    map: &'a Mapping,
    at: u64,
}

/// One consistent copy of a live context's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CtxCopy {
    pub(crate) owner: Owner,
    pub(crate) nonce: u64,
    pub(crate) rdma_fd: u32,
    pub(crate) accel_fd: u32,
    pub(crate) rdma_ino: u64,
    pub(crate) accel_ino: u64,
    pub(crate) ports_mask: u64,
    pub(crate) dev: u64,
}

impl<'a> CtxRec<'a> {
    pub(crate) fn state(self) -> W64<'a> {
        self.map.w64(self.at)
    }
    /// Takes a free record.
    pub(crate) fn claim(self, owner: Owner) -> bool {
        let claimed = state::pack(state::CLAIMED, owner);
        self.state().cas(state::FREE, claimed).is_ok()
    }
    /// Shows a claimed record to everybody. Fields must be complete before the state word says LIVE.
    pub(crate) fn publish(self, c: &CtxCopy) {
        let fds = u64::from(c.rdma_fd) | u64::from(c.accel_fd) << 32;
        self.map.store_words(
            self.at + 8,
            &[c.nonce, fds, c.rdma_ino, c.accel_ino, c.ports_mask, c.dev],
        );
        let live = state::pack(state::LIVE, c.owner);
        self.state().store(live, SeqCst);
    }
    /// Gives back what is live, or was claimed and never shown. Only one of the two: another thread of this process may have claimed the
    /// record when it has just become free.
    pub(crate) fn release(self, owner: Owner) {
        let free = |kind| {
            let word = state::pack(kind, owner);
            self.state().cas(word, state::FREE).is_ok()
        };
        let _ = free(state::LIVE) || free(state::CLAIMED);
    }
    pub(crate) fn copy(self) -> Option<CtxCopy> {
        let before = self.state().load(Acquire);
        if state::kind(before) != state::LIVE {
            return None;
        }
        let [nonce, fds, rdma_ino, accel_ino, ports_mask, dev] = self.map.load_words(self.at + 8);
        super::sync::fence(Acquire);
        if self.state().load(Relaxed) != before {
            return None;
        }
        let (rdma_fd, accel_fd) = (fds as u32, (fds >> 32) as u32);
        Some(CtxCopy {
            owner: state::owner(before),
            nonce,
            rdma_fd,
            accel_fd,
            rdma_ino,
            accel_ino,
            ports_mask,
            dev,
        })
    }
}

/// Words of a port that outlive its QPs.
#[derive(Clone, Copy)]
pub(crate) struct PortRec<'a> {
    map: &'a Mapping,
    at: u64,
}

impl<'a> PortRec<'a> {
    /// All numbers ever used are below it.
    pub(crate) fn qp_high(self) -> W32<'a> {
        self.map.w32(self.at)
    }
    /// No number below it is free, as far as known.
    pub(crate) fn qp_hint(self) -> W32<'a> {
        self.map.w32(self.at + 4)
    }
    /// What QPs that are gone have sent from (0) or to (1) this port: bytes, messages, packets.
    pub(crate) fn total(self, received: bool, which: u64) -> W64<'a> {
        self.map
            .w64(self.at + if received { 128 } else { 64 } + 8 * which)
    }
}

#[derive(Clone, Copy)]
pub(crate) struct QpRec<'a> {
    map: &'a Mapping,
    at: u64,
}

impl<'a> QpRec<'a> {
    #[inline(always)]
    pub(crate) fn state(self) -> W64<'a> {
        self.map.w64(self.at)
    }
    /// Takes a free number for a context.
    pub(crate) fn claim(self, asid: u32) -> bool {
        let free = self.state().load(Acquire);
        qp_state::asid(free) == 0
            && self
                .state()
                .cas(free, qp_state::next(free, u64::from(asid)))
                .is_ok()
    }
    pub(crate) fn generation(self) -> W32<'a> {
        self.map.w32(self.at + 8)
    }
    pub(crate) fn syndrome(self) -> W32<'a> {
        self.map.w32(self.at + 12)
    }
    /// Responder context; the words beside it in the same line.
    pub(crate) fn res(self) -> [u64; 4] {
        self.map.load_words(self.at + 16)
    }
    pub(crate) fn set_res(self, words: &[u64; 4]) {
        self.map.store_words(self.at + 16, words);
    }
    /// Requester context; for those who look, the requester itself keeps its own copy.
    pub(crate) fn req(self) -> [u64; 16] {
        self.map.load_words(self.at + 64)
    }
    pub(crate) fn set_req(self, words: &[u64; 16]) {
        self.map.store_words(self.at + 64, words);
    }
    /// Sent so far: bytes, messages, packets. Written by the requester only.
    #[inline(always)]
    pub(crate) fn sent(self, which: u64) -> W64<'a> {
        self.map.w64(self.at + 192 + 8 * which)
    }
    /// What the owner's provider notes (`kernel_abi::ext::note`).
    pub(crate) fn note(self, which: u32) -> W64<'a> {
        self.map
            .w64(self.at + NOTES_AT + 8 * u64::from(which % kernel_abi::ext::note::COUNT))
    }
}

impl FabricFile {
    /// Opens the fabric of a directory that was checked, or creates it.
    pub(crate) fn open(dir: &Fd, opts: &FabricOptions) -> Result<FabricFile> {
        for _ in 0..16 {
            let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match openat(dir, "fabric.shm", flags, Mode::empty()) {
                Ok(fd) => return Self::join(&Fd::new(fd), opts),
                Err(rustix::io::Errno::NOENT) => Self::create(dir, opts)?,
                Err(e) => return Err(e.into()),
            }
        }
        Err(Errno::EAGAIN)
    }

    /// Complete under a temporary name, then linked: whoever comes first wins, and nobody sees half a header.
    fn create(dir: &Fd, opts: &FabricOptions) -> Result<()> {
        super::memfd::check_file_size(FILE_SIZE)?;
        let name = format!(
            ".fabric.{}.{:x}",
            rustix::process::getpid().as_raw_nonzero(),
            nonce()
        );
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = Fd::new(openat(
            dir,
            name.as_str(),
            flags,
            Mode::from_raw_mode(0o600),
        )?);
        let filled = ftruncate(&fd, FILE_SIZE)
            .map_err(Errno::from)
            .and_then(|()| {
                reserve(&fd, 0, PROCS_AT)?;
                let map = Mapping::new(&fd, PROCS_AT)?;
                for (at, value) in (0..).step_by(8).zip(header(opts)) {
                    map.w64(at).store(value, Release);
                }
                Ok(())
            });
        let linked = filled.and_then(|()| {
            match linkat(dir, name.as_str(), dir, "fabric.shm", AtFlags::empty()) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
                Err(e) => Err(e.into()),
            }
        });
        let _ = unlinkat(dir, name.as_str(), AtFlags::empty());
        linked
    }

    fn join(fd: &Fd, opts: &FabricOptions) -> Result<FabricFile> {
        let stat = fstat(fd)?;
        if stat.st_uid != rustix::process::geteuid().as_raw() {
            log::error!(
                "fabric {}: the file belongs to another user",
                opts.dir.display()
            );
            return Err(Errno::EACCES);
        }
        if u64::try_from(stat.st_size) != Ok(FILE_SIZE) {
            log::error!(
                "fabric {}: the file is of another build (size {})",
                opts.dir.display(),
                stat.st_size
            );
            return Err(Errno::EINVAL);
        }
        let map = Mapping::new(fd, FILE_SIZE)?;
        let names = [
            "magic",
            "version",
            "layout",
            "devices",
            "ports",
            "strict",
            "retry_limit_ms",
            "rxe",
        ];
        for ((at, want), name) in (0..).step_by(8).zip(header(opts)).zip(names) {
            let have = map.w64(at).load(Acquire);
            if have != want {
                let dir = opts.dir.display();
                log::error!("fabric {dir}: it has {name} {have:#x}, this process wants {want:#x}");
                return Err(Errno::EINVAL);
            }
        }
        let file = FabricFile {
            map,
            fd: Fd::high(fd.dup()?),
            devices: opts.devices,
            ports: opts.ports,
        };
        reserve(
            &file.fd,
            0,
            CTXS_AT + u64::from(opts.devices * MAX_ASIDS) * CTX_SIZE,
        )?;
        for device in 0..opts.devices {
            for port in 1..=opts.ports {
                reserve(&file.fd, Self::port_at(device, port), PORT_HEAD)?;
            }
        }
        Ok(file)
    }

    /// Takes memory for a QP's record. Records below the port's `qp_high` have it.
    pub(crate) fn reserve_qp(&self, device: u32, port: u32, qpn: u32) -> Result<()> {
        if qpn < self.port(device, port).qp_high().load(Acquire) {
            return Ok(());
        }
        let at = Self::port_at(device, port) + PORT_HEAD + u64::from(qpn % MAX_QPS) * QP_SIZE;
        reserve(&self.fd, at, QP_SIZE)
    }

    pub(crate) fn devices(&self) -> u32 {
        self.devices
    }

    pub(crate) fn ports(&self) -> u32 {
        self.ports
    }

    pub(crate) fn proc(&self, slot: u32) -> ProcRec<'_> {
        ProcRec {
            map: &self.map,
            at: PROCS_AT + u64::from(slot % MAX_PROCS) * PROC_SIZE,
        }
    }

    /// All process slots ever used are below it.
    pub(crate) fn proc_high(&self) -> W32<'_> {
        self.map.w32(PROCS_AT - 8)
    }

    pub(crate) fn ctx(&self, device: u32, asid: u32) -> CtxRec<'_> {
        let index = u64::from((device % MAX_DEVICES) * MAX_ASIDS + asid % MAX_ASIDS);
        CtxRec {
            map: &self.map,
            at: CTXS_AT + index * CTX_SIZE,
        }
    }

    /// All ASIDs ever used on the device are below it.
    pub(crate) fn asid_high(&self, device: u32) -> W32<'_> {
        self.map
            .w32(PROCS_AT - 64 + 4 * u64::from(device % MAX_DEVICES))
    }

    pub(super) fn port_at(device: u32, port: u32) -> u64 {
        let index = (device % MAX_DEVICES) * MAX_PORTS + port.wrapping_sub(1) % MAX_PORTS;
        PORTS_AT + u64::from(index) * PORT_SIZE
    }

    pub(crate) fn port(&self, device: u32, port: u32) -> PortRec<'_> {
        PortRec {
            map: &self.map,
            at: Self::port_at(device, port),
        }
    }

    #[inline(always)]
    pub(crate) fn qp(&self, device: u32, port: u32, qpn: u32) -> QpRec<'_> {
        let at = Self::port_at(device, port) + PORT_HEAD + u64::from(qpn % MAX_QPS) * QP_SIZE;
        QpRec { map: &self.map, at }
    }
}

/// Takes memory for a range now. A first access to a page for which the file system has no room is SIGBUS, even a read.
fn reserve(fd: &Fd, at: u64, len: u64) -> Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    match fallocate(fd, FallocateFlags::KEEP_SIZE, at, len) {
        // A file system without the call takes it as it comes.
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
        Err(rustix::io::Errno::NOSPC) => Err(Errno::ENOMEM),
        Err(e) => Err(e.into()),
    }
}

fn header(o: &FabricOptions) -> [u64; 8] {
    [
        MAGIC,
        u64::from(VERSION),
        layout_hash(),
        u64::from(o.devices),
        u64::from(o.ports),
        u64::from(o.strict),
        u64::from(o.retry_limit_ms),
        u64::from(o.rxe),
    ]
}

/// Opens the fabric's directory, made if need be: ours, nobody else's to write, and no symbolic link.
pub(crate) fn open_dir(opts: &FabricOptions) -> Result<Fd> {
    let dir = opts.dir.as_path();
    match mkdir(dir, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(rustix::io::Errno::NOENT) => {
            if let Some(parent) = dir.parent() {
                make_parents(parent)?;
            }
            match mkdir(dir, Mode::from_raw_mode(0o700)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Err(e) => return Err(e.into()),
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    let fd = Fd::high(open(dir, flags, Mode::empty())?);
    let stat = fstat(&fd)?;
    if stat.st_uid != rustix::process::geteuid().as_raw() || stat.st_mode & 0o077 != 0 {
        log::error!(
            "fabric directory {} must belong to this user and have mode 0700",
            dir.display()
        );
        return Err(Errno::EACCES);
    }
    Ok(fd)
}

fn make_parents(path: &std::path::Path) -> Result<()> {
    match mkdir(path, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(rustix::io::Errno::NOENT) => {
            let parent = path.parent().ok_or(Errno::ENOENT)?;
            make_parents(parent)?;
            match mkdir(path, Mode::from_raw_mode(0o700)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
                Err(e) => Err(e.into()),
            }
        }
        Err(e) => Err(e.into()),
    }
}

/// Something that no other context has or had.
pub(crate) fn nonce() -> u64 {
    let mut bytes = [0u8; 8];
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
        Ok(8) => u64::from_le_bytes(bytes) | 1,
        _ => {
            let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
            let pid = rustix::process::getpid().as_raw_nonzero().get();
            ((t.tv_nsec as u64) << 32 ^ (t.tv_sec as u64) << 8 ^ (pid as u64) << 40) | 1
        }
    }
}

#[cfg(test)]
mod model;
