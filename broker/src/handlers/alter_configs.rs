//! The AlterConfigs and IncrementalAlterConfigs API.
