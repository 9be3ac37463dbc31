//! An array that grows by more members (`grow --add`). In this order (`grow_by`):
//!
//! 1. everything is looked at that can be, then the disks are taken in as spares, and the array, which
//!    serves, is asked whether they can be members, and makes room for the wider shape;
//! 2. what is dirty goes to its place, so that the pause is short;
//! 3. the gate is closed: requests wait from here on; the array is stopped, cleanly;
//! 4. the wider shape is put in force on all disks, whose locks this daemon has held all the time;
//! 5. the array is started again, and the gate opened: it moves its stripes from then on, and has its old
//!    size until all of them are moved. Then the front end shows the new one (`watch_growth`).
//!
//! What must hold: whoever uses the device waits, and sees no error; up to the stop everything can still be
//! refused, and the array goes on; if the stop or the wider shape fails, it is started as it was; if that
//! fails as well, the daemon ends as a dead one does, and the device waits for the next.

use std::time::Duration;

use evenkeel_journal::uring::UringDisk;
use evenkeel_journal::world::World;
use evenkeel_journal::{BLOCK, Disk, MemberIndex};
use evenkeel_raid::status::{MemberState, Role, State};
use evenkeel_raid::{Added, Array, ArrayError, ErrorKind, Event, EventKind, widen};

use super::super::{Via, failed, within};
use super::{DaemonArray, Live, spare};
use crate::control::{NewDisk, WidenedTo};
use crate::process::note;
use crate::ublk::record::parse_uuid;

/// How long requests under way may take to end, before the array goes on as it is.
const CLOSE_PATIENCE: Duration = Duration::from_secs(20);
/// How long it is tried to start the array again: what is left of the one before, as its ring in
/// memory, may take a moment to go.
const START_PATIENCE: Duration = Duration::from_secs(10);
/// Between two tries.
const START_STEP: Duration = Duration::from_millis(100);

/// A disk that is to become a member: a spare, or one that is locked and not yet taken in.
enum Candidate {
    Spare(MemberIndex),
    New(UringDisk),
}

impl Live {
    /// Makes members of disks. What is refused has changed nothing but that disks may be spares now,
    /// which is said.
    pub(super) async fn grow_by(&self, disks: &[NewDisk]) -> Result<WidenedTo, ArrayError> {
        let s = &self.0;
        self.may_begin()?;
        if s.widening.replace(true) {
            return refuse(ErrorKind::Failed, "The array is about to grow by other disks.");
        }
        let done = self.grow_by_these(disks).await;
        s.widening.set(false);
        self.watch_growth();
        s.changed.notify();
        done
    }

    /// Waits until there is an array, or will be none.
    pub(super) async fn not_restarting(&self) {
        while self.0.restarting.get() {
            self.0.changed.wait().await;
        }
    }

    async fn grow_by_these(&self, disks: &[NewDisk]) -> Result<WidenedTo, ArrayError> {
        let s = &self.0;
        let (array, inside) = s.served.enter().await;
        self.may_grow(&array)?;
        let candidates = self.look_at(&array, disks).await?;
        let mut taken = Vec::new();
        let spares = self.take_in(&array, candidates, &mut taken).await;
        let but = |e: ArrayError| self.but_spares(e, &taken);
        let spares = spares.map_err(but)?;
        let wider = array.prepare_to_widen(&spares).await.map_err(but)?;
        let but = |e: ArrayError| {
            array.stay_as_it_is();
            but(e)
        };
        let uuids = uuids_of(&array, &spares).map_err(but)?;
        let (shape, before_bytes) = (array.geometry(), array.size_bytes());
        array.destage_all().await.map_err(|e| but(failed(format!("Not all is destaged: {e}."))))?;
        drop((array, inside));
        let but = |e: ArrayError| {
            if let Some(array) = s.served.target() {
                array.stay_as_it_is();
            }
            self.but_spares(e, &taken)
        };

        // Whoever wants its end may have come meanwhile; from here on that waits.
        self.may_begin().map_err(but)?;
        s.restarting.set(true);
        let waited = self.between_arrays(&uuids).await;
        s.restarting.set(false);
        s.changed.notify();
        let waited = waited.map_err(but)?;
        let name = &s.config.name;
        Ok(WidenedTo {
            level: wider.level.as_str().to_owned(),
            data_before: shape.data as u32,
            data: wider.data as u32,
            parity: wider.parity as u32,
            added: disks.iter().map(|d| d.disk.clone()).collect(),
            before_bytes,
            after_bytes: wider.device_blocks() * BLOCK as u64,
            device: s.front.path().to_owned(),
            via: s.front.via().to_owned(),
            waited_ms: u64::try_from(waited.as_millis()).unwrap_or(u64::MAX),
            note: format!(
                "The stripes are moved to the wider shape in the background, also after a restart: see \
                 evenkeel status {name}. It has its new size when all of them are moved: evenkeel wait \
                 {name} grow"
            ),
        })
    }

