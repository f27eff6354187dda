//! The `ib_uverbs` character device: one ioctl with typed attributes, and the older command structs it carries.
//!
//! Source: `rdma/rdma_user_ioctl_cmds.h`, `rdma/ib_user_ioctl_cmds.h`, `rdma/ib_user_ioctl_verbs.h`. Ids above those of
//! rdma-core 44 are marked with the kernel uAPI headers' release of rdma-core that brought them.

pub mod cmd;
mod ids;
mod types;

pub use ids::*;
pub use types::*;

/// `_IOWR(0x1b, 1, struct ib_uverbs_ioctl_hdr)`, the only request of the device.
pub const RDMA_VERBS_IOCTL: u32 = 0xc018_1b01;

/// ABI version that every uverbs device reports in sysfs (`abi_version` of the class).
pub const ABI_VERSION: u32 = 6;

/// Upper bound on one ioctl: the header's `length` is 16 bits wide.
pub const MAX_ATTRS: usize = (u16::MAX as usize - size_of::<IoctlHdr>()) / size_of::<Attr>();

abi! {
    /// `struct ib_uverbs_ioctl_hdr`; `num_attrs` attributes follow directly.
    pub struct IoctlHdr [24] {
        /// header and attributes together, in bytes
        length: u16 = 0,
        object_id: u16 = 2,
        method_id: u16 = 4,
        num_attrs: u16 = 6,
        reserved1: u64 = 8,
        driver_id: u32 = 16,
        reserved2: u32 = 20,
    }

    /// `struct ib_uverbs_attr`.
    pub struct Attr [16] {
        attr_id: u16 = 0,
        /// bytes of the pointer or inline data; 0 for objects and fds
        len: u16 = 2,
        flags: u16 = 4,
        /// enum element id in the low byte, else 0
        attr_data: u16 = 6,
        /// inline input up to 8 bytes, a pointer, an object handle or an fd
        data: u64 = 8,
    }
}

impl Attr {
    /// Input of at most this many bytes travels in `data` itself.
    pub const INLINE_MAX: usize = 8;
}

pub mod attr_flag {
    pub const MANDATORY: u16 = 1;
    /// set by the kernel on output attributes it has filled
    pub const VALID_OUTPUT: u16 = 2;
}

/// Ids with this bit (namespace 1) belong to the driver.
pub const DRIVER_NS: u16 = 0x1000;
/// Driver data of a standard method, in.
pub const UHW_IN: u16 = 0x1000;
/// Driver data of a standard method, out.
pub const UHW_OUT: u16 = 0x1001;
