//! Work queue and completion queue entries.

bit_struct! {
    /// Send WQE.
    pub struct SendWqe [32] {
        n_strides set_n_strides with_n_strides: u16 = 0, 16;
        reduction set_reduction with_reduction: u16 = 16, 9;
        reserved0 set_reserved0 with_reserved0: bool = 25, 1;
        stride_type set_stride_type with_stride_type: bool = 26, 1;
        ack_req set_ack_req with_ack_req: bool = 27, 1;
        /// see [`opcode`]
        opcode set_opcode with_opcode: u8 = 28, 4;
        local_addr set_local_addr with_local_addr: u64 = 32, 50;
        size set_size with_size: u16 = 82, 14;
        remote_addr set_remote_addr with_remote_addr: u64 = 96, 50;
        stride_size set_stride_size with_stride_size: u16 = 146, 14;
        remote_sob_addr set_remote_sob_addr with_remote_sob_addr: u32 = 160, 26;
        reserved1 set_reserved1 with_reserved1: u8 = 186, 5;
        /// the responder gets `sob_data`, as a completion when the address is 0
        sob_valid set_sob_valid with_sob_valid: bool = 191, 1;
        sob_data set_sob_data with_sob_data: u32 = 192, 32;
        stride set_stride with_stride: u32 = 224, 32;
    }
}

bit_struct! {
    /// Receive WQE; sits in the sender's ring, as on GAUDI2.
    pub struct RecvWqe [8] {
        sob_data set_sob_data with_sob_data: u32 = 0, 32;
        local_sob_addr set_local_sob_addr with_local_sob_addr: u32 = 32, 26;
        reserved0 set_reserved0 with_reserved0: u8 = 58, 4;
        cq_valid set_cq_valid with_cq_valid: bool = 62, 1;
        valid set_valid with_valid: bool = 63, 1;
    }
}

bit_struct! {
    /// Completion queue entry; the two kinds share bits, so requester fields are named and the responder's immediate is
    /// put together by [`Cqe::immediate`].
    pub struct Cqe [8] {
        /// requester
        qpn set_qpn with_qpn: u32 = 0, 23;
        is_responder set_is_responder with_is_responder: bool = 23, 1;
        /// requester
        wqe_index set_wqe_index with_wqe_index: u32 = 32, 22;
        valid set_valid with_valid: bool = 63, 1;
    }
}

impl Cqe {
    /// Low 22 bits at 53:32, high 10 at 9:0.
    #[inline]
    pub const fn immediate(&self) -> u32 {
        (self.words[0] >> 32) as u32 & 0x3f_ffff | (self.words[0] as u32 & 0x3ff) << 22
    }

    #[inline]
    pub const fn set_immediate(&mut self, imm: u32) {
        crate::layout::set_bits(&mut self.words, 32, 22, imm as u64);
        crate::layout::set_bits(&mut self.words, 0, 10, (imm >> 22) as u64);
    }

    /// Responder: the entry belongs to the odd port. Entries of an even port land in the CQ of its odd neighbour.
    #[inline]
    pub const fn is_odd_port(&self) -> bool {
        self.words[0] >> 10 & 1 != 0
    }

    #[inline]
    pub const fn set_odd_port(&mut self, odd: bool) {
        crate::layout::set_bits(&mut self.words, 10, 1, odd as u64);
    }
}

pub mod opcode {
    pub const NOP: u8 = 0;
    pub const SEND: u8 = 1;
    pub const LINEAR: u8 = 2;
    pub const STRIDE: u8 = 3;
    pub const MULTI_STRIDE: u8 = 4;
    pub const RATE_UPDATE: u8 = 5;
}

/// Sync object data.
pub mod sob {
    /// increment mode, by one
    pub const ADD_ONE: u32 = 0x8000_0001;
}

/// What a QMAN writes to a port's doorbell register.
pub const fn db_value(conn_id: u32, pi: u32) -> u64 {
    (conn_id as u64) << 22 | (pi & 0x3f_ffff) as u64
}
