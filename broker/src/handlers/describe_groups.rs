//! The DescribeGroups API.
