//! What a person does to the members of a running array: adds disks, replaces members, takes disks
//! out. Only places of members that may be lost in a life are touched, so that the rule of the
//! voyage holds whichever disk is in such a place.

use std::collections::BTreeSet;
use std::time::Duration;

use evenkeel_journal::{MemberIndex, World};
use evenkeel_raid::ErrorKind;
use evenkeel_raid::status::{MemberState, MemberStatus};

use super::life::Cast;
use crate::evenkeel::Evenkeel;
use crate::rng::Rng;
use crate::sim::{SimDisk, SimWorld, path_of};

/// What was done, and how it ended.
pub(super) struct Done {
    pub what: &'static str,
    pub how: Result<(), ErrorKind>,
}

fn in_use(members: &[MemberStatus], disk: usize) -> bool {
    members.iter().any(|m| m.path == path_of(disk) && m.state.bears_epochs())
}

/// Does something to the members now. None if there was nothing to do.
pub(super) async fn give(
    world: &SimWorld,
    device: &Evenkeel,
    cast: &Cast,
    n: usize,
    rng: &mut Rng,
) -> Option<Done> {
    let array = device.array();
    let members = array.status().members;
    let disks = world.disks();
    let free: Vec<&SimDisk> = disks.iter().filter(|d| !in_use(&members, d.id())).collect();
    let any = |rng: &mut Rng| free.get(rng.index(free.len().max(1))).map(|d| (*d).clone());
    match rng.below(8) {
        0..=3 => {
            let disk = any(rng)?;
            let what = if disk.id() < n { "a disk comes back" } else { "a disk is added" };
            Some(Done { what, how: array.add_disk(disk).await.map(|_| ()).map_err(|e| e.kind) })
        }
        4 | 5 => {
            let lost: BTreeSet<usize> = cast.victims.iter().chain(&cast.taken).copied().collect();
            let seats: Vec<usize> = lost.into_iter().filter(|d| *d < n).collect();
            let seat = *seats.get(rng.index(seats.len().max(1)))?;
            let spare = members.iter().find(|m| m.state == MemberState::Spare);
            let new = match spare.filter(|_| rng.one_in(2)) {
                Some(spare) => Err(MemberIndex(spare.index)),
                None => Ok(any(rng)?),
            };
            let how = array.replace_member(MemberIndex(seat as u8), new).await;
            Some(Done { what: "a member is replaced", how: how.map_err(|e| e.kind) })
        }
        6 => {
            let own =
                |m: &&MemberStatus| matches!(m.state, MemberState::Spare | MemberState::Rebuilding);
            let spare = MemberIndex(members.iter().find(own)?.index);
            let how = array.fail_member(spare).await.map_err(|e| e.kind);
            Some(Done { what: "a spare is failed by order", how })
        }
        _ => {
            let idle = |m: &&MemberStatus| usize::from(m.index) >= n && !m.state.takes_writes();
            let spare = MemberIndex(members.iter().find(idle)?.index);
            let how = array.remove_member(spare).await.map_err(|e| e.kind);
            Some(Done { what: "a spare is removed", how })
        }
    }
}

/// Gives orders now and then while a life serves.
pub(super) async fn give_some(
    world: SimWorld,
    device: Evenkeel,
    cast: Cast,
    n: usize,
    seed: u64,
    tell: impl Fn(Done),
) {
    let mut rng = Rng::new(seed);
    for _ in 0..rng.below(4) {
        world.sleep(Duration::from_micros(rng.below(40_000))).await;
        if let Some(done) = give(&world, &device, &cast, n, &mut rng).await {
            tell(done);
        }
    }
}
