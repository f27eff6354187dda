//! The protocol on the scripted device.

mod basics;
mod random;
pub(super) mod rig;
mod srq;
mod uc;
mod xrc;
