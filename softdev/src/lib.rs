//! The soft GAUDI2's face: what a kernel shows to user space.
//!
//! * [`config`]: options from the environment
//! * [`tree`]: the device tree under `/sys` and `/dev`, real files in the fabric's directory
//! * [`paths`]: which paths of a program lead into that tree
//! * [`face`]: device files: the three uverbs dialects, `hbl` and the compute device's ioctls, events
//!
//! The preload library interposes libc and calls [`face`]; everything here uses raw system calls for its own needs, so it never
//! comes back into an interposed name.

#![deny(unsafe_code)]

pub mod config;
pub mod face;
mod netdev;
pub mod paths;
pub mod tree;
