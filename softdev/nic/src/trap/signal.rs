//! The SIGBUS handler, on top of whatever was there.

use crate::Result;
use crate::pv::exchange_action;
use libc::{c_int, c_void, sigaction, siginfo_t};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering::*};

/// Leaked; never changes once stored.
static BEFORE: AtomicPtr<sigaction> = AtomicPtr::new(null_mut());
static INSTALLED: AtomicBool = AtomicBool::new(false);

/// Once per process; a forked child inherits the handler.
pub(crate) fn install() -> Result<()> {
    if !cfg!(target_arch = "x86_64") || INSTALLED.swap(true, AcqRel) {
        return Ok(());
    }
    // SAFETY: all zeroes is a valid action.
    let mut action: sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as *const () as usize;
    // Not deferred: reading the instruction may meet SIGBUS of its own, which the copies survive.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
    let before = exchange_action(libc::SIGBUS, &action)?;
    BEFORE.store(Box::leak(Box::new(before)), Release);
    Ok(())
}

extern "C" fn handler(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    /// siginfo.h: a physical address that does not exist; an access behind the end of a file.
    const BUS_ADRERR: c_int = 2;
    // SAFETY: with SA_SIGINFO the kernel passes a valid siginfo.
    let code = unsafe { (*info).si_code };
    if code == BUS_ADRERR {
        // SAFETY: as above.
        let info = unsafe { &*info };
        // SAFETY: the code says that the address is there.
        let address = unsafe { info.si_addr() } as u64;
        // SAFETY: gives the thread's own errno.
        let errno = unsafe { libc::__errno_location() };
        // SAFETY: as above.
        let before = unsafe { errno.read() };
        let served = emulate(address, context);
        // SAFETY: as above.
        unsafe { errno.write(before) };
        if served {
            return;
        }
    }
    chain(signal, info, context);
}

#[cfg(target_arch = "x86_64")]
fn emulate(address: u64, context: *mut c_void) -> bool {
    use super::decode::{Operand, decode};
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: with SA_SIGINFO the kernel passes the interrupted context, ours to change.
    let machine = unsafe { &mut (*context).uc_mcontext };
    let rip = machine.gregs[libc::REG_RIP as usize];
    let mut code = [0u8; 15];
    for (byte, at) in code.iter_mut().zip(rip as u64..) {
        if !crate::shm::user::copy(byte, at as *const u8, 1) {
            break;
        }
    }
    let Some(found) = decode(&code) else {
        return false;
    };
    let mut value = [0u8; 16];
    match found.operand {
        Operand::Immediate(imm) => value[..8].copy_from_slice(&imm.to_le_bytes()),
        Operand::Register(r) | Operand::Exchange(r) => {
            value[..8].copy_from_slice(&machine.gregs[general(r)].to_le_bytes());
        }
        Operand::Vector { register, from } => {
            if machine.fpregs.is_null() {
                return false;
            }
            // SAFETY: not null, and valid as long as the handler runs.
            let xmm = unsafe { (*machine.fpregs)._xmm };
            let Some(xmm) = xmm.get(usize::from(register)) else {
                return false;
            };
            let words = xmm.element.iter().flat_map(|w| w.to_le_bytes()).skip(from);
            value
                .iter_mut()
                .zip(words)
                .for_each(|(to, byte)| *to = byte);
        }
    }
    if !super::store(address, value.get(..found.width).unwrap_or(&[])) {
        return false;
    }
    if let Operand::Exchange(r) = found.operand {
        // Registers read as zero.
        machine.gregs[general(r)] = 0;
    }
    machine.gregs[libc::REG_RIP as usize] = rip + found.len as i64;
    true
}

/// Stores are decoded on x86-64 only; elsewhere programs need the paravirtual doorbell.
#[cfg(not(target_arch = "x86_64"))]
fn emulate(address: u64, _context: *mut c_void) -> bool {
    super::store(address, &[])
}

/// Index of a general register by its number in instructions.
#[cfg(target_arch = "x86_64")]
fn general(number: u8) -> usize {
    use libc::*;
    const ORDER: [c_int; 16] = [
        REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI, REG_R8, REG_R9,
        REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15,
    ];
    ORDER[usize::from(number % 16)] as usize
}

/// What would have happened without us.
fn chain(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: null or leaked by `install`.
    let before = unsafe { BEFORE.load(Acquire).as_ref() };
    match before.map(|b| b.sa_sigaction) {
        None | Some(libc::SIG_DFL | libc::SIG_IGN) => {
            // The instruction faults again when the handler returns, and then the default happens.
            // SAFETY: all zeroes is SIG_DFL.
            let default: sigaction = unsafe { std::mem::zeroed() };
            let _ = exchange_action(signal, &default);
        }
        Some(address) => {
            // SAFETY: somebody gave this address to sigaction(2); the kernel passes three arguments on this architecture with
            // and without SA_SIGINFO.
            let host: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) =
                unsafe { std::mem::transmute(address) };
            host(signal, info, context);
        }
    }
}
