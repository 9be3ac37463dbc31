//! The control socket of a daemon, RUN/NAME.sock: one JSON object a line each way.
//!
//! A request is `{"op":"status"}`, `{"op":"stop","force":false}`, `{"op":"fail","disk":"/dev/sdb"}`,
//! `{"op":"add","disk":"/dev/sdc"}`, `{"op":"remove","disk":"/dev/sdb"}`,
//! `{"op":"replace","old":"/dev/sdb","new":"/dev/sdc"}`, `{"op":"grow_size"}`,
//! `{"op":"grow_add","disks":[{"disk":"/dev/sdc"}]}`,
//! `{"op":"locate","byte":4096}`, `{"op":"scrub","check_only":false}`, `{"op":"scrub_stop"}`, `{"op":"settings"}`, `{"op":"hand_over"}` or
//! `{"op":"wait","what":"destage","timeout_s":60}`; its answer is `{"ok":…}` or
//! `{"error":{"code":N,"message":"…"}}`, where the code is an exit code of the command. A line that is
//! no request is answered with an error (code 2).
//!
//! A daemon may be asked by a command of another version: requests keep their names and meaning,
//! and what an answer has beyond what is known is passed over.
//!
//! - [`settings`] how a daemon was started, for the one that takes over from it;
//! - [`server`] the daemon's half, on the engine's ring: it never blocks and bounds what it takes;
//! - [`client`] the command's half, on a blocking socket.

#[cfg(test)]
#[path = "tests.rs"]
mod both_halves;
pub mod client;
pub mod server;
pub mod settings;

use std::future::Future;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use evenkeel_raid::{ArrayError, Located, Status};

pub use settings::Settings;

/// Longest line of a request.
pub const MAX_LINE: usize = 64 << 10;

/// What the command asks of a daemon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// What `status --json` prints.
    Status,
    /// Stop: close the front end, destage, mark the members clean, end.
    Stop {
        /// Also while the device is open.
        #[serde(default)]
        force: bool,
    },
    /// Fail a member.
    Fail {
        /// Its path.
        disk: String,
    },
    /// Take a disk in. The answer is an [`AddedAs`].
    Add {
        /// Its path.
        disk: String,
        /// What the path leads to, as `evenkeel_journal::uring::disk::identity` says, for whoever has looked at it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seen: Option<(u64, u64)>,
    },
    /// Take out a disk that is not in use.
    Remove {
        /// Its path.
        disk: String,
    },
    /// Have another disk take a member's place.
    Replace {
        /// The member's path.
        old: String,
        /// The other's: a disk, or a spare of this array.
        new: String,
        /// What that path leads to, as for [`Request::Add`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seen: Option<(u64, u64)>,
    },
    /// Grow by what all members have beyond what is used of them. The answer is a [`GrownTo`].
    GrowSize,
    /// Grow by more members: each of these disks is taken in, unless it is a spare already, and becomes
    /// one. The answer is a [`WidenedTo`]; the stripes are moved afterwards.
    GrowAdd {
        /// Which disks.
        disks: Vec<NewDisk>,
    },
    /// What `locate --json` prints: where a byte of the device lies.
    Locate {
        /// Which byte.
        byte: u64,
    },
    /// Begin a scrub.
    Scrub {
        /// Only look.
        #[serde(default)]
        check_only: bool,
    },
    /// End the scrub that is under way.
    ScrubStop,
    /// How the daemon was started: [`Settings`].
    Settings,
    /// Leave the array to the daemon that asks: it is not stopped, but left as a dead daemon leaves
    /// it. From the answer on there is no way back.
    HandOver,
    /// Wait until something is done.
    Wait {
        /// What.
        what: WaitFor,
        /// Give up after this many seconds.
        #[serde(default)]
        timeout_s: Option<f64>,
    },
}

/// A disk that is to become a part of the array.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NewDisk {
    /// Its path.
    pub disk: String,
    /// What the path leads to, as for [`Request::Add`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<(u64, u64)>,
}

/// What `wait` waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WaitFor {
    /// All that is dirty at the call is in its slots.
    Destage,
    /// No scrub is under way.
    Scrub,
    /// No member is being filled, and no spare is about to be.
    Rebuild,
    /// No stripes are being moved to more members, and the device shows the size that it has since.
    Grow,
}

/// What became of a disk that was added.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AddedAs {
    /// Its index in the member table.
    pub member: u8,
    /// It is the member that it was before, and gets what it has missed. Otherwise it is a spare.
    pub back: bool,
}

