//! How fast the members give what is read, and which of them is *slow*: so much slower than the others
//! that its blocks are rebuilt from theirs instead.
//!
//! A read costs two looks at the clock (no system call) and two counts. Only one that took
//! longer than [`LEAST`] is compared with the other members.
//!
//! What must hold: a member is slow only beside others that are not: a busy machine, cold caches or a
//! pause that all have make nobody slow. One that is slow is asked now and then, so that it
//! is fast again as soon as it is, however few reads there are; never more than one at a time.

use std::time::Duration;

use evenkeel_journal::{BLOCK, Buf, Disk, MemberIndex, World};

use super::{Member, Members};
use crate::hung::Kind;
use crate::news;

/// So many times slower than the others' 99th percentile is slow.
const TIMES: u64 = 20;
/// What takes less is never slow: a cache that has to be filled, another program, a spindle that seeks.
const LEAST: Duration = Duration::from_millis(100);
/// Of so many reads, the last ones, more than half must have been slow: a single pause is
/// none of the disk's habits.
const LOOKED_AT: usize = 16;
/// So many members, with so many reads each, are needed to compare with.
const PEERS: usize = 2;
const PEER_READS: u32 = 64;
/// When so many reads are counted, each count is halved: older ones fade.
const COUNTED: u32 = 256;
/// So many reads that were not slow, one after the other, end it: a disk that is slow now and then
/// stays slow, and is told of once.
const GOOD_ONES: u32 = 30;
/// Slow for so long, in so many reads, is failing: the pauses of a shingled disk end sooner.
const LONG: Duration = Duration::from_secs(300);
const LONG_READS: u32 = 30;
/// A slow member is asked no more often than this.
const ASKED_EVERY: Duration = Duration::from_secs(1);
/// So many late operations of a member that cannot be spared, and it is not read before one
/// ends: each would keep its memory, and its reader waiting, for nothing.
const LATE_MOST: u32 = 8;

/// A member is slow.
struct Slow {
    since: Duration,
    /// Reads that were slow since then.
    slow: u32,
    /// Those in a row that were not, by now.
    good: u32,
}

/// How fast a member is.
#[derive(Default)]
pub(super) struct Speed {
    /// Reads by the logarithm of their microseconds.
    counts: [u32; 32],
    counted: u32,
    /// What the last ones took, in microseconds, and how many there were.
    last: [u64; LOOKED_AT],
    reads: usize,
    slow: Option<Slow>,
    asking: bool,
    asked: Duration,
}

impl Speed {
    fn add(&mut self, micros: u64) {
        let bucket = (u64::BITS - micros.leading_zeros()) as usize;
        self.counts[bucket.min(31)] += 1;
        self.counted += 1;
        if self.counted == COUNTED {
            self.counts.iter_mut().for_each(|c| *c /= 2);
            self.counted = self.counts.iter().sum();
        }
        self.last[self.reads % LOOKED_AT] = micros;
        self.reads += 1;
    }

    /// Microseconds that at most one read in a hundred has taken longer than, rounded up to a power of
    /// two. None: there are too few.
    fn percentile_99(&self) -> Option<u64> {
        if self.counted < PEER_READS {
            return None;
        }
        let mut beyond = 0;
        for (bucket, count) in self.counts.iter().enumerate().rev() {
            beyond += count;
            if beyond * 100 > self.counted {
                return Some(1 << bucket);
            }
        }
        None
    }

    /// Whether more than half of the last reads took longer than this.
    fn is_beyond(&self, micros: u64) -> bool {
        let slow = self.last.iter().filter(|l| **l > micros).count();
        self.reads >= LOOKED_AT && slow * 2 > LOOKED_AT
    }

    /// How long it has been slow, if that is long.
    pub(super) fn slow_for_long(&self, now: Duration) -> Option<Duration> {
        let slow = self.slow.as_ref()?;
        let time = now - slow.since;
        (time >= LONG && slow.slow >= LONG_READS).then_some(time)
    }
}

/// What takes longer is slow, by the 99th percentiles of the others: the middle one of them counts, so that
/// one more slow member among several changes nothing.
fn limit(mut others: Vec<u64>) -> Option<u64> {
    if others.len() < PEERS {
        return None;
    }
    others.sort_unstable();
    let middle = others[others.len() / 2];
    Some((middle * TIMES).max(LEAST.as_micros() as u64))
}

