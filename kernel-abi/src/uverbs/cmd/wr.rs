//! Work requests posted through the kernel. Source: `rdma/ib_user_verbs.h`.

abi! {
    /// `ib_uverbs_post_send`; `wr_count` blocks of `wqe_size` bytes, then `sge_count` times [`Sge`] follow.
    pub struct PostSendReq [24] {
        response: u64 = 0,
        qp_handle: u32 = 8,
        wr_count: u32 = 12,
        sge_count: u32 = 16,
        wqe_size: u32 = 20,
    }
    /// `ib_uverbs_post_send_resp`
    pub struct PostSendResp [4] {
        bad_wr: u32 = 0,
    }
    /// `ib_uverbs_send_wr`; the trailing union is read through [`SendWr::rdma`], [`SendWr::atomic`], [`SendWr::ud`].
    pub struct SendWr [56] {
        wr_id: u64 = 0,
        num_sge: u32 = 8,
        opcode: u32 = 12,
        send_flags: u32 = 16,
        /// immediate data in network order, or the rkey to invalidate
        ex: u32 = 20,
        wr: [u64; 4] = 24,
    }
    /// `ib_uverbs_sge`
    pub struct Sge [16] {
        addr: u64 = 0,
        length: u32 = 8,
        lkey: u32 = 12,
    }

    /// `ib_uverbs_post_recv`; `wr_count` times [`RecvWr`], then `sge_count` times [`Sge`] follow.
    pub struct PostRecvReq [24] {
        response: u64 = 0,
        qp_handle: u32 = 8,
        wr_count: u32 = 12,
        sge_count: u32 = 16,
        wqe_size: u32 = 20,
    }
    /// `ib_uverbs_post_recv_resp`
    pub struct PostRecvResp [4] {
        bad_wr: u32 = 0,
    }
    /// `ib_uverbs_recv_wr`
    pub struct RecvWr [16] {
        wr_id: u64 = 0,
        num_sge: u32 = 8,
        reserved: u32 = 12,
    }

    /// `ib_uverbs_post_srq_recv`
    pub struct PostSrqRecvReq [24] {
        response: u64 = 0,
        srq_handle: u32 = 8,
        wr_count: u32 = 12,
        sge_count: u32 = 16,
        wqe_size: u32 = 20,
    }
    /// `ib_uverbs_post_srq_recv_resp`
    pub struct PostSrqRecvResp [4] {
        bad_wr: u32 = 0,
    }
}

/// RDMA arm of [`SendWr`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RdmaWr {
    pub remote_addr: u64,
    pub rkey: u32,
}

/// Atomic arm of [`SendWr`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AtomicWr {
    pub remote_addr: u64,
    pub compare_add: u64,
    pub swap: u64,
    pub rkey: u32,
}

/// Datagram arm of [`SendWr`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdWr {
    pub ah: u32,
    pub remote_qpn: u32,
    pub remote_qkey: u32,
}

impl SendWr {
    pub const fn rdma(&self) -> RdmaWr {
        RdmaWr {
            remote_addr: self.wr[0],
            rkey: self.wr[1] as u32,
        }
    }

    pub const fn set_rdma(&mut self, v: RdmaWr) {
        self.wr = [v.remote_addr, v.rkey as u64, 0, 0];
    }

    pub const fn atomic(&self) -> AtomicWr {
        AtomicWr {
            remote_addr: self.wr[0],
            compare_add: self.wr[1],
            swap: self.wr[2],
            rkey: self.wr[3] as u32,
        }
    }

    pub const fn set_atomic(&mut self, v: AtomicWr) {
        self.wr = [v.remote_addr, v.compare_add, v.swap, v.rkey as u64];
    }

    pub const fn ud(&self) -> UdWr {
        UdWr {
            ah: self.wr[0] as u32,
            remote_qpn: (self.wr[0] >> 32) as u32,
            remote_qkey: self.wr[1] as u32,
        }
    }

    pub const fn set_ud(&mut self, v: UdWr) {
        self.wr = [
            v.ah as u64 | (v.remote_qpn as u64) << 32,
            v.remote_qkey as u64,
            0,
            0,
        ];
    }
}
