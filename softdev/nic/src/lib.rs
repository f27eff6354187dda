//! The soft GAUDI2 NIC: contexts, QPs, CQs, the ASID MMU, and a fabric in shared memory.

mod addr;
mod api;
mod errno;
mod skeleton;

pub use addr::{device_guid, port_gid, port_ipv4, port_mac};
pub use api::*;
pub use errno::{Errno, Result};
pub use skeleton::*;
