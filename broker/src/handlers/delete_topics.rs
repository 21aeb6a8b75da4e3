//! The DeleteTopics API.
