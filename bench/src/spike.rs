//! The message path of the design in its smallest form, to see what it costs before building on it.
//!
//! A message of up to 40 bytes is one 64-byte line: header, payload, sequence. The provider builds it
//! and a 32-byte WQE in its own memory and calls the doorbell, a function of the soft device. That
//! fetches the WQE, checks the address table, copies the line into the peer's arena and, in one
//! variant, publishes a 16-byte completion. The receiver polls the completion or the line itself,
//! copies the payload out, and acknowledges with a line of its own.

use crate::rig::{Arena, Plan, Rig, Side};
use std::hint::black_box;
use std::io;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::Instant;

const LINE: usize = 64;
const HEADER: usize = 16;
const PAYLOAD: usize = 40;
const TRAILER: usize = LINE - 8;
/// Outstanding messages per direction.
const WINDOW: u64 = 64;
const CQ_ENTRIES: u64 = 256;
/// What one poll takes, as `ibv_poll_cq` with an array of 16.
const POLL_BATCH: u64 = 16;

/// Offsets in one direction's part of the arena.
const LINES: usize = 0;
const CQES: usize = 4096;
const ACK: usize = 8192;
const PART: usize = 12288;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    /// The receiver learns of the message by a completion; else it polls the line.
    pub completion: bool,
    /// Each message is acknowledged by a line of its own; else the answer says it all.
    pub ack: bool,
}

/// The native WQE, as far as the spike needs it.
#[derive(Clone, Copy, Default)]
#[repr(C, align(32))]
struct Wqe {
    opcode_and_len: u64,
    source: u64,
    target: u64,
    key: u64,
}

#[repr(C, align(64))]
struct Line([u64; 8]);

/// The soft device's end: knows rings and tables, nothing of messages.
struct Device<'a> {
    wqes: *const Wqe,
    table: Box<[u64]>,
    arena: &'a Arena,
    /// Where the peer's part starts.
    part: usize,
    completion: bool,
    produced: u64,
    published: Vec<[u64; 2]>,
}

type Doorbell = fn(&mut Device<'_>, u64) -> i32;

const ENTRY_VALID: u64 = 1;
const EFAULT: i32 = libc::EFAULT;
const EOVERFLOW: i32 = libc::EOVERFLOW;

fn doorbell(device: &mut Device<'_>, producer_index: u64) -> i32 {
    let slot = (producer_index % WINDOW) as usize;
    // SAFETY: the ring has WINDOW entries.
    let at = unsafe { device.wqes.add(slot) };
    // SAFETY: in the ring, which outlives the device; the provider fills it before it rings.
    let wqe = unsafe { at.read_volatile() };
    let len = (wqe.opcode_and_len & 0xffff_ffff) as usize;
    let Some(entry) = device.table.get(wqe.key as usize) else {
        return EFAULT;
    };
    let target = wqe.target as usize;
    if entry & ENTRY_VALID == 0 || len > LINE || target.saturating_add(len) > PART {
        return EFAULT;
    }
    let target = device.arena.at(device.part + target);
    // SAFETY: the target lies in the arena, which is shared memory; the source may be anything.
    if unsafe { usercopy::copy(target, wqe.source as *const u8, len) }.is_err() {
        return EFAULT;
    }
    if !device.completion {
        return 0;
    }
    let slot = (device.produced % CQ_ENTRIES) as usize;
    device.produced += 1;
    let cqe = [wqe.opcode_and_len, device.produced << 1 | 1];
    let at = device
        .arena
        .at(device.part + CQES + slot * 16)
        .cast::<[u64; 2]>();
    // SAFETY: aligned and in the arena; only compare-and-swaps write there.
    match unsafe { usercopy::cas16(at, device.published[slot], cqe) } {
        Ok(()) => {
            device.published[slot] = cqe;
            0
        }
        Err(_) => EOVERFLOW,
    }
}

/// The provider's end of a connection.
struct Endpoint<'a> {
    variant: Variant,
    arena: &'a Arena,
    /// Where our own part starts.
    part: usize,
    wqes: Box<[Wqe]>,
    staging: Box<[Line]>,
    device: Device<'a>,
    ring: Doorbell,
    sent: u64,
    received: u64,
    program: [u64; PAYLOAD / 8],
}

