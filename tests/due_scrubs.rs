//! Scrubs that begin by themselves: when they are due and not before, after a restart, too, and not
//! where they may not. And the events of a start.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use evenkeel_journal::{BLOCK, MemberIndex, Slice, World};
use evenkeel_raid::{Ack, Array, Event, EventKind, StartOptions};
use evenkeel_tests::damage::setup;
use evenkeel_tests::evenkeel::Evenkeel;
use evenkeel_tests::sim::{SimDisk, SimWorld, Simulation, Survivors};
use evenkeel_tests::subject::{Setup, Subject};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const MONTH: Duration = Duration::from_secs(30 * 86_400);
/// When the arrays are created.
const CREATED: u64 = 1_800_000_000;

/// Runs `work` in a world with what `from` left, `day` days after the arrays were created.
fn live<T: 'static, F: Future<Output = T> + 'static>(
    from: &Survivors,
    day: u64,
    work: impl FnOnce(SimWorld, Vec<SimDisk>) -> F,
) -> (T, Simulation) {
    let sim = Simulation::new(day + 1, from);
    sim.world().set_wall_clock(CREATED + day * DAY.as_secs());
    let out = sim.run(400 * DAY, work(sim.world(), sim.disks()));
    (out.unwrap_or_else(|e| panic!("on day {day}: {e}")), sim)
}

/// An array with some stripes in use, created and stopped on day 0.
fn made(setup: &Setup) -> Survivors {
    let own = setup.clone();
    let ((), sim) = live(&setup.empty(), 0, |world, disks| async move {
        Evenkeel::create(&world, &disks, &own).await.expect("made");
        let array = start(&world, &disks, None, false).await;
        for stripe in 0..3 {
            let bytes = vec![stripe as u8 + 1; 3 * BLOCK];
            let at = stripe * own.stripe();
            array.write(at, Slice::copy_of(&bytes), false).await.expect("written");
        }
        array.stop().await.expect("stopped");
    });
    sim.snapshot().leave()
}

async fn start(
    world: &SimWorld,
    disks: &[SimDisk],
    scrub_every: Option<Duration>,
    read_only: bool,
) -> Array<SimWorld> {
    let options =
        StartOptions { ack: Ack::Durable, read_only, scrub_every, ..StartOptions::default() };
    Array::start(world, disks, &options, &|_| ()).await.expect("it starts")
}

/// Everything that is told from now on.
fn listen(world: &SimWorld, array: &Array<SimWorld>) -> Rc<RefCell<Vec<Event>>> {
    let heard = Rc::new(RefCell::new(Vec::new()));
    let (array, told) = (array.clone(), Rc::clone(&heard));
    world.spawn("listener", async move {
        loop {
            let event = array.news().await;
            told.borrow_mut().push(event);
        }
    });
    heard
}

fn kinds(heard: &RefCell<Vec<Event>>) -> Vec<EventKind> {
    heard.borrow().iter().map(|e| e.kind).collect()
}

const SCRUB: [EventKind; 2] = [EventKind::ScrubStarted, EventKind::ScrubFinished];

#[test]
fn one_begins_every_month_and_is_told() {
    for name in ["raid5-2+1", "raid6-4+2"] {
        live(&made(&setup(name)), 0, |world, disks| async move {
            let array = start(&world, &disks, Some(MONTH), false).await;
            let heard = listen(&world, &array);
            world.sleep(MONTH - 2 * HOUR).await;
            assert!(array.status().scrub.is_none(), "{name}: not yet");
            world.sleep(4 * HOUR).await;
            let first = array.status().scrub.expect("one was begun");
            assert!(!first.running && !first.check_only && !first.stopped, "{name}: {first:?}");
            assert!(first.done_bytes > 0 && first.mismatches == 0, "{name}: {first:?}");
            assert_eq!(kinds(&heard), SCRUB, "{name}");
            let sentence = heard.borrow()[0].sentence.clone();
            assert!(sentence.contains("by itself, since there was none for 30 days"), "{sentence}");
            world.sleep(MONTH - 8 * HOUR).await;
            assert_eq!(kinds(&heard).len(), 2, "{name}: a month from the end of the last one");
            world.sleep(8 * HOUR).await;
            assert_eq!(kinds(&heard), [SCRUB, SCRUB].concat(), "{name}");
            array.stop().await.expect("stopped");
        });
    }
}

/// What the members say of the last scrub counts, whoever began it: not the start, not the creation.
#[test]
fn a_restart_changes_nothing() {
    let setup = setup("raid6-4+2");
    let ((), sim) = live(&made(&setup), 10, |world, disks| async move {
        let array = start(&world, &disks, Some(MONTH), false).await;
        array.start_scrub(true).await.expect("a person begins one");
        array.scrub_ended().await.expect("it ends");
        array.stop().await.expect("stopped");
    });
    let scrubbed = sim.snapshot().leave();
    // Ended on day 10, so due on day 40.
    let wait = |day: u64, wait: Duration| {
        let (heard, _) = live(&scrubbed, day, |world, disks| async move {
            let array = start(&world, &disks, Some(MONTH), false).await;
            let heard = listen(&world, &array);
            world.sleep(wait).await;
            let heard = kinds(&heard);
            array.stop().await.expect("stopped");
            heard
        });
        heard
    };
    assert_eq!(wait(35, 4 * DAY), [], "created more than a month ago, but scrubbed since");
    assert_eq!(wait(35, 6 * DAY), SCRUB, "due six days after this start");
    assert_eq!(wait(39, DAY + 2 * HOUR), SCRUB, "due a day after this start");
    assert_eq!(wait(75, HOUR / 2), SCRUB, "overdue: at the start");
}

