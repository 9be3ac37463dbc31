//! What stands between a front end and its target: while it is closed requests wait, and the target may
//! be taken out and another one put in its place. Whoever uses the device sees a pause, and no error.
//!
//! What must hold: a request is inside from its first moment to its last, so that once it is said that
//! nobody is inside, the target is asked for nothing any more; requests that come while the gate is
//! closed, or while there is no target, wait for as long as that lasts.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use evenkeel_journal::sync::Signal;
use evenkeel_journal::{Buf, Slice};
use evenkeel_raid::{Extent, RequestError};

use crate::target::BlockTarget;

struct State<T> {
    target: RefCell<Option<T>>,
    /// How many targets there were before this one.
    turn: Cell<u64>,
    /// Bytes of the target that was here last.
    size_bytes: Cell<u64>,
    closed: Cell<bool>,
    inside: Cell<usize>,
    changed: Signal,
}

/// A gate before a target. Clones share it.
pub struct Gate<T>(Rc<State<T>>);

impl<T> Clone for Gate<T> {
    fn clone(&self) -> Self {
        Gate(Rc::clone(&self.0))
    }
}

/// Somebody is inside until this is dropped.
pub struct Inside<T>(Rc<State<T>>);

impl<T> Drop for Inside<T> {
    fn drop(&mut self) {
        self.0.inside.set(self.0.inside.get() - 1);
        if self.0.closed.get() {
            self.0.changed.notify();
        }
    }
}

impl<T: BlockTarget> Gate<T> {
    /// An open gate before this target.
    pub fn new(target: T) -> Gate<T> {
        Gate(Rc::new(State {
            size_bytes: Cell::new(target.size_bytes()),
            target: RefCell::new(Some(target)),
            turn: Cell::new(0),
            closed: Cell::new(false),
            inside: Cell::new(0),
            changed: Signal::new(),
        }))
    }

    /// The target, if there is one, whether the gate is closed or not.
    #[must_use]
    pub fn target(&self) -> Option<T> {
        self.0.target.borrow().clone()
    }

    /// The target and the number of its turn, as soon as there is one.
    pub async fn next_target(&self) -> (T, u64) {
        loop {
            if let Some(target) = self.target() {
                return (target, self.0.turn.get());
            }
            self.0.changed.wait().await;
        }
    }

    /// Waits until the target of this turn was taken out.
    pub async fn is_over(&self, turn: u64) {
        while self.0.turn.get() == turn {
            self.0.changed.wait().await;
        }
    }

    /// Goes in as soon as the gate is open. The target is not taken out before the other value is
    /// dropped, if whoever closes the gate waits for that.
    pub async fn enter(&self) -> (T, Inside<T>) {
        loop {
            if let Some(inside) = self.try_enter() {
                return inside;
            }
            self.0.changed.wait().await;
        }
    }

    fn try_enter(&self) -> Option<(T, Inside<T>)> {
        if self.0.closed.get() {
            return None;
        }
        let target = self.target()?;
        self.0.inside.set(self.0.inside.get() + 1);
        Some((target, Inside(Rc::clone(&self.0))))
    }

    /// Lets nobody in from now on, and waits until nobody is inside.
    pub async fn close(&self) {
        self.0.closed.set(true);
        while self.0.inside.get() > 0 {
            self.0.changed.wait().await;
        }
    }

    /// Lets everybody in again.
    pub fn open(&self) {
        self.0.closed.set(false);
        self.0.changed.notify();
    }

    /// Takes the target out.
    #[must_use]
    pub fn take(&self) -> Option<T> {
        let target = self.0.target.take();
        if let Some(target) = &target {
            self.0.size_bytes.set(target.size_bytes());
        }
        self.0.turn.set(self.0.turn.get() + 1);
        self.0.changed.notify();
        target
    }

    /// Puts a target in.
    pub fn put(&self, target: T) {
        self.0.target.replace(Some(target));
        self.0.changed.notify();
    }
}

impl<T: BlockTarget> BlockTarget for Gate<T> {
    fn size_bytes(&self) -> u64 {
        self.target().map_or(self.0.size_bytes.get(), |t| t.size_bytes())
    }

    async fn read(&self, at: u64, buf: Buf) -> (Result<(), RequestError>, Buf) {
        let (target, _inside) = self.enter().await;
        target.read(at, buf).await
    }

    async fn write(&self, at: u64, data: Slice, fua: bool) -> Result<(), RequestError> {
        let (target, _inside) = self.enter().await;
        target.write(at, data, fua).await
    }

    async fn flush(&self) -> Result<(), RequestError> {
        let (target, _inside) = self.enter().await;
        target.flush().await
    }

    async fn discard(&self, at: u64, len: u64, fua: bool) -> Result<(), RequestError> {
        let (target, _inside) = self.enter().await;
        target.discard(at, len, fua).await
    }

