//! The messages that connections exchange through their mailboxes (docs/design.md, section 4).

use crate::native::Window;

/// Version of the protocol; HELLOs with another one are refused.
pub const VERSION: u32 = 2;
pub const LINE: usize = 64;

// Offsets in the mailbox. The staging half mirrors what the peer's receiving half will hold.
pub const ACK: usize = 0x0000;
pub const HELLO: usize = 0x0080;
pub const ABORT: usize = 0x0100;
pub const RESPONSE: usize = 0x0800;
pub const REQUEST: usize = 0x1000;
pub const STAGE_ACK: usize = 0x5000;
pub const STAGE_HELLO: usize = 0x5080;
pub const STAGE_ABORT: usize = 0x5100;
pub const STAGE_RESPONSE: usize = 0x5800;
pub const STAGE_REQUEST: usize = 0x6000;
/// Inline data of RDMA WRITEs on its way: slots of 256 bytes.
pub const STAGE_INLINE: usize = 0x5200;
pub const INLINE_SLOTS: usize = 6;
/// Most inline data of a request.
pub const INLINE_MAX: usize = 256;
pub const REQUEST_LINES: u32 = 256;
pub const RESPONSE_LINES: u32 = 32;
pub const HELLO_BYTES: usize = 64;
pub const ACK_BYTES: usize = 64;

/// Header and trailer.
pub const HEADER: usize = 16;
pub const TRAILER: usize = 8;
/// Payload of a message of one line, which every place for a response has.
pub const ONE_LINE: usize = LINE - HEADER - TRAILER;
/// Longest SEND whose payload travels in the mailbox: two pages and the header that layers above put before it (UCX cuts what is longer into
/// such pieces). More than half of the ring: it need not hold two. Unit tests do with one page, so that what is longer stays small.
pub const EAGER_MAX: usize = if cfg!(test) { 4096 } else { 8192 } + 64;
/// Most SGEs of a receive.
pub const MAX_SGE: usize = 16;

pub mod kind {
    pub const SEND: u8 = 1;
    /// A SEND whose payload is WRITTEN after a CTS.
    pub const RTS: u8 = 2;
    /// The payload of the RTS named in `aux` is there.
    pub const FIN: u8 = 3;
    /// Immediate of a WRITE_WITH_IMM whose data went before.
    pub const IMM: u8 = 4;
    /// Only its acknowledgement matters (zero-length WRITE).
    pub const NOP: u8 = 5;
    pub const KEY_QUERY: u8 = 6;
    /// The requester found that the responder must refuse: `aux` is a NAK code.
    pub const VIOLATION: u8 = 7;
    pub const READ: u8 = 8;
    pub const CAS: u8 = 9;
    pub const FETCH_ADD: u8 = 10;
    /// Eight bytes, stored at once.
    pub const ATOMIC_WRITE: u8 = 11;
    /// XRC: `aux` is the number of the SRQ that the requests behind it go to.
    pub const SRQ: u8 = 12;
    /// Skips to the start of the ring.
    pub const PAD: u8 = 15;
    pub const CTS: u8 = 16;
    pub const KEY: u8 = 17;
    /// The data of a READ: as payload up to one line, else WRITTEN before.
    pub const READ_DONE: u8 = 18;
    pub const ATOMIC_DONE: u8 = 19;
    pub const REVOKE: u8 = 20;
    pub const REVOKED: u8 = 21;
}

pub mod flag {
    pub const IMM: u8 = 1;
    pub const SOLICITED: u8 = 2;
    /// The requester may be asleep: acknowledge with a notification.
    pub const WAKE: u8 = 4;
    pub const INVALIDATE: u8 = 8;
}

/// Bit in the access word of a key answer: the owner's registration reaches further than what was answered.
pub const PARTIAL: u32 = 1 << 31;

/// NAK codes of the ack line; the first three as in AETH (IBTA 9.7.5.2.2).
pub mod nak {
    pub const RNR: u8 = 0x20;
    pub const INVALID_REQUEST: u8 = 1;
    pub const REMOTE_ACCESS: u8 = 2;
    pub const REMOTE_OPERATION: u8 = 3;
    /// Another protocol version.
    pub const VERSION: u8 = 9;
}

/// What a HELLO says about its QP.
pub mod feature {
    /// Its receives are shared with other QPs: the ack line's count of posted receives means nothing.
    pub const SHARED_RECEIVES: u32 = 1;
    pub const UC: u32 = 2;
    pub const XRC_INI: u32 = 4;
    pub const XRC_TGT: u32 = 8;

