//! What befalls the disks of a running array: a fault of the model (the table at the head of
//! [`crate::sim::disk`]), on which disk, and where on it.

use std::fmt;
use std::time::Duration;

use crate::checkers::parity::areas_of;
use crate::rng::Rng;
use crate::sim::{Fault, Lie, PAGE, Reset, SimWorld};

/// A kind of trouble.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// Every operation fails: the disk is gone.
    Gone,
    /// Every operation fails with an error.
    Errors,
    /// No operation ends.
    Hang,
    /// Writes fail.
    WriteErrors,
    /// Flushes fail, and lose what they should have kept.
    FlushErrors,
    /// Writes find no room.
    Full,
    /// A person fails it.
    Order,
    /// One read fails.
    BadRead,
    /// Some sectors cannot be read until they are written.
    BadSectors,
    /// Bytes change by themselves.
    BitRot,
    /// The next write of a block is not done.
    LostWrite,
    /// No write is done for a while.
    LosesWrites,
    /// The next write of a block goes to another.
    MisdirectedWrite,
    /// The next read of a block gives another.
    MisdirectedRead,
    /// It takes much longer for a while.
    Slow,
    /// More disks than may be lost are reset together, and come back.
    Reset,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 16] = [
        Kind::Gone,
        Kind::Errors,
        Kind::Hang,
        Kind::WriteErrors,
        Kind::FlushErrors,
        Kind::Full,
        Kind::Order,
        Kind::BadRead,
        Kind::BadSectors,
        Kind::BitRot,
        Kind::LostWrite,
        Kind::LosesWrites,
        Kind::MisdirectedWrite,
        Kind::MisdirectedRead,
        Kind::Slow,
        Kind::Reset,
    ];

    /// Whether the member may be taken out for it.
    #[must_use]
    pub fn fails(self) -> bool {
        self <= Kind::Order
    }

    /// Whether the disk is wrong without a word.
    #[must_use]
    pub fn lies(self) -> bool {
        (Kind::BitRot..=Kind::MisdirectedRead).contains(&self)
    }

    /// Whether a disk may hold less than it said, though it will say no lie.
    #[must_use]
    pub fn loses_cache(self) -> bool {
        matches!(self, Kind::Reset | Kind::FlushErrors)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Gone => "disk gone",
            Kind::Errors => "all operations fail",
            Kind::Hang => "disk hangs",
            Kind::WriteErrors => "writes fail",
            Kind::FlushErrors => "flushes fail",
            Kind::Full => "no room (ENOSPC)",
            Kind::Order => "failed by order",
            Kind::BadRead => "one bad read",
            Kind::BadSectors => "bad sectors",
            Kind::BitRot => "bit rot",
            Kind::LostWrite => "lost write",
            Kind::LosesWrites => "loses all writes for a while",
            Kind::MisdirectedWrite => "misdirected write",
            Kind::MisdirectedRead => "misdirected read",
            Kind::Slow => "slow disk",
            Kind::Reset => "disks reset",
        })
    }
}

/// Trouble of one disk, or, for a reset, of several.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trouble {
    /// What.
    pub kind: Kind,
    /// The disk.
    pub disk: usize,
    /// Disks that are reset.
    pub reset: Option<Reset>,
    /// Decides where and how much.
    pub salt: u64,
}

/// Pages of a disk that something was written to, outside its superblocks.
fn used(world: &SimWorld, disk: usize) -> Vec<u64> {
    let image = world.image_of(disk);
    let Some(areas) = areas_of(&image) else { return Vec::new() };
    let view = image.view();
    let all = areas.log.into_iter().chain([areas.pages, areas.slots]);
    let pages = all.flat_map(|a| a.start / PAGE as u64..a.end / PAGE as u64);
    pages.filter(|p| view.page(*p as usize).is_some()).map(|p| p * PAGE as u64).collect()
}

fn later(world: &SimWorld, salt: u64, what: impl FnOnce(&SimWorld) + 'static) {
    use evenkeel_journal::World;
    let (own, after) = (world.clone(), Duration::from_micros(200 + salt % 50_000));
    world.spawn("the trouble ends", async move {
        own.sleep(after).await;
        what(&own);
    });
}

impl Trouble {
    /// It happens now. False if there was nothing that it could happen to.
    pub fn happen(&self, world: &SimWorld) -> bool {
        let (disk, mut rng) = (self.disk, Rng::new(self.salt));
        if !world.has_disk(disk) {
            return false;
        }
        let fault = |fault| {
            world.set_fault(disk, Some(fault));
            true
        };
        match self.kind {
            Kind::Gone => fault(Fault::Gone),
            Kind::Errors => fault(Fault::Io),
            Kind::Hang => fault(Fault::Hang),
            Kind::WriteErrors => fault(Fault::Writes),
            Kind::FlushErrors => fault(Fault::Flushes),
            Kind::Full => fault(Fault::Full),
            Kind::BadRead => {
                world.add_bad_read(disk);
                true
            }
            Kind::LosesWrites => {
                world.lose_writes(disk, true);
                later(world, self.salt, move |world| world.lose_writes(disk, false));
                true
            }
            Kind::Slow => {
                // So that no operation takes longer than the bound, which would fail the disk.
                world.slow_down(disk, [10, 30, 100][rng.index(3)]);
                later(world, self.salt, move |world| world.slow_down(disk, 1));
                true
            }
            Kind::Reset => {
                if let Some(reset) = &self.reset {
                    world.reset(reset);
                }
                self.reset.is_some()
            }
            // By whoever has the array in hand.
            Kind::Order => true,
            _ => self.somewhere(world, &mut rng),
        }
    }

    /// Trouble with some of the blocks in use.
    fn somewhere(&self, world: &SimWorld, rng: &mut Rng) -> bool {
        let (disk, pages) = (self.disk, used(world, self.disk));
        if pages.is_empty() {
            return false;
        }
        let pick = |rng: &mut Rng| pages[rng.index(pages.len())];
        match self.kind {
            Kind::BadSectors => {
                let (at, burst) = (rng.index(pages.len()), 1 + rng.index(8));
                for page in pages.iter().skip(at).take(burst) {
                    world.add_bad_pages(disk, *page, PAGE as u64);
                }
            }
            Kind::BitRot => {
                for _ in 0..=rng.below(5) {
                    let at = pick(rng) + rng.below(PAGE as u64 - 8);
                    world.corrupt(disk, at, &rng.draw().to_le_bytes());
                }
            }
            Kind::LostWrite => world.lie(disk, Lie::LostWrite(pick(rng))),
            Kind::MisdirectedWrite => {
                world.lie(disk, Lie::MisdirectedWrite(pick(rng), pick(rng)));
            }
            _ => world.lie(disk, Lie::MisdirectedRead(pick(rng), pick(rng))),
        }
        true
    }
}