/// What an array has grown to: what `grow --json` prints.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GrownTo {
    /// Bytes before.
    pub before_bytes: u64,
    /// Bytes since.
    pub after_bytes: u64,
    /// The device, or the socket.
    pub device: String,
    /// `ublk` or `nbd`.
    pub via: String,
    /// The size that whoever asks the device now is told; null if that is not known. Where it is not
    /// `after_bytes` yet, it is after the next stop and start.
    pub device_bytes: Option<u64>,
    /// What the device shows, in full sentences.
    pub note: String,
}

/// The shape that an array has got by more members: what `grow --add --json` prints.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WidenedTo {
    /// The level, as `create --level` takes it.
    pub level: String,
    /// Data chunks of a stripe before.
    pub data_before: u32,
    /// Data chunks of a stripe from now on.
    pub data: u32,
    /// Parity chunks of a stripe.
    pub parity: u32,
    /// Paths of the disks that became members.
    pub added: Vec<String>,
    /// Bytes of the array now, and until all stripes are moved.
    pub before_bytes: u64,
    /// Bytes that it has then.
    pub after_bytes: u64,
    /// The device, or the socket.
    pub device: String,
    /// `ublk` or `nbd`.
    pub via: String,
    /// How long requests waited.
    pub waited_ms: u64,
    /// What goes on now, in full sentences.
    pub note: String,
}

/// Why a request was not done: the exit code of the command and a full sentence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Exit code.
    pub code: u8,
    /// One or more full sentences.
    pub message: String,
}

impl Failure {
    /// A failure with this exit code and sentence.
    pub fn new(code: u8, message: impl Into<String>) -> Failure {
        Failure { code, message: message.into() }
    }
}

impl From<ArrayError> for Failure {
    fn from(e: ArrayError) -> Failure {
        Failure::new(e.kind.exit_code(), e.message)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// Done; the value depends on the request.
    Ok(Value),
    /// Not done.
    Error(Failure),
}

/// What the daemon does for the control socket. Clones share it.
pub trait Commands: Clone + 'static {
    /// The array's status, with device and via filled in.
    fn status(&self) -> Status;
    /// Where a byte of the device lies at this moment.
    ///
    /// # Errors
    /// If the device has no such byte.
    fn locate(&self, byte: u64) -> Result<Located, ArrayError>;
    /// How often the device is open (ublk), or how many clients are connected (NBD).
    fn open_count(&self) -> usize;
    /// Fails the member with this path, durably.
    fn fail(&self, disk: &str) -> impl Future<Output = Result<(), ArrayError>>;
    /// Takes in the disk with this path, if it leads to what was seen there.
    fn add(
        &self,
        disk: &str,
        seen: Option<(u64, u64)>,
    ) -> impl Future<Output = Result<AddedAs, ArrayError>>;
    /// Takes out the disk with this path, which is not in use.
    fn remove(&self, disk: &str) -> impl Future<Output = Result<(), ArrayError>>;
    /// Has `new`, a disk (as for [`Commands::add`]) or a spare, take the place of the member `old`.
    fn replace(
        &self,
        old: &str,
        new: &str,
        seen: Option<(u64, u64)>,
    ) -> impl Future<Output = Result<(), ArrayError>>;
    /// Grows by what all members have beyond what is used of them, and has the device show it.
    fn grow_size(&self) -> impl Future<Output = Result<GrownTo, ArrayError>>;
    /// Takes these disks in, unless they are spares already, and makes members of them: the array has
    /// the wider shape then, and moves its stripes afterwards.
    fn grow_add(&self, disks: &[NewDisk]) -> impl Future<Output = Result<WidenedTo, ArrayError>>;
    /// Waits until no stripes are being moved to more members, and the device shows the size since.
    fn growth_ended(&self) -> impl Future<Output = Result<(), ArrayError>>;
    /// Waits until no member is being filled.
    fn rebuilt(&self) -> impl Future<Output = Result<(), ArrayError>>;
    /// Brings everything that is dirty now into its slots.
    fn destage(&self) -> impl Future<Output = Result<(), ArrayError>>;
    /// Begins a scrub.
    fn scrub(&self, check_only: bool) -> impl Future<Output = Result<(), ArrayError>>;
    /// Ends the scrub that is under way.
    fn stop_scrub(&self) -> impl Future<Output = Result<(), ArrayError>>;
    /// Waits until no scrub is under way.
    fn scrub_ended(&self) -> impl Future<Output = Result<(), ArrayError>>;
    /// How this daemon was started.
    fn settings(&self) -> Settings;
    /// From now on, or no longer, other daemons can see that this one is about to leave.
    fn show_leaving(&self, leaving: bool);
    /// Takes no more requests and leaves everything else as it is: for the next daemon, which may
    /// have its sockets where this one's were. Called once.
    fn leave(&self) -> impl Future<Output = ()>;
    /// Takes no more requests, finishes those under way, closes the front end and stops the
    /// array. Called once.
    fn stop(&self) -> impl Future<Output = Result<(), ArrayError>>;
    /// Whether there is no array any more, though nobody has stopped it: the daemon ends after the answer
    /// that says why, and leaves everything as a dead daemon does.
    fn is_over(&self) -> bool {
        false
    }
    /// Called after the answer to a stop was sent, whether it went well or not, and after it has
    /// left: the process may end now.
    fn quit(&self);
}

