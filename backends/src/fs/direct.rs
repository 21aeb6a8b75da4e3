//! Object bodies past the page cache.
//!
//! An object is read back through our own caches or not at all, so a copy in the page cache would only push out what
//! others need there, and making its pages costs more CPU than the rest of a put. Where direct I/O is refused, bodies
//! go through the page cache.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::unix::fs::FileExt;

use crate::Segments;

/// Address, offset and length of a direct write; a multiple of every block size in use.
const ALIGNMENT: usize = 4096;
/// Large enough for the device's full speed with one write at a time.
const BUFFER_BYTES: usize = 1 << 20;

/// Writes `body` to an empty file that was opened with `O_DIRECT`.
pub(super) fn write_direct(file: &File, body: &Segments) -> io::Result<()> {
    let total: usize = body.iter().map(|segment| segment.len()).sum();
    let buffer_bytes = total.next_multiple_of(ALIGNMENT).min(BUFFER_BYTES);
    let mut memory = vec![0; buffer_bytes + ALIGNMENT];
    let start = memory.as_ptr().align_offset(ALIGNMENT);
    let buffer = &mut memory[start..start + buffer_bytes];
    let (mut offset, mut filled) = (0, 0);
    for segment in body.iter() {
        let mut rest = &segment[..];
        while !rest.is_empty() {
            let bytes = rest.len().min(buffer_bytes - filled);
            buffer[filled..filled + bytes].copy_from_slice(&rest[..bytes]);
            filled += bytes;
            rest = &rest[bytes..];
            if filled == buffer_bytes {
                file.write_all_at(buffer, offset)?;
                offset += buffer_bytes as u64;
                filled = 0;
            }
        }
    }
    let padded = filled.next_multiple_of(ALIGNMENT);
    buffer[filled..padded].fill(0);
    file.write_all_at(&buffer[..padded], offset)?;
    if padded > filled { file.set_len(total as u64) } else { Ok(()) }
}

/// Writes `body` through the page cache.
pub(super) fn write_buffered(file: &mut File, body: &Segments) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = body.iter().map(|segment| IoSlice::new(segment)).collect();
    let mut rest = &mut slices[..];
    // An empty slice first would make the write return 0 and look like a full device.
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        match file.write_vectored(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut rest, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
