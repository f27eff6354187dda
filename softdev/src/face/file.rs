//! One open verbs device: the uverbs core that all dialects end in.

use super::channel::{Channel, ChannelKind};
use super::driver::{CqInit, Driver, MrInit, QpInit, SrqInit, SrqMade, Udata, gid_entry};
use super::events::EventHub;
use super::objects::{EINVAL, Kind, Missing, Objects};
use super::registry;
use crate::tree::gid_table;
use gaudi_softnic::{Errno, Result};
use kernel_abi::cmd::{AhAttr, ModifyQpReq, QpDest, ReregMrReq};
use kernel_abi::uverbs::{GidEntry, QpCap};
use kernel_abi::verbs::{access, qp_attr, qps, rereg};
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(crate) type Inode = (u64, u64);

pub(crate) struct VerbsFile {
    state: Mutex<FileState>,
}

impl VerbsFile {
    pub(crate) fn new(inode: Inode, driver: Box<dyn Driver>, hub: Arc<EventHub>) -> VerbsFile {
        let state = FileState {
            inode,
            context: false,
            closed: false,
            objects: Objects::default(),
            driver,
            hub,
        };
        VerbsFile {
            state: Mutex::new(state),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, FileState> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever reads many events asks about each of them, which makes room for more.
        state.hub.refill();
        state
    }

    /// The last descriptor is gone.
    pub(crate) fn close(&self) {
        self.lock().close();
    }

    /// The process ends; not while a request is under way.
    pub(crate) fn try_close(&self) {
        if let Ok(mut state) = self.state.try_lock() {
            state.close();
        }
    }

    pub(crate) fn object_count(&self) -> usize {
        self.lock().objects.count()
    }
}

pub(crate) struct FileState {
    inode: Inode,
    context: bool,
    closed: bool,
    pub(crate) objects: Objects,
    pub(crate) driver: Box<dyn Driver>,
    hub: Arc<EventHub>,
}

/// A descriptor that a request is about to hand to the program.
pub(crate) struct NewFd {
    channel: Arc<Channel>,
    fd: OwnedFd,
}

impl NewFd {
    pub(crate) fn number(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// The answer has reached the program: from now on the number is its own.
    pub(crate) fn commit(self) {
        registry::add_channel(self.channel, self.fd.into_raw_fd());
    }
}

/// Counts that a destroy reports, so that the library knows how many events it has to see acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reported {
    pub(crate) completion: u32,
    pub(crate) asynchronous: u32,
}

/// Everything of an AH attribute that the core checks for RoCE.
fn check_path(driver: &dyn Driver, port: u8, is_global: u8, sgid_index: u8) -> Result<()> {
    let port = u32::from(port);
    if !(1..=driver.ports()).contains(&port)
        || is_global == 0
        || u32::from(sgid_index) >= gid_table()
    {
        return Err(Errno::EINVAL);
    }
    gid_entry(driver.ports(), driver.device(), port, sgid_index.into())
        .map(|_| ())
        .ok_or(Errno::EINVAL)
}

impl FileState {
    /// Every request but GET_CONTEXT needs the context.
    pub(crate) fn need_context(&self) -> Result<()> {
        match (self.closed, self.context) {
            (true, _) => Err(Errno::EIO),
            (_, false) => Err(Errno::EINVAL),
            _ => Ok(()),
        }
    }

    pub(crate) fn get_context(&mut self, udata: &Udata) -> Result<()> {
        if self.closed {
            return Err(Errno::EIO);
        }
        if self.context {
            return Err(Errno::EINVAL);
        }
        self.driver.alloc_ucontext(udata)?;
        self.context = true;
        Ok(())
    }

    pub(crate) fn new_fd(&self, kind: ChannelKind) -> Result<NewFd> {
        let (channel, fd) = Channel::create(kind, self.inode)?;
        let channel = Arc::new(channel);
        if kind == ChannelKind::Async {
            self.hub.add_file(&channel);
        }
        Ok(NewFd { channel, fd })
    }

    /// A channel of this device by the program's descriptor.
    pub(crate) fn channel(&self, fd: i32, kind: ChannelKind) -> Result<Arc<Channel>> {
        registry::channel(fd)
            .filter(|c| c.kind() == kind && c.owner() == self.inode)
            .ok_or(Errno::EBADF)
    }

    fn create<R>(
        &mut self,
        kind: Kind,
        user_handle: u64,
        holds: Vec<u32>,
        channel: Option<Arc<Channel>>,
        make: impl FnOnce(&mut dyn Driver, u32) -> Result<R>,
    ) -> Result<(u32, R)> {
        let handle = self.objects.insert(kind, user_handle, holds, channel)?;
        match make(&mut *self.driver, handle) {
            Ok(made) => Ok((handle, made)),
            Err(e) => {
                self.objects.remove(handle);
                Err(e)
            }
        }
    }

