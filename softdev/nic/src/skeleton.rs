use crate::{api::*, errno::*};
use std::os::fd::OwnedFd;
use std::sync::Arc;
pub struct Fabric {
    opts: FabricOptions,
}
impl Fabric {
    pub fn attach(_opts: &FabricOptions) -> Result<Arc<Fabric>> {
        Err(Errno::ENOSYS)
    }
    pub fn options(&self) -> &FabricOptions {
        &self.opts
    }
    pub fn reap(&self) {}
    pub fn snapshot(&self) -> FabricSnapshot {
        FabricSnapshot::default()
    }
    pub fn counters(&self, _device: u32, _port: u32) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}
pub struct AccelFile {
    _p: (),
}
impl AccelFile {
    pub fn create(_fabric: &Arc<Fabric>, _device: u32) -> Result<Arc<AccelFile>> {
        Err(Errno::ENOSYS)
    }
    pub fn dup_fd(&self) -> Result<OwnedFd> {
        Err(Errno::ENOSYS)
    }
    pub fn inode(&self) -> (u64, u64) {
        (0, 0)
    }
    pub fn alloc(&self, _size: u64, _page_size: u64, _flags: u32) -> Result<u64> {
        Err(Errno::ENOSYS)
    }
    pub fn free(&self, _handle: u64) -> Result<()> {
        Err(Errno::ENOSYS)
    }
    pub fn map_host(&self, _host_va: u64, _size: u64, _hint: u64, _force: bool) -> Result<u64> {
        Err(Errno::ENOSYS)
    }
    pub fn map_arena(&self, _rdma_off: u64, _size: u64, _hint: u64, _force: bool) -> Result<u64> {
        Err(Errno::ENOSYS)
    }
    pub fn map_device(&self, _handle: u64, _hint: u64, _force: bool) -> Result<u64> {
        Err(Errno::ENOSYS)
    }
    pub fn unmap(&self, _dva: u64) -> Result<()> {
        Err(Errno::ENOSYS)
    }
    pub fn dram_size(&self) -> u64 {
        0
    }
    pub fn dram_used(&self) -> u64 {
        0
    }
    pub fn close(&self) {}
}
pub struct RdmaFile {
    fabric: Arc<Fabric>,
}
impl RdmaFile {
    pub fn create(_fabric: &Arc<Fabric>, _device: u32) -> Result<Arc<RdmaFile>> {
        Err(Errno::ENOSYS)
    }
    pub fn dup_fd(&self) -> Result<OwnedFd> {
        Err(Errno::ENOSYS)
    }
    pub fn inode(&self) -> (u64, u64) {
        (0, 0)
    }
    pub fn device(&self) -> u32 {
        0
    }
    pub fn fabric(&self) -> &Arc<Fabric> {
        &self.fabric
    }
    pub fn open_context(
        self: &Arc<Self>,
        _ports_mask: u64,
        _accel: Option<Arc<AccelFile>>,
        _sink: Arc<dyn EventSink>,
    ) -> Result<Arc<NicContext>> {
        Err(Errno::ENOSYS)
    }
}
pub struct NicContext {
    rdma: Arc<RdmaFile>,
}
impl NicContext {
    pub fn asid(&self) -> u32 {
        0
    }
    pub fn ports_mask(&self) -> u64 {
        0
    }
    pub fn rdma(&self) -> &Arc<RdmaFile> {
        &self.rdma
    }
    pub fn ext(&self) -> kernel_abi::ext::AllocUcontextRespExt {
        Default::default()
    }
    pub fn set_port_ex(
        &self,
        _port: u32,
        _wqs: u32,
        _wqes: u32,
        _granularity: u8,
        _device_mem: bool,
        _advanced: bool,
    ) -> Result<()> {
        Err(Errno::ENOSYS)
    }
    pub fn port_ready(&self, _port: u32) -> bool {
        false
    }
    pub fn cq_create(&self, _port: u32, _entries: u32) -> Result<CqInfo> {
        Err(Errno::ENOSYS)
    }
    pub fn cq_destroy(&self, _port: u32, _cq: u32) -> Result<()> {
        Err(Errno::ENOSYS)
    }
    pub fn cq_exists(&self, _port: u32, _cq: u32) -> bool {
        false
    }
    pub fn fifo_create(&self, _port: u32, _hint: u32, _mode: u8) -> Result<FifoInfo> {
        Err(Errno::ENOSYS)
    }
    pub fn fifo_destroy(&self, _port: u32, _fifo: u32) -> Result<()> {
        Err(Errno::ENOSYS)
    }
    pub fn qp_alloc(&self, _port: u32) -> Result<(u32, u32)> {
        Err(Errno::ENOSYS)
    }
    pub fn qp_set_responder(&self, _port: u32, _qpn: u32, _r: &Responder) -> Result<()> {
        Err(Errno::ENOSYS)
    }
    pub fn qp_set_requester(&self, _port: u32, _qpn: u32, _r: &Requester) -> Result<RingInfo> {
        Err(Errno::ENOSYS)
    }
    pub fn qp_stop(&self, _port: u32, _qpn: u32) -> Result<()> {
        Err(Errno::ENOSYS)
    }
    pub fn qp_free(&self, _port: u32, _qpn: u32) -> Result<()> {
        Err(Errno::ENOSYS)
    }
    pub fn qp_syndrome(&self, _port: u32, _qpn: u32) -> u8 {
        0
    }
    pub fn qps_allocated(&self, _port: u32) -> (u32, u32) {
        (0, 0)
    }
    pub fn doorbell(&self, _port: u32, _entry: u64) -> u32 {
        0
    }
    pub fn progress(&self, _budget: u64) -> u32 {
        0
    }
    pub fn cq_ci(&self, _port: u32, _cq: u32, _ci: u32) {}
    pub fn cq_arm(&self, _port: u32, _cq: u32, _ci: u32) -> u32 {
        0
    }
    pub fn stalled_us(&self, _port: u32, _qpn: u32) -> u64 {
        0
    }
    pub fn kick_event_word(&self) {}
    pub fn close(&self) {}
}
pub fn set_raise(_f: fn(channel_fd: i32, user_handle: u64) -> i32) {}
pub fn after_fork_in_child() {}
