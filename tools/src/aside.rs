//! Reading disks that may never answer: in a child, which is left behind if it does not end in time. No
//! thread is made for it, since the daemon is forked from this process, and a call that hangs in the
//! kernel would hold the process itself.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// A child that does a job, and the pipe that its answer comes by.
struct Child {
    pid: libc::pid_t,
    answer: File,
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: no memory is involved; the child is this process's own and was not waited for.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            // One that hangs in the kernel goes when that lets it go.
            libc::waitpid(self.pid, std::ptr::null_mut(), libc::WNOHANG);
        }
    }
}

/// What each job gives, all at the same time; `TimedOut` for those that take longer than `bound`.
/// Jobs may only read: what they change in memory is lost.
pub fn all<F: FnOnce() -> io::Result<Vec<u8>>>(
    bound: Duration,
    jobs: Vec<F>,
) -> Vec<io::Result<Vec<u8>>> {
    let children: Vec<io::Result<Child>> = jobs.into_iter().map(begin).collect();
    let end = Instant::now() + bound;
    children.into_iter().map(|child| child.and_then(|c| answer(c, end))).collect()
}

fn begin(job: impl FnOnce() -> io::Result<Vec<u8>>) -> io::Result<Child> {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: two new descriptors that nobody else knows.
    let [from, to] = ends.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    // SAFETY: this process has one thread.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let to = to.into_raw_fd();
            // SAFETY: the child's own descriptors: all but the pipe go, locks among them.
            let mut to = unsafe {
                libc::dup2(to, 0);
                libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0);
                File::from_raw_fd(0)
            };
            let _ = match job() {
                Ok(bytes) => to.write_all(&[&0i32.to_le_bytes()[..], &bytes].concat()),
                Err(e) => to.write_all(&e.raw_os_error().unwrap_or(libc::EIO).to_le_bytes()),
            };
            // SAFETY: ends the child without anything that the parent would do at its end.
            unsafe { libc::_exit(0) }
        }
        pid => Ok(Child { pid, answer: File::from(from) }),
    }
}

fn answer(mut child: Child, end: Instant) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        let left = end.saturating_duration_since(Instant::now()).as_millis();
        let mut poll =
            libc::pollfd { fd: child.answer.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one structure, as said.
        match unsafe { libc::poll(&raw mut poll, 1, left as i32) } {
            0 => return Err(io::ErrorKind::TimedOut.into()),
            1.. => {}
            _ if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => continue,
            _ => return Err(io::Error::last_os_error()),
        }
        let mut some = [0; 65536];
        let n = child.answer.read(&mut some)?;
        bytes.extend_from_slice(&some[..n]);
        if n == 0 {
            break;
        }
    }
    let errno = bytes.first_chunk().map_or(libc::EIO, |b| i32::from_le_bytes(*b));
    if errno != 0 {
        return Err(io::Error::from_raw_os_error(errno));
    }
    Ok(bytes.split_off(4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hangs_is_left_behind() {
        let fine = || Ok(vec![7; 200_000]);
        let fails = || Err(io::Error::from_raw_os_error(libc::ENODEV));
        let hangs = || {
            // SAFETY: no memory is involved.
            unsafe { libc::pause() };
            Ok(Vec::new())
        };
        let jobs: Vec<Box<dyn FnOnce() -> io::Result<Vec<u8>>>> =
            vec![Box::new(fine), Box::new(hangs), Box::new(fails)];
        let mut done = all(Duration::from_millis(300), jobs).into_iter();
        assert_eq!(done.next().and_then(Result::ok), Some(vec![7; 200_000]));
        let hung = done.next().and_then(Result::err).expect("no answer");
        assert_eq!(hung.kind(), io::ErrorKind::TimedOut);
        let failed = done.next().and_then(Result::err).expect("an error");
        assert_eq!(failed.raw_os_error(), Some(libc::ENODEV));
    }
}
