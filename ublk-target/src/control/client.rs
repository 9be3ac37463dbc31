//! The command's half of the control socket: one request, one answer, on a blocking socket.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::{Answer, Failure, Request, socket_path};

/// Longest answer: the status of the widest array with long paths fits.
const MAX_ANSWER: usize = 4 << 20;
/// How long a connected daemon may take to read a request.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a daemon may take for an answer that needs no I/O, or to say that it leaves.
const STATUS_TIMEOUT: Duration = Duration::from_secs(30);

/// A daemon that closed a connection without an answer is looked for so often, with so long between.
const LEAVE_LOOKS: u32 = 50;
const LEAVE_PAUSE: Duration = Duration::from_millis(100);

/// Why there is no answer, or not the one that was wanted.
#[derive(Debug)]
pub enum CallError {
    /// No daemon listens there.
    NoDaemon,
    /// A daemon listens, but the conversation failed.
    Io(io::Error),
    /// The daemon refused, or what it did failed.
    Failed(Failure),
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CallError::NoDaemon => f.write_str("no daemon runs for this array"),
            CallError::Io(e) => write!(f, "the daemon does not answer: {e}"),
            CallError::Failed(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for CallError {}

/// Asks the daemon of the array `name` and waits for its answer.
///
/// # Errors
/// See [`CallError`].
pub fn call(run_dir: &Path, name: &str, request: &Request) -> Result<Value, CallError> {
    call_socket(&socket_path(run_dir, name), request)
}

/// Asks the daemon that listens at `path`.
///
/// # Errors
/// See [`CallError`].
pub fn call_socket(path: &Path, request: &Request) -> Result<Value, CallError> {
    let line = match converse(connect(path)?, request) {
        Ok(line) => line,
        // It ended while it was asked, if nobody is there now, or soon: on a busy machine its end takes
        // a while.
        Err(e) if is_soon(request) && closed(&e) => {
            for _ in 0..LEAVE_LOOKS {
                drop(connect(path)?);
                std::thread::sleep(LEAVE_PAUSE);
            }
            return Err(CallError::Io(e));
        }
        Err(e) => return Err(CallError::Io(e)),
    };
    match serde_json::from_slice(&line) {
        Ok(Answer::Ok(value)) => Ok(value),
        Ok(Answer::Error(failure)) => Err(CallError::Failed(failure)),
        Err(e) => Err(CallError::Io(e.into())),
    }
}

fn connect(path: &Path) -> Result<UnixStream, CallError> {
    UnixStream::connect(path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => CallError::NoDaemon,
        _ => CallError::Io(e),
    })
}

/// Whether a request is answered soon, and a daemon that is gone instead answers it as well.
fn is_soon(request: &Request) -> bool {
    use Request::{HandOver, Locate, Settings, Status};
    matches!(request, Status | Locate { .. } | Settings | HandOver)
}

/// Whether the other end is gone.
fn closed(e: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(e.kind(), UnexpectedEof | ConnectionReset | BrokenPipe)
}

fn converse(mut stream: UnixStream, request: &Request) -> io::Result<Vec<u8>> {
    stream.set_write_timeout(Some(SEND_TIMEOUT))?;
    // All else is bounded by the daemon, which knows what it waits for.
    stream.set_read_timeout(is_soon(request).then_some(STATUS_TIMEOUT))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;

    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    while !answer.contains(&b'\n') {
        let n = stream.read(&mut chunk)?;
        if n == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "it closed the connection without an answer",
            ));
        }
        answer.extend_from_slice(&chunk[..n]);
        if answer.len() > MAX_ANSWER {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its answer is too long"));
        }
    }
    let end = answer.iter().position(|b| *b == b'\n').unwrap_or(answer.len());
    answer.truncate(end);
    Ok(answer)
}
