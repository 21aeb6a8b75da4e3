//! A disk under redb that loses what was not flushed: at a power cut each sector written since the last flush is kept or
//! lost by a seed, a length change too, and writes may be torn.

use std::io;
use std::sync::{Arc, Mutex};

const SECTOR: usize = 512;

#[derive(Debug)]
pub struct CrashDisk(pub Arc<Disk>);

#[derive(Debug)]
pub struct Disk {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// What reads see.
    now: Vec<u8>,
    /// What survives for sure.
    flushed: Vec<u8>,
    operations: u64,
    cut_at: u64,
    full: bool,
    lying: bool,
    random: u64,
}

impl Disk {
    /// A disk that fails from its `cut_at`th write, flush or length change on.
    pub fn new(cut_at: u64, seed: u64) -> Arc<Self> {
        let random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ cut_at ^ 0x5555;
        let (now, flushed) = (Vec::new(), Vec::new());
        let inner = Inner { now, flushed, operations: 0, cut_at, full: false, lying: false, random };
        Arc::new(Self { inner: Mutex::new(inner) })
    }

    pub fn with(content: Vec<u8>) -> Arc<Self> {
        let disk = Self::new(u64::MAX, 0);
        {
            let mut inner = disk.inner.lock().unwrap();
            inner.now = content.clone();
            inner.flushed = content;
        }
        disk
    }

    /// From now on a flush flushes nothing.
    pub fn lying(self: Arc<Self>) -> Arc<Self> {
        self.inner.lock().unwrap().lying = true;
        self
    }

    /// From now on there is no space.
    pub fn fill(&self) {
        self.inner.lock().unwrap().full = true;
    }

    pub fn operations(&self) -> u64 {
        self.inner.lock().unwrap().operations
    }

    /// What a power cut now leaves.
    pub fn after_power_cut(&self) -> Vec<u8> {
        let mut inner = self.inner.lock().unwrap();
        let mut left = inner.flushed.clone();
        if inner.coin() {
            left.resize(inner.now.len(), 0);
        }
        let sectors = left.len().min(inner.now.len()).div_ceil(SECTOR);
        for sector in 0..sectors {
            let from = sector * SECTOR;
            let to = (from + SECTOR).min(left.len()).min(inner.now.len());
            if left[from..to] != inner.now[from..to] && inner.coin() {
                left[from..to].copy_from_slice(&inner.now[from..to]);
            }
        }
        left
    }
}

impl Inner {
    fn operation(&mut self) -> io::Result<()> {
        self.operations += 1;
        if self.full {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        if self.operations >= self.cut_at { Err(io::Error::other("the power is off")) } else { Ok(()) }
    }

    fn coin(&mut self) -> bool {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random & 0x100 != 0
    }
}

impl redb::StorageBackend for CrashDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.inner.lock().unwrap().now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let inner = self.0.inner.lock().unwrap();
        let from = offset as usize;
        let bytes = inner.now.get(from..from + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut inner = self.0.inner.lock().unwrap();
        inner.operation()?;
        inner.now.resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut inner = self.0.inner.lock().unwrap();
        inner.operation()?;
        if !inner.lying {
            inner.flushed = inner.now.clone();
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut inner = self.0.inner.lock().unwrap();
        let result = inner.operation();
        // The write during which the power goes may be there in part.
        if result.is_ok() || inner.operations == inner.cut_at {
            let from = offset as usize;
            inner.now.get_mut(from..from + data.len()).ok_or(io::ErrorKind::UnexpectedEof)?.copy_from_slice(data);
        }
        result
    }
}
