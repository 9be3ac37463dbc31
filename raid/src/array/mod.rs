//! ② The array: owner of order. One file a way:
//!
//! - `write.rs` the way of a write, top to bottom; `discard.rs` of a discard; `transaction.rs` of many
//!   writes that happen together;
//! - `read.rs` the way of a read, degraded included; `rows.rs` rows that are compared with their
//!   checksums, rebuilt and healed; `extents.rs` what is mapped and what a hole;
//! - `destage.rs` from the cache into the slots; `checkpoint.rs` from map and checksums to their
//!   pages; `sums.rs` pages of checksums between members and memory;
//! - `rebuild.rs` disks that take the place of others; `background.rs` what it has in common with
//! - `scrub.rs` everything that the members hold, compared and made right;
//! - `pace.rs` when destage runs; `lost.rs` what becomes of blocks that nobody can give;
//! - `start.rs` from disks to a running array (replay); `create.rs`; `stop.rs`;
//! - `salvage.rs` what a start refuses and what force gives up; `parity.rs` what makes up for it;
//! - `locate.rs` where a byte of the device lies;
//! - `grow.rs` larger members; `widen.rs` more of them; `before.rs` the shape that the array had;
//! - `cache.rs`, `slots.rs`, `locks.rs` what they work on.

mod background;
mod before;
mod cache;
mod checkpoint;
mod create;
mod destage;
mod discard;
mod extents;
mod grow;
mod locate;
mod locks;
mod lost;
mod pace;
mod parity;
mod read;
mod rebuild;
mod rows;
mod salvage;
mod scrub;
mod slots;
mod start;
mod stop;
mod sums;
mod takeover;
mod transaction;
mod widen;
mod write;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use evenkeel_journal::log::{Halted, Journal, Release};
use evenkeel_journal::sabotage::{Sabotage, broken};
use evenkeel_journal::sync::{Lock, Signal};
use evenkeel_journal::{BLOCK, Lsn, MemberIndex, Slot, Stripe, World};

use crate::error::{ArrayError, ErrorKind, RequestError};
use crate::event::Event;
use crate::geometry::Geometry;
use crate::map::{Entry, Map};
use crate::members::{Members, Traffic};
use crate::news;
use crate::options::StartOptions;
use crate::status::{
    CacheStatus, LogStatus, MemberState, MemberStatus, ReplayStatus, Role, State, Status,
    StripesStatus,
};

pub use background::LATENCY_TARGET;
pub use create::{Created, create, create_with_journals, plan};
pub use extents::Extent;
pub use grow::Grown;
pub use locate::locate;
pub use rebuild::Added;
pub use start::assemble;
pub use transaction::{Transaction, TransactionBound, TransactionError, TransactionSize};
pub use widen::widen;

use before::Plane;
use cache::{Cache, DirtyBlock};
use locks::Locks;
use lost::Marks;
use rebuild::Rebuild;
use scrub::Scrub;
use slots::Slots;
use sums::Sums;
use widen::Widening;

/// Largest request that the device takes, in bytes.
pub const MAX_REQUEST: usize = 1 << 20;
/// Largest transaction of any array, in bytes of whole blocks; see [`TransactionBound`].
pub const MAX_TRANSACTION: usize = 16 << 20;

/// A running array. Clones share it.
pub struct Array<W: World>(Rc<Inner<W>>);

impl<W: World> Clone for Array<W> {
    fn clone(&self) -> Self {
        Array(Rc::clone(&self.0))
    }
}

