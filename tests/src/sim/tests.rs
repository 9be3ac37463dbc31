use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use evenkeel_journal::sync::Signal;
use evenkeel_journal::{Buf, Disk, DiskError, RingMem, Slice, World};

use super::*;

const LIMIT: Duration = Duration::from_secs(10);

fn one_disk(seed: u64) -> Simulation {
    Simulation::new(seed, &Survivors::new(1, 1 << 20))
}

fn page(value: u8) -> Vec<Slice> {
    vec![Slice::copy_of(&[value; PAGE])]
}

fn seen(s: &Survivors, page: usize) -> Vec<u8> {
    let mut out = vec![0; PAGE];
    s.disks[0].view().read((page * PAGE) as u64, &mut out);
    out
}

#[test]
fn only_flushed_writes_survive_the_worst_power_loss() {
    let sim = one_disk(1);
    let disk = sim.disks()[0].clone();
    sim.run(LIMIT, async move {
        disk.write(0, page(1)).await.expect("written");
        disk.flush().await.expect("flushed");
        disk.write(4096, page(2)).await.expect("written");
        // A flush does not cover what is in flight when it begins.
        let late = disk.write(8192, page(3));
        let flush = disk.flush();
        late.await.expect("written");
        flush.await.expect("flushed");
        disk.write(12288, page(4)).await.expect("written");
    })
    .expect("ends");
    let none = sim.snapshot().survive(Mode::PowerNone);
    let first = |s: &Survivors| (0..4).map(|p| seen(s, p)[0]).collect::<Vec<_>>();
    assert_eq!(first(&none), [1, 2, 0, 0]);
    assert_eq!(first(&sim.snapshot().survive(Mode::PowerAll)), [1, 2, 3, 4]);
    let process = sim.snapshot().survive(Mode::Process(0));
    assert_eq!(first(&process), [1, 2, 3, 4]);
    let next = Simulation::new(2, &process);
    let lost = next.snapshot().survive(Mode::PowerNone);
    assert_eq!(first(&lost), [1, 2, 0, 0], "the death of a process flushes nothing");
}

#[test]
fn torn_writes_are_torn_at_sectors() {
    let sim = one_disk(1);
    let disk = sim.disks()[0].clone();
    sim.run(LIMIT, async move { disk.write(0, page(9)).await.expect("written") }).expect("ends");
    let mut torn = 0;
    for seed in 0..200 {
        let s = sim.snapshot().survive(Mode::PowerTorn(seed));
        let bytes = seen(&s, 0);
        assert!(bytes.chunks(512).all(|c| c.iter().all(|b| *b == c[0])));
        torn += usize::from(bytes.iter().any(|b| *b != bytes[0]));
    }
    assert!(torn > 20, "{torn} of 200");
}

#[test]
fn a_crash_state_is_the_same_kept_or_reached() {
    let job = |sim: &Simulation| {
        let (world, disk) = (sim.world(), sim.disks()[0].clone());
        sim.run(LIMIT, async move {
            let ring = world.create_ring(5, 8192).expect("made");
            for i in 0..6u64 {
                ring.store(64, &[i as u8; 100]);
                ring.store_u64(0, i);
                let d = disk.clone();
                world.spawn("writer", async move {
                    let _ = d.write(i * 4096, page(i as u8)).await;
                    let _ = d.flush().await;
                });
                world.sleep(Duration::from_micros(70)).await;
            }
            world.sleep(Duration::from_millis(50)).await;
        })
    };
    let whole = one_disk(3);
    whole.record();
    job(&whole).expect("ends");
    let shots = whole.recorded();
    assert!(shots.len() > 30);
    for shot in shots.iter().take(shots.len() - 1) {
        let sim = one_disk(3);
        sim.crash_at(shot.event);
        assert_eq!(job(&sim), Err(Stop::Crash));
        assert_eq!(sim.snapshot().digest(), shot.digest(), "event {}", shot.event);
        for mode in [Mode::Process(4), Mode::PowerTorn(4)] {
            let (a, b) = (sim.snapshot().survive(mode), shot.survive(mode));
            let digest = |s: &Survivors| {
                let rings: Vec<u64> = s.rings.values().map(Image::digest).collect();
                (s.disks[0].digest(), rings)
            };
            assert_eq!(digest(&a), digest(&b));
        }
    }
    let other = one_disk(4);
    other.record();
    job(&other).expect("ends");
    let digests = |s: &[Snapshot]| s.iter().map(Snapshot::digest).collect::<Vec<_>>();
    assert_ne!(digests(&other.recorded()), digests(&shots), "another seed, another order");
}

