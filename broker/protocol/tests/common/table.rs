//! Every generated message behind one type.

use std::fmt::Debug;
use std::ops::RangeInclusive;

use bytes::Bytes;
use seawall_protocol::messages::*;
use seawall_protocol::{DecodeError, Decoder, Encoder, Message, for_each_message};

pub struct Entry {
    pub name: &'static str,
    pub versions: RangeInclusive<i16>,
    /// Decodes and drops.
    pub decode: fn(Bytes, i16) -> Result<(), DecodeError>,
    /// Decodes all of the bytes, encodes what came out, checks that this decodes to the same value.
    pub recode: fn(Bytes, i16) -> Bytes,
    /// Encodes the default value.
    pub default: fn(i16) -> Bytes,
}

macro_rules! table {
    ($($message:ident)*) => {
        pub fn entries() -> Vec<Entry> {
            vec![$(Entry {
                name: <$message as Message>::NAME,
                versions: <$message as Message>::VALID_VERSIONS,
                decode: decode::<$message>,
                recode: recode::<$message>,
                default: default::<$message>,
            }),*]
        }
    };
}

for_each_message!(table);

pub fn entry(name: &str) -> Entry {
    entries().into_iter().find(|entry| entry.name == name).unwrap_or_else(|| panic!("no message {name}"))
}

fn decode<M: Message>(bytes: Bytes, version: i16) -> Result<(), DecodeError> {
    let mut input = Decoder::new(bytes);
    M::decode(&mut input, version)?;
    input.finish()
}

fn decoded<M: Message>(bytes: Bytes, version: i16) -> M {
    let mut input = Decoder::new(bytes);
    let message = M::decode(&mut input, version).unwrap_or_else(|error| panic!("{} v{version}: {error}", M::NAME));
    input.finish().unwrap_or_else(|error| panic!("{} v{version}: {error}", M::NAME));
    message
}

fn encoded<M: Message>(message: &M, version: i16) -> Bytes {
    let mut out = Encoder::new();
    message.encode(&mut out, version).unwrap_or_else(|error| panic!("{} v{version}: {error}", M::NAME));
    let length = out.len();
    let segments = out.into_segments();
    assert_eq!(segments.total_len(), length, "{} v{version}", M::NAME);
    segments.into_bytes()
}

fn recode<M: Message + PartialEq + Debug>(bytes: Bytes, version: i16) -> Bytes {
    let message: M = decoded(bytes, version);
    let again = encoded(&message, version);
    assert_eq!(decoded::<M>(again.clone(), version), message, "{} v{version}", M::NAME);
    again
}

fn default<M: Message + Default>(version: i16) -> Bytes {
    encoded(&M::default(), version)
}
