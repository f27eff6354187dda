//! The compute device: memory and info ioctls of `/dev/accel/accelN`, and its address map.
//!
//! Source: mainline `include/uapi/drm/habanalabs_accel.h` and `drivers/accel/habanalabs`.

mod mem;

pub use mem::{MemArgs, MemArgs as HlMemArgs, mem_flag, mem_op};

/// `DRM_IOCTL_HL_INFO`
pub const IOCTL_INFO: u32 = 0xc018_6440;
/// `DRM_IOCTL_HL_CB`
pub const IOCTL_CB: u32 = 0xc018_6441;
/// `DRM_IOCTL_HL_CS`
pub const IOCTL_CS: u32 = 0xc030_6442;
/// `DRM_IOCTL_HL_WAIT_CS`
pub const IOCTL_WAIT_CS: u32 = 0xc038_6443;
/// `DRM_IOCTL_HL_MEMORY`
pub const IOCTL_MEMORY: u32 = 0xc028_6444;
/// `DRM_IOCTL_HL_DEBUG`
pub const IOCTL_DEBUG: u32 = 0xc028_6445;
/// Out-of-tree NIC control, same container as the 2020 ioctl; see [`crate::gaudi1::NicArgs`].
pub const IOCTL_NIC: u32 = 0xc020_6446;

abi! {
    /// `hl_info_args`
    pub struct InfoArgs [24] {
        /// address of the answer
        return_pointer: u64 = 0,
        return_size: u32 = 8,
        op: u32 = 12,
        /// a union in C; unused by the operations named here
        arg: u32 = 16,
        pad: u32 = 20,
    }

    /// `hl_info_hw_ip_info`. The words that mainline reserves at 256 and 264 got their meaning in the 2024 series.
    pub struct HwIpInfo [304] {
        sram_base_address: u64 = 0,
        dram_base_address: u64 = 8,
        dram_size: u64 = 16,
        sram_size: u32 = 24,
        num_of_events: u32 = 28,
        device_id: u32 = 32,
        module_id: u32 = 36,
        decoder_enabled_mask: u32 = 40,
        first_available_interrupt_id: u16 = 44,
        server_type: u16 = 46,
        cpld_version: u32 = 48,
        psoc_pci_pll_nr: u32 = 52,
        psoc_pci_pll_nf: u32 = 56,
        psoc_pci_pll_od: u32 = 60,
        psoc_pci_pll_div_factor: u32 = 64,
        tpc_enabled_mask: u8 = 68,
        dram_enabled: u8 = 69,
        security_enabled: u8 = 70,
        mme_master_slave_mode: u8 = 71,
        cpucp_version: [u8; 128] = 72,
        card_name: [u8; 16] = 200,
        tpc_enabled_mask_ext: u64 = 216,
        dram_page_size: u64 = 224,
        edma_enabled_mask: u32 = 232,
        number_of_user_interrupts: u16 = 236,
        reserved1: u8 = 238,
        reserved2: u8 = 239,
        reserved3: u64 = 240,
        device_mem_alloc_default_page_size: u64 = 248,
        /// bit p = core port p (0-based)
        nic_ports_mask: u64 = 256,
        nic_ports_external_mask: u64 = 264,
        reserved6: u32 = 272,
        odp_supported: u8 = 276,
        revision_id: u8 = 277,
        tpc_interrupt_id: u16 = 278,
        rotator_enabled_mask: u32 = 280,
        reserved9: u32 = 284,
        engine_core_interrupt_reg_addr: u64 = 288,
        reserved_dram_size: u64 = 296,
    }

    /// `hl_info_dram_usage`
    pub struct DramUsage [16] {
        dram_free_mem: u64 = 0,
        ctx_dram_mem: u64 = 8,
    }

    /// `hl_info_device_status`
    pub struct DeviceStatus [8] {
        /// see [`status`]
        status: u32 = 0,
        pad: u32 = 4,
    }
}