#[test]
fn a_ring_survives_the_process_and_not_the_power() {
    let sim = one_disk(1);
    let world = sim.world();
    sim.run(LIMIT, async move {
        let ring = world.create_ring(7, 4096).expect("made");
        ring.store(8, b"hello");
        ring.store_u64(0, 5);
        assert_eq!(&ring.slice(8, 5)[..], b"hello");
    })
    .expect("ends");
    let kept = Simulation::new(2, &sim.snapshot().survive(Mode::Process(0)));
    let ring = kept.world().open_ring(7).expect("no error").expect("it is there");
    assert_eq!((ring.load_u64(0), &ring.slice(8, 5)[..]), (5, &b"hello"[..]));
    assert_eq!(kept.world().identity(), sim.world().identity());
    let cold = Simulation::new(2, &sim.snapshot().survive(Mode::PowerAll));
    assert!(cold.world().open_ring(7).expect("no error").is_none());
    assert_ne!(cold.world().identity().boot, sim.world().identity().boot);
    assert_eq!(cold.world().identity().run_dir, sim.world().identity().run_dir);
}

#[test]
fn a_store_can_be_cut_by_the_death_of_the_process() {
    let sim = one_disk(1);
    let world = sim.world();
    sim.record();
    sim.run(LIMIT, async move {
        let ring = world.create_ring(7, 4096).expect("made");
        ring.store(0, &[1; 1000]);
    })
    .expect("ends");
    let shots = sim.recorded();
    let lengths: std::collections::BTreeSet<usize> = (0..50)
        .map(|seed| {
            let mut out = [0; 1000];
            shots[1].survive(Mode::Process(seed)).rings[&7].read(0, &mut out);
            out.iter().filter(|b| **b == 1).count()
        })
        .collect();
    assert!(lengths.len() > 20 && lengths.iter().all(|l| *l < 1000));
}

#[test]
fn bytes_changed_under_a_write_are_noticed() {
    let sim = one_disk(1);
    let (world, disk) = (sim.world(), sim.disks()[0].clone());
    let end = sim.run(LIMIT, async move {
        let ring = world.create_ring(7, 8192).expect("made");
        let write = disk.write(0, vec![ring.slice(4096, 4096)]);
        ring.store(5000, &[1]);
        let _ = write.await;
        std::future::pending::<()>().await;
    });
    assert!(matches!(end, Err(Stop::Violation(_))), "{end:?}");
}

#[test]
fn deadlocks_and_endless_runs_are_reported() {
    let sim = one_disk(1);
    let world = sim.world();
    let end = sim.run(LIMIT, async move {
        let signal = Rc::new(Signal::new());
        let s = Rc::clone(&signal);
        world.spawn("waits for nobody", async move { s.wait().await });
        signal.wait().await;
    });
    let Err(Stop::Deadlock(text)) = end else { panic!("{end:?}") };
    assert!(text.contains("waits for nobody"), "{text}");

    let sim = one_disk(1);
    let world = sim.world();
    let end = sim.run(LIMIT, async move {
        loop {
            world.sleep(Duration::from_millis(100)).await;
        }
    });
    assert!(matches!(end, Err::<(), _>(Stop::Late(_))));
}

