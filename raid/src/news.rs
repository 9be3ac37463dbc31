//! What people and programs are told of the array's health: events with whole sentences, in order,
//! once each; those of rebuilds and spares in `news/rebuild.rs`.
//!
//! What must hold: the array never waits for whoever listens, and what nobody hears is bounded: the
//! oldest events are lost then (most of the simulator does not listen at all).

mod rebuild;

pub(crate) use rebuild::*;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::Duration;

use evenkeel_journal::DiskError;
use evenkeel_journal::sync::Signal;

use crate::event::{Event, EventKind};
use crate::members::Why;
use crate::scrub::{Run, RunState, Tally};
use crate::status::MemberState;

/// Most events that wait to be told.
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

/// Events that wait to be told.
#[derive(Default)]
pub(crate) struct News {
    waiting: RefCell<VecDeque<Event>>,
    came: Signal,
}

impl News {
    pub(crate) fn tell(&self, event: Event) {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() == WAITING_MAX {
            waiting.pop_front();
        }
        waiting.push_back(event);
        drop(waiting);
        self.came.notify();
    }

    pub(crate) async fn next(&self) -> Event {
        loop {
            if let Some(event) = self.waiting.borrow_mut().pop_front() {
                return event;
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

/// What the array still tolerates.
fn may_fail(left: usize) -> String {
    match left {
        0 => "No further member may fail: that would stop all writes.".to_owned(),
        1 => "One more member may fail without loss of data.".to_owned(),
        n => format!("{n} more members may fail without loss of data."),
    }
}

/// An event of the members that are away: of the one, or of the array.
fn of_those(kind: EventKind, away: &[(String, Option<Trouble>)], sentence: String) -> Event {
    match away {
        [(path, _)] => Event::of_member(kind, path, sentence),
        _ => Event::of_array(kind, sentence),
    }
}

/// An array runs, as this device.
pub(crate) fn new_array(array: &str, device: &str, read_only: bool) -> Event {
    let how = if read_only { ", read-only" } else { "" };
    let sentence = format!("Array {array} is started{how}: it is {device}.");
    Event::of_array(EventKind::NewArray, sentence)
}

/// An array that was just started lacks these members: what they are called, and their states.
pub(crate) fn degraded(array: &str, out: &[(String, MemberState)], left: usize) -> Event {
    let each: Vec<String> =
        out.iter().map(|(who, state)| format!("{who} is {}", state.as_str())).collect();
    let sentence = format!("Array {array} is degraded: {}. {}", each.join(", "), may_fail(left));
    Event::of_array(EventKind::DegradedArray, sentence)
}

/// A member's failure is recorded; `left` more may fail.
pub(crate) fn failed(path: &str, trouble: Option<Trouble>, epoch: u64, left: usize) -> Event {
    let sentence = format!(
        "{path} failed: {}. It is out of the array from now on, which is recorded on the other \
         members (epoch {epoch}). Nothing is lost, and requests go on. {}",
        because(trouble),
        may_fail(left)
    );
    Event::of_member(EventKind::Fail, path, sentence)
}

/// A member is failing, which is recorded; errors count for `window`.
pub(crate) fn failing(path: &str, why: Why, window: Duration, epoch: u64, spare: bool) -> Event {
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
    let sentence = format!(
        "{path} is failing: {why} (epoch {epoch}). Nothing is lost: the other members gave what it did \
         not, it is still read and written, and as many members may fail as before. {then}"
    );
    Event::of_member(EventKind::Failing, path, sentence)
}

/// A member is so much slower than the others that reads go around it.
pub(crate) fn slow(path: &str, limit: Duration) -> Event {
    let sentence = format!(
        "{path} is slow: most of its last reads took longer than {:.1} s, many times as long as those of \
         the other members. What it holds is read from these for now, as far as they are enough. Writes \
         still wait for it.",
        limit.as_secs_f64()
    );
    Event::of_member(EventKind::Slow, path, sentence)
}

/// It is not any more.
pub(crate) fn fast_again(path: &str, time: Duration) -> Event {
    let sentence =
        format!("{path} is fast again, after {} s: it is read as before.", time.as_secs());
    Event::of_member(EventKind::Note, path, sentence)
}

/// More members failed at once than are tolerated; `away` of them may come back.
pub(crate) fn frozen(away: &[(String, Option<Trouble>)], members: usize, bound: Duration) -> Event {
    let each: Vec<String> =
        away.iter().map(|(path, trouble)| format!("{path} ({})", because(*trouble))).collect();
    let sentence = format!(
        "{} of {members} members failed at once, more than may be out: {}. That is not recorded, \
         since they may come back, as after the reset of a controller. Requests wait for them, up to \
         {} s (--io-timeout).",
        away.len(),
        each.join(", "),
        bound.as_secs_f64()
    );
    of_those(EventKind::Frozen, away, sentence)
}

/// Enough of them are back, after so long.
pub(crate) fn thawed(waited: Duration, still_away: usize) -> Event {
    let who = match still_away {
        0 => "All members are back".to_owned(),
        1 => "All members but one are back".to_owned(),
        n => format!("All members but {n} are back"),
    };
    let sentence = format!(
        "{who} after {:.1} s. What had been written to any member since its last flush was written \
         again. Nothing is lost, and requests go on.",
        waited.as_secs_f64()
    );
    Event::of_array(EventKind::Thawed, sentence)
}

/// More members failed than are tolerated, and did not come back.
pub(crate) fn halted(away: &[(String, Option<Trouble>)], out: usize, members: usize) -> Event {
    let each: Vec<String> = away
        .iter()
        .map(|(path, trouble)| format!("{path} failed: {}.", because(*trouble)))
        .collect();
    let them = if away.len() == 1 { "it was" } else { "they were" };
    let failure = if away.len() == 1 { "this failure is" } else { "these failures are" };
    let sentence = format!(
        "{} {out} of {members} members are out already, and the array tolerates no more; {them} \
         waited for, and did not come back. So {failure} not recorded, and no write is taken from \
         now on; what can still be read is read. What was acknowledged is on the members and in \
         the log. Bring back what failed, stop the array and start it again.",
        each.join(" ")
    );
    of_those(EventKind::Halted, away, sentence)
}

/// The first time that a member that stays could not be read.
pub(crate) fn unreadable(path: &str, at: u64, e: DiskError) -> Event {
    let sentence = format!(
        "{path} could not be read at byte {at}: {e}. The other members give what it holds there. \
         Such errors are counted in the status from now on, and not told one by one."
    );
    Event::of_member(EventKind::ReadError, path, sentence)
}

/// Whether the nth wrong block of a member is told by itself: the first ones, then ever fewer.
pub(crate) fn is_told(nth: u64) -> bool {
    nth <= 16 || nth.is_power_of_two()
}

/// What lies on a member is not what was written there.
pub(crate) fn wrong(array: &str, path: &str, at: u64, what: &str, nth: u64) -> Event {
    let rest = if nth == 16 {
        " Further ones are counted in the status, and not told one by one."
    } else {
        ""
    };
    let sentence = format!(
        "Array {array}: {path} gave wrong bytes at byte {at} ({what}): they are not what was \
         written there. It is number {nth} on this member since the start.{rest}"
    );
    Event::of_member(EventKind::Mismatch, path, sentence)
}

/// What was wrong on a member, or could not be read, was written again: so many blocks, `all` since
/// the start. Told as sparsely as they were when they were found.
pub(crate) fn healed(array: &str, path: &str, count: u64, all: u64) -> Option<Event> {
    (all - count + 1..=all).any(is_told).then(|| {
        let blocks = if count == 1 { "a block was" } else { "blocks were" };
        let sentence = format!(
            "Array {array}: on {path}, {blocks} written again, read back and found right: {all} on \
             this member since the start."
        );
        Event::of_member(EventKind::Healed, path, sentence)
    })
}

/// More copies of a page of checksums are gone than members may be.
pub(crate) fn sums_lost(array: &str, page: u64) -> Event {
    let sentence = format!(
        "Array {array}: no copy of page {page} of the checksums is left. What only it knew cannot \
         be told from wrong bytes any more: those blocks give EIO until they are overwritten."
    );
    Event::of_array(EventKind::Mismatch, sentence)
}

/// A scrub begins; `overdue`: by itself, since there was none for so long.
pub(crate) fn scrub_begins(
    array: &str,
    check_only: bool,
    sums: bool,
    overdue: Option<Duration>,
) -> Event {
    let what = if sums {
        "every block in use is compared with its checksum"
    } else {
        "the parity of every stripe in use is compared with its data"
    };
    let then = if check_only { "only looked at" } else { "made right" };
    let why = overdue.map_or_else(String::new, |every| {
        let days = every.as_secs_f64() / 86_400.0;
        format!(" It is begun by itself, since there was none for {days} days (--scrub-every).")
    });
    let sentence =
        format!("Array {array}: a scrub begins: {what}, and what is wrong is {then}.{why}");
    Event::of_array(EventKind::ScrubStarted, sentence)
}

/// A scrub that a start goes on with.
pub(crate) fn scrub_goes_on(array: &str, run: &Run) -> Event {
    let sentence = format!(
        "Array {array}: the scrub that had not ended goes on; {} bytes were compared before.",
        run.done_bytes
    );
    Event::of_array(EventKind::ScrubStarted, sentence)
}

/// A scrub ended, or was broken off.
pub(crate) fn scrub_ended(array: &str, run: &Run) -> Event {
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
    let sentence =
        format!("Array {array}: the scrub {how}. Of {} bytes, {rest}.{only}", run.done_bytes);
    Event::of_array(EventKind::ScrubFinished, sentence)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::task::{Context, Poll, Waker};

    #[test]
    fn the_newest_are_told_in_order() {
        let (news, number) =
            (News::default(), |i: usize| Event::of_array(EventKind::Note, i.to_string()));
        (0..WAITING_MAX + 3).for_each(|i| news.tell(number(i)));
        let mut cx = Context::from_waker(Waker::noop());
        for i in 3..WAITING_MAX + 3 {
            let next = std::pin::pin!(news.next());
            assert_eq!(next.poll(&mut cx), Poll::Ready(number(i)));
        }
        assert!(std::pin::pin!(news.next()).poll(&mut cx).is_pending());
    }

    #[test]
    fn full_and_gone_are_told_apart() {
        let failed = |trouble, left| failed("/a", trouble, 7, left).sentence;
        let gone = failed(Some((Doing::Write, Some(DiskError::Gone))), 1);
        let full = failed(Some((Doing::Write, Some(DiskError::Full))), 0);
        assert!(gone.contains("gone") && !gone.contains("full"), "{gone}");
        assert!(full.contains("full") && !full.contains("gone"), "{full}");
        assert!(gone.contains("One more member") && full.contains("No further member"));
        assert!(failed(None, 2).contains("by order"));
    }

    #[test]
    fn an_event_names_its_member_if_it_is_one() {
        let away = |n: usize| -> Vec<(String, Option<Trouble>)> {
            (0..n).map(|i| (format!("/{i}"), None)).collect()
        };
        let bound = Duration::from_secs(1);
        for (event, kind, member) in [
            (failed("/a", None, 7, 1), EventKind::Fail, Some("/a")),
            (frozen(&away(2), 3, bound), EventKind::Frozen, None),
            (frozen(&away(1), 3, bound), EventKind::Frozen, Some("/0")),
            (halted(&away(1), 1, 3), EventKind::Halted, Some("/0")),
            (unreadable("/a", 0, DiskError::Gone), EventKind::ReadError, Some("/a")),
            (wrong("x", "/a", 0, "a block", 1), EventKind::Mismatch, Some("/a")),
            (scrub_begins("x", false, true, None), EventKind::ScrubStarted, None),
        ] {
            assert_eq!((event.kind, event.member.as_deref()), (kind, member), "{event:?}");
        }
    }

    #[test]
    fn who_is_out_is_named() {
        let out =
            [("/a".to_owned(), MemberState::Failed), ("member 3".into(), MemberState::Missing)];
        let event = degraded("x", &out, 0);
        assert_eq!(event.kind, EventKind::DegradedArray);
        let text = event.sentence;
        assert!(text.contains("/a is failed, member 3 is missing."), "{text}");
        assert!(text.contains("No further member"), "{text}");
    }

    #[test]
    fn what_is_healed_is_told_ever_more_rarely() {
        let told = |count, all| healed("x", "/a", count, all).is_some();
        assert!((1..=16).all(|n| told(1, n)), "the first ones");
        assert!(!told(1, 17) && told(1, 32) && !told(1, 33), "then by powers of two");
        assert!(told(20, 70) && !told(20, 100), "one of those that were healed together counts");
        assert!(!told(0, 16), "nothing was healed");
    }
}
