//! Reads the ring of each leg in order, ahead of its caller, so that recovery runs at the device's speed: while one part is
//! checked the next ones are on their way.
//!
//! What lies in one chunk is handed out in place; what crosses a border is copied, never read twice. A part that could not
//! be read ahead is read once more, exactly as asked for. Memory: four chunks for each leg, or the longest frame.

use std::collections::VecDeque;
use std::io;

use crate::aligned_buf::SharedBuf;
use crate::device::{BlockDevice, Done, Operation, Request, Wait};
use crate::ring::Ring;
use crate::types::Lsn;

/// A short log is read with little more than it holds.
const CHUNK_BYTES_FIRST: u64 = 256 << 10;
const CHUNK_BYTES: u64 = 2 << 20;
const CHUNKS_AHEAD: usize = 4;

pub(crate) struct RingReader<'a> {
    device: &'a mut dyn BlockDevice,
    ring: Ring,
    /// Nothing is read from here on.
    limit: Lsn,
    legs: Vec<LegReader>,
    next_tag: u64,
    done: Vec<Done>,
    /// The device cannot be driven any more.
    dead: Option<String>,
}

#[derive(Default)]
struct LegReader {
    /// One behind the other.
    chunks: VecDeque<Chunk>,
    /// Chunks started since the last jump: the first ones are not read ahead of.
    started: usize,
    spare: Vec<SharedBuf>,
    /// Copied together, or read exactly as asked for.
    scratch: Vec<u8>,
    scratch_start: Lsn,
    exact: Option<Chunk>,
}

struct Chunk {
    start: Lsn,
    bytes: u64,
    tag: u64,
    state: ChunkState,
}

enum ChunkState {
    Reading,
    Ready(SharedBuf),
    Failed(io::Error),
}

/// Where bytes that were loaded lie.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Loaded {
    in_scratch: bool,
    at: usize,
    length: usize,
}

impl Chunk {
    fn end(&self) -> Lsn {
        Lsn(self.start.0 + self.bytes)
    }

    fn holds(&self, lsn: Lsn) -> bool {
        self.start <= lsn && lsn < self.end()
    }
}

impl<'a> RingReader<'a> {
    pub fn new(device: &'a mut dyn BlockDevice, ring: Ring, legs: usize, limit: Lsn) -> Self {
        let legs = (0..legs).map(|_| LegReader::default()).collect();
        Self { device, ring, limit, legs, next_tag: 0, done: Vec::new(), dead: None }
    }

    pub fn legs(&self) -> usize {
        self.legs.len()
    }

    /// `length` bytes of a leg at `lsn`, both multiples of the block, not beyond the ring's end.
    pub fn read(&mut self, leg: usize, lsn: Lsn, length: u64) -> io::Result<&[u8]> {
        let loaded = self.load(leg, lsn, length)?;
        Ok(self.bytes(leg, loaded))
    }

    /// As `read`, in two steps, so that the bytes of two legs can be compared. Good until the next `load` of this leg.
    pub fn load(&mut self, leg: usize, lsn: Lsn, length: u64) -> io::Result<Loaded> {
        assert!(length > 0 && lsn.0 + length <= self.limit.0, "reads stay below the limit");
        if let Some(loaded) = self.legs[leg].in_scratch(lsn, length) {
            return Ok(loaded);
        }
        self.go_to(leg, lsn);
        let front = &self.legs[leg].chunks[0];
        if lsn.0 + length > front.end().0 {
            return self.assemble(leg, lsn, length);
        }
        let at = (lsn.0 - front.start.0) as usize;
        self.wait_for_front(leg)?;
        match self.legs[leg].chunks[0].state {
            ChunkState::Ready(_) => Ok(Loaded { in_scratch: false, at, length: length as usize }),
            _ => self.read_exactly(leg, lsn, length),
        }
    }

    pub fn bytes(&self, leg: usize, loaded: Loaded) -> &[u8] {
        let Loaded { in_scratch, at, length } = loaded;
        let leg = &self.legs[leg];
        match &leg.chunks.front() {
            _ if in_scratch => &leg.scratch[at..at + length],
            Some(Chunk { state: ChunkState::Ready(buffer), .. }) => &buffer[at..at + length],
            _ => unreachable!("what was loaded is held until the next load"),
        }
    }

    /// The next reads go to the device.
    pub fn forget(&mut self) {
        for leg in 0..self.legs.len() {
            self.drop_chunks(leg);
            self.legs[leg].scratch.clear();
        }
    }

    /// Makes the front chunk the one that holds `lsn`, and has others read ahead.
    fn go_to(&mut self, leg: usize, lsn: Lsn) {
        while self.legs[leg].chunks.front().is_some_and(|chunk| chunk.end() <= lsn) {
            self.wait_until_read(leg, 0);
            self.legs[leg].drop_front();
        }
        if !self.legs[leg].chunks.front().is_some_and(|chunk| chunk.holds(lsn)) {
            self.drop_chunks(leg);
            self.start_chunk(leg, lsn, CHUNK_BYTES_FIRST);
        }
        self.read_ahead(leg);
    }

