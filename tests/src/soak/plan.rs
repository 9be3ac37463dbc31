//! What a seed stands for: the array, its lives, and in each the requests and the troubles. Every
//! part of a plan has a number, so that a failing one can be made smaller by leaving parts out.
//! Which disks a trouble befalls is decided when its life begins, from those that may be lost then.

use std::collections::BTreeSet;

use evenkeel_raid::geometry::Geometry;

use super::geometry;
use super::trouble::Kind;
use crate::rng::{Rng, hash};
use crate::subject::Setup;
use crate::workload::Op;

/// The number of a part of a plan.
pub type Item = u64;

const BLOCK: u64 = 4096;
/// Numbers of a life, of a client in it, and where those of its troubles begin.
const LIFE: u64 = 1000;
const CLIENT: u64 = 100;
const TROUBLES: u64 = 600;

/// When a trouble comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum When {
    /// After so many events of the life: most of these are in the start.
    Event(u64),
    /// So many events after the start was done.
    Served(u64),
}

/// A life of the array: from a start to a stop or a crash.
#[derive(Clone, Debug)]
pub struct Life {
    /// Which one.
    pub number: u64,
    /// How writes are acknowledged.
    pub durable: bool,
    /// Clients beside each other.
    pub clients: Vec<Vec<(Item, Op)>>,
    /// Troubles: when, what, and a seed for the rest.
    pub troubles: Vec<(Item, When, Kind, u64)>,
    /// Whether it ends with a scrub.
    pub scrub: bool,
    /// Whether it is stopped, if it gets that far.
    pub stop: bool,
    /// Whether more disks may fail than the array bears; the last life, then.
    pub beyond: bool,
}

/// All of a seed.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// The array.
    pub setup: Setup,
    /// Bytes of the device.
    pub size: u64,
    /// Its lives.
    pub lives: Vec<Life>,
    /// Further disks, which a person adds, and which take places; none: the members stay what they are.
    pub spares: usize,
    /// Bytes that every disk has beyond what the array uses at first: it may grow by them.
    pub larger: u64,
    /// Before which life it gets more columns, and how many.
    pub wider: Option<(u64, usize)>,
}

fn size_of(setup: &Setup) -> u64 {
    let log = if setup.journals > 0 { 0 } else { setup.log };
    let plan = Geometry::plan(
        setup.level.parse().expect("a level"),
        setup.data,
        setup.parity,
        setup.chunk,
        setup.member,
        Some(log),
        Some(setup.cache),
        setup.checksums,
    );
    plan.expect("it was planned before").stripes * setup.stripe()
}

struct Maker {
    rng: Rng,
    size: u64,
    stripe: u64,
    /// Places that requests gather at.
    spots: Vec<u64>,
}

impl Maker {
    /// A place for `len` bytes, a multiple of `grain`, often one where others are.
    fn place(&mut self, len: u64, grain: u64) -> u64 {
        let last = self.size - len;
        let at = if self.rng.one_in(4) {
            self.rng.below(last + 1)
        } else {
            let spot = self.spots[self.rng.index(self.spots.len())];
            spot + self.rng.below(3) * BLOCK
        };
        at.min(last) / grain * grain
    }

    fn blocks(&mut self) -> u64 {
        BLOCK * (1 + if self.rng.one_in(3) { self.rng.below(12) } else { self.rng.below(3) })
    }

    /// (at, bytes) of a change.
    fn range(&mut self) -> (u64, u64) {
        let largest = (1 << 20).min(self.size);
        match self.rng.below(12) {
            0 | 1 => {
                let len = (16 + self.rng.below(3 * BLOCK)).min(largest);
                (self.place(len, 1), len)
            }
            2 | 3 => {
                // Whole stripes, exactly or almost.
                let len = (self.stripe * (1 + self.rng.below(3))).min(largest);
                let at = self.place(len, BLOCK);
                let at = if self.rng.one_in(4) { at } else { at / self.stripe * self.stripe };
                (at, len)
            }
            4 => {
                let len = (self.rng.below(largest) + 1).next_multiple_of(BLOCK).min(largest);
                (self.place(len, BLOCK), len)
            }
            _ => {
                let len = self.blocks().min(largest);
                (self.place(len, BLOCK), len)
            }
        }
    }

