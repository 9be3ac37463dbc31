//! What threads share with the engine thread: a list of things for it with a bell that ends its wait,
//! and a flag that another thread raises.
//!
//! What must hold: a thing that was put in is taken out, once, and the engine does not sleep while one is
//! there or the flag is up. So the bell rings after the thing is in the list; and the flag is taken down
//! before what it stands for is looked at. Built with the feature `loom`, both are explored in every
//! order of their steps (`tests/threads.rs`).

#[cfg(feature = "loom")]
use loom::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering},
};
#[cfg(not(feature = "loom"))]
use std::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering},
};

/// Ends the engine's wait, the present one or the next.
pub trait Bell {
    /// Rings. Rings that nobody has heard yet may become one.
    fn ring(&self);
}

/// A list that any thread puts things into and the engine thread empties.
pub struct Inbox<T, B> {
    list: Mutex<Vec<T>>,
    bell: B,
}

impl<T, B: Bell> Inbox<T, B> {
    /// An empty one.
    pub fn new(bell: B) -> Inbox<T, B> {
        Inbox { list: Mutex::new(Vec::new()), bell }
    }

    /// Puts a thing in, and rings.
    pub fn send(&self, thing: T) {
        self.list.lock().unwrap_or_else(|e| e.into_inner()).push(thing);
        self.bell.ring();
    }

    /// Takes everything out, in the order in which it came.
    #[must_use]
    pub fn take(&self) -> Vec<T> {
        std::mem::take(&mut *self.list.lock().unwrap_or_else(|e| e.into_inner()))
    }

    /// The bell.
    pub fn bell(&self) -> &B {
        &self.bell
    }
}

/// A flag that says that a future has to be polled.
pub struct Raised(AtomicBool);

impl Raised {
    /// A flag that is up.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "that it is up has to be said")]
    pub fn new() -> Raised {
        Raised(AtomicBool::new(true))
    }

    /// Raises it. Who does so from another thread rings afterwards.
    pub fn raise(&self) {
        self.0.swap(true, Ordering::AcqRel);
    }

    /// Takes it down; whether it was up.
    #[must_use]
    pub fn take(&self) -> bool {
        self.0.swap(false, Ordering::AcqRel)
    }

    /// Whether it is up.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
