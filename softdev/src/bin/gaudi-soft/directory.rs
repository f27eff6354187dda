//! The fabric's folder: where it is, that nobody else can reach it, and who uses it.
//!
//! Every program that `run` starts inherits a descriptor of the file `users` with a shared flock(2) on it. The lock lives as
//! long as any process of that program does, whatever kills them, so "is this fabric used?" is a question to the kernel.

use crate::Failure;
use crate::options::{Options, Wanted};
use rustix::fs::{self as rfs, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

const USERS: &str = "users";
const OPTIONS: &str = "options";

/// A fabric's folder, owned by the user and closed to everybody else.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) path: PathBuf,
}

/// A shared hold: while it lives nobody makes the fabric anew.
#[derive(Debug)]
pub(crate) struct Hold {
    pub(crate) users: OwnedFd,
    pub(crate) options: Options,
}

/// Where the fabrics of this user are.
pub(crate) fn root() -> Result<PathBuf, Failure> {
    let uid = rustix::process::geteuid().as_raw();
    if let Some(root) = std::env::var_os("GAUDI_SOFT_ROOT") {
        let root = PathBuf::from(root);
        if !root.is_absolute() {
            return Err(Failure::own(format!(
                "GAUDI_SOFT_ROOT={}: an absolute path is needed",
                root.display()
            )));
        }
        return Ok(root);
    }
    let writable = |p: &Path| rfs::access(p, rfs::Access::WRITE_OK | rfs::Access::EXEC_OK).is_ok();
    let shm = Path::new("/dev/shm");
    if writable(shm) {
        return Ok(shm.join(format!("gaudi-soft-{uid}")));
    }
    match std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from) {
        Some(run) if run.is_absolute() && writable(&run) => Ok(run.join("gaudi-soft")),
        _ => Err(Failure::own(
            "/dev/shm cannot be written and XDG_RUNTIME_DIR names no usable folder: set GAUDI_SOFT_ROOT to a folder on a tmpfs",
        )),
    }
}

impl Directory {
    /// The folder if it is there.
    pub(crate) fn existing(fabric: &str) -> Result<Option<Directory>, Failure> {
        let root = root()?;
        let path = root.join(fabric);
        if !path.exists() && path.symlink_metadata().is_err() {
            return Ok(None);
        }
        check_owned(&root, false)?;
        check_owned(&path, true)?;
        Ok(Some(Directory { path }))
    }

