//! The ListGroups API.
