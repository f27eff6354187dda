//! A scripted device for protocol tests: several contexts in one process share a fabric; WRITEs happen at the doorbell, or one by
//! one when the test says so.

pub mod digest;
mod memory;
mod schedule;

use std::collections::{BTreeMap, VecDeque};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard};

use super::{
    Completion, Connect, Features, MAILBOX_BASE, MAILBOX_STRIDE, NativeEvent, NativeQp, Nic,
    PortAddress, RING_ENTRIES, Raised, Window, Write, kernel, mailbox_address, user,
};
use crate::verbs::types::{Errno, Result};

/// Device, port and native id of a QP.
pub type Key = (u8, u8, u32);

#[derive(Debug, Default)]
struct SimQp {
    connected: bool,
    cookie: u64,
    to: Option<Key>,
    win: Option<Window>,
    keys: (u32, u32),
    queue: VecDeque<(Write, u32)>,
    /// Bytes of the oldest WRITE that have arrived before the others.
    torn: usize,
    failed: bool,
}

#[derive(Default)]
pub struct Inner {
    qps: BTreeMap<Key, SimQp>,
    requester: BTreeMap<u8, VecDeque<Completion>>,
    responder: BTreeMap<u8, VecDeque<Completion>>,
    events: BTreeMap<u8, VecDeque<NativeEvent>>,
    dead: Vec<u8>,
    /// WRITEs wait for `step`.
    pub delayed: bool,
    pub now: u64,
    pub raised: Vec<(i32, u64)>,
    pub channels_full: bool,
    /// The program has closed them.
    pub channels_gone: bool,
    pub mapped: i64,
    pub writes: u64,
    pub notifications: u64,
    /// Completions wait for `tell`, by the device and QP that they are for.
    pub held: Option<BTreeMap<(Key, bool), VecDeque<Completion>>>,
    mailboxes: Vec<Window>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        memory::give_back(&mut self.mailboxes);
    }
}

#[derive(Clone, Default)]
pub struct Fabric(Arc<Mutex<Inner>>);

impl Fabric {
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    pub fn nic(&self, device: u8) -> SimNic {
        SimNic {
            fabric: self.clone(),
            device,
            next: 1,
            unsent: BTreeMap::new(),
            nonce: u64::from(device) << 50,
        }
    }

    /// Executes the oldest WRITE of the `pick`-th QP that has one (modulo their number). False when there is none.
    pub fn step(&self, pick: usize) -> bool {
        let mut f = self.lock();
        let mut busy: Vec<Key> = f
            .qps
            .iter()
            .filter(|(_, q)| !q.queue.is_empty())
            .map(|(k, _)| *k)
            .collect();
        busy.sort_unstable();
        if busy.is_empty() {
            return false;
        }
        // A WRITE to a peer that is not ready stays where it is.
        (0..busy.len()).any(|k| f.execute(busy[(pick + k) % busy.len()]))
    }

    /// The native connections of `device` that have something to say give up.
    pub fn fail(&self, device: u8) {
        let mut f = self.lock();
        let mut hit = Vec::new();
        for (k, q) in &mut f.qps {
            if k.0 == device && q.connected && !q.queue.is_empty() {
                q.failed = true;
                hit.push((*k, q.cookie));
            }
        }
        for (k, cookie) in hit {
            let event = NativeEvent::QpError {
                cookie,
                syndrome: 0x40,
            };
            f.events.entry(k.0).or_default().push_back(event);
        }
    }

    /// The process behind `device` dies: everybody connected to it hears of it.
    pub fn kill(&self, device: u8) {
        let mut f = self.lock();
        f.dead.push(device);
        let hit: Vec<(Key, u64)> = f
            .qps
            .iter()
            .filter(|(k, q)| k.0 != device && q.connected && q.to.is_some_and(|t| t.0 == device))
            .map(|(k, q)| (*k, q.cookie))
            .collect();
        f.qps.retain(|k, _| k.0 != device);
        for (k, cookie) in hit {
            f.events
                .entry(k.0)
                .or_default()
                .push_back(NativeEvent::QpError {
                    cookie,
                    syndrome: kernel_abi::ext::PEER_DIED,
                });
        }
    }
}

