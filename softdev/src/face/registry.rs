//! Which files of this process are ours. They are recognised by inode, so dup, fork and descriptor passing need no help.
//!
//! One [`Face`] per process: a forked child starts with an empty one, and what it inherited answers EIO.

use super::accel::AccelEntry;
use super::channel::Channel;
use super::file::{Inode, VerbsFile};
use super::setup::Setup;
use crate::config;
use gaudi_softnic::{Errno, Fabric, FabricOptions, Result};
use rustix::fs::{Mode, OFlags};
use std::collections::HashMap;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// What an inode of ours is.
#[derive(Clone)]
pub(crate) enum Entry {
    Verbs(Arc<VerbsFile>),
    Accel(Arc<AccelEntry>),
    Channel(Arc<Channel>),
}

struct Slot {
    entry: Entry,
    device: u32,
    /// Numbers that the device itself holds.
    own: Vec<RawFd>,
}

impl Slot {
    fn verbs(&self) -> Option<Arc<VerbsFile>> {
        match &self.entry {
            Entry::Verbs(file) => Some(file.clone()),
            _ => None,
        }
    }
}

pub(crate) struct Face {
    pid: i32,
    setup: OnceLock<Option<Setup>>,
    fabric: Mutex<Option<Arc<Fabric>>>,
    slots: RwLock<HashMap<Inode, Slot>>,
}

/// Deepest chain of forks without an exec in which a child can open the device again.
const GENERATIONS: usize = 64;
static FACES: [OnceLock<Face>; GENERATIONS] = [const { OnceLock::new() }; GENERATIONS];
static GENERATION: AtomicUsize = AtomicUsize::new(0);
static CONFIGURED: OnceLock<FabricOptions> = OnceLock::new();

/// One bit per descriptor number that we handed out: the cheap first question of every close and write.
static OURS: [AtomicU64; 1 << 14] = [const { AtomicU64::new(0) }; 1 << 14];
/// One above the highest number ever marked.
static MARKED: AtomicUsize = AtomicUsize::new(0);

fn bit(fd: RawFd) -> Option<(&'static AtomicU64, u64)> {
    let fd = usize::try_from(fd).ok()?;
    Some((OURS.get(fd / 64)?, 1 << (fd % 64)))
}

#[inline]
pub(crate) fn is_marked(fd: RawFd) -> bool {
    bit(fd).is_some_and(|(word, bit)| word.load(Relaxed) & bit != 0)
}

fn mark(fd: RawFd) {
    if let Some((word, bit)) = bit(fd) {
        MARKED.fetch_max(fd as usize + 1, Relaxed);
        word.fetch_or(bit, Relaxed);
    }
}

fn unmark(fd: RawFd) {
    if let Some((word, bit)) = bit(fd) {
        word.fetch_and(!bit, Relaxed);
    }
}

pub(crate) fn at_exit() {
    let Some(face) = existing() else { return };
    let Ok(slots) = face.slots.try_read() else {
        return;
    };
    let files: Vec<_> = slots.values().filter_map(Slot::verbs).collect();
    drop(slots);
    files.iter().for_each(|file| file.try_close());
}

/// Sets the options instead of the environment; only before anything else was asked.
pub(crate) fn configure(options: FabricOptions) -> bool {
    CONFIGURED.set(options).is_ok()
}

fn pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

fn slot_of_generation() -> Option<&'static OnceLock<Face>> {
    FACES.get(GENERATION.load(Relaxed))
}

/// The face of this process, made at first use.
pub(crate) fn face() -> Option<&'static Face> {
    let face = slot_of_generation()?.get_or_init(|| Face {
        pid: pid(),
        setup: OnceLock::new(),
        fabric: Mutex::new(None),
        slots: RwLock::new(HashMap::new()),
    });
    // A child of a bare clone or vfork shares or copies our memory without being us.
    (face.pid == pid()).then_some(face)
}

/// The face if there is one; never makes it.
fn existing() -> Option<&'static Face> {
    slot_of_generation()?.get().filter(|face| face.pid == pid())
}

/// In the child of a fork: nothing here is ours any more. Takes no lock, since another thread of the parent may have held it.
pub(crate) fn after_fork_in_child() {
    let used = MARKED.load(Relaxed).div_ceil(64);
    for word in OURS.iter().take(used) {
        word.store(0, Relaxed);
    }
    if slot_of_generation().is_some_and(|slot| slot.get().is_some()) {
        GENERATION.fetch_add(1, Relaxed);
    }
}

impl Face {
    fn read(&self) -> RwLockReadGuard<'_, HashMap<Inode, Slot>> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<Inode, Slot>> {
        self.slots.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Options and tree; `None` when this process has no soft device or it cannot be set up.
    pub(crate) fn setup(&self) -> Option<&Setup> {
        let options = || match CONFIGURED.get() {
            Some(options) => Some(Ok(options.clone())),
            None => config::options_from_env(),
        };
        self.setup.get_or_init(|| Setup::new(options()?)).as_ref()
    }

