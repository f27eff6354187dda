//! Requests that no sane driver makes: whatever comes, the answer is an errno, the process lives and nothing is left over.
#![allow(unreachable_pub)]

use kernel_abi::cmd::*;
use kernel_abi::uverbs::Attr;
use kernel_abi::{accel, cmd, hbl};
use proptest::prelude::*;
use std::sync::OnceLock;
use zerocopy::IntoBytes;

/// Larger than two answers of the greatest length that any header can name.
const SCRATCH: usize = 4 << 20;

/// Where answers go: memory that nothing else uses.
pub fn scratch() -> u64 {
    static SCRATCH_AREA: OnceLock<u64> = OnceLock::new();
    *SCRATCH_AREA.get_or_init(|| Vec::leak(vec![0u64; SCRATCH / 8]).as_mut_ptr() as u64)
}

#[derive(Clone, Debug)]
pub enum Step {
    /// header fields, attributes, and how much the stated length is off
    Native {
        object: u16,
        method: u16,
        attrs: Vec<Attr>,
        skew: i16,
        reserved: u64,
    },
    Command {
        native: bool,
        command: u32,
        words: Vec<u64>,
        in_skew: i16,
        out_words: u16,
        provider: (u16, u16),
    },
    /// a command with everything in place, except what the values say
    Sound {
        native: bool,
        command: u32,
        core: Vec<u8>,
        driver: Vec<u8>,
    },
    /// a driver object's method with one input struct
    Driver {
        object: u16,
        method: u16,
        request: Vec<u8>,
        handle: u32,
    },
    Accel {
        request: u32,
        words: [u64; 5],
    },
    /// an ioctl argument or a write buffer that is nowhere
    BadPointer {
        address: u64,
        count: usize,
    },
    CloseOne,
}

/// Never an address of this process outside the scratch area.
fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        6 => 0..16u64,
        2 => any::<u8>().prop_map(u64::from),
        1 => (0..32u32).prop_map(|n| 1 << n),
        4 => (0..4096u64).prop_map(|n| scratch() + 8 * n),
        1 => (0..4096u64).prop_map(|n| scratch() + n),
        1 => prop_oneof![Just(u64::MAX), Just(1 << 63), Just(0x8000_0000_0000), Just(0xfff0_0000_0000_0000), Just(0x10)],
        1 => (0..64u64).prop_map(|n| n | n << 32),
    ]
}

fn attr() -> impl Strategy<Value = Attr> {
    let id = prop_oneof![8 => 0..18u16, 4 => 0x1000..0x1003u16, 1 => any::<u16>()];
    let len = prop_oneof![
        4 => Just(0u16), 3 => Just(4u16), 3 => Just(8u16), 2 => Just(20u16), 2 => Just(40u16), 1 => Just(192u16),
        2 => Just(304u16), 1 => any::<u16>()
    ];
    let flags = prop_oneof![3 => Just(1u16), 2 => Just(0u16), 1 => any::<u16>()];
    (
        id,
        len,
        flags,
        prop_oneof![9 => Just(0u16), 1 => any::<u16>()],
        word(),
    )
        .prop_map(|(attr_id, len, flags, attr_data, data)| Attr {
            attr_id,
            len,
            flags,
            attr_data,
            data,
        })
}

fn command() -> impl Strategy<Value = u32> {
    let known = prop_oneof![0..42u32, (0..58u32).prop_map(|n| n | cmd::EXTENDED)];
    prop_oneof![12 => known, 1 => any::<u32>()]
}

pub fn bytes<T: IntoBytes + zerocopy::Immutable>(value: &T) -> Vec<u8> {
    value.as_bytes().to_vec()
}

