//! How this crate declares structs and bit fields.

/// One field of a struct: name, offset and size in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    pub name: &'static str,
    pub offset: usize,
    pub size: usize,
}

/// One bit field: name, first bit and width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bits {
    pub name: &'static str,
    pub lo: u32,
    pub width: u32,
}

/// Self-description of an ABI struct, so that tests can compare all of it with C.
pub trait Layout {
    const NAME: &'static str;
    const SIZE: usize;
    const FIELDS: &'static [Field];
}

/// By-name access to the bit fields of a hardware structure, for dumps and tests.
pub trait BitFields: Layout {
    const BITS: &'static [Bits];

    /// Calls `f` with every field's name and value, in order of declaration.
    fn for_each(&self, f: &mut dyn FnMut(&'static str, u64));

    /// Sets one field; false when there is none of that name.
    fn set_by_name(&mut self, name: &str, value: u64) -> bool;
}

/// Bits `lo .. lo + width` of little-endian 64-bit words. With constant arguments this is a load, a shift and a mask.
#[inline(always)]
pub const fn get_bits<const N: usize>(words: &[u64; N], lo: u32, width: u32) -> u64 {
    let (word, shift) = ((lo / 64) as usize, lo % 64);
    let mut value = words[word] >> shift;
    if shift + width > 64 {
        value |= words[word + 1] << (64 - shift);
    }
    value & mask(width)
}

/// Replaces bits `lo .. lo + width`; higher bits of `value` are cut off, as the hardware's registers do.
#[inline(always)]
pub const fn set_bits<const N: usize>(words: &mut [u64; N], lo: u32, width: u32, value: u64) {
    let (word, shift) = ((lo / 64) as usize, lo % 64);
    let value = value & mask(width);
    words[word] = (words[word] & !(mask(width) << shift)) | (value << shift);
    if shift + width > 64 {
        let done = 64 - shift;
        words[word + 1] = (words[word + 1] & !(mask(width) >> done)) | (value >> done);
    }
}

const fn mask(width: u32) -> u64 {
    if width >= 64 {
        u64::MAX
    } else {
        (1 << width) - 1
    }
}

/// Declares a struct with its size and every field's offset, both checked when the crate is compiled.
macro_rules! abi {
    ($( $(#[$meta:meta])* pub struct $name:ident [$size:expr] {
        $( $(#[$fmeta:meta])* $field:ident : $ty:ty = $off:expr ),* $(,)?
    } )*) => { $(
        $(#[$meta])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq,
            ::zerocopy::FromBytes, ::zerocopy::IntoBytes, ::zerocopy::Immutable, ::zerocopy::KnownLayout,
        )]
        #[repr(C)]
        pub struct $name { $( $(#[$fmeta])* pub $field: $ty, )* }

        const _: () = assert!(::core::mem::size_of::<$name>() == $size);
        $( const _: () = assert!(::core::mem::offset_of!($name, $field) == $off); )*

        impl Default for $name {
            fn default() -> Self {
                ::zerocopy::FromZeros::new_zeroed()
            }
        }

        impl $crate::layout::Layout for $name {
            const NAME: &'static str = stringify!($name);
            const SIZE: usize = $size;
            const FIELDS: &'static [$crate::layout::Field] = &[ $( $crate::layout::Field {
                name: stringify!($field),
                offset: $off,
                size: ::core::mem::size_of::<$ty>(),
            } ),* ];
        }
    )* };
}

/// Declares a hardware structure made of bit fields: storage is an array of 64-bit words, and every field gets a
/// getter, a setter and a by-value builder, all `const`. Fields may not overlap (checked when compiled).
macro_rules! bit_struct {
    ($(#[$meta:meta])* pub struct $name:ident [$bytes:expr] {
        $( $(#[$fmeta:meta])* $get:ident $set:ident $with:ident : $ty:ident = $lo:expr, $width:expr; )*
    }) => {
        $(#[$meta])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq,
            ::zerocopy::FromBytes, ::zerocopy::IntoBytes, ::zerocopy::Immutable, ::zerocopy::KnownLayout,
        )]
        #[repr(C)]
        pub struct $name { pub words: [u64; $bytes / 8] }

        const _: () = assert!(::core::mem::size_of::<$name>() == $bytes);
        const _: () = {
            let mut seen = [0u64; $bytes / 8];
            $(
                assert!($crate::layout::get_bits(&seen, $lo, $width) == 0, concat!("overlap: ", stringify!($get)));
                assert!($width <= u8::BITS as usize * ::core::mem::size_of::<$ty>());
                $crate::layout::set_bits(&mut seen, $lo, $width, u64::MAX);
            )*
        };

        impl Default for $name {
            fn default() -> Self {
                Self::ZERO
            }
        }

        impl $name {
            pub const ZERO: Self = Self { words: [0; $bytes / 8] };
            $(
                $(#[$fmeta])*
                #[inline]
                pub const fn $get(&self) -> $ty {
                    bit_struct!(@from $ty, $crate::layout::get_bits(&self.words, $lo, $width))
                }
                #[inline]
                pub const fn $set(&mut self, value: $ty) {
                    $crate::layout::set_bits(&mut self.words, $lo, $width, value as u64);
                }
                #[inline]
                #[must_use]
                pub const fn $with(mut self, value: $ty) -> Self {
                    $crate::layout::set_bits(&mut self.words, $lo, $width, value as u64);
                    self
                }
            )*
        }

        impl $crate::layout::Layout for $name {
            const NAME: &'static str = stringify!($name);
            const SIZE: usize = $bytes;
            const FIELDS: &'static [$crate::layout::Field] = &[];
        }

        impl $crate::layout::BitFields for $name {
            const BITS: &'static [$crate::layout::Bits] = &[ $( $crate::layout::Bits {
                name: stringify!($get), lo: $lo, width: $width,
            } ),* ];

            fn for_each(&self, f: &mut dyn FnMut(&'static str, u64)) {
                $( f(stringify!($get), self.$get() as u64); )*
            }

            fn set_by_name(&mut self, name: &str, value: u64) -> bool {
                match name {
                    $( stringify!($get) => self.$set(bit_struct!(@from $ty, value)), )*
                    _ => return false,
                }
                true
            }
        }
    };
    (@from bool, $e:expr) => { $e != 0 };
    (@from $ty:ident, $e:expr) => { $e as $ty };
}
