//! What makes a process a daemon that its own device cannot deadlock: memory that stays, no share
//! in the mounts of others, and a way into the background that leaves no thread behind.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

const PR_SET_IO_FLUSHER: libc::c_int = 57;

/// Writes a line about something that a person may want to know.
pub fn note(text: &str) {
    // Standard error is the log once in the background; there is no place to report a failure to.
    let _ = writeln!(io::stderr(), "evenkeel: {text}");
}

/// Which half of [`detach`] this process is.
pub enum Half {
    /// The one that was called: it reads what the daemon says until the daemon says no more.
    Front(BufReader<File>),
    /// The daemon, in the background; what it writes here the other half reads.
    Daemon(File),
}

/// Goes into the background by forking twice. The daemon's output goes to `log`.
///
/// Only for a process with one thread and no ring.
///
/// # Errors
/// If the log or the pipe cannot be opened, or the process cannot fork.
pub fn detach(log: &Path) -> io::Result<Half> {
    let log = File::options().create(true).append(true).open(log)?;
    let null = File::options().read(true).open("/dev/null")?;
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both just opened, owned by nobody else.
    let (from, to) = unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) };
    if fork()? > 0 {
        drop(to);
        return Ok(Half::Front(BufReader::new(File::from(from))));
    }
    drop(from);
    // SAFETY: no memory is involved. The first child leads no group, so it may open a session.
    unsafe { libc::setsid() };
    // The first child ends at once, so that the daemon is nobody's child and leads no session.
    if fork().unwrap_or(1) > 0 {
        // SAFETY: ends this process without running what belongs to its parent.
        unsafe { libc::_exit(0) };
    }
    for (file, number) in [(&null, 0), (&log, 1), (&log, 2)] {
        // SAFETY: open descriptors.
        if unsafe { libc::dup2(file.as_raw_fd(), number) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    let _ = std::env::set_current_dir("/");
    Ok(Half::Daemon(File::from(to)))
}

fn fork() -> io::Result<libc::pid_t> {
    // SAFETY: the caller of `detach` vouches for a single thread.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(pid),
    }
}

/// Lines from the other half until `use_line` says enough or there are no more.
pub fn lines(mut from: BufReader<File>, mut use_line: impl FnMut(&str) -> bool) {
    let mut line = String::new();
    while from.read_line(&mut line).is_ok_and(|n| n > 0) {
        if use_line(line.trim_end_matches('\n')) {
            return;
        }
        line.clear();
    }
}

/// Ends the process as SIGKILL would, but for its exit code: nothing is run or dropped any more. A ring
/// that is dropped while it carries the commands of a ublk queue ends behind the process's back, and
/// Linux 6.12 hangs in that; what the kernel takes from a dying process it takes in the right order.
pub fn vanish(code: u8) -> ! {
    // SAFETY: no memory is involved.
    unsafe { libc::_exit(code.into()) }
}

/// Locks memory, marks the process as one that block I/O depends on, and asks not to be killed
/// when memory is short. Each as far as this process may; what could not be done is noted.
pub fn harden() {
    // SAFETY: no memory is involved.
    if unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) } != 0 {
        missed("memory could not be locked", "the device may hang when memory is short");
    }
    // SAFETY: no memory is involved. Threads made later inherit it.
    if unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) } != 0 {
        missed("PR_SET_IO_FLUSHER was refused", "the device may hang when memory is short");
    }
    if let Err(e) = std::fs::write("/proc/self/oom_score_adj", "-1000") {
        note(&format!("The daemon may be killed when memory is short ({e})."));
    }
}

fn missed(what: &str, so: &str) {
    note(&format!("Warning: {what} ({}), so {so}.", io::Error::last_os_error()));
}

/// Gives this process a mount namespace of its own, where only the file systems under `needed`
/// are mounted. A namespace that also held a file system on this daemon's device could never be
/// torn down: that needs the device, and the device needs the daemon.
///
/// # Errors
/// If the kernel refuses; then nothing has changed.
pub fn isolate(needed: &[PathBuf]) -> io::Result<()> {
    // SAFETY: no memory is involved.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let (root, none) = (c"/".as_ptr(), std::ptr::null());
    // SAFETY: strings that end in zero, else null.
    if unsafe { libc::mount(none, root, none, libc::MS_REC | libc::MS_PRIVATE, none.cast()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let table = std::fs::read("/proc/self/mountinfo")?;
    let needed: Vec<PathBuf> =
        needed.iter().map(|p| p.canonicalize().unwrap_or_else(|_| p.clone())).collect();
    for point in superfluous(&table, &needed).into_iter().rev() {
        let Ok(point) = std::ffi::CString::new(point) else { continue };
        // SAFETY: a string that ends in zero. A mount that stays is no worse than before.
        unsafe { libc::umount2(point.as_ptr(), libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW) };
    }
    Ok(())
}

/// The mount points of a mountinfo table that none of `needed` lies under, in its order.
fn superfluous(table: &[u8], needed: &[PathBuf]) -> Vec<Vec<u8>> {
    use std::os::unix::ffi::OsStrExt;
    let points = table.split(|b| *b == b'\n').filter_map(|line| {
        let field = line.split(|b| *b == b' ').nth(4)?;
        Some(unescape(field))
    });
    points
        .filter(|p| {
            let point = Path::new(std::ffi::OsStr::from_bytes(p));
            !needed.iter().any(|n| n.starts_with(point))
        })
        .collect()
}

/// A field of mountinfo: `\ooo` stands for a byte in octal.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|d| *first == b'\\' && d.iter().all(u8::is_ascii_digit));
        match octal {
            Some(d) => {
                let value = d.iter().fold(0u32, |v, c| v * 8 + u32::from(c - b'0'));
                out.push(value as u8);
                rest = &after[3..];
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
}

/// Blocks the signals that end a daemon in an orderly way, for all threads to come, and gives the
/// descriptor to read them from.
///
/// # Errors
/// What the kernel says.
pub fn end_signals() -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised by sigemptyset before it is used.
    let fd = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            libc::sigaddset(&raw mut set, signal);
        }
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just opened, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_needed_stays_mounted() {
        let table = b"21 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
            22 21 0:5 / /dev rw - devtmpfs udev rw\n\
            23 22 0:6 / /dev/shm rw - tmpfs tmpfs rw\n\
            24 21 259:0 / /mnt/my\\040disk rw - ext4 /dev/ublkb0 rw\n\
            25 21 0:7 / /run rw - tmpfs tmpfs rw\n\
            26 25 0:8 / /run/user rw - tmpfs tmpfs rw\n\
            27 21 8:2 / /mem rw - ext4 /dev/sdb rw\n";
        let needed = ["/run/evenkeel", "/dev/shm", "/mem/a.img"].map(PathBuf::from);
        let gone: Vec<String> = superfluous(table, &needed)
            .into_iter()
            .map(|p| String::from_utf8(p).expect("text"))
            .collect();
        assert_eq!(gone, ["/mnt/my disk", "/run/user"]);
    }
}