    fn op(&mut self) -> Op {
        let fua = self.rng.one_in(8);
        match self.rng.below(100) {
            0..52 => {
                let (at, len) = self.range();
                Op::Write(at, len, fua)
            }
            52..60 => {
                let (at, len) = self.range();
                Op::Discard(at, len, fua)
            }
            60..66 => {
                let ranges = (0..2 + self.rng.below(3)).map(|_| {
                    let len = self.blocks().min(3 * BLOCK).min(self.size);
                    (self.place(len, BLOCK), len)
                });
                let (mut ranges, mut held): (Vec<(u64, u64)>, u64) = (ranges.collect(), 0);
                // The smallest arrays take no larger ones.
                ranges.retain(|(_, len)| {
                    held += len;
                    held <= (self.size / 2).max(*len)
                });
                Op::Transaction(ranges)
            }
            66..76 => {
                let (at, len) = self.range();
                Op::Read(at, len)
            }
            76..86 => Op::Flush,
            86..90 => Op::Destage,
            // Long enough for what is done in idle time.
            90..92 => Op::Sleep(100 + self.rng.below(6000)),
            _ => Op::Sleep(self.rng.below(8)),
        }
    }
}

fn kind(rng: &mut Rng) -> Kind {
    Kind::ALL[rng.index(Kind::ALL.len())]
}

/// What makes a disk fail and loses nothing that it had: what may happen to any number of them.
fn failure(rng: &mut Rng) -> Kind {
    [Kind::Gone, Kind::Errors, Kind::Hang, Kind::WriteErrors, Kind::Full][rng.index(5)]
}

fn when(rng: &mut Rng, beyond: bool) -> When {
    if rng.one_in(4) && !beyond {
        return When::Event(1 + rng.below(400));
    }
    let most = [60, 300, 1000, 3000][rng.index(if beyond { 2 } else { 4 })];
    When::Served(1 + rng.below(most))
}

impl Plan {
    /// What a seed stands for.
    #[must_use]
    pub fn new(seed: u64) -> Plan {
        let mut rng = Rng::new(hash(&[seed, 0x50a4]));
        let mut setup = geometry::draw(&mut rng);
        let count = 2 + rng.below(4);
        let mut own = Rng::new(hash(&[seed, 0x50a8]));
        let wider =
            (own.one_in(3) && setup.level != "raid1").then(|| (own.below(count), 1 + own.index(3)));
        if wider.is_some() {
            geometry::make_room_for_more(&mut setup);
        }
        let size = size_of(&setup);
        let beyond = rng.one_in(6);
        let lives = (0..count).map(|number| {
            let rng = Rng::new(hash(&[seed, 0x50a5, number]));
            let last = number + 1 == count;
            Plan::life(rng, number, &setup, size, beyond && last)
        });
        let spares = [0, 0, 1, 2][Rng::new(hash(&[seed, 0x50a6])).index(4)];
        let mut own = Rng::new(hash(&[seed, 0x50a7]));
        let larger = if own.one_in(3) { (4 + own.below(60)) * 65536 } else { 0 };
        Plan { seed, size, lives: lives.collect(), setup: setup.clone(), spares, larger, wider }
    }

    /// The same without anything that is done to the members.
    #[must_use]
    pub fn without_spares(mut self) -> Plan {
        self.spares = 0;
        self
    }

    /// The same with an array that never grows.
    #[must_use]
    pub fn without_growth(mut self) -> Plan {
        (self.larger, self.wider) = (0, None);
        self
    }

