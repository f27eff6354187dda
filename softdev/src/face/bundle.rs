//! The native ioctl's attributes, taken over from the program once and checked against what the method declares.

use super::driver::{Udata, prefix};
use super::objects::Kind;
use super::usermem::{self, UserOut};
use gaudi_softnic::{Errno, Result};
use kernel_abi::uverbs::{Attr, IoctlHdr, UHW_IN, UHW_OUT, attr_flag};

const EPROTONOSUPPORT: Errno = Errno(libc::EPROTONOSUPPORT);
/// The kernel takes no more than a page of header and attributes.
const MAX_LENGTH: usize = 4096;

/// What an attribute is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    /// Input of at least so many bytes.
    In(u16),
    /// Output of at least so many bytes.
    Out(u16),
    /// An existing object.
    Object(Kind),
    /// A descriptor that the program passes.
    Fd,
    /// An object or descriptor that the method creates.
    New,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spec {
    pub(crate) id: u16,
    pub(crate) kind: Type,
    pub(crate) mandatory: bool,
}

pub(crate) const fn need(id: u16, kind: Type) -> Spec {
    Spec {
        id,
        kind,
        mandatory: true,
    }
}

pub(crate) const fn may(id: u16, kind: Type) -> Spec {
    Spec {
        id,
        kind,
        mandatory: false,
    }
}

pub(crate) fn read_header(address: u64) -> Result<IoctlHdr> {
    let mut bytes = [0; size_of::<IoctlHdr>()];
    usermem::read(address, &mut bytes)?;
    let header: IoctlHdr = prefix(&bytes);
    let length = usize::from(header.length);
    let attrs = usize::from(header.num_attrs) * size_of::<Attr>();
    if length > MAX_LENGTH || length != size_of::<IoctlHdr>() + attrs {
        return Err(Errno::EINVAL);
    }
    if header.reserved1 != 0 || header.reserved2 != 0 {
        return Err(EPROTONOSUPPORT);
    }
    Ok(header)
}

struct Parsed {
    attr: Attr,
    /// Where the program's copy is, for what the kernel writes back.
    address: u64,
    written: bool,
}

pub(crate) struct Bundle {
    attrs: Vec<Parsed>,
}

impl Bundle {
    /// Reads the attributes behind the header at `address`. Unknown ones are skipped unless they are marked mandatory.
    pub(crate) fn read(
        address: u64,
        count: u16,
        specs: &[Spec],
        has_udata: bool,
    ) -> Result<Bundle> {
        let base = address.wrapping_add(size_of::<IoctlHdr>() as u64);
        let bytes = usermem::read_vec(base, usize::from(count) * size_of::<Attr>())?;
        let mut attrs: Vec<Parsed> = Vec::with_capacity(count.into());
        for (i, bytes) in bytes.chunks_exact(size_of::<Attr>()).enumerate() {
            let attr: Attr = prefix(bytes);
            let known = specs.iter().find(|spec| spec.id == attr.attr_id);
            let udata = has_udata && (attr.attr_id == UHW_IN || attr.attr_id == UHW_OUT);
            if known.is_none() && !udata {
                if attr.flags & attr_flag::MANDATORY != 0 {
                    return Err(EPROTONOSUPPORT);
                }
                continue;
            }
            if attrs.iter().any(|other| other.attr.attr_id == attr.attr_id) {
                return Err(Errno::EINVAL);
            }
            if let Some(spec) = known {
                check(&attr, spec)?;
            }
            let address = base.wrapping_add((i * size_of::<Attr>()) as u64);
            attrs.push(Parsed {
                attr,
                address,
                written: false,
            });
        }
        let missing = specs
            .iter()
            .any(|spec| spec.mandatory && !attrs.iter().any(|a| a.attr.attr_id == spec.id));
        if missing {
            Err(Errno::EINVAL)
        } else {
            Ok(Bundle { attrs })
        }
    }

