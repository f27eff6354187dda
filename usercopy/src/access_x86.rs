//! The accesses on x86-64: leaf functions in one contiguous range of code.
//!
//! None of them touches the stack, so wherever the signal handler finds the instruction pointer in
//! the range, jumping to `fixup` returns to the caller with the error. Convention: rax is 0 or 1,
//! rdx the value; in `copy`, rdi never runs ahead of the bytes stored and r8 is where it started,
//! so the fix-up can tell how much is done.
//!
//! x86 makes stores visible in program order (Intel SDM vol. 3, "Memory ordering"); only the stores
//! inside one `rep movsb` may be seen out of order among themselves, which is why the last 8 bytes
//! are never part of it.

use crate::{Fault, signal};
use std::arch::global_asm;

#[repr(C)]
struct Outcome {
    failed: u64,
    value: u64,
}

unsafe extern "C" {
    fn gaudi_usercopy_copy(dst: *mut u8, src: *const u8, len: usize) -> Outcome;
    fn gaudi_usercopy_load(p: *const u64) -> Outcome;
    fn gaudi_usercopy_store(p: *mut u64, value: u64) -> Outcome;
    fn gaudi_usercopy_cas(p: *mut u64, expect: u64, new: u64) -> Outcome;
    fn gaudi_usercopy_add(p: *mut u64, add: u64) -> Outcome;
    fn gaudi_usercopy_probe_read(p: *const u8, last: usize) -> Outcome;
    fn gaudi_usercopy_probe_write(p: *mut u8, last: usize) -> Outcome;
    fn gaudi_usercopy_start();
    fn gaudi_usercopy_end();
    fn gaudi_usercopy_fixup();
}

