//! The NBD server: one reading task and one sending task a connection, one task a request.
//!
//! What must hold: memory is bounded ([`MAX_CONNECTIONS`], [`REQUESTS_PER_CONNECTION`],
//! [`BYTES_PER_CONNECTION`]): beyond it nothing is read from the socket, so a client that does not
//! take its replies stalls itself and nobody else. Replies go out in any order, each whole. A
//! request that fails does not end its connection; a client that leaves does not end its requests.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::unix::net::UnixListener;
use std::rc::{Rc, Weak};
use std::time::Duration;

use evenkeel_journal::sync::Signal;
use evenkeel_journal::uring::Driver;
use evenkeel_journal::{BLOCK, Buf, Segs, Slice, World};
use evenkeel_raid::{MAX_REQUEST, RequestError};

use super::protocol::{
    self, CLIENT_FLAGS_BYTES, Export, MAX_OPTION_BYTES, Next, OPTION_HEADER_BYTES, REPLY_BYTES,
    REQUEST_BYTES, Request, RequestHeader,
};
use super::socket::Socket;
use crate::target::BlockTarget;

/// Connections served at a time; more wait to be accepted.
pub const MAX_CONNECTIONS: usize = 16;
/// Requests of one connection under way at a time.
pub const REQUESTS_PER_CONNECTION: usize = 128;
/// Bytes of data of one connection under way at a time.
pub const BYTES_PER_CONNECTION: usize = 16 << 20;
/// Payload of a refused write that is read away; after more the connection ends.
const MAX_SKIP: usize = 64 << 20;
/// How long a client may take to choose its export.
const HAGGLE_TIME: Duration = Duration::from_secs(30);
/// Bytes received at once where requests are small.
const INBOX_BYTES: usize = 128 << 10;
/// From this payload on, it is received into its own buffer alone.
const LARGE: usize = 64 << 10;
/// Replies that one send carries at most.
const SEND_REPLIES: usize = 128;
/// Bytes that one send carries, about.
const SEND_BYTES: usize = 4 << 20;

/// What the server is told.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Name of the export; it is the default export as well.
    pub name: String,
    /// Nothing that changes the content is taken.
    pub read_only: bool,
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
    export: Export,
    listener: Socket,
    connections: RefCell<Vec<Weak<Connection>>>,
    open: Cell<usize>,
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
            listener: Socket::new(listener, driver),
            connections: RefCell::new(Vec::new()),
            open: Cell::new(0),
            closing: Cell::new(false),
            changed: Signal::new(),
        }));
        world.spawn("nbd accept", accept(server.clone()));
        server
    }

    /// How many clients are connected, those included whose last requests are under way.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.0.open.get()
    }

    /// Accepts nobody any more, takes no more requests, and ends when those under way are
    /// answered and all connections are closed. A client that does not take its replies is cut
    /// off after `patience`.
    pub async fn close(&self, patience: Duration) {
        let s = &self.0;
        s.closing.set(true);
        s.listener.shutdown();
        let each = |f: &dyn Fn(&Connection)| {
            let list: Vec<_> = s.connections.borrow().iter().filter_map(Weak::upgrade).collect();
            list.iter().for_each(|c| f(c));
        };
        each(&Connection::stop_reading);
        let late = Rc::downgrade(s);
        let world = s.world.clone();
        s.world.spawn("nbd close", async move {
            world.sleep(patience).await;
            if let Some(s) = late.upgrade() {
                let list: Vec<_> =
                    s.connections.borrow().iter().filter_map(Weak::upgrade).collect();
                list.iter().for_each(|c| c.give_up());
            }
        });
        while s.open.get() > 0 {
            s.changed.wait().await;
        }
    }
}

async fn accept<W: World, T: BlockTarget>(server: NbdServer<W, T>) {
    let s = &server.0;
    loop {
        while s.open.get() >= MAX_CONNECTIONS && !s.closing.get() {
            s.changed.wait().await;
        }
        if s.closing.get() {
            return;
        }
        match s.listener.accept().await {
            Ok(socket) if !s.closing.get() => {
                s.open.set(s.open.get() + 1);
                s.world.spawn("nbd connection", connection(server.clone(), socket));
            }
            Ok(_) => return,
            Err(_) if s.closing.get() => return,
            // Out of descriptors or memory: that passes.
            Err(_) => s.world.sleep(Duration::from_millis(100)).await,
        }
    }
}

