//! The log on journal devices: what a start makes of one, some and all of them being lost or old,
//! what a running array makes of one that fails, and where its bytes go.
//!
//! The crash enumeration tries the same with every crash (geometries `...-jN`); here are the losses
//! beyond the promise, and what must be refused with nothing written.

use std::time::Duration;

use evenkeel_journal::{BLOCK, Buf, Slice, World};
use evenkeel_raid::geometry::LOG_OFFSET;
use evenkeel_raid::status::{MemberState, Role, State};
use evenkeel_raid::{
    Ack, Array, CreateOptions, ErrorKind, RequestError, StartOptions, create_with_journals,
};
use evenkeel_tests::crash::subsets;
use evenkeel_tests::evenkeel::{Evenkeel, journal_setups};
use evenkeel_tests::sim::{
    DiskImage, Fault, Mode, SimWorld, Simulation, Snapshot, Survivors, path_of,
};
use evenkeel_tests::subject::{Setup, Subject};

const LIMIT: Duration = Duration::from_secs(600);

fn setup(name: &str) -> Setup {
    journal_setups().into_iter().find(|s| s.name == name).expect("a geometry")
}

fn options() -> StartOptions {
    StartOptions { ack: Ack::Durable, ..StartOptions::default() }
}

/// An array that runs, and what it holds.
struct Running {
    sim: Simulation,
    array: Array<SimWorld>,
    content: Vec<u8>,
}

impl Running {
    fn new(setup: &Setup) -> Running {
        let sim = Simulation::new(7, &setup.empty());
        let (world, disks, own) = (sim.world(), sim.disks(), setup.clone());
        let array = sim.run(LIMIT, async move {
            Evenkeel::create(&world, &disks, &own).await.expect("created");
            Array::start(&world, &disks, &options(), &|_| ()).await.expect("started")
        });
        let array = array.expect("it runs");
        let content = vec![0; array.size_bytes() as usize];
        Running { sim, array, content }
    }

    /// Goes on from what a life left, in a new world.
    fn again(from: &Survivors, seed: u64, content: Vec<u8>) -> Running {
        let sim = Simulation::new(seed, from);
        let (world, disks) = (sim.world(), sim.disks());
        let array = sim
            .run(LIMIT, async move { Array::start(&world, &disks, &options(), &|_| ()).await })
            .expect("it ends");
        let array = array.unwrap_or_else(|e| panic!("refused: {e}"));
        let running = Running { sim, array, content };
        assert_eq!(running.read(), Ok(running.content.clone()), "first wrong byte");
        running
    }

    fn try_write(&self, block: usize, bytes: &[u8]) -> Result<(), RequestError> {
        let (array, data) = (self.array.clone(), Slice::copy_of(bytes));
        let job = async move { array.write((block * BLOCK) as u64, data, false).await };
        self.sim.run(LIMIT, job).expect("it ends")
    }

    /// Writes blocks; every block of it is different.
    fn write(&mut self, block: usize, count: usize, value: u8) {
        let bytes: Vec<u8> = (0..count * BLOCK)
            .map(|i| value.wrapping_mul(31).wrapping_add((i / 7 + i / BLOCK) as u8) | 1)
            .collect();
        self.content[block * BLOCK..][..bytes.len()].copy_from_slice(&bytes);
        assert_eq!(self.try_write(block, &bytes), Ok(()));
    }

    /// Whole stripes, parts of mapped and of unmapped ones.
    fn fill(&mut self, value: u8) {
        let stripe = self.array.geometry().stripe_blocks() as usize;
        self.write(0, 3 * stripe, value);
        for (i, (block, count)) in
            [(1, 1), (stripe + 1, 2), (4 * stripe - 1, 3), (2, 1)].into_iter().enumerate()
        {
            self.write(block, count, value + 1 + i as u8);
        }
    }

    fn read(&self) -> Result<Vec<u8>, RequestError> {
        let array = self.array.clone();
        let job = async move {
            let mut content = Vec::new();
            while (content.len() as u64) < array.size_bytes() {
                let rest = array.size_bytes() as usize - content.len();
                let buf = Buf::new(rest.min(1 << 20));
                let (done, buf) = array.read(content.len() as u64, buf).await;
                done?;
                content.extend_from_slice(&buf);
            }
            Ok(content)
        };
        self.sim.run(LIMIT, job).expect("it ends")
    }

