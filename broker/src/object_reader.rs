//! Verified reads of data objects.
