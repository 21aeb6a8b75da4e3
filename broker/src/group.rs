//! State machine of a classic consumer group, pure.
