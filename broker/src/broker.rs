//! What handlers see: the parts of a running broker.
