//! Benchmarks against peers that are measured in the same run.
//!
//! Figures of one machine say little: where the hypervisor puts two virtual CPUs changes everything
//! by a factor of five. So each figure comes with what bare memory, the kernel's own cross-process
//! copy and UCX reach at that moment, and what counts is the ratio.

pub mod bare;
pub mod passive;
pub mod plot;
pub mod report;
pub mod rig;
pub mod spike;
pub mod tools;
pub mod transports;
