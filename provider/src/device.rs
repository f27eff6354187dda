//! Ops of the device: is it ours, and open it.

use crate::abi::{IbvContext, IbvDevice, Plain, VerbsDevice, VerbsSysfsDev};
use crate::context::{self, ContextOwn};
use crate::edge;
use crate::loaded::Library;
use crate::logger;
use crate::object::{Object, field};
use core::ffi::{c_int, c_void};
use gaudi_verbs::{Context, Errno, Result};
use kernel_abi::uverbs::{CORE_SUPPORT_OPTIONAL_MR_ACCESS, driver_id};

/// Habana Labs.
const VENDOR: u32 = 0x1da3;

/// Our part of a device: the n of `hbl_<n>`, which is also that of `/dev/accel/accel<n>`.
struct DeviceOwn {
    number: u32,
}

type Device = Object<VerbsDevice, DeviceOwn>;

/// By name and vendor, never by driver id: the number that the posted kernel headers take belongs to another vendor now.
pub(crate) unsafe extern "C" fn match_device(sysfs: *mut VerbsSysfsDev) -> bool {
    edge::yes(|| {
        // SAFETY: libibverbs passes a valid struct, filled up to the fields we know, and nobody changes it meanwhile.
        let sysfs = unsafe { &*sysfs };
        number(text(&sysfs.ibdev_name)).is_some() && vendor_fits(text(&sysfs.ibdev_path))
    })
}

pub(crate) unsafe extern "C" fn alloc_device(sysfs: *mut VerbsSysfsDev) -> *mut VerbsDevice {
    edge::object(|| {
        // SAFETY: as for `match_device`.
        let sysfs = unsafe { &*sysfs };
        let number = number(text(&sysfs.ibdev_name)).ok_or(Errno::ENODEV)?;
        let mut device = Box::new(Device {
            c: VerbsDevice::zeroed(),
            own: DeviceOwn { number },
        });
        // Else the library strips IBV_ACCESS_RELAXED_ORDERING and its likes before reg_mr.
        device.c.core_support = CORE_SUPPORT_OPTIONAL_MR_ACCESS;
        Ok(device.give())
    })
}

pub(crate) unsafe extern "C" fn uninit_device(device: *mut VerbsDevice) {
    edge::quiet(|| {
        // SAFETY: made by `alloc_device`; libibverbs drops its last reference.
        unsafe { Device::retake(device) };
    });
}

/// Owns `cmd_fd` from the call on, also when it fails.
pub(crate) unsafe extern "C" fn alloc_context(
    device: *mut IbvDevice,
    cmd_fd: c_int,
    _private: *mut c_void,
) -> *mut c_void {
    edge::object(|| {
        logger::init();
        let device: *mut VerbsDevice = device.cast();
        let ops = field!(device, VerbsDevice, ops, *const crate::abi::VerbsDeviceOps);
        // SAFETY: a device of ours; libibverbs set `ops` before it showed the device to anybody.
        let ops = unsafe { ops.read() };
        // SAFETY: that is what we registered.
        let library = unsafe { Library::of(ops) };
        // SAFETY: made by `alloc_device`, referenced by the caller.
        let own = unsafe { Device::own(device) };
        let shell = Shell::alloc(library, device, cmd_fd)?;
        let context = Context::open(cmd_fd, own.number)
            .inspect_err(|e| log::error!("hbl_{}: {e}", own.number))?;
        log::debug!(
            "hbl_{}: open, libibverbs is {:?}",
            own.number,
            library.layout
        );
        shell.fill(context)
    })
}

/// A `verbs_context` that libibverbs has initialised and that nobody else knows yet.
struct Shell {
    library: &'static Library,
    base: *mut c_void,
}

impl Shell {
    fn alloc(library: &'static Library, device: *mut VerbsDevice, cmd_fd: c_int) -> Result<Shell> {
        // SAFETY: type and arguments as in driver.h; the offset of the `verbs_context` in the allocation is 0.
        let base = unsafe {
            (library.init_and_alloc_context)(
                device.cast(),
                cmd_fd,
                context::ALLOCATION,
                0,
                driver_id::HBL,
            )
        };
        if base.is_null() {
            return Err(Errno::last());
        }
        let shell = Shell { library, base };
        // `sz` stands right before the `ibv_context`, where the library believes that to be.
        let size = shell.ibv_context().cast::<usize>().wrapping_sub(1);
        // SAFETY: inside the allocation; the library wrote it or left it zero.
        let size = unsafe { size.read() };
        if size != library.layout.context_size {
            log::error!(
                "verbs_context of {size} bytes, expected {}",
                library.layout.context_size
            );
            return Err(Errno::EPROTO);
        }
        Ok(shell)
    }

    fn ibv_context(&self) -> *mut IbvContext {
        self.base
            .wrapping_byte_add(self.library.layout.context_offset())
            .cast()
    }

    fn fill(self, context: std::sync::Arc<Context>) -> Result<*mut c_void> {
        let ctx = self.ibv_context();
        // SAFETY: both are longer than this library's op table, all pointers have the types of their slots.
        unsafe { (self.library.set_ops)(self.base, self.library.table.as_ptr().cast()) };
        // SAFETY: an `ibv_context` inside the allocation that nobody else has seen.
        let fields = unsafe { &mut *ctx };
        fields.async_fd = context.async_fd();
        fields.num_comp_vectors = context.num_comp_vectors();
        let own = context::own_place(ctx);
        // SAFETY: inside the allocation, behind the `ibv_context`, aligned and unused.
        unsafe {
            own.write(ContextOwn {
                context,
                library: self.library,
            })
        };
        let base = self.base;
        core::mem::forget(self);
        Ok(base)
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // SAFETY: initialised by the same library and not yet handed out; closes cmd_fd.
        unsafe { context::release(self.library, self.base) };
    }
}

/// Text of a C string in an array.
fn text(bytes: &[u8]) -> &str {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    core::str::from_utf8(&bytes[..end]).unwrap_or("")
}

/// The n of `hbl_<n>`.
fn number(name: &str) -> Option<u32> {
    let digits = name.strip_prefix("hbl_")?;
    digits
        .bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| digits.parse().ok())?
}

/// A device whose vendor cannot be read is judged by its name alone.
fn vendor_fits(ibdev_path: &str) -> bool {
    let Ok(vendor) = std::fs::read_to_string(format!("{ibdev_path}/device/vendor")) else {
        return true;
    };
    let digits = vendor.trim().trim_start_matches("0x");
    u32::from_str_radix(digits, 16) == Ok(VENDOR)
}

/// Whether this machine has a device that looks like ours.
pub(crate) fn any_present() -> bool {
    std::fs::read_dir("/sys/class/infiniband").is_ok_and(|dir| {
        dir.flatten()
            .any(|e| e.file_name().to_str().and_then(number).is_some())
    })
}

#[cfg(test)]
mod tests {
    use super::{number, text};

    #[test]
    fn names_of_devices() {
        assert_eq!(number("hbl_0"), Some(0));
        assert_eq!(number("hbl_17"), Some(17));
        for other in [
            "hbl_",
            "hbl_+1",
            "hbl_1x",
            "hbl1",
            "mlx5_0",
            "hbl_99999999999",
            "",
        ] {
            assert_eq!(number(other), None, "{other}");
        }
    }

    #[test]
    fn texts_end_at_the_first_zero_or_at_the_end() {
        assert_eq!(text(b"hbl_0\0garbage"), "hbl_0");
        assert_eq!(text(b"full"), "full");
        assert_eq!(text(&[0xff, 0]), "");
    }
}
