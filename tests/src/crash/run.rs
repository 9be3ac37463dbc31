//! A scenario's run without a crash.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use evenkeel_journal::World;

use super::Scenario;
use super::lies::read_honest;
use crate::oracle::{Floor, Oracle};
use crate::rng::hash;
use crate::sim::{Mode, SimDisk, SimWorld, Simulation, Snapshot, Survivors};
use crate::subject::{How, StartError, Subject};
use crate::workload::{Op, Phase, Script, script};

/// Simulated time that one run may take.
pub const LIMIT: Duration = Duration::from_secs(120);

/// What happened beside the requests.
#[derive(Default)]
pub struct Notes {
    /// What went wrong, in words.
    pub errors: RefCell<Vec<String>>,
    /// Disks broken or failed by order, with the event after which it happened.
    pub failed: RefCell<Vec<(u64, usize)>>,
    /// Resets: the events after which it happened, and after which a FLUSH of the same client had
    /// ended.
    pub resets: RefCell<Vec<(u64, u64)>>,
}

impl Notes {
    fn error(&self, text: String) {
        self.errors.borrow_mut().push(text);
    }
}

/// A run and all its crash states.
pub struct Recording {
    /// What would survive a crash at each event; the last one is the end of the run.
    pub shots: Vec<Snapshot>,
    /// The history of requests.
    pub oracle: Oracle,
    /// Disks broken or failed by order.
    pub failed: Vec<(u64, usize)>,
    /// Between these events disks may lack what was written to them, since they were reset.
    pub resets: Vec<(u64, u64)>,
}

impl Recording {
    /// Whether disks may lack at this event what was written to them and not flushed, although power
    /// was never lost. The death of the process is then as bad as a loss of power: whole stripes
    /// lie nowhere else.
    #[must_use]
    pub fn is_after_reset(&self, event: u64) -> bool {
        self.resets.iter().any(|(from, to)| (*from..=*to).contains(&event))
    }

    /// Disks that had failed before an event.
    #[must_use]
    pub fn failed_before(&self, event: u64) -> Vec<usize> {
        let mut failed: Vec<usize> =
            self.failed.iter().filter(|(e, _)| *e < event).map(|(_, d)| *d).collect();
        failed.sort_unstable();
        failed.dedup();
        failed
    }
}

/// The whole content of a device.
///
/// # Errors
/// If a read fails.
pub async fn read_all<S: Subject>(device: &S) -> Result<Vec<u8>, String> {
    let (size, step) = (device.size(), device.largest());
    let mut content = Vec::with_capacity(size as usize);
    while (content.len() as u64) < size {
        let at = content.len() as u64;
        let part = device.read(at, step.min(size - at)).await;
        content.extend(part.map_err(|e| format!("a read of the device at {at} failed: {e}"))?);
    }
    Ok(content)
}

/// One client's operations, one after the other.
pub async fn client<S: Subject>(
    world: SimWorld,
    device: S,
    ops: Vec<Op>,
    oracle: Oracle,
    notes: Rc<Notes>,
) {
    let mut reset: Option<usize> = None;
    for op in ops {
        let done = match op {
            Op::Transaction(ref ranges) => {
                let (id, parts) = oracle.together(ranges);
                let done = device.transaction(parts).await;
                oracle.answered(id, done.is_ok());
                done
            }
            Op::Write(at, len, fua) => {
                let (id, data) = oracle.write(at, len, fua);
                let done = device.write(at, data, fua).await;
                oracle.answered(id, done.is_ok());
                done
            }
            Op::Discard(at, len, fua) => {
                let id = oracle.discard(at, len, fua);
                let done = device.discard(at, len, fua).await;
                oracle.answered(id, done.is_ok());
                done
            }
            Op::Read(at, len) => {
                let start = oracle.read();
                match device.read(at, len).await {
                    Ok(bytes) => oracle.check_read(start, at, &bytes).map_err(|v| v.0),
                    Err(e) => Err(e),
                }
            }
            Op::Flush => {
                let id = oracle.flush();
                let done = device.flush().await;
                oracle.answered(id, done.is_ok());
                if let Some(i) = reset.take() {
                    notes.resets.borrow_mut()[i].1 = world.events();
                }
                done
            }
            Op::Destage => device.destage().await,
            Op::Sleep(ms) => {
                world.sleep(Duration::from_millis(ms)).await;
                Ok(())
            }
            Op::Break(disk, fault) => {
                world.set_fault(disk, Some(fault));
                notes.failed.borrow_mut().push((world.events(), disk));
                Ok(())
            }
            Op::Reset(ref which) => {
                world.reset(which);
                let mut resets = notes.resets.borrow_mut();
                reset = Some(resets.len());
                resets.push((world.events(), u64::MAX));
                Ok(())
            }
            Op::BadRead(disk) => {
                world.add_bad_read(disk);
                Ok(())
            }
            Op::FailMember(disk) => {
                notes.failed.borrow_mut().push((world.events(), disk));
                device.fail_member(disk).await
            }
        };
        if let Err(e) = done {
            notes.error(format!("{op:?} failed: {e}"));
        }
    }
}

