//! The daemon's half of the control socket.
//!
//! What must hold: whatever is sent, the engine goes on; a line is at most [`MAX_LINE`] bytes and
//! [`MAX_CONNECTIONS`] clients are heard at a time. An answer that takes long (`wait`, `stop`)
//! holds up its own connection alone.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::os::unix::net::UnixListener;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use serde_json::Value;

use evenkeel_journal::sync::Signal;
use evenkeel_journal::uring::Driver;
use evenkeel_journal::{Buf, Slice, World};
use evenkeel_raid::{ArrayError, ErrorKind};

use super::{Answer, Commands, Failure, MAX_LINE, Request, WaitFor};
use crate::nbd::socket::Socket;

/// Clients heard at a time; more wait to be accepted.
pub const MAX_CONNECTIONS: usize = 16;
/// How long a client may take for its next request, and for its answer.
const IDLE_TIME: Duration = Duration::from_secs(60);
/// How long a stop without force waits for clients that are just leaving.
const LEAVE_TIME: Duration = Duration::from_millis(1000);
/// How long what is dirty may take into its slots before the array is handed over. What is not there
/// then is in the log and the ring, for the next daemon.
const LAST_DESTAGE: Duration = Duration::from_secs(3);
/// Longest wait that a client may ask for; no time-out means this.
const LONGEST_WAIT: Duration = Duration::from_secs(7 * 24 * 3600);

struct State<W: World, C: Commands> {
    world: W,
    commands: C,
    listener: Socket,
    open: Cell<usize>,
    changed: Signal,
    stopping: Cell<bool>,
}

/// Serves `commands` to whoever connects to `listener`. Runs until the process ends.
pub fn start<W: World, C: Commands>(world: W, driver: Driver, listener: UnixListener, commands: C) {
    let state = Rc::new(State {
        world: world.clone(),
        commands,
        listener: Socket::new(listener, driver),
        open: Cell::new(0),
        changed: Signal::new(),
        stopping: Cell::new(false),
    });
    world.spawn("control accept", accept(state));
}

async fn accept<W: World, C: Commands>(s: Rc<State<W, C>>) {
    loop {
        while s.open.get() >= MAX_CONNECTIONS {
            s.changed.wait().await;
        }
        match s.listener.accept().await {
            Ok(socket) => {
                s.open.set(s.open.get() + 1);
                let state = Rc::clone(&s);
                s.world.spawn("control connection", async move {
                    let _ = converse(&state, &socket).await;
                    socket.shutdown();
                    state.open.set(state.open.get() - 1);
                    state.changed.notify();
                });
            }
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => return,
            // Out of descriptors or memory: that passes.
            Err(_) => s.world.sleep(Duration::from_millis(100)).await,
        }
    }
}

/// Requests and answers until the client leaves, or is silent for too long.
async fn converse<W: World, C: Commands>(s: &Rc<State<W, C>>, socket: &Socket) -> io::Result<()> {
    let mut buf = Buf::new(MAX_LINE);
    let mut filled = 0;
    loop {
        let Some(end) = buf[..filled].iter().position(|b| *b == b'\n') else {
            if filled == MAX_LINE {
                let e = Failure::new(2, "The line is too long to be a request.");
                return send(s, socket, &Answer::Error(e)).await;
            }
            let receive = socket.receive(buf, filled);
            let Some((got, back)) = within(&s.world, IDLE_TIME, receive).await else {
                return Ok(());
            };
            buf = back;
            match got? {
                0 => return Ok(()),
                n => filled += n,
            }
            continue;
        };
        let request = serde_json::from_slice(&buf[..end]);
        buf.copy_within(end + 1..filled, 0);
        filled -= end + 1;
        // What this does with the array may be its end.
        let grows = matches!(request, Ok(Request::GrowAdd { .. }));
        let (done, last) = match request {
            Ok(Request::Stop { force }) => stop(s, force).await,
            Ok(Request::HandOver) => match prepare_to_leave(s).await {
                Ok(()) => return leave(s, socket).await,
                Err(failure) => (Err(failure), false),
            },
            Ok(request) => (carry_out(s, request).await, false),
            Err(e) => {
                (Err(Failure::new(2, format!("This is not a request that I know: {e}."))), false)
            }
        };
        let answer = match done {
            Ok(value) => Answer::Ok(value),
            Err(failure) => Answer::Error(failure),
        };
        let sent = send(s, socket, &answer).await;
        if last || grows && s.commands.is_over() {
            s.commands.quit();
        }
        sent?;
    }
}

async fn send<W: World, C: Commands>(
    s: &Rc<State<W, C>>,
    socket: &Socket,
    answer: &Answer,
) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    within(&s.world, IDLE_TIME, socket.send(vec![Slice::copy_of(&line)]))
        .await
        .unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()))
}

