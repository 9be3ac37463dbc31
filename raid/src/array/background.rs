//! What work beside the requests (scrub, rebuild) has in common: it pauses while requests are slow,
//! and it knows its own rate.
//!
//! What must hold: requests come first; and it goes on at some pace however slow they are.

use std::cell::{Cell, RefCell};
use std::time::Duration;

/// Such work pauses when a request took longer than this.
pub const LATENCY_TARGET: Duration = Duration::from_millis(20);
/// The first pause; each further one is twice as long while requests are slow.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
/// The rate is that of so long at least, and of twice as long at most.
const RATE_TIME: Duration = Duration::from_secs(10);

/// How long to pause, by how slow requests were.
pub(super) struct Courtesy {
    /// The slowest request since the last look.
    slowest: Cell<Duration>,
    pause: Cell<Duration>,
    longest: Duration,
}

impl Courtesy {
    /// Of work that pauses no longer than `longest` at a time.
    pub fn new(longest: Duration) -> Courtesy {
        Courtesy { slowest: Cell::default(), pause: Cell::default(), longest }
    }

    /// It begins: what was before does not count.
    pub fn begin(&self) {
        self.slowest.take();
        self.pause.take();
    }

    /// A request took so long.
    pub fn request_took(&self, time: Duration) {
        self.slowest.set(self.slowest.get().max(time));
    }

    /// The pause that follows, by how slow requests were since the last look.
    pub fn next_pause(&self) -> Duration {
        let (slowest, pause) = (self.slowest.take(), self.pause.get());
        let next = if slowest > LATENCY_TARGET {
            (pause * 2).clamp(SHORTEST_PAUSE, self.longest)
        } else if pause > SHORTEST_PAUSE {
            pause / 2
        } else {
            Duration::ZERO
        };
        self.pause.set(next);
        next
    }
}

/// Keeps to a bound of bytes a second (`--rebuild-rate`).
#[derive(Default)]
pub(super) struct Limit(Cell<(Duration, u64)>);

impl Limit {
    /// How long to wait after so many bytes more, by this bound; none: there is none.
    pub fn wait_after(&self, bytes: u64, rate: Option<u64>, now: Duration) -> Option<Duration> {
        let rate = rate.filter(|r| *r > 0)?;
        let (since, before) = self.0.get();
        let all = before + bytes;
        let due = since + Duration::from_secs_f64(all as f64 / rate as f64);
        // What was not used long ago is not made up for.
        self.0.set(if due <= now { (now, 0) } else { (since, all) });
        due.checked_sub(now).filter(|wait| !wait.is_zero())
    }
}

/// Moments with the bytes done by then, at most two.
#[derive(Default)]
pub(super) struct Rate(RefCell<Vec<(Duration, u64)>>);

impl Rate {
    /// It begins anew.
    pub fn begin(&self) {
        self.0.borrow_mut().clear();
    }

    /// So much is done now.
    pub fn mark(&self, now: Duration, done: u64) {
        let mut marks = self.0.borrow_mut();
        if marks.last().is_none_or(|(then, _)| now >= *then + RATE_TIME) {
            if marks.len() == 2 {
                marks.remove(0);
            }
            marks.push((now, done));
        }
    }

    /// Bytes a second over the last while, pauses included; 0 while it is not known.
    pub fn per_second(&self, now: Duration, done: u64) -> u64 {
        let marks = self.0.borrow();
        let Some((then, bytes)) = marks.first() else { return 0 };
        let (time, done) = (now.saturating_sub(*then), done.saturating_sub(*bytes));
        if time.is_zero() { 0 } else { (done as f64 / time.as_secs_f64()) as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_pauses_longer_and_longer_while_requests_are_slow() {
        let (work, ms) = (Courtesy::new(Duration::from_secs(1)), Duration::from_millis);
        let after = |took: u64| {
            work.request_took(ms(took));
            work.request_took(ms(1));
            work.next_pause()
        };
        assert_eq!(work.next_pause(), Duration::ZERO, "no requests");
        assert_eq!(after(20), Duration::ZERO, "on target");
        let slow: Vec<Duration> = (0..9).map(|_| after(21)).collect();
        assert_eq!(slow, [10, 20, 40, 80, 160, 320, 640, 1000, 1000].map(ms));
        let fine: Vec<Duration> = (0..8).map(|_| after(3)).collect();
        let micros = [500_000, 250_000, 125_000, 62_500, 31_250, 15_625, 7812, 0];
        let near = fine.iter().zip(micros).all(|(f, m)| f.as_micros() == m);
        assert!(near, "{fine:?}");
        assert_eq!(after(50), SHORTEST_PAUSE, "and from the beginning");
    }

    #[test]
    fn the_rate_is_that_of_the_last_while() {
        let (rate, s) = (Rate::default(), Duration::from_secs);
        assert_eq!(rate.per_second(s(5), 100), 0);
        for at in 0..100 {
            rate.mark(s(at), at * 10);
        }
        assert_eq!(rate.per_second(s(100), 1000), 10);
        // Then it stood still for 10 s: of the last 20 to 30 s, that is.
        assert!((6..10).contains(&rate.per_second(s(110), 1000)));
    }
}
