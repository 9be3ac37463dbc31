//! Sockets on the ring: accept, receive, send. For NBD and the control socket.
//!
//! What must hold: a socket lives until the last operation on it has ended. To end a pending one,
//! shut the socket down.

use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::rc::Rc;

use io_uring::{opcode, types};

use super::driver::{Driver, check};
use crate::mem::{Buf, Segs};

const PIECES_MAX: usize = 1024;

/// The message header and its vector: what the kernel reads while a send is in flight.
struct Message {
    header: Box<libc::msghdr>,
    _pieces: Vec<libc::iovec>,
    _segs: Segs,
    _socket: Rc<OwnedFd>,
}

impl Driver {
    /// The next connection of a listening socket.
    pub fn accept(
        &self,
        socket: &Rc<OwnedFd>,
    ) -> impl Future<Output = io::Result<OwnedFd>> + 'static {
        let (addr, len) = (std::ptr::null_mut(), std::ptr::null_mut());
        let entry = opcode::Accept::new(types::Fd(socket.as_raw_fd()), addr, len)
            .flags(libc::SOCK_CLOEXEC)
            .build();
        // SAFETY: no memory is named, and the socket is kept.
        let op = unsafe { self.submit(entry, Rc::clone(socket)) };
        async move {
            let fd = check(op.await.0)?;
            // SAFETY: a new descriptor that nobody else knows of.
            Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
        }
    }

    /// Receives what is there, at most `buf.len() - from` bytes, to `from` on. 0 is the end.
    pub fn recv(
        &self,
        socket: &Rc<OwnedFd>,
        buf: Buf,
        from: usize,
    ) -> impl Future<Output = (io::Result<usize>, Buf)> + 'static {
        self.recv_flags(socket, buf, from, 0)
    }

    fn recv_flags(
        &self,
        socket: &Rc<OwnedFd>,
        mut buf: Buf,
        from: usize,
        flags: i32,
    ) -> impl Future<Output = (io::Result<usize>, Buf)> + 'static {
        let room = &mut buf[from..];
        let (ptr, len) = (room.as_mut_ptr(), room.len().min(1 << 30) as u32);
        let entry = opcode::Recv::new(types::Fd(socket.as_raw_fd()), ptr, len).flags(flags).build();
        // SAFETY: buffer and socket are kept; the memory of a Buf does not move with it.
        let op = unsafe { self.submit(entry, (buf, Rc::clone(socket))) };
        async move {
            let (result, (buf, _)) = op.await;
            (check(result), buf)
        }
    }

    /// Fills all of `buf` from `from` on. The end before that is `UnexpectedEof`.
    pub fn recv_all(
        &self,
        socket: &Rc<OwnedFd>,
        buf: Buf,
        from: usize,
    ) -> impl Future<Output = (io::Result<()>, Buf)> + 'static {
        let (driver, socket) = (self.clone(), Rc::clone(socket));
        async move {
            let (mut buf, mut at) = (buf, from);
            while at < buf.len() {
                let (result, back) = driver.recv_flags(&socket, buf, at, libc::MSG_WAITALL).await;
                buf = back;
                match result {
                    Ok(0) => return (Err(io::ErrorKind::UnexpectedEof.into()), buf),
                    Ok(n) => at += n,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return (Err(e), buf),
                }
            }
            (Ok(()), buf)
        }
    }

    /// Sends all pieces, one after the other. Two sends at a time on one socket mix.
    pub fn send_all(
        &self,
        socket: &Rc<OwnedFd>,
        segs: Segs,
    ) -> impl Future<Output = io::Result<()>> + 'static {
        let (driver, socket) = (self.clone(), Rc::clone(socket));
        async move {
            let mut segs = segs;
            segs.retain(|s| !s.is_empty());
            while !segs.is_empty() {
                let mut sent = match driver.send_some(&socket, segs.clone()).await {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(n) => n,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                    Err(e) => return Err(e),
                };
                let whole = segs.iter().take_while(|s| {
                    let fits = sent >= s.len();
                    sent -= if fits { s.len() } else { 0 };
                    fits
                });
                let whole = whole.count();
                segs.drain(..whole);
                if let Some(first) = segs.first_mut() {
                    *first = first.part(sent, first.len() - sent);
                }
            }
            Ok(())
        }
    }

    fn send_some(
        &self,
        socket: &Rc<OwnedFd>,
        segs: Segs,
    ) -> impl Future<Output = io::Result<usize>> + 'static {
        let mut pieces: Vec<libc::iovec> = segs
            .iter()
            .take(PIECES_MAX)
            .map(|s| libc::iovec { iov_base: s.as_ptr().cast_mut().cast(), iov_len: s.len() })
            .collect();
        // SAFETY: plain numbers and pointers, for which zero is a value.
        let mut header: Box<libc::msghdr> = Box::new(unsafe { std::mem::zeroed() });
        header.msg_iov = pieces.as_mut_ptr();
        header.msg_iovlen = pieces.len() as _;
        let flags = (libc::MSG_NOSIGNAL | libc::MSG_WAITALL) as u32;
        let entry = opcode::SendMsg::new(types::Fd(socket.as_raw_fd()), &raw const *header)
            .flags(flags)
            .build();
        let message = Message { header, _pieces: pieces, _segs: segs, _socket: Rc::clone(socket) };
        // SAFETY: header, vector, bytes and socket are kept, all of them outside the Message.
        let op = unsafe { self.submit(entry, message) };
        async move {
            let (result, message) = op.await;
            drop(message.header);
            check(result)
        }
    }
}
