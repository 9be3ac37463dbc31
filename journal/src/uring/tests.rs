//! On a real kernel, with files in the temporary directory and in /dev/shm.

use std::cell::RefCell;
use std::fs::{self, OpenOptions};
use std::future::Future;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use super::disk::is_held;
use super::{Access, Engine, ShmRing, UringDisk, shm_ring};
use crate::disk::{Disk, DiskError};
use crate::mem::{Buf, Slice};
use crate::sync::join_all;
use crate::world::{RingMem, World};

/// A folder that goes away with the test.
struct Temp(PathBuf);

impl Temp {
    fn new() -> Temp {
        static N: AtomicU32 = AtomicU32::new(0);
        let n = N.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("evenkeel-uring-{}-{n}", std::process::id()));
        fs::create_dir_all(&dir).expect("a temporary folder");
        Temp(dir)
    }

    fn file(&self, name: &str, bytes: u64) -> PathBuf {
        let path = self.0.join(name);
        fs::File::create(&path).and_then(|f| f.set_len(bytes)).expect("a file");
        path
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn engine() -> Engine {
    Engine::new().expect("a ring")
}

fn filled(len: usize, seed: u8) -> Slice {
    let mut b = Buf::new(len);
    for (i, x) in b.iter_mut().enumerate() {
        *x = (i as u8).wrapping_mul(31).wrapping_add((i >> 8) as u8).wrapping_add(seed);
    }
    b.freeze()
}

fn poll_once<F: Future + ?Sized>(f: Pin<&mut F>) {
    assert!(f.poll(&mut Context::from_waker(Waker::noop())).is_pending());
}

#[test]
fn what_is_written_is_read_flushed_and_discarded() {
    let (e, t) = (engine(), Temp::new());
    let path = t.file("a", 64 << 20);
    let d = UringDisk::open(e.driver(), &path, Access::ReadWrite).expect("opens");
    assert_eq!((d.facts().bytes, d.facts().is_file), (64 << 20, true));
    e.block_on(async {
        let (a, b) = (filled(1 << 20, 1), filled(8192, 2));
        // Pieces that touch, pieces that do not, and an empty one.
        let segs =
            vec![a.part(0, 4096), a.part(4096, 8192), b.clone(), a.part(0, 0), a.part(4096, 4096)];
        assert_eq!(d.write(4096, segs).await, Ok(()));
        assert_eq!(d.flush().await, Ok(()));
        let (r, buf) = d.read(4096, Buf::new(12288 + 8192 + 4096)).await;
        assert_eq!(r, Ok(()));
        assert!(buf[..12288] == a[..12288] && buf[12288..20480] == b[..]);
        assert!(buf[20480..] == a[4096..8192]);
        match d.discard(4096, 8192).await {
            Ok(()) => {
                let (r, buf) = d.read(4096, Buf::new(12288)).await;
                assert_eq!(r, Ok(()));
                assert!(buf[..8192].iter().all(|x| *x == 0) && buf[8192..] == a[8192..12288]);
            }
            other => assert_eq!(other, Err(DiskError::Unsupported)),
        }
        // More pieces than one operation takes; memory that direct I/O cannot use.
        let many: Vec<Slice> = (0..3000).map(|i| filled(4096, i as u8)).collect();
        assert_eq!(d.write(1 << 20, many.clone()).await, Ok(()));
        let (r, buf) = d.read(1 << 20, Buf::new(3000 * 4096)).await;
        assert_eq!(r, Ok(()));
        assert!(buf.chunks(4096).zip(&many).all(|(x, y)| *x == y[..]));
        let odd = filled(8200, 9);
        assert_eq!(d.write(0, vec![odd.part(3, 1000), odd.part(1003, 3096)]).await, Ok(()));
        let (r, buf) = d.read(0, Buf::new(4096)).await;
        assert!(r == Ok(()) && buf[..] == odd[3..4099]);
    });
    assert_eq!(e.driver().inflight(), 1, "the eventfd's read alone");
}

#[test]
fn a_disk_is_opened_again() {
    let (e, t) = (engine(), Temp::new());
    let world = e.world(&t.0.join("run")).expect("a run directory");
    let path = t.file("a", 1 << 20);
    let d = UringDisk::open(e.driver(), &path, Access::ReadWrite).expect("opens");
    e.block_on(async {
        let same = world.reopen(&d).await.expect("it is there");
        assert_eq!(same.id(), d.id());
        assert_eq!(same.write(0, vec![filled(4096, 1)]).await, Ok(()));
        // Another file under the path, which is locked then.
        fs::rename(&path, t.0.join("b")).expect("renamed");
        assert!(world.reopen(&d).await.is_none());
        t.file("a", 2 << 20);
        let other = world.reopen(&d).await.expect("it is there");
        assert_ne!(other.id(), d.id());
        assert_eq!(other.facts().bytes, 2 << 20);
        assert!(UringDisk::open(e.driver(), &path, Access::ReadWrite).is_err_and(|e| is_held(&e)));
        let links = t.0.join("links");
        fs::create_dir(&links).expect("a folder");
        std::os::unix::fs::symlink(&path, links.join("one")).expect("a link");
        std::os::unix::fs::symlink(t.0.join("b"), links.join("two")).expect("a link");
        assert_eq!(super::disk::links_to(&links, &path), [links.join("one")]);
        // What somebody else holds is not to be had; a file that was cut is not the same.
        assert!(world.reopen(&d).await.is_none());
        OpenOptions::new().write(true).open(&path).and_then(|f| f.set_len(1 << 20)).expect("cut");
        assert!(world.reopen(&other).await.is_none());
    });
}

#[test]
fn a_file_that_became_larger_is_measured_anew() {
    let (e, t) = (engine(), Temp::new());
    let path = t.file("a", 1 << 20);
    let d = UringDisk::open(e.driver(), &path, Access::ReadWrite).expect("opens");
    let resize = |bytes| {
        OpenOptions::new().write(true).open(&path).and_then(|f| f.set_len(bytes)).expect("resized");
    };
    e.block_on(async {
        resize((2 << 20) + 100);
        assert_eq!(d.facts().bytes, 1 << 20);
        assert_eq!(d.measure().await, Ok(()));
        assert_eq!(d.facts().bytes, 2 << 20, "whole blocks");
        assert_eq!(d.write((2 << 20) - 4096, vec![filled(4096, 1)]).await, Ok(()));
        // From now on all of it is needed.
        resize((2 << 20) - 4096);
        assert_eq!(d.measure().await, Err(DiskError::Gone));
        assert_eq!(d.facts().bytes, 2 << 20);
        assert_eq!(d.write(0, vec![filled(4096, 1)]).await, Err(DiskError::Gone));
    });
    assert_eq!(e.driver().inflight(), 1, "the eventfd's read alone");
}

#[test]
fn to_open_what_hangs_stops_nobody() {
    let (e, t) = (engine(), Temp::new());
    let fifo = t.0.join("fifo");
    let name = std::ffi::CString::new(fifo.to_str().expect("a name")).expect("a name");
    // SAFETY: a path that ends with zero.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    e.block_on(async {
        // A pipe without a reader: to open it waits for ever.
        let path = fifo.clone();
        let open = super::open::aside(e.driver().clone(), move || {
            OpenOptions::new().write(true).open(path).is_ok()
        });
        let limit = e.driver().sleep(Duration::from_millis(30));
        assert_eq!(crate::sync::within(limit, open).await, None);
        let path = t.file("a", 1 << 20);
        let opened = UringDisk::open_aside(e.driver(), &path, Access::ReadWrite).await;
        assert!(opened.is_ok());
        let again = UringDisk::open_aside(e.driver(), &path, Access::ReadWrite).await;
        assert!(again.is_err_and(|e| is_held(&e)));
    });
    // Lets the thread end.
    drop(OpenOptions::new().read(true).open(&fifo));
}