    /// The folder, made when it is not there.
    pub(crate) fn create(fabric: &str) -> Result<Directory, Failure> {
        let root = root()?;
        for (path, private) in [(root.clone(), false), (root.join(fabric), true)] {
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(Failure::own(format!(
                        "cannot make the folder {}: {e}. Set GAUDI_SOFT_ROOT to a folder of yours on a tmpfs (/dev/shm, /run/user/UID)",
                        path.display()
                    )));
                }
                _ => check_owned(&path, private)?,
            }
        }
        Ok(Directory {
            path: root.join(fabric),
        })
    }

    /// Holds the fabric for a program about to start, making it anew if that is needed and nobody uses it.
    pub(crate) fn enter(fabric: &str, wanted: &Wanted, build: &str) -> Result<Hold, Failure> {
        // A loop because another gaudi-soft may make or remove the fabric between any two steps; each round means that one did.
        for _ in 0..500 {
            let dir = Directory::create(fabric)?;
            let Some(users) = dir.users(true)? else {
                continue;
            };
            if flock(&users, FlockOperation::NonBlockingLockExclusive)? {
                if !dir.is_current(&users) {
                    continue;
                }
                let fits = dir
                    .options()
                    .is_some_and(|o| o.build == build && o == wanted.fill(build));
                if !fits && !dir.attached() {
                    dir.wipe()?;
                    dir.write_options(&wanted.fill(build))?;
                }
            }
            // Going from exclusive to shared is not atomic, so look again at what is there now.
            flock(&users, FlockOperation::LockShared)?;
            if !dir.is_current(&users) {
                continue;
            }
            let Some(options) = dir.options() else {
                if dir.attached() {
                    return Err(
                        dir.refuse(fabric, "was not made by gaudi-soft, and a process uses it")
                    );
                }
                drop(users);
                std::thread::sleep(Duration::from_millis(2));
                continue;
            };
            if options.build != build {
                return Err(dir.refuse(
                    fabric,
                    "is in use and was made by another build of libgaudi_softdev.so",
                ));
            }
            if let Some(conflict) = wanted.conflict(&options) {
                return Err(dir.refuse(fabric, &format!("is in use and has {conflict}")));
            }
            return Ok(Hold { users, options });
        }
        Err(Failure::own(format!(
            "fabric {fabric}: other commands keep making it anew; give each set of options a --fabric of its own"
        )))
    }

    /// Holds the fabric as it is.
    pub(crate) fn look(&self) -> Result<Option<Hold>, Failure> {
        let Some(users) = self.users(false)? else {
            return Ok(None);
        };
        flock(&users, FlockOperation::LockShared)?;
        Ok(self.options().map(|options| Hold { users, options }))
    }

    /// Removes the folder; `false` when somebody uses it.
    pub(crate) fn remove(&self) -> Result<bool, Failure> {
        let Some(users) = self.users(true)? else {
            return Ok(true);
        };
        if !flock(&users, FlockOperation::NonBlockingLockExclusive)? || self.attached() {
            return Ok(false);
        }
        self.wipe()?;
        let gone = fs::remove_file(self.path.join(USERS)).and_then(|()| fs::remove_dir(&self.path));
        gone.map_err(|e| Failure::new(1, format!("cannot remove {}: {e}", self.path.display())))?;
        Ok(true)
    }

    pub(crate) fn options(&self) -> Option<Options> {
        Options::parse(&fs::read_to_string(self.path.join(OPTIONS)).ok()?)
    }

    /// Whether a process holds a record lock on one of the fabric's files, as every process that uses the device does.
    fn attached(&self) -> bool {
        let whole = rustix::process::Flock::from(rustix::process::FlockType::WriteLock);
        entries(&self.path)
            .into_iter()
            .filter(|p| p.symlink_metadata().is_ok_and(|m| m.is_file()))
            .any(|path| {
                let file = fs::File::options()
                    .read(true)
                    .write(true)
                    .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
                    .open(&path);
                file.is_ok_and(|f| {
                    rustix::process::fcntl_getlk(&f, &whole).is_ok_and(|holder| holder.is_some())
                })
            })
    }

    /// Processes that were started by `run` on this fabric and hold it, whether or not they have opened a device.
    pub(crate) fn holders(&self) -> Vec<u32> {
        let users = self.path.join(USERS);
        let holds = |pid: u32| {
            entries(&PathBuf::from(format!("/proc/{pid}/fd")))
                .iter()
                .any(|fd| fs::read_link(fd).is_ok_and(|target| target == users))
        };
        let mut pids: Vec<u32> = entries(Path::new("/proc"))
            .iter()
            .filter_map(|p| p.file_name()?.to_str()?.parse().ok())
            .filter(|p| holds(*p))
            .collect();
        pids.sort_unstable();
        pids
    }

    fn users(&self, create: bool) -> Result<Option<OwnedFd>, Failure> {
        let path = self.path.join(USERS);
        let make = if create {
            OFlags::CREATE
        } else {
            OFlags::empty()
        };
        match rfs::open(
            &path,
            OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | make,
            Mode::from_raw_mode(0o600),
        ) {
            Ok(fd) => Ok(Some(fd)),
            // Removed under us, folder and all.
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(Failure::own(format!("cannot open {}: {e}", path.display()))),
        }
    }

    /// Whether the descriptor is still the file of that name: `clean` may have removed it before the lock was taken.
    fn is_current(&self, users: &OwnedFd) -> bool {
        match (
            rfs::fstat(users),
            fs::symlink_metadata(self.path.join(USERS)),
        ) {
            (Ok(held), Ok(named)) => held.st_ino == named.ino() && held.st_dev == named.dev(),
            _ => false,
        }
    }

    /// Empties the folder but for the lock file.
    fn wipe(&self) -> Result<(), Failure> {
        for path in entries(&self.path) {
            if path.file_name().is_some_and(|n| n == USERS) {
                continue;
            }
            // `symlink_metadata`, so that a link to a folder is removed and not followed.
            let gone = match path.symlink_metadata() {
                Ok(m) if m.is_dir() => fs::remove_dir_all(&path),
                _ => fs::remove_file(&path),
            };
            gone.map_err(|e| Failure::new(1, format!("cannot remove {}: {e}", path.display())))?;
        }
        Ok(())
    }

    fn write_options(&self, options: &Options) -> Result<(), Failure> {
        let path = self.path.join(OPTIONS);
        let file = fs::File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path);
        file.and_then(|mut f| f.write_all(options.record().as_bytes()))
            .map_err(|e| Failure::own(format!("cannot write {}: {e}", path.display())))
    }

    fn refuse(&self, fabric: &str, why: &str) -> Failure {
        let has = self
            .options()
            .map(|o| format!(" It has {o}."))
            .unwrap_or_default();
        Failure::own(format!(
            "fabric {fabric} {why}.{has} `gaudi-soft devices --fabric {fabric}` shows who uses it; \
             choose another --fabric, or end those programs (then it is made anew by itself)"
        ))
    }
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir)
        .map(|list| list.flatten().map(|e| e.path()).collect())
        .unwrap_or_default()
}

