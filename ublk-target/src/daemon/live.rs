//! A running daemon: what the control socket and signals make it do.
//!
//! - `growth.rs` an array that grows by more members: it is stopped, made wider and started again behind
//!   the front end, whose requests wait meanwhile.

mod growth;

use std::cell::{Cell, RefCell};
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use evenkeel_journal::Buf;
use evenkeel_journal::MemberIndex;
use evenkeel_journal::sync::{Signal, within as first_of};
use evenkeel_journal::uring::UringDisk;
use evenkeel_journal::uring::UringWorld;
use evenkeel_journal::world::World;
use evenkeel_raid::hung::IO_TIMEOUT;
use evenkeel_raid::status::MemberState;
use evenkeel_raid::{Added, Array, ArrayError, ErrorKind, Event, Located, StartOptions, Status};

use super::front::{Front, Served};
use super::hook::Hook;
use super::{DaemonConfig, failed, members, pid_file, within};
use crate::control::{AddedAs, Commands, GrownTo, NewDisk, Settings, WidenedTo};
use crate::process::note;
use crate::target::BlockTarget;

/// How long the array may take to destage and to mark its members clean. After that the log stays
/// as it is, and the next start replays it.
const STOP_PATIENCE: Duration = Duration::from_secs(300);
/// How long a signal waits for somebody who is just closing the device.
const LEAVE_STEPS: u32 = 50;
/// What is said of an array that is about to be started again.
const BETWEEN: &str = "The array is just being changed. Ask again in a moment.";
/// How long a disk that is held is waited for, before it is taken in: a member that has just failed is
/// held until its last operation has ended.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

type DaemonArray = Array<UringWorld>;

struct State {
    world: UringWorld,
    served: Served,
    /// What the array said of itself, while it is stopped and another one is to take its place.
    between: RefCell<Option<Status>>,
    /// How it was started.
    options: StartOptions,
    front: Front,
    hook: Option<Hook>,
    config: DaemonConfig,
    /// How long a disk may take to be opened.
    bound: Duration,
    stopping: Cell<bool>,
    /// Bytes of the array when the front end was told of its size last.
    told_bytes: Cell<u64>,
    /// It is about to grow by more members: nothing else that does so is begun.
    widening: Cell<bool>,
    /// It is being stopped for that, and started again: whoever wants its end waits.
    restarting: Cell<bool>,
    /// It grows by more members, and the end of that is waited for.
    growing: Cell<bool>,
    /// Why that ended before it was through.
    broken_off: RefCell<Option<ArrayError>>,
    left: Cell<bool>,
    code: Cell<u8>,
    ended: Cell<bool>,
    changed: Signal,
}

/// Clones share it.
#[derive(Clone)]
pub struct Live(Rc<State>);

impl Live {
    /// An array behind a front end, and how it was started.
    #[must_use]
    pub fn new(
        world: &UringWorld,
        served: Served,
        options: StartOptions,
        front: Front,
        hook: Option<Hook>,
        config: &DaemonConfig,
    ) -> Live {
        Live(Rc::new(State {
            world: world.clone(),
            told_bytes: Cell::new(served.size_bytes()),
            served,
            between: RefCell::default(),
            options,
            front,
            hook,
            config: config.clone(),
            bound: config.start.io_timeout.unwrap_or(IO_TIMEOUT),
            stopping: Cell::new(false),
            widening: Cell::new(false),
            restarting: Cell::new(false),
            growing: Cell::new(false),
            broken_off: RefCell::default(),
            left: Cell::new(false),
            code: Cell::new(0),
            ended: Cell::new(false),
            changed: Signal::new(),
        }))
    }

    /// Waits for the end of the daemon; its exit code.
    pub async fn ended(&self) -> u8 {
        while !self.0.ended.get() {
            self.0.changed.wait().await;
        }
        self.0.code.get()
    }

    /// Whether the array was handed over: what lies in the run directory is the next daemon's.
    #[must_use]
    pub fn has_left(&self) -> bool {
        self.0.left.get()
    }

    /// From now on, what happens to the array is said in the log, and told to the hook: first of all
    /// that it is there.
    pub fn tell_news(&self) {
        let live = self.clone();
        if let Some(array) = live.0.served.target() {
            array.tell_started(live.0.front.path());
        }
        self.0.world.spawn("news", async move {
            loop {
                let (array, turn) = live.0.served.next_target().await;
                // All that one has to tell comes before the next.
                while let Some(event) = first_of(live.0.served.is_over(turn), array.news()).await {
                    live.tell(&event);
                }
            }
        });
        self.watch_growth();
    }

