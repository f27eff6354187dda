//! Device files and event descriptors: what the preload library calls for each interposed function.
//!
//! Nothing here panics on bad input; every address from the program is read and written fault-safely. Lock order: a verbs
//! file's state, then the registry, then an event hub, then a channel.

mod accel;
mod bundle;
mod channel;
mod command;
mod driver;
pub(crate) mod events;
mod file;
mod hbl;
mod logger;
mod methods;
mod native;
mod objects;
mod registry;
mod rxe;
mod setup;
mod usermem;
mod write;

use crate::paths::{self, Node};
use crate::{netdev, tree};
use channel::ChannelKind;
use gaudi_softnic::{AccelFile, Errno, FabricOptions, RdmaFile, Result};
use kernel_abi::accel::{IOCTL_INFO, IOCTL_MEMORY};
use kernel_abi::uverbs::RDMA_VERBS_IOCTL;
use registry::{Entry, Face, face};
use rustix::fs::{Mode, OFlags};
use rustix::io::FdFlags;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// Uses these options instead of the environment. Works only before anything else was called; tells whether it did.
pub fn configure(options: FabricOptions) -> bool {
    registry::configure(options)
}

/// Whether this process has a soft device.
pub fn is_active() -> bool {
    face().is_some_and(|face| face.setup().is_some())
}

/// Where in the tree one of our paths lies (see [`paths::is_ours`]). Writes the new path with a terminating NUL into `into`
/// and returns its length without it.
pub fn redirect(path: &[u8], into: &mut [u8]) -> Option<usize> {
    let setup = face()?.setup()?;
    let len = setup.tree.len() + path.len();
    into.get_mut(..setup.tree.len())?
        .copy_from_slice(&setup.tree);
    into.get_mut(setup.tree.len()..len)?.copy_from_slice(path);
    *into.get_mut(len)? = 0;
    Some(len)
}

/// Brings a counter's file up to date; to be called before the file is opened.
pub fn refresh(path: &[u8]) {
    if !paths::is_counter(path) {
        return;
    }
    if let Err(e) = try_refresh(path) {
        log::debug!("counter: {e}");
    }
}

fn try_refresh(path: &[u8]) -> Result<()> {
    let face = face().ok_or(Errno::EIO)?;
    let setup = face.setup().ok_or(Errno::ENODEV)?;
    let Some((device, port, name)) = tree::counter_of(&setup.options, path) else {
        return Ok(());
    };
    // The stand-in moves no data, and what this device has no notion of is zero.
    let counters = if setup.options.rxe {
        Vec::new()
    } else {
        face.fabric()?.counters(device, port)
    };
    let value = |name: &str| {
        counters
            .iter()
            .find(|(found, _)| *found == name)
            .map_or(0, |&(_, value)| value)
    };
    let value = match name.as_str() {
        // Standard port counters count data in words (IBTA Vol. 1, 16.1.3.5).
        "port_xmit_data" => value("tx_Octets") / 4,
        "port_rcv_data" => value("rx_Octets") / 4,
        "port_xmit_packets" | "unicast_xmit_packets" => value("tx_Pkts"),
        "port_rcv_packets" | "unicast_rcv_packets" => value("rx_Pkts"),
        other => value(other),
    };
    let mut file = setup.tree.clone();
    file.extend_from_slice(path);
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::open(std::ffi::OsStr::from_bytes(&file), flags, Mode::empty())?;
    // In place: a new file would change the directory. Values grow, so a reader in between sees an old or a new one.
    let text = format!("{value}\n");
    rustix::io::pwrite(&file, text.as_bytes(), 0)?;
    rustix::fs::ftruncate(&file, text.len() as u64)?;
    Ok(())
}

/// Opens the device that a path of ours names; `None` when it names none.
pub fn open(path: &[u8], flags: i32) -> Option<Result<OwnedFd>> {
    let node = paths::node(path)?;
    let face = face()?;
    if !face.setup()?.has(node) {
        return None;
    }
    usermem::arm();
    Some(open_node(face, node, flags))
}

