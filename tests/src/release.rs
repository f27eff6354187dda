//! Other releases of rdma-core than the system's: libibverbs with the programs that belong to it.

use crate::{Fabric, workspace};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Folders with releases, separated by colons (`tests/releases.sh` makes some).
const VARIABLE: &str = "GAUDI_RELEASES";
const MULTIARCH: &str = "usr/lib/x86_64-linux-gnu";
const LIBRARY: &str = "libibverbs.so.1";

enum Place {
    System,
    /// A Debian root with a C library of its own, which its own loader starts.
    Root(PathBuf),
    /// `bin`, `lib` and `include`, for the C library of this system.
    Prefix(PathBuf),
}

/// One release.
pub struct Release {
    pub name: String,
    place: Place,
}

impl Release {
    /// The system's own, and those that the variable names.
    pub fn all() -> Vec<Release> {
        let mut all = vec![Release {
            name: "the system's".to_string(),
            place: Place::System,
        }];
        let folders = std::env::var_os(VARIABLE).unwrap_or_default();
        for folder in std::env::split_paths(&folders).filter(|p| !p.as_os_str().is_empty()) {
            all.push(Release::at(&folder));
        }
        if all.len() == 1 {
            eprintln!(
                "NOTE: only the system's rdma-core is tested; see tests/releases.sh for others"
            );
        }
        all
    }

    fn at(folder: &Path) -> Release {
        let root = folder.join(MULTIARCH).join(LIBRARY);
        let prefix = folder.join("lib").join(LIBRARY);
        let (library, place) = if root.exists() {
            (root, Place::Root(folder.to_path_buf()))
        } else {
            (prefix, Place::Prefix(folder.to_path_buf()))
        };
        // libibverbs.so.1.14.57.0 is that of rdma-core 57.0.
        let file = std::fs::read_link(&library)
            .unwrap_or_else(|e| panic!("{VARIABLE}: {}: {e}", library.display()));
        let file = file.to_string_lossy().into_owned();
        let release = file.splitn(5, '.').nth(4).unwrap_or(&file);
        Release {
            name: format!("rdma-core {release} in {}", folder.display()),
            place,
        }
    }

    fn programs(&self) -> PathBuf {
        match &self.place {
            Place::System => PathBuf::from("/usr/bin"),
            Place::Root(root) => root.join("usr/bin"),
            Place::Prefix(prefix) => prefix.join("bin"),
        }
    }

    /// Whether a program of this name belongs to it.
    pub fn has(&self, program: &str) -> bool {
        self.programs().join(program).exists()
    }

    /// A program on a fabric: one of its own by name, or any by its path.
    pub fn run(&self, fabric: &Fabric, program: impl AsRef<OsStr>, args: &[&str]) -> Command {
        let program = self.programs().join(Path::new(&program));
        match &self.place {
            Place::System => fabric.run(program, args),
            Place::Root(root) => {
                let libraries = root.join(MULTIARCH);
                let mut line: Vec<OsString> = vec!["--library-path".into()];
                // The other providers' folder: this libibverbs was built to look for them below /usr.
                line.push(join(&[libraries.clone(), libraries.join("libibverbs")]));

                line.push(program.into());
                line.extend(args.iter().map(OsString::from));
                let mut command = fabric.run(libraries.join("ld-linux-x86-64.so.2"), line);
                command.env("PYTHONHOME", root.join("usr"));
                command
            }
            Place::Prefix(prefix) => {
                let mut command = fabric.run(program, args);
                command.env("LD_LIBRARY_PATH", prefix.join("lib"));
                command
            }
        }
    }

    /// The same for a line of words.
    pub fn line(&self, fabric: &Fabric, line: &str) -> Command {
        let words: Vec<&str> = line.split_whitespace().collect();
        self.run(fabric, words[0], &words[1..])
    }

    /// Its interpreter and rdma-core's Python tests, where it has both.
    pub fn python(&self) -> Option<(&'static str, PathBuf)> {
        let tests = match &self.place {
            Place::Root(root) => root.join("usr/share/doc/rdma-core/tests"),
            Place::System | Place::Prefix(_) => return None,
        };
        (tests.is_dir() && self.has("python3")).then_some(("python3", tests))
    }

    /// Compiles `tests/c/<name>.c` against its headers and its library into `dir`.
    pub fn compile(&self, name: &str, dir: &Path) -> PathBuf {
        let out = dir.join(name);
        let mut cc = Command::new("cc");
        cc.args(["-std=gnu11", "-O2", "-g", "-o"])
            .arg(&out)
            .arg(workspace().join(format!("tests/c/{name}.c")));
        let folders = match &self.place {
            Place::System => None,
            Place::Root(root) => Some((root.join("usr/include"), root.join(MULTIARCH))),
            Place::Prefix(prefix) => Some((prefix.join("include"), prefix.join("lib"))),
        };
        match folders {
            None => cc.args(["-Wall", "-Wextra", "-Werror", "-libverbs"]),
            // Not the place to judge other people's headers. What a newer libibverbs needs of a newer C library is found when the program starts.
            Some((headers, libraries)) => cc
                .args(["-w", "-isystem"])
                .arg(headers)
                .arg(libraries.join(LIBRARY))
                .arg("-Wl,--allow-shlib-undefined"),
        };
        let output = cc
            .arg("-lpthread")
            .output()
            .expect("cc (apt-get install gcc)");
        assert!(
            output.status.success(),
            "{name}.c for {}: {}",
            self.name,
            String::from_utf8_lossy(&output.stderr)
        );
        out
    }
}

fn join(folders: &[PathBuf]) -> OsString {
    std::env::join_paths(folders).expect("no colon in the path of a release")
}
