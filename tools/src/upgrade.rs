//! `evenkeel upgrade`, and `start --takeover` where a daemon runs: this program takes the array over
//! from that daemon, under load.
//!
//! What must hold: whatever can be seen to stand in the way is refused while the old daemon still
//! serves: options that do not fit what its clients have, members that this program does not know
//! how to use or cannot reach, an array that could not be started. Afterwards an error says that the
//! old daemon is gone, that nothing is lost, and what to do.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use evenkeel_journal::uring::disk::identity;
use evenkeel_raid::hung::IO_TIMEOUT;
use evenkeel_raid::status::{MemberState, State};
use evenkeel_raid::{Ack, ArrayError, StartOptions, Status};
use evenkeel_ublk_target::control::client::CallError;
use evenkeel_ublk_target::control::{Failure, Request, Settings, client};
use evenkeel_ublk_target::daemon::hook::HookConfig;
use evenkeel_ublk_target::daemon::{DaemonConfig, Via};
use evenkeel_ublk_target::ublk::record::parse_uuid;

use crate::cli::{StartArgs, UpgradeArgs};
use crate::{Outcome, call_failure, find, place, start};

/// A daemon that runs: what it says of itself and of the array.
pub struct Old {
    name: String,
    settings: Settings,
    status: Status,
}

/// What is to be other than it was.
#[derive(Default)]
struct Wishes {
    ack: Option<Ack>,
    via: Option<Via>,
    socket: Option<PathBuf>,
    read_only: bool,
    accept_missing: bool,
    force: bool,
    foreground: bool,
    io_timeout: Option<Duration>,
    checksum_cache: Option<u64>,
    rebuild_rate: Option<u64>,
    hook: Option<PathBuf>,
    hook_timeout: Option<Duration>,
    disks: Vec<PathBuf>,
}

pub fn run(args: &UpgradeArgs) -> Outcome {
    place::check_name(&args.name)?;
    let old = Old::ask(&args.name)?;
    let old = old.ok_or_else(|| call_failure(&args.name, CallError::NoDaemon))?;
    if old.settings.foreground {
        eprintln!(
            "evenkeel: The daemon ran in the foreground; the new one goes into the background. To \
             keep one in the foreground: evenkeel start {} --takeover --foreground",
            args.name
        );
    }
    old.replace(Wishes::default())
}

/// `start --takeover` where `old` runs.
///
/// # Errors
/// What is wished does not fit, or the array could not be started.
pub fn take_over(old: &Old, args: &StartArgs) -> Outcome {
    let by_name = start::name_alone(&args.what).is_some();
    old.replace(Wishes {
        ack: args.ack.map(start::ack_of),
        via: args.via.map(start::via_of),
        socket: args.socket.as_deref().map(place::absolute),
        read_only: args.read_only,
        accept_missing: args.accept_missing,
        force: args.force,
        foreground: args.foreground,
        io_timeout: args.io_timeout.map(Duration::from_secs),
        checksum_cache: args.checksum_cache,
        rebuild_rate: args.rebuild_rate,
        hook: args.hook.clone(),
        hook_timeout: args.hook_timeout.map(Duration::from_secs),
        disks: if by_name {
            Vec::new()
        } else {
            args.what.iter().map(|d| place::absolute(d)).collect()
        },
    })
}

impl Old {
    /// The daemon of the array `name`, if one runs.
    ///
    /// # Errors
    /// It does not answer, or cannot hand over.
    pub fn ask(name: &str) -> Result<Option<Old>, Failure> {
        let run_dir = place::run_dir();
        let answer = |request| match client::call(&run_dir, name, &request) {
            Ok(value) => Ok(Some(value)),
            Err(CallError::NoDaemon) => Ok(None),
            // The code of a line that is no request.
            Err(CallError::Failed(f)) if f.code == 2 => Err(cannot_hand_over(name, &f.message)),
            Err(e) => Err(call_failure(name, e)),
        };
        let (Some(settings), Some(status)) = (answer(Request::Settings)?, answer(Request::Status)?)
        else {
            return Ok(None);
        };
        let odd = |e: serde_json::Error| cannot_hand_over(name, &e.to_string());
        Ok(Some(Old {
            name: name.to_owned(),
            settings: serde_json::from_value(settings).map_err(odd)?,
            status: serde_json::from_value(status).map_err(odd)?,
        }))
    }

