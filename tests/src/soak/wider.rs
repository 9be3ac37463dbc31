//! Between two lives the array may take more columns: it is started, gets the disks as spares, is stopped
//! and widened; somewhere in that, or at its end, it is cut, and started once more, which decides which
//! shape it has. The next life goes on from there, while its stripes are moved.

use evenkeel_journal::MemberIndex;
use evenkeel_raid::{Added, StartOptions, widen};

use super::life::{LIMIT, open};
use super::plan::Life;
use super::voyage::{Judge, Voyage, any_mode};
use crate::crash::run::read_all;
use crate::evenkeel::Evenkeel;
use crate::oracle::{Floor, Oracle};
use crate::rng::Rng;
use crate::sim::{DiskImage, PAGE, SimDisk, SimWorld, Simulation, Survivors, path_of};
use crate::subject::Subject;

/// Stripes that are written before it gets wider, at most.
const FILLED: u64 = 60;

/// Writes whole stripes, most of them, so that there is something to be moved.
async fn fill(
    device: &Evenkeel,
    oracle: &Oracle,
    stripe: u64,
    rng: &mut Rng,
) -> Result<(), String> {
    for nth in 0..(device.size() / stripe).min(FILLED) {
        if rng.one_in(4) {
            continue;
        }
        let (id, data) = oracle.write(nth * stripe, stripe, false);
        let done = device.write(nth * stripe, data, false).await;
        oracle.answered(id, done.is_ok());
        done.map_err(|e| format!("a write failed: {e}"))?;
    }
    Ok(())
}

/// Has it get wider, if it can. Gives what was done, in words.
async fn become_wider(
    world: &SimWorld,
    device: &Evenkeel,
    all: &[SimDisk],
    new: &[SimDisk],
) -> Result<String, String> {
    let array = device.array();
    // Where too few disks are left to take places, it is not whole, and is refused below.
    let _ = array.rebuilt().await;
    let mut spares: Vec<MemberIndex> = Vec::new();
    for disk in new {
        match array.add_disk(disk.clone()).await {
            Ok(Added::Spare(index)) => spares.push(index),
            Ok(Added::Back(index)) => return Err(format!("a new disk comes back as {index}")),
            Err(e) => return Ok(format!("refused: {:?}", e.kind)),
        }
    }
    if let Err(e) = array.prepare_to_widen(&spares).await {
        return Ok(format!("refused: {:?}", e.kind));
    }
    let status = array.status();
    let uuid = |m: &MemberIndex| {
        let own = status.members.iter().find(|s| s.index == m.0)?;
        u128::from_str_radix(&own.uuid.replace('-', ""), 16).ok()
    };
    let more: Vec<u128> = spares.iter().filter_map(uuid).collect();
    device.stop().await.map_err(|e| format!("stop failed: {e}"))?;
    let shape = widen(world, all, &more, None).await;
    shape.map(|_| "done".to_owned()).map_err(|e| format!("it cannot be widened: {e}"))
}

/// Gives the disks new numbers: first those in `order`, then the others.
fn renumber(all: &mut Survivors, order: &[usize]) {
    let others: Vec<usize> =
        all.disks.iter().map(|d| d.id).filter(|id| !order.contains(id)).collect();
    let order: Vec<usize> = order.iter().copied().chain(others).collect();
    for disk in &mut all.disks {
        disk.id = order.iter().position(|id| *id == disk.id).expect("all are in it");
        disk.path = path_of(disk.id);
    }
    all.disks.sort_by_key(|d| d.id);
}