#[test]
fn one_that_was_stopped_by_a_person_is_not_begun_again_at_once() {
    live(&made(&setup("raid5-2+1")), 29, |world, disks| async move {
        let array = start(&world, &disks, Some(MONTH), false).await;
        array.start_scrub(false).await.expect("it begins");
        array.stop_scrub().await.expect("it ends");
        let heard = listen(&world, &array);
        world.sleep(28 * DAY).await;
        assert_eq!(kinds(&heard), SCRUB, "those of the person");
        world.sleep(3 * DAY).await;
        assert_eq!(kinds(&heard), [SCRUB, SCRUB].concat());
    });
}

#[test]
fn none_begins_where_it_may_not() {
    // Without checksums it would only look, which a read-only array lets a person do.
    for (name, every, read_only) in [
        ("raid5-2+1", Some(MONTH), true),
        ("evenodd-3+2", Some(MONTH), true),
        ("raid5-2+1", None, false),
    ] {
        let ((), sim) = live(&made(&setup(name)), 90, |world, disks| async move {
            let array = start(&world, &disks, every, read_only).await;
            let heard = listen(&world, &array);
            world.sleep(60 * DAY).await;
            assert!(array.status().scrub.is_none(), "{name}, {every:?}");
            assert_eq!(kinds(&heard), []);
        });
        let writes: u64 = sim.counters().iter().map(|c| c.writes).sum();
        assert!(!read_only || writes == 0, "{writes} writes");
    }
}

/// Without one member raid5 could mend nothing; raid6 can.
#[test]
fn a_degraded_array_is_scrubbed_as_long_as_something_can_be_mended() {
    for (name, scrubbed) in [("raid5-2+1", false), ("raid6-4+2", true)] {
        live(&made(&setup(name)), 29, |world, disks| async move {
            let array = start(&world, &disks, Some(MONTH), false).await;
            array.fail_member(MemberIndex(1)).await.expect("failed");
            let heard = listen(&world, &array);
            world.sleep(20 * DAY).await;
            assert_eq!(array.status().scrub.is_some(), scrubbed, "{name}");
            let mut all = vec![EventKind::Fail];
            all.extend(if scrubbed { &SCRUB[..] } else { &[] });
            assert_eq!(kinds(&heard), all, "{name}");
            assert!(heard.borrow()[0].member.is_some(), "{name}: who failed is named");
        });
    }
}

/// Nothing is written down there, so the start counts; and what is wrong is left for a person.
#[test]
fn without_checksums_the_start_counts_and_it_only_looks() {
    let setup = setup("evenodd-3+2");
    assert!(!setup.checksums);
    live(&made(&setup), 90, |world, disks| async move {
        let array = start(&world, &disks, Some(MONTH), false).await;
        let heard = listen(&world, &array);
        let place = array.locate(0).expect("it is there").parity.remove(0);
        let (disk, at) = (usize::from(place.member), place.byte);
        let wrong: Vec<u8> = world.peek(disk, at, BLOCK).iter().map(|b| !b).collect();
        world.corrupt(disk, at, &wrong);
        world.sleep(29 * DAY).await;
        assert!(array.status().scrub.is_none(), "not yet");
        world.sleep(2 * DAY).await;
        let one = array.status().scrub.expect("one was begun");
        assert!(one.check_only && !one.running, "{one:?}");
        assert_eq!((one.mismatches, one.healed), (1, 0));
        assert_eq!(world.peek(disk, at, BLOCK), wrong, "nothing was written");
        assert_eq!(kinds(&heard), SCRUB);
    });
}

/// A clock that stands before the creation of the array, as without a battery: the time since the
/// start counts, until the clock is set.
#[test]
fn a_wrong_clock_makes_a_scrub_late_and_no_more() {
    let from = made(&setup("raid5-2+1"));
    live(&from, 90, |world, disks| async move {
        world.set_wall_clock(0);
        let array = start(&world, &disks, Some(MONTH), false).await;
        let heard = listen(&world, &array);
        world.sleep(29 * DAY).await;
        assert_eq!(kinds(&heard), [], "not yet");
        world.sleep(2 * DAY).await;
        assert_eq!(kinds(&heard), SCRUB, "a month after the start");
        world.set_wall_clock(100);
        world.sleep(20 * DAY).await;
        assert!(kinds(&heard).len() <= 4, "set back again: one more at most");
    });
    live(&from, 90, |world, disks| async move {
        world.set_wall_clock(0);
        let array = start(&world, &disks, Some(MONTH), false).await;
        let heard = listen(&world, &array);
        world.sleep(DAY).await;
        world.set_wall_clock(CREATED + 90 * DAY.as_secs());
        world.sleep(2 * HOUR).await;
        assert_eq!(kinds(&heard), SCRUB, "the clock is right again: it is noticed");
    });
}

#[test]
fn a_start_tells_that_the_array_is_there_and_whom_it_lacks() {
    let from = made(&setup("raid6-4+2"));
    for lost in [vec![], vec![2]] {
        let left = from.without(&lost);
        live(&left, 1, |world, disks| async move {
            let array = start(&world, &disks, None, false).await;
            array.tell_started("/dev/x");
            let first = array.news().await;
            assert_eq!((first.kind, first.member), (EventKind::NewArray, None));
            assert!(first.sentence.contains("/dev/x"), "{}", first.sentence);
            let heard = listen(&world, &array);
            world.sleep(HOUR).await;
            let all: Vec<EventKind> = lost.iter().map(|_| EventKind::DegradedArray).collect();
            assert_eq!(kinds(&heard), all);
            if let Some(event) = heard.borrow().first() {
                assert!(event.sentence.contains("member 2 is missing"), "{}", event.sentence);
            }
        });
    }
}