#[test]
fn a_disk_in_use_is_refused_and_told_apart() {
    let (e, t) = (engine(), Temp::new());
    let path = t.file("a", 1 << 20);
    let open = |access| UringDisk::open(e.driver(), &path, access);
    let held = open(Access::ReadWrite).expect("free");
    for access in [Access::ReadWrite, Access::ReadOnly] {
        assert!(open(access).is_err_and(|e| is_held(&e)));
    }
    assert_eq!(open(Access::Look).expect("looking needs no lock").id(), held.id());
    drop(held);
    let one = open(Access::ReadOnly).expect("free again");
    let two = open(Access::ReadOnly).expect("readers share");
    assert!(open(Access::ReadWrite).is_err_and(|e| is_held(&e)));
    let write = one.write(0, vec![filled(4096, 0)]);
    assert_eq!(e.block_on(write), Err(DiskError::Io(libc::EBADF)));
    drop((one, two));
    let missing = UringDisk::open(e.driver(), &t.0.join("none"), Access::ReadWrite);
    assert!(missing.is_err_and(|e| !is_held(&e)));
    assert!(UringDisk::open(e.driver(), &t.0, Access::ReadWrite).is_err());
}

#[test]
fn the_lock_outlives_the_handle_while_an_operation_is_in_flight() {
    let (e, t) = (engine(), Temp::new());
    let path = t.file("a", 1 << 20);
    let d = UringDisk::open(e.driver(), &path, Access::ReadWrite).expect("free");
    e.block_on(e.driver().sleep(Duration::from_millis(1))); // the eventfd's read is under way
    drop(d.write(0, vec![filled(4096, 3)]));
    drop(d);
    let again = || UringDisk::open(e.driver(), &path, Access::ReadWrite);
    assert!(again().is_err_and(|e| is_held(&e)));
    while e.driver().inflight() > 1 {
        e.turn(true);
    }
    let d = again().expect("the write has ended");
    let (r, buf) = e.block_on(d.read(0, Buf::new(4096)));
    assert!(r == Ok(()) && buf[..] == filled(4096, 3)[..], "and it was carried out");
}

