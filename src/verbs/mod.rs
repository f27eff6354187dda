//! The objects that programs see.

pub mod context;
pub mod cq;
pub mod engine;
pub mod mr;
pub mod qp;
pub mod queue;
pub mod types;

#[cfg(test)]
mod tests;
