//! The NIC: contexts, QPs, CQs, doorbell FIFOs, the ASID MMU and the data path.

pub(crate) mod accel_file;
pub(crate) mod context;
mod control;
pub(crate) mod cq;
mod engine;
mod events;
mod fifo;
pub(crate) mod frames;
mod handover;
pub(crate) mod mmu;
mod port;
pub(crate) mod qp;
mod ranges;
pub(crate) mod rdma_file;
pub(crate) mod rdma_layout;
mod schedule;
mod wqe;

pub use accel_file::AccelFile;
pub use context::NicContext;
pub use rdma_file::RdmaFile;
