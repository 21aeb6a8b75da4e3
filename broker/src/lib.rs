//! The Kafka-compatible broker.
