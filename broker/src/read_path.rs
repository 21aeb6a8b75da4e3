//! A read by offset: log cache, then WAL, then objects.