    fn destage(&self) {
        let array = self.array.clone();
        let done = self.sim.run(LIMIT, async move { array.destage_all().await });
        assert_eq!(done, Ok(Ok(())));
    }

    fn stop(self) -> (Survivors, Vec<u8>) {
        let array = self.array.clone();
        self.sim.run(LIMIT, async move { array.stop().await }).expect("it ends").expect("stopped");
        (self.sim.snapshot().survive(Mode::PowerNone), self.content)
    }

    fn crash(self, mode: Mode) -> (Survivors, Vec<u8>) {
        (self.sim.snapshot().survive(mode), self.content)
    }

    fn sleep(&self, millis: u64) {
        let world = self.sim.world();
        let job = async move { world.sleep(Duration::from_millis(millis)).await };
        assert_eq!(self.sim.run(LIMIT, job), Ok(()));
    }
}

/// What became of a start that may be refused.
struct Tried {
    kind: Option<ErrorKind>,
    left: Snapshot,
    writes: u64,
}

fn try_start(from: &Survivors, how: StartOptions) -> Tried {
    let sim = Simulation::new(23, from);
    let (world, disks) = (sim.world(), sim.disks());
    let ran = sim.run(LIMIT, async move {
        Array::start(&world, &disks, &how, &|_| ()).await.err().map(|e| e.kind)
    });
    let writes = sim.counters().iter().map(|c| c.writes + c.flushes + c.discards).sum();
    Tried { kind: ran.expect("it ends"), left: sim.snapshot(), writes }
}

/// Asserts that a start is refused, whichever way it is asked for, and leaves all as it was.
fn assert_refused(from: &Survivors, kind: ErrorKind, what: &str) {
    for (read_only, accept_missing) in [(false, false), (true, false), (false, true)] {
        let tried = try_start(from, StartOptions { read_only, accept_missing, ..options() });
        assert_eq!(tried.kind, Some(kind), "{what}, read-only: {read_only}");
        assert_eq!(tried.writes, 0, "{what}: something was written");
        for (was, is) in from.disks.iter().zip(&tried.left.leave().disks) {
            assert_eq!((was.id, was.digest()), (is.id, is.digest()), "{what}: a disk has changed");
        }
    }
}

fn states(array: &Array<SimWorld>) -> Vec<(Role, MemberState)> {
    array.status().members.iter().map(|m| (m.role, m.state)).collect()
}

fn put_back(from: &mut Survivors, old: &Survivors, id: usize) {
    let was = old.disks.iter().find(|d| d.id == id).expect("it was there").clone();
    match from.disks.iter_mut().find(|d| d.id == id) {
        Some(d) => *d = was,
        None => from.disks.push(was),
    }
}

#[test]
fn every_allowed_loss_starts_and_every_other_is_refused() {
    let (mut started, mut refused) = (0, 0);
    for setup in journal_setups() {
        let (n, j, t) = (setup.members(), setup.journals, setup.journals_out());
        let mut running = Running::new(&setup);
        running.fill(1);
        let (from, content) = running.crash(Mode::PowerNone);
        for lost in subsets(n + j, j, &(0..n).collect::<Vec<_>>()) {
            // Alone, and together with as many members as may be lost.
            let members: Vec<usize> = (0..setup.parity).map(|i| (i * 2 + lost.len()) % n).collect();
            for with in [Vec::new(), members] {
                let all: Vec<usize> = lost.iter().chain(&with).copied().collect();
                let left = from.without(&all).shuffled(lost.len() as u64);
                let what = format!("{} without {all:?}", setup.name);
                if lost.len() > t {
                    let none = lost.len() == j;
                    let kind = if none { ErrorKind::LogDamaged } else { ErrorKind::TooFew };
                    assert_refused(&left, kind, &what);
                    refused += 1;
                    continue;
                }
                let mut again = Running::again(&left, 3, content.clone());
                let gone = |i: usize| all.contains(&i);
                for (i, (role, state)) in states(&again.array).into_iter().enumerate() {
                    assert_eq!(role == Role::Journal, i >= n, "{what}");
                    assert_eq!(state == MemberState::Missing, gone(i), "{what}");
                }
                let data = setup.parity - with.len();
                assert_eq!(again.array.can_lose(), data.min(t - lost.len()), "{what}");
                again.fill(50);
                let (stopped, content) = again.stop();
                Running::again(&stopped, 4, content);
                started += 1;
            }
        }
    }
    assert!(started > 15 && refused > 10, "{started} started, {refused} refused");
}

