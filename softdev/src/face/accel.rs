//! The compute device's ioctls: memory and a little information.

use super::driver::prefix;
use super::usermem::{self, UserOut};
use gaudi_softnic::{AccelFile, Errno, FabricOptions, Result};
use kernel_abi::accel::{
    DeviceStatus, DramUsage, HwIpInfo, IOCTL_INFO, IOCTL_MEMORY, InfoArgs, MemArgs, gaudi2_map,
    info_op, mem_flag, mem_op, status,
};
use kernel_abi::ext::MEM_ARENA;
use kernel_abi::hbl::DEVICE_ID_GAUDI2;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use zerocopy::IntoBytes;

/// Who needs the file: the program by a descriptor, and an RDMA context.
#[derive(Debug, Default)]
struct Users {
    context: bool,
    closed: bool,
}

pub(crate) struct AccelEntry {
    file: Arc<AccelFile>,
    device: u32,
    options: FabricOptions,
    users: Mutex<Users>,
}

impl AccelEntry {
    pub(crate) fn new(file: Arc<AccelFile>, device: u32, options: FabricOptions) -> AccelEntry {
        AccelEntry {
            file,
            device,
            options,
            users: Mutex::default(),
        }
    }

    pub(crate) fn device(&self) -> u32 {
        self.device
    }

    pub(crate) fn file(&self) -> &Arc<AccelFile> {
        &self.file
    }

    fn users(&self) -> MutexGuard<'_, Users> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An RDMA context takes the address space: EBUSY when another one has it.
    pub(crate) fn bind(&self) -> Result<()> {
        let mut users = self.users();
        if users.closed {
            return Err(Errno::ESRCH);
        }
        if std::mem::replace(&mut users.context, true) {
            Err(Errno::EBUSY)
        } else {
            Ok(())
        }
    }

    /// The context is gone; the file goes too if only the context kept it.
    pub(crate) fn unbind(&self) {
        let last = {
            let mut users = self.users();
            users.context = false;
            users.closed
        };
        if last {
            self.file.close();
        }
    }

    /// The last descriptor is gone. A context keeps the file, as it holds a reference in the kernel.
    pub(crate) fn close(&self) {
        let last = {
            let mut users = self.users();
            !std::mem::replace(&mut users.closed, true) && !users.context
        };
        if last {
            self.file.close();
        }
    }

    pub(crate) fn ioctl(&self, request: u32, argument: u64) -> Result<()> {
        match request {
            IOCTL_MEMORY => {
                let mut bytes = [0; size_of::<MemArgs>()];
                usermem::read(argument, &mut bytes)?;
                let mut args: MemArgs = prefix(&bytes);
                self.memory(&mut args)?;
                usermem::write(argument, args.as_bytes())
            }
            IOCTL_INFO => {
                let mut bytes = [0; size_of::<InfoArgs>()];
                usermem::read(argument, &mut bytes)?;
                self.info(&prefix(&bytes))
            }
            _ => Err(Errno::ENOTTY),
        }
    }

    fn memory(&self, args: &mut MemArgs) -> Result<()> {
        let force = args.flags & mem_flag::FORCE_HINT != 0;
        match args.op {
            mem_op::ALLOC => args.set_handle(self.file.alloc(
                args.mem_size(),
                args.page_size(),
                args.flags,
            )?),
            mem_op::FREE => self.file.free(args.free_handle())?,
            mem_op::MAP if args.flags & MEM_ARENA != 0 && !self.options.strict => {
                args.set_device_va(self.file.map_arena(
                    args.host_va(),
                    args.host_size(),
                    args.host_hint(),
                    force,
                )?);
            }
            mem_op::MAP if args.is_userptr() => {
                args.set_device_va(self.file.map_host(
                    args.host_va(),
                    args.host_size(),
                    args.host_hint(),
                    force,
                )?);
            }
            mem_op::MAP => {
                args.set_device_va(self.file.map_device(
                    args.map_device_handle(),
                    args.map_device_hint(),
                    force,
                )?);
            }
            mem_op::UNMAP => self.file.unmap(args.device_va())?,
            mem_op::MAP_BLOCK if !self.options.strict => {
                let (offset, size) = self.file.block(args.block_addr())?;
                args.set_block(offset, u32::try_from(size).unwrap_or(u32::MAX));
            }
            // There are no hardware blocks to map, and no importer for a dma-buf of this memory.
            mem_op::MAP_BLOCK => return Err(Errno::EINVAL),
            mem_op::EXPORT_DMABUF_FD | mem_op::TS_ALLOC => return Err(Errno::EOPNOTSUPP),
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    }

    fn info(&self, args: &InfoArgs) -> Result<()> {
        let len = args.return_size as usize;
        if len == 0 || len > usermem::MAX_COPY || args.return_pointer == 0 {
            return Err(Errno::EINVAL);
        }
        let out = UserOut {
            address: args.return_pointer,
            len,
        };
        match args.op {
            info_op::HW_IP_INFO => out.put_prefix(self.hw_ip_info().as_bytes()),
            info_op::DRAM_USAGE => {
                let used = self.file.dram_used();
                let free = self.file.dram_size().saturating_sub(used);
                out.put_prefix(
                    DramUsage {
                        dram_free_mem: free,
                        ctx_dram_mem: used,
                    }
                    .as_bytes(),
                )
            }
            info_op::DEVICE_STATUS => out.put_prefix(
                DeviceStatus {
                    status: status::OPERATIONAL,
                    pad: 0,
                }
                .as_bytes(),
            ),
            _ => Err(Errno::EINVAL),
        }
    }

    fn hw_ip_info(&self) -> HwIpInfo {
        let ports = (1u64 << self.options.ports) - 1;
        let mut info = HwIpInfo {
            dram_base_address: gaudi2_map::HBM_VA.start,
            dram_size: self.file.dram_size(),
            dram_enabled: 1,
            dram_page_size: gaudi2_map::DRAM_PAGE,
            device_mem_alloc_default_page_size: gaudi2_map::DRAM_PAGE,
            device_id: DEVICE_ID_GAUDI2,
            module_id: self.device,
            nic_ports_mask: ports,
            nic_ports_external_mask: ports,
            odp_supported: u8::from(!self.options.strict),
            revision_id: 1,
            ..HwIpInfo::default()
        };
        for (to, from) in info.card_name.iter_mut().zip(b"HL-225-soft") {
            *to = *from;
        }
        info
    }
}
