//! The protocol on the scripted device.

mod basics;
mod datagrams;
mod errors;
mod model;
mod numbers;
mod random;
mod regions;
pub(super) mod rig;
mod srq;
mod uc;
mod windows;
mod xrc;
