//! The device tree: real directories, files and links in the fabric's directory, shaped like the kernel's.
//!
//! It is written once per fabric, under a temporary name that is then renamed, and never changes afterwards but for the
//! contents of counter files: libibverbs takes a device whose directory has a new modification time for another device.

mod device;
mod writer;

pub(crate) use device::FIRMWARE;
pub use device::{device_name, port_counter_names};
pub(crate) use device::{gid_table, write_port};

use crate::netdev;
use crate::paths::{self, Node, PCI_BUS};
use gaudi_softnic::{Errno, FabricOptions, Result};
use kernel_abi::hbl::PORT_COUNTERS;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno as Rx;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use writer::Dir;

/// Name of the tree in the fabric's directory.
pub const TREE: &str = "tree";
/// Holds the options that the tree was made for.
const OPTIONS: &str = "options";

/// Makes sure that the tree exists and fits the options; returns its path.
pub fn ensure(options: &FabricOptions) -> Result<PathBuf> {
    let fabric = fabric_dir(&options.dir)?;
    let path = options.dir.join(TREE);
    if let Some(tree) = open_tree(&fabric)? {
        return check(&tree, options).map(|()| path);
    }
    build(&fabric, options)?;
    let tree = open_tree(&fabric)?.ok_or(Errno::ENOENT)?;
    check(&tree, options).map(|()| path)
}

/// Opens the fabric's directory, creating it if need be. It must be ours and closed to others: what lies in it is trusted
/// no further than this user.
fn fabric_dir(dir: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = match rustix::fs::open(dir, flags, Mode::empty()) {
        Err(Rx::NOENT) => {
            // The directory of all fabrics of this user may be missing as well, but nothing above it.
            if let Some(parent) = dir.parent() {
                make(parent)?;
            }
            make(dir)?;
            rustix::fs::open(dir, flags, Mode::empty())?
        }
        other => other?,
    };
    let st = rustix::fs::fstat(&opened)?;
    if st.st_uid != rustix::process::geteuid().as_raw() || st.st_mode & 0o022 != 0 {
        return Err(Errno::EPERM);
    }
    Ok(opened)
}

