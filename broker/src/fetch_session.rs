//! Fetch sessions (KIP-227), pure.
