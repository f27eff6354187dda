//! C constants of the kernel's and libibverbs' headers and the Rust constants that must equal them.

macro_rules! constants {
    ($( $c:literal = $rust:expr; )*) => {
        pub(crate) const LIST: &[(&str, u64)] = &[ $( ($c, $rust as u64) ),* ];
    };
}

mod ids;
mod verbs;

pub(crate) fn all() -> Vec<(&'static str, u64)> {
    [ids::LIST, verbs::LIST].concat()
}
