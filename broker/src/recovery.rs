//! Start-up: what metadata, objects and the WAL hold becomes partitions again.
