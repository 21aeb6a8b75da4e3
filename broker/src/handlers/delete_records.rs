//! The DeleteRecords API.
