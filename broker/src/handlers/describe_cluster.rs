//! The DescribeCluster API.