#[test]
fn a_broken_disk_fails_what_is_under_way_and_what_comes() {
    let sim = one_disk(1);
    let (world, disk) = (sim.world(), sim.disks()[0].clone());
    let results = Rc::new(RefCell::new(Vec::new()));
    let out = Rc::clone(&results);
    sim.run(LIMIT, async move {
        let early = disk.write(0, page(1));
        world.add_bad_read(0);
        let (bad, _) = disk.read(4096, Buf::new(4096)).await;
        world.set_fault(0, Some(Fault::Gone));
        let early = early.await;
        let late = disk.flush().await;
        world.set_fault(0, None);
        let (good, buf) = disk.read(8192, Buf::new(4096)).await;
        assert!(buf.iter().all(|b| *b == 0));
        out.borrow_mut().extend([bad, early, late, good]);
    })
    .expect("ends");
    let results = results.borrow();
    assert_eq!(results[0], Err(DiskError::Io(5)));
    assert!(results[1] == Ok(()) || results[1] == Err(DiskError::Gone));
    assert_eq!((results[2], results[3]), (Err(DiskError::Gone), Ok(())));
}

#[test]
fn tasks_end_with_their_world_unrun() {
    struct Bell(Rc<RefCell<Vec<&'static str>>>);
    impl Drop for Bell {
        fn drop(&mut self) {
            self.0.borrow_mut().push("dropped");
        }
    }
    let heard = Rc::new(RefCell::new(Vec::new()));
    let sim = one_disk(1);
    let (world, disk) = (sim.world(), sim.disks()[0].clone());
    let (bell, ear) = (Bell(Rc::clone(&heard)), Rc::clone(&heard));
    let w = world.clone();
    world.spawn("sleeper", async move {
        let _bell = bell;
        w.sleep(Duration::from_secs(1)).await;
        ear.borrow_mut().push("ran");
    });
    sim.run(LIMIT, async move { disk.flush().await.expect("flushed") }).expect("ends");
    drop(world);
    drop(sim);
    assert_eq!(*heard.borrow(), ["dropped"]);
}

#[test]
fn lies_are_told_once_and_without_a_word() {
    let sim = one_disk(3);
    let (world, disk) = (sim.world(), sim.disks()[0].clone());
    let at = |page: u64| page * PAGE as u64;
    let ran = sim.run(LIMIT, async move {
        let read = |page: u64| {
            let read = disk.read(at(page), Buf::new(PAGE));
            async move { read.await.1[0] }
        };
        let all = |values: [u8; 4]| values.map(|v| Slice::copy_of(&[v; PAGE])).to_vec();
        disk.write(0, all([1, 2, 3, 4])).await.expect("written");
        world.lie(0, Lie::LostWrite(at(1)));
        world.lie(0, Lie::MisdirectedWrite(at(2), at(7)));
        world.lie(0, Lie::MisdirectedRead(at(3), at(0)));
        disk.write(0, all([5, 6, 7, 8])).await.expect("written");
        let seen = [read(0).await, read(1).await, read(2).await, read(3).await, read(7).await];
        assert_eq!((seen, read(3).await), ([5, 2, 3, 5, 7], 8), "each page as it was lied about");
        assert_eq!(world.lies_left(0), 0);
        disk.write(0, all([5, 6, 7, 8])).await.expect("written");
        assert_eq!((read(1).await, read(2).await), (6, 7), "once");
        world.lose_writes(0, true);
        disk.write(0, page(9)).await.expect("acknowledged");
        disk.flush().await.expect("flushed");
        world.lose_writes(0, false);
        world.corrupt(0, at(1) + 7, &[99; 3]);
        (read(0).await, world.peek(0, at(1), 11))
    });
    let (lost, rotten) = ran.expect("it ends");
    assert_eq!((lost, &rotten[5..]), (5, &[6, 6, 99, 99, 99, 6][..]));
    let mode = sim.snapshot().survive(Mode::PowerNone);
    assert_eq!(seen(&mode, 1)[7], 99, "it is on the medium");
}