/// Commands of the right shape on handles that may well exist.
fn sound() -> impl Strategy<Value = Step> {
    let values = (
        any::<bool>(),
        0..14u8,
        0..8u32,
        0..3u32,
        0..7u8,
        any::<u32>(),
        1..4u8,
    );
    values.prop_map(|(native, kind, handle, pd, state, mask, port)| {
        let response = scratch();
        let mut driver = Vec::new();
        let (command, core) = match kind {
            0 => (
                cmd::DESTROY_CQ,
                bytes(&DestroyCqReq {
                    response,
                    cq_handle: handle,
                    reserved: 0,
                }),
            ),
            1 => (
                cmd::DESTROY_QP,
                bytes(&DestroyQpReq {
                    response,
                    qp_handle: handle,
                    reserved: 0,
                }),
            ),
            2 => (cmd::DEALLOC_PD, bytes(&DeallocPdReq { pd_handle: handle })),
            3 => (
                cmd::QUERY_QP,
                bytes(&QueryQpReq {
                    response,
                    qp_handle: handle,
                    attr_mask: mask,
                }),
            ),
            4 => {
                let request = CreateSrqReq {
                    response,
                    pd_handle: pd,
                    max_wr: mask & 63,
                    max_sge: 1,
                    ..Default::default()
                };
                (cmd::CREATE_SRQ, bytes(&request))
            }
            5 => {
                let request = RegMrReq {
                    response,
                    start: response,
                    hca_va: response,
                    length: u64::from(mask & 0xffff),
                    pd_handle: pd,
                    access_flags: mask >> 28,
                };
                (cmd::REG_MR, bytes(&request))
            }
            6 => {
                let attr = AhAttr {
                    is_global: 1,
                    port_num: port,
                    sgid_index: state,
                    ..Default::default()
                };
                (
                    cmd::CREATE_AH,
                    bytes(&CreateAhReq {
                        response,
                        pd_handle: pd,
                        attr,
                        ..Default::default()
                    }),
                )
            }
            7 => (
                cmd::RESIZE_CQ,
                bytes(&ResizeCqReq {
                    response,
                    cq_handle: handle,
                    cqe: mask & 0xfff,
                }),
            ),
            8 => {
                driver = vec![port, 0, 0, 0, 0, state & 1, 0, 0];
                let request = CreateCqReq {
                    response,
                    cqe: 1 << state,
                    comp_channel: -1,
                    ..Default::default()
                };
                (cmd::CREATE_CQ, bytes(&request))
            }
            9 => {
                let request = CreateQpReq {
                    response,
                    pd_handle: pd & 1,
                    send_cq_handle: 1 + handle % 3,
                    recv_cq_handle: 1 + handle % 2,
                    max_send_wr: 16,
                    max_recv_wr: 16,
                    qp_type: 2 + (state & 3),
                    ..Default::default()
                };
                (cmd::CREATE_QP, bytes(&request))
            }
            _ => {
                let required = [
                    0,
                    0x39 & !1 | 8 | 16 | 32,
                    1 << 7 | 1 << 8 | 1 << 12 | 1 << 15 | 1 << 17 | 1 << 20,
                    0x12e00,
                ];
                let extra = if mask & 7 == 0 { mask & 0x1f_ffff } else { 0 };
                let (dgid, _) = gaudi_softnic::port_gid(0, 1, u32::from(state & 3)).unwrap();
                let base = ModifyQpReq {
                    dest: QpDest {
                        dgid,
                        is_global: 1,
                        port_num: 1,
                        sgid_index: state & 3,
                        ..Default::default()
                    },
                    qp_handle: 3 + handle % 4,
                    attr_mask: 1 | extra | required.get(usize::from(state)).copied().unwrap_or(0),
                    dest_qp_num: mask >> 29,
                    qp_state: state,
                    path_mtu: 4,
                    port_num: port,
                    timeout: (mask >> 8) as u8 & 15,
                    ..Default::default()
                };
                let request = hbl::ModifyQpReq {
                    wq_type: 1,
                    priority: 1,
                    ..Default::default()
                };
                driver = bytes(&request);
                (
                    cmd::EX_MODIFY_QP,
                    bytes(&ExModifyQpReq {
                        base,
                        ..Default::default()
                    }),
                )
            }
        };
        Step::Sound {
            native,
            command,
            core,
            driver,
        }
    })
}

fn driver() -> impl Strategy<Value = Step> {
    (0..6u8, 1..4u32, 0..8u32, any::<u8>()).prop_map(|(kind, port_num, handle, mode)| {
        let (object, method, request) = match kind {
            0 => (hbl::obj::USR_FIFO, hbl::usr_fifo::DESTROY, vec![]),
            1 => {
                let request = hbl::CreateUsrFifoIn {
                    port_num,
                    usr_fifo_num_hint: handle,
                    mode: mode & 1,
                    ..Default::default()
                };
                (hbl::obj::USR_FIFO, hbl::usr_fifo::CREATE, bytes(&request))
            }
            2 => (
                hbl::obj::QUERY_PORT,
                hbl::query_port::QUERY_PORT,
                bytes(&hbl::QueryPortIn {
                    port_num,
                    reserved: 0,
                }),
            ),
            3 => {
                let request = hbl::CreateEncapIn {
                    tnl_hdr_ptr: scratch(),
                    tnl_hdr_size: 32,
                    port_num,
                    encap_type: 2,
                    ..Default::default()
                };
                (hbl::obj::ENCAP, hbl::encap::CREATE, bytes(&request))
            }
            4 => (hbl::obj::ENCAP, hbl::encap::DESTROY, vec![]),
            _ => {
                let mut request = hbl::SetPortExIn {
                    port_num,
                    ..Default::default()
                };
                request.wq_arr_attr[0] = hbl::WqArrayAttr {
                    max_num_of_wqs: 1 << (mode & 15),
                    max_num_of_wqes_in_wq: 16 << (mode >> 4),
                    mem_id: 1,
                    ..Default::default()
                };
                (
                    hbl::obj::SET_PORT_EX,
                    hbl::set_port_ex::SET_PORT_EX,
                    bytes(&request),
                )
            }
        };
        Step::Driver {
            object,
            method,
            request,
            handle,
        }
    })
}

