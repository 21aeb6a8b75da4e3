//! Upload: plan, put, commit, trim, in that order.
