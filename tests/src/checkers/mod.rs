//! Checkers that look at the bytes on the members, outside the core.

pub mod parity;
