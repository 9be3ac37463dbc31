//! The production world: this machine's clock, randomness, boot, run directory and shared memory.

use std::cell::RefCell;
use std::fs::OpenOptions;
use std::future::Future;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::driver::Driver;
use super::executor::Executor;
use super::{ShmRing, UringDisk, shm_ring};
use crate::world::{RunIdentity, World};

struct Inner {
    executor: Executor,
    driver: Driver,
    identity: RunIdentity,
    rings: PathBuf,
    /// Random words that were fetched and not yet given out.
    random: RefCell<Vec<u64>>,
}

/// The world of one engine thread. Clones share it.
#[derive(Clone)]
pub struct UringWorld(Rc<Inner>);

impl UringWorld {
    /// The world of this run directory, which is made if it is missing.
    ///
    /// # Errors
    /// If the run directory's identity can be neither read nor made.
    pub fn new(executor: &Executor, driver: &Driver, run_dir: &Path) -> io::Result<UringWorld> {
        let run_dir = run_dir_identity(run_dir)?;
        let identity = RunIdentity { boot: boot()?, run_dir, host: host() };
        Ok(UringWorld(Rc::new(Inner {
            executor: executor.clone(),
            driver: driver.clone(),
            identity,
            rings: shm_ring::directory(identity.run_dir),
            random: RefCell::default(),
        })))
    }

    /// The operations of this world.
    #[must_use]
    pub fn driver(&self) -> &Driver {
        &self.0.driver
    }

    /// See [`ShmRing::sweep`].
    pub fn sweep_rings(&self, array: u128) {
        ShmRing::sweep(&self.0.rings, array);
    }

    /// The tasks of this world.
    #[must_use]
    pub fn executor(&self) -> &Executor {
        &self.0.executor
    }
}

impl World for UringWorld {
    type Disk = UringDisk;
    type Ring = ShmRing;

    fn now(&self) -> Duration {
        let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: room for one timespec. CLOCK_MONOTONIC cannot fail.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut t) };
        Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
    }

    fn wall_clock(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
    }

    fn sleep(&self, d: Duration) -> impl Future<Output = ()> + 'static {
        self.0.driver.sleep(d)
    }

    fn random(&self) -> u64 {
        let mut words = self.0.random.borrow_mut();
        if words.is_empty() {
            let mut bytes = [0u8; 256];
            random_bytes(&mut bytes);
            words.extend(bytes.as_chunks::<8>().0.iter().map(|w| u64::from_ne_bytes(*w)));
        }
        words.pop().unwrap_or_default()
    }

    fn spawn(&self, _name: &'static str, task: impl Future<Output = ()> + 'static) {
        self.0.executor.spawn(task);
    }

    fn identity(&self) -> RunIdentity {
        self.0.identity
    }

    fn reopen(&self, disk: &UringDisk) -> impl Future<Output = Option<UringDisk>> + 'static {
        disk.again(&self.0.driver)
    }

    fn open_ring(&self, id: u128) -> io::Result<Option<ShmRing>> {
        ShmRing::open(&self.0.driver, &self.0.rings, id)
    }

    fn create_ring(&self, id: u128, bytes: usize) -> io::Result<ShmRing> {
        ShmRing::create(&self.0.driver, &self.0.rings, id, bytes)
    }

    fn remove_ring(&self, id: u128) -> io::Result<()> {
        ShmRing::remove(&self.0.rings, id)
    }
}

/// Fills `bytes` at random. Identities depend on it, so there is no going on without.
fn random_bytes(bytes: &mut [u8]) {
    let mut at = 0;
    while at < bytes.len() {
        let rest = &mut bytes[at..];
        // SAFETY: room for as many bytes as said.
        let n = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match usize::try_from(n) {
            Ok(n) => at += n,
            Err(_) => {
                let e = io::Error::last_os_error();
                assert!(e.kind() == io::ErrorKind::Interrupted, "getrandom: {e}");
            }
        }
    }
}

fn boot() -> io::Result<u128> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
    u128::from_str_radix(&digits, 16).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// This machine: made of /etc/machine-id, which is not to be shown itself. 0 where there is none,
/// or the one of a system that was not set up yet.
fn host() -> u128 {
    let Ok(text) = std::fs::read_to_string("/etc/machine-id") else { return 0 };
    host_of(text.trim())
}

fn host_of(machine_id: &str) -> u128 {
    if machine_id.len() != 32 || u128::from_str_radix(machine_id, 16).is_err() {
        return 0;
    }
    (0..4).fold(0, |id, i| {
        let part = crc32c::crc32c(format!("evenkeel host {i} {machine_id}").as_bytes());
        id << 32 | u128::from(part)
    })
}

/// The random identity in RUN/identity, made if it is missing. Whoever makes it first wins; it
/// appears whole or not at all.
fn run_dir_identity(run_dir: &Path) -> io::Result<u128> {
    std::fs::create_dir_all(run_dir)?;
    let path = run_dir.join("identity");
    if let Err(e) = std::fs::metadata(&path) {
        if e.kind() != io::ErrorKind::NotFound {
            return Err(e);
        }
        let mut id = [0u8; 16];
        random_bytes(&mut id);
        let id = u128::from_ne_bytes(id);
        let draft = run_dir.join(format!("identity.{}.{id:032x}", std::process::id()));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&draft)?;
        let made = writeln!(file, "{id:032x}")
            .and_then(|()| file.sync_all())
            .and_then(|()| std::fs::hard_link(&draft, &path));
        std::fs::remove_file(&draft)?;
        match made {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
    }
    let mut text = String::new();
    OpenOptions::new().read(true).open(&path)?.take(64).read_to_string(&mut text)?;
    u128::from_str_radix(text.trim(), 16).map_err(|_| {
        let message = format!("{} holds no identity (32 hexadecimal digits)", path.display());
        io::Error::new(io::ErrorKind::InvalidData, message)
    })
}

#[cfg(test)]
mod tests {
    use super::host_of;

    #[test]
    fn machines_are_told_apart_and_none_has_no_identity() {
        let (a, b) = ("0123456789abcdef0123456789abcdef", "0123456789abcdef0123456789abcdee");
        assert_ne!(host_of(a), 0);
        assert_eq!(host_of(a), host_of(a));
        assert_ne!(host_of(a), host_of(b));
        for none in ["", "uninitialized", "0123", &"g".repeat(32)] {
            assert_eq!(host_of(none), 0, "{none}");
        }
    }
}