    fn may_begin(&self) -> Result<(), ArrayError> {
        if self.0.stopping.get() {
            let text = "The array is being stopped, or handed over to another daemon.";
            return refuse(ErrorKind::Failed, text);
        }
        Ok(())
    }

    /// Whether the array is one that can grow now, as far as that can be seen before anything is done.
    fn may_grow(&self, array: &DaemonArray) -> Result<(), ArrayError> {
        let (status, name) = (array.status(), &self.0.config.name);
        if status.read_only {
            return refuse(ErrorKind::Failed, "The array was started read-only; it cannot grow.");
        }
        if array.is_growing() {
            let text = format!(
                "The array still moves stripes to the members that it got last. Wait for that first: \
                 evenkeel wait {name} grow."
            );
            return refuse(ErrorKind::Failed, text);
        }
        let out = |m: &&evenkeel_raid::status::MemberStatus| {
            m.role != Role::Spare && m.state != MemberState::Active
        };
        if let Some(m) = status.members.iter().find(out) {
            let path = if m.path.is_empty() { String::new() } else { format!(" ({})", m.path) };
            let text = format!(
                "Member {}{path} is {}. An array grows only while it is whole: replace what has failed \
                 first.",
                m.index,
                m.state.as_str()
            );
            return refuse(ErrorKind::Failed, text);
        }
        if let Some(m) = status.members.iter().find(|m| m.takes.is_some()) {
            let text = format!(
                "{} is being filled. Wait for it first: evenkeel wait {name} rebuild.",
                m.path
            );
            return refuse(ErrorKind::Failed, text);
        }
        Ok(())
    }

    /// Opens and locks the disks that are no spares, and looks whether all are large enough.
    async fn look_at(
        &self,
        array: &DaemonArray,
        disks: &[NewDisk],
    ) -> Result<Vec<Candidate>, ArrayError> {
        if disks.is_empty() {
            return refuse(ErrorKind::Usage, "No disk is named.");
        }
        let g = array.geometry();
        // Whatever its pages will be called: is there such a shape at all?
        g.widened(disks.len(), 1)?;
        let (mut candidates, mut seen) = (Vec::new(), Vec::new());
        for NewDisk { disk, seen: identity } in disks {
            if let Some(spare) = spare(array, disk) {
                if seen.contains(&spare) {
                    return refuse(ErrorKind::Foreign, format!("{disk} is given twice."));
                }
                seen.push(spare);
                candidates.push(Candidate::Spare(spare));
                continue;
            }
            let open = self.open(array, disk, *identity).await?;
            g.takes_spare(disk, open.facts().bytes)?;
            candidates.push(Candidate::New(open));
        }
        Ok(candidates)
    }

