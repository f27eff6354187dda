//! Link options of the preload library.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Handlers and hooks point into the library for the life of the process.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
