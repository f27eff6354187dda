//! The copies of libibverbs in this process, and our registration with each. A process may have several (conda, Python
//! wheels), of different releases.

use crate::abi::{VerbsDeviceOps, VerbsMatchEnt};
use crate::probe::{Layout, QpToQpEx, SetOps};
use crate::{context, device, edge, optable};
use core::ffi::{CStr, c_char, c_int, c_void};
use core::mem::transmute_copy;
use std::ffi::CString;
use std::io::Write;

/// The provider ABIs whose layouts are known.
const ABIS: [(u32, &CStr); 5] = [
    (34, c"verbs_register_driver_34"),
    (57, c"verbs_register_driver_57"),
    (59, c"verbs_register_driver_59"),
    (64, c"verbs_register_driver_64"),
    (65, c"verbs_register_driver_65"),
];

type RegisterDriver = unsafe extern "C" fn(*const VerbsDeviceOps);
/// `(device, cmd_fd, alloc_size, context_offset, driver_id)`
type InitAndAllocContext =
    unsafe extern "C" fn(*mut c_void, c_int, usize, usize, u32) -> *mut c_void;
type UninitContext = unsafe extern "C" fn(*mut c_void);

/// One loaded libibverbs. Never freed: it keeps the address of `ops`.
#[repr(C)]
pub(crate) struct Library {
    /// First, so that a device's `ops` leads back here.
    ops: VerbsDeviceOps,
    match_end: VerbsMatchEnt,
    pub(crate) layout: Layout,
    pub(crate) table: [usize; optable::MAX_SLOTS],
    pub(crate) init_and_alloc_context: InitAndAllocContext,
    pub(crate) set_ops: SetOps,
    pub(crate) uninit_context: UninitContext,
}

impl Library {
    /// The library that registered `ops`.
    ///
    /// # Safety
    /// `ops` is the pointer that was passed to `verbs_register_driver`.
    pub(crate) unsafe fn of(ops: *const VerbsDeviceOps) -> &'static Library {
        // SAFETY: `ops` is the first field of a leaked `Library`, registered with the library's provenance.
        unsafe { &*ops.cast::<Library>() }
    }
}

/// Registers with every loaded libibverbs, once each.
pub(crate) fn register_all() {
    let mut done: Vec<usize> = Vec::new();
    for path in loaded_paths() {
        let Some(handle) = Handle::find(&path) else {
            continue;
        };
        let Some((abi, register)) = ABIS
            .iter()
            .find_map(|&(abi, name)| Some((abi, handle.symbol(name)?)))
        else {
            // Things that merely have a similar name export none of it.
            if handle.symbol(c"_verbs_init_and_alloc_context").is_some() {
                warn(&path, "has a provider ABI that is not known here");
            }
            continue;
        };
        if done.contains(&register.addr()) {
            continue;
        }
        done.push(register.addr());
        match Library::leak(abi, &handle) {
            Some(library) => {
                // SAFETY: the symbol's type in every ABI of `ABIS`.
                let register = unsafe { transmute_copy::<*mut c_void, RegisterDriver>(&register) };
                let ops: *const Library = library;
                // SAFETY: the struct behind the pointer lives for ever.
                unsafe { register(ops.cast()) };
            }
            None => warn(
                &path,
                &format!("(provider ABI {abi}) has layouts that are not known here"),
            ),
        }
    }
}

