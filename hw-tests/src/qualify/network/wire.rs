//! What probe and server say to each other: a first line of fixed length names the kind, then come raw bytes.

use std::io::{self, Read};

/// Begins each connection and each datagram.
pub const MAGIC: &[u8; 8] = b"SWQNET01";
/// Magic, one byte for the kind, and rest.
pub const HELLO_BYTES: usize = 16;
/// Of a round trip: as large as a small request.
pub const PING_BYTES: usize = 64;
/// The largest UDP datagram over IPv4.
pub const DATAGRAM_BYTES_MAX: usize = 65_507;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Each 64 bytes come back.
    Echo = 1,
    /// Bytes are counted; at the end of the stream the count comes back, as eight bytes, big endian.
    Sink = 2,
}

impl Kind {
    pub fn hello(self) -> [u8; HELLO_BYTES] {
        let mut hello = [0; HELLO_BYTES];
        hello[..8].copy_from_slice(MAGIC);
        hello[8] = self as u8;
        hello
    }

    pub fn read(from: &mut impl Read) -> io::Result<Self> {
        let mut hello = [0; HELLO_BYTES];
        from.read_exact(&mut hello)?;
        match hello[8] {
            1 if hello.starts_with(MAGIC) => Ok(Self::Echo),
            2 if hello.starts_with(MAGIC) => Ok(Self::Sink),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "not a probe")),
        }
    }
}
