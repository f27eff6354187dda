//! One copy from the program's memory to where it belongs.

use super::Remote;
use crate::nic::mmu::{DRAM, Place};
use crate::nic::rdma_layout::ARENA;
use crate::shm::remote_mem::RemoteError;
use crate::shm::{Mapping, user};

/// Why a copy did not happen, or not wholly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Local,
    Remote,
    /// The peer's address space is gone.
    Dead,
    Denied,
}

/// The address of a place in a context of this process.
#[inline(always)]
pub(crate) fn local_address(
    place: Place,
    map: &Mapping,
    accel: &Mapping,
    len: u64,
) -> Option<*mut u8> {
    match place {
        Place::Host(address) => Some(address as *mut u8),
        Place::Rdma(off) => map.ptr(off, len),
        Place::Dram(off) => accel.ptr(off, len),
    }
}

/// Moves `len` readable-or-not bytes to a place that the peer's MMU named. Ascending, the last 8 bytes last.
#[inline(always)]
pub(crate) fn deliver(
    remote: &Remote,
    to: Place,
    src: *const u8,
    len: usize,
) -> Result<(), Failure> {
    let dst = match to {
        Place::Rdma(off) => {
            let end = off.checked_add(len as u64).ok_or(Failure::Remote)?;
            if off < ARENA || end > ARENA + remote.layout.usable {
                return Err(Failure::Remote);
            }
            remote.map.ptr(off, len as u64).ok_or(Failure::Remote)?
        }
        Place::Dram(off) => {
            let end = off.checked_add(len as u64).ok_or(Failure::Remote)?;
            if off < DRAM || end > remote.dram_end {
                return Err(Failure::Remote);
            }
            remote.accel.ptr(off, len as u64).ok_or(Failure::Remote)?
        }
        Place::Host(address) if remote.link.is_self => address as *mut u8,
        Place::Host(address) => return elsewhere(remote, address, src, len),
    };
    if user::copy(dst, src, len) {
        return Ok(());
    }
    Err(if user::readable(src, len) {
        Failure::Remote
    } else {
        Failure::Local
    })
}

#[inline(never)]
fn elsewhere(remote: &Remote, address: u64, src: *const u8, len: usize) -> Result<(), Failure> {
    let mem = remote.link.mem().map_err(|_| Failure::Denied)?;
    mem.write(address, src, len).map_err(|e| match e {
        RemoteError::Local => Failure::Local,
        RemoteError::Remote => Failure::Remote,
        RemoteError::Dead => Failure::Dead,
        RemoteError::Denied => Failure::Denied,
    })
}
