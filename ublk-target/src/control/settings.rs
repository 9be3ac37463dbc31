//! How a daemon was started: what it tells the one that takes over from it.
//!
//! What must hold: a daemon of another version understands it. So keys keep their meaning, new ones
//! have a default, and unknown ones are passed over.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use evenkeel_raid::Ack;
use serde::{Deserialize, Serialize};

use crate::daemon::Via;

/// The answer to [`super::Request::Settings`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// Version of the program.
    pub version: String,
    /// Number of the process.
    pub pid: u32,
    /// The front end.
    pub via: Via,
    /// `--socket`, if it was given.
    #[serde(default)]
    pub socket: Option<AnyPath>,
    /// When writes are acknowledged.
    pub ack: Ack,
    /// Nothing is written.
    pub read_only: bool,
    /// `--accept-missing` was given.
    #[serde(default)]
    pub accept_missing: bool,
    /// `--force` was given.
    #[serde(default)]
    pub force: bool,
    /// `--io-timeout`, if it was given.
    #[serde(default)]
    pub io_timeout_s: Option<u64>,
    /// `--checksum-cache`, if it was given.
    #[serde(default)]
    pub checksum_cache: Option<u64>,
    /// `--rebuild-rate`, if it was given.
    #[serde(default)]
    pub rebuild_rate: Option<u64>,
    /// `--scrub-every`, in seconds; none: never.
    #[serde(default)]
    pub scrub_every_s: Option<u64>,
    /// The program that is run on events.
    #[serde(default)]
    pub hook: Option<AnyPath>,
    /// `--hook-timeout`.
    #[serde(default)]
    pub hook_timeout_s: u64,
    /// It is in the foreground.
    #[serde(default)]
    pub foreground: bool,
    /// The disks that it was started with.
    pub disks: Vec<AnyPath>,
}

/// A path in JSON: text, or its bytes where it is no text.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum AnyPath {
    /// UTF-8.
    Text(String),
    /// Anything.
    Bytes(Vec<u8>),
}

impl From<PathBuf> for AnyPath {
    fn from(path: PathBuf) -> AnyPath {
        match path.into_os_string().into_string() {
            Ok(text) => AnyPath::Text(text),
            Err(bytes) => AnyPath::Bytes(bytes.into_vec()),
        }
    }
}

impl From<AnyPath> for PathBuf {
    fn from(path: AnyPath) -> PathBuf {
        match path {
            AnyPath::Text(text) => text.into(),
            AnyPath::Bytes(bytes) => OsString::from_vec(bytes).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_other_versions_are_understood() {
        let odd = PathBuf::from(OsString::from_vec(b"/d/\xff\n".to_vec()));
        let paths = [odd, PathBuf::from("/dev/sdb")];
        let settings = Settings {
            version: "7".into(),
            pid: 9,
            via: Via::Nbd,
            socket: None,
            ack: Ack::Durable,
            read_only: true,
            accept_missing: false,
            force: false,
            io_timeout_s: None,
            checksum_cache: None,
            rebuild_rate: None,
            scrub_every_s: None,
            hook: None,
            hook_timeout_s: 0,
            foreground: false,
            disks: paths.iter().cloned().map(AnyPath::from).collect(),
        };
        let text = serde_json::to_string(&settings).unwrap();
        assert_eq!(serde_json::from_str::<Settings>(&text).unwrap(), settings);
        let back: Vec<PathBuf> = settings.disks.iter().cloned().map(PathBuf::from).collect();
        assert_eq!(back, paths);
        let other = r#"{"version":"7","pid":9,"via":"nbd","ack":"durable","read_only":true,
            "disks":[[47,100,47,255,10],"/dev/sdb"],"of_later":{"x":[1]}}"#;
        assert_eq!(serde_json::from_str::<Settings>(other).unwrap(), settings);
        let unknown = other.replace("nbd", "vhost");
        assert!(serde_json::from_str::<Settings>(&unknown).is_err());
    }
}
