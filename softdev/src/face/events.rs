//! Async events of one open verbs device: who is told, and how many were told.
//!
//! Kept apart from the object table, under a lock of its own that is never held across a call into the NIC, since the NIC
//! raises events from its own thread while a command may be waiting for that thread.

use super::channel::{Channel, async_event};
use gaudi_softnic::{EventSink, NicContext, NicEvent};
use kernel_abi::gaudi2::syndrome;
use kernel_abi::verbs::event;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

/// Whom an event of an object goes to.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) handle: u32,
    pub(crate) user_handle: u64,
}

/// A native object: its kind, port and number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Native {
    Qp { port: u32, qpn: u32 },
    Cq { port: u32, cq: u32 },
}

#[derive(Default)]
struct Inner {
    /// The context's async files in order of creation; objects report to the first unless they name another.
    files: Vec<Weak<Channel>>,
    /// Objects that named an async file of their own.
    own_file: HashMap<u32, Weak<Channel>>,
    native: HashMap<Native, Target>,
    raised: HashMap<u32, u32>,
}

#[derive(Default)]
pub(crate) struct EventHub {
    inner: Mutex<Inner>,
    nic: OnceLock<Weak<NicContext>>,
}

impl EventHub {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn bind(&self, nic: &Arc<NicContext>) {
        let _ = self.nic.set(Arc::downgrade(nic));
    }

    pub(crate) fn add_file(&self, file: &Arc<Channel>) {
        let mut inner = self.lock();
        inner.files.retain(|file| file.strong_count() > 0);
        inner.files.push(Arc::downgrade(file));
    }

    pub(crate) fn set_own_file(&self, handle: u32, file: &Arc<Channel>) {
        self.lock().own_file.insert(handle, Arc::downgrade(file));
    }

    pub(crate) fn watch(&self, native: Native, handle: u32, user_handle: u64) {
        self.lock().native.insert(
            native,
            Target {
                handle,
                user_handle,
            },
        );
    }

    pub(crate) fn unwatch(&self, native: Native) {
        self.lock().native.remove(&native);
    }

    /// The object is gone: drops its unread events; returns how many others were reported.
    pub(crate) fn forget(&self, handle: u32, user_handle: u64) -> u32 {
        let mut inner = self.lock();
        inner.native.retain(|_, target| target.handle != handle);
        let file = inner.own_file.remove(&handle);
        let raised = inner.raised.remove(&handle).unwrap_or(0);
        if raised == 0 {
            return 0;
        }
        let file = file.or_else(|| inner.files.first().cloned());
        let dropped = file
            .and_then(|file| file.upgrade())
            .map_or(0, |file| file.purge(user_handle));
        raised.saturating_sub(dropped)
    }

    fn to_object(&self, native: Native, event_type: u32) {
        let mut inner = self.lock();
        let Some(target) = inner.native.get(&native).cloned() else {
            return;
        };
        let file = inner
            .own_file
            .get(&target.handle)
            .or_else(|| inner.files.first())
            .cloned();
        let Some(file) = file.and_then(|file| file.upgrade()) else {
            return;
        };
        match file.push_or_keep(&async_event(target.user_handle, event_type)) {
            Ok(()) => *inner.raised.entry(target.handle).or_default() += 1,
            Err(e) => log::warn!("async event {event_type} of {native:?} dropped: {e}"),
        }
    }

    /// Gives the files the events for which there was no room: whether some are left.
    pub(crate) fn refill(&self) -> bool {
        let (mut moved, mut left) = (false, false);
        for file in self.lock().files.iter().filter_map(Weak::upgrade) {
            let (m, l) = file.refill();
            moved |= m;
            left |= l;
        }
        if moved && let Some(nic) = self.nic.get().and_then(Weak::upgrade) {
            nic.kick_event_word();
        }
        left
    }

