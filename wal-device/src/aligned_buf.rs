//! Page-aligned buffers for direct I/O. With device/uring.rs the only place that handles raw memory.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// Enough for direct I/O on any device that we format.
pub const BUFFER_ALIGN: usize = 4096;

/// Owned, zeroed at birth, of fixed length. Moves freely: its bytes stay where they are.
pub struct AlignedBuf {
    bytes: NonNull<u8>,
    layout: Layout,
    /// The slot under which the engine registered it with the kernel.
    pub(crate) registered: Option<u16>,
}

impl AlignedBuf {
    /// `bytes` must not be zero.
    pub fn new(bytes: usize) -> Self {
        assert!(bytes > 0, "an aligned buffer holds at least one byte");
        let layout = Layout::from_size_align(bytes, BUFFER_ALIGN).expect("a buffer length is far below isize::MAX");
        // SAFETY: the layout's size is not zero, checked above.
        let Some(bytes) = NonNull::new(unsafe { alloc_zeroed(layout) }) else { handle_alloc_error(layout) };
        Self { bytes, layout, registered: None }
    }

    pub fn len(&self) -> usize {
        self.layout.size()
    }

    pub fn is_empty(&self) -> bool {
        false
    }

    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.bytes.as_ptr()
    }
}

impl std::ops::Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `bytes` is an allocation of this length, initialised (zeroed) and owned by `self`.
        unsafe { std::slice::from_raw_parts(self.bytes.as_ptr(), self.layout.size()) }
    }
}

impl std::ops::DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.bytes.as_ptr(), self.layout.size()) }
    }
}

impl AsRef<[u8]> for AlignedBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this very layout, and freed only here.
        unsafe { dealloc(self.bytes.as_ptr(), self.layout) }
    }
}

// SAFETY: the buffer owns its allocation exclusively, as a Box<[u8]> does.
unsafe impl Send for AlignedBuf {}
// SAFETY: shared access only reads.
unsafe impl Sync for AlignedBuf {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_zeroed_and_writable() {
        let mut buffer = AlignedBuf::new(5000);
        assert_eq!(buffer.as_ptr() as usize % BUFFER_ALIGN, 0);
        assert!(buffer.iter().all(|&b| b == 0) && buffer.len() == 5000);
        buffer[4999] = 7;
        assert_eq!(buffer[4999], 7);
    }
}
