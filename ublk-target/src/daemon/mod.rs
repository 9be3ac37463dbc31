//! What `evenkeel start` runs: it locks the members, starts the array, puts a front end before it
//! and serves until it is told to stop.
//!
//! - [`members`] opening and locking; [`pid_file`] one daemon an array and run directory;
//! - [`handover`] taking the array over from a daemon that runs;
//! - [`front`] the two front ends behind one face; [`gate`] what stands between them and the array;
//!   [`live`] the commands of the control socket;
//! - [`tell`] what the daemon in the background says to the process that started it; [`hook`] the
//!   program that is run on events.
//!
//! What must hold: `kill -9` at any instruction leaves something that the next start takes over.
//! A ublk device is remembered (RUN/NAME.ublk) before it is started, and waits for the next daemon
//! (P5); the members' locks end when the last write of the dead daemon has ended. The order of a
//! takeover: recovery begins, members are locked, log and ring are replayed, the queue is served,
//! recovery ends.

pub mod front;
pub mod gate;
pub mod handover;
pub mod hook;
pub mod live;
pub mod members;
pub mod pid_file;
pub mod tell;

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use evenkeel_journal::uring::engine::why_no_ring;
use evenkeel_journal::uring::{Access, Engine, UringWorld};
use evenkeel_journal::world::World;
use evenkeel_raid::hung::IO_TIMEOUT;
use evenkeel_raid::{Ack, Array, ArrayError, ErrorKind, Progress, StartOptions};

use serde::{Deserialize, Serialize};

use crate::control::Settings;
use crate::process;
use crate::ublk::record::parse_uuid;
use crate::{control, nbd, ublk};
use front::{Front, Served, Takeover};
use handover::Seat;
use hook::{Hook, HookConfig};
use live::Live;
use tell::Teller;

/// How long the locks of members are waited for: late writes of a dead daemon hold them.
const LOCK_PATIENCE: Duration = Duration::from_secs(20);

/// The front end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
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
    /// The program that is run on events.
    pub hook: Option<HookConfig>,
    /// Take the array over from the daemon that runs. Whether that can go well was looked at.
    pub hand_over: bool,
}

impl DaemonConfig {
    /// Where the NBD socket is.
    #[must_use]
    pub fn socket_path(&self) -> PathBuf {
        let default = || self.run_dir.join(format!("{}.nbd", self.name));
        self.socket.clone().unwrap_or_else(default)
    }

    /// Where the daemon in the background writes what it has to say.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.run_dir.join(format!("{}.log", self.name))
    }

    /// What the next daemon is told, this one acknowledging by `ack`.
    fn settings(&self, ack: Ack) -> Settings {
        Settings {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            via: self.via,
            socket: self.socket.clone().map(Into::into),
            ack,
            read_only: self.start.read_only,
            accept_missing: self.start.accept_missing,
            force: self.start.force,
            io_timeout_s: self.start.io_timeout.map(|t| t.as_secs()),
            checksum_cache: self.start.checksum_cache,
            rebuild_rate: self.start.rebuild_rate,
            scrub_every_s: self.start.scrub_every.map(|t| t.as_secs()),
            hook: self.hook.as_ref().map(|h| h.program.clone().into()),
            hook_timeout_s: self.hook.as_ref().map_or(0, |h| h.timeout.as_secs()),
            foreground: self.foreground,
            disks: self.disks.iter().cloned().map(Into::into).collect(),
        }
    }

    /// The same with paths that do not depend on the working directory.
    fn absolute(mut self) -> DaemonConfig {
        let absolute = |p: &mut PathBuf| {
            if let Ok(whole) = std::path::absolute(&*p) {
                *p = whole;
            }
        };
        self.disks.iter_mut().for_each(absolute);
        self.socket.iter_mut().for_each(absolute);
        self.hook.iter_mut().for_each(|h| absolute(&mut h.program));
        absolute(&mut self.run_dir);
        self
    }
}

pub(crate) fn failed(text: impl Into<String>) -> ArrayError {
    ArrayError::new(ErrorKind::Failed, text)
}

