//! A large cooperative, from a seed.
