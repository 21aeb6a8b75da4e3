//! The ApiVersions API.