/// Runs the daemon. `ready` is called once, by the process that was started: with the device's or
/// socket's path when it serves, or with the reason why it does not. In the background that
/// process then gets its exit code here; the daemon itself does not return.
///
/// Without `foreground`, and with a hook, the process must have a single thread.
pub fn run(config: DaemonConfig, ready: impl FnOnce(Result<String, ArrayError>)) -> u8 {
    let config = config.absolute();
    if let Err(e) = prepare(&config) {
        let code = e.kind.exit_code();
        ready(Err(e));
        return code;
    }
    if config.foreground {
        return serve(&config, Teller::direct(ready));
    }
    match process::detach(&config.log_path()) {
        Ok(process::Half::Front(from)) => {
            let told = tell::listen(from, &config.log_path());
            let code = told.as_ref().map_or_else(|e| e.kind.exit_code(), |_| 0);
            ready(told);
            code
        }
        Ok(process::Half::Daemon(to)) => {
            std::process::exit(serve(&config, Teller::pipe(to)).into())
        }
        Err(e) => {
            ready(Err(failed(format!("The daemon cannot go into the background: {e}."))));
            ErrorKind::Failed.exit_code()
        }
    }
}

/// What can be refused before there is a daemon.
fn prepare(config: &DaemonConfig) -> Result<(), ArrayError> {
    if config.via == Via::Ublk && !ublk::is_there() {
        let text = "This kernel has no ublk, or it is not loaded. Load it with: modprobe \
                    ublk_drv. Or serve the array over a socket with: --via nbd.";
        return Err(ArrayError::new(ErrorKind::NoUblk, text));
    }
    if let Some(config) = &config.hook {
        hook::check(&config.program)?;
    }
    std::fs::create_dir_all(&config.run_dir).map_err(|e| {
        failed(format!(
            "The run directory {} cannot be made: {e}. $EVENKEEL_RUN_DIR names another. Nothing was \
             changed.",
            config.run_dir.display()
        ))
    })
}

/// The daemon itself. Its exit code.
fn serve(config: &DaemonConfig, mut teller: Teller<'_>) -> u8 {
    // First of all: it has nothing of what this process gets from here on.
    let hook = config.hook.as_ref().map(Hook::begin).transpose().map_err(|e| {
        failed(format!("The process that runs the program of --hook cannot be started: {e}."))
    });
    let started = hook.and_then(|hook| Ok((start(config, &teller)?, hook)));
    let end = match started {
        Ok(((engine, world, signals, seat), hook)) => {
            let Seat { pid_file, control, nbd, since } = seat;
            let parts = Parts { world, signals, control, nbd, since };
            let done = engine.block_on(live(config, &engine, parts, hook, &mut teller));
            // The ring goes with the process: what is in flight keeps its memory until then.
            std::mem::forget(engine);
            drop(pid_file);
            done
        }
        Err(e) => Err(e),
    };
    match end {
        Ok(code) => code,
        Err(e) => {
            let code = e.kind.exit_code();
            teller.failed(e);
            code
        }
    }
}

struct Parts {
    world: UringWorld,
    signals: OwnedFd,
    control: Option<UnixListener>,
    nbd: Option<UnixListener>,
    since: Option<Instant>,
}

/// Makes the process a daemon, and an engine in it.
fn start(
    config: &DaemonConfig,
    teller: &Teller<'_>,
) -> Result<(Engine, UringWorld, OwnedFd, Seat), ArrayError> {
    // Before anything else, so that of many starts the others end quickly; from a daemon that still
    // serves it is taken last.
    let free = if config.hand_over { None } else { Some(handover::take_seat(config, teller)?) };
    let signals = process::end_signals()
        .map_err(|e| failed(format!("Signals cannot be received on a descriptor: {e}.")))?;
    process::harden();
    let fixed = ["/", "/proc", "/sys", "/dev", "/dev/shm"].map(PathBuf::from);
    let mut needed = fixed.to_vec();
    needed.extend(config.disks.iter().cloned());
    needed.extend([config.run_dir.clone(), config.socket_path()]);
    let _ = std::env::set_current_dir("/");
    if let Err(e) = process::isolate(&needed) {
        teller.note(&format!(
            "Warning: no mount namespace of its own ({e}). A file system on this device must not \
             be mounted where this daemon runs."
        ));
    }
    let engine = match config.via {
        Via::Ublk => ublk::engine(),
        Via::Nbd => Engine::new(),
    };
    let engine = engine.map_err(|e| failed(why_no_ring(&e)))?;
    let world = engine.world(&config.run_dir).map_err(|e| {
        failed(format!("The run directory {} is not usable: {e}.", config.run_dir.display()))
    })?;
    let seat = free.map_or_else(|| handover::take_seat(config, teller), Ok)?;
    Ok((engine, world, signals, seat))
}