/// One client: what its reading, sending and request tasks share.
struct Connection {
    socket: Socket,
    /// Options are being haggled over; the deadline counts.
    haggling: Cell<bool>,
    /// Nothing more is read.
    deaf: Cell<bool>,
    /// Nothing more can be sent.
    mute: Cell<bool>,
    /// The reading task has ended and every request is answered.
    done: Cell<bool>,
    requests: Cell<usize>,
    bytes: Cell<usize>,
    outbox: RefCell<VecDeque<Reply>>,
    /// A request ended, or the connection's state changed.
    freed: Signal,
    /// There is something to send.
    filled: Signal,
}

/// An answer that waits for the send under way to end.
struct Reply {
    head: [u8; REPLY_BYTES],
    body: Option<Buf>,
    /// Bytes that the request was charged for.
    charged: usize,
}

impl Connection {
    fn new(socket: Socket) -> Connection {
        Connection {
            socket,
            haggling: Cell::new(true),
            deaf: Cell::new(false),
            mute: Cell::new(false),
            done: Cell::new(false),
            requests: Cell::new(0),
            bytes: Cell::new(0),
            outbox: RefCell::default(),
            freed: Signal::new(),
            filled: Signal::new(),
        }
    }

    /// Ends the reading task; replies still go out.
    fn stop_reading(&self) {
        self.deaf.set(true);
        self.socket.shutdown_reading();
        self.freed.notify();
    }

    /// Ends both tasks as soon as the kernel has let go.
    fn give_up(&self) {
        self.deaf.set(true);
        self.mute.set(true);
        self.socket.shutdown();
        self.freed.notify();
        self.filled.notify();
    }

    /// Waits for room for a request with this many bytes of data; false: the connection ends.
    async fn charge(&self, bytes: usize) -> bool {
        while !self.deaf.get()
            && (self.requests.get() >= REQUESTS_PER_CONNECTION
                || self.bytes.get() + bytes > BYTES_PER_CONNECTION)
        {
            self.freed.wait().await;
        }
        if self.deaf.get() {
            return false;
        }
        self.requests.set(self.requests.get() + 1);
        self.bytes.set(self.bytes.get() + bytes);
        true
    }

    fn discharge(&self, requests: usize, bytes: usize) {
        self.requests.set(self.requests.get() - requests);
        self.bytes.set(self.bytes.get() - bytes);
        self.freed.notify();
    }

    /// Queues the answer to a request that was charged.
    fn answer(&self, cookie: u64, error: u32, body: Option<Buf>, charged: usize) {
        if self.mute.get() {
            self.discharge(1, charged);
            return;
        }
        let head = protocol::simple_reply(cookie, error);
        self.outbox.borrow_mut().push_back(Reply { head, body, charged });
        self.filled.notify();
    }
}

async fn connection<W: World, T: BlockTarget>(server: NbdServer<W, T>, socket: Socket) {
    let s = &server.0;
    socket.want_send_room(2 << 20);
    let c = Rc::new(Connection::new(socket));
    s.connections.borrow_mut().push(Rc::downgrade(&c));
    s.world.spawn("nbd haggling", {
        let (c, world) = (Rc::downgrade(&c), s.world.clone());
        async move {
            world.sleep(HAGGLE_TIME).await;
            if let Some(c) = c.upgrade()
                && c.haggling.get()
            {
                c.give_up();
            }
        }
    });

    let mut inbox = Inbox::new(c.socket.clone());
    let agreed = haggle(&c, &mut inbox, &s.export).await;
    c.haggling.set(false);
    if agreed.is_ok_and(|next| next == Next::Transmit) {
        s.world.spawn("nbd sender", send_replies(Rc::clone(&c)));
        let _ = read_requests(s, &c, &mut inbox).await;
        c.deaf.set(true);
        while c.requests.get() > 0 {
            c.freed.wait().await;
        }
        c.done.set(true);
        c.filled.notify();
    }
    c.socket.shutdown();
    s.connections.borrow_mut().retain(|w| w.upgrade().is_some_and(|o| !Rc::ptr_eq(&o, &c)));
    s.open.set(s.open.get() - 1);
    s.changed.notify();
}

