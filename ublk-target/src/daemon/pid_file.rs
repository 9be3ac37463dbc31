//! RUN/NAME.pid: the daemon's process number, and a lock that says that it lives.
//!
//! This lock only tells a live daemon quickly and by name. What protects the members are their own
//! locks (I6): they outlive the process until its last write has ended; this one does not.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use evenkeel_raid::{ArrayError, ErrorKind};

use super::failed;

/// How long the end of a process is waited for that has been killed, or leaves.
const PATIENCE: Duration = Duration::from_secs(10);
const PF_EXITING: u64 = 4;
const KILL: u64 = 1 << (libc::SIGKILL - 1);

/// The file, locked. Dropping it removes it.
pub struct PidFile {
    path: PathBuf,
    _file: File,
}

impl PidFile {
    /// Takes the file for this process. Waits for one that was killed and is still there, or that
    /// shows that it leaves; and for one that said so, so long (`leaving`).
    ///
    /// # Errors
    /// `Held` if another daemon has it.
    pub fn take(run_dir: &Path, name: &str, leaving: Duration) -> Result<PidFile, ArrayError> {
        let path = run_dir.join(format!("{name}.pid"));
        let cannot = |e: io::Error| failed(format!("{} cannot be used: {e}.", path.display()));
        let begun = Instant::now();
        loop {
            let mut file = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .map_err(cannot)?;
            // SAFETY: an open descriptor.
            if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
                let e = io::Error::last_os_error();
                if e.kind() != io::ErrorKind::WouldBlock {
                    return Err(cannot(e));
                }
                let mut pid = String::new();
                let _ = file.read_to_string(&mut pid);
                let patience = if is_dying(pid.trim()) { PATIENCE.max(leaving) } else { leaving };
                if begun.elapsed() < patience {
                    std::thread::sleep(Duration::from_millis(2));
                    continue;
                }
                let text = format!("The array \"{name}\" is held by process {}.", pid.trim());
                return Err(ArrayError::new(ErrorKind::Held, text));
            }
            // A daemon that just ended may have removed the file between open and lock.
            let same = |there: &std::fs::Metadata, ours: &std::fs::Metadata| {
                (there.dev(), there.ino()) == (ours.dev(), ours.ino())
            };
            match (std::fs::metadata(&path), file.metadata()) {
                (Ok(there), Ok(ours)) if same(&there, &ours) => {}
                _ => continue,
            }
            file.set_len(0)
                .and_then(|()| file.rewind())
                .and_then(|()| writeln!(file, "{}", std::process::id()))
                .map_err(cannot)?;
            return Ok(PidFile { path, _file: file });
        }
    }
}

/// The name of a process that leaves: the only thing of it that others can see and that goes with it.
const LEAVING: &CStr = c"evenkeel leaves";

/// Lets other starts see that this process, whose main thread this is, is about to end, or takes that
/// back.
pub fn show_leaving(leaving: bool) {
    let name = if leaving { LEAVING } else { c"evenkeel" };
    // SAFETY: a string that ends in zero, which is copied.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// Whether this process is about to end, so that its lock will go by itself.
fn is_dying(pid: &str) -> bool {
    if pid.is_empty() || !pid.bytes().all(|b| b.is_ascii_digit()) {
        return false;
    }
    let read = |what: &str| std::fs::read_to_string(format!("/proc/{pid}/{what}"));
    let (Ok(stat), Ok(status)) = (read("stat"), read("status")) else { return true };
    // The name, in brackets, may hold anything.
    let Some((front, rest)) = stat.rsplit_once(") ") else { return false };
    let leaves = front.split_once(" (").is_some_and(|(_, n)| n.as_bytes() == LEAVING.to_bytes());
    let fields: Vec<&str> = rest.split(' ').collect();
    let flags = fields.get(6).and_then(|f| f.parse::<u64>().ok()).unwrap_or_default();
    let ended = matches!(fields.first(), Some(&("Z" | "X")));
    let killed = status.lines().any(|line| {
        let pending = line.strip_prefix("SigPnd:").or(line.strip_prefix("ShdPnd:"));
        pending.is_some_and(|p| u64::from_str_radix(p.trim(), 16).is_ok_and(|p| p & KILL != 0))
    });
    ended || leaves || killed || flags & PF_EXITING != 0
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Removed while locked: nobody else's file has this name now.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_daemon_at_a_time() {
        let dir = std::env::temp_dir().join(format!("evenkeel-pid-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a folder");
        let take = |name| PidFile::take(&dir, name, Duration::ZERO);
        let a = take("a").expect("free");
        let e = take("a").err().expect("taken");
        assert_eq!(e.kind, ErrorKind::Held);
        assert!(e.message.contains(&std::process::id().to_string()));
        assert!(take("b").is_ok());
        drop(a);
        assert!(!dir.join("a.pid").exists());
        let a = take("a").expect("free again");
        std::thread::scope(|s| {
            let next = s.spawn(|| PidFile::take(&dir, "a", Duration::from_secs(60)));
            drop(a);
            assert!(next.join().expect("no panic").is_ok(), "one that leaves is waited for");
        });
        assert!(!is_dying(&std::process::id().to_string()) && !is_dying(""));
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().expect("a child");
        assert!(!is_dying(&child.id().to_string()));
        // A process has the name of its program.
        for (name, leaves) in [("evenkeel leaves", true), ("(evenkeel leaves", false)] {
            std::os::unix::fs::symlink("/bin/sleep", dir.join(name)).expect("a link");
            let mut named = std::process::Command::new(dir.join(name)).arg("1000").spawn();
            let named = named.as_mut().expect("a child");
            let dying = is_dying(&named.id().to_string());
            named.kill().expect("killed");
            named.wait().expect("it ends");
            assert_eq!(dying, leaves, "{name}");
        }
        child.kill().expect("killed");
        assert!(is_dying(&child.id().to_string()), "killed, whether or not it has ended");
        child.wait().expect("it ends");
        assert!(is_dying(&child.id().to_string()), "gone");
        let _ = std::fs::remove_dir_all(dir);
    }
}