/// From the locks to the end of the daemon.
async fn live(
    config: &DaemonConfig,
    engine: &Engine,
    parts: Parts,
    hook: Option<Hook>,
    teller: &mut Teller<'_>,
) -> Result<u8, ArrayError> {
    let Parts { world, signals, control: listener, nbd: nbd_listener, since } = parts;
    let control = ublk::Control::start()
        .map_err(|e| failed(format!("The control thread cannot be started: {e}.")))?;
    let takeover = Takeover::begin(config, &control, teller).await?;
    let access = if config.start.read_only { Access::ReadOnly } else { Access::ReadWrite };
    let (patience, bound) = (LOCK_PATIENCE, config.start.io_timeout.unwrap_or(IO_TIMEOUT));
    let members = members::open(&world, &config.disks, access, patience, bound, teller).await?;
    let mut options = config.start;
    options.ack = takeover.ack().or(config.ack).unwrap_or(config.start.ack);
    let array = start_array(&world, &members, &options, teller).await?;
    // Disks that are no members of this start are free again: they may be added.
    drop(members);
    array.notices().iter().for_each(|n| teller.note(n));
    let status = array.status();
    let uuid = parse_uuid(&status.uuid)
        .ok_or_else(|| failed(format!("The array's UUID ({}) is none.", status.uuid)))?;
    if !options.read_only {
        world.sweep_rings(uuid);
    }

    let socket = control::socket_path(&config.run_dir, &config.name);
    let listener = listener.map_or_else(|| nbd::socket::listen(&socket), Ok);
    let listener = listener.map_err(|e| {
        failed(format!("The control socket {} cannot be made: {e}.", socket.display()))
    })?;
    let (size_bytes, served) = (array.size_bytes(), Served::new(array));
    let front = match config.via {
        Via::Ublk => {
            let params = ublk::DeviceParams {
                size_bytes,
                chunk_bytes: status.chunk_bytes,
                data: u64::from(status.data),
                ack: options.ack,
                read_only: options.read_only,
            };
            let asked = front::Asked { uuid, params, explicit_ack: config.ack };
            Front::ublk(config, engine, &control, takeover, &served, asked).await
        }
        Via::Nbd => Front::nbd(config, &world, &served, nbd_listener),
    };
    let front = match front {
        Ok(front) => front,
        Err(e) => {
            let _ = std::fs::remove_file(&socket);
            return Err(e);
        }
    };
    let path = front.path().to_owned();
    let live = Live::new(&world, served, options, front, hook, config);
    control::server::start(world.clone(), world.driver().clone(), listener, live.clone());
    live.obey(signals);
    live.tell_news();
    if let Some(since) = since {
        let ms = since.elapsed().as_millis();
        teller.note(&format!("Taken over from the daemon that ran: requests waited for {ms} ms."));
    }
    teller.ready(&path);
    let code = live.ended().await;
    if live.has_left() {
        process::vanish(code);
    }
    let _ = std::fs::remove_file(&socket);
    Ok(code)
}

async fn start_array(
    world: &UringWorld,
    members: &members::Members,
    options: &StartOptions,
    teller: &Teller<'_>,
) -> Result<Array<UringWorld>, ArrayError> {
    let said = Cell::new(world.now());
    let progress = |p: Progress| {
        let now = world.now();
        if now - said.get() >= Duration::from_secs(1) {
            said.set(now);
            let (what, done, all) = match p {
                Progress::ReadLog(done, all) => ("Reading the log", done, all),
                Progress::Replay(done, all) => ("Replaying the log", done, all),
                Progress::Parity(done, all) => ("Making the parity right", done, all),
            };
            teller.note(&format!("{what}: {} %", done.saturating_mul(100) / all.max(1)));
        }
    };
    Array::start(world, &members.disks, options, &progress).await.map_err(|e| {
        match (e.kind, members.held.first()) {
            (ErrorKind::TooFew, Some(path)) => ArrayError::new(
                ErrorKind::Held,
                format!("{} is held by another process. {}", path.display(), e.message),
            ),
            _ => e,
        }
    })
}

/// What `future` gives, or None if that takes longer than `limit`.
pub(crate) async fn within<F: std::future::Future>(
    world: &UringWorld,
    limit: Duration,
    future: F,
) -> Option<F::Output> {
    use std::future::Future;
    use std::task::Poll;
    let (mut future, mut timer) = (std::pin::pin!(future), std::pin::pin!(world.sleep(limit)));
    std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(out) => Poll::Ready(Some(out)),
        Poll::Pending => timer.as_mut().poll(cx).map(|()| None),
    })
    .await
}
