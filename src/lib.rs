//! Complete RDMA verbs on GAUDI NICs: the driver side.

pub mod verbs;

pub use verbs::types::*;
