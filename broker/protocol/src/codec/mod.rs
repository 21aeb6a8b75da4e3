//! Reading and writing of Kafka's primitive types, and the trait of the messages made from them.

mod decoder;
mod encoder;
mod message;
mod segments;
mod tags;

pub use decoder::{DecodeError, Decoder};
pub use encoder::{EncodeError, Encoder};
pub use message::Message;
pub use segments::{Records, Segments};

pub(crate) use decoder::check_null;
pub(crate) use tags::TagWriter;
