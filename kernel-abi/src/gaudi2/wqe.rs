//! Work queue entries. A post always writes both rings at the same slot: the send WQE says what to do and how the peer
//! is told, the "receive" WQE of the SENDER says how the sender is told once the acknowledgement is there.

bit_struct! {
    /// Send WQE, 32-byte form. In the inline form the remote address sits where the local one normally does and 16
    /// bytes of data fill the rest; see [`SendWqe::write_inline`].
    pub struct SendWqe [32] {
        /// see [`opcode`]
        opcode set_opcode with_opcode: u8 = 0, 5;
        trace_data set_trace_data with_trace_data: bool = 5, 1;
        trace_en set_trace_en with_trace_en: bool = 6, 1;
        /// must be 0 (syndrome 0x90)
        reserved0 set_reserved0 with_reserved0: bool = 7, 1;
        /// low 8 bits of the slot number, checked by hardware (syndrome 0x91)
        wqe_index set_wqe_index with_wqe_index: u8 = 8, 8;
        /// see [`reduction`]
        reduction set_reduction with_reduction: u16 = 16, 13;
        solicited set_solicited with_solicited: bool = 29, 1;
        inline set_inline with_inline: bool = 30, 1;
        ack_req set_ack_req with_ack_req: bool = 31, 1;
        /// bytes
        size set_size with_size: u32 = 32, 32;
        local_addr set_local_addr with_local_addr: u64 = 64, 64;
        remote_addr set_remote_addr with_remote_addr: u64 = 128, 64;
        /// appears in the responder's completion
        tag set_tag with_tag: u32 = 192, 32;
        remote_sob_addr set_remote_sob_addr with_remote_sob_addr: u32 = 224, 27;
        sob_data set_sob_data with_sob_data: u8 = 251, 2;
        sob_cmd set_sob_cmd with_sob_cmd: bool = 253, 1;
        /// how the responder is told; see [`super::comp_type`]
        comp_type set_comp_type with_comp_type: u8 = 254, 2;
    }
}

bit_struct! {
    /// Send WQE, 64-byte form (granularity 1): the 32-byte form and the strides.
    pub struct SendWqe64 [64] {
        opcode set_opcode with_opcode: u8 = 0, 5;
        trace_data set_trace_data with_trace_data: bool = 5, 1;
        trace_en set_trace_en with_trace_en: bool = 6, 1;
        reserved0 set_reserved0 with_reserved0: bool = 7, 1;
        wqe_index set_wqe_index with_wqe_index: u8 = 8, 8;
        reduction set_reduction with_reduction: u16 = 16, 13;
        solicited set_solicited with_solicited: bool = 29, 1;
        inline set_inline with_inline: bool = 30, 1;
        ack_req set_ack_req with_ack_req: bool = 31, 1;
        size set_size with_size: u32 = 32, 32;
        local_addr set_local_addr with_local_addr: u64 = 64, 64;
        remote_addr set_remote_addr with_remote_addr: u64 = 128, 64;
        tag set_tag with_tag: u32 = 192, 32;
        remote_sob_addr set_remote_sob_addr with_remote_sob_addr: u32 = 224, 27;
        sob_data set_sob_data with_sob_data: u8 = 251, 2;
        sob_cmd set_sob_cmd with_sob_cmd: bool = 253, 1;
        comp_type set_comp_type with_comp_type: u8 = 254, 2;
        stride1 set_stride1 with_stride1: u32 = 256, 32;
        stride2 set_stride2 with_stride2: u32 = 288, 32;
        /// remote stride 1 in the dual form
        stride3 set_stride3 with_stride3: u32 = 320, 32;
        /// remote stride 2 in the dual form
        stride4 set_stride4 with_stride4: u32 = 352, 32;
        n_strides1 set_n_strides1 with_n_strides1: u16 = 384, 16;
        n_strides2 set_n_strides2 with_n_strides2: u16 = 400, 16;
        n_strides3 set_n_strides3 with_n_strides3: u16 = 416, 16;
        n_strides4 set_n_strides4 with_n_strides4: u16 = 432, 16;
        stride_size set_stride_size with_stride_size: u32 = 448, 32;
        reserved1 set_reserved1 with_reserved1: u32 = 480, 32;
    }
}

bit_struct! {
    /// Receive WQE: same slot as the send WQE, in the sender's own receive ring.
    pub struct RecvWqe [16] {
        opcode set_opcode with_opcode: u8 = 0, 5;
        reserved0 set_reserved0 with_reserved0: u8 = 5, 3;
        wqe_index set_wqe_index with_wqe_index: u8 = 8, 8;
        reserved1 set_reserved1 with_reserved1: u16 = 16, 15;
        sob_cmd set_sob_cmd with_sob_cmd: bool = 31, 1;
        local_sob_addr set_local_sob_addr with_local_sob_addr: u32 = 32, 27;
        sob_data set_sob_data with_sob_data: u8 = 59, 3;
        /// how the requester is told; see [`super::comp_type`]
        comp_type set_comp_type with_comp_type: u8 = 62, 2;
        /// bytes of the whole message
        size set_size with_size: u32 = 64, 32;
        tag set_tag with_tag: u32 = 96, 32;
    }
}

