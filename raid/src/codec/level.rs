//! The names of the codes and their numbers on disk.

use std::fmt;
use std::str::FromStr;

use super::CodeError;

/// Which code protects an array.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// Copies: one data column, every parity column equal to it.
    Raid1,
    /// One parity column, the XOR of the data.
    Raid5,
    /// Two parity columns, P and Q, the same bytes as Linux's raid6.
    Raid6,
    /// Two parity columns made with XOR alone (Blaum, Brady, Bruck and Menon).
    Evenodd,
    /// Systematic Reed-Solomon: any number of parity columns.
    Rs,
}

impl Level {
    /// Every level, in the order of the numbers on disk.
    pub const ALL: [Level; 5] =
        [Level::Raid1, Level::Raid5, Level::Raid6, Level::Evenodd, Level::Rs];

    /// The name as the user writes it: `raid1`, `raid5`, `raid6`, `evenodd` or `rs`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Level::Raid1 => "raid1",
            Level::Raid5 => "raid5",
            Level::Raid6 => "raid6",
            Level::Evenodd => "evenodd",
            Level::Rs => "rs",
        }
    }

    /// The number on disk, 1 to 5. It never changes its meaning.
    pub const fn to_u8(self) -> u8 {
        match self {
            Level::Raid1 => 1,
            Level::Raid5 => 2,
            Level::Raid6 => 3,
            Level::Evenodd => 4,
            Level::Rs => 5,
        }
    }

    /// The level of a number on disk, or `None` when no level has that number.
    pub const fn from_u8(number: u8) -> Option<Level> {
        match number {
            1 => Some(Level::Raid1),
            2 => Some(Level::Raid5),
            3 => Some(Level::Raid6),
            4 => Some(Level::Evenodd),
            5 => Some(Level::Rs),
            _ => None,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Level {
    type Err = CodeError;

    /// The level of a name. Only the exact lower-case names of [`Level::as_str`] are known;
    /// anything else is [`CodeError::UnknownLevel`].
    fn from_str(name: &str) -> Result<Level, CodeError> {
        Level::ALL
            .into_iter()
            .find(|level| level.as_str() == name)
            .ok_or_else(|| CodeError::UnknownLevel(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_go_both_ways() {
        for (number, level) in (1..).zip(Level::ALL) {
            assert_eq!(level.to_u8(), number);
            assert_eq!(Level::from_u8(number), Some(level));
            assert_eq!(level.as_str().parse(), Ok(level));
            assert_eq!(level.to_string(), level.as_str());
        }
        assert_eq!(Level::from_u8(0), None);
        assert_eq!(Level::from_u8(6), None);
    }

    #[test]
    fn an_unknown_name_is_refused_in_a_sentence() {
        let error = "raid4".parse::<Level>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "there is no level \"raid4\"; the levels are raid1, raid5, raid6, evenodd and rs"
        );
        assert!("RAID5".parse::<Level>().is_err());
    }
}
