//! Checkers that look at the bytes on the members, outside the core.

mod checksums;
pub mod parity;
mod stretches;
