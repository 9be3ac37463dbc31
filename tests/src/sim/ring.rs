//! Simulated ring memory: it survives the death of the process and not the loss of power. Every
//! store is an event at which the process can die; what the dying process still stores after that
//! moment is seen by itself alone.

use std::cell::{OnceCell, RefCell};
use std::ptr::NonNull;
use std::rc::Rc;

use evenkeel_journal::{Buf, RingMem, Slice};

use super::image::Image;
use super::world::Sim;

/// One ring: the memory that the process sees, and what another process would find.
pub(super) struct RingState {
    id: u128,
    bytes: usize,
    memory: OnceCell<Rc<Buf>>,
    survivor: RefCell<Image>,
}

impl RingState {
    pub(super) fn new(id: u128, image: Image) -> RingState {
        let bytes = image.pages() * super::PAGE;
        RingState { id, bytes, memory: OnceCell::new(), survivor: RefCell::new(image) }
    }

    pub(super) fn image(&self) -> Image {
        self.survivor.borrow().clone()
    }

    fn memory(&self) -> &Rc<Buf> {
        self.memory.get_or_init(|| {
            let mut buf = Buf::new(self.bytes);
            self.survivor.borrow().read(0, &mut buf);
            Rc::new(buf)
        })
    }
}

/// A store on its way: if the process dies in it, part of it is done.
#[derive(Clone)]
pub struct Store {
    pub(super) ring: u128,
    pub(super) at: usize,
    pub(super) bytes: Rc<[u8]>,
}

/// The ring memory of a [`SimWorld`](super::SimWorld).
#[derive(Clone)]
pub struct SimRing {
    sim: Rc<Sim>,
    state: Rc<RingState>,
}

impl SimRing {
    pub(super) fn new(sim: Rc<Sim>, state: Rc<RingState>) -> SimRing {
        SimRing { sim, state }
    }

    fn pointer(&self, at: usize, len: usize) -> NonNull<u8> {
        let end = at.checked_add(len);
        assert!(
            end.is_some_and(|end| end <= self.state.bytes),
            "{len} bytes at {at} are outside a ring of {}",
            self.state.bytes
        );
        let base = NonNull::new(self.state.memory().as_ptr()).expect("memory is not at 0");
        // SAFETY: at is within the buffer's bytes (asserted).
        unsafe { base.add(at) }
    }
}

impl RingMem for SimRing {
    fn bytes(&self) -> usize {
        self.state.bytes
    }

    fn store(&self, at: usize, bytes: &[u8]) {
        let p = self.pointer(at, bytes.len());
        if self.sim.ring_event(|| Store { ring: self.state.id, at, bytes: bytes.into() }) {
            self.state.survivor.borrow_mut().write(at as u64, bytes);
        }
        // SAFETY: p is valid for that many bytes (pointer asserts it); no reference to the range
        // is alive: slices of it are only looked at in calls that have ended (one thread).
        unsafe { std::ptr::copy(bytes.as_ptr(), p.as_ptr(), bytes.len()) }
    }

    fn store_u64(&self, at: usize, value: u64) {
        assert!(at.is_multiple_of(8), "an unaligned 8-byte store at {at}");
        let p = self.pointer(at, 8);
        if self.sim.event() {
            self.state.survivor.borrow_mut().write(at as u64, &value.to_le_bytes());
        }
        // SAFETY: as in `store`; the memory is aligned to 4096 and at to 8.
        unsafe { p.cast::<u64>().write(value.to_le()) }
    }

    fn load_u64(&self, at: usize) -> u64 {
        assert!(at.is_multiple_of(8), "an unaligned 8-byte load at {at}");
        let p = self.pointer(at, 8);
        // SAFETY: valid for 8 bytes and aligned; initialised (the buffer was filled when made).
        u64::from_le(unsafe { p.cast::<u64>().read() })
    }

    fn slice(&self, at: usize, len: usize) -> Slice {
        let p = self.pointer(at, len);
        let keep: Rc<Buf> = Rc::clone(self.state.memory());
        // SAFETY: the buffer lives as long as `keep` and stays put. That the bytes do not change
        // is the caller's promise (RingMem::slice); writes to disks check it at their completion.
        unsafe { Slice::lent(p, len, keep) }
    }
}
