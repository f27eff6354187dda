//! Program memory: it may be gone at any time (hazard 12), so every access survives a fault. UNSAFE lives here.

/// The address is not, or no longer, usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault;

/// Installs the fault handlers, or puts them back on top when the program replaced them.
pub fn prepare() {
    if usercopy::install().is_ok() {
        usercopy::ensure();
    }
}

/// Ascending copy between program (or window) addresses; the last aligned 8 bytes are stored last (hazard 16).
///
/// The caller has checked both ranges against an MR or a window: the copy itself trusts no mapping.
#[inline]
pub fn copy(dst: u64, src: u64, len: usize) -> Result<(), Fault> {
    if len == 0 {
        return Ok(());
    }
    // SAFETY: the ranges were checked against a registration of this program or a window; a range that is unmapped meanwhile is
    // reported as a fault by usercopy and not touched otherwise.
    unsafe { usercopy::copy(dst as *mut u8, src as *const u8, len) }.map_err(|_| Fault)
}

/// The first `len` bytes at `addr`, the rest zeros.
pub fn load<const N: usize>(addr: u64, len: usize) -> Result<[u64; N], Fault> {
    let mut words = [0u64; N];
    if len > size_of_val(&words) {
        return Err(Fault);
    }
    copy(words.as_mut_ptr().expose_provenance() as u64, addr, len)?;
    Ok(words)
}

/// Compare-and-swap of an aligned word of program memory; answers the old value.
pub fn cas64(addr: u64, expect: u64, new: u64) -> Result<u64, Fault> {
    // SAFETY: as in copy; usercopy refuses unaligned addresses.
    unsafe { usercopy::cas_u64(addr as *mut u64, expect, new) }.map_err(|_| Fault)
}

/// Fetch-and-add of an aligned word of program memory; answers the old value.
pub fn fetch_add64(addr: u64, add: u64) -> Result<u64, Fault> {
    // SAFETY: as in copy; usercopy refuses unaligned addresses.
    unsafe { usercopy::fetch_add_u64(addr as *mut u64, add) }.map_err(|_| Fault)
}
