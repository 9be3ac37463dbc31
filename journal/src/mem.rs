//! Memory that I/O runs from: [`Buf`] is owned by one holder and can be written, [`Slice`] is
//! shared and read-only. Both are aligned to 4 KiB where they come from [`Buf::new`].
//!
//! What must hold: bytes under a [`Slice`] do not change while any clone of it is alive. The
//! constructors from raw parts ask their caller to see to that (ring places are immutable between
//! append and release; a front end's request buffer is its own until it is answered).
//!
//! Freed buffers are kept for reuse in a bounded cache of the thread, so that the write path
//! touches warm pages. A recycled buffer holds old bytes: its user writes before it reads.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::any::Any;
use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::rc::Rc;

use crate::units::BLOCK;

/// Bytes of freed buffers that a thread keeps at most.
const CACHE_BYTES: usize = 64 << 20;
/// Smallest and largest size class kept, as powers of two.
const CLASS_MIN: u32 = 12;
const CLASS_MAX: u32 = 21;

struct Cache {
    bytes: usize,
    classes: [Vec<NonNull<u8>>; (CLASS_MAX - CLASS_MIN + 1) as usize],
}

impl Drop for Cache {
    fn drop(&mut self) {
        for (i, class) in self.classes.iter().enumerate() {
            let bytes = 1usize << (CLASS_MIN + i as u32);
            for p in class {
                // SAFETY: every pointer in class i was made by `fresh` with this very layout.
                unsafe { dealloc(p.as_ptr(), layout(bytes)) }
            }
        }
    }
}

thread_local! {
    static CACHE: RefCell<Cache> =
        const { RefCell::new(Cache { bytes: 0, classes: [const { Vec::new() }; 10] }) };
}

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, BLOCK).expect("a buffer's size fits the address space")
}

fn class_of(len: usize) -> (u32, usize) {
    let bytes = len.max(1).next_power_of_two().max(1 << CLASS_MIN);
    (bytes.trailing_zeros(), bytes)
}

fn fresh(bytes: usize) -> NonNull<u8> {
    let l = layout(bytes);
    // SAFETY: the size is not zero (class_of).
    let p = unsafe { alloc_zeroed(l) };
    NonNull::new(p).unwrap_or_else(|| handle_alloc_error(l))
}

enum Keep {
    /// Made by `fresh` with this many bytes (a power of two).
    Heap(usize),
    /// Somebody else's memory, alive as long as this.
    Lent(#[allow(dead_code)] Rc<dyn Any>),
}

/// Memory owned by one holder: a target of reads, or bytes being made. Not cleared when new.
pub struct Buf {
    ptr: NonNull<u8>,
    len: usize,
    keep: Keep,
}

impl Buf {
    /// A buffer of `len` bytes, aligned to 4 KiB. Its content is initialised but arbitrary.
    #[must_use]
    pub fn new(len: usize) -> Buf {
        let (class, bytes) = class_of(len);
        let kept = if class <= CLASS_MAX {
            CACHE.with_borrow_mut(|c| {
                let p = c.classes[(class - CLASS_MIN) as usize].pop();
                if p.is_some() {
                    c.bytes -= bytes;
                }
                p
            })
        } else {
            None
        };
        Buf { ptr: kept.unwrap_or_else(|| fresh(bytes)), len, keep: Keep::Heap(bytes) }
    }

    /// A buffer of `len` zero bytes.
    #[must_use]
    pub fn zeroed(len: usize) -> Buf {
        let mut b = Buf::new(len);
        b.fill(0);
        b
    }

    /// A buffer over memory that `keep` keeps alive.
    ///
    /// # Safety
    /// `ptr..ptr+len` is valid, initialised, stays put while `keep` lives, and nobody else reads
    /// or writes it while this buffer lives.
    #[must_use]
    pub unsafe fn lent(ptr: NonNull<u8>, len: usize, keep: Rc<dyn Any>) -> Buf {
        Buf { ptr, len, keep: Keep::Lent(keep) }
    }

    /// Makes the buffer shorter; `len` beyond the present length is a caller's mistake.
    pub fn truncate(&mut self, len: usize) {
        assert!(len <= self.len);
        self.len = len;
    }