    fn tell(&self, event: &Event) {
        note(&event.sentence);
        if let Some(hook) = &self.0.hook {
            hook.tell(&self.0.config.name, self.0.front.path(), event);
        }
    }

    /// From now on, a signal to end stops the array, unless it is in use: a daemon that goes when
    /// the machine shuts down would take the device from under the file systems on it.
    pub fn obey(&self, signals: OwnedFd) {
        let (live, signals) = (self.clone(), Rc::new(signals));
        self.0.world.spawn("signals", async move {
            let mut buf = Buf::zeroed(size_of::<libc::signalfd_siginfo>());
            loop {
                let (fd, keep) = (signals.as_raw_fd(), Box::new(Rc::clone(&signals)));
                let (got, back) = live.0.world.driver().read_fd(fd, keep, buf).await;
                buf = back;
                if got.is_err() {
                    return;
                }
                live.end_if_unused().await;
            }
        });
    }

    /// The member, journal device or spare with this path.
    fn member(&self, array: &DaemonArray, disk: &str) -> Result<MemberIndex, ArrayError> {
        array.member_by_path(disk).ok_or_else(|| {
            let text = format!("{disk} is not a member of \"{}\".", self.0.config.name);
            ArrayError::new(ErrorKind::Usage, text)
        })
    }

    /// Opens and locks a disk that is to be taken in, if it is the one that was seen there.
    async fn open(
        &self,
        array: &DaemonArray,
        disk: &str,
        seen: Option<(u64, u64)>,
    ) -> Result<UringDisk, ArrayError> {
        if let Some(member) = array.member_by_path(disk)
            && array.describe_member(member).0.bears_epochs()
        {
            let text = format!(
                "{disk} is in the array already (member {member}). Nothing was changed; see: evenkeel \
                 status {}",
                self.0.config.name
            );
            return Err(ArrayError::new(ErrorKind::Foreign, text));
        }
        members::open_one(&self.0.world, disk.as_ref(), seen, LOCK_PATIENCE, self.0.bound).await
    }

    /// Waits for something of the array, and of the one that takes its place meanwhile.
    async fn waited_for<F: Future<Output = Result<(), ArrayError>>>(
        &self,
        wait: impl Fn(DaemonArray) -> F,
    ) -> Result<(), ArrayError> {
        let served = &self.0.served;
        loop {
            let (array, turn) = served.next_target().await;
            match first_of(served.is_over(turn), wait(array)).await {
                // It is being stopped for the next one.
                Some(_) if self.0.between.borrow().is_some() => served.is_over(turn).await,
                Some(done) => return done,
                None => {}
            }
        }
    }

    async fn end_if_unused(&self) {
        for _ in 0..LEAVE_STEPS {
            if self.open_count() == 0 {
                if !self.0.stopping.get() {
                    if let Err(e) = self.stop().await {
                        note(&e.message);
                    }
                    self.quit();
                }
                return;
            }
            self.0.world.sleep(Duration::from_millis(20)).await;
        }
        note(&format!(
            "A signal to end was ignored: {} is in use. To stop it anyway: evenkeel stop {} \
             --force",
            self.0.front.path(),
            self.0.config.name
        ));
    }
}

impl Commands for Live {
    fn status(&self) -> Status {
        let between = self.0.between.borrow().clone();
        let now = || self.0.served.target().map(|array| array.status());
        let mut status = between.or_else(now).expect("without an array there is its last status");
        status.device = self.0.front.path().to_owned();
        status.via = self.0.front.via().to_owned();
        status
    }

    fn locate(&self, byte: u64) -> Result<Located, ArrayError> {
        self.0.served.target().ok_or_else(|| failed(BETWEEN))?.locate(byte)
    }

    fn open_count(&self) -> usize {
        self.0.front.open_count()
    }

    async fn fail(&self, disk: &str) -> Result<(), ArrayError> {
        let (array, _inside) = self.0.served.enter().await;
        array.fail_member(self.member(&array, disk)?).await
    }

    async fn add(&self, disk: &str, seen: Option<(u64, u64)>) -> Result<AddedAs, ArrayError> {
        let (array, _inside) = self.0.served.enter().await;
        let added = array.add_disk(self.open(&array, disk, seen).await?).await?;
        let (member, back) = match added {
            Added::Spare(member) => (member, false),
            Added::Back(member) => (member, true),
        };
        Ok(AddedAs { member: member.0, back })
    }

