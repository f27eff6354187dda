//! Complete RDMA verbs on GAUDI NICs: the driver side. docs/design.md tells how it is built.

pub mod native;
pub mod rc;
pub mod ud;
pub mod verbs;

pub use verbs::context::{Context, Guard};
pub use verbs::cq::Stamp;
pub use verbs::extended::DmInfo;
pub use verbs::regions::Rereg;
pub use verbs::types::*;
