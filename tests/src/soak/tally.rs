//! What was tried and how it went, as counts by name, so that many processes can be summed up.

use std::collections::BTreeMap;
use std::fmt::Write;

/// Counts by name. A name is `TABLE/ROW/COLUMN`, or `n/WHAT` for a plain number.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Tally(BTreeMap<String, u64>);

impl Tally {
    /// Adds to a count.
    pub fn add(&mut self, name: &str, n: u64) {
        match self.0.get_mut(name) {
            Some(count) => *count += n,
            None => drop(self.0.insert(name.to_owned(), n)),
        }
    }

    /// One more.
    pub fn count(&mut self, name: &str) {
        self.add(name, 1);
    }

    /// A plain number.
    #[must_use]
    pub fn number(&self, what: &str) -> u64 {
        self.0.get(&format!("n/{what}")).copied().unwrap_or(0)
    }

    /// Adds another's.
    pub fn merge(&mut self, other: &Tally) {
        other.0.iter().for_each(|(name, n)| self.add(name, *n));
    }

    /// As lines `tally NAME N` for a parent process.
    #[must_use]
    pub fn lines(&self) -> String {
        self.0.iter().fold(String::new(), |mut text, (name, n)| {
            let _ = writeln!(text, "tally {n} {name}");
            text
        })
    }

    /// Takes in a line that [`Tally::lines`] made; others are left alone.
    pub fn read_line(&mut self, line: &str) {
        let words = line.strip_prefix("tally ").and_then(|l| l.split_once(' '));
        if let Some((n, name)) = words
            && let Ok(n) = n.parse()
        {
            self.add(name, n);
        }
    }

    /// One table, for people and for a page in Markdown.
    #[must_use]
    pub fn table(&self, name: &str, first: &str) -> String {
        let own = |full: &str| {
            let (table, rest) = full.split_once('/')?;
            let (row, column) = rest.split_once('/')?;
            (table == name).then(|| (row.to_owned(), column.to_owned()))
        };
        let cells: BTreeMap<(String, String), u64> =
            self.0.iter().filter_map(|(full, n)| Some((own(full)?, *n))).collect();
        let mut columns: Vec<&String> = cells.keys().map(|(_, c)| c).collect();
        columns.sort();
        columns.dedup();
        let mut rows: Vec<&String> = cells.keys().map(|(r, _)| r).collect();
        rows.dedup();
        let mut text = format!("| {first} |");
        columns.iter().for_each(|c| {
            let _ = write!(text, " {c} |");
        });
        let _ = write!(text, "\n|---|{}\n", "---|".repeat(columns.len()));
        for row in rows {
            let _ = write!(text, "| {row} |");
            for column in &columns {
                let n = cells.get(&(row.clone(), (*column).clone())).copied().unwrap_or(0);
                let _ = write!(text, " {n} |");
            }
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_go_through_a_pipe_and_into_a_table() {
        let mut a = Tally::default();
        a.count("fault/bit rot/serving");
        a.add("fault/bit rot/starting", 2);
        a.count("fault/slow disk/serving");
        a.add("n/lives", 7);
        let mut b = Tally::default();
        a.lines().lines().chain(["something else"]).for_each(|l| b.read_line(l));
        assert_eq!(a, b);
        b.merge(&a);
        assert_eq!(b.number("lives"), 14);
        let table = a.table("fault", "fault");
        assert_eq!(
            table,
            "| fault | serving | starting |\n|---|---|---|\n| bit rot | 1 | 2 |\n\
             | slow disk | 1 | 0 |\n"
        );
    }
}