    /// Makes spares of what is none. `taken` gets the paths of those that became some.
    async fn take_in(
        &self,
        array: &DaemonArray,
        candidates: Vec<Candidate>,
        taken: &mut Vec<String>,
    ) -> Result<Vec<MemberIndex>, ArrayError> {
        let mut spares = Vec::with_capacity(candidates.len());
        for candidate in candidates {
            let disk = match candidate {
                Candidate::Spare(spare) => {
                    spares.push(spare);
                    continue;
                }
                Candidate::New(disk) => disk,
            };
            let path = disk.facts().path;
            match array.add_disk(disk).await? {
                Added::Spare(spare) => {
                    spares.push(spare);
                    taken.push(path);
                }
                Added::Back(member) => {
                    return Err(failed(format!(
                        "{path} was member {member}, and is that again: it gets what it has missed. To \
                         grow, name other disks."
                    )));
                }
            }
        }
        Ok(spares)
    }

    /// The same error, and what has become of the disks that were taken in.
    fn but_spares(&self, e: ArrayError, taken: &[String]) -> ArrayError {
        let name = &self.0.config.name;
        let now = match taken {
            [] => return e,
            [one] => format!(
                "{one} is a spare of \"{name}\" now. It can be taken out again: evenkeel remove {name} \
                 {one}"
            ),
            all => format!(
                "{} are spares of \"{name}\" now. Each can be taken out again: evenkeel remove {name} \
                 DISK",
                all.join(", ")
            ),
        };
        ArrayError::new(e.kind, format!("{} {now}", e.message))
    }

    /// Stops the array, makes these spares members, and starts it again, while requests wait. Gives how
    /// long they did.
    async fn between_arrays(&self, more: &[u128]) -> Result<Duration, ArrayError> {
        let s = &self.0;
        let began = s.world.now();
        let closed = within(&s.world, CLOSE_PATIENCE, s.served.close()).await.is_some();
        let goes_on = |why: String| {
            s.served.open();
            Err(failed(format!("{why} The array goes on as it was, and nothing is lost.")))
        };
        if !closed {
            return goes_on(format!(
                "Requests under way did not end within {} s: a disk may hang.",
                CLOSE_PATIENCE.as_secs()
            ));
        }
        let Some(array) = s.served.target() else {
            return goes_on("The array is gone.".to_owned());
        };
        if array.status().state != State::Healthy {
            return goes_on(
                "A member has failed just now, and an array grows only while it is whole.".into(),
            );
        }
        let mut status = array.status();
        status.device = s.front.path().to_owned();
        status.via = s.front.via().to_owned();
        s.between.replace(Some(status));
        let (disks, shape) = (array.disks(), array.geometry());
        let stopped = array.stop().await;
        drop((array, s.served.take()));
        // From here on nobody asks the disks for anything but this.
        let wider = match stopped {
            Ok(()) => widen(&s.world, &disks, more, s.options.io_timeout).await.map(drop),
            Err(e) => Err(e),
        };
        let array = match self.start_again(&disks).await {
            Ok(array) => array,
            Err(e) => return Err(self.gone(wider.err(), &e)),
        };
        array.notices().iter().for_each(|n| note(n));
        // An epoch that a disk failed to bear may be in force all the same.
        let is_wider = array.geometry().data > shape.data;
        s.served.put(array);
        s.between.take();
        s.served.open();
        let waited = s.world.now().saturating_sub(began);
        note(&format!("Requests waited for {} ms.", waited.as_millis()));
        match wider {
            Ok(()) => Ok(waited),
            Err(e) if is_wider => {
                note(&e.message);
                Ok(waited)
            }
            Err(e) => Err(failed(format!(
                "The array was not made wider: {} It goes on as it was, and nothing is lost.",
                e.message
            ))),
        }
    }

