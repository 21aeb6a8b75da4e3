//! The binary encoding under commands and snapshots: fixed-width little-endian integers, counted strings and lists.
//!
//! Promise: one value has one encoding (maps and sets are written and read in strictly rising key order), and decoding
//! believes no length that the input cannot hold. Versions and checksums are left to `command.rs` and `snapshot.rs`.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

/// Why bytes are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("the bytes end early")]
    Short,
    #[error("{0} bytes too many")]
    Trailing(usize),
    #[error("invalid {0}")]
    Invalid(&'static str),
}

/// Bytes still to be decoded.
pub(crate) struct Input<'a> {
    bytes: &'a [u8],
}

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        if count > self.bytes.len() {
            return Err(WireError::Short);
        }
        let (head, rest) = self.bytes.split_at(count);
        self.bytes = rest;
        Ok(head)
    }

    pub(crate) fn finish(self) -> Result<(), WireError> {
        if self.bytes.is_empty() { Ok(()) } else { Err(WireError::Trailing(self.bytes.len())) }
    }

    /// A list's length, which cannot exceed the bytes left: every element takes at least one.
    fn count(&mut self) -> Result<usize, WireError> {
        let count = u32::take(self)? as usize;
        if count > self.bytes.len() { Err(WireError::Short) } else { Ok(count) }
    }
}

/// A value with exactly one encoding.
pub(crate) trait Wire: Sized {
    fn put(&self, out: &mut Vec<u8>);
    fn take(input: &mut Input<'_>) -> Result<Self, WireError>;
}

macro_rules! wire_int {
    ($($int:ty),+) => {$(
        impl Wire for $int {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }

            fn take(input: &mut Input<'_>) -> Result<Self, WireError> {
                let bytes = input.bytes(size_of::<$int>())?;
                Ok(<$int>::from_le_bytes(bytes.try_into().map_err(|_| WireError::Short)?))
            }
        }
    )+};
}

wire_int!(u8, u16, u32, u64, i16, i32, i64);

impl Wire for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn take(input: &mut Input<'_>) -> Result<Self, WireError> {
        match u8::take(input)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(WireError::Invalid("bool")),
        }
    }
}

impl Wire for Uuid {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_bytes());
    }

    fn take(input: &mut Input<'_>) -> Result<Self, WireError> {
        Uuid::from_slice(input.bytes(16)?).map_err(|_| WireError::Short)
    }
}

impl Wire for String {
    fn put(&self, out: &mut Vec<u8>) {
        put_count(self.len(), out);
        out.extend_from_slice(self.as_bytes());
    }

    fn take(input: &mut Input<'_>) -> Result<Self, WireError> {
        let count = input.count()?;
        let text = std::str::from_utf8(input.bytes(count)?).map_err(|_| WireError::Invalid("UTF-8"))?;
        Ok(text.to_owned())
    }
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }

    fn take(input: &mut Input<'_>) -> Result<Self, WireError> {
        Ok(if bool::take(input)? { Some(T::take(input)?) } else { None })
    }
}

impl<T: Wire> Wire for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        put_count(self.len(), out);
        for item in self {
            item.put(out);
        }
    }

    fn take(input: &mut Input<'_>) -> Result<Self, WireError> {
        // Grows as elements really arrive: a count costs nothing by itself.
        let count = input.count()?;
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(T::take(input)?);
        }
        Ok(items)
    }
}

impl<K: Wire + Ord, V: Wire> Wire for BTreeMap<K, V> {
    fn put(&self, out: &mut Vec<u8>) {
        put_count(self.len(), out);
        for (key, value) in self {
            key.put(out);
            value.put(out);
        }
    }

    fn take(input: &mut Input<'_>) -> Result<Self, WireError> {
        let count = input.count()?;
        let mut items: Vec<(K, V)> = Vec::new();
        for _ in 0..count {
            let key = K::take(input)?;
            if items.last().is_some_and(|(last, _)| *last >= key) {
                return Err(WireError::Invalid("order of map keys"));
            }
            items.push((key, V::take(input)?));
        }
        Ok(items.into_iter().collect())
    }
}

impl<T: Wire + Ord> Wire for BTreeSet<T> {
    fn put(&self, out: &mut Vec<u8>) {
        put_count(self.len(), out);
        for item in self {
            item.put(out);
        }
    }

    fn take(input: &mut Input<'_>) -> Result<Self, WireError> {
        let items = Vec::<T>::take(input)?;
        if items.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err(WireError::Invalid("order of set items"));
        }
        Ok(items.into_iter().collect())
    }
}

impl<A: Wire, B: Wire> Wire for (A, B) {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
        self.1.put(out);
    }

    fn take(input: &mut Input<'_>) -> Result<Self, WireError> {
        Ok((A::take(input)?, B::take(input)?))
    }
}

fn put_count(count: usize, out: &mut Vec<u8>) {
    let count = u32::try_from(count).expect("a list of fewer than 2^32 elements");
    count.put(out);
}

/// `Wire` for a struct: its fields, in the order given here.
macro_rules! wire_struct {
    ($name:ident { $($field:ident),+ $(,)? }) => {
        impl $crate::wire::Wire for $name {
            fn put(&self, out: &mut Vec<u8>) {
                $($crate::wire::Wire::put(&self.$field, out);)+
            }

            fn take(input: &mut $crate::wire::Input<'_>) -> Result<Self, $crate::wire::WireError> {
                Ok(Self { $($field: $crate::wire::Wire::take(input)?,)+ })
            }
        }
    };
}

/// `Wire` for an enum of struct-like or unit variants: a tag byte, then the variant's fields.
macro_rules! wire_enum {
    ($name:ident ($what:literal) { $($tag:literal => $variant:ident $({ $($field:ident),+ $(,)? })?),+ $(,)? }) => {
        impl $crate::wire::Wire for $name {
            fn put(&self, out: &mut Vec<u8>) {
                match self {
                    $(Self::$variant $({ $($field),+ })? => {
                        out.push($tag);
                        $($($crate::wire::Wire::put($field, out);)+)?
                    })+
                }
            }

            fn take(input: &mut $crate::wire::Input<'_>) -> Result<Self, $crate::wire::WireError> {
                match <u8 as $crate::wire::Wire>::take(input)? {
                    $($tag => Ok(Self::$variant $({ $($field: $crate::wire::Wire::take(input)?),+ })?),)+
                    _ => Err($crate::wire::WireError::Invalid($what)),
                }
            }
        }
    };
}

pub(crate) use {wire_enum, wire_struct};
