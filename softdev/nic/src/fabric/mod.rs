//! What processes share: the process table, the peers of this process, their memory, and the thread that watches them.

pub(crate) mod attach;
pub(crate) mod copy;
mod counters;
pub(crate) mod peer;
pub(crate) mod process;
mod snapshot;
mod thread;
mod view;
pub(crate) mod way;

pub use attach::Fabric;
pub(crate) use peer::{Link, Remote};
pub use view::FabricView;
pub(crate) use way::Way;
