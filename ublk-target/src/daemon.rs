//! What `evenkeel start` runs.

use std::path::PathBuf;

use evenkeel_raid::{Ack, ArrayError, StartOptions};

/// The front end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Via {
    /// `/dev/ublkbN`.
    #[default]
    Ublk,
    /// A Unix socket that speaks NBD.
    Nbd,
}

/// What a daemon is told.
#[derive(Clone, Debug)]
pub struct DaemonConfig {
    /// Name of the array.
    pub name: String,
    /// Paths of the members, in any order. One that is not there is taken for missing.
    pub disks: Vec<PathBuf>,
    /// How the array is started. Its `ack` counts if [`DaemonConfig::ack`] is none.
    pub start: StartOptions,
    /// `--ack`, if it was given: it is refused (2) where a recovered device has another one.
    pub ack: Option<Ack>,
    /// The front end.
    pub via: Via,
    /// Where the NBD socket is; none: RUN/NAME.nbd.
    pub socket: Option<PathBuf>,
    /// The run directory.
    pub run_dir: PathBuf,
    /// Stay in the foreground.
    pub foreground: bool,
}

/// Runs the daemon. `ready` is called once, by the process that was started: with the device's or
/// socket's path when it serves, or with the reason why it does not. In the background that
/// process then gets its exit code here; the daemon itself does not return.
pub fn run(config: DaemonConfig, ready: impl FnOnce(Result<String, ArrayError>)) -> u8 {
    let _ = config;
    let e = ArrayError::new(evenkeel_raid::ErrorKind::Failed, "The daemon is being written.");
    let code = e.kind.exit_code();
    ready(Err(e));
    code
}
