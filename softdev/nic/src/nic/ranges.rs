//! Ranges of a region: first fit, page granular, neighbours merged.

use std::collections::BTreeMap;

const PAGE: u64 = 4096;

pub(crate) struct Ranges {
    /// Start to length of what is free.
    free: BTreeMap<u64, u64>,
}

impl Ranges {
    pub(crate) fn new(start: u64, len: u64) -> Ranges {
        Ranges {
            free: BTreeMap::from([(start, len)]),
        }
    }

    pub(crate) fn take(&mut self, len: u64) -> Option<u64> {
        let len = len.max(1).checked_next_multiple_of(PAGE)?;
        let (&start, &have) = self.free.iter().find(|(_, have)| **have >= len)?;
        self.free.remove(&start);
        if have > len {
            self.free.insert(start + len, have - len);
        }
        Some(start)
    }

    /// Returns what `take` gave for the same length.
    pub(crate) fn give(&mut self, start: u64, len: u64) {
        let mut start = start;
        let mut len = len.max(1).next_multiple_of(PAGE);
        if let Some((&before, &have)) = self.free.range(..start).next_back()
            && before + have == start
        {
            self.free.remove(&before);
            start = before;
            len += have;
        }
        if let Some(after) = self.free.remove(&(start + len)) {
            len += after;
        }
        self.free.insert(start, len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn nothing_overlaps_and_everything_comes_back(sizes in proptest::collection::vec(1u64..40_000, 1..40), order: u64) {
            let mut ranges = Ranges::new(0x1000, 1 << 20);
            let mut held: Vec<(u64, u64)> = Vec::new();
            for (i, size) in sizes.iter().enumerate() {
                if let Some(at) = ranges.take(*size) {
                    let end = at + size.next_multiple_of(PAGE);
                    prop_assert!(held.iter().all(|(a, l)| end <= *a || at >= a + l.next_multiple_of(PAGE)));
                    held.push((at, *size));
                }
                if order >> (i % 64) & 1 == 1 && !held.is_empty() {
                    let (at, size) = held.swap_remove(i % held.len());
                    ranges.give(at, size);
                }
            }
            for (at, size) in held {
                ranges.give(at, size);
            }
            prop_assert_eq!(ranges.take(1 << 20), Some(0x1000));
        }
    }
}
