//! The erasure codes.