/// Where the control socket of the array `name` lies.
#[must_use]
pub fn socket_path(run_dir: &Path, name: &str) -> PathBuf {
    run_dir.join(format!("{name}.sock"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_as_documented() {
        let ask = |s: &str| serde_json::from_str::<Request>(s);
        assert_eq!(ask(r#"{"op":"status"}"#).unwrap(), Request::Status);
        assert_eq!(ask(r#"{"op":"stop"}"#).unwrap(), Request::Stop { force: false });
        let wait = Request::Wait { what: WaitFor::Destage, timeout_s: Some(1.5) };
        assert_eq!(ask(r#"{"op":"wait","what":"destage","timeout_s":1.5}"#).unwrap(), wait);
        assert_eq!(ask(r#"{"op":"locate","byte":7}"#).unwrap(), Request::Locate { byte: 7 });
        let scrub = |check_only| Request::Scrub { check_only };
        assert_eq!(ask(r#"{"op":"scrub"}"#).unwrap(), scrub(false));
        assert_eq!(ask(r#"{"op":"scrub","check_only":true}"#).unwrap(), scrub(true));
        assert_eq!(ask(r#"{"op":"scrub_stop"}"#).unwrap(), Request::ScrubStop);
        assert_eq!(ask(r#"{"op":"settings"}"#).unwrap(), Request::Settings);
        assert_eq!(ask(r#"{"op":"hand_over"}"#).unwrap(), Request::HandOver);
        let disk = || "/d".to_owned();
        let add = |seen| Request::Add { disk: disk(), seen };
        assert_eq!(ask(r#"{"op":"add","disk":"/d"}"#).unwrap(), add(None));
        assert_eq!(ask(r#"{"op":"add","disk":"/d","seen":[1,2]}"#).unwrap(), add(Some((1, 2))));
        let remove = Request::Remove { disk: disk() };
        assert_eq!(ask(r#"{"op":"remove","disk":"/d"}"#).unwrap(), remove);
        let replace = Request::Replace { old: "/o".into(), new: disk(), seen: None };
        assert_eq!(ask(r#"{"op":"replace","old":"/o","new":"/d"}"#).unwrap(), replace);
        assert_eq!(ask(r#"{"op":"grow_size"}"#).unwrap(), Request::GrowSize);
        let new = |seen| NewDisk { disk: disk(), seen };
        let grow = Request::GrowAdd { disks: vec![new(None), new(Some((1, 2)))] };
        let line = r#"{"op":"grow_add","disks":[{"disk":"/d"},{"disk":"/d","seen":[1,2]}]}"#;
        assert_eq!(ask(line).unwrap(), grow);
        assert_eq!(serde_json::to_string(&grow).unwrap(), line);
        let wait = Request::Wait { what: WaitFor::Grow, timeout_s: None };
        assert_eq!(ask(r#"{"op":"wait","what":"grow"}"#).unwrap(), wait);
        assert!(ask(r#"{"op":"grow_add","disks":["/d"]}"#).is_err());
        assert!(ask(r#"{"op":"grow_add"}"#).is_err());
        let wait = Request::Wait { what: WaitFor::Rebuild, timeout_s: None };
        assert_eq!(ask(r#"{"op":"wait","what":"rebuild"}"#).unwrap(), wait);
        assert!(ask(r#"{"op":"replace","old":"/o"}"#).is_err());
        assert!(ask(r#"{"op":"locate","byte":-7}"#).is_err());
        assert!(ask(r#"{"op":"wait","what":"godot"}"#).is_err());
        assert!(ask(r#"{"op":"fail"}"#).is_err());
        let line = |a: &Answer| serde_json::to_string(a).unwrap();
        assert_eq!(line(&Answer::Ok(Value::Null)), r#"{"ok":null}"#);
        let failed = Answer::Error(Failure::new(13, "Held."));
        assert_eq!(line(&failed), r#"{"error":{"code":13,"message":"Held."}}"#);
        assert_eq!(serde_json::from_str::<Answer>(&line(&failed)).unwrap(), failed);
    }
}
