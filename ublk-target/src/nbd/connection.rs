//! One client: it haggles over options, then its requests are read, carried out and answered.
//!
//! What must hold: requests under way and their bytes are bounded ([`REQUESTS_PER_CONNECTION`],
//! [`BYTES_PER_CONNECTION`]): beyond it nothing is read from the socket, so a client that does not
//! take its replies stalls itself and nobody else. Replies go out in any order, the chunks of one
//! together. A request that fails does not end its connection; a client that leaves does not end
//! its requests.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use evenkeel_journal::sync::Signal;
use evenkeel_journal::{Buf, Segs, Slice};

use super::inbox::Inbox;
use super::protocol::options::{
    self, CLIENT_FLAGS_BYTES, MAX_OPTION_BYTES, OPTION_HEADER_BYTES, client_flags, option_header,
};
use super::protocol::request::{
    EXTENDED_REQUEST_BYTES, REQUEST_BYTES, check_request, extended_request_header, request_header,
};
use super::protocol::{
    Agreement, Broken, Export, Haggle, Head, Next, Request, RequestHeader, Style,
};
use super::serve::{self, Job};
use super::socket::Socket;
use crate::target::BlockTarget;

/// Requests of one connection under way at a time.
pub const REQUESTS_PER_CONNECTION: usize = 128;
/// Bytes of data of one connection under way at a time.
pub const BYTES_PER_CONNECTION: usize = 16 << 20;
/// Payload of a refused request that is read away; after more the connection ends.
const MAX_PAYLOAD_SKIP: u64 = 64 << 20;
/// The same for an option that is too long.
const MAX_OPTION_SKIP: u64 = 1 << 20;
/// Replies that one send carries at most.
const SEND_REPLIES: usize = 128;
/// Bytes that one send carries, about.
const SEND_BYTES: usize = 4 << 20;

/// Whether the client keeps us waiting.
#[derive(Default)]
pub(super) struct Progress {
    /// It has sent a part of a message.
    mid_message: Cell<bool>,
    /// It has not taken what is being sent.
    sending: Cell<bool>,
    /// Changes whenever something moved.
    moved: Cell<u64>,
    /// What `moved` was when it was looked at first, and when that was.
    seen: Cell<(u64, Duration)>,
}

impl Progress {
    pub(super) fn mid_message(&self, is: bool) {
        self.mid_message.set(is);
        self.moved.set(self.moved.get() + 1);
    }

    fn sending(&self, is: bool) {
        self.sending.set(is);
        self.moved.set(self.moved.get() + 1);
    }

    /// How long it has kept us waiting in the middle of something, as far as was looked at.
    pub(super) fn stuck_for(&self, now: Duration) -> Duration {
        let waits = self.mid_message.get() || self.sending.get();
        let (moved, since) = self.seen.get();
        if waits && moved == self.moved.get() {
            return now.saturating_sub(since);
        }
        self.seen.set((self.moved.get(), now));
        Duration::ZERO
    }
}

/// What a client's reading, sending and request tasks share.
pub(super) struct Connection {
    socket: Socket,
    /// When it was greeted.
    pub(super) since: Duration,
    /// It has chosen the export, and has its turn.
    pub(super) serving: Cell<bool>,
    pub(super) progress: Rc<Progress>,
    /// Nothing more is read.
    deaf: Cell<bool>,
    /// Nothing more can be sent.
    mute: Cell<bool>,
    /// The reading task has ended and every request is answered.
    done: Cell<bool>,
    requests: Cell<usize>,
    bytes: Cell<usize>,
    outbox: RefCell<VecDeque<(Reply, usize)>>,
    /// A request ended, or the connection's state changed.
    freed: Signal,
    /// There is something to send.
    filled: Signal,
}

/// A part of a reply: its first bytes, and data that follows them.
pub(super) struct Chunk {
    pub head: Head,
    pub body: Option<Slice>,
}