    fn read_ahead(&mut self, leg: usize) {
        loop {
            let reader = &self.legs[leg];
            let ahead = CHUNKS_AHEAD.min(reader.started.saturating_sub(1));
            let Some(end) = reader.chunks.back().map(Chunk::end) else { return };
            if reader.chunks.len() > ahead || end >= self.limit {
                return;
            }
            self.start_chunk(leg, end, CHUNK_BYTES);
        }
    }

    fn start_chunk(&mut self, leg: usize, start: Lsn, bytes: u64) {
        let bytes = bytes.min(self.ring.bytes_to_end(start)).min(self.limit.0 - start.0);
        let tag = self.submit(leg, start, bytes);
        let reader = &mut self.legs[leg];
        reader.chunks.push_back(Chunk { start, bytes, tag, state: ChunkState::Reading });
        reader.started += 1;
    }

    fn submit(&mut self, leg: usize, start: Lsn, bytes: u64) -> u64 {
        self.next_tag += 1;
        let spare = &mut self.legs[leg].spare;
        let fits = spare.iter().position(|buffer| buffer.len() as u64 >= bytes);
        let buffer = fits.map_or_else(|| SharedBuf::new(bytes as usize), |i| spare.swap_remove(i));
        self.device.submit(Request {
            tag: self.next_tag,
            leg: leg as u8,
            operation: Operation::Read,
            offset: self.ring.device_offset(start),
            buffer: Some(buffer),
            bytes: bytes as usize,
        });
        self.next_tag
    }

    /// Copies what lies in several chunks. The chunks behind the last byte stay.
    fn assemble(&mut self, leg: usize, lsn: Lsn, length: u64) -> io::Result<Loaded> {
        let end = Lsn(lsn.0 + length);
        let mut scratch = std::mem::take(&mut self.legs[leg].scratch);
        scratch.clear();
        let mut at = lsn;
        while at < end {
            if self.legs[leg].chunks.is_empty() {
                self.start_chunk(leg, at, CHUNK_BYTES);
            }
            self.read_ahead(leg);
            self.wait_for_front(leg)?;
            let front = &self.legs[leg].chunks[0];
            let ChunkState::Ready(buffer) = &front.state else {
                return self.read_exactly(leg, lsn, length);
            };
            let until = end.min(front.end());
            scratch.extend_from_slice(&buffer[(at.0 - front.start.0) as usize..(until.0 - front.start.0) as usize]);
            if until == front.end() {
                self.legs[leg].drop_front();
            }
            at = until;
        }
        let reader = &mut self.legs[leg];
        (reader.scratch, reader.scratch_start) = (scratch, lsn);
        Ok(Loaded { in_scratch: true, at: 0, length: length as usize })
    }

    /// One read of this range and no more: what lies beside it may be unreadable.
    fn read_exactly(&mut self, leg: usize, lsn: Lsn, length: u64) -> io::Result<Loaded> {
        self.check_alive()?;
        let tag = self.submit(leg, lsn, length);
        self.legs[leg].exact = Some(Chunk { start: lsn, bytes: length, tag, state: ChunkState::Reading });
        while self.legs[leg].exact.as_ref().is_some_and(|chunk| matches!(chunk.state, ChunkState::Reading)) {
            self.pump();
        }
        let reader = &mut self.legs[leg];
        reader.scratch.clear();
        match reader.exact.take().map(|chunk| chunk.state) {
            Some(ChunkState::Ready(buffer)) => {
                reader.scratch.extend_from_slice(&buffer[..length as usize]);
                reader.scratch_start = lsn;
                reader.keep(buffer);
                Ok(Loaded { in_scratch: true, at: 0, length: length as usize })
            }
            Some(ChunkState::Failed(error)) => Err(error),
            Some(ChunkState::Reading) | None => unreachable!("waited for above"),
        }
    }

    fn wait_for_front(&mut self, leg: usize) -> io::Result<()> {
        self.wait_until_read(leg, 0);
        self.check_alive()
    }

    fn wait_until_read(&mut self, leg: usize, index: usize) {
        while matches!(self.legs[leg].chunks[index].state, ChunkState::Reading) {
            self.pump();
        }
    }

    fn check_alive(&self) -> io::Result<()> {
        match &self.dead {
            Some(why) => Err(io::Error::other(why.clone())),
            None => Ok(()),
        }
    }

    /// Waits until something is read, and puts it where it belongs.
    fn pump(&mut self) {
        let mut done = std::mem::take(&mut self.done);
        if let Err(error) = self.device.wait(Wait::Forever, &mut done) {
            let why = self.dead.insert(error.to_string()).clone();
            for chunk in self.legs.iter_mut().flat_map(|leg| leg.chunks.iter_mut().chain(&mut leg.exact)) {
                if matches!(chunk.state, ChunkState::Reading) {
                    chunk.state = ChunkState::Failed(io::Error::other(why.clone()));
                }
            }
        }
        for done in done.drain(..) {
            let leg = &mut self.legs[done.leg as usize];
            let chunk = leg.chunks.iter_mut().chain(&mut leg.exact).find(|chunk| chunk.tag == done.tag);
            // Of a chunk that failed when the device died.
            let Some(chunk) = chunk else { continue };
            chunk.state = match (done.result, done.buffer) {
                (Ok(()), Some(buffer)) => ChunkState::Ready(buffer),
                (Ok(()), None) => ChunkState::Failed(io::Error::other("no buffer came back")),
                (Err(error), _) => ChunkState::Failed(error),
            };
        }
        self.done = done;
    }

