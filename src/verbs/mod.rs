//! The objects that programs see.

pub mod context;
pub mod cq;
mod datagrams;
pub mod engine;
pub mod extended;
pub mod mr;
pub mod mw;
pub mod qp;
pub mod queue;
pub mod regions;
pub mod shared;
pub mod srq;
pub mod types;
pub mod xrc;

#[cfg(test)]
mod tests;