/// WQE opcodes.
pub mod opcode {
    pub const NOP: u8 = 0;
    pub const SEND: u8 = 1;
    pub const LINEAR: u8 = 2;
    pub const STRIDE: u8 = 3;
    pub const MULTI_STRIDE: u8 = 4;
    pub const RDV_WRITE: u8 = 5;
    pub const RDV_READ: u8 = 6;
    pub const QOS_UPDATE: u8 = 7;
    pub const MULTI_STRIDE_DUAL: u8 = 8;
    /// in the simulator's enum, not in the kernel's
    pub const ATOMIC_FETCH_ADD: u8 = 9;
}

/// Reduction operand: enable bit 0, type 4:1, operation 6:5, rounding 8:7 (hl-thunk tests). A code without the enable
/// bit is an error (syndrome 0xb4).
pub mod reduction {
    pub const ENABLE: u16 = 1;

    pub const TYPE_I8: u16 = 0;
    pub const TYPE_I16: u16 = 1 << 1;
    pub const TYPE_I32: u16 = 2 << 1;
    pub const TYPE_U8: u16 = 3 << 1;
    pub const TYPE_U16: u16 = 4 << 1;
    pub const TYPE_U32: u16 = 5 << 1;
    pub const TYPE_BF16: u16 = 6 << 1;
    pub const TYPE_FP32: u16 = 7 << 1;
    pub const TYPE_FP16: u16 = 8 << 1;
    pub const TYPE_UPSCALE_FP16: u16 = 0xc << 1;
    pub const TYPE_UPSCALE_BF16: u16 = 0xd << 1;

    pub const OP_ADD: u16 = 0;
    pub const OP_SUB: u16 = 1 << 5;
    pub const OP_MIN: u16 = 2 << 5;
    pub const OP_MAX: u16 = 3 << 5;
}

impl SendWqe {
    /// A plain WRITE that asks for an acknowledgement; the responder is not told unless a completion type is added.
    #[inline]
    pub const fn write(slot: u32, size: u32, local_addr: u64, remote_addr: u64) -> Self {
        Self::ZERO
            .with_opcode(opcode::LINEAR)
            .with_wqe_index(slot as u8)
            .with_ack_req(true)
            .with_size(size)
            .with_local_addr(local_addr)
            .with_remote_addr(remote_addr)
    }

    /// Lets the responder see `tag` in a completion entry.
    #[inline]
    #[must_use]
    pub const fn notify(self, tag: u32) -> Self {
        self.with_tag(tag).with_comp_type(super::comp_type::CQ)
    }

    /// The inline form: 16 bytes of data in the WQE itself, no tag and no remote completion. Hardware wants `size` to
    /// be the configured inline size (syndrome 0x8d).
    pub const fn write_inline(slot: u32, remote_addr: u64, data: [u8; 16]) -> Self {
        Self {
            words: [
                Self::ZERO
                    .with_opcode(opcode::LINEAR)
                    .with_wqe_index(slot as u8)
                    .with_inline(true)
                    .with_ack_req(true)
                    .with_size(super::INLINE_SIZE)
                    .words[0],
                remote_addr,
                le_word(&data, 0),
                le_word(&data, 8),
            ],
        }
    }

    /// Remote address of the inline form.
    #[inline]
    pub const fn inline_remote_addr(&self) -> u64 {
        self.words[1]
    }

    #[inline]
    pub const fn inline_data(&self) -> [u8; 16] {
        (self.words[2] as u128 | (self.words[3] as u128) << 64).to_le_bytes()
    }
}

impl SendWqe64 {
    /// The 32-byte form, widened; strides zero.
    #[inline]
    pub const fn from_short(short: SendWqe) -> Self {
        let w = short.words;
        Self {
            words: [w[0], w[1], w[2], w[3], 0, 0, 0, 0],
        }
    }

    /// The first half.
    #[inline]
    pub const fn short(&self) -> SendWqe {
        SendWqe {
            words: [self.words[0], self.words[1], self.words[2], self.words[3]],
        }
    }

    /// The inline form with 48 bytes of data.
    pub const fn write_inline(slot: u32, remote_addr: u64, data: [u8; 48]) -> Self {
        let mut wqe = Self::from_short(SendWqe::write_inline(slot, remote_addr, [0; 16]));
        wqe.set_size(super::INLINE_SIZE_64);
        let mut i = 0;
        while i < 6 {
            wqe.words[2 + i] = le_word(&data, 8 * i);
            i += 1;
        }
        wqe
    }

    #[inline]
    pub const fn inline_remote_addr(&self) -> u64 {
        self.words[1]
    }

    pub const fn inline_data(&self) -> [u8; 48] {
        let mut data = [0; 48];
        let mut i = 0;
        while i < 48 {
            data[i] = (self.words[2 + i / 8] >> (8 * (i % 8))) as u8;
            i += 1;
        }
        data
    }
}

impl RecvWqe {
    /// Companion of a send WQE; `comp_type` decides whether the sender gets a completion entry.
    #[inline]
    pub const fn companion(slot: u32, opcode: u8, size: u32, comp_type: u8, tag: u32) -> Self {
        Self::ZERO
            .with_opcode(opcode)
            .with_wqe_index(slot as u8)
            .with_size(size)
            .with_comp_type(comp_type)
            .with_tag(tag)
    }
}

const fn le_word<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    let mut word = 0;
    let mut i = 0;
    while i < 8 {
        word |= (bytes[at + i] as u64) << (8 * i);
        i += 1;
    }
    word
}
