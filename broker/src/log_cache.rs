//! Batches in memory that are not uploaded yet or were appended lately.