/// `false`: a non-blocking lock was not to be had.
fn flock(fd: &OwnedFd, operation: FlockOperation) -> Result<bool, Failure> {
    loop {
        match rfs::flock(fd, operation) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(Errno::INTR) => continue,
            Err(e) => return Err(Failure::own(format!("cannot lock the fabric: {e}"))),
        }
    }
}

/// The folder is a real one, belongs to the user, and others cannot write to it; a private one is closed to them.
fn check_owned(path: &Path, private: bool) -> Result<(), Failure> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    let fail = |why: String| {
        Failure::own(format!(
            "{} {why}: set GAUDI_SOFT_ROOT to a folder of your own, or remove it",
            path.display()
        ))
    };
    let fd = rfs::open(path, flags, Mode::empty()).map_err(|e| match e {
        Errno::LOOP | Errno::NOTDIR => fail("is not a folder (or is a link to one)".into()),
        e => fail(format!("cannot be opened ({e})")),
    })?;
    let stat = rfs::fstat(&fd).map_err(|e| fail(format!("cannot be examined ({e})")))?;
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(fail(format!("belongs to user {}", stat.st_uid)));
    }
    let open_to_others = stat.st_mode & if private { 0o077 } else { 0o022 };
    if open_to_others != 0 {
        return Err(fail(format!(
            "is open to other users (mode {:o})",
            stat.st_mode & 0o7777
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn dir() -> (tempfile::TempDir, Directory) {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("f");
        fs::DirBuilder::new().mode(0o700).create(&path).unwrap();
        (tmp, Directory { path })
    }

    #[test]
    fn wiping_follows_no_link() {
        let (tmp, dir) = dir();
        let outside = tmp.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("keep"), "x").unwrap();
        std::os::unix::fs::symlink(&outside, dir.path.join("link")).unwrap();
        fs::create_dir_all(dir.path.join("lib/deep")).unwrap();
        fs::write(dir.path.join("fabric.shm"), "x").unwrap();
        let _users = dir.users(true).unwrap();
        dir.wipe().unwrap();
        assert_eq!(entries(&dir.path), [dir.path.join(USERS)]);
        assert!(outside.join("keep").exists());
    }

    #[test]
    fn a_held_fabric_is_not_removed() {
        let (_tmp, dir) = dir();
        dir.write_options(&Wanted::default().fill("b")).unwrap();
        let users = dir.users(true).unwrap().unwrap();
        assert!(flock(&users, FlockOperation::LockShared).unwrap());
        assert!(!dir.remove().unwrap());
        drop(users);
        assert!(dir.remove().unwrap());
        assert!(!dir.path.exists());
    }

    #[test]
    fn folders_of_others_and_links_are_refused() {
        let (tmp, dir) = dir();
        assert!(check_owned(&dir.path, true).is_ok());
        fs::set_permissions(&dir.path, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(check_owned(&dir.path, true).is_err());
        assert!(check_owned(&dir.path, false).is_ok());
        fs::set_permissions(&dir.path, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(check_owned(&dir.path, false).is_err());
        let link = tmp.path().join("link");
        std::os::unix::fs::symlink(&dir.path, &link).unwrap();
        assert!(check_owned(&link, false).is_err());
    }

    #[test]
    fn half_a_record_is_none() {
        let (_tmp, dir) = dir();
        fs::write(dir.path.join(OPTIONS), "devices=1\n").unwrap();
        assert!(dir.options().is_none());
    }
}
