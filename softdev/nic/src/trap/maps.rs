//! Which file lies at an address. Async-signal-safe: raw system calls, a small buffer, for the stack may be.

use rustix::fs::{Mode, OFlags, open};

/// A place in a mapped file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) dev: u64,
    pub(super) ino: u64,
    pub(super) offset: u64,
}

/// Looks the address up in `/proc/thread-self/maps` (proc(5)).
pub(super) fn find(address: u64) -> Option<Place> {
    // The path is short enough for rustix to need no allocation.
    let fd = crate::shm::Fd::new(
        open(
            c"/proc/thread-self/maps",
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .ok()?,
    );
    let mut buffer = [0u8; 512];
    let mut scan = Scan::new(address);
    loop {
        match rustix::io::read(&fd, &mut buffer) {
            Ok(0) => return None,
            Ok(n) => {
                for byte in buffer.iter().take(n) {
                    if let Some(found) = scan.feed(*byte) {
                        return found;
                    }
                }
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
    }
}

/// `start-end perms offset major:minor inode path`, a byte at a time.
struct Scan {
    address: u64,
    /// start, end, (perms), offset, major, minor, inode
    fields: [u64; 7],
    field: usize,
    digits: usize,
}

const INODE: usize = 6;

impl Scan {
    fn new(address: u64) -> Scan {
        Scan {
            address,
            fields: [0; 7],
            field: 0,
            digits: 0,
        }
    }

    /// `Some` when a line decides: the place, or `None` for an address without a file.
    fn feed(&mut self, byte: u8) -> Option<Option<Place>> {
        if byte == b'\n' {
            let [start, end, _, offset, major, minor, ino] = self.fields;
            *self = Scan::new(self.address);
            if (start..end).contains(&self.address) {
                let dev = rustix::fs::makedev(major as u32, minor as u32);
                let place = Place {
                    dev,
                    ino,
                    offset: offset + (self.address - start),
                };
                return Some((ino != 0).then_some(place));
            }
            return None;
        }
        if self.field > INODE {
            return None;
        }
        if matches!(byte, b' ' | b'-' | b':') && !(self.field == 2 && byte == b'-') {
            // Several blanks in a row separate once.
            if self.digits > 0 {
                self.field += 1;
                self.digits = 0;
            }
            return None;
        }
        self.digits += 1;
        let radix = if self.field == INODE { 10 } else { 16 };
        if let (Some(digit), Some(value)) = (
            (byte as char).to_digit(radix),
            self.fields.get_mut(self.field),
        ) {
            *value = value
                .wrapping_mul(u64::from(radix))
                .wrapping_add(u64::from(digit));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_understood() {
        let text = "55d0-55e0 r--p 00000000 fe:00 12 /bin/x\n7f00-7f20 rw-s 800000000 00:01 1044   /memfd:gaudi (deleted)\n";
        let mut scan = Scan::new(0x7f10);
        let found = text.bytes().find_map(|b| scan.feed(b));
        let dev = rustix::fs::makedev(0, 1);
        assert_eq!(
            found,
            Some(Some(Place {
                dev,
                ino: 1044,
                offset: 0x8_0000_0010
            }))
        );
        let mut scan = Scan::new(0x7f20);
        assert_eq!(text.bytes().find_map(|b| scan.feed(b)), None);
    }

    #[test]
    fn our_own_stack_has_no_file() {
        let here = 0u8;
        assert_eq!(find(std::ptr::from_ref(&here) as u64), None);
    }
}