impl<W: World> Members<W> {
    /// A read of a member took so long.
    pub(super) fn read_took(&self, member: MemberIndex, time: Duration) {
        if member.at() >= self.0.data || self.0.frozen.get() {
            return;
        }
        let micros = time.as_micros() as u64;
        {
            let speed = &mut self.0.members.borrow_mut()[member.at()].speed;
            speed.add(micros);
            if time < LEAST && speed.slow.is_none() {
                return;
            }
        }
        let limit = self.limit_of(member);
        let now = self.0.world.now();
        let mut members = self.0.members.borrow_mut();
        let m = &mut members[member.at()];
        let Some(slow) = &mut m.speed.slow else {
            if let Some(limit) = limit.filter(|l| m.speed.is_beyond(*l)) {
                m.speed.slow = Some(Slow { since: now, slow: 0, good: 0 });
                self.0.news.tell(news::slow(&m.path(), Duration::from_micros(limit)));
            }
            return;
        };
        // With nobody to compare with it is not slow, either.
        if limit.is_some_and(|l| micros > l) {
            slow.good = 0;
            slow.slow = slow.slow.saturating_add(1);
            if m.speed.slow_for_long(now).is_some() {
                self.0.changed.notify();
            }
            return;
        }
        slow.good += 1;
        if slow.good == GOOD_ONES {
            let time = now - slow.since;
            m.speed.slow = None;
            m.speed.reads = 0;
            self.0.news.tell(news::fast_again(&m.path(), time));
        }
    }

    fn limit_of(&self, member: MemberIndex) -> Option<u64> {
        let members = self.0.members.borrow();
        let others = members[..self.0.data].iter().enumerate();
        let others = others.filter(|(i, m)| *i != member.at() && m.is_active());
        limit(others.filter_map(|(_, m)| m.speed.percentile_99()).collect())
    }

    /// Whether a member is slow, or silent: what it holds is rebuilt from others, if they are enough.
    pub(crate) fn is_avoided(&self, member: MemberIndex) -> bool {
        self.0.watch.is_silent(member) || self.0.members.borrow()[member.at()].speed.slow.is_some()
    }

    /// Whether a member has so many operations that do not end that it is not read.
    pub(crate) fn is_given_up(&self, member: MemberIndex) -> bool {
        let most = if self.is_halted() { 1 } else { LATE_MOST };
        self.0.watch.late_of(member) >= most
    }

    /// A read goes around a member that is slow: asks it by the way, and nobody waits for that.
    pub(crate) fn ask_by_the_way(&self, member: MemberIndex, at: u64) {
        let now = self.0.world.now();
        let disk = {
            let mut members = self.0.members.borrow_mut();
            let m = &mut members[member.at()];
            let due = m.speed.slow.is_some() && !m.speed.asking;
            if !due || now - m.speed.asked < ASKED_EVERY || !m.is_active() {
                return;
            }
            let Some(disk) = m.disk.clone() else { return };
            (m.speed.asking, m.speed.asked) = (true, now);
            (disk, m.seat)
        };
        let (this, (disk, seat)) = (self.clone(), disk);
        self.0.world.spawn("slow member", async move {
            let read = disk.read(at, Buf::new(BLOCK));
            let done = this.0.watch.wait(&this.0.world, member, Kind::Read, read).await;
            {
                let m: &mut Member<W::Disk> = &mut this.0.members.borrow_mut()[member.at()];
                // Another disk may have taken its place.
                if m.seat != seat {
                    return;
                }
                m.speed.asking = false;
            }
            if done.is_none_or(|(result, _)| result.is_ok()) {
                this.read_took(member, this.0.world.now() - now);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(reads: impl IntoIterator<Item = u64>) -> Speed {
        let mut speed = Speed::default();
        reads.into_iter().for_each(|micros| speed.add(micros));
        speed
    }

    #[test]
    fn one_in_a_hundred_may_take_longer() {
        let few = of((0..PEER_READS as u64 - 1).map(|_| 200));
        assert_eq!(few.percentile_99(), None);
        let rare = of((0..200).map(|i| if i == 50 { 1_000_000 } else { 200 }));
        assert_eq!(rare.percentile_99(), Some(256));
        let often = of((0..200).map(|i| if i % 50 == 0 { 1_000_000 } else { 200 }));
        assert_eq!(often.percentile_99(), Some(1 << 20));
        // What was long ago has faded.
        let later = of((0..10_000).map(|i| if i < 200 { 1_000_000 } else { 200 }));
        assert_eq!(later.percentile_99(), Some(256));
    }

    #[test]
    fn half_of_the_last_reads_must_be_slow() {
        let half = of((0..100).map(|i| if i % 2 == 0 { 500_000 } else { 200 }));
        assert!(!half.is_beyond(100_000));
        let pause = of((0..100).map(|i| if i > 92 { 500_000 } else { 200 }));
        assert!(!pause.is_beyond(100_000), "seven, one after the other");
        let slow = of((0..100).map(|i| if i > 90 { 500_000 } else { 200 }));
        assert!(slow.is_beyond(100_000));
        assert!(!of((0..15).map(|_| 500_000)).is_beyond(100_000), "too few");
    }

    #[test]
    fn the_others_say_what_is_slow() {
        assert_eq!(limit(vec![256]), None, "one alone says nothing");
        assert_eq!(limit(vec![256, 256]), Some(100_000), "there is a least");
        assert_eq!(limit(vec![256, 1 << 15]), Some(20 << 15), "of two the slower one");
        assert_eq!(
            limit(vec![256, 1 << 23, 256]),
            Some(100_000),
            "one of several may be slow, too"
        );
    }
}
