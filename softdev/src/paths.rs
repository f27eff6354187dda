//! Which paths of a program lead into the device tree, and which of those are devices.
//!
//! Everything here works on bytes in place: it runs inside interposed functions, for every path that a program opens.

/// First minor of the `uverbs` class and its major, as `ib_uverbs` has them.
pub const UVERBS_MAJOR: u32 = 231;
pub const UVERBS_MINOR: u32 = 192;
/// Major of the kernel's `accel` class.
pub const ACCEL_MAJOR: u32 = 261;

/// Longest path that is rewritten; a longer one is left alone, since the kernel refuses it as well.
pub const MAX_PATH: usize = 4096;

/// Bus number of the soft PCI functions: `0000:fd:<device>.0`.
pub const PCI_BUS: &str = "0000:fd:";

/// A device node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Node {
    Uverbs(u32),
    Accel(u32),
}

impl Node {
    pub fn major(self) -> u32 {
        match self {
            Node::Uverbs(_) => UVERBS_MAJOR,
            Node::Accel(_) => ACCEL_MAJOR,
        }
    }

    pub fn minor(self) -> u32 {
        match self {
            Node::Uverbs(n) => UVERBS_MINOR + n,
            Node::Accel(n) => n,
        }
    }

    pub fn device(self) -> u32 {
        match self {
            Node::Uverbs(n) | Node::Accel(n) => n,
        }
    }

    /// By the last path component: `uverbsN`, `accelN`.
    pub fn from_name(name: &[u8]) -> Option<Node> {
        if let Some(n) = name.strip_prefix(b"uverbs") {
            return number(n).map(Node::Uverbs);
        }
        name.strip_prefix(b"accel")
            .and_then(number)
            .map(Node::Accel)
    }

    /// By a name in `/dev/char`: `major:minor`.
    pub fn from_number(name: &[u8]) -> Option<Node> {
        let colon = name.iter().position(|&b| b == b':')?;
        let (major, minor) = (number(name.get(..colon)?)?, number(name.get(colon + 1..)?)?);
        match major {
            UVERBS_MAJOR => minor.checked_sub(UVERBS_MINOR).map(Node::Uverbs),
            ACCEL_MAJOR => Some(Node::Accel(minor)),
            _ => None,
        }
    }
}

/// Up to six decimal digits without a leading zero.
fn number(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() || digits.len() > 6 || (digits.len() > 1 && digits[0] == b'0') {
        return None;
    }
    digits.iter().try_fold(0u32, |n, &b| {
        b.is_ascii_digit().then(|| n * 10 + u32::from(b - b'0'))
    })
}

/// Prefixes that end at a component boundary: the next byte must be `/` or the end.
const WHOLE: [&[u8]; 5] = [
    b"/sys/class/accel",
    b"/sys/class/infiniband",
    b"/sys/class/infiniband_verbs",
    b"/dev/infiniband",
    b"/dev/accel",
];
/// Prefixes that end inside a component.
const INSIDE: [&[u8]; 4] = [
    b"/sys/devices/pci0000:00/0000:fd:",
    b"/sys/bus/pci/devices/0000:fd:",
    b"/dev/char/231:",
    b"/dev/char/261:",
];

/// Whether the path is one of ours. The common case, any other path, costs a compare of a few bytes.
#[inline]
pub fn is_ours(path: &[u8]) -> bool {
    match path {
        [b'/', b's', b'y', b's', b'/', ..] | [b'/', b'd', b'e', b'v', b'/', ..] => matches(path),
        _ => false,
    }
}

fn matches(path: &[u8]) -> bool {
    WHOLE.iter().any(|prefix| {
        path.strip_prefix(*prefix)
            .is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
    }) || INSIDE.iter().any(|prefix| path.starts_with(prefix))
}

/// The device that one of our paths names, if it names one.
pub fn node(path: &[u8]) -> Option<Node> {
    if let Some(name) = path.strip_prefix(b"/dev/char/") {
        return Node::from_number(name);
    }
    let name = path
        .strip_prefix(b"/dev/infiniband/")
        .or_else(|| path.strip_prefix(b"/dev/accel/"))?;
    let name = name
        .iter()
        .position(|&b| b != b'/')
        .and_then(|start| name.get(start..))?;
    Node::from_name(name)
}

/// Whether the file holds a counter, which must be fresh when it is read.
pub fn is_counter(path: &[u8]) -> bool {
    let has = |needle: &[u8]| path.windows(needle.len()).any(|window| window == needle);
    path.starts_with(b"/sys/") && (has(b"/hw_counters/") || has(b"/counters/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_and_others() {
        for ours in [
            "/sys/class/infiniband",
            "/sys/class/infiniband/",
            "/sys/class/infiniband/hbl_0/ports",
            "/sys/class/infiniband_verbs/uverbs0/dev",
            "/sys/devices/pci0000:00/0000:fd:01.0/vendor",
            "/dev/infiniband/uverbs0",
            "/dev/accel",
            "/dev/char/231:192",
        ] {
            assert!(is_ours(ours.as_bytes()), "{ours}");
        }
        for other in [
            "",
            "/",
            "/sys",
            "/sys/class/infiniband_ucma",
            "/sys/class/infiniband_verbsx",
            "/sys/class/infinibandx/y",
            "/sys/devices/pci0000:00/0000:00:01.0",
            "/dev/accelerated",
            "/dev/char/1:3",
            "/devx/infiniband",
            "sys/class/infiniband",
        ] {
            assert!(!is_ours(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn nodes() {
        assert_eq!(node(b"/dev/infiniband/uverbs7"), Some(Node::Uverbs(7)));
        assert_eq!(node(b"/dev/infiniband//uverbs7"), Some(Node::Uverbs(7)));
        assert_eq!(node(b"/dev/accel/accel0"), Some(Node::Accel(0)));
        assert_eq!(node(b"/dev/char/231:193"), Some(Node::Uverbs(1)));
        assert_eq!(node(b"/dev/char/261:3"), Some(Node::Accel(3)));
        for none in [
            "/dev/infiniband",
            "/dev/infiniband/uverbs",
            "/dev/infiniband/uverbs01",
            "/dev/infiniband/uverbs0/x",
            "/dev/char/231:1",
        ] {
            assert_eq!(node(none.as_bytes()), None, "{none}");
        }
    }

    #[test]
    fn counters() {
        assert!(is_counter(
            b"/sys/class/infiniband/hbl_0/ports/1/hw_counters/x"
        ));
        assert!(!is_counter(
            b"/sys/class/infiniband/hbl_0/ports/1/hw_counters"
        ));
    }
}
