//! How much memory an input takes: hostile bytes must not be able to ask for more than a bound.
//! Every allocation of the program is counted.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// More than this at one moment ends the program, before it takes the machine's memory.
const MOST: usize = 1 << 30;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

struct Counted;

static LIMIT: AtomicUsize = AtomicUsize::new(MOST);
static WHEN_TOO_MUCH: OnceLock<fn()> = OnceLock::new();

fn took(bytes: usize) {
    let now = NOW.fetch_add(bytes, Relaxed).wrapping_add(bytes);
    PEAK.fetch_max(now, Relaxed);
    if now > LIMIT.load(Relaxed) {
        // What is done now may allocate.
        LIMIT.store(usize::MAX, Relaxed);
        let stack = std::backtrace::Backtrace::force_capture();
        eprintln!("an input takes more than {MOST} bytes of memory\n{stack}");
        WHEN_TOO_MUCH.get().iter().for_each(|tell| tell());
        std::process::abort();
    }
}

/// What to do before the program ends because an input took far too much.
pub fn when_too_much(tell: fn()) {
    let _ = WHEN_TOO_MUCH.set(tell);
}

// SAFETY: everything is handed on to the system's allocator as it came; counting touches no memory
// but two numbers.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: the caller's promise is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        took(size);
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counted = Counted;

/// Runs `f`, and gives the most bytes that were taken at one moment beyond what was taken before.
pub fn most_during(f: impl FnOnce()) -> usize {
    let before = NOW.load(Relaxed);
    PEAK.store(before, Relaxed);
    f();
    PEAK.load(Relaxed).saturating_sub(before)
}