impl Inner {
    fn translate(&self, device: u8, addr: u64) -> Option<u64> {
        if addr < MAILBOX_BASE {
            return Some(addr);
        }
        let index = (addr - MAILBOX_BASE) / MAILBOX_STRIDE;
        let (port, id) = ((index / 8192 + 1) as u8, (index % 8192) as u32);
        let q = self.qps.get(&(device, port, id))?;
        let off = (addr - MAILBOX_BASE) % MAILBOX_STRIDE;
        q.win
            .filter(|w| off < w.len() as u64)
            .map(|w| w.address() + off)
    }

    fn execute(&mut self, k: Key) -> bool {
        let Some(q) = self.qps.get(&k) else {
            return false;
        };
        let (Some((w, slot)), Some(to)) = (q.queue.front().copied(), q.to) else {
            return false;
        };
        if !self.is_ready(k) {
            return false;
        }
        let (Some(src), Some(dst)) = (self.translate(k.0, w.local), self.translate(to.0, w.remote))
        else {
            panic!("untranslatable WRITE {w:x?}");
        };
        user::copy(dst, src, w.len as usize).expect("sim copy");
        self.writes += 1;
        if w.notify_remote {
            self.notifications += 1;
            self.complete(to, true, slot, w.tag);
        }
        if w.notify_local {
            self.complete(k, false, slot, 0);
        }
        if let Some(q) = self.qps.get_mut(&k) {
            q.queue.pop_front();
            q.torn = 0;
        }
        true
    }

    /// The peer takes what `k` writes.
    fn is_ready(&self, k: Key) -> bool {
        self.qps.get(&k).is_some_and(|q| {
            let peer = q.to.and_then(|to| self.qps.get(&to));
            !q.failed
                && peer.is_some_and(|p| p.connected && p.to == Some(k) && p.keys.0 == q.keys.1)
        })
    }

    fn complete(&mut self, to: Key, responder: bool, slot: u32, tag: u32) {
        let c = Completion {
            port: to.1,
            id: to.2,
            slot,
            tag,
        };
        let list = match (&mut self.held, responder) {
            (Some(held), _) => held.entry((to, responder)).or_default(),
            (None, true) => self.responder.entry(to.0).or_default(),
            (None, false) => self.requester.entry(to.0).or_default(),
        };
        list.push_back(c);
    }
}

pub struct SimNic {
    fabric: Fabric,
    device: u8,
    next: u32,
    unsent: BTreeMap<u32, Vec<(Write, u32)>>,
    nonce: u64,
}

impl Nic for SimNic {
    fn features(&self) -> Features {
        Features {
            stop_sync: true,
            cq_notify: true,
            raise: true,
            no_pin: true,
            device_memory: true,
            lid_path: false,
            port_ipv4: true,
            frames: false,
        }
    }

    fn now(&self) -> u64 {
        self.fabric.lock().now
    }

    fn random(&mut self) -> u64 {
        self.nonce += 0x1234_5678_9abc;
        self.nonce
    }

    fn qp_create(&mut self, port: u8, cookie: u64) -> Result<NativeQp> {
        let id = self.next;
        self.next += 1;
        self.fabric.lock().qps.insert(
            (self.device, port, id),
            SimQp {
                cookie,
                ..SimQp::default()
            },
        );
        let mut q = NativeQp::new(id, port, id, 0, kernel::no_window());
        q.ready = true;
        q.cookie = cookie;
        Ok(q)
    }

    fn qp_init(&mut self, qp: &mut NativeQp, port: u8) -> Result<()> {
        let mut f = self.fabric.lock();
        f.qps.remove(&(self.device, qp.port, qp.id));
        qp.port = port;
        f.qps.insert(
            (self.device, port, qp.id),
            SimQp {
                cookie: qp.cookie,
                ..SimQp::default()
            },
        );
        Ok(())
    }

    fn qp_connect(&mut self, qp: &mut NativeQp, to: &Connect) -> Result<Window> {
        let mut f = self.fabric.lock();
        let win = memory::mailbox();
        f.mailboxes.push(win);
        let q = f
            .qps
            .get_mut(&(self.device, qp.port, qp.id))
            .ok_or(Errno::EINVAL)?;
        q.connected = true;
        q.win = Some(win);
        q.to = Some((to.dgid.unwrap_or_default()[15], 1, to.dest_id));
        q.keys = (to.local_key, to.remote_key);
        (qp.pi, qp.ci, qp.notified, qp.rung) = (0, 0, 0, 0);
        qp.connected = true;
        debug_assert_ne!(mailbox_address(qp.port, qp.id), 0);
        Ok(win)
    }

