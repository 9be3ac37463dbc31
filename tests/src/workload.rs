//! Workloads: scripts of requests made from a name, a geometry and a seed.

use std::time::Duration;

use crate::rng::{Rng, hash, hash_text};
use crate::sim::{Fault, Reset};
use crate::subject::Setup;

/// One thing that a client does; it waits for its end before the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Write (at, bytes, FUA).
    Write(u64, u64, bool),
    /// Write ranges (at, bytes) in one transaction.
    Transaction(Vec<(u64, u64)>),
    /// Discard (at, bytes, FUA).
    Discard(u64, u64, bool),
    /// Read (at, bytes) and compare.
    Read(u64, u64),
    /// Flush.
    Flush,
    /// Destage everything.
    Destage,
    /// Do nothing for so many simulated milliseconds.
    Sleep(u64),
    /// Break a disk from now on.
    Break(usize, Fault),
    /// Reset disks; who does so does not wait until they are back.
    Reset(Reset),
    /// Let the next read of a disk fail.
    BadRead(usize),
    /// Fail a member by order.
    FailMember(usize),
}

/// A part of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Clients beside each other.
    Clients(Vec<Vec<Op>>),
    /// Stop and start.
    Restart,
    /// Stop: only at the end.
    Stop,
}

/// What is done before the first event that counts, and after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// Done by one client, destaged and stopped before the recording begins.
    pub prepare: Vec<Op>,
    /// Recorded.
    pub phases: Vec<Phase>,
}

/// Names of all workloads.
pub const WORKLOADS: [&str; 19] = [
    "partial",
    "whole",
    "overlap",
    "unaligned",
    "discard",
    "fua",
    "destage",
    "full",
    "restart",
    "fail",
    "fail-destage",
    "idle",
    "large",
    "badread",
    "wrap",
    "transaction",
    "transaction-fail",
    "reset",
    "reset-destage",
];

struct Maker<'a> {
    setup: &'a Setup,
    rng: Rng,
    size: u64,
    largest: u64,
    /// Writes of almost a stripe that fill the log once.
    turns: u64,
}

const BLOCK: u64 = 4096;

impl Maker<'_> {
    fn stripe(&self) -> u64 {
        self.setup.stripe()
    }

    /// A write of one to three blocks somewhere in stripes `from..to`.
    fn partial(&mut self, from: u64, to: u64) -> Op {
        let blocks = 1 + self.rng.below(3);
        let room = (to - from) * self.stripe() / BLOCK - blocks + 1;
        let at = from * self.stripe() + self.rng.below(room) * BLOCK;
        Op::Write(at, blocks * BLOCK, false)
    }

    fn whole(&self, stripe: u64) -> Op {
        Op::Write(stripe * self.stripe(), self.stripe(), false)
    }

    fn odd(&mut self, to: u64) -> Op {
        let len = 16 + self.rng.below(3 * BLOCK);
        let at = self.rng.below(to * self.stripe() - len);
        Op::Write(at / 16 * 16 + 3, len / 16 * 16 + 5, false)
    }

    /// One to three blocks in each of these stripes, and now and then an odd range in one.
    fn together(&mut self, stripes: &[u64]) -> Op {
        let mut ranges = Vec::new();
        for s in stripes {
            let Op::Write(at, len, _) = self.partial(*s, s + 1) else { unreachable!() };
            ranges.push((at, len));
        }
        if self.rng.one_in(2) {
            let at = stripes[0] * self.stripe() + self.rng.below(self.stripe() - BLOCK);
            ranges.push((at, 8 + self.rng.below(BLOCK - 8)));
        }
        Op::Transaction(ranges)
    }

    /// A whole stripe and parts of two others.
    fn whole_together(&mut self, whole: u64, parts: [u64; 2]) -> Op {
        let Op::Transaction(mut ranges) = self.together(&parts) else { unreachable!() };
        ranges.insert(0, (whole * self.stripe(), self.stripe()));
        Op::Transaction(ranges)
    }

    fn read(&mut self, to: u64) -> Op {
        let len = (1 + self.rng.below(4)) * BLOCK;
        Op::Read(self.rng.below((to * self.stripe() - len) / BLOCK) * BLOCK, len)
    }

    fn partials(&mut self, n: usize, from: u64, to: u64) -> Vec<Op> {
        (0..n).map(|_| self.partial(from, to)).collect()
    }

    fn filled(&self, stripes: u64) -> Vec<Op> {
        (0..stripes).map(|s| self.whole(s)).collect()
    }

    fn disk(&mut self) -> usize {
        // A journal device, too, where the log survives it.
        let journals = if self.setup.journals_out() > 0 { self.setup.journals } else { 0 };
        self.rng.index(self.setup.members() + journals)
    }

    /// More disks than may be out, all of them or some, for longer than the grace: so it shows that
    /// they failed together, and none of them is failed.
    fn reset(&mut self) -> Op {
        let (n, m) = (self.setup.members(), self.setup.parity);
        let all = n + self.setup.journals;
        let mut disks: Vec<usize> = (0..all).collect();
        if self.rng.one_in(2) {
            disks.truncate(n);
            self.rng.shuffle(&mut disks);
            disks.truncate(m + 1 + self.rng.index(n - m));
        }
        let back = Some(Duration::from_millis(400 + self.rng.below(4000)));
        Op::Reset(Reset { disks, fault: self.fault(), back, reopen: self.rng.one_in(2) })
    }

    fn fault(&mut self) -> Fault {
        if self.rng.one_in(2) { Fault::Gone } else { Fault::Io }
    }
}

