//! Parts for qualifying hardware and brokers, and the faulty parts that prove the qualification can fail.
//!
//! Knows devices, stores and Kafka's wire as any client does, nothing of the broker's inside.

#[cfg(all(feature = "cluster", feature = "qualify"))]
pub mod cli;
#[cfg(feature = "cluster")]
pub mod cluster;
#[cfg(feature = "cluster")]
pub mod crowd;
pub mod fault_disk;
#[cfg(feature = "qualify")]
pub mod power_cut;
#[cfg(feature = "qualify")]
pub mod qualify;
#[cfg(feature = "cluster")]
pub mod soak;
#[cfg(feature = "fault-injection")]
pub mod wal_guest;
#[cfg(feature = "wal")]
pub mod wal_ledger;
