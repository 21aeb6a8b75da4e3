//! API key and version to handler, one match.
