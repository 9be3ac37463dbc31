//! What is beyond the promises, tried aside on copies of the disks: too few of them, strangers and
//! clones, more wrong blocks in a row than can be made right. The only right answers are a refusal
//! that writes nothing, EIO, and what was really there.

use std::collections::BTreeSet;
use std::rc::Rc;

use evenkeel_raid::{Array, ErrorKind, StartOptions};

use super::geometry;
use super::life::LIMIT;
use super::tally::Tally;
use super::voyage::{Judge, Voyage};
use crate::checkers::parity::areas_of;
use crate::crash::run::{Notes, clients, read_all};
use crate::damage::{columns, kept};
use crate::evenkeel::Evenkeel;
use crate::oracle::{Floor, Oracle};
use crate::rng::Rng;
use crate::sim::{DiskImage, PAGE, Simulation, Survivors, path_of};
use crate::subject::{How, Setup, Subject};
use crate::workload::Op;

/// Changes of one life that the oracle takes.
const MOST_CHANGES: usize = 120;

/// Starts from disks that must be refused with one of these kinds, without a byte written.
fn refused(
    seed: u64,
    from: &Survivors,
    options: StartOptions,
    wanted: &[ErrorKind],
) -> Result<(), String> {
    let sim = Simulation::new(seed, from);
    let (world, disks) = (sim.world(), sim.disks());
    let kind = sim.run(LIMIT, async move {
        Array::start(&world, &disks, &options, &|_| ()).await.err().map(|e| e.kind)
    });
    match kind.map_err(|s| s.to_string())? {
        None => return Err("it started".to_owned()),
        Some(kind) if !wanted.contains(&kind) => return Err(format!("it refused with {kind:?}")),
        Some(_) => {}
    }
    let digest = |s: &Survivors| s.disks.iter().map(DiskImage::digest).collect::<Vec<_>>();
    if digest(&sim.snapshot().leave()) != digest(from) {
        return Err("it refused, and wrote".to_owned());
    }
    Ok(())
}

/// A member of another array of the same shape and name.
fn member_of_another(setup: &Setup, rng: &mut Rng) -> Result<DiskImage, String> {
    let sim = Simulation::new(rng.draw(), &Survivors { boot: 1000, ..setup.empty() });
    let (world, disks, own) = (sim.world(), sim.disks(), setup.clone());
    let made = sim.run(LIMIT, async move { Evenkeel::create(&world, &disks, &own).await });
    made.map_err(|s| s.to_string())??;
    Ok(sim.snapshot().leave().disks.swap_remove(0))
}

/// Too few disks, a clone, a stranger.
pub(super) fn refusals(
    voyage: &mut Voyage<'_>,
    left: &Survivors,
    taken: &BTreeSet<usize>,
    rng: &mut Rng,
) -> Result<(), String> {
    let setup = &voyage.setup.clone();
    let (n, k) = (setup.members(), setup.data);
    let options = StartOptions { accept_missing: rng.one_in(2), ..StartOptions::default() };
    // Fewer than k members are left. Stale ones may be among them.
    let mut members: Vec<usize> = (0..n).collect();
    rng.shuffle(&mut members);
    let mut lost = members.split_off(rng.index(k));
    // Nor those further disks that may be members in an epoch that only the present ones bear.
    let table = n + setup.journals;
    lost.extend(left.disks.iter().map(|d| d.id).filter(|d| *d >= table));
    let from = left.without(&lost).shuffled(rng.draw());
    if from.disks.iter().any(|d| d.id < n) {
        let kinds = [ErrorKind::TooFew, ErrorKind::Disagree];
        refused(rng.draw(), &from, options, &kinds)
            .map_err(|e| format!("without disks {lost:?}: {e}"))?;
        voyage.tally.count("refused/fewer than k members/as it must");
    }
    let sound: Vec<&DiskImage> =
        left.disks.iter().filter(|d| d.id < n && !taken.contains(&d.id)).collect();
    let stranger = 100;
    let mut from = left.clone();
    let (mut other, which) = if rng.one_in(2) {
        (sound[rng.index(sound.len())].clone(), "a clone")
    } else {
        (member_of_another(setup, rng)?, "a member of another array")
    };
    (other.id, other.path) = (stranger, path_of(stranger));
    from.disks.push(other);
    refused(rng.draw(), &from.shuffled(rng.draw()), options, &[ErrorKind::Foreign])
        .map_err(|e| format!("with {which}: {e}"))?;
    voyage.tally.count(&format!("refused/{which}/as it must"));
    Ok(())
}

