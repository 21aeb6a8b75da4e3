//! Assertions of the broker that fail inside its tasks: caught here, since a runtime keeps them to itself.

use std::cell::{Cell, RefCell};
use std::sync::Once;

thread_local! {
    static WATCHING: Cell<bool> = const { Cell::new(false) };
    static FIRST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Watches this thread until `taken`.
pub fn watch() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !WATCHING.get() {
                return usual(info);
            }
            FIRST.with_borrow_mut(|first| {
                first.get_or_insert_with(|| info.to_string());
            });
        }));
    });
    WATCHING.set(true);
    FIRST.with_borrow_mut(|first| *first = None);
}

/// The first panic since `watch`.
pub fn seen() -> Option<String> {
    FIRST.with_borrow(Clone::clone)
}

pub fn unwatch() {
    WATCHING.set(false);
}