    /// The attachment to the fabric, made when the first device is opened.
    pub(crate) fn fabric(&self) -> Result<Arc<Fabric>> {
        let options = &self.setup().ok_or(Errno::ENODEV)?.options;
        let mut fabric = self.fabric.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fabric) = &*fabric {
            return Ok(fabric.clone());
        }
        let attached = Fabric::attach(options)?;
        gaudi_softnic::set_raise(super::raise);
        *fabric = Some(attached.clone());
        Ok(attached)
    }

    pub(crate) fn add(&self, inode: Inode, entry: Entry, device: u32, own: Vec<RawFd>, fd: RawFd) {
        self.write().insert(inode, Slot { entry, device, own });
        mark(fd);
    }

    /// Closes what has lost its last descriptor without our seeing it (dup2 over it, close_range).
    pub(crate) fn sweep(&self) {
        let inodes: Vec<Inode> = self.read().keys().copied().collect();
        if inodes.is_empty() {
            return;
        }
        let Some(open) = open_descriptors() else {
            return;
        };
        for inode in inodes {
            self.check_closed(inode, &open);
        }
    }

    fn check_closed(&self, inode: Inode, open: &[(RawFd, Inode)]) {
        let mut slots = self.write();
        let Some(slot) = slots.get(&inode) else {
            return;
        };
        let mut alive = false;
        for &(fd, _) in open
            .iter()
            .filter(|(fd, found)| *found == inode && !slot.own.contains(fd))
        {
            // A duplicate that we did not hand out ourselves: from now on its close is watched.
            mark(fd);
            alive = true;
        }
        if alive {
            return;
        }
        let slot = slots.remove(&inode);
        drop(slots);
        match slot.map(|slot| slot.entry) {
            Some(Entry::Verbs(file)) => file.close(),
            Some(Entry::Accel(accel)) => accel.close(),
            Some(Entry::Channel(_)) | None => (),
        }
    }

    /// Compute devices that are open, for `core_fd` errors.
    pub(crate) fn accel_open(&self, device: u32) -> bool {
        self.read()
            .values()
            .any(|slot| slot.device == device && matches!(slot.entry, Entry::Accel(_)))
    }

    pub(crate) fn counts(&self) -> (usize, usize) {
        let slots = self.read();
        let files: Vec<_> = slots.values().filter_map(Slot::verbs).collect();
        let n = slots.len();
        drop(slots);
        (n, files.iter().map(|file| file.object_count()).sum())
    }
}

pub(crate) fn inode_of(fd: RawFd) -> Option<Inode> {
    let fd = borrow(fd)?;
    let st = rustix::fs::fstat(fd).ok()?;
    Some((st.st_dev, st.st_ino))
}

/// For system calls only: nothing is assumed about a number that a program passed.
fn borrow(fd: RawFd) -> Option<BorrowedFd<'static>> {
    (fd >= 0).then(|| super::usermem::borrow_fd(fd))
}

/// The entry behind a descriptor number.
pub(crate) fn entry(fd: RawFd) -> Option<Entry> {
    if MARKED.load(Relaxed) == 0 {
        return None;
    }
    let face = existing()?;
    let inode = inode_of(fd)?;
    face.read().get(&inode).map(|slot| slot.entry.clone())
}

/// Device of an inode, if it is an open device file of ours.
pub(crate) fn device_of_inode(inode: Inode) -> Option<(bool, u32)> {
    let face = existing()?;
    let slots = face.read();
    let slot = slots.get(&inode)?;
    match slot.entry {
        Entry::Verbs(_) => Some((true, slot.device)),
        Entry::Accel(_) => Some((false, slot.device)),
        Entry::Channel(_) => None,
    }
}

pub(crate) fn channel(fd: RawFd) -> Option<Arc<Channel>> {
    match entry(fd)? {
        Entry::Channel(channel) => Some(channel),
        _ => None,
    }
}

pub(crate) fn add_channel(channel: Arc<Channel>, fd: RawFd) {
    if let Some(face) = existing() {
        let own = channel.own_fds();
        face.add(channel.inode(), Entry::Channel(channel), u32::MAX, own, fd);
    }
}

/// Before a close: the inode to look at afterwards, if the number is one of ours.
pub(crate) fn closing(fd: RawFd) -> Option<Inode> {
    if !is_marked(fd) {
        return None;
    }
    existing()?;
    let inode = inode_of(fd);
    unmark(fd);
    inode
}

pub(crate) fn closed(inode: Inode) {
    let Some(face) = existing().filter(|face| face.read().contains_key(&inode)) else {
        return;
    };
    // What cannot be found out now is looked at again when the next device is opened.
    if let Some(open) = open_descriptors() {
        face.check_closed(inode, &open);
    }
}

/// Every descriptor of the process. `None` when they cannot be listed, as when no number is left for the directory itself:
/// that is no reason to take anything for closed. By way of the thread, since the process's own directory is empty once its
/// first thread has called pthread_exit(3).
fn open_descriptors() -> Option<Vec<(RawFd, Inode)>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open("/proc/thread-self/fd", flags, Mode::empty()).ok()?;
    let mut found = Vec::new();
    let mut buffer = Vec::with_capacity(4096);
    let mut entries = rustix::fs::RawDir::new(&dir, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry.ok()?;
        let number = entry
            .file_name()
            .to_str()
            .ok()
            .and_then(|name| name.parse().ok());
        if let Some((fd, inode)) = number.and_then(|fd| Some((fd, inode_of(fd)?))) {
            found.push((fd, inode));
        }
    }
    Some(found)
}

/// Whether a device file of the parent was inherited over a fork.
pub(crate) fn is_inherited(fd: RawFd) -> bool {
    if GENERATION.load(Relaxed) == 0 && existing().is_some() {
        return false;
    }
    let path = format!("/proc/thread-self/fd/{fd}");
    match rustix::fs::readlink(path, Vec::new()) {
        Ok(name) => name.to_bytes().starts_with(b"/memfd:gaudi"),
        Err(_) => false,
    }
}