/// More disks than m are wrong in the same rows: what is given is right, or EIO.
pub(super) fn too_many_lies(
    voyage: &mut Voyage<'_>,
    found: &Survivors,
    content: &Rc<Vec<u8>>,
    rng: &mut Rng,
) -> Result<(), String> {
    let setup = &voyage.setup.clone();
    let (n, m) = (setup.members(), setup.parity);
    let mut from = found.clone();
    let mut liars: Vec<usize> = (0..n).collect();
    rng.shuffle(&mut liars);
    liars.truncate(m + 1 + rng.index(n - m));
    let everything = rng.one_in(4);
    for disk in from.disks.iter_mut().filter(|d| liars.contains(&d.id)) {
        let Some(areas) = areas_of(disk) else { continue };
        let view = disk.view();
        // The pages lie before the slots, or behind them.
        let (from, to) = (areas.pages.start, areas.pages.end.max(areas.slots.end));
        let area = if everything { from.min(areas.slots.start)..to } else { areas.slots.clone() };
        for page in area.start / PAGE as u64..area.end / PAGE as u64 {
            // Of a page of the map both generations: that the older one, if it is whole on all members
            // and the newer one on none, was not the newest, cannot be known.
            let own = areas.pages.contains(&(page * PAGE as u64));
            if view.page(page as usize).is_some() && (own || !rng.one_in(3)) {
                let at = page * PAGE as u64 + rng.below(PAGE as u64 - 8);
                disk.corrupt(at, &rng.draw().to_le_bytes());
            }
        }
    }
    let sim = Simulation::new(rng.draw(), &from);
    let (world, disks, wanted) = (sim.world(), sim.disks(), Rc::clone(content));
    let ran = sim.run(LIMIT, async move {
        let options = StartOptions { accept_missing: true, ..StartOptions::default() };
        let device = match Array::start(&world, &disks, &options, &|_| ()).await {
            Ok(array) => Evenkeel::of(array).first(wanted.len() as u64),
            Err(_) => return Ok(None),
        };
        let mut given = (0u64, 0u64);
        for at in (0..device.size()).step_by(PAGE) {
            match device.read(at, PAGE as u64).await {
                Ok(bytes) if bytes[..] == wanted[at as usize..][..PAGE] => given.0 += 1,
                Ok(_) => return Err(format!("byte {at} is given wrong")),
                Err(_) => given.1 += 1,
            }
        }
        Ok(Some(given))
    });
    let step = |e: String| format!("{e} [lies on disks {liars:?}]");
    let given = ran.map_err(|s| s.to_string()).and_then(|inner| inner).map_err(step)?;
    match given {
        None => voyage.tally.count("beyond/more than m wrong blocks in a row/start refused"),
        Some((right, eio)) => {
            voyage.tally.add("beyond/more than m wrong blocks in a row/blocks right", right);
            voyage.tally.add("beyond/more than m wrong blocks in a row/blocks EIO", eio);
        }
    }
    Ok(())
}

