//! The `evenkeel` command: one file a verb.
//!
//! - [`cli`] what can be said; [`size`] sizes; [`place`] the run directory and its files; [`paths`] lists
//!   of disks; [`config`] the configuration;
//! - [`probe`] what a disk is; [`held`] who uses it; [`signature`] what else is on it; [`find`] members
//!   by the name of their array; [`aside`] reading what may never answer; [`shape`] how many chunks are
//!   data and parity;
//! - [`create`], [`destroy`], [`start`], [`upgrade`], [`stop`], [`status`], [`fail`], [`members`] (`add`,
//!   `remove`, `replace`), [`grow`], [`scrub`], [`wait`], [`examine`], [`log`], [`locate`].
//!
//! What must hold: nothing is printed to standard output but the answer; an error is a full
//! sentence on standard error and one of the exit codes of [`Failure`].

mod aside;
mod candidate;
mod cli;
mod config;
mod create;
mod destroy;
mod engine;
mod examine;
mod fail;
mod find;
mod grow;
mod held;
mod locate;
mod log;
mod members;
mod paths;
mod place;
mod probe;
mod progress;
mod scrub;
mod shape;
mod signature;
mod size;
mod start;
mod status;
mod stop;
mod upgrade;
mod wait;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Verb};
use evenkeel_ublk_target::control::Failure;
use evenkeel_ublk_target::control::client::CallError;

/// The exit code of what went well, or why it did not.
type Outcome = Result<u8, Failure>;

fn main() -> ExitCode {
    let done = match Cli::parse().verb {
        Verb::Create(args) => create::run(&args),
        Verb::Start(args) => start::run(&args),
        Verb::Upgrade(args) => upgrade::run(&args),
        Verb::Stop(args) => stop::run(&args),
        Verb::Status(args) => status::run(&args),
        Verb::Fail(args) => fail::run(&args),
        Verb::Add(args) => members::add(&args),
        Verb::Remove(args) => members::remove(&args),
        Verb::Replace(args) => members::replace(&args),
        Verb::Grow(args) => grow::run(&args),
        Verb::Scrub(args) => scrub::run(&args),
        Verb::Wait(args) => wait::run(&args),
        Verb::Examine(args) => examine::run(&args),
        Verb::Log(args) => log::run(&args),
        Verb::Locate(args) => locate::run(&args),
        Verb::Destroy(args) => destroy::run(&args),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            eprintln!("evenkeel: {}", failure.message);
            ExitCode::from(failure.code)
        }
    }
}

/// Prints to standard output; a reader that has gone away is no error. Whether it is still there.
fn print(text: &str) -> bool {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let done = out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n"));
    done.and_then(|()| out.flush()).is_ok()
}

/// What a call to the daemon of `name` went wrong with.
fn call_failure(name: &str, error: CallError) -> Failure {
    match error {
        CallError::Failed(failure) => failure,
        CallError::NoDaemon => Failure::new(
            1,
            format!("No array \"{name}\" runs here. Start it with: evenkeel start {name}"),
        ),
        CallError::Io(e) => Failure::new(
            1,
            format!(
                "The daemon of \"{name}\" does not answer ({e}). The array is as safe as \
                     after a power cut: its daemon may be killed and started again."
            ),
        ),
    }
}

/// A feature that has a name, but is not there yet.
fn not_yet(what: &str) -> Failure {
    Failure::new(17, format!("{what} is not supported by this version. Nothing was changed."))
}
