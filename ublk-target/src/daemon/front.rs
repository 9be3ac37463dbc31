//! The two front ends behind one face, and the takeover of a ublk device from a dead daemon.

use std::cell::{Cell, RefCell};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use evenkeel_journal::uring::{Engine, UringWorld};
use evenkeel_journal::world::World;
use evenkeel_raid::{Ack, Array, ArrayError, ErrorKind};

use super::gate::Gate;
use super::tell::Teller;
use super::{DaemonConfig, Via, failed, within};
use crate::nbd::{self, NbdServer, Patience, ServerConfig};
use crate::process::note;
use crate::ublk::device::{Found, path_of};
use crate::ublk::record::Record;
use crate::ublk::{Control, Device, DeviceParams, Queue};

/// How long STOP_DEV may take: it writes back what is dirty in the page cache.
const STOP_PATIENCE: Duration = Duration::from_secs(60);
/// How long DEL_DEV may take, once nothing holds the device any more.
const DELETE_PATIENCE: Duration = Duration::from_secs(10);
/// How long an NBD client may take to receive its last replies.
const LEAVE_PATIENCE: Duration = Duration::from_secs(5);
/// The same where they can come back at once, to the next daemon.
const PARTING_PATIENCE: Duration = Duration::from_secs(1);
/// How long it may take to have a device show another size.
const SIZE_PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take to quiesce a device.
const QUIESCE_PATIENCE: Duration = Duration::from_secs(5);
/// How old an answer to "is it in use?" may be.
const FRESH: Duration = Duration::from_millis(200);

/// What a front end serves: the array, or whichever takes its place.
pub type Served = Gate<Array<UringWorld>>;

/// A device whose daemon died and that this start goes on with.
pub struct Takeover(Option<Known>);

struct Known {
    id: u32,
    uuid: u128,
    ack: Ack,
    size_bytes: u64,
}

/// What a new device is to be like, or a recovered one is to have been.
pub struct Asked {
    /// UUID of the array.
    pub uuid: u128,
    /// Its parameters.
    pub params: DeviceParams,
    /// `--ack`, if it was given.
    pub explicit_ack: Option<Ack>,
}

fn ublk_error(what: &str, e: &std::io::Error) -> ArrayError {
    failed(format!("The ublk device could not be {what}: {e}."))
}

fn name_of(ack: Ack) -> &'static str {
    match ack {
        Ack::Cached => "cached",
        Ack::Durable => "durable",
    }
}

impl Takeover {
    /// Looks for the device of the last daemon and, if it waits for the next one, begins its
    /// recovery. Before members are locked.
    ///
    /// # Errors
    /// If what was asked for does not fit the device.
    pub async fn begin(
        config: &DaemonConfig,
        control: &Control,
        teller: &Teller<'_>,
    ) -> Result<Takeover, ArrayError> {
        let Some(record) = Record::load(&config.run_dir, &config.name) else {
            return Ok(Takeover(None));
        };
        let (id, Some(uuid)) = (record.ublk_id, record.uuid()) else { return Ok(Takeover(None)) };
        if !crate::ublk::is_there() {
            return Ok(Takeover(None));
        }
        let found = control.look(id, uuid).await.map_err(|e| ublk_error("looked at", &e))?;
        let path = path_of(id);
        let path = path.display();
        match found {
            None => {
                Record::forget(&config.run_dir, &config.name);
                Ok(Takeover(None))
            }
            Some(Found::Dead) => {
                let gone = control.delete_dead(id).await;
                gone.map_err(|e| ublk_error("deleted, though it was never started", &e))?;
                Record::forget(&config.run_dir, &config.name);
                Ok(Takeover(None))
            }
            Some(Found::InUse { .. }) if config.via == Via::Nbd => {
                if !config.start.force {
                    let text = format!(
                        "{path} waits for this array's daemon. Start it without --via nbd, or \
                         with --force to give that device up: who has it open loses what it did \
                         not flush."
                    );
                    return Err(failed(text));
                }
                let gone = control.delete_dead(id).await;
                gone.map_err(|e| ublk_error("given up", &e))?;
                Record::forget(&config.run_dir, &config.name);
                Ok(Takeover(None))
            }
            Some(Found::InUse { ack, read_only, size_bytes }) => {
                check_ack(id, ack, config.ack)?;
                if read_only != config.start.read_only {
                    let (is, asked) = if read_only { ("", "not ") } else { ("not ", "") };
                    let text = format!(
                        "{path} is {is}read-only and waits for this array's daemon, so the array \
                         cannot be started {asked}read-only before it was stopped."
                    );
                    return Err(ArrayError::new(ErrorKind::Usage, text));
                }
                teller.note(&format!("Taking over {path}."));
                let begun = control.begin_recovery(id).await;
                begun.map_err(|e| ublk_error("taken over from its last daemon", &e))?;
                Ok(Takeover(Some(Known { id, uuid, ack, size_bytes })))
            }
        }
    }