struct Inner<W: World> {
    world: W,
    /// It changes when the array grows; what was under way goes on with the one of before, by which
    /// everything that was there is found as well.
    geometry: Cell<Geometry>,
    members: Members<W>,
    journal: Journal<W, Members<W>>,
    map: RefCell<Map>,
    cache: RefCell<Cache>,
    lost: RefCell<Marks>,
    sums: Sums,
    scrub: Scrub,
    rebuild: Rebuild,
    /// The shape before, while stripes are moved from it.
    before: RefCell<Option<Rc<Plane>>>,
    widening: Widening,
    /// Stripes whose rows could not be read in place: the next destage places them.
    unreadable: RefCell<BTreeSet<Stripe>>,
    slots: Slots,
    locks: Locks,
    options: StartOptions,
    replay: Cell<ReplayStatus>,
    /// What a person should know of how it was started.
    notices: RefCell<Vec<String>>,
    ring_id: Cell<u128>,
    /// One checkpoint at a time: a page's places alternate.
    checkpoint_lock: Lock,
    /// One pass of destage at a time.
    destage_lock: Lock,
    /// Requests that are under way.
    requests: Cell<u64>,
    /// Rises when somebody wants to know when all requests of before have ended; and how many of
    /// those are left.
    generation: Cell<u64>,
    earlier: Cell<u64>,
    /// Requests ever begun: tells idleness.
    begun: Cell<u64>,
    stopping: Cell<bool>,
    stopped: Cell<bool>,
    quiet: Signal,
    dirtied: Signal,
}

/// A request under way; the stop waits for all of them.
struct Request<W: World> {
    array: Array<W>,
    generation: u64,
    /// When it began, if somebody wants to know.
    began: Option<Duration>,
}

impl<W: World> Drop for Request<W> {
    fn drop(&mut self) {
        let inner = &self.array.0;
        if let Some(began) = self.began {
            let took = inner.world.now().saturating_sub(began);
            inner.scrub.courtesy.request_took(took);
            inner.rebuild.courtesy.request_took(took);
            inner.widening.courtesy.request_took(took);
        }
        if self.generation < inner.generation.get() {
            inner.earlier.set(inner.earlier.get() - 1);
        }
        inner.requests.set(inner.requests.get() - 1);
        inner.quiet.notify();
    }
}

impl From<Halted> for RequestError {
    fn from(_: Halted) -> RequestError {
        RequestError::Io
    }
}