    fn replace(&self, wishes: Wishes) -> Outcome {
        self.check_wishes(&wishes)?;
        let config = self.config(wishes)?;
        let hint = hint(&config);
        Ok(start::become_daemon(config, |e| self.explain(&e, &hint)))
    }

    /// Refuses what would take something away from those who use the device.
    fn check_wishes(&self, wishes: &Wishes) -> Result<(), Failure> {
        let (old, name) = (&self.settings, &self.name);
        let refuse = |what: &str, has: &str| {
            let text = format!(
                "{what} would change what those who use {} have: {has}. Nothing was changed. To \
                 change that, stop the array and start it again.",
                self.status.device
            );
            Err(Failure::new(2, text))
        };
        if wishes.via.is_some_and(|v| v != old.via) {
            return refuse("--via", &format!("it is served over {}", self.status.via));
        }
        if wishes.read_only && !old.read_only {
            return refuse("--read-only", "it can be written to");
        }
        let socket = wishes.socket.as_ref();
        if socket.is_some() && old.via != Via::Nbd {
            let text = "--socket is for NBD: a ublk device has no socket. Nothing was changed.";
            return Err(Failure::new(2, text));
        }
        let has = self.old_socket();
        if socket.is_some_and(|s| *s != has) {
            return refuse("--socket", &format!("it listens at {}", has.display()));
        }
        if old.via == Via::Ublk
            && let Some(ack) = wishes.ack.filter(|a| *a != old.ack)
        {
            let (is, asked) = (ack_name(old.ack), ack_name(ack));
            let text = format!(
                "{} goes on with --ack {is}, which it was made with, so it cannot be taken over \
                 with --ack {asked}. Nothing was changed. Stop \"{name}\" to change that.",
                self.status.device
            );
            return Err(Failure::new(2, text));
        }
        Ok(())
    }

    fn old_socket(&self) -> PathBuf {
        let default = || place::run_dir().join(format!("{}.nbd", self.name));
        self.settings.socket.clone().map_or_else(default, PathBuf::from)
    }

    /// The new daemon's configuration.
    ///
    /// # Errors
    /// It could not start the array.
    fn config(&self, wishes: Wishes) -> Result<DaemonConfig, Failure> {
        let old = &self.settings;
        let io_timeout = wishes.io_timeout.or(old.io_timeout_s.map(Duration::from_secs));
        let disks = self.disks(wishes.disks, io_timeout.unwrap_or(IO_TIMEOUT))?;
        // What a start gave up is written down, unless nothing may be written.
        let again = old.read_only;
        let timeout = Duration::from_secs(old.hook_timeout_s).max(Duration::from_secs(1));
        let timeout = wishes.hook_timeout.unwrap_or(timeout);
        let program = wishes.hook.or(old.hook.clone().map(PathBuf::from));
        let hook = program.map(|program| HookConfig { program, timeout });
        Ok(DaemonConfig {
            name: self.name.clone(),
            disks,
            start: StartOptions {
                ack: wishes.ack.unwrap_or(old.ack),
                read_only: old.read_only,
                accept_missing: wishes.accept_missing || again && old.accept_missing,
                force: wishes.force || again && old.force,
                checksum_cache: wishes.checksum_cache.or(old.checksum_cache),
                io_timeout,
                rebuild_rate: wishes.rebuild_rate.or(old.rebuild_rate),
                scrub_every: old.scrub_every_s.map(Duration::from_secs),
            },
            ack: wishes.ack,
            via: old.via,
            socket: old.socket.clone().map(PathBuf::from),
            run_dir: place::run_dir(),
            foreground: wishes.foreground,
            hook,
            hand_over: true,
        })
    }