    /// The program could not be told of a new object.
    pub(crate) fn undo(&mut self, kind: Kind, handle: u32) {
        if let Err(e) = self.destroy(kind, handle, EINVAL) {
            log::warn!("{kind:?} {handle} stays: {e}");
        }
    }

    pub(crate) fn destroy(
        &mut self,
        kind: Kind,
        handle: u32,
        missing: Missing,
    ) -> Result<Reported> {
        self.objects.check_destroy(kind, handle, missing)?;
        self.driver.destroy(kind, handle)?;
        let Some(object) = self.objects.remove(handle) else {
            return Err(Errno::EINVAL);
        };
        let asynchronous = self.hub.forget(handle, object.user_handle);
        if let (Kind::Cq, Some(channel)) = (kind, &object.channel) {
            // Events are raised by the provider, which counts them itself; unread ones must still not outlive the CQ.
            channel.purge(object.user_handle);
        }
        Ok(Reported {
            completion: 0,
            asynchronous,
        })
    }

    pub(crate) fn alloc_pd(&mut self, udata: &Udata) -> Result<u32> {
        Ok(self
            .create(Kind::Pd, 0, vec![], None, |driver, handle| {
                driver.alloc_pd(handle, udata)
            })?
            .0)
    }

    pub(crate) fn create_cq(
        &mut self,
        init: &CqInit,
        comp_vector: u32,
        channel: Option<i32>,
        event_file: Option<i32>,
        udata: &Udata,
    ) -> Result<(u32, u32)> {
        if comp_vector >= self.driver.comp_vectors() {
            return Err(Errno::EINVAL);
        }
        let channel = channel
            .map(|fd| self.channel(fd, ChannelKind::Completion))
            .transpose()?;
        let event_file = event_file
            .map(|fd| self.channel(fd, ChannelKind::Async))
            .transpose()?;
        let made = self.create(
            Kind::Cq,
            init.user_handle,
            vec![],
            channel,
            |driver, handle| driver.create_cq(handle, init, udata),
        )?;
        self.own_file(made.0, event_file);
        Ok(made)
    }

    fn own_file(&self, handle: u32, file: Option<Arc<Channel>>) {
        if let Some(file) = file {
            self.hub.set_own_file(handle, &file);
        }
    }

    pub(crate) fn create_qp(
        &mut self,
        init: &QpInit,
        pd: u32,
        event_file: Option<i32>,
        missing: Missing,
        udata: &Udata,
    ) -> Result<(u32, (u32, QpCap))> {
        self.objects.get(Kind::Pd, pd, missing)?;
        let mut holds = vec![pd];
        for cq in [init.send_cq, init.recv_cq].into_iter().flatten() {
            self.objects.get(Kind::Cq, cq, missing)?;
            holds.push(cq);
        }
        if let Some(srq) = init.srq {
            self.objects.get(Kind::Srq, srq, missing)?;
            holds.push(srq);
        }
        let event_file = event_file
            .map(|fd| self.channel(fd, ChannelKind::Async))
            .transpose()?;
        let made = self.create(Kind::Qp, init.user_handle, holds, None, |driver, handle| {
            driver.create_qp(handle, init, udata)
        })?;
        self.own_file(made.0, event_file);
        Ok(made)
    }

    pub(crate) fn modify_qp(
        &mut self,
        request: &ModifyQpReq,
        allowed: u32,
        udata: &Udata,
    ) -> Result<()> {
        if request.attr_mask & !allowed != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        self.objects.get(Kind::Qp, request.qp_handle, EINVAL)?;
        let has = |bit: u32| request.attr_mask & bit != 0;
        let valid_state = |state: u8| u32::from(state) <= qps::ERR;
        if has(qp_attr::STATE) && !valid_state(request.qp_state)
            || has(qp_attr::CUR_STATE) && !valid_state(request.cur_qp_state)
            || has(qp_attr::PORT)
                && !(1..=self.driver.ports()).contains(&u32::from(request.port_num))
        {
            return Err(Errno::EINVAL);
        }
        let path = |dest: &QpDest| {
            let by_lid = dest.is_global == 0 && dest.dlid != 0 && self.driver.has_lids();
            if by_lid && (1..=self.driver.ports()).contains(&u32::from(dest.port_num)) {
                return Ok(());
            }
            check_path(
                &*self.driver,
                dest.port_num,
                dest.is_global,
                dest.sgid_index,
            )
        };
        if has(qp_attr::AV) {
            path(&request.dest)?;
        }
        if has(qp_attr::ALT_PATH) {
            path(&request.alt_dest)?;
        }
        self.driver.modify_qp(request.qp_handle, request, udata)
    }

    pub(crate) fn create_srq(
        &mut self,
        init: &SrqInit,
        pd: u32,
        user_handle: u64,
        event_file: Option<i32>,
        missing: Missing,
        udata: &Udata,
    ) -> Result<(u32, SrqMade)> {
        self.objects.get(Kind::Pd, pd, missing)?;
        let event_file = event_file
            .map(|fd| self.channel(fd, ChannelKind::Async))
            .transpose()?;
        let made = self.create(Kind::Srq, user_handle, vec![pd], None, |driver, handle| {
            driver.create_srq(handle, init, udata)
        })?;
        self.own_file(made.0, event_file);
        Ok(made)
    }

