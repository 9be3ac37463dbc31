//! The shape of an array, drawn from a seed: every level, up to twenty members, chunks of 4 to 256
//! KiB, log and cache from the smallest that work, with and without checksums and journal devices.

use evenkeel_raid::codec::Level;
use evenkeel_raid::geometry::Geometry;

use crate::evenkeel::on_journals;
use crate::rng::Rng;
use crate::subject::Setup;

/// Members at most.
const MOST: u64 = 20;
/// Bytes of the device that is aimed at: what is small is tried more often.
const SIZE: u64 = 1 << 20;
/// Bytes that the size of a member is a multiple of.
const GRAIN: u64 = 65536;

/// A shape with the smallest members on which there are so many stripes.
fn smallest(
    level: Level,
    (data, parity): (usize, usize),
    chunk: u64,
    (log, cache): (u64, u64),
    checksums: bool,
    stripes: u64,
) -> Setup {
    let plan = |member| {
        let plan =
            Geometry::plan(level, data, parity, chunk, member, Some(log), Some(cache), checksums)
                .ok();
        plan.filter(|g| g.stripes >= stripes)
    };
    let (mut below, mut fits) = (0, GRAIN);
    while plan(fits).is_none() {
        (below, fits) = (fits, fits * 2);
    }
    while fits - below > GRAIN {
        let middle = (below + fits) / 2 / GRAIN * GRAIN;
        if plan(middle).is_some() { fits = middle } else { below = middle }
    }
    let (member, log) = (fits, plan(fits).expect("it fits").log_rows * 4096);
    let (name, journals, journal) = (level.as_str(), 0, 0);
    Setup {
        name,
        level: name,
        data,
        parity,
        chunk,
        member,
        log,
        cache,
        journals,
        journal,
        checksums,
    }
}

/// Draws a shape.
#[must_use]
pub fn draw(rng: &mut Rng) -> Setup {
    let few = |rng: &mut Rng, most: u64| if rng.one_in(4) { rng.below(most) } else { rng.below(4) };
    let (level, k, m) = match rng.below(10) {
        0 | 1 => (Level::Raid5, 2 + few(rng, MOST - 2), 1),
        2..5 => (Level::Raid6, 2 + few(rng, MOST - 3), 2),
        5 | 6 => (Level::Evenodd, 2 + few(rng, MOST - 3), 2),
        7 | 8 => {
            let m = 1 + rng.below(5);
            (Level::Rs, 1 + few(rng, MOST - m), m)
        }
        _ => (Level::Raid1, 1, 1 + rng.below(3)),
    };
    let mut chunk = 4096 << if rng.one_in(4) { rng.below(7) } else { rng.below(3) };
    while k * chunk > SIZE {
        chunk /= 2;
    }
    let stripes = (SIZE / (k * chunk)).clamp(3, 4 + rng.below(24));
    // Both are rounded up to the least that works.
    let log = 4096 * if rng.one_in(2) { 1 } else { 1 + rng.below(600) };
    let cache = 4096 * if rng.one_in(2) { 1 } else { 1 + rng.below(1000) };
    let checksums = !rng.one_in(5);
    let of = (k as usize, m as usize);
    let setup = smallest(level, of, chunk, (log, cache), checksums, stripes);
    match rng.below(8) {
        0 => on_journals(setup.name, setup, 1 + rng.index(3)),
        _ => setup,
    }
}

/// A larger log and cache: those of a shape with more columns must not be smaller than works. And some
/// stripes more, or what its pages take would be more than it adds.
pub(super) fn make_room_for_more(setup: &mut Setup) {
    let more = setup.log.next_multiple_of(GRAIN);
    setup.member += (16 * setup.chunk).next_multiple_of(GRAIN);
    setup.log += more;
    setup.cache *= 2;
    if setup.journals > 0 {
        setup.journal += more;
    } else {
        setup.member += more;
    }
}

/// A shape whose log is as small as it may be, on devices of its own, and whose stripes are so large
/// that the Places of some take more of it than is spared.
#[must_use]
pub fn draw_of_small_log(rng: &mut Rng) -> Setup {
    let of = (1, 4 + rng.index(2));
    let checksums = rng.one_in(2);
    let on_members = smallest(Level::Rs, of, 256 << 10, (4096, 12 << 20), checksums, 130);
    on_journals(on_members.name, on_members, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_and_size_is_drawn() {
        let all: Vec<Setup> = (0..400).map(|s| draw(&mut Rng::new(s))).collect();
        for level in ["raid5", "raid6", "evenodd", "rs", "raid1"] {
            assert!(all.iter().any(|s| s.level == level), "{level}");
        }
        assert!(all.iter().any(|s| s.members() >= 18));
        assert!(all.iter().all(|s| s.members() <= 20));
        for chunk in (0..7).map(|i| 4096u64 << i) {
            assert!(all.iter().any(|s| s.chunk == chunk), "{chunk}");
        }
        assert!(all.iter().any(|s| s.journals == 3) && all.iter().any(|s| !s.checksums));
    }
}
