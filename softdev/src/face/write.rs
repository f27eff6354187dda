//! The oldest dialect: commands by write(2).

use super::command::{Call, Shape, run, shape_of};
use super::driver::{Udata, prefix};
use super::file::VerbsFile;
use super::usermem::{self, UserOut};
use gaudi_softnic::{Errno, Result};
use kernel_abi::cmd::{self, ExWriteHdr, WriteHdr};

const HDR: usize = size_of::<WriteHdr>();
const EX_HDRS: usize = HDR + size_of::<ExWriteHdr>();

/// Runs the command in `count` bytes at `buffer`; the answer is `count`.
pub(crate) fn write(file: &VerbsFile, buffer: u64, count: usize) -> Result<usize> {
    if count < HDR {
        return Err(Errno::EINVAL);
    }
    let mut header = [0; HDR];
    usermem::read(buffer, &mut header)?;
    let header: WriteHdr = prefix(&header);
    let shape = shape_of(header.command)?;
    let call = if header.command & cmd::EXTENDED != 0 {
        extended(&header, shape, buffer, count)?
    } else {
        legacy(&header, shape, buffer, count)?
    };
    run(&mut file.lock(), header.command, &call)?;
    Ok(count)
}

/// All lengths count 4-byte words and include the header; driver data follows the core's on both sides.
fn legacy(header: &WriteHdr, shape: Shape, buffer: u64, count: usize) -> Result<Call> {
    if usize::from(header.in_words) * 4 != count {
        return Err(Errno::EINVAL);
    }
    let out_len = usize::from(header.out_words) * 4;
    if count < HDR + shape.request || out_len < shape.response {
        return Err(Errno(libc::ENOSPC));
    }
    let mut core_in = usermem::read_vec(buffer.wrapping_add(HDR as u64), count - HDR)?;
    let udata_in = core_in.split_off(shape.request);
    let mut call = Call {
        core_in,
        ..Call::default()
    };
    if shape.has_response {
        let address: u64 = prefix(&call.core_in);
        call.core_out = UserOut {
            address,
            len: shape.response,
        };
        let behind = address.wrapping_add(shape.response as u64);
        call.udata.out = UserOut {
            address: behind,
            len: out_len - shape.response,
        };
    }
    if shape.has_udata {
        call.udata.input = udata_in;
    } else {
        // Commands without driver data take the whole response for the core.
        call.core_out.len = if shape.has_response { out_len } else { 0 };
        call.udata = Udata::default();
    }
    Ok(call)
}

/// Lengths count 8-byte words without the two headers, separately for core and driver.
fn extended(header: &WriteHdr, shape: Shape, buffer: u64, count: usize) -> Result<Call> {
    let Some(body) = count.checked_sub(EX_HDRS) else {
        return Err(Errno::EINVAL);
    };
    let mut ex = [0; size_of::<ExWriteHdr>()];
    usermem::read(buffer.wrapping_add(HDR as u64), &mut ex)?;
    let ex: ExWriteHdr = prefix(&ex);
    let core_in = usize::from(header.in_words) * 8;
    let udata_in = usize::from(ex.provider_in_words) * 8;
    let core_out = usize::from(header.out_words) * 8;
    let udata_out = usize::from(ex.provider_out_words) * 8;
    if core_in + udata_in != body {
        return Err(Errno::EINVAL);
    }
    if core_in < shape.request {
        return Err(Errno(libc::ENOSPC));
    }
    if ex.cmd_hdr_reserved != 0 || (ex.response == 0) != (core_out + udata_out == 0) {
        return Err(Errno::EINVAL);
    }
    if ex.response != 0 && core_out < shape.response {
        return Err(Errno(libc::ENOSPC));
    }
    let mut core = usermem::read_vec(buffer.wrapping_add(EX_HDRS as u64), body)?;
    let input = core.split_off(core_in);
    let out = UserOut {
        address: ex.response.wrapping_add(core_out as u64),
        len: udata_out,
    };
    Ok(Call {
        core_in: core,
        core_out: UserOut {
            address: ex.response,
            len: core_out,
        },
        udata: Udata { input, out },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;

    fn shape(command: u32) -> Shape {
        shape_of(command).unwrap()
    }

    #[test]
    fn legacy_layout() {
        usermem::arm();
        // header, core of CREATE_CQ (32), eight bytes of driver data
        let mut words = [0u64; 6];
        words[1] = 0x5000;
        words[5] = 0x77;
        let header = WriteHdr {
            command: cmd::CREATE_CQ,
            in_words: 12,
            out_words: 2 + 10,
        };
        words[0] = u64::from_ne_bytes(header.as_bytes().try_into().unwrap());
        let call = legacy(&header, shape(cmd::CREATE_CQ), words.as_ptr() as u64, 48).unwrap();
        assert_eq!(call.core_in.len(), 32);
        assert_eq!(
            call.core_out,
            UserOut {
                address: 0x5000,
                len: 8
            }
        );
        assert_eq!(
            call.udata.out,
            UserOut {
                address: 0x5008,
                len: 40
            }
        );
        assert_eq!(call.udata.input, 0x77u64.to_ne_bytes());
    }

    #[test]
    fn legacy_lengths() {
        usermem::arm();
        let at = |in_words, out_words, count| {
            let header = WriteHdr {
                command: cmd::ALLOC_PD,
                in_words,
                out_words,
            };
            legacy(&header, shape(cmd::ALLOC_PD), 0, count).unwrap_err()
        };
        assert_eq!(at(4, 1, 12), Errno::EINVAL);
        assert_eq!(at(3, 1, 12).0, libc::ENOSPC);
        assert_eq!(at(4, 0, 16).0, libc::ENOSPC);
        assert_eq!(at(4, 1, 16), Errno::EFAULT);
    }

    #[test]
    fn extended_layout() {
        usermem::arm();
        let header = WriteHdr {
            command: cmd::EX_QUERY_DEVICE,
            in_words: 1,
            out_words: 38,
        };
        let ex = ExWriteHdr {
            response: 0x9000,
            provider_in_words: 1,
            provider_out_words: 2,
            cmd_hdr_reserved: 0,
        };
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(ex.as_bytes());
        bytes.extend_from_slice(&[1; 8]);
        bytes.extend_from_slice(&[2; 8]);
        let call = extended(
            &header,
            shape(cmd::EX_QUERY_DEVICE),
            bytes.as_ptr() as u64,
            40,
        )
        .unwrap();
        assert_eq!((call.core_in, call.udata.input), (vec![1; 8], vec![2; 8]));
        assert_eq!(
            call.core_out,
            UserOut {
                address: 0x9000,
                len: 304
            }
        );
        assert_eq!(
            call.udata.out,
            UserOut {
                address: 0x9000 + 304,
                len: 16
            }
        );
        assert!(
            extended(
                &header,
                shape(cmd::EX_QUERY_DEVICE),
                bytes.as_ptr() as u64,
                32
            )
            .is_err()
        );
    }

    #[test]
    fn unknown_commands() {
        assert_eq!(shape_of(99), Err(Errno::EOPNOTSUPP));
        assert_eq!(shape_of(0x4000_0001), Err(Errno::EINVAL));
        assert_eq!(shape_of(cmd::EX_CREATE_FLOW), Err(Errno::EOPNOTSUPP));
    }
}
