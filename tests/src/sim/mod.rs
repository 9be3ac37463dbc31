//! The simulator: the seams of the core in a form where everything follows from a seed, a crash
//! can come at any event, and what survives it is known.
//!
//! - [`disk`] members with volatile caches: the fault model is the table at its head;
//! - [`change`] what a write makes of a disk; [`lies`] what a disk does wrong without saying so;
//! - [`ring`] memory that survives the process; [`world`] executor, clock, randomness;
//! - [`image`] contents that are cheap to copy; here: ways to crash, and what survives.

pub mod change;
pub mod disk;
pub mod image;
pub mod lies;
pub mod ring;
#[cfg(test)]
mod tests;
pub mod world;

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::str::FromStr;
use std::time::Duration;

pub use disk::{Counters, DiskImage, Fault, SimDisk, path_of};
pub use image::{Image, PAGE};
pub use lies::Lie;
pub use ring::{SimRing, Store};
pub use world::{SimWorld, Simulation};

use crate::rng::{Rng, hash};

/// A way to crash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// The process is killed. What it had in flight ends by seed; a ring store may be cut.
    Process(u64),
    /// Power is lost and every write issued was kept.
    PowerAll,
    /// Power is lost, and with it every write that was not flushed.
    PowerNone,
    /// Power is lost; which unflushed writes are kept is by seed.
    PowerSubset(u64),
    /// The same, and kept writes may be torn at sectors.
    PowerTorn(u64),
}

impl Mode {
    /// Whether ring memory survives.
    #[must_use]
    pub fn is_process(self) -> bool {
        matches!(self, Mode::Process(_))
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mode::Process(seed) => write!(f, "process:{seed}"),
            Mode::PowerAll => f.write_str("power:all"),
            Mode::PowerNone => f.write_str("power:none"),
            Mode::PowerSubset(seed) => write!(f, "power:subset:{seed}"),
            Mode::PowerTorn(seed) => write!(f, "power:torn:{seed}"),
        }
    }
}

impl FromStr for Mode {
    type Err = String;
    fn from_str(text: &str) -> Result<Mode, String> {
        let seed = |s: &str| s.parse::<u64>().map_err(|e| format!("`{s}` is no seed: {e}"));
        match text.split(':').collect::<Vec<_>>()[..] {
            ["process"] => Ok(Mode::Process(0)),
            ["process", s] => Ok(Mode::Process(seed(s)?)),
            ["power", "all"] => Ok(Mode::PowerAll),
            ["power", "none"] => Ok(Mode::PowerNone),
            ["power", "subset", s] => Ok(Mode::PowerSubset(seed(s)?)),
            ["power", "torn", s] => Ok(Mode::PowerTorn(seed(s)?)),
            _ => Err(format!(
                "`{text}` is none of process:SEED, power:all, power:none, power:subset:SEED, \
                 power:torn:SEED"
            )),
        }
    }
}

/// Disks that are reset together: a controller, a cable, the power of a shelf.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reset {
    /// Which.
    pub disks: Vec<usize>,
    /// What operations fail with until they are back.
    pub fault: Fault,
    /// When they are back; None: not by themselves.
    pub back: Option<Duration>,
    /// They have to be opened again.
    pub reopen: bool,
}

/// Why a run ended before its main task.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stop {
    /// The crash that was asked for.
    Crash,
    /// Nothing can happen any more.
    Deadlock(String),
    /// It took more simulated time than allowed.
    Late(String),
    /// The world saw something forbidden.
    Violation(String),
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stop::Crash => f.write_str("crashed"),
            Stop::Deadlock(r) => write!(f, "deadlock: nothing can happen any more; {r}"),
            Stop::Late(r) => write!(f, "no end within the simulated time allowed; {r}"),
            Stop::Violation(r) => f.write_str(r),
        }
    }
}

/// The state of disks and rings before an event.
#[derive(Clone)]
pub struct Snapshot {
    /// The event that did not happen.
    pub event: u64,
    /// The mark ([`Simulation::mark`]) at that moment.
    pub mark: usize,
    disks: Vec<Rc<DiskImage>>,
    rings: BTreeMap<u128, Image>,
    boot: u64,
    host: u128,
    cut: Option<Store>,
}

impl Snapshot {
    /// What is found after a crash of this kind.
    #[must_use]
    pub fn survive(&self, mode: Mode) -> Survivors {
        if let Mode::Process(seed) = mode {
            let mut rings = self.rings.clone();
            if let Some(cut) = &self.cut
                && let Some(ring) = rings.get_mut(&cut.ring)
            {
                let mut rng = Rng::new(hash(&[seed, 3]));
                let done = rng.index(cut.bytes.len());
                ring.write(cut.at as u64, &cut.bytes[..done]);
            }
            Survivors {
                disks: self.disks.iter().map(|d| d.after_process_death(seed)).collect(),
                rings,
                boot: self.boot,
                host: self.host,
            }
        } else {
            Survivors {
                disks: self.disks.iter().map(|d| d.after_power_loss(mode)).collect(),
                rings: BTreeMap::new(),
                boot: self.boot + 1,
                host: self.host,
            }
        }
    }

    /// What is found after an orderly end of the process: nothing is cut, nothing is lost.
    #[must_use]
    pub fn leave(&self) -> Survivors {
        let disks = self.disks.iter().map(|d| (**d).clone()).collect();
        Survivors { disks, rings: self.rings.clone(), boot: self.boot, host: self.host }
    }

    /// A number that tells states apart.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut parts: Vec<u64> = self.disks.iter().map(|d| d.digest()).collect();
        for (id, image) in &self.rings {
            parts.extend([*id as u64, image.digest()]);
        }
        hash(&parts)
    }
}

/// What a world leaves to the next.
#[derive(Clone)]
pub struct Survivors {
    /// Disks.
    pub disks: Vec<DiskImage>,
    /// Rings.
    pub rings: BTreeMap<u128, Image>,
    /// Boots so far.
    pub boot: u64,
    /// The machine that they are found on.
    pub host: u128,
}

impl Survivors {
    /// New, empty disks.
    #[must_use]
    pub fn new(disks: usize, bytes: u64) -> Survivors {
        let disks = (0..disks).map(|id| DiskImage::empty(id, bytes)).collect();
        Survivors { disks, rings: BTreeMap::new(), boot: 1, host: 1 }
    }

    /// The same without some disks.
    #[must_use]
    pub fn without(&self, lost: &[usize]) -> Survivors {
        let disks = self.disks.iter().filter(|d| !lost.contains(&d.id)).cloned().collect();
        Survivors { disks, rings: self.rings.clone(), boot: self.boot, host: self.host }
    }

    /// The same in another order of the disks.
    #[must_use]
    pub fn shuffled(mut self, seed: u64) -> Survivors {
        Rng::new(seed).shuffle(&mut self.disks);
        self
    }
}
