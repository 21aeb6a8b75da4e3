//! Object stores behind one trait.
