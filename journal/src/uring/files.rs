//! The ring's two tables: files, so that an operation need not look its descriptor up, and
//! registered memory, so that the kernel need not pin pages for each operation.
//!
//! What must hold: a place in a table is given up only when nothing new will name it; operations
//! already submitted keep what they named. Both tables are help, never a need: where the kernel
//! refuses them (a limit on locked memory), operations name descriptors and addresses.
//!
//! libublk registers a file table of its own when its queue is made and unregisters whatever is
//! there when the queue is dropped. Around the first, call [`Driver::suspend_files`] and
//! [`Driver::resume_files`] (its file 0 is the char device); after the second, `resume_files`.

use std::any::Any;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;

use super::driver::Driver;

/// Places in the file table.
const FILES: u32 = 512;
/// Places in the table of registered memory, and the most that one place can hold.
const REGIONS: usize = 64;
const REGION_MAX: usize = 1 << 30;

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Table {
    #[default]
    Unknown,
    Registered,
    /// Refused by the kernel, or suspended.
    Absent,
}

#[derive(Default)]
pub(super) struct Tables {
    files: Table,
    /// Place 0 is libublk's.
    fds: Vec<Option<RawFd>>,
    regions: Table,
    /// Address and length of each place in use.
    memory: Vec<Option<(usize, usize)>>,
}

/// How an operation names a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Target {
    Plain(RawFd),
    Fixed(u32),
}

/// An open file known to the ring.
pub(super) struct RingFile {
    driver: Driver,
    fd: OwnedFd,
    place: Option<u32>,
}

impl RingFile {
    pub(super) fn new(driver: &Driver, fd: OwnedFd) -> RingFile {
        let place = driver.add_file(fd.as_raw_fd());
        RingFile { driver: driver.clone(), fd, place }
    }

    pub(super) fn driver(&self) -> &Driver {
        &self.driver
    }

    pub(super) fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    pub(super) fn target(&self) -> Target {
        match self.place {
            Some(i) if self.driver.0.tables.borrow().files == Table::Registered => Target::Fixed(i),
            _ => Target::Plain(self.fd.as_raw_fd()),
        }
    }
}

impl Drop for RingFile {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.driver.remove_file(place);
        }
    }
}

/// Memory registered with the ring, until dropped. It keeps the memory.
pub struct Region {
    driver: Driver,
    places: Vec<usize>,
    _memory: Rc<dyn Any>,
}

impl Drop for Region {
    fn drop(&mut self) {
        for place in &self.places {
            self.driver.0.tables.borrow_mut().memory[*place] = None;
            let none = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
            // SAFETY: an empty entry names no memory. A failure leaves the pages pinned, no more.
            let _ = self.driver.with_ring(|ring| unsafe {
                ring.submitter().register_buffers_update(*place as u32, &[none], None)
            });
        }
    }
}

impl Driver {
    fn add_file(&self, fd: RawFd) -> Option<u32> {
        let mut t = self.0.tables.borrow_mut();
        if t.files == Table::Unknown {
            t.fds = vec![None; FILES as usize];
            let made = self.with_ring(|ring| ring.submitter().register_files_sparse(FILES));
            t.files = if made.is_ok() { Table::Registered } else { Table::Absent };
        }
        let place = t.fds.iter().skip(1).position(Option::is_none)? + 1;
        if t.files == Table::Registered {
            let update = |ring: &mut io_uring::IoUring| {
                ring.submitter().register_files_update(place as u32, &[fd])
            };
            self.with_ring(update).ok()?;
        }
        t.fds[place] = Some(fd);
        Some(place as u32)
    }

    fn remove_file(&self, place: u32) {
        let mut t = self.0.tables.borrow_mut();
        t.fds[place as usize] = None;
        if t.files == Table::Registered {
            let _ = self.with_ring(|ring| ring.submitter().register_files_update(place, &[-1]));
        }
    }

    /// Unregisters the file table so that somebody else can register one. Operations issued until
    /// [`Driver::resume_files`] name plain descriptors.
    pub fn suspend_files(&self) {
        let mut t = self.0.tables.borrow_mut();
        if t.files != Table::Registered {
            return;
        }
        t.files = Table::Absent;
        self.with_ring(|ring| {
            // What is queued names places in the table: the kernel must have seen it before.
            while !ring.submission().is_empty() && ring.submit().is_ok() {}
            let _ = ring.submitter().unregister_files();
        });
    }

    /// Registers the file table again, in the place of whatever table is there, with `first` as
    /// its file 0. Whether it was registered.
    pub fn resume_files(&self, first: Option<RawFd>) -> bool {
        let mut t = self.0.tables.borrow_mut();
        if t.fds.is_empty() {
            t.fds = vec![None; FILES as usize];
        }
        let mut fds: Vec<RawFd> = t.fds.iter().map(|f| f.unwrap_or(-1)).collect();
        fds[0] = first.unwrap_or(-1);
        let made = self.with_ring(|ring| {
            while !ring.submission().is_empty() && ring.submit().is_ok() {}
            let _ = ring.submitter().unregister_files();
            ring.submitter().register_files(&fds)
        });
        t.files = if made.is_ok() { Table::Registered } else { Table::Absent };
        made.is_ok()
    }

    /// Registers memory. None where the kernel refuses; it works without.
    ///
    /// # Safety
    /// `at..at+len` is valid and stays put while `memory` lives.
    #[must_use]
    pub unsafe fn register(&self, at: *mut u8, len: usize, memory: Rc<dyn Any>) -> Option<Region> {
        let mut region = Region { driver: self.clone(), places: Vec::new(), _memory: memory };
        if self.0.tables.borrow().regions == Table::Unknown {
            let made =
                self.with_ring(|ring| ring.submitter().register_buffers_sparse(REGIONS as u32));
            let mut t = self.0.tables.borrow_mut();
            t.memory = vec![None; REGIONS];
            t.regions = if made.is_ok() { Table::Registered } else { Table::Absent };
        }
        if self.0.tables.borrow().regions != Table::Registered {
            return None;
        }
        for from in (0..len).step_by(REGION_MAX) {
            let iov = libc::iovec {
                iov_base: at.wrapping_add(from).cast(),
                iov_len: (len - from).min(REGION_MAX),
            };
            let mut t = self.0.tables.borrow_mut();
            let place = t.memory.iter().position(Option::is_none)?;
            // SAFETY: valid memory (the caller's word); `region` keeps it until it is unregistered.
            let done = self.with_ring(|ring| unsafe {
                ring.submitter().register_buffers_update(place as u32, &[iov], None)
            });
            done.ok()?;
            t.memory[place] = Some((iov.iov_base as usize, iov.iov_len));
            region.places.push(place);
        }
        Some(region)
    }

    /// The place in the table whose memory holds all of `at..at+len`.
    pub(super) fn region_of(&self, at: *const u8, len: usize) -> Option<u16> {
        let at = at as usize;
        let t = self.0.tables.borrow();
        let holds = |m: &Option<(usize, usize)>| {
            m.is_some_and(|(from, bytes)| at >= from && at + len <= from + bytes)
        };
        t.memory.iter().position(holds).map(|i| i as u16)
    }
}

impl std::fmt::Debug for Region {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Region({} places)", self.places.len())
    }
}