impl Library {
    /// `None` if something is missing or its layout is unknown.
    fn leak(abi: u32, handle: &Handle) -> Option<&'static Library> {
        let qp_to_qp_ex = handle.symbol(c"ibv_qp_to_qp_ex")?;
        let set_ops = handle.symbol(c"verbs_set_ops")?;
        let init = handle.symbol(c"_verbs_init_and_alloc_context")?;
        let uninit = handle.symbol(c"verbs_uninit_context")?;
        // SAFETY: public API since 24, type as declared.
        let qp_to_qp_ex = unsafe { transmute_copy::<*mut c_void, QpToQpEx>(&qp_to_qp_ex) };
        // SAFETY: type as declared in driver.h of 34..65.
        let set_ops = unsafe { transmute_copy::<*mut c_void, SetOps>(&set_ops) };
        // SAFETY: type as declared in driver.h of 34..65.
        let init_and_alloc_context =
            unsafe { transmute_copy::<*mut c_void, InitAndAllocContext>(&init) };
        // SAFETY: type as declared in driver.h of 34..65.
        let uninit_context = unsafe { transmute_copy::<*mut c_void, UninitContext>(&uninit) };
        let layout = Layout::find(abi, qp_to_qp_ex, set_ops)?;
        let library = Box::leak(Box::new(Library {
            ops: VerbsDeviceOps {
                name: c"gaudi".as_ptr(),
                match_min_abi_version: 1,
                match_max_abi_version: 1,
                match_table: core::ptr::null(),
                static_providers: core::ptr::null(),
                match_device: Some(device::match_device),
                alloc_context: Some(device::alloc_context),
                import_context: None,
                alloc_device: Some(device::alloc_device),
                uninit_device: Some(device::uninit_device),
            },
            match_end: VerbsMatchEnt {
                driver_data: 0,
                u: 0,
                vendor: 0,
                device: 0,
                kind: 0,
            },
            layout,
            table: optable::fill(layout.slots, &context::ops()),
            init_and_alloc_context,
            set_ops,
            uninit_context,
        }));
        // The pass over driver ids dereferences the table even where `match_device` alone decides.
        library.ops.match_table = &raw const library.match_end;
        Some(library)
    }
}

struct Handle(*mut c_void);

impl Handle {
    /// A handle of an object that is already loaded. It is never closed: what registered stays.
    fn find(path: &CStr) -> Option<Handle> {
        // SAFETY: a C string; RTLD_NOLOAD runs no constructors.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOLOAD | libc::RTLD_NOW) };
        (!handle.is_null()).then_some(Handle(handle))
    }

    /// Through the handle, not RTLD_DEFAULT, which misses libraries that were loaded RTLD_LOCAL.
    fn symbol(&self, name: &CStr) -> Option<*mut c_void> {
        // SAFETY: an open handle and a C string.
        let symbol = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        (!symbol.is_null()).then_some(symbol)
    }
}

/// Paths of the loaded objects that are called libibverbs (wheels put a hash behind the name).
fn loaded_paths() -> Vec<CString> {
    unsafe extern "C" fn each(
        info: *mut libc::dl_phdr_info,
        _size: usize,
        paths: *mut c_void,
    ) -> c_int {
        edge::quiet(|| {
            // SAFETY: the loader passes a valid struct for the time of the call.
            let info = unsafe { &*info };
            // SAFETY: `paths` is the vector below, to which nobody else has access meanwhile.
            let paths = unsafe { &mut *paths.cast::<Vec<CString>>() };
            if let Some(path) = name_of(info.dlpi_name) {
                paths.push(path);
            }
        });
        0
    }
    let mut paths: Vec<CString> = Vec::new();
    // SAFETY: the callback has the right type and its argument is the vector above.
    unsafe { libc::dl_iterate_phdr(Some(each), (&raw mut paths).cast()) };
    paths
}

fn name_of(path: *const c_char) -> Option<CString> {
    if path.is_null() {
        return None;
    }
    // SAFETY: the loader's name of an object, a C string.
    let path = unsafe { CStr::from_ptr(path) };
    let base = path.to_bytes().rsplit(|&b| b == b'/').next()?;
    base.starts_with(b"libibverbs").then(|| path.to_owned())
}

/// One line, where somebody asked for warnings as libibverbs understands it or has a device that now stays unused.
fn warn(path: &CStr, what: &str) {
    if std::env::var_os("IBV_SHOW_WARNINGS").is_some() || device::any_present() {
        let line = format!(
            "libgaudi: {} {what}, not registering\n",
            path.to_string_lossy()
        );
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
}