/// Operations of [`IOCTL_INFO`].
pub mod info_op {
    pub const HW_IP_INFO: u32 = 0;
    pub const HW_EVENTS: u32 = 1;
    pub const DRAM_USAGE: u32 = 2;
    pub const HW_IDLE: u32 = 3;
    pub const DEVICE_STATUS: u32 = 4;
}

/// Values of [`DeviceStatus::status`].
pub mod status {
    pub const OPERATIONAL: u32 = 0;
    pub const IN_RESET: u32 = 1;
    pub const MALFUNCTION: u32 = 2;
    pub const NEEDS_RESET: u32 = 3;
    pub const IN_DEVICE_CREATION: u32 = 4;
    pub const IN_RESET_AFTER_DEVICE_RELEASE: u32 = 5;
}

/// A half-open range of device addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub start: u64,
    pub end: u64,
}

impl Range {
    pub const fn new(start: u64, end: u64) -> Self {
        Self { start, end }
    }

    pub const fn len(&self) -> u64 {
        self.end - self.start
    }

    pub const fn is_empty(&self) -> bool {
        self.start >= self.end
    }

    /// Whether `[addr, addr + len)` lies inside; false when it wraps.
    pub const fn contains(&self, addr: u64, len: u64) -> bool {
        match addr.checked_add(len) {
            Some(end) => addr >= self.start && end <= self.end,
            None => false,
        }
    }

    pub const fn overlaps(&self, addr: u64, len: u64) -> bool {
        match addr.checked_add(len) {
            Some(end) => addr < self.end && end > self.start,
            None => addr < self.end,
        }
    }
}

/// Address map of a GAUDI2 (x86 hosts with 4 KiB pages).
pub mod gaudi2_map {
    use super::Range;

    pub const HBM_BASE: u64 = 0x1001_0000_0000_0000;
    pub const HBM_VA_END: u64 = 0x1002_0000_0000_0000;
    pub const HBM_COUNT: u64 = 6;
    pub const HBM_SIZE: u64 = HBM_COUNT * (16 << 30);
    /// One physical page: 16 channels of 8 MiB per HBM.
    pub const DRAM_PAGE: u64 = 16 * HBM_COUNT * (8 << 20);
    /// Virtual addresses of HBM begin behind the physical ones.
    pub const HBM_VA: Range =
        Range::new(HBM_BASE + HBM_SIZE.next_multiple_of(DRAM_PAGE), HBM_VA_END);
    /// Host memory mapped in 4 KiB pages.
    pub const HOST_VA: Range = Range::new(0xfff0_0000_0000_0000, 0xfff0_8000_0000_0000);
    /// Host memory mapped in 2 MiB pages.
    pub const HOST_HUGE_VA: Range = Range::new(0xfff0_8000_0000_0000, 0xfff1_0000_0000_0000);
    pub const HOST_PAGE: u64 = 4 << 10;
    pub const HOST_HUGE_PAGE: u64 = 2 << 20;

    /// Ranges that are used only when a program's hint names them.
    pub const HBM_HINTS: Range = Range::new(0x1001_5000_0000_0000, 0x1001_7000_0000_0000);
    pub const HOST_HINTS: Range = Range::new(0xfff0_77ff_ffff_0000, 0xfff0_8000_0000_0000);
    pub const HOST_HUGE_HINTS: Range = Range::new(0xfff0_f800_0000_0000, 0xfff1_0000_0000_0000);

    const _: () = assert!(HBM_VA.start == 0x1001_0018_0000_0000);
}

/// Address map of a GAUDI1.
pub mod gaudi1_map {
    use super::Range;

    /// HBM has no virtual addresses.
    pub const HBM: Range = Range::new(0, 0x8_0000_0000);
    pub const HOST_VA: Range = Range::new(0x1_0000_0000_0000, 0x3_ff80_0000_0000);
    pub const HOST_PAGE: u64 = 4 << 10;
    pub const HOST_HUGE_PAGE: u64 = 2 << 20;
}

/// The only address space a program gets, and the kernel's.
pub const USER_ASID: u32 = 1;
pub const KERNEL_ASID: u32 = 0;
