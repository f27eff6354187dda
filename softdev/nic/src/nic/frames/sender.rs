//! The sending side of a context: its lanes in other contexts.

use super::lane::{Push, Writer};
use super::{At, LANES, LISTED, MAX_QPS, word};
use crate::addr;
use crate::fabric::attach::lock;
use crate::fabric::{Remote, Way};
use crate::nic::context::NicContext;
use crate::nic::cq::bump;
use crate::nic::rdma_layout::head as file_head;
use crate::shm::barrier;
use crate::shm::clock::now_us;
use crate::shm::fabric_file::{MAX_QPS as QPS_OF_PORT, qp_state};
use crate::shm::sync::fence;
use kernel_abi::ext::frame;
use std::collections::HashMap;
use std::sync::atomic::Ordering::*;
use std::sync::{Arc, Mutex};

/// How long a receiver that is behind is left alone before its agent is woken: the program may be about to look.
const NUDGE_US: u64 = 200;
/// How long a sender waits for a receiver that takes nothing.
const PATIENCE_US: u64 = 100_000;

/// A QP, as a datagram names it: IPv4 address and number.
type Name = (u32, u32);

#[derive(Default)]
pub(crate) struct Sender(Mutex<HashMap<Name, Outlet>>);

/// A lane of ours.
struct Outlet {
    /// One for all lanes to a context, used under the lock of all lanes.
    way: Arc<Way>,
    lane: u32,
    /// The lane is ours while it has this state word.
    word: u64,
    writer: Writer,
    /// Since when there is no room; 0: there was.
    full_since: u64,
    nudged: bool,
    gave_up: bool,
}

impl Outlet {
    fn remote(&self) -> &Remote {
        &self.way.remote
    }

    fn is_ours(&self) -> bool {
        let remote = self.remote();
        let state = frames(remote).state(self.lane).load(Acquire);
        !remote.was_closed() && state == self.word
    }

    /// None: the lane is no longer ours.
    #[inline]
    fn push(&mut self, bytes: &[u8]) -> Option<u32> {
        self.way.enter();
        let done = self.is_ours().then(|| {
            let lane = frames(&self.way.remote).lane(self.lane);
            self.writer.push(lane, bytes)
        });
        self.way.leave();
        match done? {
            Push::Done => {
                self.full_since = 0;
                self.gave_up = false;
                self.announce();
                Some(frame::SENT)
            }
            Push::Full => Some(self.full()),
            Push::Broken => None,
        }
    }

    /// Behind the publication: is there somebody to wake? The fence between the two is the receiver's where it can do that.
    #[inline]
    fn announce(&self) {
        let remote = self.remote();
        if barrier::is_ready() && remote.map.w32(file_head::FENCES).load(Relaxed) != 0 {
            barrier::light();
        } else {
            fence(SeqCst);
        }
        let armed = frames(remote).armed();
        if armed.load(Relaxed) != 0 && armed.swap(0) != 0 {
            bump(&remote.map, remote.layout.event());
        }
    }

    #[cold]
    fn full(&mut self) -> u32 {
        if self.gave_up {
            return frame::LOST;
        }
        let now = now_us();
        if self.full_since == 0 {
            self.full_since = now;
            self.nudged = false;
        }
        frames(self.remote()).starved(self.lane).store(1, Relaxed);
        let waited = now.saturating_sub(self.full_since);
        if self.writer.has_moved(frames(self.remote()).lane(self.lane)) {
            self.full_since = now;
        } else if waited >= PATIENCE_US {
            self.gave_up = true;
            return frame::LOST;
        } else if waited >= NUDGE_US && !self.nudged {
            self.nudged = true;
            bump(&self.remote().map, self.remote().layout.event());
        }
        frame::FULL
    }

    /// Nothing more will come from here.
    fn leave(&self) {
        let at = frames(self.remote());
        let left = word::with_kind(self.word, word::LEFT);
        if !self.remote().was_closed() && at.state(self.lane).cas(self.word, left).is_ok() {
            at.changes().add(1);
        }
    }
}

