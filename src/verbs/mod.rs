//! The objects that programs see.

pub mod types;