#[test]
fn a_truncated_file_is_gone() {
    let (e, t) = (engine(), Temp::new());
    let path = t.file("a", 1 << 20);
    let d = UringDisk::open(e.driver(), &path, Access::ReadWrite).expect("free");
    OpenOptions::new().write(true).open(&path).and_then(|f| f.set_len(6000)).expect("cut");
    e.block_on(async {
        assert_eq!(d.read(512 << 10, Buf::new(4096)).await.0, Err(DiskError::Gone));
        assert_eq!(d.read(0, Buf::new(8192)).await.0, Err(DiskError::Gone));
        assert_eq!(d.read(0, Buf::new(4096)).await.0, Ok(()));
        // A write would make it long again, with zeros before it.
        assert_eq!(d.write(512 << 10, vec![filled(4096, 1)]).await, Err(DiskError::Gone));
        assert_eq!(d.write(0, vec![filled(4096, 1)]).await, Err(DiskError::Gone));
    });
    assert_eq!(fs::metadata(&path).expect("still there").len(), 6000);
    // A longer one is no shorter, whatever its new end is for.
    OpenOptions::new().write(true).open(&path).and_then(|f| f.set_len(2 << 20)).expect("longer");
    assert_eq!(e.block_on(d.write(0, vec![filled(4096, 1)])), Ok(()));
}

#[test]
fn dropped_futures_keep_their_memory_until_the_completion() {
    struct Told(Rc<RefCell<u32>>);
    impl Drop for Told {
        fn drop(&mut self) {
            *self.0.borrow_mut() += 1;
        }
    }
    let e = engine();
    let freed = Rc::new(RefCell::new(0));
    let spec = Box::new(io_uring::types::Timespec::new().nsec(20_000_000));
    let entry = io_uring::opcode::Timeout::new(&raw const *spec).build();
    // SAFETY: the time lies in the box that is kept.
    let mut op = Box::pin(unsafe { e.driver().submit(entry, (spec, Told(Rc::clone(&freed)))) });
    poll_once(op.as_mut());
    drop(op);
    assert_eq!(*freed.borrow(), 0);
    let w = e.driver().sleep(Duration::from_millis(60));
    e.block_on(w);
    assert_eq!(*freed.borrow(), 1);
}

