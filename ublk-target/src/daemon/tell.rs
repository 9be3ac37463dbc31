//! What a daemon says to the process that started it: a line of JSON each, over a pipe. `note` is
//! shown to the person, `ready` and `failed` end the conversation.

use std::fs::File;
use std::io::{BufReader, Write};
use std::path::Path;

use evenkeel_raid::{ArrayError, ErrorKind};
use serde::{Deserialize, Serialize};

use super::failed;
use crate::process;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Note(String),
    Ready(String),
    Failed { code: u8, message: String },
}

type Ready<'a> = Box<dyn FnOnce(Result<String, ArrayError>) + 'a>;

/// The daemon's side.
pub struct Teller<'a> {
    to: Option<File>,
    ready: Option<Ready<'a>>,
}

impl<'a> Teller<'a> {
    /// For a daemon in the foreground.
    pub fn direct(ready: impl FnOnce(Result<String, ArrayError>) + 'a) -> Teller<'a> {
        Teller { to: None, ready: Some(Box::new(ready)) }
    }

    /// For a daemon in the background.
    #[must_use]
    pub fn pipe(to: File) -> Teller<'static> {
        Teller { to: Some(to), ready: None }
    }

    /// Something that a person may want to know.
    pub fn note(&self, text: &str) {
        process::note(text);
        self.say(&Line::Note(text.to_owned()));
    }

    /// It serves at `path`.
    pub fn ready(&mut self, path: &str) {
        process::note(&format!("It serves {path}."));
        self.say(&Line::Ready(path.to_owned()));
        self.to = None;
        if let Some(ready) = self.ready.take() {
            ready(Ok(path.to_owned()));
        }
    }

    /// It does not serve, or no longer.
    pub fn failed(&mut self, e: ArrayError) {
        if self.ready.is_none() {
            process::note(&e.message);
        }
        self.say(&Line::Failed { code: e.kind.exit_code(), message: e.message.clone() });
        self.to = None;
        if let Some(ready) = self.ready.take() {
            ready(Err(e));
        }
    }

    fn say(&self, line: &Line) {
        let Some(mut to) = self.to.as_ref() else { return };
        if let Ok(mut text) = serde_json::to_vec(line) {
            text.push(b'\n');
            // Who does not listen any more does not want to know.
            let _ = to.write_all(&text);
        }
    }
}

/// The other side: what the daemon came to.
///
/// # Errors
/// The daemon's own, or that it ended without a word.
pub fn listen(from: BufReader<File>, log: &Path) -> Result<String, ArrayError> {
    let mut end = None;
    process::lines(from, |line| {
        match serde_json::from_str(line) {
            Ok(Line::Note(text)) => process::note(&text),
            Ok(Line::Ready(path)) => end = Some(Ok(path)),
            Ok(Line::Failed { code, message }) => {
                end = Some(Err(ArrayError::new(kind_of(code), message)));
            }
            Err(_) => {}
        }
        end.is_some()
    });
    let dead = || {
        let log = log.display();
        Err(failed(format!("The daemon ended before it served. Its last words are in {log}.")))
    };
    end.unwrap_or_else(dead)
}

fn kind_of(code: u8) -> ErrorKind {
    use ErrorKind::{
        Disagree, Failed, Foreign, Held, LogDamaged, NoUblk, Occupied, TooFew, TooSmall,
        Unsupported, Usage,
    };
    let all = [
        Usage,
        TooFew,
        Disagree,
        Foreign,
        Held,
        LogDamaged,
        TooSmall,
        Occupied,
        Unsupported,
        NoUblk,
    ];
    all.into_iter().find(|k| k.exit_code() == code).unwrap_or(Failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_heard() {
        use std::os::fd::{FromRawFd, OwnedFd};
        let talk = |speak: &dyn Fn(&mut Teller<'_>)| {
            let mut ends = [0; 2];
            // SAFETY: room for two descriptors.
            assert_eq!(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
            // SAFETY: both just opened, owned by nobody else.
            let [from, to] = ends.map(|fd| File::from(unsafe { OwnedFd::from_raw_fd(fd) }));
            let mut teller = Teller::pipe(to);
            speak(&mut teller);
            drop(teller);
            listen(BufReader::new(from), Path::new("/log"))
        };
        assert_eq!(talk(&|t| t.ready("/dev/ublkb0")).expect("ready"), "/dev/ublkb0");
        let e = talk(&|t| t.failed(ArrayError::new(ErrorKind::Held, "Two\nlines.")));
        let e = e.expect_err("failed");
        assert_eq!((e.kind, e.message.as_str()), (ErrorKind::Held, "Two\nlines."));
        assert!(talk(&|_| {}).is_err_and(|e| e.message.contains("/log")));
    }
}
