//! The DeleteGroups API.
