//! The write-ahead log on a device.
