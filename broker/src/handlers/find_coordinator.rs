//! The FindCoordinator API.
