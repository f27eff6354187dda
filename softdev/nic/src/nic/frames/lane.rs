//! A ring of lines with one writer and one reader. A frame begins on a line: a word with its position and length, then its bytes. Before
//! the word is published the one behind the frame is cleared, so the reader needs no index of the writer's, and finds a frame and the word that
//! announces it in one line.

use crate::shm::Mapping;
use kernel_abi::ext::FRAME_MAX;
use std::sync::atomic::Ordering::*;

const LINE: u64 = 64;
const LINES: u32 = 2048;
/// Of one lane.
pub(crate) const BYTES: u64 = LINES as u64 * LINE;
/// Before a frame's bytes.
const WORD: usize = 8;
const THERE: u64 = 1 << 31;

fn lines_of(len: usize) -> u32 {
    (WORD + len).div_ceil(LINE as usize) as u32
}

/// Where a lane is.
#[derive(Clone, Copy)]
pub(crate) struct Lane<'a> {
    map: &'a Mapping,
    data: u64,
    /// The reader's position.
    head: u64,
}

impl<'a> Lane<'a> {
    pub(crate) fn new(map: &'a Mapping, data: u64, head: u64) -> Lane<'a> {
        Lane { map, data, head }
    }

    fn line(&self, position: u32) -> u64 {
        self.data + u64::from(position % LINES) * LINE
    }

    /// The part of a frame's bytes that lies before the end of the ring.
    fn split(&self, position: u32, len: usize) -> (u64, usize) {
        let at = self.line(position) + WORD as u64;
        let left = self.data + BYTES - at;
        (at, len.min(usize::try_from(left).unwrap_or(len)))
    }

    fn position(&self) -> u32 {
        self.map.w32(self.head).load(Acquire)
    }
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Push {
    Done,
    Full,
    /// The reader's position makes no sense.
    Broken,
}

/// The writer's side.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Writer {
    tail: u32,
    /// The reader's position when it was looked at last.
    head: u32,
}

impl Writer {
    /// Before the reader knows of the lane.
    pub(crate) fn begin(lane: Lane<'_>) -> Writer {
        let head = lane.position();
        lane.map.w64(lane.line(head)).store(0, Release);
        Writer { tail: head, head }
    }

    #[inline]
    pub(crate) fn push(&mut self, lane: Lane<'_>, frame: &[u8]) -> Push {
        if frame.len() > FRAME_MAX {
            return Push::Broken;
        }
        let lines = lines_of(frame.len());
        // One more, for the word behind the frame.
        let fits = |head: u32| self.tail.wrapping_sub(head) + lines < LINES;
        if !fits(self.head) {
            let head = lane.position();
            if self.tail.wrapping_sub(head) > LINES {
                return Push::Broken;
            }
            self.head = head;
            if !fits(head) {
                return Push::Full;
            }
        }
        let next = self.tail.wrapping_add(lines);
        lane.map.w64(lane.line(next)).store(0, Relaxed);
        let (at, first) = lane.split(self.tail, frame.len());
        let (front, rest) = frame.split_at(first);
        lane.map.put(at, front);
        lane.map.put(lane.data, rest);
        let word = u64::from(self.tail) << 32 | THERE | frame.len() as u64;
        lane.map.w64(lane.line(self.tail)).store(word, Release);
        self.tail = next;
        Push::Done
    }

    /// Whether the reader has moved since the last attempt.
    pub(crate) fn has_moved(&self, lane: Lane<'_>) -> bool {
        lane.position() != self.head
    }
}

/// What a look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pop {
    Empty,
    Frame(usize),
    /// No frame can look like that.
    Broken,
}

/// The reader's side.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader {
    head: u32,
}

impl Reader {
    pub(crate) fn begin(lane: Lane<'_>) -> Reader {
        Reader {
            head: lane.position(),
        }
    }

    #[inline]
    pub(crate) fn is_empty(&self, lane: Lane<'_>) -> bool {
        lane.map.w64(lane.line(self.head)).load(Acquire) == 0
    }