    fn life(mut rng: Rng, number: u64, setup: &Setup, size: u64, beyond: bool) -> Life {
        let base = number * LIFE;
        let stripes = size / setup.stripe();
        let spots = (0..3 + rng.below(4))
            .map(|_| rng.below(stripes.min(5)) * setup.stripe() + rng.below(setup.stripe()))
            .collect();
        let durable = rng.one_in(2);
        let clients = 1 + rng.below(4);
        let most = if rng.one_in(5) { 28 } else { 10 };
        let mut maker = Maker { rng: Rng::new(rng.draw()), size, stripe: setup.stripe(), spots };
        let mut list = |client: u64, ops: u64| -> Vec<(Item, Op)> {
            let first = base + 1 + client * CLIENT;
            (first..first + ops).map(|item| (item, maker.op())).collect()
        };
        let clients = (0..clients).map(|c| list(c, 1 + rng.below(most))).collect();
        let troubles = match (rng.below(4), beyond) {
            (_, true) => setup.parity as u64 + 1 + rng.below(3),
            (0, _) => 0,
            _ => 1 + rng.below(5),
        };
        let troubles = (0..troubles).map(|i| {
            let kind = if beyond { failure(&mut rng) } else { kind(&mut rng) };
            (base + TROUBLES + i, when(&mut rng, beyond), kind, rng.draw())
        });
        let troubles = troubles.collect();
        let (scrub, stop) = (rng.one_in(3), rng.one_in(3));
        Life { number, durable, clients, troubles, scrub, stop, beyond }
    }

    /// The numbers of all parts: lives, requests, troubles.
    #[must_use]
    pub fn items(&self) -> Vec<Item> {
        let of_life = |l: &Life| {
            let ops = l.clients.iter().flatten().map(|(item, _)| *item);
            let own = std::iter::once(l.number * LIFE);
            own.chain(ops).chain(l.troubles.iter().map(|t| t.0)).collect::<Vec<_>>()
        };
        self.lives.iter().flat_map(of_life).collect()
    }

    /// The same without some of its parts.
    #[must_use]
    pub fn without(mut self, items: &BTreeSet<Item>) -> Plan {
        self.lives.retain(|l| !items.contains(&(l.number * LIFE)));
        for life in &mut self.lives {
            life.clients.iter_mut().for_each(|c| c.retain(|(item, _)| !items.contains(item)));
            life.clients.retain(|c| !c.is_empty());
            life.troubles.retain(|t| !items.contains(&t.0));
        }
        self
    }
}

/// Numbers as ranges: `4-9,12`.
#[must_use]
pub fn ranges(items: &BTreeSet<Item>) -> String {
    let mut runs: Vec<(Item, Item)> = Vec::new();
    for item in items {
        match runs.last_mut() {
            Some((_, to)) if *to + 1 == *item => *to = *item,
            _ => runs.push((*item, *item)),
        }
    }
    let one = |(a, b): &(Item, Item)| if a == b { a.to_string() } else { format!("{a}-{b}") };
    runs.iter().map(one).collect::<Vec<_>>().join(",")
}

/// What [`ranges`] makes a text of.
///
/// # Errors
/// If it is no such text.
pub fn parse_ranges(text: &str) -> Result<BTreeSet<Item>, String> {
    let number = |s: &str| s.parse::<Item>().map_err(|e| format!("`{s}`: {e}"));
    let mut items = BTreeSet::new();
    for part in text.split(',').filter(|p| !p.is_empty()) {
        match part.split_once('-') {
            Some((a, b)) => items.extend(number(a)?..=number(b)?),
            None => {
                items.insert(number(part)?);
            }
        }
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_can_be_left_out() {
        let plan = Plan::new(7);
        let all: BTreeSet<Item> = plan.items().into_iter().collect();
        assert_eq!(all.len(), plan.items().len(), "every number is given once");
        assert_eq!(parse_ranges(&ranges(&all)), Ok(all.clone()));
        let half: BTreeSet<Item> =
            all.iter().copied().filter(|i| i % 2 == 0 && i % LIFE != 0).collect();
        let left: BTreeSet<Item> = plan.clone().without(&half).items().into_iter().collect();
        assert!(left.is_disjoint(&half) && left.union(&half).count() == all.len());
        assert!(plan.without(&all).lives.is_empty());
    }

    #[test]
    fn no_life_has_more_changes_than_the_oracle_takes() {
        for seed in 0..200 {
            for life in Plan::new(seed).lives {
                assert!(life.clients.iter().map(Vec::len).sum::<usize>() <= 120, "{seed}");
            }
        }
    }
}
