//! Structs that only the native ioctl methods use, and the records read from event descriptors.

use super::cmd::QueryPortResp;

abi! {
    /// `ib_uverbs_query_port_resp_ex`, answer of DEVICE/QUERY_PORT.
    pub struct QueryPortRespEx [48] {
        legacy: QueryPortResp = 0,
        port_cap_flags2: u16 = 40,
        reserved: [u8; 6] = 42,
    }

    /// `ib_uverbs_gid_entry`, answer of DEVICE/QUERY_GID_ENTRY and element of QUERY_GID_TABLE.
    pub struct GidEntry [32] {
        gid: [u8; 16] = 0,
        gid_index: u32 = 16,
        port_num: u32 = 20,
        /// see [`crate::verbs::gid_type`]
        gid_type: u32 = 24,
        /// 0 without a netdev
        netdev_ifindex: u32 = 28,
    }

    /// `ib_uverbs_qp_cap`, in and out attribute of QP/CREATE.
    pub struct QpCap [20] {
        max_send_wr: u32 = 0,
        max_recv_wr: u32 = 4,
        max_send_sge: u32 = 8,
        max_recv_sge: u32 = 12,
        max_inline_data: u32 = 16,
    }

    /// `ib_uverbs_async_event_desc`, one read from an async event descriptor.
    pub struct AsyncEventDesc [16] {
        /// user handle of the object, or the port number for port and device events
        element: u64 = 0,
        event_type: u32 = 8,
        reserved: u32 = 12,
    }

    /// `ib_uverbs_comp_event_desc`, one read from a completion channel.
    pub struct CompEventDesc [8] {
        cq_handle: u64 = 0,
    }
}

/// Bit 0 of `core_support`: the kernel takes optional MR access flags, the library need not strip them.
pub const CORE_SUPPORT_OPTIONAL_MR_ACCESS: u64 = 1;

/// Values of the header's `driver_id` (`enum rdma_driver_id`).
pub mod driver_id {
    pub const UNKNOWN: u32 = 0;
    /// `hbl` as posted; newer headers give the same number to another vendor, so match by device name.
    pub const HBL: u32 = 21;
}
