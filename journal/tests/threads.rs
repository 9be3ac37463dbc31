//! What threads share, in every order of their steps (loom): nothing is lost, nobody sleeps with work
//! left, and a ring never shows half a request. For each there is a way to do it wrong that is noticed.
//!
//! `cargo test -p evenkeel-journal --features loom --test threads --release`
#![cfg(feature = "loom")]

use evenkeel_journal::mem::Slice;
use evenkeel_journal::record::Record;
use evenkeel_journal::ring::{Ring, read_ring, ring_bytes};
use evenkeel_journal::uring::inbox::{Bell, Inbox, Raised};
use evenkeel_journal::world::RingMem;
use evenkeel_journal::{Lsn, Stripe};
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

/// What an eventfd is to its readers: a counter that a read waits for and takes.
#[derive(Default)]
struct Event {
    count: Mutex<u64>,
    changed: Condvar,
    /// Rings, and wakes nobody: the way to do it wrong.
    mute: bool,
}

/// Left behind by every run: loom cannot drop its things where it has found a deadlock.
#[derive(Clone, Copy)]
struct Door(&'static Event);

fn left<T>(thing: T) -> &'static T {
    Box::leak(Box::new(thing))
}

impl Bell for Door {
    fn ring(&self) {
        *self.0.count.lock().unwrap() += 1;
        if !self.0.mute {
            self.0.changed.notify_one();
        }
    }
}

impl Door {
    fn wait(&self) {
        let mut count = self.0.count.lock().unwrap();
        while *count == 0 {
            count = self.0.changed.wait(count).unwrap();
        }
        *count = 0;
    }
}

fn two_senders(mute: bool) {
    loom::model(move || {
        let event = Door(left(Event { mute, ..Event::default() }));
        let inbox = left(Inbox::new(event));
        let senders: Vec<_> = (0..2u32).map(|i| thread::spawn(move || inbox.send(i))).collect();
        let mut got = Vec::new();
        while got.len() < 2 {
            event.wait();
            got.extend(inbox.take());
        }
        got.sort_unstable();
        assert_eq!(got, [0, 1], "each is taken out once");
        senders.into_iter().for_each(|s| s.join().unwrap());
    });
}

#[test]
fn everything_sent_arrives_once() {
    two_senders(false);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_bell_that_wakes_nobody_is_noticed() {
    two_senders(true);
}

/// The loop of the engine around one future that another thread makes ready; `early` looks at the
/// future before the flag is taken down.
fn one_waker(early: bool) {
    loom::model(move || {
        let event = Door(left(Event::default()));
        let (flag, ready) = (left(Raised::new()), left(AtomicU64::new(0)));
        let waker = {
            thread::spawn(move || {
                // Ordered by the flag alone.
                ready.store(1, Ordering::Relaxed);
                flag.raise();
                event.ring();
            })
        };
        loop {
            let seen = early && ready.load(Ordering::Relaxed) == 1;
            if flag.take() && (seen || !early && ready.load(Ordering::Relaxed) == 1) {
                break;
            }
            if !flag.is_up() {
                event.wait();
            }
        }
        waker.join().unwrap();
    });
}

#[test]
fn a_future_that_was_woken_is_polled() {
    one_waker(false);
}

#[test]
#[should_panic(expected = "deadlock")]
fn looking_before_the_flag_is_down_is_noticed() {
    one_waker(true);
}

const PIECE: usize = 64;

struct Memory {
    /// All but the head and the tail. Loom ends the test if a piece is read while it may be written.
    pieces: Vec<UnsafeCell<[u8; PIECE]>>,
    words: Vec<(usize, AtomicU64)>,
    /// Moves the head without release: the way to do it wrong.
    relaxed: bool,
}

/// Memory of a ring that a second process looks at while the first one writes.
#[derive(Clone)]
struct Shared(Arc<Memory>);

/// Places of head and tail in the header.
fn words() -> [usize; 2] {
    use evenkeel_journal::ring::{AT_HEAD, AT_TAIL};
    [AT_HEAD, AT_TAIL]
}

impl Shared {
    fn new(bytes: usize, relaxed: bool) -> Shared {
        let pieces = (0..bytes.div_ceil(PIECE)).map(|_| UnsafeCell::new([0; PIECE])).collect();
        let words = words().map(|at| (at, AtomicU64::new(0))).into_iter().collect();
        Shared(Arc::new(Memory { pieces, words, relaxed }))
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        &self.0.words.iter().find(|w| w.0 == at).expect("head or tail").1
    }
}

impl RingMem for Shared {
    fn bytes(&self) -> usize {
        self.0.pieces.len() * PIECE
    }
    fn store(&self, at: usize, bytes: &[u8]) {
        for (i, byte) in bytes.iter().enumerate() {
            let (piece, offset) = ((at + i) / PIECE, (at + i) % PIECE);
            // SAFETY: loom checks that nobody else has it meanwhile.
            self.0.pieces[piece].with_mut(|p| unsafe { (*p)[offset] = *byte });
        }
    }
    fn store_u64(&self, at: usize, value: u64) {
        let order = if self.0.relaxed { Ordering::Relaxed } else { Ordering::Release };
        self.word(at).store(value, order);
    }
    fn load_u64(&self, at: usize) -> u64 {
        self.word(at).load(Ordering::Acquire)
    }
    fn slice(&self, at: usize, len: usize) -> Slice {
        // SAFETY: as above.
        let byte = |i: usize| self.0.pieces[i / PIECE].with(|p| unsafe { (*p)[i % PIECE] });
        Slice::copy_of(&(at..at + len).map(byte).collect::<Vec<u8>>())
    }
}

/// A daemon appends a request of two records while another process reads its ring.
fn append_and_read(relaxed: bool) {
    let mut model = loom::model::Builder::new();
    model.max_branches = 1_000_000;
    model.check(move || {
        let memory = Shared::new(ring_bytes(1), relaxed);
        let ring = Ring::format(memory.clone(), 7, 8, 9, 1);
        let reader = thread::spawn(move || {
            let found = read_ring(&memory, 7, 8).expect("it is whole at every moment");
            let lasts: Vec<bool> = found.records.iter().map(|r| r.last).collect();
            assert!(lasts.is_empty() || lasts == [false, true], "whole requests: {lasts:?}");
        });
        let unmap = |lsn: u64| {
            let record = Record::Unmap { first: Stripe(lsn), count: 1, horizon: Lsn(0) };
            let mut meta = Vec::new();
            record.encode(Lsn(lsn), &mut meta);
            (meta, Vec::new())
        };
        ring.append(&[unmap(1), unmap(2)]);
        reader.join().unwrap();
    });
}

#[test]
fn a_ring_shows_whole_requests_at_every_moment() {
    append_and_read(false);
}

#[test]
#[should_panic]
fn a_head_that_moves_without_release_is_noticed() {
    append_and_read(true);
}
