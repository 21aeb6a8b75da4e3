//! Listens for Kafka clients and starts a connection for each, within the limits on their number.
