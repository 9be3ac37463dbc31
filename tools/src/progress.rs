//! Progress of something that takes more than a moment, on standard error: one line that is
//! written over on a terminal, a line every few seconds elsewhere.

use std::cell::Cell;
use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

use crate::size::human;

/// How long it stays silent.
const MOMENT: Duration = Duration::from_millis(700);
const STEP_TERMINAL: Duration = Duration::from_millis(100);
const STEP_ELSEWHERE: Duration = Duration::from_secs(5);

/// Progress of one command.
pub struct Shown {
    since: Instant,
    last: Cell<Option<Instant>>,
    terminal: bool,
}

impl Shown {
    /// Begins now.
    pub fn new() -> Shown {
        Shown { since: Instant::now(), last: Cell::new(None), terminal: stderr().is_terminal() }
    }

    /// So many bytes are done.
    pub fn bytes(&self, what: &str, done: u64, all: u64) {
        self.line(|| {
            format!("{what}: {} of {} ({}%)", human(done), human(all), percent(done, all))
        });
    }

    fn line(&self, text: impl FnOnce() -> String) {
        let now = Instant::now();
        let step = if self.terminal { STEP_TERMINAL } else { STEP_ELSEWHERE };
        if now - self.since < MOMENT || self.last.get().is_some_and(|l| now - l < step) {
            return;
        }
        self.last.set(Some(now));
        let text = text();
        let mut out = stderr().lock();
        let _ = if self.terminal {
            write!(out, "\r\x1b[K{text}").and_then(|()| out.flush())
        } else {
            writeln!(out, "{text}")
        };
    }

    /// Clears the line.
    pub fn end(&self) {
        if self.terminal && self.last.take().is_some() {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}

fn percent(done: u64, all: u64) -> u64 {
    (u128::from(done.min(all)) * 100 / u128::from(all.max(1))) as u64
}
