//! Seeded simulation of the broker; never shipped.