fn frames(remote: &Remote) -> At<'_> {
    At::new(&remote.map, remote.layout.frames())
}

impl NicContext {
    /// [`kernel_abi::ext::PvTable::frame_send`]
    #[inline]
    pub fn frame_send(&self, ipv4: u32, number: u32, bytes: &[u8]) -> u32 {
        if !self.usable() {
            return frame::NOT_HERE;
        }
        let mut outlets = lock(&self.sender.0);
        let name = (ipv4, number);
        if let Some(outlet) = outlets.get_mut(&name) {
            if !outlet.remote().link.is_dead()
                && let Some(done) = outlet.push(bytes)
            {
                return done;
            }
            outlets.remove(&name);
        }
        match self.claim(&mut outlets, name) {
            Some(mut outlet) => {
                let done = outlet.push(bytes).unwrap_or(frame::LOST);
                outlets.insert(name, outlet);
                done
            }
            None => frame::NOT_HERE,
        }
    }

    /// A lane to a QP, when it is one of this fabric and takes frames.
    #[cold]
    fn claim(&self, outlets: &mut HashMap<Name, Outlet>, (ipv4, number): Name) -> Option<Outlet> {
        let opts = &self.fabric.opts;
        let (device, port) = addr::resolve(ipv4, [0; 6], opts.devices, opts.ports)?;
        let (generation, qpn) = (number >> 18 & 0x3f, number & 0x1fff);
        let high = self.fabric.file.port(device, port).qp_high();
        if number >> 13 & 0x1f != port || qpn >= high.load(Acquire).min(QPS_OF_PORT) {
            return None;
        }
        let record = self.fabric.file.qp(device, port, qpn);
        let asid = qp_state::asid(record.state().load(Acquire));
        if asid == 0 || record.generation().load(Acquire) & 0x3f != generation {
            return None;
        }
        // What is no longer needed goes with the first occasion.
        outlets.retain(|_, o| !o.remote().link.is_dead() && o.is_ours());
        let remote = self.fabric.remote(device, asid).ok()?;
        let known = outlets
            .values()
            .find(|o| Arc::ptr_eq(&o.way.remote, &remote))
            .map(|o| o.way.clone());
        let way = known.unwrap_or_else(|| Arc::new(remote.way()));
        // What is found here holds until the table knows of us.
        way.enter();
        let claimed = self.claim_in(&remote, number);
        way.leave();
        let (lane, word, writer) = claimed?;
        Some(Outlet {
            way,
            lane,
            word,
            writer,
            full_since: 0,
            nudged: false,
            gave_up: false,
        })
    }

    fn claim_in(&self, remote: &Remote, number: u32) -> Option<(u32, u64, Writer)> {
        let at = frames(remote);
        let ready = at.ready().load(Acquire).min(LANES);
        if ready == 0 || remote.was_closed() {
            return None;
        }
        (0..MAX_QPS).find(|i| at.qp(*i).load(Acquire) == LISTED | number)?;
        for i in 0..ready {
            let free = at.state(i).load(Acquire);
            if word::kind(free) != word::FREE {
                continue;
            }
            let claim = word::claim(free, self.fabric.me);
            if at.state(i).cas(free, claim).is_err() {
                continue;
            }
            at.number(i).store(number, Relaxed);
            at.starved(i).store(0, Relaxed);
            at.origin(i)
                .store(u64::from(self.asid) | u64::from(self.device) << 32, Relaxed);
            let writer = Writer::begin(at.lane(i));
            let live = word::with_kind(claim, word::LIVE);
            let done = at.state(i).cas(claim, live).is_ok();
            at.changes().add(1);
            return done.then_some((i, live, writer));
        }
        // So that the receiver provides more.
        at.changes().add(1);
        None
    }

    /// The context closes.
    pub(crate) fn frames_leave(&self) {
        for (_, outlet) in lock(&self.sender.0).drain() {
            outlet.leave();
        }
    }
}
