//! The memory of the tags: 1 MiB each, in one region that the ring knows.
//!
//! What must hold: a tag's buffer is used for the next request only if nobody holds any of it. A
//! read or write that hangs on a member keeps it (I4), and whole stripes keep it until the members
//! are flushed (I7); the tag then goes on with a spare. Spares are used again and not given back.
//! When `HELD_MAX` are held, writes are copied, so that only as much is kept as they are long.

use std::any::Any;
use std::io;
use std::ptr::NonNull;
use std::rc::Rc;

use evenkeel_journal::uring::Driver;
use evenkeel_journal::uring::files::Region;
use evenkeel_journal::{Buf, Slice};

/// Buffers that may be held after their requests have ended, before writes are copied.
const HELD_MAX: usize = 256;

/// Pages mapped for all tags together.
struct Pages {
    at: NonNull<u8>,
    len: usize,
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: mapped by `Pool::new` with this length; nobody points to it any more (places
        // keep the Rc that this is dropped with).
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.len) };
    }
}

/// One tag's memory. Whoever uses part of it keeps the Rc.
struct Place {
    at: NonNull<u8>,
    _pages: Rc<dyn Any>,
}

/// Buffers of one size, for all tags and as spares.
pub struct Pool {
    bytes: usize,
    free: Vec<Rc<Place>>,
    /// Places that were still in use when their tag went on.
    held: Vec<Rc<Place>>,
    _region: Option<Region>,
}

impl Pool {
    /// `count` buffers of `bytes` each, resident and registered with the ring.
    ///
    /// # Errors
    /// If the memory cannot be had.
    pub fn new(driver: &Driver, count: usize, bytes: usize) -> io::Result<Pool> {
        let len = count * bytes;
        // SAFETY: a new mapping wherever the kernel likes; checked below.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE,
                -1,
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let at = NonNull::new(at.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let pages: Rc<dyn Any> = Rc::new(Pages { at, len });
        let free = (0..count).rev().map(|i| {
            // SAFETY: inside the mapping, which is count × bytes long.
            Rc::new(Place { at: unsafe { at.add(i * bytes) }, _pages: Rc::clone(&pages) })
        });
        let free = free.collect();
        // SAFETY: mapped as long as `pages` lives, which the region keeps.
        let region = unsafe { driver.register(at.as_ptr(), len, pages) };
        Ok(Pool { bytes, free, held: Vec::new(), _region: region })
    }

    /// A buffer that nobody uses.
    pub fn take(&mut self) -> TagBuffer {
        if let Some(i) = self.held.iter().position(|p| Rc::strong_count(p) == 1) {
            self.free.push(self.held.swap_remove(i));
        }
        let place = self.free.pop().unwrap_or_else(|| {
            let spare = Buf::zeroed(self.bytes);
            let at = NonNull::new(spare.as_ptr()).unwrap_or(NonNull::dangling());
            Rc::new(Place { at, _pages: Rc::new(spare) })
        });
        TagBuffer { place, bytes: self.bytes }
    }

    /// Whether so many buffers are held that no more should be.
    pub fn is_crowded(&mut self) -> bool {
        if self.held.len() >= HELD_MAX {
            let held = std::mem::take(&mut self.held);
            let (free, held) = held.into_iter().partition(|p| Rc::strong_count(p) == 1);
            self.held = held;
            let free: Vec<_> = free;
            self.free.extend(free);
        }
        self.held.len() >= HELD_MAX
    }

    /// Gives a buffer back that others may still hold.
    pub fn put(&mut self, buffer: TagBuffer) {
        if buffer.is_free() {
            self.free.push(buffer.place);
        } else {
            self.held.push(buffer.place);
        }
    }
}

/// The buffer of one tag.
pub struct TagBuffer {
    place: Rc<Place>,
    bytes: usize,
}

impl TagBuffer {
    /// Its address.
    #[must_use]
    pub fn address(&self) -> *const u8 {
        self.place.at.as_ptr()
    }

    /// Whether nobody else holds any of it.
    #[must_use]
    pub fn is_free(&self) -> bool {
        Rc::strong_count(&self.place) == 1
    }

    /// Its first `len` bytes, to be written to. None if somebody holds any of it, or if it is
    /// shorter.
    #[must_use]
    pub fn target(&self, len: usize) -> Option<Buf> {
        if !self.is_free() || len > self.bytes {
            return None;
        }
        // SAFETY: valid while the place lives; free, so nobody reads or writes it, and nobody
        // will before it is free again.
        Some(unsafe { Buf::lent(self.place.at, len, Rc::clone(&self.place) as Rc<dyn Any>) })
    }

    /// Its first `len` bytes, as they are now. None if it is shorter.
    #[must_use]
    pub fn source(&self, len: usize) -> Option<Slice> {
        // SAFETY: valid while the place lives; its content does not change before it is free.
        (len <= self.bytes).then(|| unsafe {
            Slice::lent(self.place.at, len, Rc::clone(&self.place) as Rc<dyn Any>)
        })
    }

    /// Copies `bytes` to its beginning. The caller has made sure that it is free.
    pub fn fill(&mut self, bytes: &[u8]) {
        if let Some(mut to) = self.target(bytes.len()) {
            to.copy_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evenkeel_journal::uring::Engine;

    #[test]
    fn a_buffer_that_is_held_is_not_used_again() {
        let e = Engine::new().expect("a ring");
        let mut pool = Pool::new(e.driver(), 2, 8192).expect("memory");
        let (mut a, b) = (pool.take(), pool.take());
        a.fill(&[7; 100]);
        let slice = a.source(100).expect("it fits");
        assert!(!a.is_free() && a.target(10).is_none() && a.source(8193).is_none());
        let was = a.address();
        pool.put(a);
        let c = pool.take();
        assert!(c.address() != was && c.address() != b.address(), "a spare");
        assert!(slice.iter().all(|x| *x == 7));
        drop(slice);
        assert_eq!(pool.take().address(), was, "free again");
    }

    #[test]
    fn only_so_many_are_held() {
        let e = Engine::new().expect("a ring");
        let mut pool = Pool::new(e.driver(), 1, 4096).expect("memory");
        let mut slices = Vec::new();
        while !pool.is_crowded() {
            let buffer = pool.take();
            slices.push(buffer.source(4096).expect("it fits"));
            pool.put(buffer);
        }
        assert_eq!(slices.len(), HELD_MAX);
        slices.truncate(HELD_MAX - 1);
        assert!(!pool.is_crowded() && pool.free.len() == 1);
    }
}
