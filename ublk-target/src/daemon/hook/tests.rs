//! The runner with real programs, in a thread of the test instead of a process beside a daemon.

use std::process::Command;
use std::sync::mpsc;
use std::thread::JoinHandle;

use evenkeel_raid::EventKind;

use super::runner::WAITING_MAX;
use super::*;

/// Nothing is to end by it.
const LONG: Duration = Duration::from_secs(600);
/// What hangs is to end by it.
const SHORT: Duration = Duration::from_millis(300);

/// A folder that goes with it.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Folder {
    fn new(name: &str) -> Folder {
        let path =
            std::env::temp_dir().join(format!("evenkeel-hook-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder");
        Folder(path)
    }

    /// A shell script that begins in this folder.
    fn program(&self, text: &str) -> PathBuf {
        let path = self.0.join("program");
        let text = format!("#!/bin/sh\ncd '{}' || exit 9\n{text}\n", self.0.display());
        // Written by a process of its own: a descriptor of it that may be written to, which other tests
        // give to what they run, would keep it from being run.
        let write = Command::new("sh")
            .args(["-c", "printf %s \"$1\" >\"$0\" && chmod +x \"$0\""])
            .args([path.as_os_str(), text.as_ref()])
            .status();
        assert!(write.is_ok_and(|status| status.success()), "a program");
        path
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.join(name)).unwrap_or_default()
    }
}

/// A runner in a thread, the daemon's end of its socket, and what it notes.
fn begin(program: PathBuf, timeout: Duration) -> (Hook, JoinHandle<()>, mpsc::Receiver<String>) {
    let (to, from) = pair().expect("a socket");
    let config = HookConfig { program: program.clone(), timeout };
    let (say, said) = mpsc::channel();
    let runner = std::thread::spawn(move || {
        let note = |text: &str| say.send(text.to_owned()).expect("heard");
        Runner::new(from, &config, note).run();
    });
    (Hook { to, program, missed: Cell::new(0), gone: Cell::new(false) }, runner, said)
}

fn event(kind: EventKind, member: Option<&str>) -> Event {
    let sentence = format!("What \"{kind}\" means,\nin 2 lines.");
    Event { kind, member: member.map(str::to_owned), sentence }
}

fn told(number: u64) -> Told {
    let [event, device, array, sentence] = ["Note", "/dev/x", "a", "s"].map(str::to_owned);
    Told { event: format!("{event}{number}"), device, member: None, array, sentence, missed: 0 }
}

#[test]
fn it_is_given_the_event_the_device_the_member_and_the_sentence() {
    let folder = Folder::new("given");
    let text = r#"echo "$#: $1 $2 $3: $EVENKEEL_ARRAY: $EVENKEEL_SENTENCE" >>seen; cat >>seen"#;
    let (hook, runner, said) = begin(folder.program(text), LONG);
    hook.tell("tank", "/dev/x", &event(EventKind::NewArray, None));
    hook.tell("tank", "/dev/x", &event(EventKind::Fail, Some("/dev/s d")));
    drop(hook);
    runner.join().expect("it ends when the daemon has, and all is run");
    let seen = "2: NewArray /dev/x : tank: What \"NewArray\" means,\nin 2 lines.\n\
                3: Fail /dev/x /dev/s d: tank: What \"Fail\" means,\nin 2 lines.\n";
    assert_eq!(folder.read("seen"), seen);
    assert_eq!(said.iter().collect::<Vec<_>>(), [""; 0], "nothing to complain of");
}

#[test]
fn they_run_one_after_the_other() {
    let folder = Folder::new("order");
    let text = "mkdir one || echo two at a time >>seen\necho $1 >>seen\nrmdir one";
    let (hook, runner, _said) = begin(folder.program(text), LONG);
    let kinds = &EventKind::ALL[..12];
    kinds.iter().for_each(|kind| hook.tell("tank", "/dev/x", &event(*kind, None)));
    drop(hook);
    runner.join().expect("it ends");
    let expected: String = kinds.iter().map(|kind| format!("{kind}\n")).collect();
    assert_eq!(folder.read("seen"), expected);
}