    /// Whether two QPs can be connected.
    pub fn fit(ours: u32, theirs: u32) -> bool {
        let kind = |f| f & (UC | XRC_INI | XRC_TGT);
        match kind(ours) {
            XRC_INI => kind(theirs) == XRC_TGT,
            XRC_TGT => kind(theirs) == XRC_INI,
            same => kind(theirs) == same,
        }
    }
}

/// A message header as it stands in the first 16 bytes of the first line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Header {
    pub seq: u32,
    pub kind: u8,
    pub flags: u8,
    pub lines: u16,
    pub len: u32,
    pub aux: u32,
}

impl Header {
    pub fn words(&self) -> (u64, u64) {
        let w0 = u64::from(self.seq)
            | u64::from(self.kind) << 32
            | u64::from(self.flags) << 40
            | u64::from(self.lines) << 48;
        (w0, u64::from(self.len) | u64::from(self.aux) << 32)
    }

    pub fn from_words(w0: u64, w1: u64) -> Header {
        Header {
            seq: w0 as u32,
            kind: (w0 >> 32) as u8,
            flags: (w0 >> 40) as u8,
            lines: (w0 >> 48) as u16,
            len: w1 as u32,
            aux: (w1 >> 32) as u32,
        }
    }
}

/// Lines of a message with `len` bytes behind the header.
pub fn lines_for(len: usize) -> u32 {
    ((HEADER + len + TRAILER).div_ceil(LINE)) as u32
}

/// Last word of a message: proof that all of it has arrived, and from whom.
pub fn trailer(nonce: u64, seq: u32, response: bool) -> u64 {
    let salt = if response { 0xA5A5_0000_5A5A_FFFF } else { 0 };
    nonce.wrapping_add(u64::from(seq).wrapping_mul(0x9E37_79B9_7F4A_7C15)) ^ salt
}

/// Reads the header of the message that must have number `seq` at `off`, whose ring ends at `end`: None when it has not (wholly) arrived. A
/// length that does not fit is answered as not arrived as well: the nonce in the trailer decides.
#[inline]
pub fn arrived(
    win: &Window,
    off: usize,
    end: usize,
    seq: u32,
    nonce: u64,
    response: bool,
) -> Option<Header> {
    let w0 = win.load64(off);
    if w0 as u32 != seq {
        return None;
    }
    let h = Header::from_words(w0, 0);
    let lines = if h.kind == kind::PAD {
        1
    } else {
        usize::from(h.lines)
    };
    let last = off + lines * LINE;
    if lines == 0 || last > end || off + usize::from(h.lines) * LINE > end {
        return None;
    }
    if win.load64(last - TRAILER) != trailer(nonce, seq, response) {
        return None;
    }
    // Only now: before the trailer the words come in no order.
    Some(Header::from_words(w0, win.load64(off + 8)))
}

/// Finishes a message whose payload stands in staging at `off`: header and trailer.
#[inline]
pub fn seal(win: &Window, off: usize, h: &Header, nonce: u64, response: bool) {
    let (w0, w1) = h.words();
    win.store64(off, w0);
    win.store64(off + 8, w1);
    let lines = if h.kind == kind::PAD {
        1
    } else {
        usize::from(h.lines)
    };
    win.store64(
        off + lines * LINE - TRAILER,
        trailer(nonce, h.seq, response),
    );
}

/// The 64-byte line of latest values that the peer writes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AckLine {
    /// Newest request executed, with all before it.
    pub acked: u32,
    /// Request lines consumed since the connection began.
    pub freed: u32,
    /// Receive WQEs posted since the connection began.
    pub posted: u32,
    /// The responder is cold and has looked at everything up to this request: the next one must notify it.
    pub armed: u32,
    /// NAK code, RNR timer code and request, or 0.
    pub nak_code: u8,
    pub nak_timer: u8,
    pub nak_seq: u32,
    /// Nonce of the requester whose messages are acknowledged.
    pub echo: u64,
}

impl AckLine {
    /// The three words that change.
    #[inline]
    pub fn words(&self) -> [u64; 3] {
        [
            u64::from(self.acked) | u64::from(self.freed) << 32,
            u64::from(self.posted) | u64::from(self.armed) << 32,
            u64::from(self.nak_seq) << 32
                | u64::from(self.nak_timer) << 8
                | u64::from(self.nak_code),
        ]
    }

    pub fn stage(&self, win: &Window) {
        win.store64(
            STAGE_ACK,
            u64::from(self.acked) | u64::from(self.freed) << 32,
        );
        win.store64(
            STAGE_ACK + 8,
            u64::from(self.posted) | u64::from(self.armed) << 32,
        );
        win.store64(
            STAGE_ACK + 16,
            u64::from(self.nak_seq) << 32
                | u64::from(self.nak_timer) << 8
                | u64::from(self.nak_code),
        );
        win.store64(STAGE_ACK + 56, self.echo);
    }