/// Opens the device whose placeholder in the tree a program has opened by a relative path.
pub fn open_placeholder(fd: RawFd, flags: i32) -> Option<Result<OwnedFd>> {
    let inode = registry::inode_of(fd)?;
    if !setup::may_be_ours(inode.0) {
        return None;
    }
    let face = face()?;
    let node = face.setup()?.node_of_inode(inode)?;
    usermem::arm();
    Some(open_node(face, node, flags))
}

fn open_node(face: &Face, node: Node, flags: i32) -> Result<OwnedFd> {
    if flags & (libc::O_CREAT | libc::O_EXCL) == libc::O_CREAT | libc::O_EXCL {
        return Err(Errno::EEXIST);
    }
    if flags & libc::O_DIRECTORY != 0 {
        return Err(Errno(libc::ENOTDIR));
    }
    face.sweep();
    let options = &face.setup().ok_or(Errno::ENODEV)?.options;
    let device = node.device();
    log::debug!("opens {node:?}");
    let (entry, inode, own, fd) = match node {
        Node::Uverbs(_) if options.rxe => {
            let (driver, hub) = (rxe::Rxe::new(device, options.ports)?, Arc::default());
            let (inode, fd) = (driver.inode(), driver.dup_fd()?);
            let own = vec![driver.own_fd()];
            (
                Entry::Verbs(Arc::new(file::VerbsFile::new(inode, Box::new(driver), hub))),
                inode,
                own,
                fd,
            )
        }
        Node::Uverbs(_) => {
            let rdma = RdmaFile::create(&face.fabric()?, device)?;
            let (inode, own) = (rdma.inode(), vec![rdma.own_fd()]);
            let fd = rdma.dup_fd()?;
            let hub: Arc<events::EventHub> = Arc::default();
            netdev::attend(options, &tree_path(face)?, device, &hub);
            let driver = hbl::Hbl::new(rdma, options.clone(), hub.clone());
            (
                Entry::Verbs(Arc::new(file::VerbsFile::new(inode, Box::new(driver), hub))),
                inode,
                own,
                fd,
            )
        }
        Node::Accel(_) => {
            let accel = AccelFile::create(&face.fabric()?, device)?;
            let (inode, own) = (accel.inode(), vec![accel.own_fd()]);
            let fd = accel.dup_fd()?;
            let entry = accel::AccelEntry::new(accel, device, options.clone());
            (Entry::Accel(Arc::new(entry)), inode, own, fd)
        }
    };
    let close_on_exec = if flags & libc::O_CLOEXEC != 0 {
        FdFlags::CLOEXEC
    } else {
        FdFlags::empty()
    };
    rustix::io::fcntl_setfd(&fd, close_on_exec)?;
    setup::set_memfd_dev(inode.0);
    face.add(inode, entry, device, own, fd.as_raw_fd());
    Ok(fd)
}

fn tree_path(face: &Face) -> Result<std::path::PathBuf> {
    let tree = &face.setup().ok_or(Errno::ENODEV)?.tree;
    Ok(std::ffi::OsStr::from_bytes(tree).into())
}

/// Whether an inode on that file system can be ours: two relaxed loads.
#[inline]
pub fn may_be_ours(dev: u64) -> bool {
    setup::may_be_ours(dev)
}

/// The device that an inode stands for: a node of the tree, or an open device file.
#[inline]
pub fn node_of_inode(dev: u64, ino: u64) -> Option<Node> {
    if setup::may_be_ours(dev) {
        find_node((dev, ino))
    } else {
        None
    }
}

fn find_node(inode: (u64, u64)) -> Option<Node> {
    if let Some((is_verbs, device)) = registry::device_of_inode(inode) {
        return Some(if is_verbs {
            Node::Uverbs(device)
        } else {
            Node::Accel(device)
        });
    }
    face()?.setup()?.node_of_inode(inode)
}

