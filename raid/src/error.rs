//! Errors of the array: what happened, to which disk, what is still safe and what to do next.

use std::fmt;

/// What kind of failure: decides the exit code of the command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorKind {
    /// Anything without a code of its own.
    Failed,
    /// The caller asked for something that makes no sense.
    Usage,
    /// Too few members.
    TooFew,
    /// Members disagree: stale or split histories.
    Disagree,
    /// A foreign, duplicate or cloned member.
    Foreign,
    /// Held by another daemon.
    Held,
    /// The log is damaged or missing.
    LogDamaged,
    /// Too small.
    TooSmall,
    /// Something else is on the disk.
    Occupied,
    /// Format or feature not supported.
    Unsupported,
    /// ublk is not available.
    NoUblk,
}

impl ErrorKind {
    /// The exit code of the command.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            ErrorKind::Failed => 1,
            ErrorKind::Usage => 2,
            ErrorKind::TooFew => 10,
            ErrorKind::Disagree => 11,
            ErrorKind::Foreign => 12,
            ErrorKind::Held => 13,
            ErrorKind::LogDamaged => 14,
            ErrorKind::TooSmall => 15,
            ErrorKind::Occupied => 16,
            ErrorKind::Unsupported => 17,
            ErrorKind::NoUblk => 18,
        }
    }
}

/// A failure of create, start or a command: its kind and a full sentence for a person.
#[derive(Clone, Debug)]
pub struct ArrayError {
    /// What kind.
    pub kind: ErrorKind,
    /// One or more full sentences.
    pub message: String,
}

impl ArrayError {
    /// An error of this kind with this sentence.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> ArrayError {
        ArrayError { kind, message: message.into() }
    }
}

impl fmt::Display for ArrayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ArrayError {}

/// Why a request to the device failed; front ends turn it into an errno.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RequestError {
    /// What was asked cannot be given any more: EIO.
    Io,
    /// Outside the device, or larger than the largest request: EINVAL.
    Invalid,
    /// The array was started read-only: EPERM.
    ReadOnly,
    /// The array is stopping: ESHUTDOWN.
    Stopping,
}

impl RequestError {
    /// The errno that says this.
    #[must_use]
    pub fn errno(self) -> i32 {
        match self {
            RequestError::Io => 5,
            RequestError::Invalid => 22,
            RequestError::ReadOnly => 1,
            RequestError::Stopping => 108,
        }
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RequestError::Io => "the array cannot give or take this any more",
            RequestError::Invalid => "the range is outside the device or too large",
            RequestError::ReadOnly => "the array was started read-only",
            RequestError::Stopping => "the array is stopping",
        })
    }
}

impl std::error::Error for RequestError {}