#[test]
fn a_byte_is_located_by_the_log_on_journal_devices() {
    let setup = setup("raid6-4+2-j2");
    let n = setup.members();
    let mut running = Running::new(&setup);
    running.fill(1);
    let (crashed, _) = running.crash(Mode::PowerNone);
    // Block 1 was written last, and lies in the log alone.
    let find = |from: &Survivors| {
        let sim = Simulation::new(3, from);
        let (world, disks) = (sim.world(), sim.disks());
        let found = sim.run(LIMIT, async move {
            evenkeel_raid::locate(&world, &disks, BLOCK as u64, &|_| ()).await
        });
        found.expect("it ends").map_err(|e| e.kind).map(|l| l.dirty)
    };
    assert_eq!(find(&crashed), Ok(true));
    assert_eq!(find(&crashed.without(&[n + 1])), Ok(true));
    assert_eq!(find(&crashed.without(&[n, n + 1])), Err(ErrorKind::LogDamaged));
}

#[test]
fn losses_beyond_are_refused_at_every_crash() {
    let mut refused = 0;
    for name in ["raid5-2+1-j1", "raid5-2+1-j3", "raid6-4+2-j3"] {
        let setup = setup(name);
        let (n, j, t) = (setup.members(), setup.journals, setup.journals_out());
        let mut running = Running::new(&setup);
        running.fill(1);
        running.sim.record();
        running.fill(60);
        running.destage();
        running.fill(90);
        let shots = running.sim.recorded();
        let sets = subsets(n + j, j, &(0..n).collect::<Vec<_>>());
        let beyond: Vec<&Vec<usize>> = sets.iter().filter(|s| s.len() > t).collect();
        for (i, shot) in shots.iter().enumerate().step_by(5) {
            let seed = i as u64;
            let modes = [Mode::Process(seed), Mode::PowerNone, Mode::PowerTorn(seed)];
            let lost = beyond[i % beyond.len()];
            let left = shot.survive(modes[i % 3]).without(lost);
            let kind = if lost.len() == j { ErrorKind::LogDamaged } else { ErrorKind::TooFew };
            let tried = try_start(&left, options());
            assert_eq!((tried.kind, tried.writes), (Some(kind), 0), "{name} {i} {lost:?}");
            refused += 1;
        }
    }
    assert!(refused > 60, "only {refused}");
}

#[test]
fn an_old_copy_of_a_journal_device_is_never_read() {
    for name in ["raid5-2+1-j1", "raid5-2+1-j2", "raid6-4+2-j3"] {
        let setup = setup(name);
        let n = setup.members();
        let mut running = Running::new(&setup);
        running.fill(1);
        let (old, content) = running.crash(Mode::PowerNone);
        let mut running = Running::again(&old, 8, content);
        running.fill(30);
        for mode in [Mode::PowerNone, Mode::Process(3)] {
            let now = running.sim.snapshot().survive(mode);
            let mut from = now.clone();
            put_back(&mut from, &old, n);
            if setup.journals == 1 {
                assert_refused(&from, ErrorKind::LogDamaged, name);
                continue;
            }
            let again = Running::again(&from, 9, running.content.clone());
            assert_eq!(states(&again.array)[n], (Role::Journal, MemberState::Missing));
            let left = again.sim.snapshot().leave();
            let of = |s: &Survivors| s.disks.iter().find(|d| d.id == n).map(DiskImage::digest);
            assert_eq!(of(&left), of(&from), "{name}: it was written to");
            // Two copies of one device are refused by name.
            let mut twice = now.clone();
            let mut copy = twice.disks[n].clone();
            copy.id = 99;
            copy.path = path_of(99);
            twice.disks.push(copy);
            assert_refused(&twice, ErrorKind::Foreign, name);
        }
    }
}

