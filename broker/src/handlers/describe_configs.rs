//! The DescribeConfigs API.
