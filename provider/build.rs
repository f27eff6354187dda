fn main() {
    // Threads and thread-local destructors of this library must never outlive its code.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    println!("cargo::rerun-if-changed=build.rs");
}