    fn qp_stop(&mut self, qp: &mut NativeQp) -> Result<()> {
        qp.connected = false;
        let mut f = self.fabric.lock();
        let cookie = qp.cookie;
        f.qps.insert(
            (self.device, qp.port, qp.id),
            SimQp {
                cookie,
                ..SimQp::default()
            },
        );
        Ok(())
    }

    fn qp_destroy(&mut self, qp: NativeQp) -> Result<()> {
        self.fabric
            .lock()
            .qps
            .remove(&(self.device, qp.port, qp.id));
        Ok(())
    }

    fn addresses(&self, port: u8) -> Result<Vec<PortAddress>> {
        Ok(vec![PortAddress {
            ip: kernel_abi::ext::port_ipv4(self.device, port).into(),
            ifindex: 1,
            indices: 0xf,
        }])
    }

    fn port_mtu(&self, _port: u8) -> usize {
        4096
    }

    fn ports(&self) -> u8 {
        2
    }

    fn map(&mut self, addr: u64, _len: u64, _writable: bool) -> Result<u64> {
        self.fabric.lock().mapped += 1;
        Ok(addr)
    }

    fn unmap(&mut self, _device_address: u64) -> Result<()> {
        self.fabric.lock().mapped -= 1;
        Ok(())
    }

    fn post(&mut self, qp: &mut NativeQp, w: &Write) {
        assert!(qp.free_slots() > 0, "native ring overrun");
        self.unsent
            .entry(qp.id)
            .or_default()
            .push((*w, qp.pi % RING_ENTRIES));
        qp.pi = qp.pi.wrapping_add(1);
        if w.notify_local {
            qp.notified = qp.pi;
        }
    }

    fn ring(&mut self, qp: &mut NativeQp) {
        let k = (self.device, qp.port, qp.id);
        let list = self.unsent.remove(&qp.id).unwrap_or_default();
        let mut f = self.fabric.lock();
        if let Some(q) = f.qps.get_mut(&k) {
            q.queue.extend(list);
        }
        if !f.delayed {
            while f.execute(k) {}
        }
    }

    fn poll_requester(&mut self) -> Option<Completion> {
        self.fabric
            .lock()
            .requester
            .get_mut(&self.device)?
            .pop_front()
    }

    fn poll_responder(&mut self) -> Option<Completion> {
        let mut f = self.fabric.lock();
        if !f.delayed {
            // What waited for a peer to come up goes now.
            let waiting: Vec<Key> = f
                .qps
                .iter()
                .filter(|(_, q)| !q.queue.is_empty())
                .map(|(k, _)| *k)
                .collect();
            for k in waiting {
                while f.execute(k) {}
            }
        }
        f.responder.get_mut(&self.device)?.pop_front()
    }

    fn arm(&mut self) -> bool {
        false
    }

    fn stalled_us(&self, _qp: &NativeQp) -> u64 {
        0
    }

    fn note(&self, _qp: &NativeQp, _which: u32, _value: u64) {}

    fn raise(&mut self, channel_fd: i32, cookie: u64) -> Raised {
        let mut f = self.fabric.lock();
        if f.channels_gone {
            return Raised::Lost;
        }
        if f.channels_full {
            return Raised::Full;
        }
        f.raised.push((channel_fd, cookie));
        Raised::Yes
    }

    fn drain(&mut self, channel_fd: i32, cookie: u64) -> u32 {
        let mut f = self.fabric.lock();
        let before = f.raised.len();
        f.raised.retain(|e| *e != (channel_fd, cookie));
        (before - f.raised.len()) as u32
    }

    fn dm_alloc(&mut self, len: u64, _align: u64) -> Result<super::DeviceMemory> {
        let bytes = vec![0u128; len.div_ceil(16) as usize].leak();
        let base = NonNull::new(bytes.as_mut_ptr().cast::<u8>()).unwrap();
        // SAFETY: leaked for the life of the test, 16-byte aligned.
        let window = unsafe { Window::new(base, len as usize) };
        self.fabric.lock().mapped += 1;
        Ok(super::DeviceMemory {
            window,
            device: window.address(),
            len,
            token: 0,
        })
    }

    fn dm_free(&mut self, _dm: super::DeviceMemory) -> Result<()> {
        self.fabric.lock().mapped -= 1;
        Ok(())
    }

    fn poll_event(&mut self) -> Option<NativeEvent> {
        self.fabric.lock().events.get_mut(&self.device)?.pop_front()
    }

    fn take_pending(&mut self) -> bool {
        false
    }
}
