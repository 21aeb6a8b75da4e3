//! Layout of a data object: encode and decode, pure.