    /// Waits for what is on its way: the device owns those buffers until then.
    fn drop_chunks(&mut self, leg: usize) {
        while !self.legs[leg].chunks.is_empty() {
            self.wait_until_read(leg, 0);
            self.legs[leg].drop_front();
        }
        self.legs[leg].started = 0;
    }
}

impl LegReader {
    fn in_scratch(&self, lsn: Lsn, length: u64) -> Option<Loaded> {
        let held = self.scratch_start <= lsn && lsn.0 + length <= self.scratch_start.0 + self.scratch.len() as u64;
        held.then(|| Loaded { in_scratch: true, at: (lsn.0 - self.scratch_start.0) as usize, length: length as usize })
    }

    fn drop_front(&mut self) {
        if let Some(Chunk { state: ChunkState::Ready(buffer), .. }) = self.chunks.pop_front() {
            self.keep(buffer);
        }
    }

    /// Buffers of chunks are used again; one of a long frame is not kept.
    fn keep(&mut self, buffer: SharedBuf) {
        if buffer.len() as u64 <= CHUNK_BYTES && self.spare.len() <= CHUNKS_AHEAD {
            self.spare.push(buffer);
        }
    }
}

impl Drop for RingReader<'_> {
    /// Nothing of it is in flight afterwards: the device is used on.
    fn drop(&mut self) {
        self.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::simulated::{SimDisk, SimDiskConfig, SimRandom};

    const RING: Ring = Ring { offset: 64 << 10, bytes: 12 << 20, block: 4096 };

    fn disk() -> SimDisk {
        let bytes = RING.offset + RING.bytes;
        let content = (0..bytes).map(|at| (at / 4096).wrapping_mul(31).wrapping_add(at) as u8).collect();
        let config = SimDiskConfig { bytes, sector_bytes: 4096, fua: true, lies_per_mille: 0 };
        SimDisk::with_content(1, config, content)
    }

    #[test]
    fn whatever_is_asked_for_is_what_lies_there() {
        let disk = disk();
        let mut device = disk.device();
        let start = 5 * RING.bytes + (7 << 20);
        let limit = Lsn(start + RING.bytes);
        let mut reader = RingReader::new(&mut device, RING, 1, limit);
        let mut random = SimRandom::new(1);
        for _ in 0..200 {
            let mut at = Lsn(start + random.below(RING.bytes / 4096) * 4096);
            // Mostly forward, as a scan goes: a header, then its frame, then the next.
            for _ in 0..random.below(12) {
                let longest = RING.bytes_to_end(at).min(limit.0 - at.0).min(5 << 20);
                if longest == 0 {
                    break;
                }
                let length = 4096 * (1 + random.below(longest / 4096));
                let offset = RING.device_offset(at);
                assert!(reader.read(0, at, 4096).unwrap() == disk.peek(offset, 4096));
                assert!(reader.read(0, at, length).unwrap() == disk.peek(offset, length as usize));
                if random.chance(1, 10) {
                    reader.forget();
                }
                at.0 += length;
            }
        }
    }

    #[test]
    fn what_lies_beside_an_unreadable_sector_is_read() {
        let disk = disk();
        disk.make_unreadable(RING.offset + (3 << 20) + 4096);
        let mut device = disk.device();
        let mut reader = RingReader::new(&mut device, RING, 1, Lsn(RING.bytes));
        let mut unreadable = Vec::new();
        for at in (0..RING.bytes).step_by(4096) {
            match reader.read(0, Lsn(at), 4096) {
                Ok(bytes) => assert!(bytes == disk.peek(RING.offset + at, 4096), "{at}"),
                Err(_) => unreadable.push(at),
            }
        }
        assert_eq!(unreadable, [(3 << 20) + 4096]);
        assert!(reader.read(0, Lsn((3 << 20) - 4096), 16384).is_err());
        assert!(reader.read(0, Lsn((3 << 20) - 4096), 8192).is_ok());
    }

    #[test]
    fn a_device_that_dies_gives_errors_and_no_end_of_waiting() {
        let disk = disk();
        let mut device = disk.device();
        let mut reader = RingReader::new(&mut device, RING, 1, Lsn(RING.bytes));
        assert!(reader.read(0, Lsn(0), 4096).is_ok());
        disk.cut_power();
        assert!(reader.read(0, Lsn(8 << 20), 4096).is_err());
        assert!(reader.read(0, Lsn(0), 4096).is_err());
    }
}
