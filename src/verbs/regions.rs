//! Memory regions beyond plain ones: on demand, null, of a dma-buf, of device memory; re-registration and advice.

use super::engine::{Engine, limits};
use super::mr::{Kind, Mr, Piece, check_access};
use super::qp::Env;
use super::types::{Errno, MrInfo, Result, Sge};
use crate::native::{DeviceMemory, Nic, Window, kernel, user};
use kernel_abi::verbs::{access, rereg};

const PAGE: u64 = 4096;
/// Pieces of one implicit registration.
const MAX_PIECES: usize = 4096;
/// Longest SGE into a null MR: the longest message.
const NULL_BYTES: u64 = 1 << 30;
/// Device memory of a context, by ibv_alloc_dm(3).
pub const MAX_DM: u64 = 16 << 20;

/// Advice of ibv_advise_mr(3).
mod advice {
    pub(super) const PREFETCH: u32 = 0;
    pub(super) const PREFETCH_WRITE: u32 = 1;
    pub(super) const PREFETCH_NO_FAULT: u32 = 2;
    /// Flag: the caller waits for the pages.
    pub(super) const FLUSH: u32 = 1;
}

/// The memory behind all null MRs of a context.
#[derive(Debug)]
pub struct NullMemory {
    zeros: Window,
    sink: Window,
    zeros_device: u64,
    sink_device: u64,
    users: u32,
}

/// Device memory.
#[derive(Debug)]
pub struct Dm {
    pub memory: DeviceMemory,
    pub users: u32,
}

/// What ibv_rereg_mr(3) changes.
#[derive(Clone, Copy, Debug)]
pub struct Rereg {
    pub flags: u32,
    pub pd: u32,
    pub addr: u64,
    pub len: u64,
    pub access: u32,
}

impl<N: Nic> Env<N> {
    /// Maps what a request names of an implicit registration. A range that cannot be mapped is refused when it is used.
    pub fn provide(&mut self, key: u32, addr: u64, len: u64) {
        if self.mrs.implicit == 0 || len == 0 {
            return;
        }
        let Some(end) = addr.checked_add(len) else {
            return;
        };
        let Ok(mr) = self.mrs.by_key(key) else { return };
        let Kind::Implicit(pieces) = &mr.kind else {
            return;
        };
        let there = pieces.iter().any(|p| p.start <= addr && end <= p.end);
        if there || mr.dying || pieces.len() >= MAX_PIECES {
            return;
        }
        let writable = mr.access & access::LOCAL_WRITE != 0;
        let index = mr.key >> 8;
        let (start, end) = (addr & !(PAGE - 1), end.next_multiple_of(PAGE));
        // Memory that is read-only now may serve as a source.
        let device = match self.nic.map(start, end - start, writable) {
            Err(_) if writable => self.nic.map(start, end - start, false),
            other => other,
        };
        if let Ok(device) = device
            && let Ok(mr) = self.mrs.get_mut(index)
            && let Kind::Implicit(pieces) = &mut mr.kind
        {
            pieces.push(Piece { start, end, device });
        }
    }

    pub fn provide_all(&mut self, sges: &[Sge]) {
        if self.mrs.implicit != 0 {
            for s in sges {
                self.provide(s.lkey, s.addr, u64::from(s.length));
            }
        }
    }
}

impl<N: Nic> Engine<N> {
    fn enter_region(
        &mut self,
        pd: u32,
        make: impl FnOnce(&mut Self, u32) -> Result<Mr>,
    ) -> Result<MrInfo> {
        self.use_pd(pd, true)?;
        let made = self.env.mrs.reserve(false).and_then(|key| {
            make(self, key).inspect_err(|_| {
                self.env.mrs.release(key >> 8);
            })
        });
        match made {
            Ok(mr) => {
                let key = mr.key;
                let handle = self.env.mrs.insert(Box::new(mr));
                Ok(MrInfo {
                    handle,
                    lkey: key,
                    rkey: key,
                })
            }
            Err(e) => {
                self.use_pd(pd, false)?;
                Err(e)
            }
        }
    }