/// Greets, and answers options until the client has chosen.
async fn haggle(c: &Connection, inbox: &mut Inbox, export: &Export) -> io::Result<Next> {
    send_now(c, &protocol::greeting()).await?;
    let flags =
        protocol::client_flags(inbox.array::<CLIENT_FLAGS_BYTES>().await?).map_err(broken)?;
    loop {
        let head = inbox.array::<OPTION_HEADER_BYTES>().await?;
        let head = protocol::option_header(&head).map_err(broken)?;
        let mut out = Vec::new();
        let next = if head.len > MAX_OPTION_BYTES {
            inbox.skip(head.len as usize).await?;
            protocol::answer_too_big(head.option, &mut out)
        } else {
            let data = inbox.take(head.len as usize).await?;
            protocol::answer_option(head.option, &data, flags, export, &mut out)
        };
        send_now(c, &out).await?;
        if next != Next::Haggle {
            return Ok(next);
        }
    }
}

/// Sends outside the outbox: only before the sending task begins.
async fn send_now(c: &Connection, bytes: &[u8]) -> io::Result<()> {
    if bytes.is_empty() { Ok(()) } else { c.socket.send(vec![Slice::copy_of(bytes)]).await }
}

async fn read_requests<W: World, T: BlockTarget>(
    s: &Rc<State<W, T>>,
    c: &Rc<Connection>,
    inbox: &mut Inbox,
) -> io::Result<()> {
    while !c.deaf.get() {
        let head = inbox.array::<REQUEST_BYTES>().await?;
        let head = protocol::request_header(&head).map_err(broken)?;
        let checked = protocol::check_request(&head, &s.export);
        if checked == Ok(Request::Disconnect) {
            return Ok(());
        }
        let charged = match checked {
            Ok(Request::Read { len, .. } | Request::Write { len, .. }) => len,
            _ => 0,
        };
        if !c.charge(charged).await {
            return Ok(());
        }
        // From here on the request is answered, or discharged, whatever happens.
        let payload = match (checked, head.payload_bytes() as usize) {
            (_, 0) => Ok(None),
            (Ok(_), len) => inbox.take(len).await.map(Some),
            (Err(_), len) => inbox.skip(len).await.map(|()| None),
        };
        match (checked, payload) {
            (_, Err(e)) => {
                c.discharge(1, charged);
                return Err(e);
            }
            (Err(error), Ok(_)) => c.answer(head.cookie, error, None, charged),
            (Ok(request), Ok(payload)) => {
                let (target, c) = (s.target.clone(), Rc::clone(c));
                s.world.spawn("nbd request", serve(target, c, head, request, payload));
            }
        }
    }
    Ok(())
}

/// One request: one `await` on the target, one reply.
async fn serve<T: BlockTarget>(
    target: T,
    c: Rc<Connection>,
    head: RequestHeader,
    request: Request,
    payload: Option<Buf>,
) {
    let mut charged = 0;
    let mut body = None;
    let done = match request {
        Request::Read { at, len } => {
            charged = len;
            let (done, buf) = target.read(at, Buf::new(len)).await;
            body = done.is_ok().then_some(buf);
            done
        }
        Request::Write { at, len, fua } => {
            charged = len;
            match payload {
                Some(data) => target.write(at, data.freeze(), fua).await,
                None => Err(RequestError::Invalid),
            }
        }
        Request::Flush => target.flush().await,
        Request::Trim { at, len, fua } => target.discard(at, len, fua).await,
        Request::WriteZeroes { at, len, fua } => target.write_zeroes(at, len, fua).await,
        Request::Disconnect => Ok(()),
    };
    let error = done.err().map_or(0, |e| e.errno() as u32);
    c.answer(head.cookie, error, body, charged);
}

