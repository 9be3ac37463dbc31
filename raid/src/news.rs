//! What people are told of the members' health: whole sentences, in order, once each.
//!
//! What must hold: the array never waits for whoever listens, and what nobody hears is bounded: the
//! oldest sentences are lost then (the simulator does not listen at all).

use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::Duration;

use evenkeel_journal::DiskError;
use evenkeel_journal::sync::Signal;

use crate::members::Why;
use crate::scrub::{Run, RunState, Tally};

/// Most sentences that wait to be told.
const WAITING_MAX: usize = 256;

/// What was being done to a member when it gave an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Doing {
    Read,
    Write,
    Flush,
    /// Whether it answers at all, after another one failed.
    Ask,
    /// Nothing: its errors were counted.
    Count,
}

impl Doing {
    fn as_str(self) -> &'static str {
        match self {
            Doing::Read => "reading from it",
            Doing::Write => "writing to it",
            Doing::Flush => "flushing its cache",
            Doing::Ask => "asking whether it answers",
            Doing::Count => "counting its errors",
        }
    }
}

/// The last error of a member; no error: there was no answer in time.
pub(crate) type Trouble = (Doing, Option<DiskError>);

/// Sentences that wait to be told.
#[derive(Default)]
pub(crate) struct News {
    waiting: RefCell<VecDeque<String>>,
    came: Signal,
}

impl News {
    pub(crate) fn tell(&self, sentence: String) {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() == WAITING_MAX {
            waiting.pop_front();
        }
        waiting.push_back(sentence);
        drop(waiting);
        self.came.notify();
    }

    pub(crate) async fn next(&self) -> String {
        loop {
            if let Some(sentence) = self.waiting.borrow_mut().pop_front() {
                return sentence;
            }
            self.came.wait().await;
        }
    }
}

fn because(trouble: Option<Trouble>) -> String {
    match trouble {
        Some((Doing::Count, _)) => {
            "it gave ever more errors, ten times as many as make a disk failing".to_owned()
        }
        Some((doing, Some(e))) => format!("{} ended with: {e}", doing.as_str()),
        Some((doing, None)) => format!("{} had no answer in time (--io-timeout)", doing.as_str()),
        None => "it was failed by order".to_owned(),
    }
}

/// A member's failure is recorded; `left` more may fail.
pub(crate) fn failed(path: &str, trouble: Option<Trouble>, epoch: u64, left: usize) -> String {
    let rest = match left {
        0 => "No further member may fail: that would stop all writes.".to_owned(),
        1 => "One more member may fail without loss of data.".to_owned(),
        n => format!("{n} more members may fail without loss of data."),
    };
    format!(
        "{path} failed: {}. It is out of the array from now on, which is recorded on the other \
         members (epoch {epoch}). Nothing is lost, and requests go on. {rest}",
        because(trouble)
    )
}

/// A member is failing, which is recorded; errors count for `window`.
pub(crate) fn failing(path: &str, why: Why, window: Duration, epoch: u64, spare: bool) -> String {
    let why = match why {
        Why::Errors(n) => format!(
            "in {n} places it could not be read or gave wrong bytes within {} hours",
            window.as_secs() / 3600
        ),
        Why::Slow(time) => format!("it has been slow for {} s", time.as_secs()),
    };
    let then = if spare {
        "A spare is filled, and takes its place then."
    } else {
        "There is no spare: replace it by another disk (evenkeel replace), or add one (evenkeel add)."
    };
    format!(
        "{path} is failing: {why} (epoch {epoch}). Nothing is lost: the other members gave what it did \
         not, it is still read and written, and as many members may fail as before. {then}"
    )
}

/// A member is so much slower than the others that reads go around it.
pub(crate) fn slow(path: &str, limit: Duration) -> String {
    format!(
        "{path} is slow: most of its last reads took longer than {:.1} s, many times as long as those of \
         the other members. What it holds is read from these for now, as far as they are enough. Writes \
         still wait for it.",
        limit.as_secs_f64()
    )
}

/// It is not any more.
pub(crate) fn fast_again(path: &str, time: Duration) -> String {
    format!("{path} is fast again, after {} s: it is read as before.", time.as_secs())
}

/// More members failed at once than are tolerated; `away` of them may come back.
pub(crate) fn frozen(
    away: &[(String, Option<Trouble>)],
    members: usize,
    bound: Duration,
) -> String {
    let each: Vec<String> =
        away.iter().map(|(path, trouble)| format!("{path} ({})", because(*trouble))).collect();
    format!(
        "{} of {members} members failed at once, more than may be out: {}. That is not recorded, \
         since they may come back, as after the reset of a controller. Requests wait for them, up to \
         {} s (--io-timeout).",
        away.len(),
        each.join(", "),
        bound.as_secs_f64()
    )
}

