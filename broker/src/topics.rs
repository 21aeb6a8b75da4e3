//! Creating and naming topics.
