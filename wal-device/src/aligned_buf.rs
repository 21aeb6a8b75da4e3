//! Page-aligned buffers for direct I/O. With device/uring.rs the only place that handles raw memory.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::Arc;

/// Enough for direct I/O on any device that we format.
pub const BUFFER_ALIGN: usize = 4096;

/// Owned, zeroed at birth, of fixed length. Moves freely: its bytes stay where they are.
struct AlignedBuf {
    bytes: NonNull<u8>,
    layout: Layout,
    /// The slot under which the engine registered it with the kernel.
    registered: Option<u16>,
}

impl AlignedBuf {
    fn new(bytes: usize) -> Self {
        assert!(bytes > 0, "an aligned buffer holds at least one byte");
        let layout = Layout::from_size_align(bytes, BUFFER_ALIGN).expect("a buffer length is far below isize::MAX");
        // SAFETY: the layout's size is not zero, checked above.
        let Some(bytes) = NonNull::new(unsafe { alloc_zeroed(layout) }) else { handle_alloc_error(layout) };
        Self { bytes, layout, registered: None }
    }

    fn as_ptr(&self) -> *mut u8 {
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

/// A buffer that several writes may hold at once, as the legs of a mirror do. It can be changed again when all others
/// gave it back.
#[derive(Clone)]
pub struct SharedBuf(Arc<AlignedBuf>);

impl SharedBuf {
    /// `bytes` must not be zero.
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(AlignedBuf::new(bytes)))
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
    fn buffers_are_aligned_zeroed_and_writable() {
        let mut buffer = AlignedBuf::new(5000);
        assert_eq!(buffer.as_ptr() as usize % BUFFER_ALIGN, 0);
        assert!(buffer.iter().all(|&b| b == 0) && buffer.len() == 5000);
        buffer[4999] = 7;
        assert_eq!(buffer[4999], 7);
    }
}
