//! The one place where our errors become Kafka error codes.