async fn carry_out<W: World, C: Commands>(
    s: &Rc<State<W, C>>,
    request: Request,
) -> Result<Value, Failure> {
    match request {
        Request::Status => serde_json::to_value(s.commands.status())
            .map_err(|e| Failure::new(1, format!("The status cannot be written: {e}."))),
        Request::Locate { byte } => serde_json::to_value(s.commands.locate(byte)?)
            .map_err(|e| Failure::new(1, format!("The answer cannot be written: {e}."))),
        Request::Fail { disk } => {
            s.commands.fail(&disk).await?;
            Ok(Value::Null)
        }
        Request::Add { disk, seen } => serde_json::to_value(s.commands.add(&disk, seen).await?)
            .map_err(|e| Failure::new(1, format!("The answer cannot be written: {e}."))),
        Request::Remove { disk } => {
            s.commands.remove(&disk).await?;
            Ok(Value::Null)
        }
        Request::Replace { old, new, seen } => {
            s.commands.replace(&old, &new, seen).await?;
            Ok(Value::Null)
        }
        Request::GrowSize => serde_json::to_value(s.commands.grow_size().await?)
            .map_err(|e| Failure::new(1, format!("The answer cannot be written: {e}."))),
        Request::GrowAdd { disks } => serde_json::to_value(s.commands.grow_add(&disks).await?)
            .map_err(|e| Failure::new(1, format!("The answer cannot be written: {e}."))),
        Request::Scrub { check_only } => {
            s.commands.scrub(check_only).await?;
            Ok(Value::Null)
        }
        Request::ScrubStop => {
            s.commands.stop_scrub().await?;
            Ok(Value::Null)
        }
        Request::Settings => serde_json::to_value(s.commands.settings())
            .map_err(|e| Failure::new(1, format!("The settings cannot be written: {e}."))),
        Request::Wait { what, timeout_s } => {
            let limit = match timeout_s {
                None => LONGEST_WAIT,
                Some(t) => Duration::try_from_secs_f64(t)
                    .map_err(|_| Failure::new(2, "The time-out is not a length of time."))?
                    .min(LONGEST_WAIT),
            };
            let (done, not_yet) = match what {
                WaitFor::Destage => {
                    let done = within(&s.world, limit, destage(s)).await;
                    (done, "Not everything is in its place")
                }
                WaitFor::Scrub => {
                    let done = within(&s.world, limit, s.commands.scrub_ended()).await;
                    (done, "The scrub has not ended")
                }
                WaitFor::Rebuild => {
                    let done = within(&s.world, limit, s.commands.rebuilt()).await;
                    (done, "The rebuild has not ended")
                }
                WaitFor::Grow => {
                    let done = within(&s.world, limit, s.commands.growth_ended()).await;
                    (done, "The stripes are not all moved")
                }
            };
            let late = || format!("{not_yet} after {} s; it goes on.", limit.as_secs_f64());
            done.unwrap_or_else(|| Err(ArrayError::new(ErrorKind::Failed, late())))
                .map(|()| Value::Null)
                .map_err(Failure::from)
        }
        Request::Stop { .. } | Request::HandOver => {
            Err(Failure::new(1, "What ends the daemon is not carried out here."))
        }
    }
}

/// Stops the array. The second value says that this call was the one that did, well or not, so
/// that the process may end after the answer.
async fn stop<W: World, C: Commands>(
    s: &Rc<State<W, C>>,
    force: bool,
) -> (Result<Value, Failure>, bool) {
    if !force && let Err(e) = wait_until_closed(s).await {
        return (Err(e), false);
    }
    if let Err(e) = end_once(s) {
        return (Err(e), false);
    }
    (s.commands.stop().await.map(|()| Value::Null).map_err(Failure::from), true)
}

fn end_once<W: World, C: Commands>(s: &Rc<State<W, C>>) -> Result<(), Failure> {
    if s.stopping.replace(true) {
        let text = "The array is being stopped, or handed over to another daemon, already.";
        return Err(Failure::new(1, text));
    }
    Ok(())
}

/// What shortens the next daemon's start while this one still serves.
async fn prepare_to_leave<W: World, C: Commands>(s: &Rc<State<W, C>>) -> Result<(), Failure> {
    end_once(s)?;
    // What cannot be destaged, or not in time, is replayed.
    let _ = within(&s.world, LAST_DESTAGE, destage(s)).await;
    Ok(())
}

/// Answers, and leaves the array to whoever got the answer. If that one is gone, it goes on.
async fn leave<W: World, C: Commands>(s: &Rc<State<W, C>>, socket: &Socket) -> io::Result<()> {
    // Before the answer: whoever gets it may die, and another start must know what to wait for.
    s.commands.show_leaving(true);
    let sent = send(s, socket, &Answer::Ok(Value::Null)).await;
    match sent {
        Ok(()) => {
            s.commands.leave().await;
            s.commands.quit();
        }
        Err(_) => {
            s.commands.show_leaving(false);
            s.stopping.set(false);
        }
    }
    sent
}

/// Gives clients that have just closed the device the moment it takes to notice.
async fn wait_until_closed<W: World, C: Commands>(s: &Rc<State<W, C>>) -> Result<(), Failure> {
    let step = Duration::from_millis(20);
    let mut waited = Duration::ZERO;
    while s.commands.open_count() > 0 {
        if waited >= LEAVE_TIME {
            return Err(Failure::new(
                1,
                format!(
                    "The device is in use ({} times open), so the array was not stopped. Unmount \
                     it or disconnect its clients first, or stop with --force.",
                    s.commands.open_count()
                ),
            ));
        }
        s.world.sleep(step).await;
        waited += step;
    }
    Ok(())
}

/// Destages in a task of its own: whoever stops waiting does not break it off.
async fn destage<W: World, C: Commands>(s: &Rc<State<W, C>>) -> Result<(), ArrayError> {
    let ended = Rc::new((Cell::new(None), Signal::new()));
    let (there, commands) = (Rc::clone(&ended), s.commands.clone());
    s.world.spawn("control destage", async move {
        there.0.set(Some(commands.destage().await));
        there.1.notify();
    });
    loop {
        if let Some(done) = ended.0.take() {
            return done;
        }
        ended.1.wait().await;
    }
}

/// What `future` gives, or None if that takes longer than `limit`.
async fn within<W: World, F: Future>(world: &W, limit: Duration, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut timer = pin!(world.sleep(limit));
    std::future::poll_fn(|cx| {
        if let Poll::Ready(out) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(out));
        }
        timer.as_mut().poll(cx).map(|()| None)
    })
    .await
}
