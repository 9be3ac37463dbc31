//! The NBD server: who is served, who waits, and who has to go.
//!
//! What must hold: clients are bounded ([`MAX_CONNECTIONS`] served, [`MAX_HAGGLING`] that have not
//! yet chosen the export); more wait to be accepted. Who says nothing, or half of something, does
//! not keep others out for long: an unfinished handshake ends after a while, sooner if others wait;
//! and of the served, one that is stuck in the middle of a message, or does not take its replies,
//! has to go if another waits. Memory a connection is bounded, see `connection`. One timer runs for
//! all of this, and only while there is something to time.

use std::cell::{Cell, RefCell};
use std::os::unix::net::UnixListener;
use std::rc::{Rc, Weak};
use std::time::Duration;

use evenkeel_journal::sync::Signal;
use evenkeel_journal::uring::Driver;
use evenkeel_journal::{BLOCK, World};
use evenkeel_raid::MAX_REQUEST;

use super::connection::{Connection, haggle, read_requests, send_replies};
use super::protocol::Export;
use super::serve::serve;
use super::socket::Socket;
use crate::target::BlockTarget;

/// Connections served at a time.
pub const MAX_CONNECTIONS: usize = 16;
/// Connections at a time that have not yet chosen the export.
pub const MAX_HAGGLING: usize = 128;
/// How often the clock is looked at while somebody may have to go.
const TICK: Duration = Duration::from_millis(100);

/// How long clients may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// To choose their export.
    pub haggle: Duration,
    /// The same, while [`MAX_HAGGLING`] haggle and another one waits.
    pub crowded: Duration,
    /// To go on in the middle of a message, or to take a reply, while another one waits to be
    /// served.
    pub stuck: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            haggle: Duration::from_secs(30),
            crowded: Duration::from_millis(500),
            stuck: Duration::from_secs(30),
        }
    }
}

/// What the server is told.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Name of the export; it is the default export as well.
    pub name: String,
    /// Nothing that changes the content is taken.
    pub read_only: bool,
    /// How long clients may take.
    pub patience: Patience,
}

/// A running server. Clones share it.
pub struct NbdServer<W: World, T: BlockTarget>(Rc<State<W, T>>);

impl<W: World, T: BlockTarget> Clone for NbdServer<W, T> {
    fn clone(&self) -> Self {
        NbdServer(Rc::clone(&self.0))
    }
}

struct State<W: World, T: BlockTarget> {
    world: W,
    target: T,
    /// As it was at the start.
    export: Export,
    patience: Patience,
    listener: Socket,
    connections: RefCell<Vec<Weak<Connection>>>,
    haggling: Cell<usize>,
    serving: Cell<usize>,
    /// Clients that wait for their turn: to be greeted, or to be served.
    waiting: Cell<usize>,
    /// The task that looks at the clock runs.
    watched: Cell<bool>,
    closing: Cell<bool>,
    changed: Signal,
}

impl<W: World, T: BlockTarget> NbdServer<W, T> {
    /// Serves `target` to whoever connects to `listener` (see [`super::socket::listen`]).
    pub fn start(
        world: W,
        driver: Driver,
        listener: UnixListener,
        target: T,
        config: ServerConfig,
    ) -> NbdServer<W, T> {
        let export = Export {
            name: config.name,
            size_bytes: target.size_bytes(),
            read_only: config.read_only,
            preferred_bytes: BLOCK as u32,
            max_bytes: MAX_REQUEST as u32,
        };
        let server = NbdServer(Rc::new(State {
            world: world.clone(),
            target,
            export,
            patience: config.patience,
            listener: Socket::new(listener, driver),
            connections: RefCell::new(Vec::new()),
            haggling: Cell::new(0),
            serving: Cell::new(0),
            waiting: Cell::new(0),
            watched: Cell::new(false),
            closing: Cell::new(false),
            changed: Signal::new(),
        }));
        world.spawn("nbd accept", accept(server.clone()));
        server
    }

    /// How many clients are served, those included whose last requests are under way.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.0.serving.get()
    }

    /// Accepts nobody any more, takes no more requests, and ends when those under way are
    /// answered and all connections are closed. A client that does not take its replies is cut
    /// off after `patience`.
    pub async fn close(&self, patience: Duration) {
        let s = &self.0;
        s.closing.set(true);
        s.listener.shutdown();
        s.changed.notify();
        s.each(|c| if c.serving.get() { c.stop_reading() } else { c.give_up() });
        let late = Rc::downgrade(s);
        let world = s.world.clone();
        s.world.spawn("nbd close", async move {
            world.sleep(patience).await;
            if let Some(s) = late.upgrade() {
                s.each(|c| c.give_up());
            }
        });
        while s.serving.get() + s.haggling.get() > 0 {
            s.changed.wait().await;
        }
    }
}