/// Clients beside each other on a device that runs, until all have ended.
pub async fn clients<S: Subject>(
    world: &SimWorld,
    device: &S,
    lists: Vec<Vec<Op>>,
    oracle: &Oracle,
    notes: &Rc<Notes>,
) {
    let one = |ops| client(world.clone(), device.clone(), ops, oracle.clone(), Rc::clone(notes));
    world.beside_each_other("client", lists.into_iter().map(one)).await;
}

async fn stop<S: Subject>(device: S, oracle: &Oracle) -> Result<(), String> {
    // A clean stop promises what a FLUSH promises.
    let id = oracle.flush();
    let done = device.stop().await;
    oracle.answered(id, done.is_ok());
    done.map_err(|e| format!("stop failed: {e}"))
}

async fn start<S: Subject>(
    world: &SimWorld,
    disks: &[SimDisk],
    scenario: &Scenario,
) -> Result<S, String> {
    let how = How { durable: scenario.durable, ..How::default() };
    S::start(world, disks, &scenario.setup, how).await.map_err(|e| match e {
        StartError::TooFew => "start says that there are too few members".to_owned(),
        StartError::Other(e) => format!("start failed: {e}"),
    })
}

struct Prepared {
    left: Survivors,
    content: Vec<u8>,
    oracle: Oracle,
    script: Script,
}

fn prepare<S: Subject>(scenario: &Scenario) -> Result<Prepared, String> {
    let setup = scenario.setup.clone();
    let empty = setup.empty();
    let sim = Simulation::new(hash(&[scenario.seed, 10]), &empty);
    let (world, disks, mark, job) = (sim.world(), sim.disks(), sim.mark(), scenario.clone());
    let made = sim.run(LIMIT, async move {
        S::create(&world, &disks, &setup).await.map_err(|e| format!("create failed: {e}"))?;
        let device: S = start(&world, &disks, &job).await?;
        let oracle = Oracle::new(device.size(), mark);
        let script = script(job.workload, &setup, device.size(), device.largest(), job.seed);
        let notes = Rc::new(Notes::default());
        clients(&world, &device, vec![script.prepare.clone()], &oracle, &notes).await;
        device.destage().await?;
        let content = read_all(&device).await?;
        oracle.check_crash(&content, oracle.length(), Floor::Acknowledged).map_err(|v| v.0)?;
        stop(device, &oracle).await?;
        match notes.errors.borrow().first() {
            Some(e) => Err(e.clone()),
            None => Ok((content, oracle, script)),
        }
    });
    let (content, oracle, script) =
        made.map_err(|stop| stop.to_string())?.map_err(|e| format!("preparing: {e}"))?;
    // A clean stop leaves nothing unflushed.
    let left = sim.snapshot().survive(Mode::PowerNone);
    Ok(Prepared { left, content, oracle, script })
}

fn play<S: Subject>(
    sim: &Simulation,
    prepared: &Prepared,
    scenario: &Scenario,
) -> (Result<(), String>, Oracle, Rc<Notes>) {
    let oracle = prepared.oracle.next_life(Rc::new(prepared.content.clone()), sim.mark());
    let notes = Rc::new(Notes::default());
    let (world, disks, job) = (sim.world(), sim.disks(), scenario.clone());
    let (log, side, phases) = (oracle.clone(), Rc::clone(&notes), prepared.script.phases.clone());
    let end = sim.run(LIMIT, async move {
        let mut device: S = start(&world, &disks, &job).await?;
        for phase in phases {
            match phase {
                Phase::Clients(lists) => clients(&world, &device, lists, &log, &side).await,
                Phase::Restart => {
                    stop(device, &log).await?;
                    device = start(&world, &disks, &job).await?;
                }
                Phase::Stop => {
                    stop(device, &log).await?;
                    return Ok(());
                }
            }
        }
        // A disk that was reset gives what it has lost until that is written again.
        let lies = job.workload.starts_with("reset");
        let content = read_honest(&device, lies).await?;
        log.check_crash(&content, log.length(), Floor::Acknowledged).map_err(|v| v.0)
    });
    let end = end.map_err(|stop| stop.to_string()).and_then(|inner| inner);
    (end, oracle, notes)
}

/// Runs a scenario once and keeps its crash states.
///
/// # Errors
/// If something goes wrong without any crash.
pub fn record<S: Subject>(scenario: &Scenario) -> Result<Recording, String> {
    let prepared = prepare::<S>(scenario)?;
    let sim = Simulation::new(hash(&[scenario.seed, 11]), &prepared.left);
    sim.record();
    let (end, oracle, notes) = play::<S>(&sim, &prepared, scenario);
    end?;
    if let Some(e) = notes.errors.borrow().first() {
        return Err(e.clone());
    }
    let failed = notes.failed.borrow().clone();
    let resets = notes.resets.borrow().clone();
    Ok(Recording { shots: sim.recorded(), oracle, failed, resets })
}

/// Runs a scenario up to a crash at one event, and gives what is there then: what [`record`]
/// keeps must be the same.
///
/// # Errors
/// If something goes wrong before.
pub fn run_until<S: Subject>(scenario: &Scenario, event: u64) -> Result<Snapshot, String> {
    let prepared = prepare::<S>(scenario)?;
    let sim = Simulation::new(hash(&[scenario.seed, 11]), &prepared.left);
    sim.crash_at(event);
    let _ = play::<S>(&sim, &prepared, scenario);
    Ok(sim.snapshot())
}
