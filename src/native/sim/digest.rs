//! A 128-bit digest of a state: what model checks know a state by.

use std::fmt::{Debug, Write};

/// Takes in values one after the other.
#[derive(Clone)]
pub struct Digest(u64, u64);

impl Default for Digest {
    fn default() -> Digest {
        Digest(0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344)
    }
}

impl Digest {
    #[inline]
    pub fn word(&mut self, w: u64) {
        self.0 = (self.0.rotate_left(23) ^ w).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.1 = (self.1.rotate_left(29) ^ w).wrapping_mul(0xd6e8_feb8_6659_fd93);
    }

    pub fn bytes(&mut self, b: &[u8]) {
        self.word(b.len() as u64);
        for c in b.chunks(8) {
            let mut w = [0u8; 8];
            w[..c.len()].copy_from_slice(c);
            self.word(u64::from_ne_bytes(w));
        }
    }

    /// Anything, by what it prints.
    pub fn value(&mut self, v: &impl Debug) {
        write!(self, "{v:?}").unwrap();
        self.word(0x1f);
    }

    pub fn finish(mut self) -> u128 {
        for _ in 0..3 {
            self.word(self.0 >> 32 ^ self.1);
        }
        u128::from(self.0) << 64 | u128::from(self.1)
    }
}

impl Write for Digest {
    #[inline]
    fn write_str(&mut self, s: &str) -> std::fmt::Result {
        let b = s.as_bytes();
        if b.len() < 8 {
            let mut w = [0u8; 8];
            w[..b.len()].copy_from_slice(b);
            w[7] = b.len() as u8;
            self.word(u64::from_ne_bytes(w));
        } else {
            self.bytes(b);
        }
        Ok(())
    }
}
