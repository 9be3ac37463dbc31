//! Which epoch counts, whatever the disks say; and shapes of arrays for any sizes.

use evenkeel_journal::MemberIndex;
use evenkeel_raid::codec::{Code, Level};
use evenkeel_raid::epoch::{Decision, Found, decide};
use evenkeel_raid::geometry::{Geometry, LogHome, SUPERBLOCK_A};
use evenkeel_raid::status::MemberState;
use evenkeel_raid::superblock::{Phase, Superblock};

use super::disk::sample;
use crate::choices::Choices;

const STATES: [MemberState; 7] = [
    MemberState::Active,
    MemberState::Failed,
    MemberState::Missing,
    MemberState::Spare,
    MemberState::Rebuilding,
    MemberState::Failing,
    MemberState::Stale,
];

pub fn seeds() -> Vec<Vec<u8>> {
    let mut all = vec![vec![0], vec![2; 60]];
    for n in 0..6 {
        // One epoch above the other, borne by some.
        let mut s = vec![n, 3, 1, 0, 1, 0, 0, 2, 1, 1, 0, 0];
        s.extend((0..40u32).map(|i| ((i * 7 + u32::from(n)) % 5) as u8));
        all.push(s);
    }
    all
}

/// What is the same of two decisions, in whichever order the disks were given.
fn gist(found: &[Found], d: &Decision) -> (u128, Vec<Option<String>>, Vec<String>, bool) {
    let path = |i: usize| found[i].path.clone();
    let mut stale: Vec<String> = d.stale.iter().map(|i| path(*i)).collect();
    stale.sort();
    let current = d.current.iter().map(|i| i.map(path)).collect();
    (d.epoch.epoch_id, current, stale, d.unmarked)
}

pub fn decide_any(input: &[u8]) {
    let mut c = Choices::new(input);
    let shapes = [(Level::Raid6, 4, 2, 0), (Level::Raid5, 2, 1, 2), (Level::Raid1, 1, 1, 1)];
    let (level, k, m, j) = shapes[c.below(3)];
    let base = sample(level, k, m, j);
    // A family of epochs: each has one of the earlier ones as its parent, and mostly a number
    // above it.
    let mut epochs: Vec<Superblock> = vec![base.clone()];
    for _ in 0..c.below(5) {
        let parent = epochs[c.below(epochs.len())].clone();
        let mut s = parent.clone();
        s.history.insert(0, (parent.epoch, parent.epoch_id));
        s.history.truncate(1 + c.below(4));
        s.parent = if c.one_in(8) { 77 } else { parent.epoch_id };
        s.epoch_id = 200 + epochs.len() as u128;
        s.epoch = if c.one_in(8) { c.number(parent.epoch) } else { parent.epoch.saturating_add(1) };
        s.phase = if c.one_in(3) { Phase::Prepared } else { Phase::InForce };
        s.clean = c.one_in(4);
        let member = c.below(s.members.len());
        s.members[member].state = STATES[c.below(STATES.len())];
        if c.one_in(10) {
            s.members[member].uuid = c.below(8).try_into().unwrap_or(0);
        }
        if c.one_in(10) {
            s.geometry.log_home = LogHome::Members;
        }
        epochs.push(s);
    }
    let mut found: Vec<Found> = Vec::new();
    for disk in 0..base.members.len() {
        if c.one_in(6) {
            continue;
        }
        let copies: Vec<Superblock> = (0..1 + c.below(3))
            .map(|_| Superblock { index: disk as u8, ..epochs[c.below(epochs.len())].clone() })
            .collect();
        found.push(Found { path: format!("disk{disk}"), copies });
        if c.one_in(20) {
            let twin = found[c.below(found.len())].copies.clone();
            found.push(Found { path: format!("twin{disk}"), copies: twin });
        }
    }
    if found.is_empty() {
        return;
    }
    let decision = decide(&found);
    if let Ok(d) = &decision {
        let mut used: Vec<usize> =
            d.current.iter().flatten().chain(&d.stale).chain(&d.left_out).copied().collect();
        used.sort_unstable();
        assert_eq!(
            used,
            (0..found.len()).collect::<Vec<_>>(),
            "each disk is current, stale or left out"
        );
        assert!(d.stale_journals <= d.stale.len());
        for i in d.absent() {
            assert!(d.current[i].is_none());
        }
        for force in [false, true] {
            let _ = (d.quorum(force).is_ok(), d.quorum_of_log(force).is_ok());
            let _ = (d.log_goes_home(force), d.notice_of_absent(force));
        }
    }
    // The order of the disks does not matter.
    let mut turned = found.clone();
    turned.reverse();
    match (decision, decide(&turned)) {
        (Ok(a), Ok(b)) => assert_eq!(gist(&found, &a), gist(&turned, &b), "another order"),
        (Err(_), Err(_)) => {}
        (a, b) => panic!(
            "the order of the disks decides: {:?} {:?}",
            a.map(|d| d.epoch.epoch_id),
            b.map(|d| d.epoch.epoch_id)
        ),
    }
}

pub fn plan_seeds() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for (level, k, m) in [(0, 1, 1), (1, 2, 1), (2, 4, 2), (3, 17, 2), (4, 251, 4)] {
        // Level, shape, chunk 64K, a member of 1 GiB, nothing else asked for.
        let mut s = vec![level, k, m, 4, 2, 30, 0, 0, 1];
        s.extend_from_slice(&[0; 12]);
        all.push(s);
    }
    all
}

pub fn plan_any(input: &[u8]) {
    let mut c = Choices::new(input);
    let level = Level::ALL[c.below(5)];
    let (k, m) = (usize::from(c.byte()), usize::from(c.byte()));
    if Code::new(level, k, m).is_err() {
        return;
    }
    let chunk = match c.below(10) {
        9 => c.number(65536),
        n => 4096 << n,
    };
    let member = c.number(1 << 30);
    let log = c.one_in(2).then(|| c.number(1 << 20));
    let cache = c.one_in(2).then(|| c.number(1 << 20));
    let checksums = c.one_in(2);
    let Ok(mut g) = Geometry::plan(level, k, m, chunk, member, log, cache, checksums) else {
        return;
    };
    if c.one_in(3) {
        let (j, bytes) = (c.below(12), c.number(1 << 30));
        let log = c.one_in(2).then(|| c.number(1 << 20));
        let Ok(with) = g.with_journals(j, bytes, log) else { return };
        g = with;
    }
    assert!(g.member_bytes <= member && g.stripes >= 1 && g.slots > g.stripes, "{g:?}");
    // What is planned is what a start accepts.
    let mut s = sample(Level::Raid6, 4, 2, 0);
    let member = s.members[0];
    (s.geometry, s.members) = (g, vec![member; g.table()]);
    let back = Superblock::decode(&s.encode(0, SUPERBLOCK_A), SUPERBLOCK_A);
    assert_eq!(back.as_ref().map(|b| &b.geometry), Ok(&g), "planned, but not accepted");
    for i in [0, g.table() - 1] {
        assert!(g.superblock_c_of(MemberIndex(i as u8)) > SUPERBLOCK_A);
    }
}