    /// How the device acknowledges; it keeps that.
    #[must_use]
    pub fn ack(&self) -> Option<Ack> {
        self.0.as_ref().map(|k| k.ack)
    }
}

fn check_ack(id: u32, is: Ack, asked: Option<Ack>) -> Result<(), ArrayError> {
    if asked.is_none_or(|a| a == is) {
        return Ok(());
    }
    let (path, is) = (path_of(id), name_of(is));
    let text = format!(
        "{} goes on with --ack {is}, which it was made with. Stop the array to change that.",
        path.display()
    );
    Err(ArrayError::new(ErrorKind::Usage, text))
}

struct Ublk {
    control: Control,
    device: RefCell<Option<Device>>,
    queue: RefCell<Option<Queue>>,
    run_dir: PathBuf,
    name: String,
    world: UringWorld,
    /// When it was last asked whether the device is in use, and the answer.
    busy: Cell<Option<(Duration, bool)>>,
    asking: Cell<bool>,
}

enum Kind {
    Ublk(Ublk),
    Nbd { server: NbdServer<UringWorld, Served>, socket: PathBuf },
}

/// What a front end shows of an array that has grown.
pub struct Shown {
    /// The size that whoever asks now is told, if it is known.
    pub bytes: Option<u64>,
    /// The same for people.
    pub sentence: String,
}

/// A front end that serves an array. Clones share it.
#[derive(Clone)]
pub struct Front {
    kind: Rc<Kind>,
    path: Rc<str>,
}

impl Front {
    /// A ublk device: the one taken over, or a new one.
    ///
    /// # Errors
    /// If the kernel refuses, or if the device taken over is another array's.
    pub async fn ublk(
        config: &DaemonConfig,
        engine: &Engine,
        control: &Control,
        takeover: Takeover,
        served: &Served,
        asked: Asked,
    ) -> Result<Front, ArrayError> {
        let device = match takeover.0 {
            Some(known) => recover(config, control, &known, &asked).await?,
            None => match search(control, &asked).await? {
                Some(known) => {
                    let begun = control.begin_recovery(known.id).await;
                    begun.map_err(|e| ublk_error("taken over from its last daemon", &e))?;
                    recover(config, control, &known, &asked).await?
                }
                None => {
                    let added = control.add(asked.uuid, asked.params).await;
                    added.map_err(|e| ublk_error("added", &e))?
                }
            },
        };
        // Remembered before it is started: from then on a dead daemon leaves it behind.
        let record = Record::new(asked.uuid, device.id);
        record.store(&config.run_dir, &config.name).map_err(|e| {
            failed(format!("{} cannot be written to: {e}.", config.run_dir.display()))
        })?;
        let queue = Queue::start(engine, &device, served).map_err(|e| ublk_error("served", &e))?;
        let started = control.start_device(&device).await;
        started.map_err(|e| ublk_error("started", &e))?;
        let (path, shown) = (device.path(), device.size_bytes());
        link(&config.name, &path);
        let world = engine.world(&config.run_dir);
        let world = world.map_err(|e| failed(format!("The run directory is gone: {e}.")))?;
        let kind = Kind::Ublk(Ublk {
            control: control.clone(),
            device: RefCell::new(Some(device)),
            queue: RefCell::new(Some(queue)),
            run_dir: config.run_dir.clone(),
            name: config.name.clone(),
            world,
            busy: Cell::new(None),
            asking: Cell::new(false),
        });
        let front = Front { kind: Rc::new(kind), path: path.display().to_string().into() };
        // Its last daemon ended when the array had grown and the device did not show it yet.
        if shown < asked.params.size_bytes {
            let sentence = front.show_size(asked.params.size_bytes).await.sentence;
            note(&format!("The array has grown to {} bytes. {sentence}", asked.params.size_bytes));
        }
        Ok(front)
    }

