//! The array itself as the subject of the crash tests.

use std::rc::Rc;

use evenkeel_journal::{Buf, Disk, Slice};
use evenkeel_raid::codec::Level;
use evenkeel_raid::geometry::Geometry;
use evenkeel_raid::{
    Ack, Array, CreateOptions, ErrorKind, MAX_REQUEST, StartOptions, create_with_journals,
};

use crate::checkers::parity::{areas, check_at_rest};
use crate::sim::{DiskImage, SimDisk, SimWorld};
use crate::subject::{Areas, How, Setup, StartError, Subject};
use crate::workload::WORKLOADS;

/// Stripes of the devices under test: small, so that a start takes a millisecond.
const STRIPES: u64 = 8;

/// A small device of this shape, with checksums.
///
/// # Panics
/// If there is no such level.
#[must_use]
pub fn shape(
    name: &'static str,
    level: &'static str,
    data: usize,
    parity: usize,
    chunk: u64,
) -> Setup {
    shape_with(name, level, data, parity, chunk, true)
}

fn shape_with(
    name: &'static str,
    level: &'static str,
    data: usize,
    parity: usize,
    chunk: u64,
    checksums: bool,
) -> Setup {
    let parsed: Level = level.parse().expect("a level");
    let grain = 65536;
    let (member, log) = (1..1024)
        .map(|i| i * grain)
        .find_map(|bytes| {
            let small = Some(4096);
            let plan = Geometry::plan(parsed, data, parity, chunk, bytes, small, small, checksums);
            let fits = plan.ok().filter(|g| g.stripes >= STRIPES)?;
            Some((bytes, fits.log_rows * 4096))
        })
        .expect("some size fits");
    let (journals, journal) = (0, 0);
    let cache = 4096;
    Setup { name, level, data, parity, chunk, member, log, cache, journals, journal, checksums }
}

/// The same with the log on journal devices, the smallest that do.
///
/// # Panics
/// If none does.
#[must_use]
pub fn on_journals(name: &'static str, setup: Setup, journals: usize) -> Setup {
    let level: Level = setup.level.parse().expect("a level");
    let (k, m, c) = (setup.data, setup.parity, setup.chunk);
    let plan = Geometry::plan(level, k, m, c, setup.member, Some(0), Some(4096), setup.checksums)
        .expect("it fits");
    let (journal, log) = (3..1024)
        .map(|i| i * 65536)
        .find_map(|bytes| {
            let fits = plan.with_journals(journals, bytes, Some(4096)).ok()?;
            Some((bytes, fits.journal_rows * 4096))
        })
        .expect("some size fits");
    Setup { name, log, journals, journal, ..setup }
}

/// The geometries of the crash tests. Log and cache are the smallest that the array takes.
#[must_use]
pub fn setups() -> Vec<Setup> {
    vec![
        shape("raid5-2+1", "raid5", 2, 1, 8192),
        shape("raid6-4+2", "raid6", 4, 2, 8192),
        shape("rs-3+3", "rs", 3, 3, 16384),
        shape_with("evenodd-3+2", "evenodd", 3, 2, 8192, false),
        shape("evenodd-4+2", "evenodd", 4, 2, 8192),
        shape_with("raid1-1+1", "raid1", 1, 1, 16384, false),
        shape("raid1-1+2", "raid1", 1, 2, 16384),
    ]
}

/// Whether a scenario is part of the short crash run. The first three geometries have all workloads
/// there, but for resets, which have a test of their own (`tests/resets.rs`); the others, which differ
/// from them in arithmetic and in numbers alone, have a few. Of
/// those with journal devices each has its turn with two of the runs.
#[must_use]
pub fn in_short_run(setup: &Setup, workload: &str, durable: bool) -> bool {
    if setup.journals > 0 {
        let all = journal_setups();
        let own = all.iter().position(|s| s.name == setup.name).unwrap_or(0);
        let nth = WORKLOADS.iter().position(|w| *w == workload).unwrap_or(0);
        return (2 * nth + usize::from(durable)) % (3 * all.len()) == own;
    }
    match workload {
        "reset" => return setup.name == "raid5-2+1" && !durable,
        "reset-destage" => return setup.name == "raid6-4+2" && durable,
        _ => {}
    }
    match setup.level {
        "raid1" => matches!((workload, durable), ("overlap" | "fail-destage", true)),
        "evenodd" => matches!((workload, durable), ("destage", true) | ("fail", false)),
        _ => true,
    }
}

