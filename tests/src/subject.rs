//! What the crash tests ask of a block device: the array, or a stand-in that tests the tests.

use std::future::Future;
use std::ops::Range;
use std::rc::Rc;

use crate::sim::{DiskImage, SimDisk, SimWorld, Survivors};

/// The shape of the device under test.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Setup {
    /// Name for people and for `--geometry`.
    pub name: &'static str,
    /// Level, as `create --level` takes it.
    pub level: &'static str,
    /// k.
    pub data: usize,
    /// m.
    pub parity: usize,
    /// Bytes of a chunk.
    pub chunk: u64,
    /// Bytes of a member.
    pub member: u64,
    /// Bytes of the log area on every device that holds it.
    pub log: u64,
    /// Bytes of the cache.
    pub cache: u64,
    /// Journal devices; their disks follow the members.
    pub journals: usize,
    /// Bytes of a journal device.
    pub journal: u64,
    /// Whether blocks have checksums.
    pub checksums: bool,
}

impl Setup {
    /// n.
    #[must_use]
    pub fn members(&self) -> usize {
        self.data + self.parity
    }

    /// Journal devices that may be lost: with fewer than m + 1 of them, all but one.
    #[must_use]
    pub fn journals_out(&self) -> usize {
        self.parity.min(self.journals.saturating_sub(1))
    }

    /// New, empty disks: members, then journal devices.
    #[must_use]
    pub fn empty(&self) -> Survivors {
        let mut disks = Survivors::new(self.members(), self.member);
        let journals = self.members()..self.members() + self.journals;
        disks.disks.extend(journals.map(|id| DiskImage::empty(id, self.journal)));
        disks
    }

    /// Bytes of a stripe.
    #[must_use]
    pub fn stripe(&self) -> u64 {
        self.chunk * self.data as u64
    }
}

/// Byte ranges of a member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Areas {
    /// The log, if it is there.
    pub log: Option<Range<u64>>,
    /// Pages of the map and of the checksums.
    pub pages: Range<u64>,
    /// The slots.
    pub slots: Range<u64>,
}

/// How to start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct How {
    /// Acknowledge when durable.
    pub durable: bool,
    /// Start although k or more members are absent.
    pub accept_missing: bool,
    /// Write nothing.
    pub read_only: bool,
}

/// Why a start failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StartError {
    /// Too few members without a person's word.
    TooFew,
    /// Anything else.
    Other(String),
}

/// A block device under test. Errors are texts for people.
pub trait Subject: Clone + 'static {
    /// Makes a new device.
    fn create(
        world: &SimWorld,
        disks: &[SimDisk],
        setup: &Setup,
    ) -> impl Future<Output = Result<(), String>>;
    /// Starts it.
    fn start(
        world: &SimWorld,
        disks: &[SimDisk],
        setup: &Setup,
        how: How,
    ) -> impl Future<Output = Result<Self, StartError>>;
    /// Bytes of the device.
    fn size(&self) -> u64;
    /// Largest write in bytes.
    fn largest(&self) -> u64;
    /// Reads into a new vector.
    fn read(&self, at: u64, len: u64) -> impl Future<Output = Result<Vec<u8>, String>>;
    /// Writes.
    fn write(&self, at: u64, data: Rc<[u8]>, fua: bool)
    -> impl Future<Output = Result<(), String>>;
    /// Flushes.
    fn flush(&self) -> impl Future<Output = Result<(), String>>;
    /// Discards.
    fn discard(&self, at: u64, len: u64, fua: bool) -> impl Future<Output = Result<(), String>>;
    /// Writes ranges (at, content) in one transaction.
    fn transaction(&self, _: Vec<(u64, Rc<[u8]>)>) -> impl Future<Output = Result<(), String>> {
        std::future::ready(Err("this device has no transactions".to_owned()))
    }
    /// Brings everything dirty into its place.
    fn destage(&self) -> impl Future<Output = Result<(), String>>;
    /// Fails a member by order of a person.
    fn fail_member(&self, id: usize) -> impl Future<Output = Result<(), String>>;
    /// Stops cleanly.
    fn stop(&self) -> impl Future<Output = Result<(), String>>;
    /// Blocks and pages that it has noticed to be wrong.
    fn found_wrong(&self) -> u64 {
        0
    }
    /// Where on this disk something can be wrong without a word, and has to be noticed; None if it
    /// need not be.
    fn areas(_disk: &DiskImage) -> Option<Areas> {
        None
    }
    /// What the disks say of themselves, for a replay.
    fn describe(_disks: &[DiskImage]) -> String {
        String::new()
    }
    /// Checks the bytes on the disks after a clean stop of a device that held `content`.
    ///
    /// # Errors
    /// What is wrong.
    fn check_at_rest(_disks: &[DiskImage], _content: &[u8]) -> Result<(), String> {
        Ok(())
    }
}