    /// The disks to start from: where the members are now, and what else of the array the old daemon
    /// knew or `more` names.
    fn disks(&self, more: Vec<PathBuf>, bound: Duration) -> Result<Vec<PathBuf>, Failure> {
        if self.status.state == State::Failed {
            let text = format!(
                "More members of \"{}\" are gone than it tolerates, so a new daemon could not start \
                 it. Nothing was changed; the old one goes on.",
                self.name
            );
            return Err(Failure::new(10, text));
        }
        let gone = [MemberState::Failed, MemberState::Missing, MemberState::Stale];
        let active = || self.status.members.iter().filter(|m| !gone.contains(&m.state));
        let now = active().map(|m| PathBuf::from(&m.path));
        let then = self.settings.disks.iter().cloned().map(PathBuf::from);
        let mut seen = HashSet::new();
        let all: Vec<PathBuf> =
            now.chain(then).chain(more).filter(|p| seen.insert(p.clone())).collect();
        let mut uuids = HashSet::new();
        let mut identities = HashSet::new();
        let mut disks = Vec::new();
        let mut errors = Vec::new();
        let read = find::superblocks_of(&all, bound);
        for (path, copies) in all.into_iter().zip(read) {
            let shown = path.display();
            let copies = match copies {
                Ok(copies) => copies,
                Err(e) => {
                    errors.push(format!("{shown}: {e}"));
                    continue;
                }
            };
            let own =
                find::counting(&copies).filter(|s| parse_uuid(&self.status.uuid) == Some(s.array));
            let why = find::unsupported(&copies).map(str::to_owned);
            let to_write = || own.filter(|_| !self.settings.read_only)?.read_only_because();
            if let Some(why) = why.or_else(to_write) {
                let text = format!(
                    "{shown} is a member that this program cannot take over: {why}. Nothing was \
                     changed; the daemon that runs goes on. Take over with a program that knows it."
                );
                return Err(Failure::new(17, text));
            }
            // What has another array by now, or none, or is there twice, is not for the new daemon.
            let Some(own) = own else { continue };
            let first = identity(&path).is_ok_and(|id| identities.insert(id));
            if first && uuids.insert(own.uuid()) {
                disks.push(path);
            }
        }
        let lost = active().find(|m| parse_uuid(&m.uuid).is_none_or(|u| !uuids.contains(&u)));
        if let Some(lost) = lost {
            let why =
                if errors.is_empty() { String::new() } else { format!(" ({})", errors.join("; ")) };
            let text = format!(
                "{} is in use by the daemon that runs, but this program does not find it{why}, so a new \
                 daemon would go on without it. Nothing was changed. Make it readable, or fail it \
                 first: evenkeel fail {} {}",
                lost.path, self.name, lost.path
            );
            return Err(Failure::new(1, text));
        }
        Ok(disks)
    }

    /// Says what became of the array after the new daemon did not start.
    fn explain(&self, e: &ArrayError, hint: &str) {
        eprintln!("evenkeel: {e}");
        if client::call(&place::run_dir(), &self.name, &Request::Status).is_ok() {
            eprintln!("evenkeel: Nothing was changed: the array is served as before.");
            return;
        }
        let waits = match self.settings.via {
            Via::Ublk => {
                format!("{} is there, mounted or not, and its requests wait", self.status.device)
            }
            Via::Nbd => "Clients can connect again when a daemon serves".to_owned(),
        };
        eprintln!(
            "evenkeel: The old daemon has left and no new one serves. Nothing that was acknowledged is \
             lost: it is on the members and in the ring in memory, as after kill -9, until this \
             machine restarts. {waits}. Remove the reason, or take the old program, and go on with: \
             {hint}"
        );
    }
}

fn cannot_hand_over(name: &str, why: &str) -> Failure {
    Failure::new(
        17,
        format!(
            "The daemon of \"{name}\" is of a version that cannot hand over to this one ({why}). \
             Nothing was changed. A daemon may be killed (kill -9) and started again, with its \
             device in use; nothing that was acknowledged is lost by that."
        ),
    )
}

fn ack_name(ack: Ack) -> &'static str {
    match ack {
        Ack::Cached => "cached",
        Ack::Durable => "durable",
    }
}

/// The start that goes on with what a takeover left.
fn hint(config: &DaemonConfig) -> String {
    let mut text = format!("evenkeel start {}", config.name);
    if config.via == Via::Nbd {
        text += &format!(" --via nbd --ack {}", ack_name(config.start.ack));
        if let Some(socket) = &config.socket {
            text += &format!(" --socket '{}'", socket.display());
        }
    }
    for (given, option) in [
        (config.start.read_only, " --read-only"),
        (config.start.accept_missing, " --accept-missing"),
        (config.start.force, " --force"),
    ] {
        text += if given { option } else { "" };
    }
    if let Some(t) = config.start.io_timeout {
        text += &format!(" --io-timeout {}", t.as_secs());
    }
    if let Some(bytes) = config.start.checksum_cache {
        text += &format!(" --checksum-cache {bytes}");
    }
    text
}
