//! The receiving side of a context: the lanes that lead to its QPs.

use super::lane::{Pop, Reader};
use super::{At, LANES, LISTED, MAX_QPS, STEP, head, lane, word};
use crate::fabric::attach::lock;
use crate::nic::context::NicContext;
use crate::nic::cq::bump;
use crate::shm::barrier;
use crate::shm::fabric_file::state;
use crate::{Errno, Result};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering::*};

/// Rounds in which lanes of a QP that goes may still turn up.
const ROUNDS: u32 = 8;

#[derive(Default)]
pub(crate) struct Receiver {
    /// QPs that take frames.
    open: AtomicU32,
    rx: Mutex<Rx>,
}

#[derive(Default)]
struct Rx {
    /// Count of changes when the table was looked through last.
    seen: u32,
    /// Lanes that have memory.
    ready: u32,
    /// By port and native number.
    qps: BTreeMap<(u32, u32), Inbox>,
    /// Closed lanes, which somebody may still be writing to.
    closed: Vec<u32>,
}

/// What leads to a QP.
struct Inbox {
    number: u32,
    /// Place in the list of the head page.
    listed: u64,
    lanes: Vec<Inlet>,
    /// The lane whose turn it is.
    turn: usize,
}

struct Inlet {
    lane: u32,
    /// State word under which it was taken in.
    word: u64,
    reader: Reader,
    /// Nobody writes to it any more.
    left: bool,
}

