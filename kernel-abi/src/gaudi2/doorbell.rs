//! User doorbell FIFOs and CQ acknowledgement registers, both on "UMR" pages of a port.

bit_struct! {
    /// One FIFO entry. Storing the high half pushes it, so a producer writes low then high, or both as one store.
    pub struct Doorbell [8] {
        /// new producer index of the WQ: next free slot, modulo the ring
        pi set_pi with_pi: u32 = 0, 22;
        reserved set_reserved with_reserved: u16 = 22, 10;
        qpn set_qpn with_qpn: u32 = 32, 24;
        /// software writes the IB port or 0; nothing is known to check it
        port set_port with_port: u8 = 56, 8;
    }
}

impl Doorbell {
    #[inline]
    pub const fn new(qpn: u32, pi: u32, port: u8) -> Self {
        Self::ZERO.with_pi(pi).with_qpn(qpn).with_port(port)
    }

    #[inline]
    pub const fn raw(&self) -> u64 {
        self.words[0]
    }

    #[inline]
    pub const fn from_raw(raw: u64) -> Self {
        Self { words: [raw] }
    }

    #[inline]
    pub const fn first32(&self) -> u32 {
        self.words[0] as u32
    }

    #[inline]
    pub const fn second32(&self) -> u32 {
        (self.words[0] >> 32) as u32
    }
}

/// Register offsets in a UMR page. A page serves two FIFOs and two CQs.
pub mod umr {
    pub const DB0_FIRST32: u32 = 0x000;
    pub const DB0_SECOND32: u32 = 0x004;
    pub const DB0_THIRD32: u32 = 0x008;
    pub const DB0_FOURTH32: u32 = 0x00c;
    pub const DB1_FIRST32: u32 = 0x080;
    pub const DB1_SECOND32: u32 = 0x084;
    pub const DB1_THIRD32: u32 = 0x088;
    pub const DB1_FOURTH32: u32 = 0x08c;
    pub const CQ0_NUM: u32 = 0x100;
    pub const CQ0_CI: u32 = 0x104;
    pub const CQ1_NUM: u32 = 0x180;
    pub const CQ1_CI: u32 = 0x184;
}

pub const UMR_PAGE_SIZE: usize = 4096;
/// Pages per port.
pub const UMR_PAGES: usize = 15;

/// Page of a FIFO id (1..=30); `None` outside.
pub const fn fifo_page(fifo: u32) -> Option<usize> {
    match fifo {
        1..=30 => Some(((fifo - 1) / 2) as usize),
        _ => None,
    }
}

/// Offset of a FIFO's registers in its page.
pub const fn fifo_offset(fifo: u32) -> u32 {
    if fifo % 2 == 1 {
        umr::DB0_FIRST32
    } else {
        umr::DB1_FIRST32
    }
}

/// Page of a user CQ id (2..=15); `None` outside.
pub const fn cq_page(cq: u32) -> Option<usize> {
    match cq {
        2..=15 => Some((cq / 2 - 1) as usize),
        _ => None,
    }
}

/// Offset of a CQ's number and consumer index registers in its page.
pub const fn cq_offset(cq: u32) -> u32 {
    if cq.is_multiple_of(2) {
        umr::CQ0_NUM
    } else {
        umr::CQ1_NUM
    }
}

/// Free entries of a FIFO for a producer index and the value read from the CI page. That value lags by one pop and the
/// difference is taken modulo the size, so a FIFO filled to its last entry looks empty: keep two entries free.
pub const fn fifo_free(pi: u32, ci: u32) -> u32 {
    let entries = crate::hbl::DB_FIFO_ENTRIES;
    entries - (entries.wrapping_add(pi).wrapping_sub(ci) & (entries - 1))
}

/// What the hardware writes to the CI page after so many pops: one less than the count, so the first pop shows nothing.
pub const fn fifo_ci_after_pops(pops: u32) -> u32 {
    if pops == 0 {
        0
    } else {
        (pops - 1) % crate::hbl::DB_FIFO_ENTRIES
    }
}
