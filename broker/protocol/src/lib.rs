//! The Kafka wire protocol, no I/O.
