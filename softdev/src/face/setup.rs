//! What is worked out once per process: options, the tree's place, and the inodes of its device nodes.

use super::file::Inode;
use crate::config::ConfigError;
use crate::paths::Node;
use crate::{netdev, tree};
use gaudi_softnic::FabricOptions;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::*};

pub(crate) struct Setup {
    pub(crate) options: FabricOptions,
    pub(crate) tree: Vec<u8>,
    nodes: Vec<(Inode, Node)>,
}

/// Device numbers of the file systems that hold the tree and the memfds, plus one: the cheap first question of every stat.
static TREE_DEV: AtomicU64 = AtomicU64::new(0);
static MEMFD_DEV: AtomicU64 = AtomicU64::new(0);

#[inline]
pub(crate) fn may_be_ours(dev: u64) -> bool {
    let dev = dev.wrapping_add(1);
    TREE_DEV.load(Relaxed) == dev || MEMFD_DEV.load(Relaxed) == dev
}

pub(crate) fn set_memfd_dev(dev: u64) {
    MEMFD_DEV.store(dev.wrapping_add(1), Relaxed);
}

impl Setup {
    pub(crate) fn new(options: Result<FabricOptions, ConfigError>) -> Option<Setup> {
        super::logger::init();
        let options = match options {
            Ok(options) => options,
            Err(e) => return complain(&e.to_string()),
        };
        let tree = match tree::ensure(&options) {
            Ok(tree) => tree,
            Err(e) => return complain(&format!("{}: {e}", options.dir.display())),
        };
        if let Err(e) = netdev::check(&options).and_then(|()| {
            netdev::sync(&options, &tree).map_err(|e| format!("interfaces cannot be asked: {e}"))
        }) {
            return complain(&e);
        }
        log::info!(
            "fabric {}: {} device(s) of {} port(s)",
            options.dir.display(),
            options.devices,
            options.ports
        );
        let nodes = nodes(&tree, &options);
        if let Some(((dev, _), _)) = nodes.first() {
            TREE_DEV.store(dev.wrapping_add(1), Relaxed);
        }
        Some(Setup {
            options,
            tree: tree.as_os_str().as_bytes().to_vec(),
            nodes,
        })
    }

    pub(crate) fn node_of_inode(&self, inode: Inode) -> Option<Node> {
        self.nodes
            .iter()
            .find(|(found, _)| *found == inode)
            .map(|&(_, node)| node)
    }

    pub(crate) fn has(&self, node: Node) -> bool {
        self.nodes.iter().any(|&(_, found)| found == node)
    }
}

fn nodes(tree: &Path, options: &FabricOptions) -> Vec<(Inode, Node)> {
    let one = |path: String, node: Node| {
        let st = rustix::fs::stat(tree.join(path)).ok()?;
        Some(((st.st_dev, st.st_ino), node))
    };
    (0..options.devices)
        .flat_map(|n| {
            let uverbs = one(format!("dev/infiniband/uverbs{n}"), Node::Uverbs(n));
            let accel = one(format!("dev/accel/accel{n}"), Node::Accel(n));
            uverbs.into_iter().chain(accel)
        })
        .collect()
}

/// The program asked for a soft device and gets none: worth one line, whatever its logger.
fn complain(text: &str) -> Option<Setup> {
    log::error!("{text}");
    let line = format!("gaudi-softdev: no device: {text}\n");
    let _ = rustix::io::write(super::usermem::borrow_fd(2), line.as_bytes());
    None
}