impl<W: World, T: BlockTarget> State<W, T> {
    /// The export as a client that connects now is told of it.
    fn export(&self) -> Export {
        Export { size_bytes: self.target.size_bytes(), ..self.export.clone() }
    }

    fn all(&self) -> Vec<Rc<Connection>> {
        self.connections.borrow().iter().filter_map(Weak::upgrade).collect()
    }

    fn each(&self, f: impl Fn(&Connection)) {
        self.all().iter().for_each(|c| f(c));
    }

    /// Whether a client has to wait before it is greeted.
    fn is_full(&self) -> bool {
        self.serving.get() >= MAX_CONNECTIONS || self.haggling.get() >= MAX_HAGGLING
    }

    /// Waits until `ready` says that it is this client's turn, or that there is no point any more.
    async fn wait_for_turn(self: &Rc<Self>, ready: impl Fn(&Self) -> bool) {
        self.waiting.set(self.waiting.get() + 1);
        while !ready(self) && !self.closing.get() {
            self.watch();
            self.changed.wait().await;
        }
        self.waiting.set(self.waiting.get() - 1);
    }

    /// Looks at the clock as long as there is something to time.
    fn watch(self: &Rc<Self>) {
        if self.watched.replace(true) {
            return;
        }
        let s = Rc::clone(self);
        self.world.spawn("nbd clock", async move {
            while !s.closing.get() && (s.haggling.get() > 0 || s.waiting.get() > 0) {
                s.world.sleep(TICK).await;
                s.send_away(s.world.now());
            }
            s.watched.set(false);
        });
    }

    /// Gives up those that have to go now.
    fn send_away(&self, now: Duration) {
        let mut all = self.all();
        all.retain(|c| !c.given_up());
        let (serving, haggling): (Vec<_>, Vec<_>) = all.iter().partition(|c| c.serving.get());
        let age = |c: &Connection| now.saturating_sub(c.since);
        let late = haggling.iter().filter(|c| age(c) >= self.patience.haggle);
        late.for_each(|c| c.give_up());
        if self.waiting.get() == 0 {
            return;
        }
        // Some of those given up may wait for their turn.
        self.changed.notify();
        if self.haggling.get() >= MAX_HAGGLING {
            let late = haggling.iter().filter(|c| age(c) >= self.patience.crowded);
            late.for_each(|c| c.give_up());
        }
        if self.serving.get() >= MAX_CONNECTIONS {
            let stuck = serving.iter().map(|c| (c.progress.stuck_for(now), c));
            if let Some((time, c)) = stuck.max_by_key(|s| s.0)
                && time >= self.patience.stuck
            {
                c.give_up();
            }
        }
    }
}

async fn accept<W: World, T: BlockTarget>(server: NbdServer<W, T>) {
    let s = &server.0;
    while !s.closing.get() {
        match s.listener.accept().await {
            Ok(socket) => {
                s.wait_for_turn(|s| !s.is_full()).await;
                if s.closing.get() {
                    return;
                }
                s.haggling.set(s.haggling.get() + 1);
                let c = Rc::new(Connection::new(socket, s.world.now()));
                s.connections.borrow_mut().push(Rc::downgrade(&c));
                s.world.spawn("nbd connection", connection(server.clone(), c));
                s.watch();
            }
            Err(_) if s.closing.get() => return,
            // Out of descriptors or memory: that passes.
            Err(_) => s.world.sleep(TICK).await,
        }
    }
}

async fn connection<W: World, T: BlockTarget>(server: NbdServer<W, T>, c: Rc<Connection>) {
    let s = &server.0;
    let mut inbox = c.inbox();
    let turn = async || {
        s.wait_for_turn(|s| s.serving.get() < MAX_CONNECTIONS || c.given_up()).await;
        if c.given_up() || s.closing.get() {
            return false;
        }
        c.serving.set(true);
        s.haggling.set(s.haggling.get() - 1);
        s.serving.set(s.serving.get() + 1);
        s.changed.notify();
        true
    };
    // The size that this client is told, though the device may grow.
    let export = s.export();
    if let Ok(Some(agreed)) = haggle(&c, &mut inbox, &export, turn).await {
        c.expect_requests();
        inbox.expect_requests();
        s.world.spawn("nbd sender", send_replies(Rc::clone(&c)));
        let _ = read_requests(&c, &mut inbox, &s.target, export, agreed, |job| {
            s.world.spawn("nbd request", serve(s.target.clone(), Rc::clone(&c), job));
        })
        .await;
        c.finish().await;
    }
    c.hang_up();
    s.connections.borrow_mut().retain(|w| w.upgrade().is_some_and(|o| !Rc::ptr_eq(&o, &c)));
    let count = if c.serving.get() { &s.serving } else { &s.haggling };
    count.set(count.get() - 1);
    s.changed.notify();
}
