//! The soft GAUDI2 NIC: contexts, QPs, CQs, the ASID MMU, and a fabric in shared memory.
//!
//! [`Fabric`] is what the processes of one user share; [`RdmaFile`] and [`AccelFile`] stand behind the two descriptors that a program
//! opens; [`NicContext`] is one ASID with its queues. Work runs in the thread that rings a doorbell. See `docs/design.md`.
//!
//! Unsafe code is confined to [`shm`], [`pv`] and [`trap`].

mod addr;
mod api;
mod errno;
mod fabric;
mod nic;
mod pv;
mod shm;
mod trap;

pub use addr::{device_guid, port_gid, port_ipv4, port_lid, port_mac, resolve_lid};
pub use api::*;
pub use errno::{Errno, Result};
pub use fabric::{Fabric, FabricView};
pub use nic::{AccelFile, NicContext, RdmaFile};
pub use pv::{after_fork_in_child, set_raise, without_signals};
pub use shm::fd::{Fd, is_internal, next_internal};