#[test]
fn a_log_that_is_older_than_the_map_is_refused() {
    // The same epoch: only the map's pages tell.
    let setup = setup("raid5-2+1-j1");
    let n = setup.members();
    let mut running = Running::new(&setup);
    running.fill(1);
    let old = running.sim.snapshot().survive(Mode::PowerNone);
    running.fill(40);
    running.sleep(10_000);
    let (mut from, _) = running.crash(Mode::PowerNone);
    put_back(&mut from, &old, n);
    assert_refused(&from, ErrorKind::LogDamaged, "an older log");
}

#[test]
fn after_a_clean_stop_the_log_goes_to_the_members_when_its_devices_are_lost() {
    let mut cuts = 0;
    for name in ["raid5-2+1-j1", "raid6-4+2-j2"] {
        let setup = setup(name);
        let n = setup.members();
        let journals: Vec<usize> = (n..n + setup.journals).collect();
        let mut running = Running::new(&setup);
        running.fill(1);
        let (stopped, content) = running.stop();
        let left = stopped.without(&journals);
        let read_only = try_start(&left, StartOptions { read_only: true, ..options() });
        assert_eq!((read_only.kind, read_only.writes), (None, 0));

        // Every cut of that start, and the loss of members with it.
        let sim = Simulation::new(31, &left);
        sim.record();
        let (world, disks) = (sim.world(), sim.disks());
        let ran = sim.run(LIMIT, async move {
            Array::start(&world, &disks, &options(), &|_| ()).await.map(|_| ())
        });
        ran.expect("it ends").expect("it starts");
        for (i, shot) in sim.recorded().iter().enumerate() {
            let seed = i as u64;
            for mode in
                [Mode::Process(seed), Mode::PowerNone, Mode::PowerAll, Mode::PowerTorn(seed)]
            {
                let mut from = shot.survive(mode);
                if i % 2 == 1 {
                    from = from.without(&[i % n]);
                }
                Running::again(&from, 32 + seed, content.clone());
                cuts += 1;
            }
        }

        let mut running = Running::again(&left, 33, content);
        assert_eq!(running.array.can_lose(), setup.parity, "{name}");
        assert_eq!(running.array.status().state, State::Degraded);
        running.fill(20);
        let (mut from, content) = running.crash(Mode::PowerNone);
        // The journal devices come back: they are old, and nothing is taken from them.
        journals.iter().for_each(|id| put_back(&mut from, &stopped, *id));
        let without: Vec<usize> = (0..setup.parity).collect();
        let mut running = Running::again(&from.without(&without), 34, content);
        running.fill(70);
        let (stopped, content) = running.stop();
        Running::again(&stopped, 35, content);
    }
    assert!(cuts > 100, "only {cuts}");
}

#[test]
fn a_journal_device_that_fails_is_failed_and_the_last_one_ends_writing_only() {
    for name in ["raid5-2+1-j1", "raid5-2+1-j2", "raid6-4+2-j3"] {
        for fault in [Fault::Gone, Fault::Io] {
            let setup = setup(name);
            let (n, t) = (setup.members(), setup.journals_out());
            let mut running = Running::new(&setup);
            running.fill(1);
            for i in 0..t {
                running.sim.world().set_fault(n + i, Some(fault));
                running.fill(10 + i as u8 * 10);
                let status = running.array.status();
                assert_eq!(status.members[n + i].state, MemberState::Failed, "{name}");
                assert_eq!((status.state, status.can_lose), (State::Degraded, (t - i - 1) as u32));
            }
            let before = running.sim.snapshot().survive(Mode::PowerNone);
            running.sim.world().set_fault(n + t, Some(fault));
            assert_eq!(running.try_write(0, &[9; BLOCK]), Err(RequestError::Io), "{name}");
            assert_eq!(running.try_write(3, &[9; BLOCK]), Err(RequestError::Io), "{name}");
            assert_eq!(running.array.status().state, State::Failed);
            let read = running.read().expect("reads go on");
            assert!(read[BLOCK..3 * BLOCK] == running.content[BLOCK..3 * BLOCK]);

            // Without it the next start is refused; with it, all that was promised is there.
            let (from, content) = running.crash(Mode::PowerNone);
            let all: Vec<usize> = (n..n + setup.journals).collect();
            assert_refused(&from.without(&all), ErrorKind::LogDamaged, name);
            let again = Running::again(&before, 5, content);
            assert_eq!(again.array.can_lose(), 0);
        }
    }
}

