//! A user-space driver's view of the device, in all three dialects. Calls the face directly.
#![allow(dead_code, unreachable_pub)]

use gaudi_softnic::FabricOptions;
use kernel_abi::cmd::{ExWriteHdr, WriteHdr};
use kernel_abi::uverbs::{
    Attr, IoctlHdr, RDMA_VERBS_IOCTL, UHW_IN, UHW_OUT, attr_flag, device, obj,
};
use softdev::face;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use zerocopy::{FromBytes, Immutable, IntoBytes};

pub type Res<T> = Result<T, i32>;

/// One fabric per test process.
pub fn set_up(change: impl FnOnce(&mut FabricOptions)) {
    static DIR: OnceLock<tempfile::TempDir> = OnceLock::new();
    DIR.get_or_init(|| {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let mut options = FabricOptions {
            dir: dir.path().join("fabric"),
            devices: 2,
            ports: 2,
            strict: false,
            retry_limit_ms: 0,
            rxe: false,
        };
        change(&mut options);
        assert!(face::configure(options));
        dir
    });
}

/// A descriptor that is closed as the preload library closes it.
pub struct Dev(Option<OwnedFd>);

impl Dev {
    pub fn open(path: &str) -> Res<Dev> {
        let opened = face::open(path.as_bytes(), libc::O_RDWR | libc::O_CLOEXEC).expect("a device");
        opened.map(|fd| Dev(Some(fd))).map_err(|e| e.raw())
    }

    pub fn adopt(fd: OwnedFd) -> Dev {
        Dev(Some(fd))
    }

    pub fn fd(&self) -> RawFd {
        self.0.as_ref().unwrap().as_raw_fd()
    }

    pub fn ioctl(&self, request: u32, argument: u64) -> Res<i32> {
        face::ioctl(self.fd(), request.into(), argument)
            .expect("ours")
            .map_err(|e| e.raw())
    }

    pub fn native(&self, object: u16, method: u16, attrs: &mut [Attr]) -> Res<()> {
        let header = IoctlHdr {
            length: (size_of::<IoctlHdr>() + size_of_val(attrs)) as u16,
            object_id: object,
            method_id: method,
            num_attrs: attrs.len() as u16,
            ..IoctlHdr::default()
        };
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(attrs.as_bytes());
        // Eight-byte aligned, as the C library has it.
        let mut words = vec![0u64; bytes.len() / 8];
        words.as_mut_bytes().copy_from_slice(&bytes);
        let result = self.ioctl(RDMA_VERBS_IOCTL, words.as_mut_ptr() as u64);
        for (attr, bytes) in attrs.iter_mut().zip(words.as_bytes()[24..].chunks(16)) {
            *attr = Attr::read_from_bytes(bytes).unwrap();
        }
        result.map(|_| ())
    }

    /// INVOKE_WRITE.
    pub fn invoke<Q: IntoBytes + Immutable, R: FromBytes + IntoBytes>(
        &self,
        command: u32,
        request: &Q,
        driver: (&[u8], &mut [u8]),
    ) -> Res<R> {
        let mut answer = R::new_zeroed();
        let ids = device::invoke_write::CORE_OUT;
        let mut attrs = vec![
            input(device::invoke_write::CORE_IN, request.as_bytes()),
            input(device::invoke_write::WRITE_CMD, &command.to_ne_bytes()),
        ];
        if size_of::<R>() > 0 {
            attrs.push(output(ids, answer.as_mut_bytes()));
        }
        if !driver.0.is_empty() {
            attrs.push(input(UHW_IN, driver.0));
        }
        if !driver.1.is_empty() {
            attrs.push(output(UHW_OUT, driver.1));
        }
        self.native(obj::DEVICE, device::INVOKE_WRITE, &mut attrs)?;
        Ok(answer)
    }

    /// The same command by write(2). The first eight bytes of an old request are the address of the answer.
    pub fn write<Q: IntoBytes + Immutable, R: FromBytes + IntoBytes>(
        &self,
        command: u32,
        request: &Q,
        driver_in: &[u8],
        driver_out: &mut [u8],
    ) -> Res<R> {
        let mut answer = vec![0u64; (size_of::<R>() + driver_out.len()).div_ceil(8)];
        let mut core = request.as_bytes().to_vec();
        let mut bytes = Vec::new();
        if command & kernel_abi::cmd::EXTENDED != 0 {
            let header = WriteHdr {
                command,
                in_words: (core.len() / 8) as u16,
                out_words: (size_of::<R>() / 8) as u16,
            };
            let ex = ExWriteHdr {
                response: answer.as_mut_ptr() as u64,
                provider_in_words: (driver_in.len() / 8) as u16,
                provider_out_words: (driver_out.len() / 8) as u16,
                cmd_hdr_reserved: 0,
            };
            bytes.extend_from_slice(header.as_bytes());
            bytes.extend_from_slice(ex.as_bytes());
        } else {
            let header = WriteHdr {
                command,
                in_words: ((8 + core.len() + driver_in.len()) / 4) as u16,
                out_words: ((size_of::<R>() + driver_out.len()) / 4) as u16,
            };
            bytes.extend_from_slice(header.as_bytes());
            if size_of::<R>() > 0 {
                core[..8].copy_from_slice(&(answer.as_mut_ptr() as u64).to_ne_bytes());
            }
        }
        bytes.extend_from_slice(&core);
        bytes.extend_from_slice(driver_in);
        let count = face::write(self.fd(), bytes.as_ptr() as u64, bytes.len())
            .expect("ours")
            .map_err(|e| e.raw())?;
        assert_eq!(count, bytes.len());
        let answer = answer.as_bytes();
        driver_out.copy_from_slice(&answer[size_of::<R>()..size_of::<R>() + driver_out.len()]);
        Ok(R::read_from_bytes(&answer[..size_of::<R>()]).unwrap())
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let Some(fd) = self.0.take() else { return };
        let closing = face::closing(fd.as_raw_fd());
        drop(fd);
        if let Some(closing) = closing {
            face::closed(closing);
        }
    }
}

pub fn input(id: u16, bytes: &[u8]) -> Attr {
    let data = if bytes.len() <= 8 {
        let mut inline = [0; 8];
        inline[..bytes.len()].copy_from_slice(bytes);
        u64::from_ne_bytes(inline)
    } else {
        bytes.as_ptr() as u64
    };
    Attr {
        attr_id: id,
        len: bytes.len() as u16,
        flags: attr_flag::MANDATORY,
        attr_data: 0,
        data,
    }
}

pub fn output(id: u16, bytes: &mut [u8]) -> Attr {
    let data = bytes.as_mut_ptr() as u64;
    Attr {
        attr_id: id,
        len: bytes.len() as u16,
        flags: attr_flag::MANDATORY,
        attr_data: 0,
        data,
    }
}

/// An object handle or descriptor.
pub fn number(id: u16, value: u64) -> Attr {
    Attr {
        attr_id: id,
        len: 0,
        flags: attr_flag::MANDATORY,
        attr_data: 0,
        data: value,
    }
}

pub fn descriptors() -> Vec<i32> {
    let mut fds: Vec<i32> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .map(|e| e.unwrap().file_name().to_str().unwrap().parse().unwrap())
        .filter(|fd| std::fs::read_link(format!("/proc/self/fd/{fd}")).is_ok())
        .collect();
    fds.sort_unstable();
    fds
}