fn clients(list: impl IntoIterator<Item = Vec<Op>>) -> Phase {
    Phase::Clients(list.into_iter().collect())
}

/// The script of this name.
///
/// # Panics
/// If there is no such workload.
#[must_use]
pub fn script(name: &str, setup: &Setup, size: u64, largest: u64, seed: u64) -> Script {
    let rng = Rng::new(hash(&[seed, hash_text(name), hash_text(setup.name)]));
    let turns = setup.log / setup.chunk + 8;
    let mut m = Maker { setup, rng, size, largest, turns };
    let mut script = make(name, &mut m);
    if m.rng.one_in(2) {
        script.phases.push(Phase::Stop);
    }
    script
}

fn make(name: &str, m: &mut Maker<'_>) -> Script {
    let mut prepare = Vec::new();
    let phases = match name {
        "partial" => {
            prepare = m.filled(3);
            let mut ops = m.partials(3, 0, 3);
            ops.push(m.read(3));
            ops.push(Op::Flush);
            ops.extend(m.partials(2, 0, 4));
            ops.push(Op::Destage);
            ops.extend(m.partials(2, 0, 2));
            ops.push(m.read(4));
            vec![clients([ops])]
        }
        "whole" => {
            prepare = vec![m.whole(1)];
            let a = vec![m.whole(0), m.whole(1), Op::Flush, m.whole(0)];
            let b = vec![m.whole(2), m.read(4), m.whole(1), m.whole(3)];
            vec![clients([a, b])]
        }
        "overlap" => {
            prepare = m.filled(2);
            let mut a = vec![m.whole(0), m.whole(1)];
            a.push(m.whole(0));
            let mut b = m.partials(3, 0, 2);
            b.insert(2, Op::Flush);
            let mut c = m.partials(2, 0, 3);
            c.push(m.read(3));
            c.push(m.partial(0, 1));
            vec![clients([a, b, c])]
        }
        "unaligned" => {
            prepare = m.filled(1);
            let a = vec![m.odd(3), m.odd(1), Op::Flush, m.odd(3)];
            let b = vec![m.odd(2), m.read(3), m.odd(2), m.odd(3)];
            vec![clients([a, b])]
        }
        "discard" => {
            prepare = m.filled(5);
            let s = m.stripe();
            let a = vec![
                Op::Discard(s, s, false),
                m.partial(1, 2),
                Op::Discard(BLOCK, 2 * BLOCK, false),
                Op::Flush,
                Op::Discard(2 * s + 100, s, m.rng.one_in(2)),
                m.whole(2),
            ];
            let b =
                vec![m.partial(3, 5), Op::Discard(3 * s, 2 * s, false), m.partial(3, 5), m.read(5)];
            vec![clients([a, b]), clients([vec![Op::Destage, m.partial(0, 2)]])]
        }
        "fua" => {
            prepare = m.filled(2);
            let fua = |op: Op| match op {
                Op::Write(at, len, _) => Op::Write(at, len, true),
                other => other,
            };
            let a = vec![m.partial(0, 2), fua(m.partial(0, 2)), m.partial(0, 3), fua(m.whole(1))];
            let b = vec![m.partial(0, 2), Op::Flush, fua(m.odd(2)), m.partial(0, 2)];
            let c = vec![Op::Flush, m.partial(2, 4), Op::Flush];
            vec![clients([a, b, c])]
        }
        "destage" => {
            prepare = m.filled(4);
            let mut a = m.partials(3, 0, 4);
            a.push(Op::Destage);
            a.extend(m.partials(1, 0, 4));
            a.push(Op::Destage);
            let mut b = m.partials(4, 0, 4);
            b.push(m.read(4));
            vec![clients([a, b])]
        }
        "full" => {
            prepare = m.filled(3);
            let stripes = m.size / m.stripe();
            let a = (0..10).map(|_| m.partial(0, stripes)).collect::<Vec<_>>();
            let most = m.largest.min(m.size / 2) / BLOCK;
            let b = (0..8).map(|_| {
                let blocks = 1 + m.rng.below(most);
                let at = m.rng.below(m.size / BLOCK - blocks + 1) * BLOCK;
                Op::Write(at, blocks * BLOCK, false)
            });
            let b = b.collect();
            vec![clients([a, b])]
        }
        "wrap" => {
            // One cold block stays dirty while the log goes round over it.
            prepare = m.filled(4);
            let cold = m.rng.below(m.stripe() / BLOCK) * BLOCK;
            let mut a = vec![Op::Write(cold, BLOCK, false)];
            for i in 0..m.turns {
                let stripe = 1 + i % 3;
                a.push(Op::Write(stripe * m.stripe() + BLOCK, m.stripe() - BLOCK, false));
            }
            vec![clients([a])]
        }
        "restart" => {
            let mut phases = Vec::new();
            for _ in 0..3 {
                let mut ops = m.partials(2, 0, 2);
                ops.push(m.whole(2));
                phases.push(clients([ops, vec![m.odd(2)]]));
                phases.push(Phase::Restart);
            }
            phases.push(clients([vec![m.read(3), m.partial(0, 3)]]));
            phases
        }
        "fail" => {
            prepare = m.filled(3);
            let (disk, fault) = (m.disk(), m.fault());
            let mut a = m.partials(3, 0, 3);
            let broken =
                if m.rng.one_in(4) { Op::FailMember(disk) } else { Op::Break(disk, fault) };
            a.insert(m.rng.index(3), broken);
            a.push(Op::Flush);
            a.push(m.partial(0, 4));
            let b = vec![m.whole(1), m.partial(0, 2), m.read(3), m.whole(3), m.read(4)];
            vec![clients([a, b]), clients([vec![Op::Destage, m.partial(0, 3)]])]
        }
        "fail-destage" => {
            prepare = m.filled(4);
            let (disk, fault) = (m.disk(), m.fault());
            let a = vec![m.partial(0, 2), m.partial(1, 4), m.partial(0, 4), Op::Destage, Op::Flush];
            let b = vec![
                m.partial(0, 4),
                Op::Sleep(m.rng.below(3)),
                Op::Break(disk, fault),
                m.partial(0, 4),
                m.read(4),
            ];
            vec![clients([a, b]), clients([vec![m.partial(0, 4), Op::Destage]])]
        }
        "idle" => {
            prepare = m.filled(2);
            let a = vec![m.partial(0, 2), Op::Sleep(400), m.partial(0, 2), Op::Sleep(8000)];
            vec![clients([a]), clients([vec![m.partial(0, 3), m.read(3)]])]
        }
        "large" => {
            prepare = m.filled(2);
            let len = m.largest.min(m.size / 2) / BLOCK * BLOCK;
            let at = m.rng.below((m.size - len) / BLOCK) * BLOCK;
            let a = vec![Op::Write(0, len, false), m.partial(0, 3), Op::Write(at, len, false)];
            let b = vec![m.whole(1), m.partial(0, 2), m.odd(3)];
            vec![clients([a, b])]
        }
        "badread" => {
            prepare = m.filled(3);
            let disk = m.disk();
            let a = vec![m.partial(0, 3), Op::BadRead(disk), m.read(3), m.partial(0, 3)];
            let b = vec![m.partial(0, 3), Op::Destage, m.read(3), Op::Read(0, 2 * m.stripe())];
            vec![clients([a, b])]
        }
        "transaction" => {
            prepare = m.filled(4);
            let s = m.stripe();
            let a = vec![m.together(&[0, 1, 3]), m.whole_together(1, [2, 4]), Op::Flush];
            let b = vec![m.whole(1), m.together(&[1, 2]), Op::Discard(2 * s, 2 * s, false)];
            vec![clients([a, b]), clients([vec![m.together(&[0, 2]), Op::Destage]])]
        }
        "transaction-fail" => {
            prepare = m.filled(3);
            let (disk, fault) = (m.disk(), m.fault());
            let mut a = vec![m.together(&[0, 1, 2]), m.whole_together(0, [1, 3]), Op::Flush];
            let broken =
                if m.rng.one_in(4) { Op::FailMember(disk) } else { Op::Break(disk, fault) };
            a.insert(m.rng.index(2), broken);
            let b = vec![m.partial(0, 3), m.whole(1), m.together(&[0, 2]), m.read(4)];
            vec![clients([a, b])]
        }
        "reset" => {
            prepare = m.filled(3);
            let mut a = m.partials(2, 0, 3);
            a.extend([m.reset(), m.partial(0, 4), Op::Flush, m.partial(0, 4)]);
            let b = vec![m.whole(1), m.partial(0, 2), m.odd(3), m.whole(3), m.read(4)];
            let mut again = vec![m.partial(0, 3), m.whole(0)];
            if m.rng.one_in(2) {
                again.push(m.reset());
            }
            again.extend([m.read(4), m.partial(0, 3), Op::Flush]);
            vec![clients([a, b]), clients([again])]
        }
        "reset-destage" => {
            prepare = m.filled(4);
            let mut a = m.partials(4, 0, 4);
            a.extend([Op::Destage, m.partial(0, 4), Op::Flush]);
            let (wait, reset) = (Op::Sleep(m.rng.below(4)), m.reset());
            let b = vec![m.partial(0, 4), wait, reset, m.partial(0, 4), Op::Flush, m.read(4)];
            vec![clients([a, b]), clients([vec![m.partial(0, 4), Op::Destage]])]
        }
        other => panic!("there is no workload `{other}`"),
    };
    Script { prepare, phases }
}

/// A few more requests, for the life after a crash: clients beside each other.
#[must_use]
pub fn more(setup: &Setup, size: u64, seed: u64) -> Vec<Vec<Op>> {
    let rng = Rng::new(hash(&[seed, 0x3037]));
    let mut m = Maker { setup, rng, size, largest: size, turns: 0 };
    let stripes = (size / m.stripe()).min(4);
    let mut a = vec![m.partial(0, stripes), m.partial(0, stripes), Op::Flush];
    let mut b = vec![m.odd(stripes), m.whole(0)];
    let s = m.rng.below(stripes);
    a.push(m.whole(s));
    match m.rng.below(4) {
        0 => b.push(Op::Discard(s * m.stripe(), m.stripe(), false)),
        1 => b.push(Op::Destage),
        2 => b.push(Op::Write(s * m.stripe(), BLOCK, true)),
        _ => b.push(m.read(stripes)),
    }
    vec![a, b]
}
