//! Carries out random requests and looks at what is left afterwards.
#![allow(unreachable_pub)]

use super::common::*;
use super::fuzz::{Step, bytes, scratch};
use kernel_abi::cmd::*;
use kernel_abi::uverbs::{Attr, IoctlHdr, RDMA_VERBS_IOCTL, UHW_IN, UHW_OUT, device, obj};
use kernel_abi::{cmd, hbl};
use softdev::face;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use zerocopy::IntoBytes;

fn execute(step: &Step, dev: &Dev, compute: Option<&Dev>) -> Res<()> {
    match step {
        Step::Native {
            object,
            method,
            attrs,
            skew,
            reserved,
        } => {
            let len = (24 + attrs.len() * 16) as u16;
            let header = IoctlHdr {
                length: len.wrapping_add_signed(*skew),
                object_id: *object,
                method_id: *method,
                num_attrs: attrs.len() as u16,
                reserved1: *reserved,
                ..IoctlHdr::default()
            };
            let mut words = vec![0u64; 520];
            let bytes = words.as_mut_bytes();
            bytes[..24].copy_from_slice(header.as_bytes());
            bytes[24..24 + attrs.len() * 16].copy_from_slice(attrs.as_bytes());
            dev.ioctl(RDMA_VERBS_IOCTL, words.as_mut_ptr() as u64)
                .map(|_| ())
        }
        Step::Command {
            native: true,
            command,
            words,
            out_words,
            provider,
            ..
        } => {
            let id = device::invoke_write::CORE_IN;
            let core_out = Attr {
                len: *out_words,
                data: scratch(),
                ..number(device::invoke_write::CORE_OUT, 0)
            };
            let udata = words.get(..provider.0.into()).unwrap_or_default();
            let mut attrs = vec![
                input(id, words.as_bytes()),
                core_out,
                input(device::invoke_write::WRITE_CMD, &command.to_ne_bytes()),
                input(UHW_IN, udata.as_bytes()),
                Attr {
                    len: provider.1,
                    data: scratch() + 65536,
                    ..number(UHW_OUT, 0)
                },
            ];
            dev.native(obj::DEVICE, device::INVOKE_WRITE, &mut attrs)
        }
        Step::Command {
            native: false,
            command,
            words,
            in_skew,
            out_words,
            provider,
        } => {
            let mut bytes = Vec::new();
            let core = words.len() * 8;
            if command & cmd::EXTENDED != 0 {
                let in_words = (words.len() as u16).saturating_sub(provider.0);
                let header = WriteHdr {
                    command: *command,
                    in_words: in_words.wrapping_add_signed(*in_skew),
                    out_words: *out_words,
                };
                let ex = ExWriteHdr {
                    response: scratch(),
                    provider_in_words: (words.len() as u16).min(provider.0),
                    provider_out_words: provider.1,
                    cmd_hdr_reserved: 0,
                };
                bytes.extend_from_slice(header.as_bytes());
                bytes.extend_from_slice(ex.as_bytes());
            } else {
                let in_words = ((8 + core) / 4) as u16;
                let header = WriteHdr {
                    command: *command,
                    in_words: in_words.wrapping_add_signed(*in_skew),
                    out_words: *out_words,
                };
                bytes.extend_from_slice(header.as_bytes());
            }
            bytes.extend_from_slice(words.as_bytes());
            match face::write(dev.fd(), bytes.as_ptr() as u64, bytes.len()) {
                Some(Ok(_)) => Ok(()),
                Some(Err(e)) => Err(e.raw()),
                None => panic!("not ours"),
            }
        }
        Step::Sound {
            native: true,
            command,
            core,
            driver,
        } => {
            let mut attrs = vec![
                input(device::invoke_write::CORE_IN, core),
                Attr {
                    len: 512,
                    data: scratch(),
                    ..number(device::invoke_write::CORE_OUT, 0)
                },
                input(device::invoke_write::WRITE_CMD, &command.to_ne_bytes()),
                input(UHW_IN, driver),
                Attr {
                    len: 160,
                    data: scratch() + 65536,
                    ..number(UHW_OUT, 0)
                },
            ];
            dev.native(obj::DEVICE, device::INVOKE_WRITE, &mut attrs)
        }
        Step::Sound {
            native: false,
            command,
            core,
            driver,
        } => {
            let mut bytes = Vec::new();
            let words = |bytes: &[u8], unit: usize| (bytes.len() / unit) as u16;
            if command & cmd::EXTENDED != 0 {
                let header = WriteHdr {
                    command: *command,
                    in_words: words(core, 8),
                    out_words: 64,
                };
                let ex = ExWriteHdr {
                    response: scratch(),
                    provider_in_words: words(driver, 8),
                    provider_out_words: 20,
                    cmd_hdr_reserved: 0,
                };
                bytes.extend_from_slice(header.as_bytes());
                bytes.extend_from_slice(ex.as_bytes());
            } else {
                let header = WriteHdr {
                    command: *command,
                    in_words: 2 + words(core, 4) + words(driver, 4),
                    out_words: 128,
                };
                bytes.extend_from_slice(header.as_bytes());
            }
            bytes.extend_from_slice(core);
            bytes.extend_from_slice(driver);
            face::write(dev.fd(), bytes.as_ptr() as u64, bytes.len())
                .expect("ours")
                .map(|_| ())
                .map_err(|e| e.raw())
        }
        Step::Driver {
            object,
            method,
            request,
            handle,
        } => {
            if request.is_empty() {
                return dev.native(*object, *method, &mut [number(0x1000, u64::from(*handle))]);
            }
            let mut attrs = vec![input(0x1000, request)];
            if *object != hbl::obj::SET_PORT_EX {
                attrs.push(Attr {
                    len: 48,
                    data: scratch(),
                    ..number(0x1001, 0)
                });
            }
            if matches!(*object, hbl::obj::USR_FIFO | hbl::obj::ENCAP) {
                attrs.push(number(0x1002, 0));
            }
            dev.native(*object, *method, &mut attrs)
        }
        Step::Accel { request, words } => {
            let mut words = *words;
            if *request & 0xff == 0x40 {
                // The answer's address and its size with the operation.
                words[0] = scratch();
                words[1] = (words[1] & 0xffff) | (words[2] % 6) << 32;
            }
            compute.map_or(Ok(()), |dev| {
                dev.ioctl(*request, words.as_mut_ptr() as u64).map(|_| ())
            })
        }
        Step::BadPointer { address, count } => {
            let written = face::write(dev.fd(), *address, *count)
                .expect("ours")
                .map_err(|e| e.raw());
            assert!(written.is_err());
            dev.ioctl(RDMA_VERBS_IOCTL, *address).map(|_| ())
        }
        Step::CloseOne => {
            close_created(Some(1), &[dev.fd(), compute.map_or(-1, Dev::fd)]);
            Ok(())
        }
    }
}