impl<'a> Endpoint<'a> {
    fn new(variant: Variant, arena: &'a Arena, near: bool) -> Endpoint<'a> {
        let (own, peer) = if near { (0, PART) } else { (PART, 0) };
        let wqes = vec![Wqe::default(); WINDOW as usize].into_boxed_slice();
        let device = Device {
            wqes: wqes.as_ptr(),
            table: vec![ENTRY_VALID; 16].into_boxed_slice(),
            arena,
            part: peer,
            completion: variant.completion,
            produced: 0,
            published: vec![[0; 2]; CQ_ENTRIES as usize],
        };
        let staging = (0..WINDOW).map(|_| Line([0; 8])).collect();
        let program = [0; PAYLOAD / 8];
        let ring = black_box(doorbell as Doorbell);
        Endpoint {
            variant,
            arena,
            part: own,
            wqes,
            staging,
            device,
            ring,
            sent: 0,
            received: 0,
            program,
        }
    }

    /// `ibv_post_send` of a 40-byte message.
    fn send(&mut self) -> io::Result<()> {
        self.sent += 1;
        let slot = (self.sent % WINDOW) as usize;
        self.program = [self.sent; PAYLOAD / 8];
        let line = &mut self.staging[slot];
        line.0[0] = 1 << 32 | PAYLOAD as u64;
        line.0[1] = self.received;
        let payload = line.0.as_mut_ptr().cast::<u8>().wrapping_add(HEADER);
        // SAFETY: inside the line, which nobody else refers to.
        unsafe { usercopy::copy(payload, self.program.as_ptr().cast(), PAYLOAD) }
            .map_err(io::Error::other)?;
        line.0[7] = self.sent;
        let source = line.0.as_ptr() as u64;
        let wqe = Wqe {
            opcode_and_len: LINE as u64,
            source,
            target: (LINES + slot * LINE) as u64,
            key: 3,
        };
        let at = &raw mut self.wqes[slot];
        // SAFETY: our own ring; volatile, for the device reads it behind the compiler's back.
        unsafe { at.write_volatile(wqe) };
        match (self.ring)(&mut self.device, self.sent) {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    /// `ibv_poll_cq`: whether a message was there and its payload is now the program's.
    #[inline]
    fn receive(&mut self) -> io::Result<bool> {
        let next = self.received + 1;
        let line = self.part + LINES + (next % WINDOW) as usize * LINE;
        let arrived = if self.variant.completion {
            let cqe = self.part + CQES + (self.received % CQ_ENTRIES) as usize * 16;
            self.arena.word(cqe + 8).load(Acquire) == next << 1 | 1
        } else {
            self.arena.word(line + TRAILER).load(Acquire) == next
        };
        if !arrived {
            return Ok(false);
        }
        let len = (self.arena.word(line).load(Relaxed) & 0xffff) as usize;
        black_box(self.arena.word(line + 8).load(Relaxed));
        let source = self.arena.at(line + HEADER);
        // SAFETY: at most the whole of a buffer of ours.
        let copied =
            unsafe { usercopy::copy(self.program.as_mut_ptr().cast(), source, len.min(PAYLOAD)) };
        copied.map_err(io::Error::other)?;
        self.received = next;
        if self.program != [next; PAYLOAD / 8] {
            return Err(io::Error::other("a message came torn or out of order"));
        }
        Ok(true)
    }

    /// Tells the peer what has been received.
    fn acknowledge(&self) -> io::Result<()> {
        let mut line = Line([0; 8]);
        line.0[7] = self.received;
        let target = self.arena.at(self.device.part + ACK);
        // SAFETY: a line of the arena, which is shared memory.
        unsafe { usercopy::copy(target, line.0.as_ptr().cast(), LINE) }.map_err(io::Error::other)
    }

    fn acknowledged(&self) -> u64 {
        self.arena.word(self.part + ACK + TRAILER).load(Acquire)
    }

    /// Waits for one message.
    fn expect(&mut self, side: &Side) -> io::Result<()> {
        let mut failure = None;
        side.wait(|| match self.receive() {
            Ok(arrived) => arrived,
            Err(error) => {
                failure = Some(error);
                true
            }
        })?;
        failure.map_or(Ok(()), Err)
    }
}

fn prepare() -> io::Result<Arena> {
    usercopy::install()?;
    if !usercopy::has_cas16() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    Arena::shared(2 * PART)
}

/// One way of a 40-byte message, in nanoseconds.
pub fn latency(rig: &Rig, variant: Variant) -> io::Result<f64> {
    let arena = prepare()?;
    let plan = Plan::for_step(500);
    let round_trip = rig.pair(
        |side| {
            let mut end = Endpoint::new(variant, &arena, true);
            plan.time(|n| {
                end.send()?;
                end.expect(side)?;
                if variant.ack {
                    end.acknowledge()?;
                    side.wait(|| end.acknowledged() == n)?;
                }
                Ok(())
            })
        },
        |side| {
            let mut end = Endpoint::new(variant, &arena, false);
            (1..=plan.steps()).try_for_each(|n| {
                end.expect(side)?;
                if variant.ack {
                    end.acknowledge()?;
                }
                end.send()?;
                if variant.ack {
                    side.wait(|| end.acknowledged() == n)?;
                }
                Ok(())
            })
        },
    )?;
    Ok(round_trip / 2.0)
}

/// Messages per second in one direction with 64 outstanding, in millions; one ack per poll.
pub fn rate(rig: &Rig, variant: Variant) -> io::Result<f64> {
    const BATCH: u64 = 2000;
    const BATCHES: u64 = 200;
    let arena = prepare()?;
    rig.pair(
        |side| {
            let mut end = Endpoint::new(variant, &arena, true);
            let mut rates = Vec::new();
            let mut known = 0;
            for _ in 0..BATCHES {
                let start = Instant::now();
                for _ in 0..BATCH {
                    if end.sent - known == WINDOW {
                        side.wait(|| end.acknowledged() != known)?;
                        known = end.acknowledged();
                    }
                    end.send()?;
                }
                rates.push(BATCH as f64 / start.elapsed().as_secs_f64() / 1e6);
            }
            side.wait(|| end.acknowledged() == BATCH * BATCHES)?;
            Ok(crate::rig::median(&rates))
        },
        |side| {
            let mut end = Endpoint::new(variant, &arena, false);
            while end.received < BATCH * BATCHES {
                end.expect(side)?;
                let until = end.received + POLL_BATCH - 1;
                while end.received < until && end.receive()? {}
                end.acknowledge()?;
            }
            Ok(())
        },
    )
}
