//! Crash enumeration: run a workload once, keep what would survive a crash at each of its events,
//! and start from each of them, in every way to crash and with every allowed set of lost disks.
//!
//! - [`run`] a scenario's run without a crash, and its crash states;
//! - [`case`] one crash state: start, compare, crash again, lose more, start again;
//! - `lies` the same with disks that are wrong without a word, and no false alarm without;
//! - [`sweep`] all of them, over threads, with totals and the commands that replay failures.

pub mod case;
mod lies;
pub mod run;
pub mod sweep;

use std::fmt;

use crate::sim::Mode;
use crate::subject::Setup;

/// A workload on a geometry, by seed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scenario {
    /// Shape of the array.
    pub setup: Setup,
    /// Which workload.
    pub workload: &'static str,
    /// Seed of everything.
    pub seed: u64,
    /// Whether writes are acknowledged when durable, or from the ring.
    pub durable: bool,
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "--geometry {} --workload {} --ack {} --seed {}",
            self.setup.name,
            self.workload,
            if self.durable { "durable" } else { "cached" },
            self.seed
        )
    }
}

/// A crash: when, how, and which disks are lost with it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Crash {
    /// The first event that did not happen.
    pub event: u64,
    /// How.
    pub mode: Mode,
    /// Disks that are not there at the next start, ascending.
    pub lost: Vec<usize>,
    /// Another choice of all that follows.
    pub salt: u64,
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--crash {} --mode {}", self.event, self.mode)?;
        let lost: Vec<String> = self.lost.iter().map(ToString::to_string).collect();
        if !lost.is_empty() {
            write!(f, " --lose {}", lost.join(","))?;
        }
        if self.salt == 0 { Ok(()) } else { write!(f, " --salt {}", self.salt) }
    }
}

/// All sets of disks that may be lost beside those in `taken` under the promise: members up to m,
/// and journal devices as many as the log survives.
#[must_use]
pub fn losses(setup: &Setup, taken: &[usize]) -> Vec<Vec<usize>> {
    let n = setup.members();
    let of_members = taken.iter().filter(|d| **d < n).count();
    let members = subsets(n, setup.parity.saturating_sub(of_members), taken);
    let out = setup.journals_out().saturating_sub(taken.len() - of_members);
    let not_journals: Vec<usize> = (0..n).chain(taken.iter().copied()).collect();
    let journals = subsets(n + setup.journals, out, &not_journals);
    let both = |m: &Vec<usize>| {
        let with = |j: &Vec<usize>| m.iter().chain(j).copied().collect();
        journals.iter().map(with).collect::<Vec<_>>()
    };
    members.iter().flat_map(both).collect()
}

/// All sets of at most `most` of the disks `0..n` without those in `taken`, smallest first.
#[must_use]
pub fn subsets(n: usize, most: usize, taken: &[usize]) -> Vec<Vec<usize>> {
    let free: Vec<usize> = (0..n).filter(|i| !taken.contains(i)).collect();
    let mut sets: Vec<Vec<usize>> = (0u32..1 << free.len())
        .filter(|bits| bits.count_ones() as usize <= most)
        .map(|bits| {
            let chosen = free.iter().enumerate().filter(|(i, _)| bits >> i & 1 == 1);
            chosen.map(|(_, d)| *d).collect()
        })
        .collect();
    sets.sort_by_key(Vec::len);
    sets
}