/// The answer to one request.
pub(super) struct Reply {
    pub first: Chunk,
    pub rest: Vec<Chunk>,
}

impl Reply {
    fn chunks(&self) -> impl Iterator<Item = &Chunk> {
        std::iter::once(&self.first).chain(&self.rest)
    }
}

impl Connection {
    pub(super) fn new(socket: Socket, now: Duration) -> Connection {
        Connection {
            socket,
            since: now,
            serving: Cell::new(false),
            progress: Rc::default(),
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

    pub(super) fn inbox(&self) -> Inbox {
        Inbox::new(self.socket.clone(), Rc::clone(&self.progress))
    }

    /// Whether it was told to go.
    pub(super) fn given_up(&self) -> bool {
        self.mute.get()
    }

    /// Ends the reading task; replies still go out.
    pub(super) fn stop_reading(&self) {
        self.deaf.set(true);
        self.socket.shutdown_reading();
        self.freed.notify();
    }

    /// Ends both tasks as soon as the kernel has let go.
    pub(super) fn give_up(&self) {
        self.deaf.set(true);
        self.mute.set(true);
        self.socket.shutdown();
        self.freed.notify();
        self.filled.notify();
    }

    /// Ends the connection: nothing more comes or goes.
    pub(super) fn hang_up(&self) {
        self.socket.shutdown();
    }

    /// Many requests will come and many replies go.
    pub(super) fn expect_requests(&self) {
        self.socket.want_send_room(2 << 20);
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
    pub(super) fn answer(&self, reply: Reply, charged: usize) {
        if self.mute.get() {
            self.discharge(1, charged);
            return;
        }
        self.outbox.borrow_mut().push_back((reply, charged));
        self.filled.notify();
    }

    /// The reading task has ended: waits until every request is answered.
    pub(super) async fn finish(&self) {
        self.deaf.set(true);
        while self.requests.get() > 0 {
            self.freed.wait().await;
        }
        self.done.set(true);
        self.filled.notify();
    }

    /// Sends outside the outbox: only before the sending task begins.
    async fn send_now(&self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.progress.sending(true);
        let sent = self.socket.send(vec![Slice::copy_of(bytes)]).await;
        self.progress.sending(false);
        sent
    }
}

/// Greets, and answers options until the client has chosen; then `turn` waits until it may begin, or
/// says that it may not. None if nothing follows.
pub(super) async fn haggle(
    c: &Connection,
    inbox: &mut Inbox,
    export: &Export,
    turn: impl AsyncFnOnce() -> bool,
) -> io::Result<Option<Agreement>> {
    c.send_now(&options::greeting()).await?;
    let flags = client_flags(inbox.array::<CLIENT_FLAGS_BYTES>().await?).map_err(broken)?;
    let mut haggle = Haggle::new(export, flags);
    loop {
        let head = inbox.array::<OPTION_HEADER_BYTES>().await?;
        let head = option_header(&head).map_err(broken)?;
        let mut out = Vec::new();
        let next = if head.len > MAX_OPTION_BYTES {
            inbox.skip(u64::from(head.len), MAX_OPTION_SKIP).await?;
            haggle.answer_too_big(head.option, &mut out)
        } else {
            let data = inbox.take(head.len as usize).await?;
            haggle.answer(head.option, &data, &mut out)
        };
        match next {
            Next::Haggle => c.send_now(&out).await?,
            Next::Close => {
                c.send_now(&out).await?;
                return Ok(None);
            }
            Next::Transmit(agreed) => {
                if !turn().await {
                    return Ok(None);
                }
                c.send_now(&out).await?;
                return Ok(Some(agreed));
            }
        }
    }
}

/// Reads requests until the client is done or breaks the protocol; each is given to `spawn` or
/// refused at once. What lies in the device is taken, also where the device has grown since the client
/// was told of its size.
pub(super) async fn read_requests(
    c: &Rc<Connection>,
    inbox: &mut Inbox,
    target: &impl BlockTarget,
    mut export: Export,
    agreed: Agreement,
    spawn: impl Fn(Job),
) -> io::Result<()> {
    let style = agreed.style;
    while !c.deaf.get() {
        let head = read_header(inbox, style).await?;
        export.size_bytes = target.size_bytes();
        let checked = check_request(&head, &export, agreed);
        if checked == Ok(Request::Disconnect) {
            return Ok(());
        }
        let charged = checked.map_or(0, serve::bytes_of);
        if !c.charge(charged).await {
            return Ok(());
        }
        // From here on the request is answered, or discharged, whatever happens.
        let payload: io::Result<Option<Buf>> = match (checked, head.payload_bytes(style)) {
            (_, 0) => Ok(None),
            (Ok(_), len) => inbox.take(len as usize).await.map(Some),
            (Err(_), len) => inbox.skip(len, MAX_PAYLOAD_SKIP).await.map(|()| None),
        };
        match (checked, payload) {
            (_, Err(e)) => {
                c.discharge(1, charged);
                return Err(e);
            }
            (Err(refusal), Ok(_)) => {
                c.answer(serve::failed(style, &head, refusal.error, refusal.text), charged);
            }
            (Ok(request), Ok(payload)) => spawn(Job { style, head, request, payload, charged }),
        }
    }
    Ok(())
}

async fn read_header(inbox: &mut Inbox, style: Style) -> io::Result<RequestHeader> {
    let head = if style == Style::Extended {
        extended_request_header(&inbox.array::<EXTENDED_REQUEST_BYTES>().await?)
    } else {
        request_header(&inbox.array::<REQUEST_BYTES>().await?)
    };
    head.map_err(broken)
}

fn broken(e: Broken) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, e.0)
}

/// Sends replies; what arrives during a send goes into the next.
pub(super) async fn send_replies(c: Rc<Connection>) {
    let mut batch = Vec::with_capacity(SEND_REPLIES);
    loop {
        while c.outbox.borrow().is_empty() {
            if c.done.get() || c.mute.get() {
                return;
            }
            c.filled.wait().await;
        }
        let (mut bytes, mut charged) = (0, 0);
        while batch.len() < SEND_REPLIES && bytes < SEND_BYTES {
            let Some((reply, charge)) = c.outbox.borrow_mut().pop_front() else { break };
            bytes += reply.chunks().filter_map(|k| k.body.as_ref()).map(|b| b.len()).sum::<usize>();
            charged += charge;
            batch.push(reply);
        }
        let requests = batch.len();
        c.progress.sending(true);
        let sent = c.socket.send(pieces(&mut batch)).await;
        c.progress.sending(false);
        c.discharge(requests, charged);
        if sent.is_err() {
            c.give_up();
            let rest = c.outbox.take();
            c.discharge(rest.len(), rest.iter().map(|r| r.1).sum());
            return;
        }
    }
}

/// The bytes of all replies; the heads lie together in one buffer.
fn pieces(batch: &mut Vec<Reply>) -> Segs {
    let len = batch.iter().flat_map(Reply::chunks).map(|k| k.head.len()).sum();
    let mut heads = Buf::new(len);
    let mut at = 0;
    for chunk in batch.iter().flat_map(Reply::chunks) {
        heads[at..at + chunk.head.len()].copy_from_slice(&chunk.head);
        at += chunk.head.len();
    }
    let heads = heads.freeze();
    let mut list = Segs::with_capacity(2 * batch.len());
    let (mut from, mut to) = (0, 0);
    for reply in batch.drain(..) {
        for chunk in std::iter::once(reply.first).chain(reply.rest) {
            to += chunk.head.len();
            if let Some(body) = chunk.body {
                list.push(heads.part(from, to - from));
                list.push(body);
                from = to;
            }
        }
    }
    if from < to {
        list.push(heads.part(from, to - from));
    }
    list
}
