//! The rdma-core provider: C ABI in, Rust objects out, nothing else.
//!
//! One binary serves every libibverbs with provider ABI 34, 57, 59, 64 or 65. Nothing of libibverbs is linked; a load-time
//! constructor finds each loaded copy, asks it for the layouts it was built with and registers a driver of that layout.
//! It is installed as `libgaudi-rdmav<abi>.so`, links to one file (separate copies would register twice).
//!
//! * `loaded`: loaded copies of libibverbs, their symbols, registration
//! * `probe`: the two layout probes; `optable`: the op tables
//! * `abi`: layouts of the C structs; `object`: C objects with our part behind; `edge`: errno and panics
//! * `device`, `context`, `memory`, `cq`, `qp`, `post`, `srq`, `xrc`, and `cqex`, `domain`, `mw`, `dm`, `wr`: the ops

#[cfg(not(all(
    target_os = "linux",
    target_pointer_width = "64",
    target_endian = "little"
)))]
compile_error!("the layouts of libibverbs declared here are those of 64-bit little-endian Linux");

mod abi;
mod context;
mod cq;
mod cqex;
mod device;
mod dm;
mod domain;
mod edge;
mod loaded;
mod logger;
mod memory;
mod mw;
mod object;
mod optable;
mod post;
mod probe;
mod qp;
mod srq;
mod wr;
mod xrc;

/// Runs when the library is loaded, under the loader's lock: registers, and does nothing else.
extern "C" fn load() {
    edge::quiet(loaded::register_all);
}

#[used]
#[unsafe(link_section = ".init_array")]
static LOAD: extern "C" fn() = load;