/// Some requests that reach far, so that the rest meets real objects.
fn valid() -> impl Strategy<Value = Step> {
    let sizes = |command| {
        let words = match command {
            cmd::ALLOC_PD | cmd::CREATE_COMP_CHANNEL => vec![scratch()],
            cmd::CREATE_CQ => vec![scratch(), 7, 16, u64::from(u32::MAX), 1 | 1 << 40],
            cmd::CREATE_QP => vec![
                scratch(),
                8,
                1 << 32,
                1,
                16 | 16 << 32,
                1 | 1 << 32,
                2 << 40,
            ],
            _ => vec![scratch(), 0],
        };
        Step::Command {
            native: false,
            command,
            words,
            in_skew: 0,
            out_words: 64,
            provider: (0, 0),
        }
    };
    prop_oneof![
        Just(cmd::ALLOC_PD),
        Just(cmd::CREATE_CQ),
        Just(cmd::CREATE_QP),
        Just(cmd::CREATE_COMP_CHANNEL)
    ]
    .prop_map(sizes)
}

pub fn step() -> impl Strategy<Value = Step> {
    let object = prop_oneof![8 => 0..18u16, 4 => 0x1000..0x1005u16, 1 => any::<u16>()];
    let method = prop_oneof![8 => 0..8u16, 4 => 0x1000..0x1002u16, 1 => any::<u16>()];
    let skew = || prop_oneof![15 => Just(0i16), 1 => any::<i16>()];
    let reserved = prop_oneof![15 => Just(0u64), 1 => any::<u64>()];
    let native = (
        object,
        method,
        prop::collection::vec(attr(), 0..16),
        skew(),
        reserved,
    )
        .prop_map(|(object, method, mut attrs, skew, reserved)| {
            // Half of the time the ids are those of the method, in order.
            if reserved == 0 && skew == 0 && attrs.len() % 2 == 0 {
                attrs
                    .iter_mut()
                    .zip(if object >= 0x1000 { 0x1000.. } else { 0.. })
                    .for_each(|(a, id)| a.attr_id = id);
            }
            Step::Native {
                object,
                method,
                attrs,
                skew,
                reserved,
            }
        });
    let words = prop::collection::vec(word(), 0..20);
    let provider =
        prop_oneof![4 => Just((0, 0)), 2 => (0..8u16, 0..8u16), 1 => any::<(u16, u16)>()];
    let out_words = prop_oneof![3 => 0..80u16, 1 => any::<u16>()];
    let command = (any::<bool>(), command(), words, skew(), out_words, provider).prop_map(
        |(native, command, words, in_skew, out_words, provider)| Step::Command {
            native,
            command,
            words,
            in_skew,
            out_words,
            provider,
        },
    );
    let request = prop_oneof![
        4 => Just(accel::IOCTL_MEMORY), 2 => Just(accel::IOCTL_INFO), 1 => (0x40..0x47u32).prop_map(|n| 0xc028_6400 | n)
    ];
    let accel = (request, prop::array::uniform5(word())).prop_map(|(request, mut words)| {
        words[3] = (words[3] % 9) | ((words[4] & 0x10f) << 32);
        Step::Accel { request, words }
    });
    let bad = (
        prop_oneof![Just(0u64), Just(8), Just(u64::MAX - 4), Just(1 << 63)],
        0..200usize,
    )
        .prop_map(|(address, count)| Step::BadPointer { address, count });
    prop_oneof![6 => native, 6 => command, 4 => valid(), 10 => sound(), 2 => driver(), 3 => accel, 1 => bad, 1 => Just(Step::CloseOne)]
}
