//! What the NIC writes: completion and event queue entries.

bit_struct! {
    /// Completion queue entry. There is no status, length or opcode: an entry means success. Bits 25..=30 of word 0 are
    /// described nowhere and stay as found.
    pub struct Cqe [16] {
        qpn set_qpn with_qpn: u32 = 0, 24;
        /// set on the sender's entry, clear on the receiver's
        is_requester set_is_requester with_is_requester: bool = 24, 1;
        undescribed set_undescribed with_undescribed: u8 = 25, 6;
        /// written last by hardware, cleared by software
        valid set_valid with_valid: bool = 31, 1;
        wqe_index set_wqe_index with_wqe_index: u32 = 32, 32;
        /// the sender's tag, on the receiver's entry
        tag set_tag with_tag: u32 = 64, 32;
        size set_size with_size: u32 = 96, 32;
    }
}

impl Cqe {
    /// Valid entry for the sender.
    #[inline]
    pub const fn requester(qpn: u32, wqe_index: u32, tag: u32) -> Self {
        Self::ZERO
            .with_qpn(qpn)
            .with_is_requester(true)
            .with_wqe_index(wqe_index)
            .with_tag(tag)
            .with_valid(true)
    }

    /// Valid entry for the receiver.
    #[inline]
    pub const fn responder(qpn: u32, wqe_index: u32, tag: u32, size: u32) -> Self {
        Self::ZERO
            .with_qpn(qpn)
            .with_wqe_index(wqe_index)
            .with_tag(tag)
            .with_size(size)
            .with_valid(true)
    }

    /// Word 0 holds the valid bit; a producer stores it last, a consumer loads it first.
    #[inline]
    pub const fn word0(&self) -> u32 {
        self.words[0] as u32
    }
}

bit_struct! {
    /// Event queue entry; what the data words mean depends on [`Eqe::event_type`].
    pub struct Eqe [16] {
        /// see [`eqe_type`]
        event_type set_event_type with_event_type: u8 = 0, 4;
        valid set_valid with_valid: bool = 31, 1;
        data1 set_data1 with_data1: u32 = 32, 32;
        /// syndrome, CQ producer index or link state
        data2 set_data2 with_data2: u32 = 64, 32;
        data3 set_data3 with_data3: u32 = 96, 32;
    }
}

impl Eqe {
    /// COMP and COMP_ERR.
    #[inline]
    pub const fn cq_num(&self) -> u16 {
        self.data1() as u16
    }

    /// QP_ERR and RAW_TX.
    #[inline]
    pub const fn qpn(&self) -> u32 {
        self.data1() & 0xff_ffff
    }

    /// QP_ERR: the QP was reset.
    #[inline]
    pub const fn is_reset(&self) -> bool {
        self.data1() >> 31 != 0
    }

    /// QP_ERR; see [`super::syndrome`].
    #[inline]
    pub const fn syndrome(&self) -> u8 {
        self.data2() as u8
    }

    /// DB_FIFO_OVERRUN: the hardware's FIFO number, one less than the ABI's.
    #[inline]
    pub const fn hw_fifo(&self) -> u16 {
        self.data1() as u16
    }

    /// LINK.
    #[inline]
    pub const fn link_status(&self) -> u8 {
        (self.data2() & 0xf) as u8
    }

    pub const fn qp_err(qpn: u32, syndrome: u8) -> Self {
        Self::ZERO
            .with_event_type(eqe_type::QP_ERR)
            .with_data1(qpn & 0xff_ffff)
            .with_data2(syndrome as u32)
            .with_valid(true)
    }

    pub const fn comp_err(cq_num: u16, pi: u32) -> Self {
        Self::ZERO
            .with_event_type(eqe_type::COMP_ERR)
            .with_data1(cq_num as u32)
            .with_data2(pi)
            .with_valid(true)
    }

    pub const fn db_fifo_overrun(hw_fifo: u16) -> Self {
        Self::ZERO
            .with_event_type(eqe_type::DB_FIFO_OVERRUN)
            .with_data1(hw_fifo as u32)
            .with_valid(true)
    }

    pub const fn link(timestamp: u32, status: u8) -> Self {
        Self::ZERO
            .with_event_type(eqe_type::LINK)
            .with_data1(timestamp)
            .with_data2(status as u32 & 0xf)
            .with_valid(true)
    }
}

/// Types of hardware events.
pub mod eqe_type {
    pub const COMP: u8 = 0;
    pub const COMP_ERR: u8 = 1;
    pub const QP_ERR: u8 = 2;
    pub const LINK: u8 = 3;
    pub const RAW_TX: u8 = 4;
    pub const DB_FIFO_OVERRUN: u8 = 5;
    pub const CONG: u8 = 6;
    pub const CONG_ERR: u8 = 7;
    pub const RESERVED: u8 = 8;
    /// made by software after it repaired a QP's counters
    pub const COUNTERS_ALIGNED: u8 = 10;
}

/// Numbers under which the driver passes events up.
pub mod eq_event {
    pub const CQ_ERR: u32 = 0;
    pub const QP_ERR: u32 = 1;
    pub const DB_FIFO_ERR: u32 = 2;
    pub const CCQ: u32 = 3;
    pub const WTD_SECURITY: u32 = 4;
    pub const NUMERICAL: u32 = 5;
    pub const LINK_STATUS: u32 = 6;
    pub const ALIGN_COUNTERS: u32 = 7;

    /// The async event (see [`crate::verbs::event`]) that each becomes; `syndrome` counts for QP errors only.
    pub const fn to_ib(event: u32, syndrome: u8, link_up: bool) -> Option<u32> {
        use crate::verbs::event as ib;
        Some(match event {
            CQ_ERR => ib::CQ_ERR,
            QP_ERR if super::super::syndrome::is_req(syndrome) => ib::QP_REQ_ERR,
            QP_ERR => ib::QP_FATAL,
            DB_FIFO_ERR => ib::DEVICE_FATAL,
            CCQ => ib::SM_CHANGE,
            WTD_SECURITY => ib::PATH_MIG,
            NUMERICAL => ib::PATH_MIG_ERR,
            LINK_STATUS if link_up => ib::PORT_ACTIVE,
            LINK_STATUS => ib::PORT_ERR,
            ALIGN_COUNTERS => ib::QP_LAST_WQE_REACHED,
            _ => return None,
        })
    }
}