/// Clients fill the log as fast as they can, of an array of its own: what dirty stripes are charged
/// for their destage is there when it is needed (I2).
pub(super) fn full_log(tally: &mut Tally, rng: &mut Rng) -> Result<(), String> {
    let setup = geometry::draw_of_small_log(rng);
    let sim = Simulation::new(rng.draw(), &setup.empty());
    let (world, disks, mark) = (sim.world(), sim.disks(), sim.mark());
    let (own, durable, mut rng) = (setup.clone(), rng.one_in(2), Rng::new(rng.draw()));
    let ran = sim.run(LIMIT, async move {
        Evenkeel::create(&world, &disks, &own).await?;
        let how = How { durable, ..How::default() };
        let device = Evenkeel::start(&world, &disks, &own, how).await;
        let device = device.map_err(|_| "it does not start".to_owned())?;
        let oracle = Oracle::new(device.size(), mark);
        // Until the members have taken the first of it, the log is full.
        (0..own.members()).for_each(|member| world.slow_down(member, 1000));
        // Each in a stripe of its own, which it makes dirty; what large ones leave, small ones take.
        let mut stripes: Vec<u64> = (0..device.size() / own.stripe()).collect();
        rng.shuffle(&mut stripes);
        let lists = stripes.into_iter().take(MOST_CHANGES).enumerate().map(|(i, stripe)| {
            let len = PAGE as u64 * if i < MOST_CHANGES / 2 { 1 + rng.below(16) } else { 1 };
            let within = rng.below((own.stripe() - len) / PAGE as u64) * PAGE as u64;
            vec![Op::Write(stripe * own.stripe() + within, len, false)]
        });
        let notes = Rc::new(Notes::default());
        clients(&world, &device, lists.collect(), &oracle, &notes).await;
        if let Some(e) = notes.errors.borrow().first() {
            return Err(e.clone());
        }
        device.destage().await?;
        let content = read_all(&device).await?;
        oracle.check_crash(&content, oracle.length(), Floor::Acknowledged).map_err(|v| v.0)
    });
    ran.map_err(|s| s.to_string())
        .and_then(|inner| inner)
        .map_err(|e| format!("{e} [the log is full, {setup:?}]"))?;
    tally.count("n/logs filled at one stroke");
    Ok(())
}

/// A commit that is known as durable is gone from all disks: the start refuses, unless nothing needs it.
pub(super) fn lost_commit(
    voyage: &mut Voyage<'_>,
    found: &Survivors,
    judge: &Judge,
    rng: &mut Rng,
) -> Result<(), String> {
    let all = columns(found);
    if voyage.setup.journals > 0 || all.is_empty() {
        return Ok(());
    }
    let (first, durable) = kept(&all);
    // The one that knows it stays.
    let known: Vec<&u64> = all.keys().filter(|n| (first..durable).contains(*n)).collect();
    if known.is_empty() {
        return Ok(());
    }
    let number = *known[rng.index(known.len())];
    let mut from = found.clone();
    for column in &all[&number] {
        let disk = from.disks.iter_mut().find(|d| d.id == column.disk).expect("it is there");
        disk.corrupt(column.blocks[0], &rng.draw().to_le_bytes());
    }
    let sim = Simulation::new(rng.draw(), &from);
    let (world, disks) = (sim.world(), sim.disks());
    let options = StartOptions { accept_missing: true, ..StartOptions::default() };
    let size = voyage.plan.size;
    let ran = sim.run(LIMIT, async move {
        match Array::start(&world, &disks, &options, &|_| ()).await {
            Ok(array) => Ok(Some(read_all(&Evenkeel::of(array).first(size)).await?)),
            Err(e) if e.kind == ErrorKind::LogDamaged => Ok(None),
            Err(e) => Err(e.to_string()),
        }
    });
    let step = |e: String| format!("{e} [commit {number} lost on all disks]");
    let content = ran.map_err(|s| s.to_string()).and_then(|inner| inner).map_err(step)?;
    match content {
        Some(content) => {
            judge.check(&content).map_err(step)?;
            voyage.tally.count("refused/a lost commit/not needed, all right");
        }
        None => voyage.tally.count("refused/a lost commit/as it must"),
    }
    Ok(())
}