    /// An NBD server, on a socket that is there already or on a new one.
    ///
    /// # Errors
    /// If the socket cannot be made.
    pub fn nbd(
        config: &DaemonConfig,
        world: &UringWorld,
        served: &Served,
        listener: Option<UnixListener>,
    ) -> Result<Front, ArrayError> {
        let (socket, read_only) = (config.socket_path(), config.start.read_only);
        let cannot = |e| failed(format!("The socket {} cannot be made: {e}.", socket.display()));
        let listener = listener.map_or_else(|| nbd::socket::listen(&socket), Ok).map_err(cannot)?;
        let server_config =
            ServerConfig { name: config.name.clone(), read_only, patience: Patience::default() };
        let driver = world.driver().clone();
        let server =
            NbdServer::start(world.clone(), driver, listener, served.clone(), server_config);
        let path = socket.display().to_string().into();
        Ok(Front { kind: Rc::new(Kind::Nbd { server, socket }), path })
    }

    /// The device or the socket.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// `ublk` or `nbd`.
    #[must_use]
    pub fn via(&self) -> &'static str {
        match &*self.kind {
            Kind::Ublk(_) => "ublk",
            Kind::Nbd { .. } => "nbd",
        }
    }

    /// How many use it. For a ublk device that is 1 or 0, and 1 until it is known: ask again.
    #[must_use]
    pub fn open_count(&self) -> usize {
        let u = match &*self.kind {
            Kind::Nbd { server, .. } => return server.connections(),
            Kind::Ublk(u) => u,
        };
        let known = u.busy.get().filter(|(at, _)| u.world.now() - *at <= FRESH);
        if known.is_none() && !u.asking.replace(true) {
            let (kind, path) = (Rc::clone(&self.kind), PathBuf::from(&*self.path));
            let asked = u.control.is_busy(path);
            u.world.spawn("ask for users", async move {
                let busy = asked.await.unwrap_or(true);
                if let Kind::Ublk(u) = &*kind {
                    u.busy.set(Some((u.world.now(), busy)));
                    u.asking.set(false);
                }
            });
        }
        known.map_or(1, |(_, busy)| usize::from(busy))
    }

    /// The array has grown to so many bytes: shows that, as far as whoever uses it can be told.
    pub async fn show_size(&self, bytes: u64) -> Shown {
        let u = match &*self.kind {
            Kind::Ublk(u) => u,
            Kind::Nbd { server, .. } => {
                let mut sentence =
                    "NBD clients that connect from now on are told the new size.".to_owned();
                if server.connections() > 0 {
                    sentence += " Those that are connected know the old one until they connect \
                                 again.";
                }
                return Shown { bytes: Some(bytes), sentence };
            }
        };
        let path = &self.path;
        let later = "the new size after the next stop and start of the array";
        match within(&u.world, SIZE_PATIENCE, u.control.show_size(bytes)).await {
            Some(Ok(shown)) if shown == bytes => Shown {
                bytes: Some(shown),
                sentence: format!(
                    "{path} shows it. A file system on it may be made larger now, also while it is \
                     mounted."
                ),
            },
            Some(Ok(shown)) => Shown {
                bytes: Some(shown),
                sentence: format!(
                    "This kernel cannot make a ublk device larger that is there already (Linux 6.16 \
                     and later can): {path} shows {shown} bytes for now, and {later}."
                ),
            },
            Some(Err(e)) => Shown {
                bytes: None,
                sentence: format!("{path} could not be made larger ({e}): it shows {later}."),
            },
            None => Shown {
                bytes: None,
                sentence: format!("{path} was not made larger in time: it shows {later}."),
            },
        }
    }

    /// Takes no more requests, for the next daemon: nothing is taken away from it. Requests under
    /// way are done or left to it, by how far they get in a short time.
    pub async fn leave(&self, world: &UringWorld) {
        match &*self.kind {
            Kind::Nbd { server, .. } => {
                within(world, PARTING_PATIENCE * 2, server.close(PARTING_PATIENCE)).await;
            }
            // Where the kernel cannot, or not in time, the end of the process does the same.
            Kind::Ublk(u) => {
                match within(world, QUIESCE_PATIENCE, u.control.quiesce_device()).await {
                    Some(Ok(true)) => note(&format!("{} is quiesced.", self.path)),
                    Some(Ok(false)) => {}
                    Some(Err(e)) => note(&format!("{} could not be quiesced: {e}.", self.path)),
                    None => note(&format!("{} could not be quiesced in time.", self.path)),
                }
            }
        }
    }

    /// Takes no more requests and ends when those under way are done.
    ///
    /// # Errors
    /// If that takes too long; then some may still be under way.
    pub async fn stop(&self, world: &UringWorld) -> Result<(), ArrayError> {
        let u = match &*self.kind {
            Kind::Nbd { server, socket } => {
                let done = within(world, LEAVE_PATIENCE * 2, server.close(LEAVE_PATIENCE)).await;
                let _ = std::fs::remove_file(socket);
                return done.ok_or_else(|| failed("NBD clients' requests did not end."));
            }
            Kind::Ublk(u) => u,
        };
        let stopped = within(world, STOP_PATIENCE, u.control.stop_device()).await;
        let late = || failed("The device's requests did not end, so it was not stopped.");
        stopped.ok_or_else(late)?.map_err(|e| ublk_error("stopped", &e))?;
        let queue = u.queue.borrow_mut().take();
        if let Some(queue) = queue {
            queue.close(world).await;
        }
        u.device.borrow_mut().take();
        Ok(())
    }

    /// Forgets a front end that was stopped.
    pub async fn remove(&self, world: &UringWorld) {
        let Kind::Ublk(u) = &*self.kind else { return };
        unlink(&u.name);
        match within(world, DELETE_PATIENCE, u.control.delete_device()).await {
            Some(Ok(())) => Record::forget(&u.run_dir, &u.name),
            // The next start finds it dead and deletes it.
            Some(Err(e)) => note(&format!("{} could not be deleted: {e}.", self.path)),
            None => note(&format!("{} could not be deleted: it is still held.", self.path)),
        }
    }
}

