//! What is done to the members under writes that are not durable yet, tried aside: a disk is filled while
//! stripes move, or the array grows and what is new is used at once. Wherever it is cut, the array starts,
//! and every block is what its checksum says (I6, I9).

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use evenkeel_journal::{MemberIndex, Slice, World};
use evenkeel_raid::{Array, StartOptions};

use super::life::LIMIT;
use super::tally::Tally;
use crate::evenkeel::{Evenkeel, shape};
use crate::rng::Rng;
use crate::sim::{Mode, SimWorld, Simulation, Survivors};
use crate::subject::{Setup, Subject};

/// Crash states of a run that are looked at.
const STATES: usize = 8;
/// Bytes that the disks have beyond what is used of them.
const LARGER: u64 = 1 << 20;

/// Writes whole stripes, each time the next but a few, until it is told.
async fn write_on(array: Array<SimWorld>, stripe: u64, rounds: u64) {
    let stripes = array.size_bytes() / stripe;
    for i in 0..rounds {
        let data = Slice::copy_of(&vec![i as u8 + 1; stripe as usize]);
        // Who is refused has lost too much, which nothing here does.
        array.write(i * 5 % stripes * stripe, data, false).await.expect("written");
    }
}

/// Writes into what is new as soon as it is there.
async fn use_what_is_new(world: SimWorld, array: Array<SimWorld>) {
    let before = array.size_bytes();
    for _ in 0..10_000 {
        if array.size_bytes() > before {
            for i in 0..4 {
                let data = Slice::copy_of(&[i as u8 + 1; 4096]);
                array.write(before + i * 4096, data, true).await.expect("written");
            }
            return;
        }
        world.sleep(Duration::from_micros(50)).await;
    }
}

/// One of the two, by chance.
pub(super) fn under_writes(tally: &mut Tally, rng: &mut Rng) -> Result<(), String> {
    // Large enough for the largest requests, before and after.
    let (member, log, cache) = (6 << 20, 3 << 20, 4 << 20);
    let setup = Setup { member, log, cache, ..shape("changes", "raid5", 2, 1, 8192) };
    let (n, grows, seed) = (setup.members(), rng.one_in(2), rng.draw());
    let empty = Survivors::new(n + 1, setup.member);
    let sim = Simulation::new(rng.draw(), &empty);
    let (world, disks, own) = (sim.world(), sim.disks(), setup.clone());
    let made = sim.run(LIMIT, async move { Evenkeel::create(&world, &disks[..n], &own).await });
    made.map_err(|s| s.to_string())??;
    let mut left = sim.snapshot().leave();
    if grows {
        left.disks.iter_mut().for_each(|d| d.enlarge(setup.member + LARGER));
    }
    let sim = Simulation::new(rng.draw(), &left);
    sim.record();
    let (world, disks, stripe) = (sim.world(), sim.disks(), setup.stripe());
    // Commits take long, and the disk that is filled is quick; or epochs do.
    let slow = 2 + rng.below(200);
    let ran = sim.run(LIMIT, async move {
        let options = StartOptions::default();
        let array = Array::start(&world, &disks[..n], &options, &|_| ()).await;
        let array = array.map_err(|e| e.to_string())?;
        write_on(array.clone(), stripe, 24).await;
        if grows {
            // A spare bears every epoch, and holds nothing of the log.
            array.add_disk(disks[n].clone()).await.map_err(|e| e.to_string())?;
        }
        let from = world.events();
        world.slow_down(if grows { n } else { 1 }, slow);
        let (own, other, spare) = (world.clone(), array.clone(), disks[n].clone());
        let change = async move {
            if grows {
                other.grow_size().await.map(|_| ())
            } else {
                other.replace_member(MemberIndex(0), Ok(spare)).await?;
                other.rebuilt().await
            }
        };
        let done = Rc::new(RefCell::new(None));
        let (kept, clock) = (Rc::clone(&done), world.clone());
        let changed = async move {
            let how = change.await.map_err(|e| e.to_string());
            kept.replace(Some(how.map(|()| (from, clock.events()))));
        };
        let tasks: [Pin<Box<dyn Future<Output = ()>>>; 3] = [
            Box::pin(changed),
            Box::pin(write_on(array.clone(), stripe, 60)),
            Box::pin(async move {
                if grows {
                    use_what_is_new(own, array).await;
                }
            }),
        ];
        world.beside_each_other("change", tasks).await;
        done.take().expect("all have ended")
    });
    let (from, to) = ran.map_err(|s| s.to_string()).and_then(|inner| inner)?;
    let shots = sim.recorded();
    let shots: Vec<_> = shots.iter().filter(|s| (from + 1..=to).contains(&s.event)).collect();
    for _ in 0..STATES {
        let shot = shots[rng.index(shots.len())];
        let mode = [Mode::PowerNone, Mode::PowerTorn(seed), Mode::PowerSubset(seed)][rng.index(3)];
        // Without the member that is replaced, what was filled is all there is of its column.
        let lost = if grows { Vec::new() } else { vec![0] };
        let sim = Simulation::new(rng.draw(), &shot.survive(mode).without(&lost));
        let (world, disks) = (sim.world(), sim.disks());
        let ran = sim.run(LIMIT, async move {
            let options = StartOptions::default();
            let array = Array::start(&world, &disks, &options, &|_| ()).await;
            let array = array.map_err(|e| format!("start failed: {e}"))?;
            let text = |e: evenkeel_raid::ArrayError| e.to_string();
            array.rebuilt().await.map_err(text)?;
            array.start_scrub(true).await.map_err(text)?;
            array.scrub_ended().await.map_err(text)?;
            match Evenkeel::of(array).found_wrong() {
                0 => Ok(()),
                n => Err(format!("{n} blocks or pages are wrong")),
            }
        });
        ran.map_err(|s| s.to_string()).and_then(|inner| inner).map_err(|e| {
            let what = if grows { "a growth" } else { "a replacement" };
            format!("{e} [{what} under writes, crash at event {}, {mode}]", shot.event)
        })?;
        tally.count("n/crash states of changes under writes");
    }
    Ok(())
}