/// Whether a request number can concern us at all. Compared whole: other DRM drivers share the type and the low numbers.
#[inline]
pub fn is_our_request(request: u64) -> bool {
    matches!(request as u32, RDMA_VERBS_IOCTL | IOCTL_MEMORY | IOCTL_INFO)
}

/// An ioctl; `None` when the descriptor is not ours.
pub fn ioctl(fd: RawFd, request: u64, argument: u64) -> Option<Result<i32>> {
    let request = request as u32;
    let Some(entry) = registry::entry(fd) else {
        return registry::is_inherited(fd).then_some(Err(Errno::EIO));
    };
    usermem::arm();
    match entry {
        Entry::Verbs(file) if request == RDMA_VERBS_IOCTL => {
            Some(native::ioctl(&file, argument).map(|()| 0))
        }
        Entry::Accel(accel) if request != RDMA_VERBS_IOCTL => {
            Some(accel.ioctl(request, argument).map(|()| 0))
        }
        _ => Some(Err(Errno::ENOTTY)),
    }
}

pub use gaudi_softnic::{is_internal, next_internal};

/// Whether the number is one that we handed out; a relaxed load.
#[inline]
pub fn is_ours(fd: RawFd) -> bool {
    registry::is_marked(fd)
}

/// A write(2); `None` when the descriptor is no verbs device.
pub fn write(fd: RawFd, buffer: u64, count: usize) -> Option<Result<usize>> {
    let Entry::Verbs(file) = registry::entry(fd)? else {
        return None;
    };
    usermem::arm();
    Some(write::write(&file, buffer, count))
}

/// A write(2) that a file of ours may have refused with EPERM, on a number that we did not hand out: a duplicate is the device as
/// well, and what was inherited answers EIO. `None` for the files of others.
#[cold]
pub fn refused_write(fd: RawFd, buffer: u64, count: usize) -> Option<Result<usize>> {
    match registry::entry(fd) {
        Some(Entry::Verbs(file)) => {
            usermem::arm();
            Some(write::write(&file, buffer, count))
        }
        Some(Entry::Accel(_)) => Some(Err(Errno::EINVAL)),
        Some(Entry::Channel(_)) => None,
        None => registry::is_inherited(fd).then_some(Err(Errno::EIO)),
    }
}

/// A number of ours that is about to be closed.
pub struct Closing((u64, u64));

/// Before the close of a number of ours.
pub fn closing(fd: RawFd) -> Option<Closing> {
    registry::closing(fd).map(Closing)
}

/// After it: if that was the last descriptor, everything behind it goes.
pub fn closed(closing: Closing) {
    registry::closed(closing.0);
}

/// In the child of a fork.
pub fn after_fork_in_child() {
    registry::after_fork_in_child();
    gaudi_softnic::after_fork_in_child();
}

/// At the end of the process: contexts that the program left open are closed, as the kernel closes descriptors. Peers see a
/// clean end then and not a death. Never waits for a request that another thread is in the middle of.
pub fn at_exit() {
    registry::at_exit();
}

/// Files of ours that are open in this process, and objects in them.
pub fn counts() -> (usize, usize) {
    match face() {
        Some(face) => {
            face.sweep();
            face.counts()
        }
        None => (0, 0),
    }
}

/// Objects of one open verbs device.
pub fn objects(fd: RawFd) -> Option<usize> {
    match registry::entry(fd)? {
        Entry::Verbs(file) => Some(file.object_count()),
        _ => None,
    }
}

/// One completion event into a channel: `PvTable::raise` ends here. Zero or a positive errno.
pub fn raise(channel_fd: i32, user_handle: u64) -> i32 {
    let Some(channel) =
        registry::channel(channel_fd).filter(|c| c.kind() == ChannelKind::Completion)
    else {
        return libc::EBADF;
    };
    match channel.push(&user_handle.to_ne_bytes()) {
        Ok(()) => 0,
        Err(e) => e.raw(),
    }
}
