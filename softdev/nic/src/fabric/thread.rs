//! The device's thread: one for each attachment, asleep unless something is unfinished or somebody died.
//!
//! It retries parked QPs, goes on with bulk work when the program does not call `progress`, takes in errors that peers have
//! found, and watches the processes that this one is connected with.

use super::attach::Fabric;
use super::peer::{Link, as_fd};
use crate::Result;
use crate::shm::fd::WakePipe;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering::*};
use std::sync::{Arc, Weak};

#[derive(Default)]
pub(super) struct ThreadControl {
    started: AtomicBool,
    stop: AtomicBool,
    /// In poll without a time limit: has to be woken.
    asleep: AtomicBool,
    pub(super) denial_told: AtomicBool,
}

/// Between two looks at unfinished work.
const TICK_US: u64 = 1000;
/// How long the thread goes on ticking when all is done, so that bursts do not wake it each time.
const LINGER: u32 = 16;
/// Bulk work between two looks at whether the program has come back.
const BURST: i64 = 1 << 20;
const RETRIES: u32 = 4096;
/// Ticks between looks for peers that are not there yet.
const WATCH_TICKS: u32 = 50;

impl Fabric {
    /// Starts the thread if it does not run.
    pub(crate) fn start_thread(self: &Arc<Self>) -> Result<()> {
        if self.thread.started.swap(true, SeqCst) {
            return Ok(());
        }
        let (fabric, pipe) = (Arc::downgrade(self), self.pipe.clone());
        let spawned = crate::pv::without_signals(|| {
            std::thread::Builder::new()
                .name("gaudi-softnic".into())
                .stack_size(256 << 10)
                .spawn(move || main(&fabric, &pipe))
        });
        if let Err(e) = spawned {
            self.thread.started.store(false, SeqCst);
            return Err(e.into());
        }
        Ok(())
    }

    /// Makes the thread look, if it sleeps.
    #[inline]
    pub(crate) fn wake_thread(&self) {
        if self.thread.asleep.load(SeqCst) && self.thread.asleep.swap(false, SeqCst) {
            self.pipe.wake();
        }
    }

    pub(super) fn stop_thread(&self) {
        self.thread.stop.store(true, SeqCst);
        self.pipe.wake();
    }

    fn has_work(&self) -> bool {
        self.local_contexts()
            .iter()
            .any(|c| !c.is_idle() || c.refill_events())
    }
}

/// Holds the attachment only while it works, so that the last user's drop ends the thread.
fn main(fabric: &Weak<Fabric>, pipe: &Arc<WakePipe>) {
    if let Some(fabric) = fabric.upgrade() {
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        fabric
            .file
            .proc(fabric.me.slot)
            .thread()
            .store(thread as u32, Relaxed);
    }
    let mut seen = HashMap::new();
    let mut posted = 0;
    let mut linger = 0;
    let mut watching = true;
    let mut ticks = 0u32;
    let mut busy = false;
    loop {
        let Some(now) = fabric.upgrade() else { return };
        if now.thread.stop.load(SeqCst) || !now.is_ours() {
            return;
        }
        let links: Vec<_> = now
            .links()
            .into_iter()
            .filter(|l| !l.is_self && !l.is_dead())
            .collect();
        if linger == 0 {
            now.thread.asleep.store(true, SeqCst);
            // Whoever makes work after this look sees `asleep`.
            if now.has_work() {
                now.thread.asleep.store(false, SeqCst);
                linger = LINGER;
            }
        }
        drop(now);
        let wait = match (linger, watching) {
            _ if busy => Some(0),
            (0, false) => None,
            (0, true) => Some(TICK_US * u64::from(WATCH_TICKS)),
            _ => Some(TICK_US),
        };
        let dead = wait_for(pipe, &links, wait);
        let Some(now) = fabric.upgrade() else { return };
        if now.thread.stop.load(SeqCst) {
            return;
        }
        if now.thread.asleep.swap(false, SeqCst) && !dead.woken {
            linger = 0;
        } else {
            linger = linger.max(1);
        }
        pipe.drain();
        crate::trap::handover::serve(&now, &mut posted);
        for link in &dead.links {
            bury(&now, link);
        }
        for context in now.local_contexts() {
            context.serve_inbox();
        }
        ticks = ticks.wrapping_add(1);
        if dead.woken || (watching && (linger == 0 || ticks.is_multiple_of(WATCH_TICKS))) {
            watching = false;
            for context in now.local_contexts() {
                watching |= context.retry_watches();
            }
        }
        let done = work(&now, &mut seen);
        busy = done == Turn::Busy;
        linger = match done {
            Turn::Idle => linger.saturating_sub(1),
            _ => LINGER,
        };
    }
}

