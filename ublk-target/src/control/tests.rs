//! Both halves against each other, the daemon being a stand-in.

use std::cell::Cell;
use std::io::{BufRead, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use evenkeel_journal::World;
use evenkeel_journal::sync::Signal;
use evenkeel_journal::uring::{Engine, UringWorld};
use evenkeel_raid::status::State;
use evenkeel_raid::{Ack, ArrayError, ErrorKind, Located, Status};
use serde_json::{Value, json};

use super::client::{CallError, call};
use super::{
    AddedAs, Commands, GrownTo, NewDisk, Request, Settings, WaitFor, WidenedTo, server, socket_path,
};
use crate::daemon::Via;
use crate::nbd::socket;

struct Inner {
    world: UringWorld,
    open: Cell<usize>,
    stopped: Cell<bool>,
    gone: Cell<bool>,
    ended: Cell<bool>,
    quit: Signal,
}

#[derive(Clone)]
struct StandIn(Rc<Inner>);

impl Commands for StandIn {
    fn status(&self) -> Status {
        Status {
            name: "tank".into(),
            uuid: "u".into(),
            state: State::Healthy,
            read_only: false,
            level: "raid5".into(),
            data: 2,
            parity: 1,
            chunk_bytes: 65536,
            size_bytes: 1 << 30,
            device: "x".into(),
            via: "nbd".into(),
            ack: Ack::Cached,
            epoch: 1,
            can_lose: 1,
            members: Vec::new(),
            rebuild: None,
            grow: None,
            scrub: None,
            log: Default::default(),
            cache: Default::default(),
            stripes: Default::default(),
            replay: Default::default(),
        }
    }

    fn locate(&self, byte: u64) -> Result<Located, ArrayError> {
        let text = format!("There is no byte {byte}.");
        Err(ArrayError::new(ErrorKind::Usage, text))
    }

    fn open_count(&self) -> usize {
        self.0.open.get()
    }

    async fn fail(&self, disk: &str) -> Result<(), ArrayError> {
        match disk {
            // A device that is closed a moment later.
            "/leave" => {
                let inner = Rc::clone(&self.0);
                inner.open.set(1);
                self.0.world.spawn("leave", async move {
                    inner.world.sleep(Duration::from_millis(200)).await;
                    inner.open.set(0);
                });
                Ok(())
            }
            "/open" => {
                self.0.open.set(1);
                Ok(())
            }
            _ => Err(ArrayError::new(ErrorKind::Foreign, format!("{disk} is no member."))),
        }
    }

    async fn add(&self, disk: &str, seen: Option<(u64, u64)>) -> Result<AddedAs, ArrayError> {
        Ok(AddedAs { member: seen.map_or(0, |s| s.1 as u8), back: disk == "/back" })
    }

    async fn remove(&self, disk: &str) -> Result<(), ArrayError> {
        Err(ArrayError::new(ErrorKind::Failed, format!("{disk} is in use.")))
    }

    async fn replace(&self, old: &str, new: &str, _: Option<(u64, u64)>) -> Result<(), ArrayError> {
        Err(ArrayError::new(ErrorKind::TooSmall, format!("{new} is too small for {old}.")))
    }

    async fn grow_size(&self) -> Result<GrownTo, ArrayError> {
        Ok(GrownTo {
            before_bytes: 1 << 30,
            after_bytes: 1 << 31,
            device: "/dev/x".into(),
            via: "ublk".into(),
            device_bytes: None,
            note: "Later.".into(),
        })
    }

    async fn grow_add(&self, disks: &[NewDisk]) -> Result<WidenedTo, ArrayError> {
        let Some(small) = disks.iter().find(|d| d.disk == "/small") else {
            return Ok(WidenedTo {
                level: "raid5".into(),
                data_before: 2,
                data: 2 + disks.len() as u32,
                parity: 1,
                added: disks.iter().map(|d| d.disk.clone()).collect(),
                before_bytes: 1 << 30,
                after_bytes: 1 << 31,
                device: "/dev/x".into(),
                via: "ublk".into(),
                waited_ms: 7,
                note: "Later.".into(),
            });
        };
        if small.seen.is_some() {
            // The array is gone by that.
            self.0.gone.set(true);
        }
        Err(ArrayError::new(ErrorKind::TooSmall, "/small is too small."))
    }

    async fn growth_ended(&self) -> Result<(), ArrayError> {
        self.0.world.sleep(Duration::from_millis(300)).await;
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.0.gone.get()
    }

    async fn rebuilt(&self) -> Result<(), ArrayError> {
        self.0.world.sleep(Duration::from_millis(300)).await;
        Ok(())
    }

    async fn destage(&self) -> Result<(), ArrayError> {
        self.0.world.sleep(Duration::from_millis(300)).await;
        Ok(())
    }

    async fn scrub(&self, check_only: bool) -> Result<(), ArrayError> {
        let text = format!("Refused, check-only {check_only}.");
        Err(ArrayError::new(ErrorKind::Failed, text))
    }

    async fn stop_scrub(&self) -> Result<(), ArrayError> {
        Ok(())
    }

    async fn scrub_ended(&self) -> Result<(), ArrayError> {
        self.0.world.sleep(Duration::from_millis(300)).await;
        Ok(())
    }

    fn settings(&self) -> Settings {
        Settings {
            version: "1".into(),
            pid: 7,
            via: Via::Nbd,
            socket: None,
            ack: Ack::Cached,
            read_only: false,
            accept_missing: false,
            force: false,
            io_timeout_s: Some(5),
            checksum_cache: None,
            rebuild_rate: None,
            scrub_every_s: None,
            hook: None,
            hook_timeout_s: 0,
            foreground: false,
            disks: Vec::new(),
        }
    }

    fn show_leaving(&self, leaving: bool) {
        self.0.open.set(usize::from(leaving));
    }

    async fn leave(&self) {
        assert_eq!(self.0.open.get(), 1, "it showed that it leaves, and did not take it back");
        assert!(!self.0.stopped.replace(true), "left once");
    }

    async fn stop(&self) -> Result<(), ArrayError> {
        assert!(!self.0.stopped.replace(true), "stopped once");
        self.0.world.sleep(Duration::from_millis(50)).await;
        Ok(())
    }

    fn quit(&self) {
        self.0.ended.set(true);
        self.0.quit.notify();
    }
}

fn serve(name: &str) -> (PathBuf, JoinHandle<()>) {
    let dir = std::env::temp_dir().join(format!("evenkeel-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (there, ready) = mpsc::channel();
    let run = dir.clone();
    let thread = std::thread::spawn(move || {
        let engine = Engine::new().unwrap();
        let world = engine.world(&run).unwrap();
        let stand_in = StandIn(Rc::new(Inner {
            world: world.clone(),
            open: Cell::new(0),
            stopped: Cell::new(false),
            gone: Cell::new(false),
            ended: Cell::new(false),
            quit: Signal::new(),
        }));
        let listener = socket::listen(&socket_path(&run, "tank")).unwrap();
        server::start(world.clone(), world.driver().clone(), listener, stand_in.clone());
        there.send(()).unwrap();
        engine.block_on(async {
            while !stand_in.0.ended.get() {
                stand_in.0.quit.wait().await;
            }
        });
        let _ = std::fs::remove_dir_all(&run);
    });
    ready.recv().unwrap();
    (dir, thread)
}

fn failure(result: Result<Value, CallError>) -> (u8, String) {
    match result {
        Err(CallError::Failed(f)) => (f.code, f.message),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_daemon_is_asked_and_stopped() {
    let (dir, thread) = serve("control");
    let ask = |r: &Request| call(&dir, "tank", r);
    assert_eq!(ask(&Request::Status).unwrap()["name"], "tank");
    assert_eq!(failure(ask(&Request::Fail { disk: "/x".into() })), (12, "/x is no member.".into()));
    assert_eq!(failure(ask(&Request::Locate { byte: 9 })), (2, "There is no byte 9.".into()));
    for what in [WaitFor::Destage, WaitFor::Scrub, WaitFor::Rebuild, WaitFor::Grow] {
        let wait = |s| Request::Wait { what, timeout_s: Some(s) };
        assert_eq!(failure(ask(&wait(0.05))).0, 1);
        assert_eq!(failure(ask(&wait(-1.0))).0, 2);
        assert_eq!(ask(&wait(10.0)).unwrap(), Value::Null);
    }
    let added = |disk: &str, seen| ask(&Request::Add { disk: disk.into(), seen }).unwrap();
    assert_eq!(added("/back", Some((9, 5))), json!({"member": 5, "back": true}));
    assert_eq!(added("/d", None), json!({"member": 0, "back": false}));
    let removed = ask(&Request::Remove { disk: "/d".into() });
    assert_eq!(failure(removed), (1, "/d is in use.".into()));
    let replaced = ask(&Request::Replace { old: "/o".into(), new: "/n".into(), seen: None });
    assert_eq!(failure(replaced), (15, "/n is too small for /o.".into()));
    let grown = ask(&Request::GrowSize).unwrap();
    let sizes = ["before_bytes", "after_bytes", "device_bytes"].map(|key| grown[key].as_u64());
    assert_eq!(sizes, [Some(1 << 30), Some(1 << 31), None]);
    assert_eq!((&grown["device"], &grown["note"]), (&json!("/dev/x"), &json!("Later.")));
    let new = |disk: &str| NewDisk { disk: disk.into(), seen: None };
    let wider = ask(&Request::GrowAdd { disks: vec![new("/a"), new("/b")] }).unwrap();
    assert_eq!((&wider["added"], &wider["data"]), (&json!(["/a", "/b"]), &json!(4)));
    assert_eq!((&wider["data_before"], &wider["after_bytes"]), (&json!(2), &json!(1u64 << 31)));
    let small = ask(&Request::GrowAdd { disks: vec![new("/a"), new("/small")] });
    assert_eq!(failure(small), (15, "/small is too small.".into()));
    let scrub = ask(&Request::Scrub { check_only: true });
    assert_eq!(failure(scrub), (1, "Refused, check-only true.".into()));
    assert_eq!(ask(&Request::ScrubStop).unwrap(), Value::Null);

    ask(&Request::Fail { disk: "/open".into() }).unwrap();
    let (code, message) = failure(ask(&Request::Stop { force: false }));
    assert!(code == 1 && message.contains("in use"), "{message}");
    ask(&Request::Fail { disk: "/leave".into() }).unwrap();
    let before = Instant::now();
    ask(&Request::Stop { force: false }).unwrap();
    assert!(before.elapsed() >= Duration::from_millis(150), "it waited for the client to leave");
    thread.join().unwrap();
    assert!(matches!(ask(&Request::Status), Err(CallError::NoDaemon)));
}

#[test]
fn a_daemon_whose_array_is_gone_says_why_and_ends() {
    let (dir, thread) = serve("gone");
    let ask = |r: &Request| call(&dir, "tank", r);
    let small = NewDisk { disk: "/small".into(), seen: Some((1, 2)) };
    let answer = ask(&Request::GrowAdd { disks: vec![small] });
    assert_eq!(failure(answer), (15, "/small is too small.".into()));
    thread.join().unwrap();
    assert!(matches!(ask(&Request::Status), Err(CallError::NoDaemon)));
}

#[test]
fn an_array_is_handed_over_to_whoever_is_there_to_take_it() {
    let (dir, thread) = serve("handover");
    let ask = |r: &Request| call(&dir, "tank", r);
    assert_eq!(ask(&Request::Settings).unwrap()["io_timeout_s"], 5);
    // Who asks and is gone before the answer takes nothing: all goes on.
    let mut gone = UnixStream::connect(socket_path(&dir, "tank")).unwrap();
    gone.write_all(b"{\"op\":\"hand_over\"}\n").unwrap();
    drop(gone);
    let mut refused = 0;
    while let Err(e) = ask(&Request::HandOver) {
        let CallError::Failed(f) = e else { panic!("{e}") };
        assert!(f.message.contains("already"), "{}", f.message);
        refused += 1;
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(refused > 0, "the first one was heard before");
    thread.join().unwrap();
    assert!(matches!(ask(&Request::Status), Err(CallError::NoDaemon)));
}

#[test]
fn hostile_lines_get_an_error_and_nothing_else_suffers() {
    let (dir, thread) = serve("hostile");
    let path = socket_path(&dir, "tank");
    let first = |bytes: &[u8]| {
        let mut s = UnixStream::connect(&path).unwrap();
        let _ = s.write_all(bytes);
        let _ = s.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = s.read_to_end(&mut answer);
        answer.split(|b| *b == b'\n').next().unwrap_or_default().to_vec()
    };
    for line in [
        &b"\n"[..],
        b"null\n",
        b"{\"op\":\"dance\"}\n",
        b"\0\xff\xfe\n",
        &[b"[".repeat(60_000), b"\n".to_vec()].concat(),
        &b"x".repeat(65_536),
    ] {
        let answer: Value = serde_json::from_slice(&first(line)).expect("one JSON line");
        assert_eq!(answer["error"]["code"], 2);
    }
    first(&b"y".repeat(300_000)); // the answer may be lost with what was not read
    assert_eq!(first(b"{\"op\":\"status\""), b"", "half a line is no request");
    let idle: Vec<_> = (0..15).map(|_| UnixStream::connect(&path).unwrap()).collect();

    // Two requests in one go are answered in order.
    let mut s = UnixStream::connect(&path).unwrap();
    s.write_all(b"{\"op\":\"fail\",\"disk\":\"/x\"}\n{\"op\":\"stop\"}\n").unwrap();
    let lines: Vec<Value> = std::io::BufReader::new(s)
        .lines()
        .take(2)
        .map(|l| serde_json::from_str(&l.unwrap()).unwrap())
        .collect();
    assert_eq!(lines[0]["error"]["code"], 12);
    assert_eq!(lines[1], json!({"ok": null}));
    thread.join().unwrap();
    drop(idle);
}

#[test]
fn a_daemon_that_ends_while_it_is_asked_is_told_from_one_that_does_not_answer() {
    let dir = std::env::temp_dir().join(format!("evenkeel-leaving-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    for ends in [true, false] {
        let path = socket_path(&dir, "tank");
        let _ = std::fs::remove_file(&path);
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let thread = std::thread::spawn(move || {
            let (asked, _) = listener.accept().unwrap();
            let stays = (!ends).then_some(listener);
            drop(asked);
            stays
        });
        let answer = call(&dir, "tank", &Request::Status);
        assert_eq!(matches!(answer, Err(CallError::NoDaemon)), ends, "{answer:?}");
        thread.join().unwrap();
    }
    let _ = std::fs::remove_dir_all(&dir);
}
