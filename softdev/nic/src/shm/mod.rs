//! Memory that processes share, and what the kernel tells about those processes. Unsafe code lives here.
//!
//! Rules: no reference to such memory ever exists, only the cells of [`cell`]; an offset that does not fit its mapping
//! lands on a word that nobody uses; what is read is checked by the reader.

pub(crate) mod barrier;
pub(crate) mod cell;
pub(crate) mod clock;
pub(crate) mod exit;
pub(crate) mod fabric_file;
pub(crate) mod fabric_reader;
pub(crate) mod fd;
pub(crate) mod fork;
pub(crate) mod futex;
pub(crate) mod locks;
pub(crate) mod mapping;
pub(crate) mod memfd;
#[cfg(test)]
pub(crate) mod model;
pub(crate) mod remote_mem;
pub(crate) mod sync;
pub(crate) mod trylock;
pub(crate) mod user;

pub(crate) use cell::W32;
pub(crate) use fd::Fd;
pub(crate) use mapping::Mapping;