impl NicContext {
    fn frames(&self) -> At<'_> {
        At::new(&self.map, self.layout.frames())
    }

    /// [`kernel_abi::ext::PvTable::frame_open`]
    pub fn frame_open(&self, port: u32, qpn: u32) -> Result<()> {
        self.check_usable()?;
        let qp = self.qp(port, qpn).ok_or(Errno::EINVAL)?;
        let generation = qp.generation.load(Relaxed);
        let number = (generation & 0x3f) << 18 | (port & 0x1f) << 13 | (qpn & 0x1fff);
        let at = self.frames();
        let mut rx = lock(&self.receiver.rx);
        if rx.qps.contains_key(&(port, qpn)) {
            return Ok(());
        }
        if rx.ready == 0 {
            self.rdma.file.reserve(self.layout.frames(), super::DATA)?;
        }
        self.provide(&mut rx)?;
        let listed = (0..MAX_QPS)
            .find(|i| at.qp(*i).load(Relaxed) == 0)
            .ok_or(Errno::ENOMEM)?;
        rx.qps.insert(
            (port, qpn),
            Inbox {
                number,
                listed,
                lanes: Vec::new(),
                turn: 0,
            },
        );
        // The agent may have gone to sleep before there was anything to arm.
        at.armed().store(1, Relaxed);
        at.qp(listed).store(LISTED | number, Release);
        self.receiver.open.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Memory for more lanes when few are free.
    fn provide(&self, rx: &mut Rx) -> Result<()> {
        let at = self.frames();
        let free = (0..rx.ready)
            .filter(|i| word::kind(at.state(*i).load(Relaxed)) == word::FREE)
            .count();
        if free >= STEP as usize || rx.ready + STEP > LANES {
            return Ok(());
        }
        let data = self.layout.frames() + super::DATA + u64::from(rx.ready) * lane::BYTES;
        self.rdma
            .file
            .reserve(data, u64::from(STEP) * lane::BYTES)?;
        rx.ready += STEP;
        at.ready().store(rx.ready, Release);
        Ok(())
    }

    /// [`kernel_abi::ext::PvTable::frame_close`]: when it returns, nobody writes to the QP's lanes.
    pub fn frame_close(&self, port: u32, qpn: u32) {
        if !self.usable() {
            return;
        }
        let at = self.frames();
        let mut rx = lock(&self.receiver.rx);
        let Some(inbox) = rx.qps.remove(&(port, qpn)) else {
            return;
        };
        self.receiver.open.fetch_sub(1, Relaxed);
        at.qp(inbox.listed).store(0, SeqCst);
        for inlet in inbox.lanes {
            close(at, &mut rx, inlet.lane, inlet.word);
        }
        // A sender that has found the QP in the list may just be claiming a lane.
        for _ in 0..ROUNDS {
            self.wait_accesses();
            free_closed(at, &mut rx);
            self.rescan(&mut rx);
            if rx.closed.is_empty() {
                return;
            }
        }
    }

    /// Looks through the table: new lanes, and those that nobody writes to any more.
    fn rescan(&self, rx: &mut Rx) {
        let at = self.frames();
        rx.seen = at.changes().load(Acquire);
        for i in 0..rx.ready {
            let now = at.state(i).load(Acquire);
            let kind = word::kind(now);
            if kind == word::FREE || kind == word::CLOSED {
                continue;
            }
            let left = kind == word::LEFT || !self.has_sender(now);
            if kind == word::CLAIMED {
                // The dead do not go on.
                if left {
                    let _ = at.state(i).cas(now, word::free(now));
                }
                continue;
            }
            let number = at.number(i).load(Relaxed);
            let Some(inbox) = rx.qps.values_mut().find(|q| q.number == number) else {
                if left {
                    let _ = at.state(i).cas(now, word::free(now));
                } else {
                    close(at, rx, i, now);
                }
                continue;
            };
            match inbox.lanes.iter_mut().find(|inlet| inlet.lane == i) {
                Some(inlet) => {
                    inlet.word = now;
                    inlet.left = left;
                }
                None => inbox.lanes.push(Inlet {
                    lane: i,
                    word: now,
                    reader: Reader::begin(at.lane(i)),
                    left,
                }),
            }
        }
        if let Err(e) = self.provide(rx) {
            log::debug!("no memory for more lanes: {e}");
        }
    }

    /// Whether the process that a state word names may still write.
    fn has_sender(&self, now: u64) -> bool {
        let owner = word::owner(now);
        owner == self.fabric.me
            || self.fabric.file.proc(owner.slot).state().load(Acquire)
                == state::pack(state::LIVE, owner)
    }

    /// [`kernel_abi::ext::PvTable::frame_recv`]: the length, 0 when there is nothing.
    #[inline]
    pub fn frame_recv(&self, port: u32, qpn: u32, out: &mut [u8]) -> usize {
        if !self.usable() || self.receiver.open.load(Relaxed) == 0 {
            return 0;
        }
        let at = self.frames();
        let mut rx = lock(&self.receiver.rx);
        if at.changes().load(Acquire) != rx.seen {
            self.rescan(&mut rx);
        }
        let Some(inbox) = rx.qps.get_mut(&(port, qpn)) else {
            return 0;
        };
        let mut over = None;
        for _ in 0..inbox.lanes.len() {
            let turn = inbox.turn % inbox.lanes.len();
            let Some(inlet) = inbox.lanes.get_mut(turn) else {
                break;
            };
            inbox.turn = turn + 1;
            match inlet.reader.pop(at.lane(inlet.lane), out) {
                Pop::Frame(n) => return n,
                Pop::Empty => {
                    if at.starved(inlet.lane).load(Relaxed) != 0 {
                        self.feed(at, inlet.lane);
                    }
                    if inlet.left {
                        over = Some(turn);
                    }
                }
                Pop::Broken => {
                    log::warn!(
                        "frames of process slot {} are no frames",
                        word::owner(inlet.word).slot
                    );
                    over = Some(turn);
                }
            }
        }
        // One at a time: the next look finds the next.
        if let Some(turn) = over {
            let inlet = inbox.lanes.swap_remove(turn);
            if inlet.left {
                let _ = at.state(inlet.lane).cas(inlet.word, word::free(inlet.word));
            } else {
                close(at, &mut rx, inlet.lane, inlet.word);
            }
        }
        0
    }

    /// Wakes a sender that waits for room.
    #[cold]
    fn feed(&self, at: At<'_>, lane: u32) {
        at.starved(lane).swap(0);
        let origin = at.origin(lane).load(Relaxed);
        let (asid, device) = (origin as u32, (origin >> 32) as u32);
        let known = device < self.fabric.opts.devices && asid < crate::shm::fabric_file::MAX_ASIDS;
        if known && let Ok(remote) = self.fabric.remote(device, asid) {
            bump(&remote.map, remote.layout.event());
        }
    }

    /// [`kernel_abi::ext::PvTable::frame_arm`]: true, and not armed, when a frame is there.
    pub fn frame_arm(&self) -> bool {
        if !self.usable() || self.receiver.open.load(Relaxed) == 0 {
            return false;
        }
        let at = self.frames();
        let mut rx = lock(&self.receiver.rx);
        // Still armed: nobody has published anything since, or the word would have been taken. Fencing all processors has its price (a READ that the
        // agent serves between two sleeps would pay it).
        if at.armed().load(SeqCst) != 0 {
            return false;
        }
        at.armed().swap(1);
        // Who publishes from now on sees it; what was published before is seen below.
        barrier::on_all();
        if at.changes().load(SeqCst) != rx.seen {
            self.rescan(&mut rx);
        }
        let waits = rx
            .qps
            .values()
            .flat_map(|q| &q.lanes)
            .any(|inlet| !inlet.reader.is_empty(at.lane(inlet.lane)));
        if waits {
            at.armed().swap(0);
        }
        waits
    }

    /// The context closes; senders see that.
    pub(crate) fn frames_end(&self) {
        self.receiver.open.store(0, Relaxed);
        let mut rx = lock(&self.receiver.rx);
        if rx.ready != 0 {
            self.frames().ready().store(0, SeqCst);
        }
        *rx = Rx::default();
    }
}

/// No new frame begins in a lane; those under way are waited for before it is free.
fn close(at: At<'_>, rx: &mut Rx, lane: u32, now: u64) {
    let (live, left) = (
        word::with_kind(now, word::LIVE),
        word::with_kind(now, word::LEFT),
    );
    let closed = word::with_kind(now, word::CLOSED);
    if at.state(lane).cas(live, closed).is_ok() || at.state(lane).cas(left, closed).is_ok() {
        rx.closed.push(lane);
    }
}

/// After accesses in flight have ended.
fn free_closed(at: At<'_>, rx: &mut Rx) {
    for lane in std::mem::take(&mut rx.closed) {
        let now = at.state(lane).load(Acquire);
        if word::kind(now) == word::CLOSED {
            let _ = at.state(lane).cas(now, word::free(now));
        }
    }
}

const _: () = assert!(head::QPS + MAX_QPS * 4 <= crate::nic::rdma_layout::PAGE);
