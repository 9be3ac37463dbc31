//! The codes and the array.
pub mod codec;
