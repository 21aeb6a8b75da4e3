//! Parts for qualifying hardware, and the faulty parts that prove the qualification can fail.
//!
//! Knows devices and stores, nothing of the broker.

pub mod fault_disk;