    async fn write_zeroes(&self, at: u64, len: u64, fua: bool) -> Result<(), RequestError> {
        let (target, _inside) = self.enter().await;
        target.write_zeroes(at, len, fua).await
    }

    /// What lies where is not told while requests wait: a read that looks first would then read what
    /// is there later.
    fn extents(&self, at: u64, len: u64, most: usize) -> Result<Vec<Extent>, RequestError> {
        match self.try_enter() {
            Some((target, _inside)) => target.extents(at, len, most),
            None => Ok(vec![Extent { bytes: len, mapped: true }]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    /// Answers when it is told to.
    #[derive(Clone)]
    struct Slow {
        bytes: u64,
        answers: Rc<(Cell<bool>, Signal)>,
    }

    impl Slow {
        fn of(bytes: u64) -> Slow {
            Slow { bytes, answers: Rc::default() }
        }

        fn answer(&self) {
            self.answers.0.set(true);
            self.answers.1.notify();
        }

        async fn wait(&self) -> Result<(), RequestError> {
            while !self.answers.0.get() {
                self.answers.1.wait().await;
            }
            Ok(())
        }
    }

    impl BlockTarget for Slow {
        fn size_bytes(&self) -> u64 {
            self.bytes
        }
        async fn read(&self, _: u64, buf: Buf) -> (Result<(), RequestError>, Buf) {
            (self.wait().await, buf)
        }
        async fn write(&self, _: u64, _: Slice, _: bool) -> Result<(), RequestError> {
            self.wait().await
        }
        async fn flush(&self) -> Result<(), RequestError> {
            self.wait().await
        }
        async fn discard(&self, _: u64, _: u64, _: bool) -> Result<(), RequestError> {
            self.wait().await
        }
        async fn write_zeroes(&self, _: u64, _: u64, _: bool) -> Result<(), RequestError> {
            Err(RequestError::ReadOnly)
        }
        fn extents(&self, _: u64, len: u64, _: usize) -> Result<Vec<Extent>, RequestError> {
            Ok(vec![Extent { bytes: len, mapped: false }])
        }
    }

    fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn requests_wait_while_another_target_is_put_in() {
        let (first, second) = (Slow::of(1), Slow::of(2));
        let gate = Gate::new(first.clone());
        let mut write = pin!(gate.write(0, Slice::copy_of(&[0; 8]), false));
        let mut zeroes = pin!(gate.write_zeroes(0, 1, false));
        assert!(poll(write.as_mut()).is_pending());
        let mut closing = pin!(gate.close());
        assert!(poll(closing.as_mut()).is_pending(), "a write is inside");
        let mut flush = pin!(gate.flush());
        assert!(poll(flush.as_mut()).is_pending() && poll(zeroes.as_mut()).is_pending());
        let all = gate.extents(0, 7, 9).expect("extents");
        assert_eq!((all.len(), all[0].mapped), (1, true), "nothing is told while it is closed");

        first.answer();
        assert_eq!(poll(write), Poll::Ready(Ok(())));
        assert!(poll(closing).is_ready());
        assert!(poll(flush.as_mut()).is_pending(), "it waits, though the target would answer");
        let mut over = pin!(gate.is_over(0));
        assert!(poll(over.as_mut()).is_pending());
        assert!(gate.take().is_some() && gate.target().is_none());
        assert!(poll(over).is_ready());
        assert_eq!(gate.size_bytes(), 1, "as it was");
        let mut next = pin!(gate.next_target());
        assert!(poll(next.as_mut()).is_pending());
        gate.put(second.clone());
        assert!(matches!(poll(next), Poll::Ready((Slow { bytes: 2, .. }, 1))));
        assert!(poll(flush.as_mut()).is_pending(), "it is closed still");

        gate.open();
        assert_eq!(
            poll(zeroes),
            Poll::Ready(Err(RequestError::ReadOnly)),
            "an answer is passed on"
        );
        assert!(poll(flush.as_mut()).is_pending(), "the second one has not answered");
        second.answer();
        assert_eq!(poll(flush), Poll::Ready(Ok(())));
        assert_eq!(gate.size_bytes(), 2);
        assert!(!gate.extents(0, 7, 9).expect("extents")[0].mapped);
    }

    #[test]
    fn who_gives_up_is_not_inside_any_more() {
        let gate = Gate::new(Slow::of(1));
        {
            let mut flush = pin!(gate.flush());
            assert!(poll(flush.as_mut()).is_pending());
            assert!(poll(pin!(gate.close())).is_pending());
        }
        assert!(poll(pin!(gate.close())).is_ready());
        // Whoever closed it may think better of it.
        gate.open();
        assert!(poll(pin!(gate.enter())).is_ready());
    }
}