    async fn remove(&self, disk: &str) -> Result<(), ArrayError> {
        let (array, _inside) = self.0.served.enter().await;
        array.remove_member(self.member(&array, disk)?).await
    }

    async fn replace(
        &self,
        old: &str,
        new: &str,
        seen: Option<(u64, u64)>,
    ) -> Result<(), ArrayError> {
        let (array, _inside) = self.0.served.enter().await;
        let old = self.member(&array, old)?;
        let new = match spare(&array, new) {
            Some(spare) => Err(spare),
            None => Ok(self.open(&array, new, seen).await?),
        };
        array.replace_member(old, new).await
    }

    async fn grow_size(&self) -> Result<GrownTo, ArrayError> {
        let s = &self.0;
        let (array, _inside) = s.served.enter().await;
        let grown = array.grow_size().await?;
        // Of two that ask at once, the later one may have grown further already.
        s.told_bytes.set(array.size_bytes());
        let shown = s.front.show_size(array.size_bytes()).await;
        let (name, device) = (&s.config.name, s.front.path());
        self.tell(&Event::grown(name, grown.before, grown.after, &shown.sentence));
        Ok(GrownTo {
            before_bytes: grown.before,
            after_bytes: grown.after,
            device: device.to_owned(),
            via: s.front.via().to_owned(),
            device_bytes: shown.bytes,
            note: shown.sentence,
        })
    }

    async fn grow_add(&self, disks: &[NewDisk]) -> Result<WidenedTo, ArrayError> {
        self.grow_by(disks).await
    }

    async fn growth_ended(&self) -> Result<(), ArrayError> {
        let s = &self.0;
        while s.widening.get() || s.growing.get() {
            s.changed.wait().await;
        }
        s.broken_off.borrow().clone().map_or(Ok(()), Err)
    }

    async fn rebuilt(&self) -> Result<(), ArrayError> {
        self.waited_for(|array| async move { array.rebuilt().await }).await
    }

    async fn destage(&self) -> Result<(), ArrayError> {
        let done = |e| failed(format!("Not all is destaged: {e}."));
        self.waited_for(|array| async move { array.destage_all().await.map_err(done) }).await
    }

    async fn scrub(&self, check_only: bool) -> Result<(), ArrayError> {
        let (array, _inside) = self.0.served.enter().await;
        array.start_scrub(check_only).await
    }

    async fn stop_scrub(&self) -> Result<(), ArrayError> {
        let (array, _inside) = self.0.served.enter().await;
        array.stop_scrub().await
    }

    async fn scrub_ended(&self) -> Result<(), ArrayError> {
        self.waited_for(|array| async move { array.scrub_ended().await }).await
    }

    fn settings(&self) -> Settings {
        self.0.config.settings(self.0.options.ack)
    }

    fn show_leaving(&self, leaving: bool) {
        pid_file::show_leaving(leaving);
    }

    async fn leave(&self) {
        let s = &self.0;
        // A signal may have stopped the array meanwhile; then there is nothing to hand over.
        if !s.stopping.replace(true) {
            self.not_restarting().await;
            s.left.set(true);
            s.front.leave(&s.world).await;
            note("The array is left to the next daemon.");
        }
    }

    async fn stop(&self) -> Result<(), ArrayError> {
        let s = &self.0;
        if s.stopping.replace(true) {
            return Err(failed("The array is being stopped already."));
        }
        self.not_restarting().await;
        let Some(array) = s.served.target() else {
            return Err(failed("The array is not started any more."));
        };
        let done = match s.front.stop(&s.world).await {
            Ok(()) => {
                let stopped = within(&s.world, STOP_PATIENCE, array.stop()).await;
                s.front.remove(&s.world).await;
                self.tell(&Event::stopped(&s.config.name, s.front.path()));
                stopped.unwrap_or_else(|| {
                    let text = "The members are too slow to finish in time, so what is not in \
                                its place yet stays in the log. The next start replays it.";
                    Err(failed(text))
                })
            }
            // The device may still serve: whoever starts the array next takes it over.
            Err(e) => Err(e),
        };
        if done.is_err() {
            s.code.set(1);
        }
        done
    }

    fn is_over(&self) -> bool {
        let s = &self.0;
        s.served.target().is_none() && !s.widening.get()
    }

    fn quit(&self) {
        self.0.ended.set(true);
        self.0.changed.notify();
    }
}

/// The spare with this path.
fn spare(array: &DaemonArray, disk: &str) -> Option<MemberIndex> {
    let is_spare = |m: &MemberIndex| array.describe_member(*m).0 == MemberState::Spare;
    array.member_by_path(disk).filter(is_spare)
}
