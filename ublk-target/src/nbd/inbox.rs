//! What a client sent and nobody has used yet.
//!
//! What must hold: memory is what one message needs, or one buffer of [`INBOX_BYTES`]; what is read
//! away is bounded by the caller.

use std::io;
use std::rc::Rc;

use evenkeel_journal::Buf;

use super::connection::Progress;
use super::socket::Socket;

/// Bytes received at once where requests are small.
pub const INBOX_BYTES: usize = 128 << 10;
/// The same while options are haggled over.
const HAGGLING_BYTES: usize = 4 << 10;
/// From this payload on, it is received into its own buffer alone.
const LARGE: usize = 64 << 10;

pub(super) struct Inbox {
    socket: Socket,
    progress: Rc<Progress>,
    buf: Buf,
    from: usize,
    to: usize,
    /// Bytes of the next buffer.
    room: usize,
    /// The last payload was large: the next header is received alone, so that the payload after
    /// it needs no copy.
    large: bool,
}

impl Inbox {
    pub(super) fn new(socket: Socket, progress: Rc<Progress>) -> Inbox {
        let room = HAGGLING_BYTES;
        Inbox { socket, progress, buf: Buf::new(0), from: 0, to: 0, room, large: false }
    }

    /// From now on requests arrive, many at a time.
    pub(super) fn expect_requests(&mut self) {
        self.room = INBOX_BYTES;
    }

    fn arrived(&self) -> &[u8] {
        &self.buf[self.from..self.to]
    }

    /// Receives more, until at least `len` bytes (at most [`LARGE`]) have arrived. Between two
    /// messages a client may be silent as long as it likes; `mid` says that this is not there.
    async fn fill(&mut self, len: usize, mid: bool) -> io::Result<()> {
        let here = self.to - self.from;
        if here >= len {
            return Ok(());
        }
        let room = if self.large { len } else { self.room.max(len) };
        if here == 0 && self.buf.len() == room {
            (self.from, self.to) = (0, 0);
        } else if self.from + len > self.buf.len() || here == 0 {
            let mut buf = Buf::new(room);
            buf[..here].copy_from_slice(self.arrived());
            (self.buf, self.from, self.to) = (buf, 0, here);
        }
        while self.to - self.from < len {
            self.progress.mid_message(mid || self.to > self.from);
            let buf = std::mem::replace(&mut self.buf, Buf::new(0));
            let (got, buf) = self.socket.receive(buf, self.to).await;
            self.progress.mid_message(false);
            self.buf = buf;
            match got? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => self.to += n,
            }
        }
        Ok(())
    }

    /// The next `N` bytes, `N` being small: a message's header.
    pub(super) async fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        self.fill(N, false).await?;
        let mut out = [0; N];
        out.copy_from_slice(&self.arrived()[..N]);
        self.from += N;
        Ok(out)
    }

    /// The next `len` bytes in a buffer of their own.
    pub(super) async fn take(&mut self, len: usize) -> io::Result<Buf> {
        self.large = len >= LARGE;
        if !self.large {
            self.fill(len, true).await?; // with the headers and payloads behind it
        }
        let mut out = Buf::new(len);
        let here = self.arrived().len().min(len);
        out[..here].copy_from_slice(&self.arrived()[..here]);
        self.from += here;
        if here < len {
            self.progress.mid_message(true);
            let (got, back) = self.socket.receive_all(out, here).await;
            self.progress.mid_message(false);
            got?;
            out = back;
        }
        Ok(out)
    }

    /// Reads the next `len` bytes away, if that are not more than `most`.
    pub(super) async fn skip(&mut self, len: u64, most: u64) -> io::Result<()> {
        if len > most {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is too long"));
        }
        self.large = false;
        let mut left = len as usize;
        loop {
            let here = self.arrived().len().min(left);
            self.from += here;
            left -= here;
            if left == 0 {
                return Ok(());
            }
            self.fill(1, true).await?;
        }
    }
}