    /// The address, for the kernel.
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }

    /// Ends writing: from now on the bytes are shared and read-only.
    #[must_use]
    pub fn freeze(self) -> Slice {
        let (ptr, len) = (self.ptr, self.len);
        Slice { ptr, len, keep: Rc::new(self) }
    }
}

impl Deref for Buf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: ptr..ptr+len is valid and initialised as long as self lives (constructors).
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl DerefMut for Buf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and a Buf has one holder.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        let Keep::Heap(bytes) = self.keep else { return };
        let class = bytes.trailing_zeros();
        let kept = class <= CLASS_MAX
            && CACHE
                .try_with(|c| {
                    let mut c = c.borrow_mut();
                    let room = c.bytes + bytes <= CACHE_BYTES;
                    if room {
                        c.bytes += bytes;
                        c.classes[(class - CLASS_MIN) as usize].push(self.ptr);
                    }
                    room
                })
                .unwrap_or(false);
        if !kept {
            // SAFETY: made by `fresh` with this very layout.
            unsafe { dealloc(self.ptr.as_ptr(), layout(bytes)) }
        }
    }
}

impl std::fmt::Debug for Buf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buf({} bytes)", self.len)
    }
}

/// Shared, read-only memory: a source of writes. Cloning shares the bytes.
#[derive(Clone)]
pub struct Slice {
    ptr: NonNull<u8>,
    len: usize,
    keep: Rc<dyn Any>,
}

impl Slice {
    /// A copy of `bytes` in new memory.
    #[must_use]
    pub fn copy_of(bytes: &[u8]) -> Slice {
        let mut b = Buf::new(bytes.len());
        b.copy_from_slice(bytes);
        b.freeze()
    }

    /// Shared bytes in memory that `keep` keeps alive.
    ///
    /// # Safety
    /// `ptr..ptr+len` is valid, initialised, stays put while `keep` lives, and does not change
    /// while this slice or a clone of it lives.
    #[must_use]
    pub unsafe fn lent(ptr: NonNull<u8>, len: usize, keep: Rc<dyn Any>) -> Slice {
        Slice { ptr, len, keep }
    }

    /// The part `from..from+len` of this slice, sharing its memory.
    #[must_use]
    pub fn part(&self, from: usize, len: usize) -> Slice {
        assert!(from.checked_add(len).is_some_and(|end| end <= self.len));
        // SAFETY: from is within the range that ptr is valid for (asserted).
        let ptr = unsafe { self.ptr.add(from) };
        Slice { ptr, len, keep: Rc::clone(&self.keep) }
    }

    /// Whether `next` begins where this slice ends in the same memory.
    #[must_use]
    pub fn touches(&self, next: &Slice) -> bool {
        self.ptr.as_ptr().wrapping_add(self.len) == next.ptr.as_ptr()
            && Rc::ptr_eq(&self.keep, &next.keep)
    }

    /// The address, for the kernel.
    #[must_use]
    pub fn as_ptr(&self) -> *const u8 {
        self.ptr.as_ptr()
    }
}

impl Deref for Slice {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: valid, initialised and unchanging while self lives (constructors).
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl std::fmt::Debug for Slice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Slice({} bytes)", self.len)
    }
}

/// The pieces of one write, in order.
pub type Segs = Vec<Slice>;

/// Bytes of all pieces together.
#[must_use]
pub fn segs_len(segs: &[Slice]) -> usize {
    segs.iter().map(|s| s.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_recycled_and_shared() {
        let mut b = Buf::new(5000);
        assert_eq!((b.len(), b.as_ptr() as usize % BLOCK), (5000, 0));
        b.fill(7);
        let s = b.freeze();
        let t = s.part(4096, 904);
        assert!(s.part(0, 4096).touches(&t));
        drop(s);
        assert!(t.iter().all(|x| *x == 7));
        let p = t.as_ptr() as usize;
        drop(t);
        assert_eq!(Buf::new(8000).as_ptr() as usize, p - 4096, "the same memory again");
    }
}
