//! Unreliable datagrams: RoCEv2 packets in UDP, one socket per QP (docs/design.md, section 5).

pub mod grh;
pub mod packet;
pub mod port;

/// UDP port of the QP with native id 0.
pub const UDP_BASE: u16 = 20480;
/// UDP port of all multicast groups: behind those of 8192 QPs.
pub const UDP_GROUPS: u16 = UDP_BASE + 8192;
/// Largest payload: the largest MTU.
pub const MTU: usize = 4096;
/// Destination of multicast packets (IBTA 10.5.2).
pub const GROUP_QPN: u32 = 0xff_ffff;
