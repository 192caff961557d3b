//! Every state that a small cooperative can come to.