global_asm!(
    ".macro GAUDI_FUNCTION name",
    ".p2align 5",
    ".hidden \\name",
    ".globl \\name",
    ".type \\name, @function",
    "\\name:",
    ".endm",
    ".pushsection .text.gaudi_usercopy,\"ax\",@progbits",
    "GAUDI_FUNCTION gaudi_usercopy_start",
    ".cfi_startproc",
    //
    // copy(rdi = dst, rsi = src, rdx = len)
    "GAUDI_FUNCTION gaudi_usercopy_copy",
    "mov r8, rdi",
    "sub rdx, 8", // rdx: the bytes in front of the last 8, the body
    "jb 40f",
    "cmp rdx, 32",
    "ja 20f",
    "cmp rdx, 16",
    "jae 11f",
    "cmp rdx, 8",
    "jae 10f",
    "cmp edx, 4",
    "jae 13f",
    "cmp edx, 2",
    "jae 14f",
    // A body of 0 or 1.
    "test edx, edx",
    "jz 15f",
    "movzx eax, byte ptr [rsi]",
    "mov r9, [rsi + 1]",
    "mov [rdi], al",
    "mov [rdi + 1], r9",
    "xor eax, eax",
    "ret",
    "15:",
    "mov r9, [rsi]",
    "mov [rdi], r9",
    "xor eax, eax",
    "ret",
    "14:", // 2..=3
    "movzx eax, word ptr [rsi]",
    "movzx ecx, word ptr [rsi + rdx - 2]",
    "mov r9, [rsi + rdx]",
    "mov [rdi], ax",
    "mov [rdi + rdx - 2], cx",
    "mov [rdi + rdx], r9",
    "xor eax, eax",
    "ret",
    "13:", // 4..=7
    "mov eax, [rsi]",
    "mov ecx, [rsi + rdx - 4]",
    "mov r9, [rsi + rdx]",
    "mov [rdi], eax",
    "mov [rdi + rdx - 4], ecx",
    "mov [rdi + rdx], r9",
    "xor eax, eax",
    "ret",
    "10:", // 8..=15
    "mov rax, [rsi]",
    "mov rcx, [rsi + rdx - 8]",
    "mov r9, [rsi + rdx]",
    "mov [rdi], rax",
    "mov [rdi + rdx - 8], rcx",
    "mov [rdi + rdx], r9",
    "xor eax, eax",
    "ret",
    "11:", // 16..=32
    "movups xmm0, [rsi]",
    "movups xmm1, [rsi + rdx - 16]",
    "mov r9, [rsi + rdx]",
    "movups [rdi], xmm0",
    "movups [rdi + rdx - 16], xmm1",
    "mov [rdi + rdx], r9",
    "xor eax, eax",
    "ret",
    "20:",
    "cmp rdx, 64",
    "ja 21f",
    "movups xmm0, [rsi]", // 33..=64
    "movups xmm1, [rsi + 16]",
    "movups xmm2, [rsi + rdx - 32]",
    "movups xmm3, [rsi + rdx - 16]",
    "mov r9, [rsi + rdx]",
    "movups [rdi], xmm0",
    "movups [rdi + 16], xmm1",
    "movups [rdi + rdx - 32], xmm2",
    "movups [rdi + rdx - 16], xmm3",
    "mov [rdi + rdx], r9",
    "xor eax, eax",
    "ret",
    "21:",
    "cmp rdx, {STRING_FROM}",
    "jae 30f",
    ".p2align 4",
    "22:",
    "movups xmm0, [rsi]",
    "movups xmm1, [rsi + 16]",
    "movups xmm2, [rsi + 32]",
    "movups xmm3, [rsi + 48]",
    "add rsi, 64",
    "movups [rdi], xmm0",
    "movups [rdi + 16], xmm1",
    "movups [rdi + 32], xmm2",
    "movups [rdi + 48], xmm3",
    "add rdi, 64",
    "sub rdx, 64",
    "cmp rdx, 64",
    "ja 22b",
    // 1..=64 bytes of the body remain: its last 64, of which some are there already.
    "movups xmm0, [rsi + rdx - 64]",
    "movups xmm1, [rsi + rdx - 48]",
    "movups xmm2, [rsi + rdx - 32]",
    "movups xmm3, [rsi + rdx - 16]",
    "mov r9, [rsi + rdx]",
    "movups [rdi + rdx - 64], xmm0",
    "movups [rdi + rdx - 48], xmm1",
    "movups [rdi + rdx - 32], xmm2",
    "movups [rdi + rdx - 16], xmm3",
    "mov [rdi + rdx], r9",
    "xor eax, eax",
    "ret",
    "30:",
    "mov rcx, rdx",
    "rep movsb",
    "mov r9, [rsi]",
    "mov [rdi], r9",
    "xor eax, eax",
    "ret",
    "40:", // 0..=7 in all
    "add edx, 8",
    "cmp edx, 4",
    "jb 42f",
    "mov eax, [rsi]",
    "je 41f",
    "mov ecx, [rsi + rdx - 4]",
    "mov [rdi], eax",
    "mov [rdi + rdx - 4], ecx",
    "xor eax, eax",
    "ret",
    "41:",
    "mov [rdi], eax",
    "xor eax, eax",
    "ret",
    "42:",
    "cmp edx, 2",
    "jb 44f",
    "movzx eax, word ptr [rsi]",
    "je 43f",
    "movzx ecx, byte ptr [rsi + 2]",
    "mov [rdi], ax",
    "mov [rdi + 2], cl",
    "xor eax, eax",
    "ret",
    "43:",
    "mov [rdi], ax",
    "xor eax, eax",
    "ret",
    "44:",
    "test edx, edx",
    "jz 45f",
    "movzx eax, byte ptr [rsi]",
    "mov [rdi], al",
    "45:",
    "xor eax, eax",
    "ret",
    //
    "GAUDI_FUNCTION gaudi_usercopy_load",
    "mov rdx, [rdi]",
    "xor eax, eax",
    "ret",
    "GAUDI_FUNCTION gaudi_usercopy_store",
    "mov [rdi], rsi",
    "xor eax, eax",
    "ret",
    "GAUDI_FUNCTION gaudi_usercopy_cas",
    "mov rax, rsi",
    "lock cmpxchg [rdi], rdx",
    "mov rdx, rax",
    "xor eax, eax",
    "ret",
    "GAUDI_FUNCTION gaudi_usercopy_add",
    "lock xadd [rdi], rsi",
    "mov rdx, rsi",
    "xor eax, eax",
    "ret",
    //
    // probe(rdi = first byte, rsi = last byte): the first byte, then the start of each later page.
    // An address that wraps ends the loop; the last page of the address space is never a program's.
    "GAUDI_FUNCTION gaudi_usercopy_probe_read",
    "mov r8, rdi",
    "2:",
    "movzx eax, byte ptr [rdi]",
    "and rdi, -4096",
    "add rdi, 4096",
    "jc 3f",
    "cmp rdi, rsi",
    "jbe 2b",
    "3:",
    "xor eax, eax",
    "ret",
    "GAUDI_FUNCTION gaudi_usercopy_probe_write",
    "mov r8, rdi",
    "2:",
    "lock or byte ptr [rdi], 0",
    "and rdi, -4096",
    "add rdi, 4096",
    "jc 3f",
    "cmp rdi, rsi",
    "jbe 2b",
    "3:",
    "xor eax, eax",
    "ret",
    //
    "GAUDI_FUNCTION gaudi_usercopy_end",
    "GAUDI_FUNCTION gaudi_usercopy_fixup",
    "mov rdx, rdi",
    "sub rdx, r8",
    "mov eax, 1",
    "ret",
    ".cfi_endproc",
    ".popsection",
    // From here on the string instruction wins on processors with ERMS and FSRM.
    STRING_FROM = const 1024,
);

