//! Being written by the integrator (projection).