/// Enough of them are back, after so long.
pub(crate) fn thawed(waited: Duration, still_away: usize) -> String {
    let who = match still_away {
        0 => "All members are back".to_owned(),
        1 => "All members but one are back".to_owned(),
        n => format!("All members but {n} are back"),
    };
    format!(
        "{who} after {:.1} s. What had been written to any member since its last flush was written \
         again. Nothing is lost, and requests go on.",
        waited.as_secs_f64()
    )
}

/// More members failed than are tolerated, and did not come back.
pub(crate) fn halted(away: &[(String, Option<Trouble>)], out: usize, members: usize) -> String {
    let each: Vec<String> = away
        .iter()
        .map(|(path, trouble)| format!("{path} failed: {}.", because(*trouble)))
        .collect();
    let them = if away.len() == 1 { "it was" } else { "they were" };
    let failure = if away.len() == 1 { "this failure is" } else { "these failures are" };
    format!(
        "{} {out} of {members} members are out already, and the array tolerates no more; {them} \
         waited for, and did not come back. So {failure} not recorded, and no write is taken from \
         now on; what can still be read is read. What was acknowledged is on the members and in \
         the log. Bring back what failed, stop the array and start it again.",
        each.join(" ")
    )
}

/// The first time that a member that stays could not be read.
pub(crate) fn unreadable(path: &str, at: u64, e: DiskError) -> String {
    format!(
        "{path} could not be read at byte {at}: {e}. The other members give what it holds there. \
         Such errors are counted in the status from now on, and not told one by one."
    )
}

/// Whether the nth wrong block of a member is told by itself: the first ones, then ever fewer.
pub(crate) fn is_told(nth: u64) -> bool {
    nth <= 16 || nth.is_power_of_two()
}

/// What lies on a member is not what was written there.
pub(crate) fn wrong(array: &str, path: &str, at: u64, what: &str, nth: u64) -> String {
    let rest = if nth == 16 {
        " Further ones are counted in the status, and not told one by one."
    } else {
        ""
    };
    format!(
        "Array {array}: {path} gave wrong bytes at byte {at} ({what}): they are not what was \
         written there. It is number {nth} on this member since the start.{rest}"
    )
}

/// More copies of a page of checksums are gone than members may be.
pub(crate) fn sums_lost(array: &str, page: u64) -> String {
    format!(
        "Array {array}: no copy of page {page} of the checksums is left. What only it knew cannot \
         be told from wrong bytes any more: those blocks give EIO until they are overwritten."
    )
}

/// A scrub begins.
pub(crate) fn scrub_begins(array: &str, check_only: bool, sums: bool) -> String {
    let what = if sums {
        "every block in use is compared with its checksum"
    } else {
        "the parity of every stripe in use is compared with its data"
    };
    let then = if check_only { "only looked at" } else { "made right" };
    format!("Array {array}: a scrub begins: {what}, and what is wrong is {then}.")
}

/// A scrub that a start goes on with.
pub(crate) fn scrub_goes_on(array: &str, run: &Run) -> String {
    format!(
        "Array {array}: the scrub that had not ended goes on; {} bytes were compared before.",
        run.done_bytes
    )
}

/// A scrub ended, or was broken off.
pub(crate) fn scrub_ended(array: &str, run: &Run) -> String {
    let Tally { mismatches, healed, unrepairable } = run.tally;
    let how = match run.state {
        RunState::Ended => "ended",
        RunState::Stopped => "was stopped",
        RunState::UnderWay => "was broken off, and goes on with the next start",
    };
    let rest = match (mismatches, unrepairable) {
        (0, _) => "nothing was wrong".to_owned(),
        (n, 0) => format!("{n} were wrong, {healed} of them were made right"),
        (n, bad) => format!(
            "{n} were wrong, {healed} of them were made right, and {bad} cannot be: more of their \
             rows is gone than the array tolerates"
        ),
    };
    let only = if run.check_only { " It was to look only." } else { "" };
    format!("Array {array}: the scrub {how}. Of {} bytes, {rest}.{only}", run.done_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::task::{Context, Poll, Waker};

    #[test]
    fn the_newest_are_told_in_order() {
        let news = News::default();
        for i in 0..WAITING_MAX + 3 {
            news.tell(i.to_string());
        }
        let mut cx = Context::from_waker(Waker::noop());
        for i in 3..WAITING_MAX + 3 {
            let next = std::pin::pin!(news.next());
            assert_eq!(next.poll(&mut cx), Poll::Ready(i.to_string()));
        }
        assert!(std::pin::pin!(news.next()).poll(&mut cx).is_pending());
    }

    #[test]
    fn full_and_gone_are_told_apart() {
        let gone = failed("/a", Some((Doing::Write, Some(DiskError::Gone))), 7, 1);
        let full = failed("/a", Some((Doing::Write, Some(DiskError::Full))), 7, 0);
        assert!(gone.contains("gone") && !gone.contains("full"), "{gone}");
        assert!(full.contains("full") && !full.contains("gone"), "{full}");
        assert!(gone.contains("One more member") && full.contains("No further member"));
        assert!(failed("/a", None, 7, 2).contains("by order"));
    }
}