/// Sends replies; what arrives during a send goes into the next.
async fn send_replies(c: Rc<Connection>) {
    let mut batch = Vec::with_capacity(SEND_REPLIES);
    loop {
        while c.outbox.borrow().is_empty() {
            if c.done.get() || c.mute.get() {
                return;
            }
            c.filled.wait().await;
        }
        let mut bytes = 0;
        while batch.len() < SEND_REPLIES && bytes < SEND_BYTES {
            let Some(reply) = c.outbox.borrow_mut().pop_front() else { break };
            bytes += reply.body.as_ref().map_or(0, |b| b.len());
            batch.push(reply);
        }
        let charged = batch.iter().map(|r| r.charged).sum();
        let requests = batch.len();
        let sent = c.socket.send(pieces(&mut batch)).await;
        c.discharge(requests, charged);
        if sent.is_err() {
            c.give_up();
            let rest = c.outbox.take();
            c.discharge(rest.len(), rest.iter().map(|r| r.charged).sum());
            return;
        }
    }
}

/// The bytes of all replies; the heads lie together in one buffer.
fn pieces(batch: &mut Vec<Reply>) -> Segs {
    let mut heads = Buf::new(batch.len() * REPLY_BYTES);
    for (place, reply) in heads.chunks_exact_mut(REPLY_BYTES).zip(batch.iter()) {
        place.copy_from_slice(&reply.head);
    }
    let heads = heads.freeze();
    let mut list = Segs::with_capacity(2 * batch.len());
    let (mut from, mut to) = (0, 0);
    for reply in batch.drain(..) {
        to += REPLY_BYTES;
        if let Some(body) = reply.body {
            list.push(heads.part(from, to - from));
            list.push(body.freeze());
            from = to;
        }
    }
    if from < to {
        list.push(heads.part(from, to - from));
    }
    list
}

fn broken(e: protocol::Broken) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, e.0)
}

/// What has arrived and is not yet used.
struct Inbox {
    socket: Socket,
    buf: Buf,
    from: usize,
    to: usize,
    /// The last payload was large: the next header is received alone, so that the payload after
    /// it needs no copy.
    large: bool,
}

impl Inbox {
    fn new(socket: Socket) -> Inbox {
        Inbox { socket, buf: Buf::new(0), from: 0, to: 0, large: false }
    }

    fn arrived(&self) -> &[u8] {
        &self.buf[self.from..self.to]
    }

    /// Receives more, until at least `len` bytes (at most [`LARGE`]) have arrived.
    async fn fill(&mut self, len: usize) -> io::Result<()> {
        let here = self.to - self.from;
        if here >= len {
            return Ok(());
        }
        let room = if self.large { len } else { INBOX_BYTES };
        if here == 0 && self.buf.len() == room {
            (self.from, self.to) = (0, 0);
        } else if self.from + len > self.buf.len() || here == 0 {
            let mut buf = Buf::new(room);
            buf[..here].copy_from_slice(self.arrived());
            (self.buf, self.from, self.to) = (buf, 0, here);
        }
        while self.to - self.from < len {
            let buf = std::mem::replace(&mut self.buf, Buf::new(0));
            let (got, buf) = self.socket.receive(buf, self.to).await;
            self.buf = buf;
            match got? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => self.to += n,
            }
        }
        Ok(())
    }

    /// The next `N` bytes, `N` being small.
    async fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        self.fill(N).await?;
        let mut out = [0; N];
        out.copy_from_slice(&self.arrived()[..N]);
        self.from += N;
        Ok(out)
    }

    /// The next `len` bytes in a buffer of their own.
    async fn take(&mut self, len: usize) -> io::Result<Buf> {
        self.large = len >= LARGE;
        if !self.large {
            self.fill(len).await?; // with the headers and payloads behind it
        }
        let mut out = Buf::new(len);
        let here = self.arrived().len().min(len);
        out[..here].copy_from_slice(&self.arrived()[..here]);
        self.from += here;
        if here < len {
            let (got, back) = self.socket.receive_all(out, here).await;
            got?;
            out = back;
        }
        Ok(out)
    }

    /// Reads the next `len` bytes away, if that are not too many.
    async fn skip(&mut self, len: usize) -> io::Result<()> {
        if len > MAX_SKIP {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a payload is too long"));
        }
        self.large = false;
        let mut left = len;
        loop {
            let here = self.arrived().len().min(left);
            self.from += here;
            left -= here;
            if left == 0 {
                return Ok(());
            }
            self.fill(1).await?;
        }
    }
}