#[test]
fn journal_devices_are_failed_by_order_as_far_as_the_log_survives() {
    let setup = setup("raid6-4+2-j2");
    let n = setup.members();
    let mut running = Running::new(&setup);
    running.fill(1);
    let fail = |running: &Running, id: usize| {
        let array = running.array.clone();
        let member = array.member_by_path(&path_of(id)).expect("it is in the table");
        running.sim.run(LIMIT, async move { array.fail_member(member).await }).expect("it ends")
    };
    assert!(fail(&running, n).is_ok());
    assert!(fail(&running, n).is_err(), "it is failed already");
    assert!(fail(&running, n + 1).is_err(), "the last one");
    // Members are counted apart.
    assert!(fail(&running, 0).is_ok() && fail(&running, 4).is_ok());
    assert!(fail(&running, 1).is_err());
    running.fill(30);
    assert_eq!(running.array.can_lose(), 0);
    let (stopped, content) = running.stop();
    let again = Running::again(&stopped, 6, content);
    let failed = states(&again.array).iter().filter(|s| s.1 == MemberState::Failed).count();
    assert_eq!(failed, 3);
}

#[test]
fn the_log_takes_nothing_of_the_members() {
    for setup in journal_setups() {
        let n = setup.members();
        let mut running = Running::new(&setup);
        let written = |running: &Running| -> (u64, u64) {
            let all = running.sim.counters();
            let sum = |c: &[evenkeel_tests::sim::Counters]| c.iter().map(|c| c.write_bytes).sum();
            (sum(&all[..n]), sum(&all[n..]))
        };
        let before = written(&running);
        let stripe = setup.stripe() as usize / BLOCK;
        running.write(0, 4 * stripe, 5);
        let after = written(&running);
        // Whole stripes: every chunk once, and the log elsewhere.
        assert_eq!(after.0 - before.0, 4 * n as u64 * setup.chunk, "{}", setup.name);
        assert!(after.1 > before.1);
        running.fill(9);
        running.destage();
        let (stopped, _) = running.stop();
        for disk in &stopped.disks[..n] {
            let (image, mut rows) = (disk.view(), [0; 8]);
            image.read(4096 + 192, &mut rows);
            let mut log = vec![0; u64::from_le_bytes(rows) as usize * BLOCK];
            assert!(!log.is_empty());
            image.read(LOG_OFFSET, &mut log);
            assert!(log.iter().all(|b| *b == 0), "the log area of a member was written");
        }
    }
}

#[test]
fn creation_refuses_what_cannot_be_a_journal_device() {
    let setup = setup("raid5-2+1-j1");
    let options = |force| CreateOptions {
        checksums: true,
        name: "j".into(),
        level: setup.level.parse().expect("a level"),
        data: setup.data,
        parity: setup.parity,
        chunk_bytes: setup.chunk,
        log_bytes: None,
        cache_bytes: None,
        force,
    };
    let make = |sizes: &[u64], force: bool, made_before: bool| {
        let mut from = Survivors::new(3, setup.member);
        let more = sizes.iter().enumerate().map(|(i, bytes)| DiskImage::empty(3 + i, *bytes));
        from.disks.extend(more);
        let sim = Simulation::new(1, &from);
        let (world, disks, o) = (sim.world(), sim.disks(), options(force));
        let ran = sim.run(LIMIT, async move {
            let (members, journals) = disks.split_at(3);
            if made_before {
                create_with_journals(&world, members, journals, &[], &o).await.expect("made");
            }
            create_with_journals(&world, members, journals, &[], &o).await.map_err(|e| e.kind)
        });
        ran.expect("it ends").map(|_| ())
    };
    let enough = setup.journal;
    assert_eq!(make(&[enough], false, false), Ok(()));
    assert_eq!(make(&[enough, 10 * enough], false, false), Ok(()));
    assert_eq!(make(&[enough - 65536], false, false), Err(ErrorKind::TooSmall));
    assert_eq!(make(&[10 * enough, 65536], false, false), Err(ErrorKind::TooSmall));
    assert_eq!(make(&[enough; 8], false, false), Ok(()));
    assert_eq!(make(&[enough; 9], false, false), Err(ErrorKind::Usage));
    assert_eq!(make(&[enough], true, true), Ok(()));
}
