//! The DescribeTopicPartitions API.