    /// On-demand registration of the whole address space (`addr` NULL, `length` SIZE_MAX).
    pub(super) fn reg_implicit(&mut self, pd: u32, bits: u32) -> Result<MrInfo> {
        if !self.env.nic.features().no_pin {
            return Err(Errno::EOPNOTSUPP);
        }
        let made = self.enter_region(pd, |_, key| {
            Ok(Mr {
                len: u64::MAX,
                access: bits,
                ..blank(pd, key, Kind::Implicit(Vec::new()))
            })
        });
        if made.is_ok() {
            self.env.mrs.implicit += 1;
        }
        made
    }

    /// A mapped dma-buf.
    pub fn reg_dmabuf_mr(
        &mut self,
        pd: u32,
        fd: i32,
        offset: u64,
        len: u64,
        iova: u64,
        bits: u32,
    ) -> Result<MrInfo> {
        check_access(bits, false)?;
        if len == 0 || len > limits::MAX_MR_SIZE || iova.checked_add(len).is_none() {
            return Err(Errno::EINVAL);
        }
        let writable = bits & access::LOCAL_WRITE != 0;
        self.enter_region(pd, |e, key| {
            let start = offset & !(PAGE - 1);
            let bytes = (offset - start).checked_add(len).ok_or(Errno::EINVAL)?;
            let window = kernel::map_buffer(fd, start, bytes, writable)?;
            let addr = window.address() + (offset - start);
            let device = e
                .env
                .nic
                .map(addr, len, writable)
                .inspect_err(|_| kernel::unmap(window))?;
            Ok(Mr {
                addr,
                len,
                iova: if bits & access::ZERO_BASED != 0 {
                    0
                } else {
                    iova
                },
                access: bits,
                device,
                ..blank(pd, key, Kind::Dmabuf(window))
            })
        })
    }

    /// A null MR: its lkey reads zeros and swallows what is written (ibv_alloc_null_mr(3)).
    pub fn alloc_null_mr(&mut self, pd: u32) -> Result<MrInfo> {
        self.enter_region(pd, |e, key| {
            let null = e.take_null()?;
            let kind = Kind::Null {
                sink: null.sink.address(),
                sink_device: null.sink_device,
            };
            Ok(Mr {
                addr: null.zeros.address(),
                len: NULL_BYTES,
                access: access::LOCAL_WRITE,
                device: null.zeros_device,
                ..blank(pd, key, kind)
            })
        })
    }

    fn take_null(&mut self) -> Result<&NullMemory> {
        if self.null.is_none() {
            let (zeros, sink) = kernel::null_memory(NULL_BYTES)?;
            let give_back = || {
                kernel::unmap(zeros);
                kernel::unmap(sink);
            };
            let nic = &mut self.env.nic;
            let zeros_device = nic
                .map(zeros.address(), NULL_BYTES, false)
                .inspect_err(|_| give_back())?;
            let sink_device = match nic.map(sink.address(), NULL_BYTES, true) {
                Ok(d) => d,
                Err(e) => {
                    nic.unmap(zeros_device)?;
                    give_back();
                    return Err(e);
                }
            };
            self.null = Some(NullMemory {
                zeros,
                sink,
                zeros_device,
                sink_device,
                users: 0,
            });
        }
        let null = self.null.as_mut().ok_or(Errno::ENOMEM)?;
        null.users += 1;
        Ok(null)
    }

    fn drop_null(&mut self) -> Result<()> {
        let last = self.null.as_mut().is_some_and(|n| {
            n.users -= 1;
            n.users == 0
        });
        if last && let Some(n) = self.null.take() {
            let unmapped = self.env.nic.unmap(n.zeros_device);
            self.env.nic.unmap(n.sink_device)?;
            unmapped?;
            kernel::unmap(n.zeros);
            kernel::unmap(n.sink);
        }
        Ok(())
    }

    // Device memory.

    pub fn alloc_dm(&mut self, len: u64, log_align: u32) -> Result<(u32, DeviceMemory)> {
        let used: u64 = self.dms.iter().flatten().map(|d| d.memory.len).sum();
        if len == 0 || log_align > 21 {
            return Err(Errno::EINVAL);
        }
        if len > MAX_DM || used + len > MAX_DM {
            return Err(Errno::ENOMEM);
        }
        let memory = self.env.nic.dm_alloc(len, 1 << log_align)?;
        let i = match self.dms.iter().position(Option::is_none) {
            Some(i) => i,
            None => {
                self.dms.push(None);
                self.dms.len() - 1
            }
        };
        self.dms[i] = Some(Dm { memory, users: 0 });
        Ok((i as u32, memory))
    }

