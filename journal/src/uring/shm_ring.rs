//! Ring memory in shared memory: it survives the process, not the machine (P5).
//!
//! A ring is a file `ring-ID` in a directory of its run directory's own in /dev/shm. It gets its
//! name only when all its memory is there, so that nobody finds half a ring and no store can fail
//! (SIGBUS) later. What must hold: one process at a time maps it for writing; the lock on its
//! descriptor sees to that.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::driver::Driver;
use super::files::Region;
use crate::mem::Slice;
use crate::ring::RING_MAGIC;
use crate::world::RingMem;

struct Map {
    at: NonNull<u8>,
    len: usize,
    /// Holds the lock.
    _file: File,
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: mapped by `ShmRing::map` with this length; no slice is left (they keep the Rc).
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.len) };
    }
}

/// A ring in shared memory. Clones share it.
#[derive(Clone)]
pub struct ShmRing {
    map: Rc<Map>,
    _region: Option<Rc<Region>>,
}

/// Where the rings of a run directory lie.
#[must_use]
pub fn directory(run_dir_identity: u128) -> PathBuf {
    PathBuf::from(format!("/dev/shm/evenkeel-{run_dir_identity:032x}"))
}

fn file_of(dir: &Path, id: u128) -> PathBuf {
    dir.join(format!("ring-{id:032x}"))
}

fn os(rc: libc::c_int) -> io::Result<()> {
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn lock(file: &File) -> io::Result<()> {
    // SAFETY: an open descriptor.
    os(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) })
}

impl ShmRing {
    /// A new ring of `bytes` zeros.
    ///
    /// # Errors
    /// If it exists, or if the memory cannot be had.
    pub fn create(driver: &Driver, dir: &Path, id: u128, bytes: usize) -> io::Result<ShmRing> {
        let _ = DirBuilder::new().mode(0o700).create(dir);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_TMPFILE | libc::O_CLOEXEC)
            .mode(0o600)
            .open(dir)?;
        lock(&file)?;
        let len =
            libc::off_t::try_from(bytes).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
        file.set_len(bytes as u64)?;
        // SAFETY: an open descriptor; the call returns an errno.
        match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, len) } {
            0 => {}
            errno => return Err(io::Error::from_raw_os_error(errno)),
        }
        let ring = ShmRing::map(driver, &file, bytes)?;
        // Only now does it get a name. A name that is taken is an error (EEXIST).
        let from = std::ffi::CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        let to = file_of(dir, id).into_os_string().into_encoded_bytes();
        let to = std::ffi::CString::new(to)?;
        let (cwd, follow) = (libc::AT_FDCWD, libc::AT_SYMLINK_FOLLOW);
        // SAFETY: two strings that end in zero.
        os(unsafe { libc::linkat(cwd, from.as_ptr(), cwd, to.as_ptr(), follow) })?;
        Ok(ring)
    }

    /// The ring with this identity, if there is one.
    ///
    /// # Errors
    /// If another process holds it (`WouldBlock`), or if it cannot be mapped.
    pub fn open(driver: &Driver, dir: &Path, id: u128) -> io::Result<Option<ShmRing>> {
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(file_of(dir, id));
        let file = match opened {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        lock(&file)?;
        let bytes = usize::try_from(file.metadata()?.len())
            .map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
        Ok(Some(ShmRing::map(driver, &file, bytes)?))
    }

    /// Removes the name; the memory goes with its last user.
    ///
    /// # Errors
    /// What the kernel says. A ring that does not exist is no error.
    pub fn remove(dir: &Path, id: u128) -> io::Result<()> {
        match std::fs::remove_file(file_of(dir, id)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        // The folder goes with its last ring.
        let _ = std::fs::remove_dir(dir);
        Ok(())
    }

    /// Removes the rings of `array` that no process holds, and those that a dead process had made
    /// and not yet formatted. For a daemon that holds the array and whose own ring is named in the
    /// superblocks: no other ring of that array counts any more.
    pub fn sweep(dir: &Path, array: u128) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(file) = File::options().read(true).write(true).open(entry.path()) else {
                continue;
            };
            let mut head = [0u8; 32];
            let read = std::os::unix::fs::FileExt::read_exact_at(&file, &mut head, 0);
            let formatted = head[..8] == RING_MAGIC;
            let ours = head[16..] == array.to_le_bytes();
            if lock(&file).is_ok() && read.is_ok() && (ours || !formatted) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    fn map(driver: &Driver, file: &File, bytes: usize) -> io::Result<ShmRing> {
        let file = file.try_clone()?;
        // SAFETY: a new mapping wherever the kernel likes; checked below.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                file.as_raw_fd(),
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let at = NonNull::new(at.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let map = Rc::new(Map { at, len: bytes, _file: file });
        // SAFETY: mapped as long as the map lives, which the region keeps.
        let region = unsafe { driver.register(at.as_ptr(), bytes, Rc::clone(&map) as _) };
        Ok(ShmRing { map, _region: region.map(Rc::new) })
    }

    fn place(&self, at: usize, len: usize) -> NonNull<u8> {
        let end = at.checked_add(len);
        assert!(end.is_some_and(|end| end <= self.map.len), "outside the ring");
        // SAFETY: inside the mapping (asserted).
        unsafe { self.map.at.add(at) }
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8), "a word of the ring is aligned");
        // SAFETY: 8 mapped bytes, aligned (asserted; the mapping is page-aligned). Words and
        // places do not overlap by the ring's layout, and a word is only ever reached atomically.
        unsafe { AtomicU64::from_ptr(self.place(at, 8).as_ptr().cast()) }
    }
}

impl RingMem for ShmRing {
    fn bytes(&self) -> usize {
        self.map.len
    }

    fn store(&self, at: usize, bytes: &[u8]) {
        let to = self.place(at, bytes.len());
        // SAFETY: mapped and long enough (place); `bytes` may lie in the ring itself, hence copy,
        // not copy_nonoverlapping. Nobody else looks at the range meanwhile (RingMem).
        unsafe { std::ptr::copy(bytes.as_ptr(), to.as_ptr(), bytes.len()) };
    }

    fn store_u64(&self, at: usize, value: u64) {
        self.word(at).store(value.to_le(), Ordering::Release);
    }

    fn load_u64(&self, at: usize) -> u64 {
        u64::from_le(self.word(at).load(Ordering::Acquire))
    }

    fn slice(&self, at: usize, len: usize) -> Slice {
        let place = self.place(at, len);
        // SAFETY: mapped as long as the map lives, which the slice keeps; that it does not change
        // is the caller's part (RingMem).
        unsafe { Slice::lent(place, len, Rc::clone(&self.map) as Rc<dyn std::any::Any>) }
    }
}