/// Whether a process runs; a zombie does not.
fn runs(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

#[test]
fn one_that_hangs_is_killed_with_its_children_and_the_next_is_run() {
    let folder = Folder::new("hangs");
    let text = "[ $1 = Fail ] || { echo $1 >seen; exit; }\n\
                sleep 600 & echo $! >child; echo $$ >own; wait";
    let (hook, runner, said) = begin(folder.program(text), SHORT);
    hook.tell("tank", "/dev/x", &event(EventKind::Fail, None));
    let complaint = said.recv().expect("it is killed");
    assert!(complaint.contains("run for the event Fail, had not ended after 0.3 s"), "{complaint}");
    let (own, child) = (folder.read("own"), folder.read("child"));
    assert!(!own.is_empty() && !child.is_empty(), "it was under way");
    hook.tell("tank", "/dev/x", &event(EventKind::Thawed, None));
    drop(hook);
    runner.join().expect("it ends");
    assert_eq!(folder.read("seen"), "Thawed\n");
    let stat = format!("/proc/{}", own.trim());
    assert!(!std::path::Path::new(&stat).exists(), "no zombie is left");
    // Its child was killed before it was waited for; that it goes takes the kernel a moment.
    while runs(&child) {
        std::thread::yield_now();
    }
}

#[test]
fn once_the_daemon_has_ended_it_does_not_go_on_for_ever() {
    let folder = Folder::new("ends");
    let (hook, runner, said) = begin(folder.program("sleep 600"), SHORT);
    (0..20).for_each(|_| hook.tell("tank", "/dev/x", &event(EventKind::Fail, None)));
    drop(hook);
    runner.join().expect("it ends");
    let said: Vec<String> = said.iter().collect();
    let last = said.last().expect("it says so");
    assert!(last.contains("was not run for its last"), "{said:?}");
    assert!(said.len() <= 4, "two were begun at most: {said:?}");
}

#[test]
fn what_does_not_fit_is_counted_and_said() {
    let folder = Folder::new("full");
    let (to, from) = pair().expect("a socket");
    let config = HookConfig { program: folder.program("echo $1 >>seen"), timeout: LONG };
    let said = std::cell::RefCell::new(Vec::new());
    let note = |text: &str| said.borrow_mut().push(text.to_owned());
    let mut runner = Runner::new(from, &config, note);
    let all = WAITING_MAX as u64 + 3;
    (0..all).for_each(|i| runner.take(told(i)));
    assert_eq!((runner.waiting.len(), runner.missed), (WAITING_MAX, 3));
    // Two more were lost on the way.
    runner.take(Told { missed: 2, ..told(0) });
    drop(to);
    runner.run();
    let said = said.into_inner();
    assert!(said.len() == 1 && said[0].contains("was not run for some events (6)"), "{said:?}");
    let expected: String = (0..WAITING_MAX).map(|i| format!("Note{i}\n")).collect();
    assert_eq!(folder.read("seen"), expected, "the oldest are run");
}

#[test]
fn a_program_that_fails_is_named_and_the_next_is_run() {
    let folder = Folder::new("fails");
    let text = "case $1 in Fail) exit 7 ;; Note) kill -USR1 $$ ;; *) echo $1 >>seen ;; esac";
    let program = folder.program(text);
    let (hook, runner, said) = begin(program.clone(), LONG);
    for kind in [EventKind::Fail, EventKind::Note, EventKind::Thawed] {
        hook.tell("tank", "/dev/x", &event(kind, None));
    }
    let said_of = |what: &str| {
        let text = said.recv().expect("said");
        assert!(text.contains(what) && text.contains(&*program.to_string_lossy()), "{text}");
    };
    said_of("Fail, ended with exit code 7");
    said_of("Note, was ended by signal 10");
    drop(hook);
    runner.join().expect("it ends");
    assert_eq!(folder.read("seen"), "Thawed\n");
    let (hook, runner, said) = begin(folder.0.join("none"), LONG);
    hook.tell("tank", "/dev/x", &event(EventKind::Fail, None));
    drop(hook);
    runner.join().expect("it ends");
    assert!(said.recv().expect("said").contains("could not be run for the event Fail"));
}

#[test]
fn the_daemon_waits_for_nobody() {
    let (to, from) = pair().expect("a socket");
    let hook = Hook { to, program: "/p".into(), missed: Cell::new(0), gone: Cell::new(false) };
    // Nobody reads: the socket is full some day.
    while hook.missed.get() < 5 {
        hook.tell("tank", "/dev/x", &event(EventKind::Note, None));
    }
    drop(from);
    hook.tell("tank", "/dev/x", &event(EventKind::Note, None));
    assert!(hook.gone.get(), "who is gone is told nothing more");
}

#[test]
fn what_is_no_program_is_refused_as_usage() {
    let folder = Folder::new("check");
    check(&folder.program("true")).expect("a program");
    let plain = folder.0.join("plain");
    std::fs::write(&plain, "#!/bin/sh\n").expect("written");
    for (path, why) in [
        (folder.0.join("none"), "No such file"),
        (folder.0.clone(), "is no file"),
        (plain, "may not be executed"),
    ] {
        let e = check(&path).expect_err("refused");
        assert_eq!(e.kind, ErrorKind::Usage);
        assert!(e.message.contains(why), "{}", e.message);
    }
}
