//! Layouts and numbers that a GAUDI NIC driver, its user space and the hardware agree on.
//!
//! Nothing here does I/O. Every struct is plain old data (`repr(C)`, no padding, any bit pattern valid), its size and
//! the offset of each field are asserted at compile time, and `tests/layout_c.rs` compares all of them with a C
//! compiler's view.
//!
//! * [`uverbs`]: the `ib_uverbs` ioctl and the command structs of [`uverbs::cmd`]
//! * [`verbs`]: numbers of the verbs themselves and the QP state machine
//! * [`hbl`]: driver data and driver objects of the `hbl` RDMA driver posted in June 2024
//! * [`accel`]: memory and info ioctls of the compute device
//! * [`gaudi2`], [`gaudi1`]: work queue entries, completions, events, doorbells and QP contexts
//! * [`ext`]: our extensions, which a real kernel does not have

#![no_std]
#![forbid(unsafe_code)]

#[cfg(not(target_endian = "little"))]
compile_error!("GAUDI layouts are little-endian and are accessed as native words");

#[macro_use]
pub mod layout;

pub mod accel;
pub mod ext;
pub mod gaudi1;
pub mod gaudi2;
pub mod hbl;
pub mod uverbs;
pub mod verbs;

pub use uverbs::cmd;
