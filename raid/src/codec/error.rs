//! Why a code cannot be made or a row cannot be rebuilt.

use std::fmt;

use super::Level;

/// What a code can refuse. `Display` gives a sentence for the user, without a capital letter or a
/// full stop, so that it can follow a colon.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CodeError {
    /// No level has this name.
    UnknownLevel(String),
    /// The level cannot have this number of columns.
    Unsupported {
        /// The level asked for.
        level: Level,
        /// The data columns asked for.
        data: usize,
        /// The parity columns asked for.
        parity: usize,
        /// The rule that this breaks, as a clause.
        reason: &'static str,
    },
    /// Fewer columns of a row are left than it has data columns, so nothing can be rebuilt.
    TooManyMissing {
        /// The columns that are needed: as many as the row has data columns.
        needed: usize,
        /// The columns that are there.
        present: usize,
    },
}

impl fmt::Display for CodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CodeError::UnknownLevel(name) => write!(
                f,
                "there is no level {name:?}; the levels are raid1, raid5, raid6, evenodd and rs"
            ),
            CodeError::Unsupported { level, data, parity, reason } => {
                write!(f, "{level} cannot be made of {data} data + {parity} parity: {reason}")
            }
            CodeError::TooManyMissing { needed, present } => write!(
                f,
                "too many columns of the row are missing: {needed} are needed to rebuild the \
                 others and {present} are there"
            ),
        }
    }
}

impl std::error::Error for CodeError {}