    pub fn free_dm(&mut self, dm: u32) -> Result<()> {
        let slot = self.dms.get_mut(dm as usize).ok_or(Errno::EINVAL)?;
        match slot.take() {
            Some(d) if d.users == 0 => self.env.nic.dm_free(d.memory),
            busy @ Some(_) => {
                *slot = busy;
                Err(Errno::EBUSY)
            }
            None => Err(Errno::EINVAL),
        }
    }

    /// A registration of device memory; its addresses count from `offset` (IBV_ACCESS_ZERO_BASED is demanded).
    pub fn reg_dm_mr(
        &mut self,
        pd: u32,
        dm: u32,
        offset: u64,
        len: u64,
        bits: u32,
    ) -> Result<MrInfo> {
        check_access(bits, false)?;
        if bits & access::ZERO_BASED == 0 {
            return Err(Errno::EINVAL);
        }
        let made = self.enter_region(pd, |e, key| {
            let slot = e.dms.get_mut(dm as usize).and_then(Option::as_mut);
            let d = slot.ok_or(Errno::EINVAL)?;
            if offset.checked_add(len).is_none_or(|end| end > d.memory.len) {
                return Err(Errno::EINVAL);
            }
            d.users += 1;
            Ok(Mr {
                addr: d.memory.window.address() + offset,
                len,
                access: bits,
                device: d.memory.device + offset,
                ..blank(pd, key, Kind::Device(dm))
            })
        })?;
        Ok(made)
    }

    /// Undoes what stood behind a key that is gone.
    pub(super) fn drop_region(&mut self, mr: Mr) -> Result<()> {
        match mr.kind {
            Kind::Plain => self.env.nic.unmap(mr.device),
            Kind::Dmabuf(window) => {
                self.env.nic.unmap(mr.device)?;
                kernel::unmap(window);
                Ok(())
            }
            Kind::Device(dm) => {
                if let Some(Some(d)) = self.dms.get_mut(dm as usize) {
                    d.users = d.users.saturating_sub(1);
                }
                Ok(())
            }
            Kind::Null { .. } => self.drop_null(),
            Kind::Implicit(pieces) => {
                self.env.mrs.implicit = self.env.mrs.implicit.saturating_sub(1);
                pieces.iter().try_for_each(|p| self.env.nic.unmap(p.device))
            }
            Kind::Window(_) => {
                self.env.mrs.count_window(false);
                Ok(())
            }
        }
    }

    // Re-registration: between these two, as with deregistration, nobody uses the key any more.

    pub fn rereg_begin(&mut self, handle: u32, r: &Rereg) -> Result<()> {
        if r.flags == 0 || r.flags & !rereg::SUPPORTED != 0 {
            return Err(Errno::EINVAL);
        }
        let mr = self.env.mrs.get(handle)?;
        let plain = matches!(mr.kind, Kind::Plain);
        let (mut bits, windows) = (mr.access, mr.windows);
        if r.flags & rereg::ACCESS != 0 {
            bits = r.access;
        }
        if !plain {
            return Err(Errno::EINVAL);
        }
        if windows != 0 {
            return Err(Errno::EBUSY);
        }
        check_access(bits, self.env.nic.features().no_pin)?;
        if r.flags & rereg::TRANSLATION != 0
            && (r.len == 0 || r.len > limits::MAX_MR_SIZE || r.addr.checked_add(r.len).is_none())
        {
            return Err(Errno::EINVAL);
        }
        if r.flags & rereg::PD != 0 {
            self.use_pd(r.pd, true)?;
            self.use_pd(r.pd, false)?;
        }
        self.dereg_begin(handle)
    }

