//! The erasure codes.
//!
//! A code works on one *row* of a stripe: `k` data blocks go in, `m` parity blocks come out, and any
//! `k` of the `k + m` blocks give all of them back. Nothing here knows of disks, stripes or
//! checksums, nothing does input or output, and nothing keeps state: a [`Code`] is a scheme (a matrix,
//! or EVENODD's prime) and a choice of arithmetic.
//!
//! | file | what it holds |
//! |------|---------------|
//! | `level.rs` | [`Level`]: the names of the codes and their numbers on disk |
//! | `error.rs` | [`CodeError`]: why a code cannot be made or a row cannot be rebuilt |
//! | `code.rs` | [`Code`]: encode, update, reconstruct |
//! | `cauchy.rs` | the codes that are cut from a matrix |
//! | `matrix.rs` | that matrix, why it works, and inversion |
//! | `evenodd.rs` | EVENODD: its definition, why it works, and how it is computed |
//! | `gf256.rs` | the field GF(2^8) and its tables |
//! | `kernels/` | the arithmetic over whole blocks, one file for every way to do it |
//!
//! `raid5`, `raid6` and `rs` (and `raid1`, which is `rs` with one data column) are the first one,
//! two or `m` rows of one and the same matrix, so the parity of row 0 is always the plain XOR and
//! that of row 1 always Linux's Q. `evenodd` is no matrix over the field: it works with XOR on parts
//! of a 4 KiB block. Its first parity is the plain XOR, too.

mod cauchy;
mod code;
mod error;
mod evenodd;
mod gf256;
pub mod kernels;
mod level;
mod matrix;

pub use code::Code;
pub use error::CodeError;
pub use level::Level;