fn make(dir: &Path) -> Result<()> {
    match rustix::fs::mkdir(dir, Mode::RWXU) {
        Ok(()) | Err(Rx::EXIST) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn open_tree(fabric: &OwnedFd) -> Result<Option<Dir>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(fabric, TREE, flags, Mode::empty()) {
        Ok(fd) => Ok(Some(Dir::new(fd))),
        Err(Rx::NOENT) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn describe(options: &FabricOptions) -> String {
    format!(
        "devices={} ports={} rxe={} netdev={}\n",
        options.devices,
        options.ports,
        u32::from(options.rxe),
        netdev::list()
    )
}

fn check(tree: &Dir, options: &FabricOptions) -> Result<()> {
    let (found, wanted) = (tree.read(OPTIONS)?, describe(options));
    if found == wanted.as_bytes() {
        return Ok(());
    }
    log::error!(
        "{}: made for {:?}, wanted {wanted:?}",
        options.dir.display(),
        String::from_utf8_lossy(&found)
    );
    Err(Errno::EINVAL)
}

fn build(fabric: &OwnedFd, options: &FabricOptions) -> Result<()> {
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    let pid = rustix::process::getpid().as_raw_nonzero();
    let name = format!(".tree.{pid}.{}", SERIAL.fetch_add(1, Relaxed));
    let temporary = Dir::new(fabric.try_clone()?).dir(&name)?;
    let result = fill(&temporary, options).and_then(|()| {
        match rustix::fs::renameat(fabric, name.as_str(), fabric, TREE) {
            // Another process was faster; its tree is checked like any other.
            Err(Rx::NOTEMPTY | Rx::EXIST) => {
                remove(&options.dir.join(&name));
                Ok(())
            }
            other => Ok(other?),
        }
    });
    if result.is_err() {
        remove(&options.dir.join(&name));
    }
    result
}

fn remove(path: &Path) {
    if let Err(e) = std::fs::remove_dir_all(path) {
        log::warn!("{}: {e}", path.display());
    }
}

fn fill(root: &Dir, options: &FabricOptions) -> Result<()> {
    root.file(OPTIONS, &describe(options))?;
    let sys = root.dir("sys")?;
    let class = sys.dir("class")?;
    let ibdevs = class.dir("infiniband")?;
    let uverbs = class.dir("infiniband_verbs")?;
    uverbs.file("abi_version", "6\n")?;
    let accels = class.dir("accel")?;
    let bus = sys.dir("bus")?.dir("pci")?;
    let driver = if options.rxe { "rdma_rxe" } else { "hbl" };
    bus.dir("drivers")?.dir(driver)?;
    let bus_devices = bus.dir("devices")?;
    let root_complex = sys.dir("devices")?.dir("pci0000:00")?;
    let dev = root.dir("dev")?;
    let (dev_ib, dev_accel, dev_char) =
        (dev.dir("infiniband")?, dev.dir("accel")?, dev.dir("char")?);
    for n in 0..options.devices {
        let bdf = format!("{PCI_BUS}{n:02x}.0");
        let name = device_name(options, n);
        device::fill(&root_complex.dir(&bdf)?, &bdf, driver, &name, options, n)?;
        let at = format!("../../devices/pci0000:00/{bdf}");
        bus_devices.link(&bdf, &format!("../../../devices/pci0000:00/{bdf}"))?;
        ibdevs.link(&name, &format!("{at}/infiniband/{name}"))?;
        place(
            &dev_ib,
            &dev_char,
            "infiniband",
            &format!("uverbs{n}"),
            Node::Uverbs(n),
        )?;
        if !options.rxe {
            accels.link(&format!("accel{n}"), &format!("{at}/accel/accel{n}"))?;
            place(
                &dev_accel,
                &dev_char,
                "accel",
                &format!("accel{n}"),
                Node::Accel(n),
            )?;
        }
    }
    link_in_order(&uverbs, options.devices)
}

/// libibverbs lists the devices in the order in which it reads this directory, and the file system decides which
/// that is: newest first or oldest first. The first device should come first.
fn link_in_order(uverbs: &Dir, devices: u32) -> Result<()> {
    let name = |n: u32| format!("uverbs{n}");
    let link = |n: u32| {
        uverbs.link(
            &name(n),
            &format!(
                "../../devices/pci0000:00/{PCI_BUS}{n:02x}.0/infiniband_verbs/{}",
                name(n)
            ),
        )
    };
    (0..devices).try_for_each(link)?;
    let order = uverbs.names()?;
    let at = |n: u32| order.iter().position(|found| *found == name(n));
    if devices > 1 && at(0) > at(devices - 1) {
        (0..devices).try_for_each(|n| uverbs.unlink(&name(n)))?;
        (0..devices).rev().try_for_each(link)?;
    }
    Ok(())
}

/// A regular file in place of the device node; the preload shows it as a character device.
fn place(dir: &Dir, dev_char: &Dir, dir_name: &str, name: &str, node: Node) -> Result<()> {
    dir.file_mode(name, "", 0o666)?;
    dev_char.link(
        &format!("{}:{}", node.major(), node.minor()),
        &format!("../{dir_name}/{name}"),
    )
}

/// Device and port that a counter file belongs to, and the counter's name.
pub fn counter_of(options: &FabricOptions, path: &[u8]) -> Option<(u32, u32, String)> {
    if !paths::is_counter(path) {
        return None;
    }
    let text = std::str::from_utf8(path).ok()?;
    let mut parts = text.split('/').filter(|part| !part.is_empty()).rev();
    let counter = parts.next()?;
    // `lifespan` beside them is none.
    if !port_counter_names().contains(&counter) && !PORT_COUNTERS.contains(&counter) {
        return None;
    }
    let (_kind, port, _ports, device) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let port: u32 = port
        .parse()
        .ok()
        .filter(|port| (1..=options.ports).contains(port))?;
    let device = (0..options.devices).find(|&n| device_name(options, n) == device)?;
    Some((device, port, counter.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(dir: &Path) -> FabricOptions {
        FabricOptions {
            dir: dir.to_owned(),
            devices: 2,
            ports: 3,
            strict: false,
            retry_limit_ms: 0,
            rxe: false,
        }
    }

    #[test]
    fn kernel_shape() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let options = options(&dir.path().join("fabric"));
        let tree = ensure(&options).unwrap();
        let read = |path: &str| std::fs::read_to_string(tree.join(path)).unwrap();
        assert_eq!(read("sys/class/infiniband_verbs/uverbs1/ibdev"), "hbl_1\n");
        assert_eq!(read("sys/class/infiniband_verbs/uverbs1/dev"), "231:193\n");
        assert_eq!(
            read("sys/class/infiniband_verbs/uverbs1/device/vendor"),
            "0x1da3\n"
        );
        assert_eq!(read("sys/class/infiniband/hbl_1/device/device"), "0x1020\n");
        assert_eq!(read("sys/class/infiniband/hbl_0/ports/3/gids/0").len(), 40);
        assert_eq!(
            read("sys/class/infiniband/hbl_0/ports/3/gid_attrs/types/1"),
            "RoCE v2\n"
        );
        assert!(
            !tree
                .join("sys/class/infiniband/hbl_0/ports/3/gid_attrs/types/4")
                .exists()
        );
        assert!(
            tree.join("sys/class/infiniband/hbl_0/ports/3/gids/12")
                .exists()
        );
        let driver =
            std::fs::read_link(tree.join("sys/class/infiniband/hbl_0/device/driver")).unwrap();
        assert_eq!(driver.file_name().unwrap(), "hbl");
        let real = std::fs::canonicalize(tree.join("sys/class/infiniband/hbl_0")).unwrap();
        assert!(real.ends_with("sys/devices/pci0000:00/0000:fd:00.0/infiniband/hbl_0"));
        assert_eq!(
            std::fs::read_link(tree.join("dev/char/231:192")).unwrap(),
            Path::new("../infiniband/uverbs0")
        );
    }

    #[test]
    fn second_comer_takes_the_first_tree() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let options = options(&dir.path().join("fabric"));
        let mtime = |tree: &Path| {
            rustix::fs::stat(tree.join("sys/class/infiniband/hbl_0"))
                .unwrap()
                .st_mtime_nsec
        };
        let tree = ensure(&options).unwrap();
        let before = mtime(&tree);
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| ensure(&options).unwrap());
            }
        });
        assert_eq!(before, mtime(&tree));
        let other = FabricOptions {
            ports: 4,
            ..options.clone()
        };
        assert_eq!(ensure(&other), Err(Errno::EINVAL));
        assert_eq!(
            std::fs::read_dir(&options.dir).unwrap().count(),
            1,
            "no temporary tree is left"
        );
    }

    #[test]
    fn racing_builders_agree() {
        for _ in 0..5 {
            let dir = tempfile::tempdir_in("/dev/shm").unwrap();
            let options = options(&dir.path().join("user/fabric"));
            std::thread::scope(|s| {
                for _ in 0..4 {
                    s.spawn(|| ensure(&options).unwrap());
                }
            });
            assert_eq!(std::fs::read_dir(&options.dir).unwrap().count(), 1);
        }
    }

    #[test]
    fn foreign_directories_are_refused() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        assert!(ensure(&options(&link)).is_err());
        let open = dir.path().join("open");
        std::fs::create_dir(&open).unwrap();
        rustix::fs::chmod(&open, Mode::from_raw_mode(0o777)).unwrap();
        assert_eq!(ensure(&options(&open)), Err(Errno::EPERM));
    }

    #[test]
    fn counters_are_found_by_path() {
        let options = options(Path::new("/x"));
        let path = b"/sys/class/infiniband/hbl_1/ports/2/hw_counters/rx_Octets";
        assert_eq!(counter_of(&options, path), Some((1, 2, "rx_Octets".into())));
        let path = b"/sys/class/infiniband/hbl_1/ports/9/hw_counters/rx_Octets";
        assert_eq!(counter_of(&options, path), None);
    }
}
