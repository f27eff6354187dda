//! The protocol on the scripted device.

mod basics;
mod datagrams;
mod errors;
mod model;
mod numbers;
mod random;
mod regions;
mod renewal;
pub(super) mod rig;
mod srq;
mod uc;
mod windows;
mod xrc;
