//! An S3 server that is right until it is told not to be: objects in memory, signatures checked, and then faults from a seed and the
//! habits of real stores. For tests of clients, of brokers and of whole crashes; never for data.
//!
//! It promises that its report is true: which faults were met, and whether a key was ever given other bytes than before. What a client
//! makes of a lost reply, a put that lands after its repeat or a listing that omits is the client's test.

mod answer;
mod faults;
mod objects;
mod request;
mod serve;
mod signature;
mod store;

pub use faults::{Fault, Faults};
pub use serve::{Report, Server, Settings};

/// Habits of real stores, as docs/backends and the profiles name them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Like {
    /// What the S3 API says.
    #[default]
    Plain,
    /// CubeFS 3.5.3: ignores conditions and checksums, stores in spite of a 400, loses keys in recursive listings, says that a page
    /// is the last when it is not, wants Content-MD5 at deletes of many, keeps keys as paths of files.
    Cubefs,
    /// Ceph RGW 16: refuses bodies of unknown length and trailers, knows If-Match only without quotes.
    CephRgw,
}
