//! What a model check decides about the device: whose WRITE is next, who hears of it and when, who dies.

use super::digest::Digest;
use super::{Fabric, Inner, Key};
use crate::native::{NativeEvent, user};
use kernel_abi::gaudi2::syndrome;

impl Fabric {
    /// QPs whose oldest WRITE can arrive.
    pub fn deliverable(&self) -> Vec<Key> {
        let f = self.lock();
        let waits =
            |k: &&Key| f.qps.get(*k).is_some_and(|q| !q.queue.is_empty()) && f.is_ready(**k);
        f.qps.keys().filter(waits).copied().collect()
    }

    /// The oldest WRITE of a QP arrives.
    pub fn deliver(&self, k: Key) -> bool {
        self.lock().execute(k)
    }

    /// The first `bytes` of it arrive, the others later: the device moves data in ascending order.
    pub fn tear(&self, k: Key, bytes: usize) -> bool {
        let mut f = self.lock();
        let Some(q) = f.qps.get(&k) else { return false };
        let (Some(&(w, _)), Some(to)) = (q.queue.front(), q.to) else {
            return false;
        };
        if q.torn >= bytes || bytes >= w.len as usize || !f.is_ready(k) {
            return false;
        }
        let (Some(src), Some(dst)) = (f.translate(k.0, w.local), f.translate(to.0, w.remote))
        else {
            return false;
        };
        user::copy(dst, src, bytes).expect("sim copy");
        f.qps.entry(k).and_modify(|q| q.torn = bytes);
        true
    }

    /// QPs with completions that nobody has been told of, and whether they are the responder's.
    pub fn untold(&self) -> Vec<(Key, bool)> {
        let f = self.lock();
        let held = f.held.iter().flatten();
        held.filter(|(_, l)| !l.is_empty())
            .map(|(k, _)| *k)
            .collect()
    }

    /// The oldest of them comes into its queue.
    pub fn tell(&self, k: (Key, bool)) {
        let f = &mut *self.lock();
        let list = f.held.as_mut().and_then(|h| h.get_mut(&k));
        if let Some(c) = list.and_then(|l| l.pop_front()) {
            let queues = if k.1 {
                &mut f.responder
            } else {
                &mut f.requester
            };
            queues.entry(k.0.0).or_default().push_back(c);
        }
    }

    /// The native connection of one QP breaks: it answers nobody, and its owner hears of it.
    pub fn lose(&self, k: Key) {
        let mut f = self.lock();
        if let Some(q) = f.qps.get_mut(&k)
            && q.connected
        {
            q.failed = true;
            q.connected = false;
            q.queue.clear();
            let cookie = q.cookie;
            f.error(k, cookie);
        }
    }

    /// Whoever has something to say to a peer that does not answer has tried for long enough. True when there was one.
    pub fn give_up(&self) -> bool {
        let mut f = self.lock();
        let stuck = |k: &Key| {
            let q = f.qps.get(k)?;
            (!q.queue.is_empty() && !q.failed && !f.is_ready(*k)).then_some((*k, q.cookie))
        };
        let list: Vec<_> = f.qps.keys().filter_map(stuck).collect();
        for &(k, cookie) in &list {
            f.qps.entry(k).and_modify(|q| q.failed = true);
            f.error(k, cookie);
        }
        !list.is_empty()
    }

    /// Everything that can make a difference later, but what a dead device holds.
    pub fn digest(&self, d: &mut Digest) {
        let f = self.lock();
        for (k, q) in &f.qps {
            d.value(&(k, q.connected, q.to, q.keys, q.failed, q.torn, q.cookie));
            for (w, slot) in &q.queue {
                d.value(&(w, slot));
                f.source(k.0, w.local, w.len as usize, d);
            }
            if let Some(w) = q.win {
                // What peers write: ack line, HELLO, abort word, and the two rings, of which the request ring is small here.
                let words = |from: usize, to: usize| (from..to).step_by(8);
                for at in words(0, 0x110).chain(words(0x800, 0x1200)) {
                    d.word(w.load64(at));
                }
            }
        }
        let queues = (&f.requester, &f.responder, &f.held);
        d.value(&queues);
        d.value(&(&f.events, &f.dead));
    }
}

impl Inner {
    fn error(&mut self, k: Key, cookie: u64) {
        let event = NativeEvent::QpError {
            cookie,
            syndrome: syndrome::TIMER_RETRY,
        };
        self.events.entry(k.0).or_default().push_back(event);
    }

    /// The bytes that a WRITE will carry if it goes now. Program memory is digested by its owner.
    fn source(&self, device: u8, addr: u64, len: usize, d: &mut Digest) {
        if addr >= crate::native::MAILBOX_BASE
            && let Some(at) = self.translate(device, addr)
        {
            let mut bytes = vec![0u8; len];
            user::copy(bytes.as_mut_ptr() as u64, at, len).expect("staging");
            d.bytes(&bytes);
        }
    }
}