    pub(crate) fn create_ah(
        &mut self,
        pd: u32,
        user_handle: u64,
        attr: &AhAttr,
        udata: &Udata,
    ) -> Result<u32> {
        self.objects.get(Kind::Pd, pd, EINVAL)?;
        check_path(
            &*self.driver,
            attr.port_num,
            attr.is_global,
            attr.sgid_index,
        )?;
        let made = self.create(Kind::Ah, user_handle, vec![pd], None, |driver, handle| {
            driver.create_ah(handle, attr, udata)
        })?;
        Ok(made.0)
    }

    pub(crate) fn reg_mr(&mut self, pd: u32, init: &MrInit) -> Result<(u32, (u32, u32))> {
        check_mr(init)?;
        self.objects.get(Kind::Pd, pd, EINVAL)?;
        self.create(Kind::Mr, 0, vec![pd], None, |driver, handle| {
            driver.reg_mr(handle, init)
        })
    }

    pub(crate) fn rereg_mr(&mut self, request: &ReregMrReq) -> Result<(u32, u32)> {
        if request.flags == 0 || request.flags & !rereg::SUPPORTED != 0 {
            return Err(Errno::EINVAL);
        }
        let init = MrInit {
            start: request.start,
            length: request.length,
            hca_va: request.hca_va,
            access: request.access_flags,
        };
        if request.flags & rereg::TRANSLATION != 0 && init.start & 4095 != init.hca_va & 4095 {
            return Err(Errno::EINVAL);
        }
        if request.flags & rereg::ACCESS != 0 {
            check_access(init.access)?;
        }
        self.objects.get(Kind::Mr, request.mr_handle, EINVAL)?;
        let new_pd = (request.flags & rereg::PD != 0).then_some(request.pd_handle);
        if let Some(pd) = new_pd {
            self.objects.get(Kind::Pd, pd, EINVAL)?;
        }
        let keys = self
            .driver
            .rereg_mr(request.mr_handle, request.flags, &init)?;
        if let Some(pd) = new_pd {
            self.objects.rehold(request.mr_handle, Kind::Pd, pd);
        }
        Ok(keys)
    }

    pub(crate) fn alloc_mw(&mut self, pd: u32, mw_type: u8) -> Result<(u32, u32)> {
        self.objects.get(Kind::Pd, pd, EINVAL)?;
        self.create(Kind::Mw, 0, vec![pd], None, |driver, handle| {
            driver.alloc_mw(handle, mw_type)
        })
    }

    pub(crate) fn create_driver_object<R>(
        &mut self,
        kind: Kind,
        make: impl FnOnce(&mut dyn Driver, u32) -> Result<R>,
    ) -> Result<(u32, R)> {
        self.create(kind, 0, vec![], None, make)
    }

    /// A GID by port and index: EINVAL outside the table, ENODATA for an empty slot.
    pub(crate) fn gid(&self, port: u32, index: u32) -> Result<GidEntry> {
        let ports = self.driver.ports();
        if !(1..=ports).contains(&port) || index >= gid_table() {
            return Err(Errno::EINVAL);
        }
        gid_entry(ports, self.driver.device(), port, index).ok_or(Errno(libc::ENODATA))
    }

    pub(crate) fn gids(&self) -> Vec<GidEntry> {
        let (device, ports) = (self.driver.device(), self.driver.ports());
        (1..=ports)
            .flat_map(|port| {
                (0..gid_table()).filter_map(move |index| gid_entry(ports, device, port, index))
            })
            .collect()
    }

    fn close(&mut self) {
        if self.closed {
            return;
        }
        self.closed = true;
        let in_use = self.objects.count() != 0;
        for (handle, kind) in self.objects.teardown_order() {
            if let Err(e) = self.driver.destroy(kind, handle) {
                log::warn!("{kind:?} {handle} at close: {e}");
            }
            if let Some(object) = self.objects.remove(handle) {
                self.hub.forget(handle, object.user_handle);
            }
        }
        self.driver.close(in_use);
    }
}

fn check_mr(init: &MrInit) -> Result<()> {
    if init.start & 4095 != init.hca_va & 4095 || init.start.checked_add(init.length).is_none() {
        return Err(Errno::EINVAL);
    }
    check_access(init.access)
}

/// Remote writers need a region that can be written at all (IBTA Vol. 1, 10.6.3.1).
fn check_access(flags: u32) -> Result<()> {
    let known = access::OPTIONAL_RANGE | (access::FLUSH_PERSISTENT * 2 - 1);
    let remote = access::REMOTE_WRITE | access::REMOTE_ATOMIC;
    if flags & !known != 0 || flags & remote != 0 && flags & access::LOCAL_WRITE == 0 {
        return Err(Errno::EINVAL);
    }
    Ok(())
}
