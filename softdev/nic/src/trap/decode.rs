//! Stores to memory in x86-64 code: just enough for what compilers emit for a 32- or 64-bit register write.
//!
//! Encodings from the Intel SDM vol. 2. The address comes with the signal, so of the operand only the length matters.

/// Where the value of a store comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operand {
    Register(u8),
    /// XCHG: the register takes what was in memory.
    Exchange(u8),
    Immediate(i64),
    /// Bytes of an XMM register from `from` on.
    Vector {
        register: u8,
        from: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Store {
    /// Bytes of the whole instruction.
    pub(super) len: usize,
    /// Bytes stored.
    pub(super) width: usize,
    pub(super) operand: Operand,
}

#[derive(Default)]
struct Prefix {
    operand16: bool,
    repeat: Option<u8>,
    rex: u8,
}

struct Reader<'a> {
    code: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn next(&mut self) -> Option<u8> {
        let byte = *self.code.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    /// Skips the memory operand; the register field. `None` for a register operand.
    fn modrm(&mut self) -> Option<u8> {
        let byte = self.next()?;
        let (kind, reg, rm) = (byte >> 6, byte >> 3 & 7, byte & 7);
        let mut displacement = match kind {
            0 if rm == 5 => 4,
            0 => 0,
            1 => 1,
            2 => 4,
            _ => return None,
        };
        if rm == 4 {
            let sib = self.next()?;
            if kind == 0 && sib & 7 == 5 {
                displacement = 4;
            }
        }
        self.at += displacement;
        Some(reg)
    }

    fn immediate(&mut self, bytes: usize) -> Option<i64> {
        let mut value = 0u64;
        for i in 0..bytes {
            value |= u64::from(self.next()?) << (8 * i);
        }
        let unused = 64 - 8 * bytes as u32;
        Some((value << unused) as i64 >> unused)
    }
}

/// Decodes a store; `None` for anything else.
pub(super) fn decode(code: &[u8]) -> Option<Store> {
    let mut r = Reader { code, at: 0 };
    let mut p = Prefix::default();
    let opcode = loop {
        match r.next()? {
            0x66 => p.operand16 = true,
            b @ (0xf2 | 0xf3) => p.repeat = Some(b),
            0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0x67 | 0xf0 => {}
            b @ 0x40..=0x4f => {
                p.rex = b;
                break r.next()?;
            }
            b => break b,
        }
    };
    let (width, operand) = match opcode {
        0x0f => two_byte(&mut r, &p)?,
        0xc4 | 0xc5 => vex(&mut r, opcode)?,
        _ => general(&mut r, &p, opcode)?,
    };
    (r.at <= code.len()).then_some(Store {
        len: r.at,
        width,
        operand,
    })
}

fn general(r: &mut Reader<'_>, p: &Prefix, opcode: u8) -> Option<(usize, Operand)> {
    let wide = match (p.rex & 8 != 0, p.operand16) {
        (true, _) => 8,
        (_, true) => 2,
        _ => 4,
    };
    let extend = (p.rex & 4) << 1;
    Some(match opcode {
        0x89 => (wide, Operand::Register(r.modrm()? | extend)),
        0x87 => (wide, Operand::Exchange(r.modrm()? | extend)),
        0xc7 => {
            if r.modrm()? != 0 {
                return None;
            }
            (wide, Operand::Immediate(r.immediate(wide.min(4))?))
        }
        _ => return None,
    })
}

fn two_byte(r: &mut Reader<'_>, p: &Prefix) -> Option<(usize, Operand)> {
    let opcode = r.next()?;
    let extend = (p.rex & 4) << 1;
    if opcode == 0xc3 && !p.operand16 {
        // MOVNTI
        let width = if p.rex & 8 != 0 { 8 } else { 4 };
        return Some((width, Operand::Register(r.modrm()? | extend)));
    }
    let kind = match (p.repeat, p.operand16) {
        (Some(0xf3), _) => 2,
        (Some(_), _) => 3,
        (None, true) => 1,
        (None, false) => 0,
    };
    let (width, from) = vector(opcode, kind, p.rex & 8 != 0)?;
    Some((
        width,
        Operand::Vector {
            register: r.modrm()? | extend,
            from,
        },
    ))
}

fn vex(r: &mut Reader<'_>, form: u8) -> Option<(usize, Operand)> {
    let first = r.next()?;
    let (last, w) = if form == 0xc4 {
        // Only the map of the two-byte opcodes.
        if first & 0x1f != 1 {
            return None;
        }
        let last = r.next()?;
        (last, last & 0x80 != 0)
    } else {
        (first, false)
    };
    // 256-bit stores span more than a register.
    if last & 4 != 0 {
        return None;
    }
    let opcode = r.next()?;
    let (width, from) = vector(opcode, last & 3, w)?;
    let extend = if first & 0x80 == 0 { 8 } else { 0 };
    Some((
        width,
        Operand::Vector {
            register: r.modrm()? | extend,
            from,
        },
    ))
}

/// Width of a vector store and where in the register it begins. `kind`: no prefix, 66, F3, F2.
fn vector(opcode: u8, kind: u8, w: bool) -> Option<(usize, usize)> {
    Some(match (opcode, kind) {
        // MOVUPS, MOVUPD, MOVSS, MOVSD
        (0x11, 0 | 1) => (16, 0),
        (0x11, 2) => (4, 0),
        (0x11, _) => (8, 0),
        // MOVLPS, MOVLPD; MOVHPS, MOVHPD
        (0x13, 0 | 1) => (8, 0),
        (0x17, 0 | 1) => (8, 8),
        // MOVAPS, MOVAPD, MOVNTPS, MOVNTPD
        (0x29 | 0x2b, 0 | 1) => (16, 0),
        // MOVDQA, MOVDQU
        (0x7f, 1 | 2) => (16, 0),
        // MOVD, MOVQ
        (0x7e, 1) => (if w { 8 } else { 4 }, 0),
        (0xd6, 1) => (8, 0),
        // MOVNTDQ
        (0xe7, 1) => (16, 0),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(code: &[u8], width: usize, operand: Operand) {
        let mut padded = code.to_vec();
        padded.resize(15, 0x90);
        assert_eq!(
            decode(&padded),
            Some(Store {
                len: code.len(),
                width,
                operand
            }),
            "{code:02x?}"
        );
    }

    #[test]
    fn stores_of_compilers() {
        use Operand::*;
        check(&[0x89, 0x08], 4, Register(1)); // mov [rax], ecx
        check(&[0x48, 0x89, 0x30], 8, Register(6)); // mov [rax], rsi
        check(&[0x4c, 0x89, 0x44, 0x24, 0x10], 8, Register(8)); // mov [rsp+16], r8
        check(&[0x41, 0x89, 0x93, 0x04, 1, 0, 0], 4, Register(2)); // mov [r11+0x104], edx
        check(&[0x89, 0x05, 1, 2, 3, 4], 4, Register(0)); // mov [rip+...], eax
        check(&[0x89, 0x0c, 0x25, 1, 2, 3, 4], 4, Register(1)); // mov [disp32], ecx
        check(&[0xc7, 0x00, 5, 0, 0, 0], 4, Immediate(5));
        check(
            &[0x48, 0xc7, 0x40, 8, 0xff, 0xff, 0xff, 0xff],
            8,
            Immediate(-1),
        );
        check(&[0x48, 0x87, 0x07], 8, Exchange(0)); // xchg [rdi], rax
        check(&[0x0f, 0xc3, 0x07], 4, Register(0)); // movnti
        check(&[0x48, 0x0f, 0xc3, 0x07], 8, Register(0));
        check(
            &[0x0f, 0x11, 0x07],
            16,
            Vector {
                register: 0,
                from: 0,
            },
        );
        check(
            &[0x0f, 0x29, 0x07],
            16,
            Vector {
                register: 0,
                from: 0,
            },
        );
        check(
            &[0x66, 0x0f, 0xd6, 0x47, 8],
            8,
            Vector {
                register: 0,
                from: 0,
            },
        );
        check(
            &[0x66, 0x44, 0x0f, 0xd6, 0x07],
            8,
            Vector {
                register: 8,
                from: 0,
            },
        );
        check(
            &[0xf3, 0x0f, 0x7f, 0x0f],
            16,
            Vector {
                register: 1,
                from: 0,
            },
        );
        check(
            &[0x66, 0x0f, 0xe7, 0x0f],
            16,
            Vector {
                register: 1,
                from: 0,
            },
        );
        check(
            &[0xc5, 0xf9, 0xd6, 0x07],
            8,
            Vector {
                register: 0,
                from: 0,
            },
        ); // vmovq [rdi], xmm0
        check(
            &[0xc5, 0xfa, 0x7f, 0x0f],
            16,
            Vector {
                register: 1,
                from: 0,
            },
        ); // vmovdqu
        check(
            &[0xc5, 0x79, 0xd6, 0x07],
            8,
            Vector {
                register: 8,
                from: 0,
            },
        );
        check(
            &[0xc4, 0xc1, 0x79, 0xd6, 0x00],
            8,
            Vector {
                register: 0,
                from: 0,
            },
        ); // vmovq [r8], xmm0
    }

    #[test]
    fn what_is_no_store_is_refused() {
        for code in [
            &[0x8b, 0x00][..],
            &[0x89, 0xc8],
            &[0xc7, 0xc0, 1, 0, 0, 0],
            &[0xc5, 0xfe, 0x7f, 0x07],
            &[0x90],
            &[0x66; 15],
        ] {
            assert_eq!(decode(code), None, "{code:02x?}");
        }
    }
}