    fn get(&self, id: u16) -> Option<&Attr> {
        self.attrs
            .iter()
            .map(|parsed| &parsed.attr)
            .find(|attr| attr.attr_id == id)
    }

    pub(crate) fn has(&self, id: u16) -> bool {
        self.get(id).is_some()
    }

    /// Input bytes: inline up to eight, by pointer above.
    pub(crate) fn bytes(&self, id: u16) -> Result<Vec<u8>> {
        let Some(attr) = self.get(id) else {
            return Ok(Vec::new());
        };
        let len = usize::from(attr.len);
        match attr.data.to_ne_bytes().get(..len) {
            Some(inline) => Ok(inline.to_vec()),
            None => usermem::read_vec(attr.data, len),
        }
    }

    /// Input as a struct, zero-extended; zero when absent.
    pub(crate) fn value<T: zerocopy::FromBytes + zerocopy::IntoBytes>(&self, id: u16) -> Result<T> {
        Ok(prefix(&self.bytes(id)?))
    }

    /// Flags and enums travel in four or eight bytes.
    pub(crate) fn small(&self, id: u16) -> Result<u32> {
        u32::try_from(self.value::<u64>(id)?).map_err(|_| Errno::EINVAL)
    }

    pub(crate) fn handle(&self, id: u16) -> Option<u32> {
        self.get(id).map(|attr| attr.data as u32)
    }

    pub(crate) fn fd(&self, id: u16) -> Option<i32> {
        self.get(id).map(|attr| attr.data as i32)
    }

    pub(crate) fn out(&self, id: u16) -> UserOut {
        self.get(id).map_or(UserOut::default(), |attr| UserOut {
            address: attr.data,
            len: attr.len.into(),
        })
    }

    pub(crate) fn udata(&self) -> Result<Udata> {
        Ok(Udata {
            input: self.bytes(UHW_IN)?,
            out: self.out(UHW_OUT),
        })
    }

    /// Stores an output; nothing happens when the program did not ask for it.
    pub(crate) fn put(&mut self, id: u16, answer: &[u8]) -> Result<()> {
        self.out(id).put(answer)?;
        self.mark(id);
        Ok(())
    }

    pub(crate) fn mark(&mut self, id: u16) {
        if let Some(parsed) = self
            .attrs
            .iter_mut()
            .find(|parsed| parsed.attr.attr_id == id)
        {
            parsed.written = true;
        }
    }

    /// Tells the program which outputs are valid and, if one was created, the number of the new object.
    pub(crate) fn finish(&mut self, created: Option<(u16, u64)>) -> Result<()> {
        self.mark(UHW_OUT);
        for parsed in self.attrs.iter().filter(|parsed| parsed.written) {
            let flags = parsed.attr.flags | attr_flag::VALID_OUTPUT;
            usermem::write(parsed.address.wrapping_add(4), &flags.to_ne_bytes())?;
        }
        if let Some((id, number)) = created {
            let address = self
                .attrs
                .iter()
                .find(|parsed| parsed.attr.attr_id == id)
                .ok_or(Errno::EINVAL)?
                .address;
            usermem::write(address.wrapping_add(8), &number.to_ne_bytes())?;
        }
        Ok(())
    }
}

fn check(attr: &Attr, spec: &Spec) -> Result<()> {
    match spec.kind {
        Type::In(min) | Type::Out(min) if attr.len < min => Err(Errno::EINVAL),
        Type::In(_) | Type::Out(_) => Ok(()),
        Type::Object(_) | Type::New | Type::Fd if attr.len != 0 || attr.attr_data != 0 => {
            Err(Errno::EINVAL)
        }
        Type::Object(_) if u32::try_from(attr.data).is_err() => Err(Errno::EINVAL),
        Type::Fd if i32::try_from(attr.data).is_err() => Err(Errno::EBADF),
        Type::Object(_) | Type::New | Type::Fd => Ok(()),
    }
}
