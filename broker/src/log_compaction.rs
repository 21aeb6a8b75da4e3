//! Log compaction: of a topic with `cleanup.policy=compact` the newest record of each key stays, with its offset.
//!
//! A round takes one partition: the keys of its dirty part go into a map of bounded size ([`OffsetMap`]), as far as it has
//! room, then everything below is rewritten without the records that a newer one of the same key supersedes. The rules are
//! Apache Kafka's: which partition is next ([`plan`]), what a batch becomes ([`clean`]), when tombstones and transaction
//! markers go (KIP-534), what stays of a producer.
//! These parts are pure; `log_cleaner` drives them, ADR 21 says why so.

mod clean;
mod offset_map;
mod plan;
#[cfg(test)]
mod tests;
mod transactions;

pub use clean::{CleanError, CleanRules, CleanStatistics, CleanedBatch, Cleaner, Indexer, Indexing, LastOfProducer};
pub use offset_map::OffsetMap;
pub use plan::{CleanPlan, Cleanable, CompactionRules, filthiest, groups, plan};
pub use transactions::TransactionIndex;
