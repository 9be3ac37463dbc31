//! Unix stream sockets of the daemon: where they are bound, and a socket together with the driver
//! whose ring carries its operations.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::rc::Rc;

use evenkeel_journal::uring::Driver;
use evenkeel_journal::{Buf, Segs};

/// Binds a listening socket that only its owner may connect to. What a dead server left there is
/// removed; a live one, or anything that is no socket, is not.
///
/// # Errors
/// `AddrInUse` if something else is there.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Ok(there) = std::fs::symlink_metadata(path) {
        let dead = there.file_type().is_socket()
            && UnixStream::connect(path)
                .is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
        if !dead {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                format!("{} is in use by something else", path.display()),
            ));
        }
        std::fs::remove_file(path)?;
    }
    bind(path)
}

/// The same in the place of a server that lives and is about to leave: whoever connects from now on
/// waits for this one. There is no moment without either.
///
/// # Errors
/// What the kernel says; then the old one is still there.
pub fn replace(path: &Path) -> io::Result<UnixListener> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    let draft = Path::new(&draft);
    let _ = std::fs::remove_file(draft);
    let listener = bind(draft)?;
    std::fs::rename(draft, path)?;
    Ok(listener)
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// A connected or listening socket. Clones share it.
#[derive(Clone)]
pub struct Socket {
    fd: Rc<OwnedFd>,
    driver: Driver,
}

impl Socket {
    /// A socket whose operations go through this driver.
    pub fn new(fd: impl Into<OwnedFd>, driver: Driver) -> Socket {
        Socket { fd: Rc::new(fd.into()), driver }
    }

    /// Asks for room for this many bytes on their way out; less is no error.
    pub fn want_send_room(&self, bytes: i32) {
        for option in [libc::SO_SNDBUFFORCE, libc::SO_SNDBUF] {
            // SAFETY: the option's value is an int that lives over the call.
            let done = unsafe {
                libc::setsockopt(
                    self.fd.as_raw_fd(),
                    libc::SOL_SOCKET,
                    option,
                    (&raw const bytes).cast(),
                    size_of::<i32>() as libc::socklen_t,
                )
            };
            if done == 0 {
                return;
            }
        }
    }

    /// Ends both directions: whatever waits on the socket ends soon.
    pub fn shutdown(&self) {
        // SAFETY: a plain call on a descriptor that is open as long as self lives.
        unsafe { libc::shutdown(self.fd.as_raw_fd(), libc::SHUT_RDWR) };
    }

    /// Receives nothing more: a receive that waits ends. Sending goes on.
    pub fn shutdown_reading(&self) {
        // SAFETY: as above.
        unsafe { libc::shutdown(self.fd.as_raw_fd(), libc::SHUT_RD) };
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    /// `InvalidInput` after [`Socket::shutdown`]; others may pass.
    pub async fn accept(&self) -> io::Result<Socket> {
        let fd = self.driver.accept(&self.fd).await?;
        Ok(Socket::new(fd, self.driver.clone()))
    }

    /// Receives what is there into `buf`, from byte `from` on. 0 bytes mean that the peer is done.
    pub async fn receive(&self, buf: Buf, from: usize) -> (io::Result<usize>, Buf) {
        let mut buf = buf;
        loop {
            let (got, back) = self.driver.recv(&self.fd, buf, from).await;
            match got {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => buf = back,
                got => return (got, back),
            }
        }
    }

    /// Fills `buf` from byte `from` on; the end before that is an error.
    pub async fn receive_all(&self, buf: Buf, from: usize) -> (io::Result<()>, Buf) {
        self.driver.recv_all(&self.fd, buf, from).await
    }

    /// Sends all pieces in order. One send at a time.
    ///
    /// # Errors
    /// The peer is gone.
    pub async fn send(&self, pieces: Segs) -> io::Result<()> {
        self.driver.send_all(&self.fd, pieces).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_socket_is_replaced_and_nothing_else() {
        let dir = std::env::temp_dir().join(format!("evenkeel-socket-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("a.sock");
        let first = listen(&path).unwrap();
        assert_eq!(listen(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        drop(listen(&path).unwrap());
        let file = dir.join("file");
        std::fs::write(&file, "kept").unwrap();
        assert_eq!(listen(&file).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(std::fs::read(&file).unwrap(), b"kept");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