/// Closes descriptors that requests have created and nobody took note of.
fn close_created(limit: Option<usize>, keep: &[RawFd]) {
    let created = descriptors()
        .into_iter()
        .filter(|fd| face::is_ours(*fd) && !keep.contains(fd));
    for fd in created.take(limit.unwrap_or(usize::MAX)) {
        // SAFETY: a number that the device handed to this test, which is its only owner.
        drop(Dev::adopt(unsafe { OwnedFd::from_raw_fd(fd) }));
    }
}

fn open_context(rxe: bool) -> (Dev, Option<Dev>) {
    let dev = Dev::open("/dev/infiniband/uverbs0").unwrap();
    if rxe {
        dev.native(obj::DEVICE, device::GET_CONTEXT, &mut [])
            .unwrap();
        return (dev, None);
    }
    let compute = Dev::open("/dev/accel/accel0").unwrap();
    let request = hbl::AllocUcontextReq {
        core_fd: compute.fd(),
        ..Default::default()
    };
    dev.native(
        obj::DEVICE,
        device::GET_CONTEXT,
        &mut [input(UHW_IN, request.as_bytes())],
    )
    .unwrap();
    (dev, Some(compute))
}

/// A PD, two CQs and three QPs, so that the steps have something to go wrong with: handles 0 to 5.
fn prelude() -> Vec<Step> {
    let response = scratch();
    let make = |command, core: Vec<u8>, driver: Vec<u8>| Step::Sound {
        native: true,
        command,
        core,
        driver,
    };
    let cq = bytes(&CreateCqReq {
        response,
        cqe: 64,
        comp_channel: -1,
        ..Default::default()
    });
    let (pd_handle, send_cq_handle, recv_cq_handle) = (0, 1, 2);
    let qp = CreateQpReq {
        response,
        pd_handle,
        send_cq_handle,
        recv_cq_handle,
        max_send_wr: 16,
        qp_type: 2,
        ..Default::default()
    };
    let mut steps = vec![make(cmd::ALLOC_PD, bytes(&AllocPdReq { response }), vec![])];
    steps.extend((0..2).map(|_| make(cmd::CREATE_CQ, cq.clone(), vec![0, 0, 0, 0, 0, 1, 0, 0])));
    steps.extend((0..3).map(|_| make(cmd::CREATE_QP, bytes(&qp), vec![])));
    steps
}

/// One run: the steps, then everything closed; what is open afterwards must be what was open before.
pub fn run(steps: &[Step], rxe: bool) {
    static WARM: OnceLock<()> = OnceLock::new();
    WARM.get_or_init(|| drop(open_context(rxe)));
    let before = descriptors();
    let (dev, compute) = open_context(rxe);
    for step in prelude().iter().chain(steps) {
        if let Err(errno) = execute(step, &dev, compute.as_ref()) {
            assert!((1..=133).contains(&errno), "{errno} for {step:?}");
        }
    }
    assert!(face::objects(dev.fd()).is_some());
    close_created(None, &[dev.fd(), compute.as_ref().map_or(-1, Dev::fd)]);
    drop((dev, compute));
    assert_eq!(face::counts(), (0, 0));
    // The device's own thread may have a descriptor open for a moment.
    let settled = (0..200).any(|_| {
        let same = descriptors() == before;
        if !same {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        same
    });
    let more = descriptors().into_iter().filter(|fd| !before.contains(fd));
    let more: Vec<_> = more
        .map(|fd| std::fs::read_link(format!("/proc/self/fd/{fd}")))
        .collect();
    assert!(settled, "descriptors: {before:?}, and {more:?} afterwards");
}