#[derive(Default)]
struct Seen {
    links: Vec<Arc<Link>>,
    woken: bool,
}

/// Sleeps until the pipe has something, a linked process ends, or the time is over.
fn wait_for(pipe: &Arc<WakePipe>, links: &[Arc<Link>], wait_us: Option<u64>) -> Seen {
    let mut fds = vec![PollFd::from_borrowed_fd(pipe.read.as_fd(), PollFlags::IN)];
    let mut whose = Vec::new();
    for link in links {
        for fd in [&link.pidfd, &link.wake] {
            if let Some(fd) = as_fd(fd) {
                // A write end reports an error when the last reader is gone: exit, but exec as well.
                fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
                whose.push(link);
            }
        }
    }
    let limit = wait_us.map(|us| Timespec {
        tv_sec: (us / 1_000_000) as i64,
        tv_nsec: (us % 1_000_000 * 1000) as i64,
    });
    if poll(&mut fds, limit.as_ref()).is_err() {
        return Seen::default();
    }
    let mut seen = Seen::default();
    for (i, fd) in fds.iter().enumerate() {
        if fd.revents().is_empty() {
            continue;
        }
        if fd.revents().contains(PollFlags::NVAL) {
            // The program has closed what is not its own (a loop over all numbers): at least not as a busy loop.
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        match i.checked_sub(1).and_then(|i| whose.get(i)) {
            None => seen.woken = true,
            Some(link) => {
                if !seen.links.iter().any(|l| Arc::ptr_eq(l, link)) {
                    seen.links.push((*link).clone());
                }
            }
        }
    }
    seen
}

/// A linked process has ended, or is another program now.
fn bury(fabric: &Arc<Fabric>, link: &Arc<Link>) {
    link.dead.store(true, Release);
    // A process that called exit without closing has been closed by its kernel: as orderly as a close.
    let orderly = link
        .pidfd
        .as_ref()
        .is_some_and(|fd| has_exited(fd, link.pid));
    fabric.reap();
    for context in fabric.local_contexts() {
        context.on_death(link, orderly);
    }
    fabric.drop_peer(link);
}

/// Whether the process has ended by exit(2). Its descriptors go a moment before the process does; with exec(2), nothing follows.
fn has_exited(pidfd: &crate::shm::Fd, pid: u32) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    let limit = Timespec {
        tv_sec: 0,
        tv_nsec: 100_000_000,
    };
    poll(&mut fds, Some(&limit)).is_ok_and(|n| n > 0)
        && crate::shm::exit::by_itself(pidfd, pid) == Some(true)
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    Idle,
    /// Something waits for others.
    Waiting,
    /// Bulk work goes on.
    Busy,
}

/// One turn over what is unfinished. Steps aside for a context whose program has called `progress` since the last turn.
fn work(fabric: &Arc<Fabric>, seen: &mut HashMap<u64, u64>) -> Turn {
    let mut turn = Turn::Idle;
    let contexts = fabric.local_contexts();
    for context in &contexts {
        if context.refill_events() {
            turn = turn.max(Turn::Waiting);
        }
        if context.is_idle() {
            seen.remove(&context.nonce());
            continue;
        }
        let calls = context.progress_calls();
        let before = seen.insert(context.nonce(), calls);
        if context.has_runnable() && before == Some(calls) {
            context.pump(BURST, RETRIES);
            turn = if context.has_runnable() {
                Turn::Busy
            } else {
                Turn::Waiting
            };
        } else {
            if !context.has_runnable() {
                context.pump(BURST, RETRIES);
            }
            if turn == Turn::Idle {
                turn = Turn::Waiting;
            }
        }
    }
    if seen.len() > 2 * contexts.len() + 16 {
        seen.clear();
    }
    turn
}
