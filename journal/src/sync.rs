//! What tasks of one thread wait on: a [`Signal`] to look again, a [`join_all`] of many futures,
//! and [`Lock`], a fair asynchronous mutex. Wake-ups come from completions alone.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// "Something changed, look again": every waiter wakes at the next [`Signal::notify`].
///
/// Use: `while !condition() { signal.wait().await }`. No notification is lost, because nothing
/// else runs between the check and the first poll of the wait.
#[derive(Default)]
pub struct Signal {
    round: Cell<u64>,
    waiters: RefCell<Vec<Waker>>,
}

impl Signal {
    /// A signal nobody waits on.
    #[must_use]
    pub fn new() -> Signal {
        Signal::default()
    }

    /// Wakes all who wait now.
    pub fn notify(&self) {
        self.round.set(self.round.get() + 1);
        for w in self.waiters.take() {
            w.wake();
        }
    }

    /// Waits for the next notification after this call.
    pub fn wait(&self) -> impl Future<Output = ()> + '_ {
        let round = self.round.get();
        std::future::poll_fn(move |cx| {
            if self.round.get() != round {
                return Poll::Ready(());
            }
            let mut list = self.waiters.borrow_mut();
            if !list.iter().any(|w| w.will_wake(cx.waker())) {
                list.push(cx.waker().clone());
            }
            Poll::Pending
        })
    }
}

/// Lets every task that is ready now run first.
pub async fn after_the_ready() {
    let mut waited = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut waited, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// What a future gives; None if `limit` ends before.
pub async fn within<T>(
    limit: impl Future<Output = ()>,
    future: impl Future<Output = T>,
) -> Option<T> {
    let (mut limit, mut future) = (pin!(limit), pin!(future));
    std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => limit.as_mut().poll(cx).map(|()| None),
    })
    .await
}

/// Waits for whichever ends first.
pub async fn either(a: impl Future<Output = ()>, b: impl Future<Output = ()>) {
    let _ = within(a, b).await;
}

/// Runs all futures together and gives their results in order.
pub async fn join_all<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    enum Slot<F: Future> {
        Running(Pin<Box<F>>),
        Done(F::Output),
        Taken,
    }
    // Slots are never moved out of while running; the pinned futures are boxed.
    struct All<F: Future>(Vec<Slot<F>>);
    impl<F: Future> Unpin for All<F> {}
    impl<F: Future> Future for All<F> {
        type Output = Vec<F::Output>;
        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
            let mut pending = false;
            for slot in &mut self.0 {
                if let Slot::Running(f) = slot {
                    match f.as_mut().poll(cx) {
                        Poll::Ready(out) => *slot = Slot::Done(out),
                        Poll::Pending => pending = true,
                    }
                }
            }
            if pending {
                return Poll::Pending;
            }
            let outs = self.0.iter_mut().map(|s| match std::mem::replace(s, Slot::Taken) {
                Slot::Done(out) => out,
                _ => unreachable!("every future has ended"),
            });
            Poll::Ready(outs.collect())
        }
    }
    All(futures.into_iter().map(|f| Slot::Running(Box::pin(f))).collect()).await
}

/// Runs two futures together. Ends with both.
pub async fn join2<A: Future, B: Future>(a: A, b: B) -> (A::Output, B::Output) {
    let (mut a, mut b) = (std::pin::pin!(a), std::pin::pin!(b));
    let (mut first, mut second) = (None, None);
    std::future::poll_fn(|cx| {
        if first.is_none()
            && let Poll::Ready(out) = a.as_mut().poll(cx)
        {
            first = Some(out);
        }
        if second.is_none()
            && let Poll::Ready(out) = b.as_mut().poll(cx)
        {
            second = Some(out);
        }
        match (first.take(), second.take()) {
            (Some(one), Some(two)) => Poll::Ready((one, two)),
            (one, two) => {
                (first, second) = (one, two);
                Poll::Pending
            }
        }
    })
    .await
}

#[derive(Default)]
struct LockState {
    held: Cell<bool>,
    next: Cell<u64>,
    queue: RefCell<VecDeque<(u64, Option<Waker>)>>,
}

/// A fair mutex for tasks of one thread: first come, first served. Clones share it.
#[derive(Clone, Default)]
pub struct Lock(Rc<LockState>);

/// Holds a [`Lock`] until dropped.
pub struct Guard(Lock);

impl Lock {
    /// A free lock.
    #[must_use]
    pub fn new() -> Lock {
        Lock::default()
    }

    /// Whether somebody holds it or waits for it.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.0.held.get() || !self.0.queue.borrow().is_empty()
    }

    /// Takes it if it is free and nobody waits.
    #[must_use]
    pub fn try_lock(&self) -> Option<Guard> {
        if self.is_busy() {
            return None;
        }
        self.0.held.set(true);
        Some(Guard(self.clone()))
    }

    /// Waits until it is this caller's turn.
    pub fn lock(&self) -> Locking {
        Locking { lock: self.clone(), ticket: None }
    }
}

/// The wait for a [`Lock`].
pub struct Locking {
    lock: Lock,
    ticket: Option<u64>,
}

impl Future for Locking {
    type Output = Guard;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Guard> {
        let state = Rc::clone(&self.lock.0);
        let mut queue = state.queue.borrow_mut();
        let ticket = match self.ticket {
            Some(t) => t,
            None if !state.held.get() && queue.is_empty() => {
                state.held.set(true);
                return Poll::Ready(Guard(self.lock.clone()));
            }
            None => {
                let t = state.next.get();
                state.next.set(t + 1);
                queue.push_back((t, None));
                self.ticket = Some(t);
                t
            }
        };
        if !state.held.get() && queue.front().is_some_and(|(t, _)| *t == ticket) {
            queue.pop_front();
            state.held.set(true);
            drop(queue);
            self.ticket = None;
            return Poll::Ready(Guard(self.lock.clone()));
        }
        if let Some(entry) = queue.iter_mut().find(|(t, _)| *t == ticket) {
            entry.1 = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for Locking {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.lock.0.queue.borrow_mut().retain(|(t, _)| *t != ticket);
            wake_next(&self.lock.0);
        }
    }
}

fn wake_next(state: &LockState) {
    if !state.held.get()
        && let Some((_, Some(w))) = state.queue.borrow().front()
    {
        w.wake_by_ref();
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.0.held.set(false);
        wake_next(&self.0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll<F: Future + Unpin>(f: &mut F) -> Poll<F::Output> {
        Pin::new(f).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_lock_is_fair() {
        let lock = Lock::new();
        let a = lock.try_lock().expect("free");
        let (mut b, mut c) = (lock.lock(), lock.lock());
        assert!(poll(&mut b).is_pending() && poll(&mut c).is_pending());
        drop(a);
        assert!(lock.try_lock().is_none(), "b is next");
        assert!(poll(&mut c).is_pending());
        let Poll::Ready(b) = poll(&mut b) else { panic!("b's turn") };
        drop(b);
        assert!(poll(&mut c).is_ready());
    }

    #[test]
    fn join_gives_results_in_order() {
        let mut all = Box::pin(join_all((0..5).map(std::future::ready).collect()));
        assert_eq!(poll(&mut all), Poll::Ready(vec![0, 1, 2, 3, 4]));
    }

    #[test]
    fn a_signal_wakes_only_after_the_wait_began() {
        let s = Signal::new();
        s.notify();
        let mut w = Box::pin(s.wait());
        assert!(poll(&mut w).is_pending());
        s.notify();
        assert!(poll(&mut w).is_ready());
    }
}
