//! What goes into the next objects, and in which order, pure.
