//! A library with its own copy of the crate, loaded by `tests/two_copies.rs`.

/// As [`gaudi_usercopy::ensure`].
#[unsafe(no_mangle)]
pub extern "C" fn second_ensure() {
    gaudi_usercopy::ensure();
}

/// As [`gaudi_usercopy::copy`]; whether it succeeded.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn second_copy(dst: *mut u8, src: *const u8, len: usize) -> bool {
    // SAFETY: the caller's promise.
    unsafe { gaudi_usercopy::copy(dst, src, len) }.is_ok()
}
