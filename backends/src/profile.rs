//! What is known of each S3 store: facts only, as they were seen on real servers. Code asks them and never the kind.

use std::time::Duration;

use crate::BackendKind;

#[derive(Debug)]
pub struct Profile {
    pub kind: BackendKind,
    /// The bucket is the first part of the path and not of the host name. An own endpoint always means that.
    pub path_style: bool,
    pub put_checksum: PutChecksum,
    /// The same of a part, when nothing of it was said at the beginning.
    pub part_checksum: PutChecksum,
    pub listing_ends: ListingEnds,
    /// Tells which objects were begun in parts, folder by folder. One that does not removes old ones by itself.
    pub lists_begun: bool,
    pub put_bytes_max: u64,
    pub part_bytes_min: u64,
    pub part_bytes_max: u64,
    pub delete_keys_max: usize,
    /// How long a new bucket may answer 403 to its owner.
    pub fresh_bucket_refuses_for: Duration,
    pub known: &'static [Known],
}

/// What the store verifies of a body that it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutChecksum {
    None,
    Crc32c,
}

/// What shows that a listing is at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListingEnds {
    AtTruncatedFlag,
    AtEmptyPage,
}

/// Something that one has to know before one relies on the store.
#[derive(Debug)]
pub struct Known {
    /// Where it was seen.
    pub version: &'static str,
    pub what: &'static str,
}

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

const BASE: Profile = Profile {
    kind: BackendKind::S3,
    path_style: false,
    put_checksum: PutChecksum::Crc32c,
    part_checksum: PutChecksum::None,
    listing_ends: ListingEnds::AtTruncatedFlag,
    lists_begun: true,
    put_bytes_max: 5 * GIB,
    part_bytes_min: 5 * MIB,
    part_bytes_max: 5 * GIB,
    delete_keys_max: 1_000,
    fresh_bucket_refuses_for: Duration::ZERO,
    known: &[],
};

static S3: Profile = BASE;

static MINIO: Profile = Profile {
    kind: BackendKind::Minio,
    path_style: true,
    part_checksum: PutChecksum::Crc32c,
    lists_begun: false,
    known: &[
        Known { version: "all", what: "lists begun objects of a whole key only; removes them itself after 24 hours" },
        Known {
            version: "all",
            what: "answers 503 when its own queue is full or a drive does not take a large put in time",
        },
    ],
    ..BASE
};

static CEPH_RGW: Profile = Profile {
    kind: BackendKind::CephRgw,
    path_style: true,
    put_checksum: PutChecksum::None,
    known: &[
        Known { version: "16.2.15", what: "refuses trailers, and bodies without a length (411)" },
        Known { version: "16.2.15", what: "a read while the same object is put again may be answered by 500" },
        Known { version: "16.2.15", what: "If-Match with a quoted ETag is always 412" },
        Known { version: "16.2.15", what: "has no SSE-S3: takes such a put and stores it in the clear" },
        Known { version: "16.2.15", what: "a put that timed out at a frozen daemon was stored after all" },
    ],
    ..BASE
};

static CUBEFS: Profile = Profile {
    kind: BackendKind::Cubefs,
    path_style: true,
    put_checksum: PutChecksum::None,
    listing_ends: ListingEnds::AtEmptyPage,
    fresh_bucket_refuses_for: Duration::from_secs(60),
    known: &[
        Known { version: "3.5.3", what: "ignores If-None-Match and If-Match" },
        Known {
            version: "3.5.3",
            what: "recursive listings lose keys, and the truncated flag is wrong in nested folders",
        },
        Known { version: "3.5.3", what: "deletes of many without Content-MD5 are refused" },
        Known { version: "3.5.3", what: "an object is stored in spite of a 400 for a wrong Content-MD5" },
        Known { version: "3.5.3", what: "checksum headers are ignored" },
    ],
    ..BASE
};

impl Profile {
    /// None for stores that are not spoken to by S3.
    pub fn of(kind: BackendKind) -> Option<&'static Profile> {
        match kind {
            BackendKind::Minio => Some(&MINIO),
            BackendKind::CephRgw => Some(&CEPH_RGW),
            BackendKind::Cubefs => Some(&CUBEFS),
            BackendKind::S3 => Some(&S3),
            BackendKind::Fs | BackendKind::Memory => None,
        }
    }
}
