//! The CreateTopics API.
