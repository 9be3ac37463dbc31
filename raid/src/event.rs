//! What happens to an array, for programs and people: a kind that has a name, whom it concerns, and
//! a whole sentence.
//!
//! What must hold: where mdadm's monitor has a name for something, it is ours too, letter by letter,
//! so that a program written for the one serves the other; a name is never given another meaning.

use std::fmt;

/// What kind of event: by the names of `mdadm --monitor`, then our own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum EventKind {
    /// An array was started.
    NewArray,
    /// An array that was started lacks members.
    DegradedArray,
    /// An array was stopped.
    DeviceDisappeared,
    /// A member that was in use failed.
    Fail,
    /// A spare that was being filled in a failed member's place failed.
    FailSpare,
    /// A spare that was being filled is a member in use from now on.
    SpareActive,
    /// A rebuild begins, or goes on after a start.
    RebuildStarted,
    /// A rebuild has passed 20 %.
    Rebuild20,
    /// A rebuild has passed 40 %.
    Rebuild40,
    /// A rebuild has passed 60 %.
    Rebuild60,
    /// A rebuild has passed 80 %.
    Rebuild80,
    /// A rebuild ended, or was given up: the sentence says which.
    RebuildFinished,
    /// A spare went from one array to another. Never told: arrays share no spares.
    MoveSpare,
    /// An array has fewer spares than it should have.
    SparesMissing,
    /// A test of the way that events take.
    TestMessage,
    /// A scrub begins, or goes on after a start.
    ScrubStarted,
    /// A scrub ended, was stopped, or was broken off: the sentence says which, and what it found.
    ScrubFinished,
    /// What lies on a member is not what was written there.
    Mismatch,
    /// What was wrong on a member was written again, and read back.
    Healed,
    /// A member that stays could not be read.
    ReadError,
    /// A member gave too many errors, or is slow: it is about to be replaced by a spare.
    Failing,
    /// A member is much slower than the others: reads go around it.
    Slow,
    /// More members failed at once than may: requests wait for them.
    Frozen,
    /// Enough of them are back: requests go on.
    Thawed,
    /// Too many members are gone: no write is taken any more.
    Halted,
    /// The array has become larger.
    Grown,
    /// Anything else that people should know.
    Note,
}

impl EventKind {
    /// All of them.
    pub const ALL: [EventKind; 27] = [
        EventKind::NewArray,
        EventKind::DegradedArray,
        EventKind::DeviceDisappeared,
        EventKind::Fail,
        EventKind::FailSpare,
        EventKind::SpareActive,
        EventKind::RebuildStarted,
        EventKind::Rebuild20,
        EventKind::Rebuild40,
        EventKind::Rebuild60,
        EventKind::Rebuild80,
        EventKind::RebuildFinished,
        EventKind::MoveSpare,
        EventKind::SparesMissing,
        EventKind::TestMessage,
        EventKind::ScrubStarted,
        EventKind::ScrubFinished,
        EventKind::Mismatch,
        EventKind::Healed,
        EventKind::ReadError,
        EventKind::Failing,
        EventKind::Slow,
        EventKind::Frozen,
        EventKind::Thawed,
        EventKind::Halted,
        EventKind::Grown,
        EventKind::Note,
    ];

    /// Its name, as a program is given it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            EventKind::NewArray => "NewArray",
            EventKind::DegradedArray => "DegradedArray",
            EventKind::DeviceDisappeared => "DeviceDisappeared",
            EventKind::Fail => "Fail",
            EventKind::FailSpare => "FailSpare",
            EventKind::SpareActive => "SpareActive",
            EventKind::RebuildStarted => "RebuildStarted",
            EventKind::Rebuild20 => "Rebuild20",
            EventKind::Rebuild40 => "Rebuild40",
            EventKind::Rebuild60 => "Rebuild60",
            EventKind::Rebuild80 => "Rebuild80",
            EventKind::RebuildFinished => "RebuildFinished",
            EventKind::MoveSpare => "MoveSpare",
            EventKind::SparesMissing => "SparesMissing",
            EventKind::TestMessage => "TestMessage",
            EventKind::ScrubStarted => "ScrubStarted",
            EventKind::ScrubFinished => "ScrubFinished",
            EventKind::Mismatch => "Mismatch",
            EventKind::Healed => "Healed",
            EventKind::ReadError => "ReadError",
            EventKind::Failing => "Failing",
            EventKind::Slow => "Slow",
            EventKind::Frozen => "Frozen",
            EventKind::Thawed => "Thawed",
            EventKind::Halted => "Halted",
            EventKind::Grown => "Grown",
            EventKind::Note => "Note",
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Something that happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// What.
    pub kind: EventKind,
    /// Path of the member that it happened to, if it is one.
    pub member: Option<String>,
    /// The whole of it, for people.
    pub sentence: String,
}

impl Event {
    /// One that concerns the array as a whole.
    #[must_use]
    pub fn of_array(kind: EventKind, sentence: String) -> Event {
        Event { kind, member: None, sentence }
    }

    /// One that concerns the member with this path.
    #[must_use]
    pub fn of_member(kind: EventKind, path: &str, sentence: String) -> Event {
        Event { kind, member: Some(path.to_owned()), sentence }
    }

    /// The array has grown from one size to another; what `shows` says of its device.
    #[must_use]
    pub fn grown(array: &str, before: u64, after: u64, shows: &str) -> Event {
        let sentence = format!("Array {array} has grown from {before} to {after} bytes. {shows}");
        Event::of_array(EventKind::Grown, sentence)
    }

    /// The array is stopped, and its device gone.
    #[must_use]
    pub fn stopped(array: &str, device: &str) -> Event {
        let sentence = format!("Array {array} is stopped: {device} is gone.");
        Event::of_array(EventKind::DeviceDisappeared, sentence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// The names of mdadm(8), section "Monitor mode".
    #[test]
    fn mdadms_names_are_ours() {
        let ours: Vec<&str> = EventKind::ALL.iter().map(|k| k.as_str()).collect();
        let of_mdadm = [
            "DeviceDisappeared",
            "RebuildStarted",
            "Rebuild20",
            "Rebuild40",
            "Rebuild60",
            "Rebuild80",
            "RebuildFinished",
            "Fail",
            "FailSpare",
            "SpareActive",
            "NewArray",
            "DegradedArray",
            "MoveSpare",
            "SparesMissing",
            "TestMessage",
        ];
        for name in of_mdadm {
            assert!(ours.contains(&name), "{name}");
        }
        assert_eq!(ours.iter().collect::<HashSet<_>>().len(), ours.len(), "each name once");
        for kind in EventKind::ALL {
            assert_eq!(kind.to_string(), format!("{kind:?}"), "as it is called in the code");
        }
    }
}
