//! The process beside the daemon that runs the program: one at a time, each within a bound.
//!
//! What must hold: what waits is bounded, and what does not fit is counted and said; a program that
//! takes too long is killed with all that it started in its group; none is left as a zombie; once the
//! daemon has ended, what waits has as long as one program may take, and no longer.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use super::{HookConfig, Told};

/// Most events that wait for their turn.
pub(super) const WAITING_MAX: usize = 256;
/// Longest packet; a socket's buffer holds no longer one.
const PACKET_MAX: usize = 256 << 10;

/// A program under way.
struct Running {
    child: Child,
    /// Readable when it has ended.
    ended: OwnedFd,
    deadline: Instant,
    event: String,
}

pub(super) struct Runner<N: Fn(&str)> {
    /// None: the daemon has ended.
    from: Option<OwnedFd>,
    config: HookConfig,
    note: N,
    pub(super) waiting: VecDeque<Told>,
    /// Events that were dropped since that was said last.
    pub(super) missed: u64,
    running: Option<Running>,
    /// When it gives up, once the daemon has ended.
    end: Option<Instant>,
}

impl<N: Fn(&str)> Runner<N> {
    pub(super) fn new(from: OwnedFd, config: &HookConfig, note: N) -> Runner<N> {
        Runner {
            from: Some(from),
            config: config.clone(),
            note,
            waiting: VecDeque::new(),
            missed: 0,
            running: None,
            end: None,
        }
    }

    /// Runs the program for each event until the daemon has ended.
    pub(super) fn run(mut self) {
        loop {
            if self.running.is_none()
                && let Some(told) = self.waiting.pop_front()
            {
                self.begin(&told);
                continue;
            }
            self.say_missed();
            if self.from.is_none() && self.running.is_none() {
                return;
            }
            self.wait();
            self.look_at_program();
            if self.end.is_some_and(|end| Instant::now() >= end) {
                self.give_up();
                return;
            }
        }
    }

    /// Waits until something comes, or the program ends, or one of the bounds is over.
    fn wait(&mut self) {
        let running = self.running.as_ref();
        let until = running.map(|r| r.deadline).into_iter().chain(self.end).min();
        let ms = until.map_or(-1, |until| {
            let left = until.saturating_duration_since(Instant::now());
            // Rounded up, so that it is over when this returns.
            i32::try_from(left.as_millis() + 1).unwrap_or(i32::MAX)
        });
        let number = |fd: Option<&OwnedFd>| fd.map_or(-1, AsRawFd::as_raw_fd);
        let look = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let mut polls = [look(number(self.from.as_ref())), look(number(running.map(|r| &r.ended)))];
        // SAFETY: two pollfds that live over the call.
        unsafe { libc::poll(polls.as_mut_ptr(), 2, ms) };
        if polls[0].revents != 0 {
            self.receive();
        }
    }

    /// Takes all that has come.
    fn receive(&mut self) {
        let mut bytes = vec![0; PACKET_MAX];
        while let Some(from) = &self.from {
            // SAFETY: room for as many bytes as are named.
            let got = unsafe {
                libc::recv(
                    from.as_raw_fd(),
                    bytes.as_mut_ptr().cast(),
                    bytes.len(),
                    libc::MSG_DONTWAIT,
                )
            };
            match usize::try_from(got) {
                Ok(0) => self.daemon_has_ended(),
                Ok(n) => {
                    if let Ok(told) = serde_json::from_slice(&bytes[..n]) {
                        self.take(told);
                    }
                }
                Err(_) => match io::Error::last_os_error().kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock => return,
                    _ => self.daemon_has_ended(),
                },
            }
        }
    }

    fn daemon_has_ended(&mut self) {
        self.from = None;
        self.end = Some(Instant::now() + self.config.timeout);
    }

    pub(super) fn take(&mut self, told: Told) {
        self.missed += told.missed;
        if self.waiting.len() == WAITING_MAX {
            self.missed += 1;
        } else {
            self.waiting.push_back(told);
        }
    }

    /// Says how many events were dropped, once there is room again.
    fn say_missed(&mut self) {
        if self.missed > 0 && self.waiting.len() < WAITING_MAX {
            (self.note)(&format!(
                "Warning: {} was not run for some events ({}), since it is too slow: more than \
                 {WAITING_MAX} were waiting. What they were is said above.",
                self.config.program.display(),
                std::mem::take(&mut self.missed)
            ));
        }
    }

    fn begin(&mut self, told: &Told) {
        match self.spawn(told) {
            Ok(running) => self.running = Some(running),
            Err(e) => (self.note)(&format!(
                "Warning: {} could not be run for the event {}: {e}.",
                self.config.program.display(),
                told.event
            )),
        }
    }

    fn spawn(&self, told: &Told) -> io::Result<Running> {
        // What it prints goes where the daemon's own words go.
        let log = io::stderr().as_fd().try_clone_to_owned()?;
        let mut command = Command::new(&self.config.program);
        command.arg(&told.event).arg(&told.device).args(&told.member);
        command.env("EVENKEEL_ARRAY", &told.array).env("EVENKEEL_SENTENCE", &told.sentence);
        command.stdin(Stdio::null()).stdout(log).process_group(0);
        let mut child = command.spawn()?;
        let deadline = Instant::now() + self.config.timeout;
        // SAFETY: a system call that takes two numbers; the child was not waited for.
        let ended = unsafe { libc::syscall(libc::SYS_pidfd_open, child.id(), 0) };
        if ended < 0 {
            let e = io::Error::last_os_error();
            kill(&mut child);
            return Err(e);
        }
        // SAFETY: a descriptor that the call above has just made, owned by nobody else.
        let ended = unsafe { OwnedFd::from_raw_fd(ended as i32) };
        Ok(Running { child, ended, deadline, event: told.event.clone() })
    }

    /// Whether the program has ended, or has had its time.
    fn look_at_program(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        match running.child.try_wait() {
            Ok(None) if Instant::now() < running.deadline => self.running = Some(running),
            Ok(None) => {
                kill(&mut running.child);
                self.say_of(
                    &running,
                    &format!(
                        "had not ended after {} s (--hook-timeout), and was killed",
                        self.config.timeout.as_secs_f64()
                    ),
                );
            }
            Ok(Some(status)) if status.success() => {}
            Ok(Some(status)) => self.say_of(&running, &how(status)),
            Err(e) => self.say_of(&running, &format!("cannot be waited for: {e}")),
        }
    }

    /// The time after the daemon's end is over.
    fn give_up(&mut self) {
        let running = self.running.take();
        let left = self.waiting.len() as u64 + std::mem::take(&mut self.missed);
        if let Some(mut running) = running {
            kill(&mut running.child);
            self.say_of(&running, "had not ended some time after the daemon, and was killed");
        }
        if left > 0 {
            (self.note)(&format!(
                "Warning: the daemon has ended, and {} was not run for its last events ({left}).",
                self.config.program.display()
            ));
        }
    }

    fn say_of(&self, running: &Running, what: &str) {
        (self.note)(&format!(
            "Warning: {}, run for the event {}, {what}.",
            self.config.program.display(),
            running.event
        ));
    }
}

fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, signal) => format!("was ended by signal {}", signal.unwrap_or_default()),
    }
}

/// Kills a program with all of its group, and takes note of its end.
fn kill(child: &mut Child) {
    if let Ok(group) = libc::pid_t::try_from(child.id()) {
        // SAFETY: no memory is involved; the child was not waited for, so its number is its own.
        unsafe { libc::kill(-group, libc::SIGKILL) };
    }
    let _ = child.wait();
}