impl Voyage<'_> {
    /// Before a life: more columns, if that is in the plan and the array is whole.
    pub(super) fn widen(&mut self, life: &Life) -> Result<(), String> {
        let Some((_, more)) = self.plan.wider.filter(|(number, _)| *number == life.number) else {
            return Ok(());
        };
        if !self.taken().is_empty() {
            return Ok(());
        }
        let mut rng = Rng::new(self.seed(life, 6));
        let seats = self.setup.members() + self.setup.journals;
        let total = seats + self.plan.spares;
        let mut from = self.left.clone();
        let largest = from.disks.iter().map(|d| d.view().pages() * PAGE).max().unwrap_or_default();
        let new = (total..total + more).map(|id| DiskImage::empty(id, largest as u64));
        from.disks.extend(new);

        // It gets wider, or is cut in that.
        let sim = Simulation::new(rng.draw(), &from);
        sim.record();
        let (world, disks) = (sim.world(), sim.disks());
        let entry = self.entry(StartOptions::default(), &[], &self.taken());
        let (before, mark, stripe) = (self.judge.clone(), sim.mark(), self.setup.stripe());
        let mut own = Rng::new(rng.draw());
        let ran = sim.run(LIMIT, async move {
            let (device, _) = open(&world, &disks[..total], &entry).await?;
            let content = read_all(&device).await?;
            before.check(&content)?;
            let (started, oracle) = (world.events(), before.oracle.next_life(content.into(), mark));
            fill(&device, &oracle, stripe, &mut own).await?;
            let id = oracle.flush();
            let how = become_wider(&world, &device, &disks, &disks[total..]).await?;
            // It was stopped, and that promises what a FLUSH does.
            oracle.answered(id, how == "done");
            Ok((how, started, oracle))
        });
        let step = |e: String| format!("{e} [while it gets wider]");
        let ran = ran.map_err(|s| s.to_string()).and_then(|inner| inner).map_err(step)?;
        let (how, started, oracle) = ran;
        self.tally.count(&format!("order/the array gets wider/{how}"));
        let shots = sim.recorded();
        self.tally.add("n/crash points", shots.len() as u64);
        let nth = if rng.one_in(2) { shots.len() - 1 } else { rng.index(shots.len()) };
        let mode = any_mode(&mut rng);
        let found = shots[nth].survive(mode);
        let judge = if shots[nth].event > started {
            let floor = if mode.is_process() { Floor::Acknowledged } else { Floor::Flushed };
            Judge { oracle, mark: shots[nth].mark, floor, power: Floor::Flushed }
        } else {
            self.judge.after(mode)
        };
        self.say(|| format!("gets wider by {more}: {how}; cut at event {nth}, {mode}"));

        // The next start decides which shape it has.
        let step = |e: String| format!("{e} [got wider by {more}, cut at event {nth}, {mode}]");
        let sim = Simulation::new(rng.draw(), &found.shuffled(rng.draw()));
        let (world, disks) = (sim.world(), sim.disks());
        let slowly = StartOptions { rebuild_rate: Some(1 << 18), ..StartOptions::default() };
        let entry = self.entry(slowly, &[], &self.taken());
        let ran = sim.run(LIMIT, async move {
            let (device, _) = open(&world, &disks, &entry).await?;
            let content = read_all(&device).await?;
            let status = device.array().status();
            Ok((content, status.data as usize, status.members, device.array().is_growing()))
        });
        let ran = ran.map_err(|s| s.to_string()).and_then(|inner| inner).map_err(step)?;
        let (content, data, members, growing) = ran;
        judge.check(&content).map_err(step)?;
        let oracle = judge.oracle.next_life(content.into(), sim.mark());
        let floor = Floor::Acknowledged;
        self.judge = Judge { oracle, mark: 0, floor, power: floor };
        let mut left = sim.snapshot().survive(any_mode(&mut rng));
        if data == self.setup.data {
            left.disks.retain(|d| d.id < total);
        } else {
            if data != self.setup.data + more {
                return Err(step(format!("it has {data} data columns")));
            }
            self.setup.data = data;
            let seats = seats + more;
            let id = |path: &str| (0..total + more).find(|id| path_of(*id) == path);
            let order: Vec<usize> =
                members.iter().take(seats).filter_map(|m| id(&m.path)).collect();
            if order.len() != seats {
                return Err(step("not all members are there".to_owned()));
            }
            renumber(&mut left, &order);
            let state = if growing { "while stripes are moved" } else { "when all are moved" };
            self.tally.count(&format!("n/arrays that got wider, and were cut {state}"));
        }
        self.left = left;
        Ok(())
    }
}