#[test]
fn timers_end_in_order_and_dropped_ones_go() {
    let e = engine();
    let t = Temp::new();
    let world = e.world(&t.0).expect("a run directory");
    let order = Rc::new(RefCell::new(Vec::new()));
    let start = world.now();
    for ms in [30u64, 10, 20] {
        let (w, order) = (world.clone(), Rc::clone(&order));
        world.spawn("sleeper", async move {
            w.sleep(Duration::from_millis(ms)).await;
            order.borrow_mut().push(ms);
        });
    }
    drop(world.sleep(Duration::from_secs(3600)));
    e.block_on(world.sleep(Duration::from_millis(50)));
    assert_eq!(*order.borrow(), [10, 20, 30]);
    assert!(world.now() - start >= Duration::from_millis(50));
    assert_eq!(e.driver().inflight(), 1, "the eventfd's read alone");
}

#[test]
fn another_thread_hands_in_work_and_wakes_tasks() {
    let e = engine();
    let remote = e.executor().remote();
    let (tx, rx) = std::sync::mpsc::channel();
    let shared = std::sync::Arc::new(std::sync::Mutex::new((0u32, None::<Waker>)));
    let for_job = std::sync::Arc::clone(&shared);
    let here = std::thread::current().id();
    let thread = std::thread::spawn(move || {
        remote.run(move |executor| {
            assert_eq!(std::thread::current().id(), here);
            executor.spawn(async move { tx.send(()).expect("the test listens") });
        });
        rx.recv().expect("the task ran");
        // A waker taken from a task here, used there.
        let mut s = for_job.lock().expect("unpoisoned");
        s.0 = 1;
        s.1.take().expect("the future was polled").wake();
    });
    e.block_on(std::future::poll_fn(|cx| {
        let mut s = shared.lock().expect("unpoisoned");
        s.1 = Some(cx.waker().clone());
        if s.0 == 1 { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    }));
    thread.join().expect("no panic");
}

#[test]
fn more_operations_than_the_queue_holds_go_through_in_order() {
    let (e, t) = (engine(), Temp::new());
    let d = UringDisk::open(e.driver(), &t.file("a", 64 << 20), Access::ReadWrite).expect("free");
    e.block_on(async {
        let writes = (0..6000u64).map(|i| d.write(i * 4096, vec![filled(4096, i as u8)]));
        assert!(join_all(writes.collect()).await.iter().all(Result::is_ok));
        let (r, buf) = d.read(0, Buf::new(6000 * 4096)).await;
        assert_eq!(r, Ok(()));
        for (i, b) in buf.chunks(4096).enumerate() {
            assert!(*b == filled(4096, i as u8)[..]);
        }
    });
}

#[test]
fn a_ring_survives_its_mapping_and_is_held_by_one() {
    let (e, t) = (engine(), Temp::new());
    let world = e.world(&t.0).expect("a run directory");
    let dir = shm_ring::directory(world.identity().run_dir);
    let id = u128::from(world.random()) << 64 | u128::from(world.random());
    assert!(world.open_ring(id).expect("no error").is_none());
    let ring = world.create_ring(id, 1 << 20).expect("memory");
    assert!(world.create_ring(id, 1 << 20).is_err(), "the name is taken");
    ring.store(4096, &filled(4096, 5));
    ring.store_u64(8, 42);
    assert!(world.open_ring(id).is_err(), "held");
    // Written to a member straight from the ring, by a fixed buffer where the kernel allows.
    let d = UringDisk::open(e.driver(), &t.file("a", 1 << 20), Access::ReadWrite).expect("free");
    assert_eq!(e.block_on(d.write(0, vec![ring.slice(4096, 4096)])), Ok(()));
    let (r, buf) = e.block_on(d.read(0, Buf::new(4096)));
    assert!(r == Ok(()) && buf[..] == filled(4096, 5)[..]);
    let slice = ring.slice(4096, 4096);
    drop(ring);
    assert!(slice[..] == filled(4096, 5)[..], "a slice keeps the mapping");
    drop(slice);
    let ring: ShmRing = world.open_ring(id).expect("free").expect("still there");
    assert_eq!((ring.bytes(), ring.load_u64(8)), (1 << 20, 42));
    assert!(ring.slice(4096, 4096)[..] == filled(4096, 5)[..]);
    drop(ring);
    world.remove_ring(id).expect("removed");
    world.remove_ring(id).expect("no error twice");
    assert!(world.open_ring(id).expect("no error").is_none());
    assert!(!dir.exists(), "the folder goes with its last ring");
}

#[test]
fn rings_that_nobody_holds_are_swept() {
    use crate::ring::{Ring, ring_bytes};
    let (e, t) = (engine(), Temp::new());
    let world = e.world(&t.0).expect("a run directory");
    let make = |id| world.create_ring(id, ring_bytes(16)).expect("memory");
    let held = Ring::format(make(1), 7, 1, 1, 16);
    drop(Ring::format(make(2), 7, 2, 1, 16));
    drop(Ring::format(make(3), 8, 3, 1, 16));
    drop(make(4));
    world.sweep_rings(7);
    let is_there = |id| world.open_ring(id).is_err() || world.open_ring(id).unwrap().is_some();
    assert_eq!([1, 2, 3, 4].map(is_there), [true, false, true, false]);
    drop(held);
    for id in [1, 3] {
        world.remove_ring(id).expect("removed");
    }
}

#[test]
fn a_run_directory_keeps_its_identity() {
    let (e, t) = (engine(), Temp::new());
    let a = e.world(&t.0).expect("made").identity();
    assert_eq!(a, e.world(&t.0).expect("read").identity());
    assert!(a.boot != 0 && a.run_dir != 0);
    assert_ne!(a.run_dir, e.world(&t.0.join("sub")).expect("made").identity().run_dir);
    fs::write(t.0.join("identity"), "no number").expect("written");
    assert!(e.world(&t.0).is_err());
}

#[test]
fn sockets_receive_send_and_end() {
    let (e, t) = (engine(), Temp::new());
    let path = t.0.join("socket");
    let listener = Rc::new(OwnedFd::from(UnixListener::bind(&path).expect("bound")));
    let peer = std::thread::spawn(move || {
        use std::io::Read;
        let mut s = UnixStream::connect(path).expect("connected");
        s.write_all(b"hello").expect("sent");
        let mut all = vec![0; 3 << 20];
        s.read_exact(&mut all).expect("received");
        s.write_all(&all[..10]).expect("sent");
        all
    });
    let a = filled(1 << 20, 1);
    e.block_on(async {
        let d = e.driver();
        let s = Rc::new(d.accept(&listener).await.expect("a connection"));
        let (r, buf) = d.recv_all(&s, Buf::new(5), 0).await;
        assert!(r.is_ok() && &buf[..] == b"hello");
        let sent = d.send_all(&s, vec![a.clone(), a.part(0, 0), a.clone(), a.clone()]).await;
        assert!(sent.is_ok());
        let (r, buf) = d.recv_all(&s, Buf::new(16), 0).await;
        assert_eq!(r.expect_err("it hung up").kind(), std::io::ErrorKind::UnexpectedEof);
        assert!(buf[..10] == a[..10]);
    });
    let all = peer.join().expect("no panic");
    assert!(all.chunks(1 << 20).all(|c| *c == a[..]));
}

#[test]
fn the_file_table_can_be_lent_and_taken_back() {
    let (e, t) = (engine(), Temp::new());
    let d = UringDisk::open(e.driver(), &t.file("a", 1 << 20), Access::ReadWrite).expect("free");
    let write = |seed| d.write(0, vec![filled(4096, seed)]);
    let early = write(1);
    e.driver().suspend_files();
    let others = e.driver().with_ring(|r| r.submitter().register_files(&[0]));
    others.expect("the table is free");
    let between = write(2);
    assert!(e.driver().resume_files(Some(0)));
    let late = write(3);
    e.block_on(async {
        assert_eq!((early.await, between.await, late.await), (Ok(()), Ok(()), Ok(())));
    });
}
