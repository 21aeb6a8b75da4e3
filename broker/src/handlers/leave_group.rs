//! The LeaveGroup API.
