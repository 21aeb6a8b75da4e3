//! What all messages have in common.

use std::ops::RangeInclusive;

use super::{DecodeError, Decoder, EncodeError, Encoder};

/// A request, a response, a header or a data schema, without its header and frame length.
pub trait Message: Sized {
    const NAME: &'static str;
    /// `None` for headers and data schemas.
    const API_KEY: Option<i16>;
    /// The versions that can be decoded and encoded, unstable ones included.
    const VALID_VERSIONS: RangeInclusive<i16>;
    /// The first version with compact lengths and tagged fields.
    const FLEXIBLE_FROM: Option<i16>;

    /// Reads the message and leaves the input behind its last byte. Fields that the version lacks get their defaults.
    fn decode(input: &mut Decoder, version: i16) -> Result<Self, DecodeError> {
        if !Self::VALID_VERSIONS.contains(&version) {
            return Err(DecodeError::UnsupportedVersion { message: Self::NAME, version });
        }
        Self::decode_body(input, version)
    }

    /// Writes the message. A field set to something else than its default, at a version that lacks it, is an error
    /// unless Kafka calls it ignorable. After an error `out` holds part of the message.
    fn encode(&self, out: &mut Encoder, version: i16) -> Result<(), EncodeError> {
        if !Self::VALID_VERSIONS.contains(&version) {
            return Err(EncodeError::UnsupportedVersion { message: Self::NAME, version });
        }
        self.encode_body(out, version)
    }

    #[doc(hidden)]
    fn decode_body(input: &mut Decoder, version: i16) -> Result<Self, DecodeError>;

    #[doc(hidden)]
    fn encode_body(&self, out: &mut Encoder, version: i16) -> Result<(), EncodeError>;
}
