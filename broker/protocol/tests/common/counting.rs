//! An allocator that counts the bytes that each thread holds, and the most it ever held.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

pub struct Counting;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
    static TOTAL: Cell<usize> = const { Cell::new(0) };
}

/// What a piece of work allocated on this thread.
#[derive(Clone, Copy, Debug)]
pub struct Allocated {
    /// The most bytes held at one time, beyond what was held before.
    pub peak: usize,
    /// All bytes ever asked for.
    pub total: usize,
}

pub fn measure<T>(work: impl FnOnce() -> T) -> (T, Allocated) {
    let (live, total) = (LIVE.get(), TOTAL.get());
    PEAK.set(live);
    let result = work();
    (result, Allocated { peak: (PEAK.get() - live) as usize, total: TOTAL.get() - total })
}

fn count(bytes: isize) {
    LIVE.set(LIVE.get() + bytes);
    PEAK.set(PEAK.get().max(LIVE.get()));
    TOTAL.set(TOTAL.get() + bytes.max(0) as usize);
}

// SAFETY: every call is handed to the system's allocator unchanged; counting touches no memory of its own but
// thread-local cells without destructors.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // Old and new may exist side by side for a moment.
        count(new_size as isize);
        count(-(layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}