    /// The keys stay. When the new memory cannot be had the registration is as before.
    pub fn rereg_finish(&mut self, handle: u32, r: &Rereg) -> Result<()> {
        let mr = self.env.mrs.get_mut(handle)?;
        mr.dying = false;
        mr.revoking = 0;
        let (old_pd, old_device) = (mr.pd, mr.device);
        let bits = if r.flags & rereg::ACCESS != 0 {
            r.access
        } else {
            mr.access
        };
        let (addr, len) = if r.flags & rereg::TRANSLATION != 0 {
            (r.addr, r.len)
        } else {
            (mr.addr, mr.len)
        };
        let writable = |b: u32| b & access::LOCAL_WRITE != 0;
        let remap = r.flags & rereg::TRANSLATION != 0 || (writable(bits) && !writable(mr.access));
        if r.flags & rereg::PD != 0 {
            self.use_pd(r.pd, true)?;
        }
        let device = if remap {
            match self.env.nic.map(addr, len, writable(bits)) {
                Ok(d) => d,
                Err(e) => {
                    if r.flags & rereg::PD != 0 {
                        self.use_pd(r.pd, false)?;
                    }
                    return Err(e);
                }
            }
        } else {
            old_device
        };
        let mr = self.env.mrs.get_mut(handle)?;
        if r.flags & rereg::TRANSLATION != 0 {
            (mr.addr, mr.len) = (addr, len);
            mr.iova = if bits & access::ZERO_BASED != 0 {
                0
            } else {
                addr
            };
        }
        mr.access = bits;
        mr.device = device;
        if r.flags & rereg::PD != 0 {
            mr.pd = r.pd;
            self.use_pd(old_pd, false)?;
        }
        if remap {
            self.env.nic.unmap(old_device)?;
        }
        Ok(())
    }

    /// Advice about on-demand memory (ibv_advise_mr(3)): the ranges, in the program's addresses, whose pages are to be touched, and whether for
    /// writing.
    pub fn advise_mr(
        &mut self,
        pd: u32,
        what: u32,
        flags: u32,
        sges: &[Sge],
    ) -> Result<(Vec<(u64, u64)>, bool)> {
        if flags & !advice::FLUSH != 0 {
            return Err(Errno::EINVAL);
        }
        if !matches!(
            what,
            advice::PREFETCH | advice::PREFETCH_WRITE | advice::PREFETCH_NO_FAULT
        ) {
            return Err(Errno::EOPNOTSUPP);
        }
        let write = what == advice::PREFETCH_WRITE;
        let mut ranges = Vec::with_capacity(sges.len());
        for s in sges {
            self.env.provide(s.lkey, s.addr, u64::from(s.length));
            let mr = self.env.mrs.by_key(s.lkey).map_err(|_| Errno::ENOENT)?;
            if mr.pd != pd || mr.access & access::ON_DEMAND == 0 {
                return Err(if mr.pd != pd {
                    Errno::ENOENT
                } else {
                    Errno::EINVAL
                });
            }
            if write && mr.access & access::LOCAL_WRITE == 0 {
                return Err(Errno::EPERM);
            }
            if s.length == 0 {
                continue;
            }
            let place = mr
                .place(pd, s.addr, u64::from(s.length), 0)
                .map_err(|_| Errno::EFAULT)?;
            if what != advice::PREFETCH_NO_FAULT {
                ranges.push((place.host, u64::from(s.length)));
            }
        }
        Ok((ranges, write))
    }
}

/// Touches the pages of a range. EFAULT when one is not there.
pub fn touch(addr: u64, len: u64, write: bool) -> Result<()> {
    let mut at = addr;
    while at < addr + len {
        if !kernel::probe(at, 1, write) {
            return Err(Errno::EFAULT);
        }
        at = (at & !(PAGE - 1)) + PAGE;
    }
    Ok(())
}

/// Copies between program memory and device memory, in units of four bytes as GAUDI's memory wants them.
pub fn dm_copy(dm: &DeviceMemory, offset: u64, addr: u64, len: u64, to_device: bool) -> Result<()> {
    let inside = offset.checked_add(len).is_some_and(|end| end <= dm.len);
    if !inside || !offset.is_multiple_of(4) || !len.is_multiple_of(4) {
        return Err(Errno::EINVAL);
    }
    let at = dm.window.address() + offset;
    let (dst, src) = if to_device { (at, addr) } else { (addr, at) };
    user::copy(dst, src, len as usize).map_err(|_| Errno::EFAULT)
}

fn blank(pd: u32, key: u32, kind: Kind) -> Mr {
    Mr {
        kind,
        windows: 0,
        pd,
        addr: 0,
        len: 0,
        iova: 0,
        access: 0,
        key,
        device: 0,
        dying: false,
        resolvers: Vec::new(),
        revoking: 0,
    }
}
