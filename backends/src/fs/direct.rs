//! Object bodies past the page cache.
//!
//! What is written is read back through our own caches or not at all, so a copy in the page cache would only push out
//! what others need there, and making its pages costs more CPU than the rest of a put or a read. Small reads go through
//! the page cache all the same: there the kernel reads ahead what lies beside them. Where direct I/O is refused, everything
//! goes through it.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::Segments;

/// Reads of at least this much are direct.
pub(super) const READ_BYTES_MIN: u64 = 128 << 10;

/// Address, offset and length of direct I/O; a multiple of every block size in use.
const ALIGNMENT: usize = 4096;
/// Large enough for the device's full speed with one request at a time.
const BUFFER_BYTES: usize = 1 << 20;
/// Kept between uses; more exist only while they are used at the same time.
const BUFFERS_KEPT: usize = 8;

/// Buffers that direct I/O goes through.
#[derive(Default)]
pub(super) struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

/// `BUFFER_BYTES` of aligned memory that hold anything. Goes back when it is dropped.
struct Buffer {
    memory: Vec<u8>,
    start: usize,
    home: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Buffers {
    fn take(&self) -> Buffer {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let memory = kept.unwrap_or_else(|| vec![0; BUFFER_BYTES + ALIGNMENT]);
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        Buffer { memory, start, home: Arc::clone(&self.0) }
    }
}

impl Buffer {
    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..][..BUFFER_BYTES]
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.memory[self.start..][..BUFFER_BYTES]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut kept = self.home.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < BUFFERS_KEPT {
            kept.push(std::mem::take(&mut self.memory));
        }
    }
}

/// Writes `body` to an empty file that was opened with `O_DIRECT`.
pub(super) fn write_direct(file: &File, body: &Segments, buffers: &Buffers) -> io::Result<()> {
    let mut buffer = buffers.take();
    let buffer = buffer.bytes_mut();
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
}

/// The bytes of `range`, or fewer where the file ends. The file was opened with `O_DIRECT`.
pub(super) fn read_direct(mut file: &File, range: &Range<u64>, buffers: &Buffers) -> io::Result<Segments> {
    let start = range.start - range.start % ALIGNMENT as u64;
    let bytes = (range.end - start).next_multiple_of(ALIGNMENT as u64) as usize;
    let mut filling: Vec<Buffer> = (0..bytes.div_ceil(BUFFER_BYTES)).map(|_| buffers.take()).collect();
    let mut slices = Vec::with_capacity(filling.len());
    for (at, buffer) in filling.iter_mut().enumerate() {
        let wanted = (bytes - at * BUFFER_BYTES).min(BUFFER_BYTES);
        slices.push(IoSliceMut::new(&mut buffer.bytes_mut()[..wanted]));
    }
    let mut slices = &mut slices[..];
    file.seek(SeekFrom::Start(start))?;
    let mut read = 0;
    while !slices.is_empty() {
        match file.read_vectored(slices) {
            Ok(0) => break,
            Ok(more) => {
                read += more;
                // It ends within a block only where the file does; to go on from there is an error.
                if !more.is_multiple_of(ALIGNMENT) {
                    break;
                }
                IoSliceMut::advance_slices(&mut slices, more);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let mut whole: Segments = filling.into_iter().map(Bytes::from_owner).collect();
    let mut read = whole.split_to(read as u64);
    read.split_to(range.start - start);
    Ok(read.split_to(range.end - range.start))
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