/// The range that the signal handler protects, and where it resumes.
pub(crate) fn guarded() -> signal::Range {
    signal::Range {
        start: gaudi_usercopy_start as *const () as usize,
        end: gaudi_usercopy_end as *const () as usize,
        fixup: gaudi_usercopy_fixup as *const () as usize,
    }
}

pub(crate) fn install() -> std::io::Result<()> {
    signal::install()
}

pub(crate) fn ensure() {
    // Failure means that sigaction(2) itself refuses, and then there is nothing better to do.
    let _ = signal::install();
}

#[inline]
pub(crate) unsafe fn copy(dst: *mut u8, src: *const u8, len: usize) -> Result<(), Fault> {
    // SAFETY: guarded access; the caller vouches for what lies at `dst`.
    let outcome = unsafe { gaudi_usercopy_copy(dst, src, len) };
    if outcome.failed == 0 {
        Ok(())
    } else {
        Err(Fault {
            done: outcome.value as usize,
        })
    }
}

#[inline]
fn value(outcome: Outcome) -> Result<u64, Fault> {
    if outcome.failed == 0 {
        Ok(outcome.value)
    } else {
        Err(Fault { done: 0 })
    }
}

#[inline]
pub(crate) unsafe fn load_u64(p: *const u64) -> Result<u64, Fault> {
    // SAFETY: guarded access.
    value(unsafe { gaudi_usercopy_load(p) })
}

#[inline]
pub(crate) unsafe fn store_u64(p: *mut u64, new: u64) -> Result<(), Fault> {
    // SAFETY: guarded access; the caller vouches for what lies at `p`.
    value(unsafe { gaudi_usercopy_store(p, new) }).map(drop)
}

#[inline]
pub(crate) unsafe fn cas_u64(p: *mut u64, expect: u64, new: u64) -> Result<u64, Fault> {
    // SAFETY: guarded access; the caller vouches for what lies at `p`.
    value(unsafe { gaudi_usercopy_cas(p, expect, new) })
}

#[inline]
pub(crate) unsafe fn fetch_add_u64(p: *mut u64, add: u64) -> Result<u64, Fault> {
    // SAFETY: guarded access; the caller vouches for what lies at `p`.
    value(unsafe { gaudi_usercopy_add(p, add) })
}

pub(crate) unsafe fn probe_read(p: *const u8, last: usize) -> Result<(), Fault> {
    // SAFETY: guarded access.
    value(unsafe { gaudi_usercopy_probe_read(p, last) }).map(drop)
}

pub(crate) unsafe fn probe_write(p: *mut u8, last: usize) -> Result<(), Fault> {
    // SAFETY: guarded access; an atomic OR with zero changes nothing.
    value(unsafe { gaudi_usercopy_probe_write(p, last) }).map(drop)
}
