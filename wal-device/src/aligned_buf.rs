//! Buffers for direct I/O, in huge pages where they are large enough and the kernel has some: a device takes so many pieces
//! at once, and 2 MiB of small pages are 512 of them. With device/uring.rs the only place that handles raw memory.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::Arc;

/// Enough for direct I/O on any device that we format.
pub const BUFFER_ALIGN: usize = 4096;
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Zeroed, of fixed length: what fills huge pages comes straight from the kernel, the rest from the allocator.
struct Memory {
    bytes: NonNull<u8>,
    from: From,
}

enum From {
    Allocator(Layout),
    /// What was mapped: the bytes, and what stands before them so that they begin with a huge page.
    Kernel {
        mapped: NonNull<u8>,
        mapped_bytes: usize,
    },
}

impl Memory {
    fn new(bytes: usize) -> Self {
        let layout = Layout::from_size_align(bytes, BUFFER_ALIGN).expect("a buffer length is far below isize::MAX");
        let memory = if bytes < HUGE_PAGE_BYTES { Self::allocate(layout) } else { Self::map(bytes) };
        memory.unwrap_or_else(|| handle_alloc_error(layout))
    }

    fn allocate(layout: Layout) -> Option<Self> {
        // SAFETY: the layout's size is not zero, checked by `AlignedBuf::several`.
        let bytes = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(Self { bytes, from: From::Allocator(layout) })
    }

    fn map(bytes: usize) -> Option<Self> {
        let huge_bytes = bytes.next_multiple_of(HUGE_PAGE_BYTES);
        let mapped_bytes = huge_bytes + HUGE_PAGE_BYTES;
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping that the kernel places; it touches no other memory.
        let mapped = unsafe { libc::mmap(std::ptr::null_mut(), mapped_bytes, access, kind, -1, 0) };
        let mapped = NonNull::new(mapped.cast::<u8>()).filter(|_| mapped != libc::MAP_FAILED)?;
        // SAFETY: less than a huge page beyond the start, and one was mapped in addition.
        let bytes = unsafe { mapped.add(mapped.align_offset(HUGE_PAGE_BYTES)) };
        // SAFETY: inside of our own mapping. A refusal leaves small pages, which do as well.
        let _ = unsafe { libc::madvise(bytes.as_ptr().cast(), huge_bytes, libc::MADV_HUGEPAGE) };
        Some(Self { bytes, from: From::Kernel { mapped, mapped_bytes } })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        match self.from {
            // SAFETY: allocated in `allocate` with this very layout, and freed only here.
            From::Allocator(layout) => unsafe { dealloc(self.bytes.as_ptr(), layout) },
            From::Kernel { mapped, mapped_bytes } => {
                // SAFETY: mapped in `map` with this very length, and given back only here.
                let unmapped = unsafe { libc::munmap(mapped.as_ptr().cast(), mapped_bytes) };
                debug_assert_eq!(unmapped, 0, "our own mapping can be given back");
            }
        }
    }
}

// SAFETY: plain memory of the process, bound to no thread.
unsafe impl Send for Memory {}
// SAFETY: as above; who may change which part is said by `AlignedBuf`.
unsafe impl Sync for Memory {}

/// A part of such memory that it has to itself. Moves freely: its bytes stay where they are.
struct AlignedBuf {
    memory: Arc<Memory>,
    start: usize,
    bytes: usize,
    /// The slot under which the engine registered it with the kernel.
    registered: Option<u16>,
}

impl AlignedBuf {
    /// So many of the same length, side by side.
    fn several(count: usize, bytes: usize) -> impl Iterator<Item = Self> {
        assert!(count > 0 && bytes > 0, "an aligned buffer holds at least one byte");
        let step = bytes.next_multiple_of(BUFFER_ALIGN);
        let memory = Arc::new(Memory::new(count * step));
        (0..count).map(move |i| Self { memory: memory.clone(), start: i * step, bytes, registered: None })
    }

    fn as_ptr(&self) -> *mut u8 {
        // SAFETY: `several` made the memory longer than the start of each of its parts.
        unsafe { self.memory.bytes.add(self.start) }.as_ptr()
    }
}

impl std::ops::Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: a part of the memory of this length, initialised (zeroed), which no other buffer overlaps.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.bytes) }
    }
}

impl std::ops::DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.as_ptr(), self.bytes) }
    }
}

impl AsRef<[u8]> for AlignedBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

/// A buffer that several writes may hold at once, as the legs of a mirror do. It can be changed again when all others
/// gave it back.
#[derive(Clone)]
pub struct SharedBuf(Arc<AlignedBuf>);

impl SharedBuf {
    /// `bytes` must not be zero.
    pub fn new(bytes: usize) -> Self {
        Self::several(1, bytes).next().expect("one was asked for")
    }

    /// So many, side by side: together they fill huge pages that one alone would not.
    pub fn several(count: usize, bytes: usize) -> impl Iterator<Item = Self> {
        AlignedBuf::several(count, bytes).map(|buffer| Self(Arc::new(buffer)))
    }

    /// The bytes, to be changed. Nobody else may hold the buffer.
    pub fn exclusive(&mut self) -> &mut [u8] {
        self.unshared()
    }

    /// Whether nobody else holds it.
    pub fn is_exclusive(&mut self) -> bool {
        Arc::get_mut(&mut self.0).is_some()
    }

    /// It is registered with the kernel under this number.
    pub(crate) fn set_registered(&mut self, number: u16) {
        self.unshared().registered = Some(number);
    }

    fn unshared(&mut self) -> &mut AlignedBuf {
        Arc::get_mut(&mut self.0).expect("a buffer is changed only while nobody else holds it")
    }

    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.0.as_ptr()
    }

    pub(crate) fn registered(&self) -> Option<u16> {
        self.0.registered
    }
}

impl std::ops::Deref for SharedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for SharedBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_buffer_is_changed_only_by_its_last_holder() {
        let mut buffer = SharedBuf::new(512);
        let other = buffer.clone();
        assert!(!buffer.is_exclusive());
        drop(other);
        buffer.exclusive()[3] = 9;
        assert_eq!(buffer[3], 9);
    }

    #[test]
    fn buffers_are_aligned_zeroed_writable_and_apart() {
        for (count, bytes) in [(1, 5000), (3, 1), (4, (1 << 20) + (64 << 10)), (1, HUGE_PAGE_BYTES)] {
            let mut buffers: Vec<SharedBuf> = SharedBuf::several(count, bytes).collect();
            assert_eq!(buffers.len(), count);
            for (i, buffer) in (1..).zip(&mut buffers) {
                assert_eq!(buffer.as_ptr() as usize % BUFFER_ALIGN, 0);
                assert!(buffer.len() == bytes && buffer.iter().all(|&b| b == 0));
                buffer.exclusive().fill(i);
            }
            for (i, buffer) in (1..).zip(buffers) {
                assert!(buffer.iter().all(|&b| b == i), "the others are gone or were written to");
            }
        }
        assert_eq!(SharedBuf::new(HUGE_PAGE_BYTES).as_ptr() as usize % HUGE_PAGE_BYTES, 0);
    }
}