    #[inline]
    pub fn load(win: &Window) -> AckLine {
        let echo = win.load64(ACK + 56);
        let (a, b, c) = (win.load64(ACK), win.load64(ACK + 8), win.load64(ACK + 16));
        AckLine {
            acked: a as u32,
            freed: (a >> 32) as u32,
            posted: b as u32,
            armed: (b >> 32) as u32,
            nak_code: c as u8,
            nak_timer: (c >> 8) as u8,
            nak_seq: (c >> 32) as u32,
            echo,
        }
    }
}

/// First thing on a connection, both ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    pub version: u32,
    pub nonce: u64,
    pub from: u32,
    pub to: u32,
    pub request_lines: u32,
    pub response_lines: u32,
    pub eager_max: u32,
    /// Most SGEs of a receive of the sender of this HELLO: bounds its CTS.
    pub max_recv_sge: u32,
    /// READs and atomics that it will execute at a time.
    pub max_dest_rd_atomic: u32,
    pub features: u32,
    /// The connection of the receiver's that the sender has heard of (`mark` of its nonce), or 0.
    pub echo: u32,
}

/// What a HELLO names its receiver's connection by. Never 0: bit 40 of every nonce is set.
pub fn mark(nonce: u64) -> u32 {
    (nonce >> 32) as u32
}

const MAGIC: u64 = 0x3173_6272_6576_6167; // "gaverbs1"

impl Hello {
    fn check(&self) -> u64 {
        let mut x = MAGIC ^ self.nonce;
        for v in [
            self.version,
            self.from,
            self.to,
            self.request_lines,
            self.response_lines,
            self.eager_max,
            self.max_recv_sge,
            self.max_dest_rd_atomic,
            self.features,
            self.echo,
        ] {
            x = (x ^ u64::from(v))
                .wrapping_mul(0x9E37_79B9_7F4A_7C15)
                .rotate_left(29);
        }
        x
    }

    pub fn stage(&self, win: &Window) {
        let o = STAGE_HELLO;
        win.store64(o, MAGIC);
        win.store64(o + 8, self.nonce);
        win.store64(o + 16, u64::from(self.version) | u64::from(self.from) << 32);
        win.store64(
            o + 24,
            u64::from(self.to) | u64::from(self.request_lines) << 32,
        );
        win.store64(
            o + 32,
            u64::from(self.response_lines) | u64::from(self.eager_max) << 32,
        );
        win.store64(
            o + 40,
            u64::from(self.max_recv_sge) | u64::from(self.max_dest_rd_atomic) << 32,
        );
        win.store64(
            o + 48,
            u64::from(self.features) | u64::from(self.echo) << 32,
        );
        win.store64(o + 56, self.check());
    }

    /// The peer's HELLO, if one has wholly arrived.
    pub fn load(win: &Window) -> Option<Hello> {
        let o = HELLO;
        let check = win.load64(o + 56);
        if check == 0 || win.load64(o) != MAGIC {
            return None;
        }
        let w = |i: usize| win.load64(o + 8 * i);
        let (v, t, r, s) = (w(2), w(3), w(4), w(5));
        let h = Hello {
            nonce: w(1),
            version: v as u32,
            from: (v >> 32) as u32,
            to: t as u32,
            request_lines: (t >> 32) as u32,
            response_lines: r as u32,
            eager_max: (r >> 32) as u32,
            max_recv_sge: s as u32,
            max_dest_rd_atomic: (s >> 32) as u32,
            features: w(6) as u32,
            echo: (w(6) >> 32) as u32,
        };
        (h.check() == check).then_some(h)
    }
}

/// a is at or behind b on the circle of sequence numbers.
#[inline]
pub fn reached(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) >= 0
}

/// IBTA table 45: RNR timer codes in microseconds.
pub fn rnr_timer_us(code: u8) -> u64 {
    const HUNDREDTHS_MS: [u32; 32] = [
        65536, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024,
        1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768, 49152,
    ];
    u64::from(HUNDREDTHS_MS[usize::from(code & 31)]) * 10
}

/// The key that messages from `from` to `to` carry natively: stale traffic of an earlier owner of the number has another one.
pub fn native_key(from: u32, to: u32) -> u32 {
    let x = (u64::from(from) << 32 | u64::from(to)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    ((x >> 32) ^ x) as u32
}
