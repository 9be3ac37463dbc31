//! How far a scrub is, and what the last one found: the bytes of page 0 of the checksum area
//! (format.md §8). No I/O here; that is `array/scrub.rs`.

use evenkeel_journal::bytes::{get_u32, get_u64, put_u32, put_u64};
use evenkeel_journal::{Buf, Lsn};

use crate::page::{self, Head, PAGE_HEAD, PAGE_SCRUB};

/// Bytes of what a page says of one scrub.
pub const RUN_BYTES: usize = 64;
/// Flag of a scrub: it writes nothing but its own progress.
pub const RUN_CHECK_ONLY: u32 = 1;

/// How a scrub stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RunState {
    /// It has not ended: the next start goes on with it.
    UnderWay,
    /// It went through everything.
    Ended,
    /// A person stopped it.
    Stopped,
}

impl RunState {
    fn number(self) -> u32 {
        match self {
            RunState::UnderWay => 1,
            RunState::Ended => 2,
            RunState::Stopped => 3,
        }
    }

    fn from_number(n: u32) -> Option<RunState> {
        [RunState::UnderWay, RunState::Ended, RunState::Stopped]
            .into_iter()
            .find(|s| s.number() == n)
    }
}

/// What was wrong, and what became of it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Tally {
    /// Blocks, copies of metadata and columns of the log that were wrong or could not be read; in an
    /// array without checksums, rows whose parity does not fit their data.
    pub mismatches: u64,
    /// Those of them that were written again, and read back.
    pub healed: u64,
    /// Those of them that nobody can make right.
    pub unrepairable: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        self.mismatches += other.mismatches;
        self.healed += other.healed;
        self.unrepairable += other.unrepairable;
    }
}

/// A scrub: under way, or the last one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// How it stands.
    pub state: RunState,
    /// Whether it only looks.
    pub check_only: bool,
    /// Seconds since 1970 when it was begun.
    pub started: u64,
    /// Seconds since 1970 when it ended; 0 until then.
    pub ended: u64,
    /// What it has not been at yet: the first stripe; or, where all stripes are done, their number
    /// and that of the pages that are done: roots, map, checksums, then superblocks, then the log.
    pub next: u64,
    /// Bytes of the members that it has compared.
    pub done_bytes: u64,
    /// What it found.
    pub tally: Tally,
}

impl Run {
    /// One that begins now.
    #[must_use]
    pub fn begun(check_only: bool, now: u64) -> Run {
        Run {
            state: RunState::UnderWay,
            check_only,
            started: now,
            ended: 0,
            next: 0,
            done_bytes: 0,
            tally: Tally::default(),
        }
    }

    fn put(&self, b: &mut [u8]) {
        put_u32(b, 0, self.state.number());
        put_u32(b, 4, if self.check_only { RUN_CHECK_ONLY } else { 0 });
        put_u64(b, 8, self.started);
        put_u64(b, 16, self.ended);
        put_u64(b, 24, self.next);
        put_u64(b, 32, self.done_bytes);
        put_u64(b, 40, self.tally.mismatches);
        put_u64(b, 48, self.tally.healed);
        put_u64(b, 56, self.tally.unrepairable);
    }

    fn get(b: &[u8]) -> Option<Run> {
        Some(Run {
            state: RunState::from_number(get_u32(b, 0))?,
            check_only: get_u32(b, 4) & RUN_CHECK_ONLY != 0,
            started: get_u64(b, 8),
            ended: get_u64(b, 16),
            next: get_u64(b, 24),
            done_bytes: get_u64(b, 32),
            tally: Tally {
                mismatches: get_u64(b, 40),
                healed: get_u64(b, 48),
                unrepairable: get_u64(b, 56),
            },
        })
    }
}

/// What page 0 of the checksum area says.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ScrubPage {
    /// The scrub under way.
    pub now: Option<Run>,
    /// The last one that ended, or was stopped.
    pub last: Option<Run>,
}

impl ScrubPage {
    /// The page as it is to be written.
    #[must_use]
    pub fn encode(&self, array: u128, place: u8, generation: u64) -> Buf {
        let head = Head { kind: PAGE_SCRUB, page: 0, place, generation, lsn: Lsn(0) };
        let mut b = head.page(array);
        for (i, run) in [self.now, self.last].iter().enumerate() {
            if let Some(run) = run {
                run.put(&mut b[PAGE_HEAD + i * RUN_BYTES..][..RUN_BYTES]);
            }
        }
        page::seal(&mut b);
        b
    }

    /// The page in `b`, with its head; None if it is none of this array.
    #[must_use]
    pub fn decode(b: &[u8], array: u128) -> Option<(Head, ScrubPage)> {
        let head = page::decode(b, array)?;
        let run = |i: usize| Run::get(&b[PAGE_HEAD + i * RUN_BYTES..][..RUN_BYTES]);
        (head.kind == PAGE_SCRUB && head.page == 0)
            .then(|| (head, ScrubPage { now: run(0), last: run(1) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_comes_back_and_any_flip_is_noticed() {
        let now = Run { next: 7, done_bytes: 9, ..Run::begun(true, 5) };
        let tally = Tally { mismatches: 3, healed: 2, unrepairable: 1 };
        let last = Run { state: RunState::Ended, ended: 6, tally, ..Run::begun(false, 4) };
        for page in [
            ScrubPage::default(),
            ScrubPage { now: Some(now), last: None },
            ScrubPage { now: None, last: Some(last) },
            ScrubPage { now: Some(now), last: Some(Run { state: RunState::Stopped, ..last }) },
        ] {
            let b = page.encode(77, 1, 12);
            let (head, back) = ScrubPage::decode(&b, 77).expect("whole");
            assert_eq!((head.place, head.generation, back), (1, 12, page));
            assert!(ScrubPage::decode(&b, 78).is_none());
            for at in (0..b.len()).step_by(3) {
                let mut c = b.to_vec();
                c[at] ^= 0x40;
                assert!(ScrubPage::decode(&c, 77).is_none(), "flip at {at}");
            }
        }
    }
}
