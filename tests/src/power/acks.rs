//! What a program was promised, said outside the machine: lines "WHAT NUMBER" in a file that the
//! cut does not reach. The last line of each kind counts.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// Where promises are noted.
pub struct Acks(File);

impl Acks {
    /// Appends to this file.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn append(path: &Path) -> io::Result<Acks> {
        File::options().create(true).append(true).open(path).map(Acks)
    }

    /// Everything of this kind up to this number was promised.
    ///
    /// # Errors
    /// Of the file.
    pub fn note(&mut self, what: &str, number: u64) -> io::Result<()> {
        self.0.write_all(format!("{what} {number}\n").as_bytes())
    }
}

/// The last number of this kind in the text of such a file. A last line without its end does not
/// count: the machine was cut in the middle of it.
#[must_use]
pub fn last(text: &str, what: &str) -> Option<u64> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().rev().find_map(|line| line.strip_prefix(what)?.strip_prefix(' ')?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_whole_line_counts() {
        assert_eq!(last("log 1\nlog 12\npages 3\nlog 45", "log"), Some(12));
        assert_eq!(last("log 1\nlog 12\npages 3\nlog 45", "pages"), Some(3));
        assert_eq!(last("log 1\n", "lo"), None);
        assert_eq!(last("", "log"), None);
    }
}