impl<W: World> Array<W> {
    /// Bytes of the device: while stripes are moved to a wider shape, those of the shape before.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        let g = self.0.geometry.get();
        g.shape_before().unwrap_or(g).device_blocks() * BLOCK as u64
    }

    /// Shape of the array.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.0.geometry.get()
    }

    /// What was asked of the members since the start.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.0.members.traffic()
    }

    /// What people should be told of the array's health: the next event, when there is one. For one
    /// listener.
    pub async fn news(&self) -> Event {
        self.0.members.news().await
    }

    /// The array serves as this device: tells that it is there, and which members it lacks.
    pub fn tell_started(&self, device: &str) {
        let (name, members) = (self.name(), &self.0.members);
        members.tell(news::new_array(&name, device, self.0.options.read_only));
        let table = (0..self.0.geometry.get().table() as u8).map(MemberIndex);
        let out: Vec<(String, MemberState)> = table
            .map(|m| {
                let (state, path, ..) = members.describe(m);
                (if path.is_empty() { format!("member {}", m.0) } else { path }, state)
            })
            .filter(|(_, state)| !state.serves())
            .collect();
        if !out.is_empty() {
            members.tell(news::degraded(&name, &out, self.can_lose()));
        }
        let (there, wanted) = members.spares();
        if there < wanted {
            members.tell(news::spares_missing(&name, there, wanted));
        }
    }

    /// UUID of the array.
    #[must_use]
    pub fn uuid(&self) -> u128 {
        self.0.members.superblock().array
    }

    /// Name of the array.
    #[must_use]
    pub fn name(&self) -> String {
        self.0.members.superblock().name
    }

    /// Full sentences that a person should read after a start: members that are left out, what was
    /// replayed, what was given up.
    #[must_use]
    pub fn notices(&self) -> Vec<String> {
        self.0.notices.borrow().clone()
    }

    fn enter(&self, at: u64, len: u64, writes: bool) -> Result<Request<W>, RequestError> {
        if at.checked_add(len).is_none_or(|end| end > self.size_bytes()) {
            return Err(RequestError::Invalid);
        }
        if self.0.stopping.get() {
            return Err(RequestError::Stopping);
        }
        if writes && self.0.options.read_only {
            return Err(RequestError::ReadOnly);
        }
        if writes && self.0.members.is_halted() {
            return Err(RequestError::Io);
        }
        self.0.requests.set(self.0.requests.get() + 1);
        if writes {
            self.0.begun.set(self.0.begun.get() + 1);
        }
        let measured =
            self.0.scrub.is_running() || self.0.rebuild.is_running() || self.is_growing();
        let began = measured.then(|| self.0.world.now());
        Ok(Request { array: self.clone(), generation: self.0.generation.get(), began })
    }

    /// Makes all that was acknowledged before durable (I5), whichever connection it came by.
    pub async fn flush(&self) -> Result<(), RequestError> {
        let _request = self.enter(0, 0, false)?;
        if self.0.options.read_only {
            return Ok(());
        }
        let journal = &self.0.journal;
        let short = broken(Sabotage::FlushShort);
        let all = if short { journal.written_lsn() } else { journal.last_lsn() };
        Ok(journal.durable(all).await?)
    }

    // ---- what a record does to cache and map, the moment it is appended ----

    /// A Write's block is dirty from now on. What it supersedes is released when it is durable.
    fn dirty(&self, stripe: Stripe, block: u32, new: DirtyBlock) {
        let lsn = new.lsn;
        self.0.journal.hold(lsn);
        let now = self.0.world.now();
        let old = self.0.cache.borrow_mut().insert(stripe, block, new, now);
        if let Some(old) = old {
            self.0.journal.when_durable(lsn, Release::Hold(old.lsn));
        }
        self.found_again(stripe, block, lsn);
    }

    /// A Place (to this slot, with these checksums) or an Unmap: Writes up to the horizon are
    /// superseded, the old slot is free when this is durable.
    fn moved(&self, stripe: Stripe, placed: Option<(Slot, &[u32])>, lsn: Lsn, horizon: Lsn) {
        let journal = &self.0.journal;
        journal.hold(lsn);
        let (gone, charges) = self.0.cache.borrow_mut().remove(stripe, |_, b| b.lsn <= horizon);
        (0..charges).for_each(|_| journal.uncharge());
        for block in gone {
            journal.when_durable(lsn, Release::Hold(block.lsn));
        }
        self.found_up_to(stripe, horizon, lsn);
        let slot = placed.map(|p| p.0);
        match placed {
            Some((_, crcs)) => self.0.sums.table.borrow_mut().placed(stripe, lsn, crcs),
            None => self.0.sums.table.borrow_mut().unmapped(stripe),
        }
        let Entry { slot: old, lsn: newest } = self.0.map.borrow().get(stripe);
        let released = self.0.map.borrow_mut().moved(stripe, slot, lsn);
        for held in released {
            journal.when_durable(lsn, Release::Hold(held));
        }
        let before = self.before().filter(|_| newest == Lsn(0));
        let of_before = before.map_or_else(Vec::new, |plane| plane.has_a_record(stripe));
        for old in old.into_iter().chain(of_before) {
            let slots = self.0.slots.clone();
            if broken(Sabotage::SlotReuse) {
                slots.free(old);
            } else {
                journal.when_durable(lsn, Release::Run(Box::new(move || slots.free(old))));
            }
        }
    }

    // ---- health ----

    /// The member, journal device or spare with this path; of several the one that is in use.
    #[must_use]
    pub fn member_by_path(&self, path: &str) -> Option<MemberIndex> {
        let all = self.0.members.those(|m| !path.is_empty() && m.path() == path);
        let used = |m: &&MemberIndex| self.0.members.describe(**m).0.bears_epochs();
        all.iter().find(used).or(all.first()).copied()
    }

    /// State and path of a member, journal device or spare.
    #[must_use]
    pub fn describe_member(&self, member: MemberIndex) -> (MemberState, String) {
        let (state, path, ..) = self.0.members.describe(member);
        (state, path)
    }

    /// The disks that bear the array's epochs: members, journal devices, spares, and those that are
    /// being filled.
    #[must_use]
    pub fn disks(&self) -> Vec<W::Disk> {
        let all = self.0.members.those(|m| m.is_bearer());
        all.into_iter().filter_map(|m| self.0.members.disk(m)).collect()
    }

    /// Fails a member by order of a person: durable when this returns (I3).
    ///
    /// # Errors
    /// If it is not active, or if fewer would be left than the array, or its log, needs.
    pub async fn fail_member(&self, member: MemberIndex) -> Result<(), ArrayError> {
        let (state, path, ..) = self.0.members.describe(member);
        let refuse = |m: String| Err(ArrayError::new(ErrorKind::Failed, m));
        if self.0.options.read_only {
            return refuse("The array was started read-only; no member can be failed.".into());
        }
        if !state.bears_epochs() {
            return refuse(format!("{path} is not active any more; nothing was changed."));
        }
        let g = &self.0.geometry.get();
        let (gone, tolerated, all, what) = if !state.serves() {
            // A spare, or one that is being filled: nobody needs it.
            (0, 1, 1, "spares")
        } else if g.is_journal(member) {
            let gone = self.0.members.gone_journals();
            (gone, g.journal_tolerance(), g.journals, "journal devices")
        } else {
            (self.0.members.gone_members(), g.parity, g.members(), "members")
        };
        if gone >= tolerated {
            return refuse(format!(
                "{path} is still needed: {gone} of {all} {what} are gone already, and the array \
                 tolerates no more. Nothing was changed."
            ));
        }
        let failed = self.0.members.fail_now(member).await;
        failed.map_err(|Halted| {
            ArrayError::new(
                ErrorKind::Failed,
                "Other members failed at the same time: the array takes no writes any more.",
            )
        })
    }

    /// How many more disks may be lost, whichever they are: members or journal devices.
    #[must_use]
    pub fn can_lose(&self) -> usize {
        if self.0.members.is_halted() {
            return 0;
        }
        self.0.members.can_lose()
    }

    /// What `status --json` prints, except device and via, which are the front end's.
    #[must_use]
    pub fn status(&self) -> Status {
        let g = &self.0.geometry.get();
        let sb = self.0.members.superblock();
        let hyphens = |id: u128| uuid::Uuid::from_u128(id).to_string();
        let named = (0..sb.members.len()).filter(|i| !sb.members[*i].is_free());
        let members = named.map(|i| {
            let (state, path, read_errors, write_errors) =
                self.0.members.describe(MemberIndex(i as u8));
            let (checksum_errors, healed) = self.0.members.wrong(MemberIndex(i as u8));
            MemberStatus {
                index: i as u8,
                role: if i < g.members() {
                    Role::Data
                } else if i < g.table() {
                    Role::Journal
                } else {
                    Role::Spare
                },
                path,
                uuid: hyphens(sb.members[i].uuid),
                state,
                takes: sb.members[i].filling.map(|f| f.takes),
                read_errors,
                write_errors,
                checksum_errors,
                healed,
            }
        });
        let (used, rows) = self.0.journal.used_rows();
        let row_bytes = (BLOCK * g.log_devices().len()) as u64;
        let state = if self.0.members.is_halted() {
            State::Failed
        } else if !self.0.members.twins().is_empty() {
            State::Rebuilding
        } else if self.0.members.gone() > 0 {
            State::Degraded
        } else {
            State::Healthy
        };
        Status {
            name: sb.name.clone(),
            uuid: hyphens(sb.array),
            state,
            read_only: self.0.options.read_only,
            level: g.level.as_str().into(),
            data: g.data as u32,
            parity: g.parity as u32,
            chunk_bytes: g.chunk_bytes(),
            size_bytes: self.size_bytes(),
            device: String::new(),
            via: String::new(),
            ack: self.0.options.ack,
            epoch: sb.epoch,
            can_lose: self.can_lose() as u32,
            members: members.collect(),
            rebuild: self.rebuild_status(),
            grow: self.grow_status(),
            scrub: self.scrub_status(),
            log: LogStatus { size_bytes: rows * row_bytes, used_bytes: used * row_bytes },
            cache: CacheStatus {
                dirty_bytes: self.0.cache.borrow().blocks * BLOCK as u64,
                size_bytes: (self.0.journal.ring().places() * BLOCK) as u64,
            },
            stripes: StripesStatus {
                total: g.stripes,
                mapped: self.0.map.borrow().mapped() + self.before().map_or(0, |b| b.left()),
                lost_blocks: self.0.lost.borrow().len(),
            },
            replay: self.0.replay.get(),
        }
    }
}