    /// Something happened to a port as a whole.
    pub(crate) fn port_event(&self, port: u32, event_type: u32) {
        self.to_all(u64::from(port), event_type);
        if let Some(nic) = self.nic.get().and_then(Weak::upgrade) {
            nic.kick_event_word();
        }
    }

    fn to_all(&self, element: u64, event_type: u32) {
        let inner = self.lock();
        for file in inner.files.iter().filter_map(Weak::upgrade) {
            if let Err(e) = file.push_or_keep(&async_event(element, event_type)) {
                log::warn!("async event {event_type} dropped: {e}");
            }
        }
    }
}

impl EventSink for EventHub {
    fn refill(&self) -> bool {
        EventHub::refill(self)
    }

    /// The posted driver's mapping of its events to those of the verbs.
    fn event(&self, ev: NicEvent) {
        let nic = self.nic.get().and_then(Weak::upgrade);
        match ev {
            NicEvent::CqErr { port, cq } => self.to_object(Native::Cq { port, cq }, event::CQ_ERR),
            NicEvent::QpErr {
                port,
                qpn,
                syndrome,
            } => {
                let requester = syndrome::is_req(syndrome);
                let event_type = if requester {
                    event::QP_REQ_ERR
                } else {
                    event::QP_FATAL
                };
                self.to_object(Native::Qp { port, qpn }, event_type);
            }
            NicEvent::DbFifoErr { port, hw_fifo } => {
                self.to_all(
                    u64::from(port & 0xffff | hw_fifo << 16),
                    event::DEVICE_FATAL,
                );
            }
            // The posted driver names the port by its 0-based core number; its users take it for the IB number.
            NicEvent::PortState { port, up } => {
                let event_type = if up {
                    event::PORT_ACTIVE
                } else {
                    event::PORT_ERR
                };
                self.to_all(u64::from(port), event_type);
            }
            NicEvent::DeviceFatal => {
                let asid = nic.as_ref().map_or(1, |nic| nic.asid());
                self.to_all(u64::from(0xffff | asid << 16), event::DEVICE_FATAL);
            }
        }
        // Whoever waits on the context's event word looks at the async file as well.
        if let Some(nic) = nic {
            nic.kick_event_word();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::channel::ChannelKind;
    use super::*;

    fn read(fd: &std::os::fd::OwnedFd) -> (u64, u32) {
        let mut buffer = [0u8; 32];
        assert_eq!(rustix::io::read(fd, &mut buffer).unwrap(), 16);
        let word = |at: usize| u64::from_ne_bytes(buffer[at..at + 8].try_into().unwrap());
        (word(0), word(8) as u32)
    }

    #[test]
    fn events_find_their_object() {
        let hub = EventHub::default();
        let (file, fd) = Channel::create(ChannelKind::Async, (0, 0)).unwrap();
        let file = Arc::new(file);
        hub.add_file(&file);
        hub.watch(Native::Qp { port: 1, qpn: 5 }, 3, 0x1234);
        hub.event(NicEvent::QpErr {
            port: 1,
            qpn: 5,
            syndrome: 0x40,
        });
        hub.event(NicEvent::QpErr {
            port: 1,
            qpn: 6,
            syndrome: 0x40,
        });
        hub.event(NicEvent::QpErr {
            port: 1,
            qpn: 5,
            syndrome: 0x48,
        });
        hub.event(NicEvent::DbFifoErr {
            port: 2,
            hw_fifo: 3,
        });
        assert_eq!(read(&fd), (0x1234, event::QP_FATAL));
        // One was read, the other is dropped with the QP; the device's event stays.
        assert_eq!(hub.forget(3, 0x1234), 1);
        assert_eq!(read(&fd), (0x3_0002, event::DEVICE_FATAL));
        hub.event(NicEvent::QpErr {
            port: 1,
            qpn: 5,
            syndrome: 0x40,
        });
        assert_eq!(file.purge(0x1234), 0);
    }
}
