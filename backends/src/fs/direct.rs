//! Object bodies past the page cache.
//!
//! What is written is read back through our own caches or not at all, so a copy in the page cache would only push out
//! what others need there, and making its pages costs more CPU than the rest of a put. Where direct I/O is refused,
//! bodies go through the page cache. Reads always do: the kernel's readahead is what makes catching up fast.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use crate::Segments;

/// Address, offset and length of a direct write; a multiple of every block size in use.
const ALIGNMENT: usize = 4096;
/// Large enough for the device's full speed with one request at a time.
const BUFFER_BYTES: usize = 1 << 20;
/// Kept between uses; more exist only while they are used at the same time.
const BUFFERS_KEPT: usize = 4;

/// Buffers that direct writes go through.
#[derive(Default)]
pub(super) struct Buffers(Mutex<Vec<Vec<u8>>>);

impl Buffers {
    /// Runs `work` with `BUFFER_BYTES` of aligned memory that hold anything.
    fn with<T>(&self, work: impl FnOnce(&mut [u8]) -> T) -> T {
        let kept = self.kept().pop();
        let mut memory = kept.unwrap_or_else(|| vec![0; BUFFER_BYTES + ALIGNMENT]);
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        let done = work(&mut memory[start..start + BUFFER_BYTES]);
        let mut kept = self.kept();
        if kept.len() < BUFFERS_KEPT {
            kept.push(memory);
        }
        done
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes `body` to an empty file that was opened with `O_DIRECT`.
pub(super) fn write_direct(file: &File, body: &Segments, buffers: &Buffers) -> io::Result<()> {
    buffers.with(|buffer| {
        let (mut offset, mut filled) = (0, 0);
        for segment in body.iter() {
            let mut rest = &segment[..];
            while !rest.is_empty() {
                let bytes = rest.len().min(buffer.len() - filled);
                buffer[filled..filled + bytes].copy_from_slice(&rest[..bytes]);
                filled += bytes;
                rest = &rest[bytes..];
                if filled == buffer.len() {
                    file.write_all_at(buffer, offset)?;
                    offset += buffer.len() as u64;
                    filled = 0;
                }
            }
        }
        let padded = filled.next_multiple_of(ALIGNMENT);
        buffer[filled..padded].fill(0);
        file.write_all_at(&buffer[..padded], offset)?;
        if padded > filled { file.set_len(offset + filled as u64) } else { Ok(()) }
    })
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
