//! What people are told of rebuilds and spares.

use super::Trouble;
use crate::event::{Event, EventKind};

/// What a rebuild begins with.
pub(crate) fn rebuild_begins(array: &str, path: &str, total_bytes: u64) -> Event {
    let sentence = format!(
        "Array {array}: the rebuild of {path} begins: {total_bytes} bytes are to be written. Requests \
         go on meanwhile, and come first."
    );
    Event::of_member(EventKind::RebuildStarted, path, sentence)
}

/// A rebuild that a start goes on with.
pub(crate) fn rebuild_goes_on(array: &str, path: &str, left_bytes: u64) -> Event {
    let sentence = format!(
        "Array {array}: the rebuild of {path} that had not ended goes on; {left_bytes} bytes are left \
         to be written."
    );
    Event::of_member(EventKind::RebuildStarted, path, sentence)
}

/// A rebuild went from `before` to `now`, both in percent of all: told at 20, 40, 60 and 80, once each
/// if every step is asked for; of several that were passed in one step the last.
pub(crate) fn rebuild_passes(array: &str, path: &str, before: u64, now: u64) -> Option<Event> {
    let marks = [
        (80, EventKind::Rebuild80),
        (60, EventKind::Rebuild60),
        (40, EventKind::Rebuild40),
        (20, EventKind::Rebuild20),
    ];
    let (mark, kind) = marks.into_iter().find(|(mark, _)| before < *mark && now >= *mark)?;
    let sentence = format!("Array {array}: the rebuild of {path} has passed {mark} %.");
    Some(Event::of_member(kind, path, sentence))
}

/// A rebuild ended: the member counts from now on.
pub(crate) fn rebuild_ended(array: &str, path: &str, epoch: u64, left: usize) -> Event {
    let sentence = format!(
        "Array {array}: the rebuild of {path} is finished: it is a member in use from now on, which \
         is recorded on all members (epoch {epoch}). {}",
        super::may_fail(left)
    );
    Event::of_member(EventKind::RebuildFinished, path, sentence)
}

/// A rebuild was given up.
pub(crate) fn rebuild_given_up(array: &str, path: &str, because: &str) -> Event {
    let sentence = format!(
        "Array {array}: the rebuild of {path} was given up: {because}. Nothing is lost by that, and \
         requests go on; the array stays as degraded as it was."
    );
    Event::of_member(EventKind::RebuildFinished, path, sentence)
}

/// A spare begins to take a failed member's place.
pub(crate) fn spare_steps_in(array: &str, spare: &str, failed: &str) -> Event {
    let sentence = format!("Array {array}: the spare {spare} takes the place of {failed}.");
    Event::of_member(EventKind::RebuildStarted, spare, sentence)
}

/// A spare is filled.
pub(crate) fn spare_is_active(array: &str, path: &str) -> Event {
    let sentence = format!("Array {array}: the spare {path} is a member in use from now on.");
    Event::of_member(EventKind::SpareActive, path, sentence)
}

/// A spare failed, while it waited or while it was filled.
pub(crate) fn spare_failed(array: &str, path: &str, trouble: Option<Trouble>) -> Event {
    let sentence = format!(
        "Array {array}: the spare {path} failed: {}. Nothing is lost by that, and requests go on.",
        super::because(trouble)
    );
    Event::of_member(EventKind::FailSpare, path, sentence)
}

/// There are fewer spares than there should be.
pub(crate) fn spares_missing(array: &str, there: usize, wanted: usize) -> Event {
    let sentence = format!("Array {array} has {there} of {wanted} spares.");
    Event::of_array(EventKind::SparesMissing, sentence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mark_is_told_once_and_none_twice() {
        let told = |steps: &[u64]| -> Vec<&str> {
            let passed = |w: &[u64]| rebuild_passes("a", "/x", w[0], w[1]).map(|e| e.kind.as_str());
            steps.windows(2).filter_map(passed).collect()
        };
        let all: Vec<u64> = (0..=100).collect();
        assert_eq!(told(&all), ["Rebuild20", "Rebuild40", "Rebuild60", "Rebuild80"]);
        assert_eq!(told(&[0, 19, 19, 20, 20, 39]), ["Rebuild20"]);
        assert_eq!(told(&[0, 55, 100]), ["Rebuild40", "Rebuild80"]);
        assert_eq!(told(&[30, 30]), [""; 0]);
    }

    #[test]
    fn they_say_whom_they_concern_and_why() {
        let failed = spare_failed("a", "/x", None);
        assert_eq!((failed.kind, failed.member.as_deref()), (EventKind::FailSpare, Some("/x")));
        assert!(failed.sentence.contains("/x") && failed.sentence.contains("by order"));
        let given_up = rebuild_given_up("a", "/x", "it is full");
        assert_eq!(given_up.kind, EventKind::RebuildFinished);
        assert!(given_up.sentence.contains("given up: it is full."), "{}", given_up.sentence);
        let ended = rebuild_ended("a", "/x", 7, 1);
        assert!(ended.sentence.contains("One more member"), "{}", ended.sentence);
    }
}