/// The geometries with the log on 1, 2 and 3 journal devices.
#[must_use]
pub fn journal_setups() -> Vec<Setup> {
    let all = setups();
    let raid5 = |name, j| on_journals(name, all[0].clone(), j);
    let raid6 = |name, j| on_journals(name, all[1].clone(), j);
    vec![
        raid5("raid5-2+1-j1", 1),
        raid6("raid6-4+2-j2", 2),
        raid5("raid5-2+1-j3", 3),
        raid6("raid6-4+2-j1", 1),
        raid5("raid5-2+1-j2", 2),
        raid6("raid6-4+2-j3", 3),
    ]
}

/// An array in the simulated world, or the first bytes of one.
#[derive(Clone)]
pub struct Evenkeel(Array<SimWorld>, u64);

fn text(e: impl std::fmt::Display) -> String {
    e.to_string()
}

impl Evenkeel {
    /// An array that runs.
    #[must_use]
    pub fn of(array: Array<SimWorld>) -> Evenkeel {
        Evenkeel(array, u64::MAX)
    }

    /// So many of its first bytes: what an array that grows has from the beginning.
    #[must_use]
    pub fn first(self, bytes: u64) -> Evenkeel {
        Evenkeel(self.0, bytes)
    }

    /// The array.
    #[must_use]
    pub fn array(&self) -> &Array<SimWorld> {
        &self.0
    }
}

impl Subject for Evenkeel {
    async fn create(world: &SimWorld, disks: &[SimDisk], setup: &Setup) -> Result<(), String> {
        let options = CreateOptions {
            name: "sim".to_owned(),
            level: setup.level.parse().expect("a level"),
            data: setup.data,
            parity: setup.parity,
            chunk_bytes: setup.chunk,
            log_bytes: Some(setup.log),
            cache_bytes: Some(setup.cache),
            checksums: setup.checksums,
            force: false,
        };
        let (members, journals) = disks.split_at(setup.members());
        let made = create_with_journals(world, members, journals, &[], &options).await;
        made.map(|_| ()).map_err(text)
    }

    async fn start(
        world: &SimWorld,
        disks: &[SimDisk],
        _: &Setup,
        how: How,
    ) -> Result<Self, StartError> {
        let options = StartOptions {
            ack: if how.durable { Ack::Durable } else { Ack::Cached },
            read_only: how.read_only,
            accept_missing: how.accept_missing,
            ..StartOptions::default()
        };
        match Array::start(world, disks, &options, &|_| ()).await {
            Ok(array) => Ok(Evenkeel::of(array)),
            Err(e) if e.kind == ErrorKind::TooFew => Err(StartError::TooFew),
            Err(e) => Err(StartError::Other(format!("{e} (exit code {})", e.kind.exit_code()))),
        }
    }

    fn size(&self) -> u64 {
        self.0.size_bytes().min(self.1)
    }

    fn largest(&self) -> u64 {
        (MAX_REQUEST as u64).min(self.size())
    }

    async fn read(&self, at: u64, len: u64) -> Result<Vec<u8>, String> {
        let (result, buf) = self.0.read(at, Buf::new(len as usize)).await;
        result.map(|()| buf.to_vec()).map_err(text)
    }

    async fn write(&self, at: u64, data: Rc<[u8]>, fua: bool) -> Result<(), String> {
        self.0.write(at, Slice::copy_of(&data), fua).await.map_err(text)
    }

    async fn flush(&self) -> Result<(), String> {
        self.0.flush().await.map_err(text)
    }

    async fn discard(&self, at: u64, len: u64, fua: bool) -> Result<(), String> {
        self.0.discard(at, len, fua).await.map_err(text)
    }

    async fn transaction(&self, parts: Vec<(u64, Rc<[u8]>)>) -> Result<(), String> {
        let mut tx = self.0.begin();
        for (at, data) in parts {
            tx.write(at, &data).map_err(text)?;
        }
        tx.commit().await.map_err(text)
    }

    async fn destage(&self) -> Result<(), String> {
        self.0.destage_all().await.map_err(text)
    }

    async fn fail_member(&self, id: usize) -> Result<(), String> {
        let path = crate::sim::path_of(id);
        let member = self.0.member_by_path(&path).ok_or("no member has this path")?;
        self.0.fail_member(member).await.map_err(text)
    }

    async fn stop(&self) -> Result<(), String> {
        self.0.stop().await.map_err(text)
    }

    fn found_wrong(&self) -> u64 {
        self.0.status().members.iter().map(|m| m.checksum_errors).sum()
    }

    fn areas(disk: &DiskImage) -> Option<Areas> {
        areas(disk)
    }

    fn describe(disks: &[DiskImage]) -> String {
        crate::checkers::parity::describe(disks)
    }

    fn check_at_rest(disks: &[DiskImage], content: &[u8]) -> Result<(), String> {
        check_at_rest(disks, content)
    }
}

/// The path of a simulated disk, as the array knows it.
#[must_use]
pub fn path(disk: &SimDisk) -> String {
    disk.facts().path
}
