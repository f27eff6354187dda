//! An open `/dev/infiniband/uverbsN`: the memfd exists from open, the NIC context comes later.

use super::accel_file::AccelFile;
use super::context::NicContext;
use super::rdma_layout::{Layout, SIZES};
use crate::fabric::Fabric;
use crate::shm::memfd::MemFile;
use crate::{Errno, EventSink, Result};
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

pub struct RdmaFile {
    pub(crate) fabric: Arc<Fabric>,
    pub(crate) device: u32,
    pub(crate) file: MemFile,
    pub(crate) layout: Layout,
    /// A context was opened on it, once.
    pub(crate) used: AtomicBool,
}

impl RdmaFile {
    pub fn create(fabric: &Arc<Fabric>, device: u32) -> Result<Arc<RdmaFile>> {
        if device >= fabric.opts.devices {
            return Err(Errno::ENXIO);
        }
        if !fabric.is_ours() {
            return Err(Errno::EIO);
        }
        let mut last = Errno::ENOMEM;
        for layout in SIZES {
            match MemFile::create("gaudi-rdma", layout.total()) {
                Ok(file) => {
                    let used = AtomicBool::new(false);
                    return Ok(Arc::new(RdmaFile {
                        fabric: fabric.clone(),
                        device,
                        file,
                        layout,
                        used,
                    }));
                }
                Err(e @ (Errno::ENOMEM | Errno::EFBIG | Errno::EINVAL)) => last = e,
                Err(e) => return Err(e),
            }
        }
        Err(last)
    }

    /// A descriptor for the program, close-on-exec.
    pub fn dup_fd(&self) -> Result<OwnedFd> {
        self.file.fd.dup()
    }

    /// The number of the descriptor that the device keeps for itself.
    pub fn own_fd(&self) -> RawFd {
        self.file.fd.raw()
    }

    /// (st_dev, st_ino)
    pub fn inode(&self) -> (u64, u64) {
        (self.file.dev, self.file.ino)
    }

    pub fn device(&self) -> u32 {
        self.device
    }

    pub fn fabric(&self) -> &Arc<Fabric> {
        &self.fabric
    }

    /// EBUSY for a second context (strict: on the device, else on this file), ESRCH without a compute context, EINVAL when it is
    /// another device's or a port does not exist. `ports_mask` is 1-based, 0 = all.
    pub fn open_context(
        self: &Arc<Self>,
        ports_mask: u64,
        accel: Option<Arc<AccelFile>>,
        sink: Arc<dyn EventSink>,
    ) -> Result<Arc<NicContext>> {
        NicContext::open(self, ports_mask, accel, sink)
    }
}