    /// Takes a frame; its bytes are copied before anything looks at them.
    #[inline]
    pub(crate) fn pop(&mut self, lane: Lane<'_>, out: &mut [u8]) -> Pop {
        let word = lane.map.w64(lane.line(self.head)).load(Acquire);
        if word == 0 {
            return Pop::Empty;
        }
        let len = (word & (THERE - 1)) as usize;
        if (word >> 32) as u32 != self.head || word & THERE == 0 || len > FRAME_MAX {
            return Pop::Broken;
        }
        let Some(out) = out.get_mut(..len) else {
            return Pop::Broken;
        };
        let (at, first) = lane.split(self.head, len);
        let (front, rest) = out.split_at_mut(first);
        lane.map.get(at, front);
        lane.map.get(lane.data, rest);
        self.head = self.head.wrapping_add(lines_of(len));
        lane.map.w32(lane.head).store(self.head, Release);
        Pop::Frame(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::memfd::MemFile;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    const HEAD: u64 = BYTES;

    fn file() -> MemFile {
        crate::shm::fork::begin().unwrap();
        MemFile::create("lane-test", BYTES + 4096).unwrap()
    }

    fn lane(file: &MemFile) -> Lane<'_> {
        Lane::new(&file.map, 0, HEAD)
    }

    /// Bytes that differ from frame to frame.
    fn frame(serial: u32, len: usize) -> Vec<u8> {
        (0..len as u32)
            .map(|i| (serial.wrapping_mul(31).wrapping_add(i) >> (i % 3)) as u8)
            .collect()
    }

    proptest! {
        #[test]
        fn it_is_a_queue(
            start in prop_oneof![Just(0u32), Just(u32::MAX - 100), any::<u32>()],
            ops in prop::collection::vec(prop_oneof![Just(None), (0usize..=FRAME_MAX).prop_map(Some), (0usize..100).prop_map(Some)], 1..400),
        ) {
            let file = file();
            let lane = lane(&file);
            // What was there before, words that look like frames among it.
            for at in (0..BYTES).step_by(8) {
                file.map.w64(at).store((at / 64) << 32 | THERE | 64, Relaxed);
            }
            file.map.w32(HEAD).store(start, Relaxed);
            let mut writer = Writer::begin(lane);
            let mut reader = Reader::begin(lane);
            let mut oracle = VecDeque::new();
            let (mut used, mut serial) = (0, 0);
            let mut out = vec![0; FRAME_MAX];
            for op in ops {
                match op {
                    Some(len) => {
                        serial += 1;
                        let bytes = frame(serial, len);
                        let room = used + lines_of(len) < LINES;
                        prop_assert_eq!(writer.push(lane, &bytes), if room { Push::Done } else { Push::Full });
                        if room {
                            used += lines_of(len);
                            oracle.push_back(bytes);
                        }
                    }
                    None => match oracle.pop_front() {
                        Some(bytes) => {
                            prop_assert!(!reader.is_empty(lane));
                            prop_assert_eq!(reader.pop(lane, &mut out), Pop::Frame(bytes.len()));
                            prop_assert_eq!(&out[..bytes.len()], &bytes[..]);
                            used -= lines_of(bytes.len());
                        }
                        None => prop_assert_eq!(reader.pop(lane, &mut out), Pop::Empty),
                    },
                }
            }
        }

        /// Whatever stands there: no panic, no byte outside, and an end.
        #[test]
        fn garbage_is_survived(words in prop::collection::vec((0..BYTES / 8, any::<u64>()), 0..64), head: u32) {
            let file = file();
            let lane = lane(&file);
            for (at, word) in words {
                file.map.w64(at * 8).store(word, Relaxed);
            }
            file.map.w32(HEAD).store(head, Relaxed);
            let mut reader = Reader::begin(lane);
            let mut out = vec![0; FRAME_MAX];
            for _ in 0..100 {
                if !matches!(reader.pop(lane, &mut out), Pop::Frame(_)) {
                    break;
                }
            }
            let mut writer = Writer::begin(lane);
            file.map.w32(HEAD).store(head.wrapping_add(77), Relaxed);
            for _ in 0..LINES {
                if writer.push(lane, &[1; 60]) != Push::Done {
                    break;
                }
            }
        }
    }

    #[test]
    fn a_reader_ahead_of_its_writer_is_noticed() {
        let file = file();
        let lane = lane(&file);
        let mut writer = Writer::begin(lane);
        file.map.w32(HEAD).store(2 * LINES, Relaxed);
        let last = (0..LINES).map(|_| writer.push(lane, &[0; 8])).last();
        assert_eq!(last, Some(Push::Broken));
    }

    /// Two threads, as two processes would: every frame whole and in order.
    #[test]
    fn frames_arrive_whole() {
        let file = file();
        let lane = lane(&file);
        const FRAMES: u32 = 20_000;
        let (mut writer, mut reader) = (Writer::begin(lane), Reader::begin(lane));
        let length = |serial: u32| (serial as usize * 7919) % 600;
        std::thread::scope(|s| {
            s.spawn(|| {
                for serial in 0..FRAMES {
                    let bytes = frame(serial, length(serial));
                    while writer.push(lane, &bytes) != Push::Done {
                        std::thread::yield_now();
                    }
                }
            });
            let mut out = vec![0; FRAME_MAX];
            for serial in 0..FRAMES {
                loop {
                    match reader.pop(lane, &mut out) {
                        Pop::Empty => std::thread::yield_now(),
                        Pop::Frame(n) => {
                            assert_eq!(out[..n], frame(serial, length(serial))[..]);
                            break;
                        }
                        Pop::Broken => panic!("frame {serial}"),
                    }
                }
            }
        });
    }
}
