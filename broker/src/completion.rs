//! Durable WAL records, in LSN order, become high watermarks, wake-ups and acks.