    async fn start_again(&self, disks: &[UringDisk]) -> Result<DaemonArray, ArrayError> {
        let s = &self.0;
        // What these would give up was written down by the start that they were said to.
        let mut options = s.options;
        (options.accept_missing, options.force) = (false, false);
        let (began, mut said) = (s.world.now(), false);
        loop {
            match Array::start(&s.world, disks, &options, &|_| {}).await {
                Err(e) if s.world.now().saturating_sub(began) < START_PATIENCE => {
                    if !said {
                        note(&format!("The array is not started again yet: {e}"));
                        said = true;
                    }
                    s.world.sleep(START_STEP).await;
                }
                done => return done,
            }
        }
    }

    /// There is no array any more: the daemon ends as soon as that is said.
    fn gone(&self, not_wider: Option<ArrayError>, e: &ArrayError) -> ArrayError {
        let s = &self.0;
        s.left.set(true);
        s.code.set(1);
        let why = not_wider.map_or_else(String::new, |e| format!("{} ", e.message));
        let (name, device) = (&s.config.name, s.front.path());
        let (waits, how) = match s.config.via {
            Via::Ublk => (
                format!("{device} is there, mounted or not, and its requests wait"),
                format!("evenkeel start {name}"),
            ),
            Via::Nbd => (
                "Clients can connect again when a daemon serves".to_owned(),
                format!("evenkeel start {name} --via nbd"),
            ),
        };
        let text = format!(
            "{why}The array could not be started again: {e} Its daemon ends, as by kill -9. Nothing that \
             was acknowledged is lost. {waits}. Remove the reason, and go on with: {how}"
        );
        note(&text);
        failed(text)
    }

    /// If the array moves stripes to more members: says so, and when that is done has the front end show
    /// the new size. A growth goes on after a start, so this is for every array that is served.
    pub(super) fn watch_growth(&self) {
        let Some(array) = self.0.served.target() else { return };
        let (s, goes_on) = (&self.0, array.is_growing());
        // One of few stripes may be through already.
        let through = !goes_on && array.size_bytes() != s.told_bytes.get();
        if !goes_on && !through || s.growing.replace(true) {
            return;
        }
        s.broken_off.take();
        let live = self.clone();
        s.world.spawn("growth", async move {
            let s = &live.0;
            if goes_on && !s.options.read_only {
                live.tell(&live.goes_on_growing(&array));
            }
            match array.grown().await {
                Ok(_) if array.size_bytes() != s.told_bytes.get() => {
                    let (before, after) =
                        (s.told_bytes.replace(array.size_bytes()), array.size_bytes());
                    let shown = s.front.show_size(after).await;
                    live.tell(&Event::grown(&s.config.name, before, after, &shown.sentence));
                }
                Ok(_) => {}
                Err(e) => {
                    s.broken_off.replace(Some(e));
                }
            }
            s.growing.set(false);
            s.changed.notify();
        });
    }

    fn goes_on_growing(&self, array: &DaemonArray) -> Event {
        let (g, name) = (array.geometry(), &self.0.config.name);
        let sentence = format!(
            "Array {name} grows to {} data and {} parity chunks: its stripes are moved to the wider shape in \
             the background. When all of them are, it has {} bytes instead of {}.",
            g.data,
            g.parity,
            g.device_blocks() * BLOCK as u64,
            array.size_bytes()
        );
        Event::of_array(EventKind::Note, sentence)
    }
}

fn refuse<T>(kind: ErrorKind, why: impl Into<String>) -> Result<T, ArrayError> {
    Err(ArrayError::new(kind, why.into() + " Nothing was changed."))
}

/// The identities of members, which stay theirs when their places in the table change.
fn uuids_of(array: &DaemonArray, members: &[MemberIndex]) -> Result<Vec<u128>, ArrayError> {
    let status = array.status();
    let uuid = |m: &MemberIndex| {
        let found = status.members.iter().find(|s| s.index == m.0);
        found.and_then(|s| parse_uuid(&s.uuid))
    };
    let all: Option<Vec<u128>> = members.iter().map(uuid).collect();
    all.ok_or_else(|| failed("A spare has left meanwhile."))
}