async fn recover(
    config: &DaemonConfig,
    control: &Control,
    known: &Known,
    asked: &Asked,
) -> Result<Device, ArrayError> {
    let path = path_of(known.id);
    let path = path.display();
    if known.uuid != asked.uuid {
        let text = format!(
            "{path} waits for the daemon of another array that was called \"{}\", too.",
            config.name
        );
        return Err(ArrayError::new(ErrorKind::Foreign, text));
    }
    // One that is smaller is of before the array grew.
    if known.size_bytes > asked.params.size_bytes {
        let (is, has) = (known.size_bytes, asked.params.size_bytes);
        let text = format!("{path} has {is} bytes, but the array has {has}.");
        return Err(failed(text));
    }
    control.open_recovered().await.map_err(|e| ublk_error("opened again", &e))
}

/// Looks for devices of this array that the run directory does not know of. Those that serve
/// nobody are deleted; the array's locks are held, so nobody is about to start them.
async fn search(control: &Control, asked: &Asked) -> Result<Option<Known>, ArrayError> {
    let all = control.search(asked.uuid).await.map_err(|e| ublk_error("looked for", &e))?;
    let mut known = None;
    for (id, found) in all {
        match found {
            Found::Dead => {
                if let Err(e) = control.delete_dead(id).await {
                    note(&format!("{} could not be deleted: {e}.", path_of(id).display()));
                }
            }
            Found::InUse { ack, size_bytes, .. } => {
                check_ack(id, ack, asked.explicit_ack)?;
                check_ack(id, ack, Some(asked.params.ack))?;
                known = Some(Known { id, uuid: asked.uuid, ack, size_bytes });
            }
        }
    }
    Ok(known)
}

const LINKS: &str = "/dev/evenkeel";

/// `/dev/evenkeel/NAME`. The device is as good without.
fn link(name: &str, device: &Path) {
    let Some(file) = device.file_name() else { return };
    let made = std::fs::create_dir_all(LINKS).and_then(|()| {
        let (draft, path) = (format!("{LINKS}/.{name}.new"), format!("{LINKS}/{name}"));
        let _ = std::fs::remove_file(&draft);
        std::os::unix::fs::symlink(Path::new("..").join(file), &draft)?;
        std::fs::rename(draft, path)
    });
    if let Err(e) = made {
        note(&format!("Warning: {LINKS}/{name} could not be made: {e}."));
    }
}

fn unlink(name: &str) {
    let _ = std::fs::remove_file(format!("{LINKS}/{name}"));
}
