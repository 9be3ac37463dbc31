//! The server over memory, on a ring of its own, against a client that speaks raw bytes.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use evenkeel_journal::uring::{Engine, Remote, UringWorld};
use evenkeel_journal::{Buf, Slice, World};
use evenkeel_raid::{Extent, RequestError};

use super::protocol::{EINVAL, ENOSPC, EPERM};
use super::server::{MAX_CONNECTIONS, MAX_HAGGLING, NbdServer, Patience, ServerConfig};
use super::socket;
use crate::target::BlockTarget;

const SIZE: usize = 8 << 20;
const STRIPE: usize = 4096;
/// Who flushes after this was written has grown to twice the size.
const GROW: &[u8] = b"twice";

/// Memory that answers late, in an order of its own.
#[derive(Clone)]
struct Ram {
    world: UringWorld,
    bytes: Rc<RefCell<Vec<u8>>>,
}

impl Ram {
    async fn dawdle(&self) {
        if self.world.random().is_multiple_of(4) {
            self.world.sleep(Duration::from_micros(self.world.random() % 2000)).await;
        }
    }
}

impl BlockTarget for Ram {
    fn size_bytes(&self) -> u64 {
        self.bytes.borrow().len() as u64
    }

    async fn read(&self, at: u64, mut buf: Buf) -> (Result<(), RequestError>, Buf) {
        self.dawdle().await;
        let at = at as usize;
        if at == 13 {
            return (Err(RequestError::Io), buf);
        }
        let len = buf.len();
        buf.copy_from_slice(&self.bytes.borrow()[at..at + len]);
        (Ok(()), buf)
    }

    async fn write(&self, at: u64, data: Slice, _fua: bool) -> Result<(), RequestError> {
        self.dawdle().await;
        self.bytes.borrow_mut()[at as usize..at as usize + data.len()].copy_from_slice(&data);
        Ok(())
    }

    async fn flush(&self) -> Result<(), RequestError> {
        self.dawdle().await;
        if self.bytes.borrow().starts_with(GROW) {
            self.bytes.borrow_mut().resize(2 * SIZE, 0);
        }
        Ok(())
    }

    async fn discard(&self, at: u64, len: u64, _fua: bool) -> Result<(), RequestError> {
        self.bytes.borrow_mut()[at as usize..(at + len) as usize].fill(0);
        Ok(())
    }

    async fn write_zeroes(&self, at: u64, len: u64, fua: bool) -> Result<(), RequestError> {
        self.discard(at, len, fua).await
    }

    /// Holes by what is there: "stripes" of [`STRIPE`] bytes of zeros, few of them in one look.
    fn extents(&self, at: u64, len: u64, most: usize) -> Result<Vec<Extent>, RequestError> {
        assert!(len > 0 && most > 0 && at + len <= self.size_bytes());
        let stripe = STRIPE as u64;
        let mut list = Vec::new();
        for s in (at / stripe..(at + len).div_ceil(stripe)).take(300) {
            let (from, to) = (at.max(s * stripe), (at + len).min((s + 1) * stripe));
            let whole = &self.bytes.borrow()[(s * stripe) as usize..((s + 1) * stripe) as usize];
            let mapped = whole.iter().any(|b| *b != 0);
            Extent { bytes: to - from, mapped }.append_to(&mut list);
            if list.len() > most {
                list.pop();
                break;
            }
        }
        Ok(list)
    }
}

/// A server on a thread of its own; it is closed, and must end, when this is dropped.
struct Served {
    dir: PathBuf,
    remote: Remote,
    quit: mpsc::Sender<()>,
    thread: Option<JoinHandle<usize>>,
}

fn serve(name: &str, read_only: bool) -> Served {
    serve_with(name, read_only, Patience::default())
}

fn serve_with(name: &str, read_only: bool, patience: Patience) -> Served {
    let dir = std::env::temp_dir().join(format!("evenkeel-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (there, ready) = mpsc::channel();
    let (quit, quitting) = mpsc::channel();
    let run = dir.clone();
    let thread = std::thread::spawn(move || {
        let engine = Engine::new().unwrap();
        let world = engine.world(&run).unwrap();
        let target = Ram { world: world.clone(), bytes: Rc::new(RefCell::new(vec![0; SIZE])) };
        let listener = socket::listen(&run.join("nbd")).unwrap();
        let config = ServerConfig { name: "ram".into(), read_only, patience };
        let server =
            NbdServer::start(world.clone(), world.driver().clone(), listener, target, config);
        there.send(engine.executor().remote()).unwrap();
        engine.block_on(async {
            while quitting.try_recv().is_err() {
                world.sleep(Duration::from_millis(5)).await;
            }
            server.close(Duration::from_millis(300)).await;
        });
        server.connections()
    });
    Served { dir, remote: ready.recv().unwrap(), quit, thread: Some(thread) }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.quit.send(());
        self.remote.run(|_| {});
        let left = self.thread.take().map(|t| t.join().expect("the server ended well"));
        assert_eq!(left, Some(0), "all connections are closed");
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A client after the haggling.
struct Client(UnixStream);

impl Client {
    fn raw(dir: &Path) -> Client {
        let s = UnixStream::connect(dir.join("nbd")).unwrap();
        s.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Client(s)
    }

    fn connect(dir: &Path) -> Client {
        Client::connect_told(dir).0
    }

    /// A client, and the size that it was told.
    fn connect_told(dir: &Path) -> (Client, u64) {
        let mut c = Client::raw(dir);
        c.get(18);
        c.put(&3u32.to_be_bytes());
        c.option(7, &[0; 6]);
        let told: Vec<Vec<u8>> = (0..3)
            .map(|_| {
                let head = c.get(20);
                c.get(u32::from_be_bytes(head[16..].try_into().unwrap()) as usize)
            })
            .collect();
        (c, u64::from_be_bytes(told[0][2..10].try_into().unwrap()))
    }

    fn get(&mut self, len: usize) -> Vec<u8> {
        let mut b = vec![0; len];
        self.0.read_exact(&mut b).unwrap();
        b
    }

    fn put(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    fn option(&mut self, option: u32, data: &[u8]) {
        let mut b = b"IHAVEOPT".to_vec();
        b.extend_from_slice(&option.to_be_bytes());
        b.extend_from_slice(&(data.len() as u32).to_be_bytes());
        b.extend_from_slice(data);
        self.put(&b);
    }

    fn ask(&mut self, command: u16, cookie: u64, at: u64, len: u32, payload: &[u8]) {
        self.put(&request(command, cookie, at, len, payload));
    }

    fn reply(&mut self) -> (u64, u32) {
        let b = self.get(16);
        assert_eq!(b[..4], 0x6744_6698u32.to_be_bytes());
        let error = u32::from_be_bytes(b[4..8].try_into().unwrap());
        (u64::from_be_bytes(b[8..].try_into().unwrap()), error)
    }

    fn call(&mut self, command: u16, at: u64, len: u32, payload: &[u8]) -> Result<Vec<u8>, u32> {
        self.ask(command, 77, at, len, payload);
        match self.reply() {
            (77, 0) => Ok(self.get(if command == 0 { len as usize } else { 0 })),
            (77, error) => Err(error),
            other => panic!("{other:?}"),
        }
    }
}

fn request(command: u16, cookie: u64, at: u64, len: u32, payload: &[u8]) -> Vec<u8> {
    let mut b = 0x2560_9513u32.to_be_bytes().to_vec();
    b.extend_from_slice(&[0, 0]);
    b.extend_from_slice(&command.to_be_bytes());
    b.extend_from_slice(&cookie.to_be_bytes());
    b.extend_from_slice(&at.to_be_bytes());
    b.extend_from_slice(&len.to_be_bytes());
    b.extend_from_slice(payload);
    b
}

fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed | 1;
    let mut next = move || {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (x >> 33) as u8
    };
    std::iter::repeat_with(&mut next).take(len).collect()
}

#[test]
fn requests_go_well_and_refusals_leave_the_connection() {
    let served = serve("refusals", false);
    let mut c = Client::connect(&served.dir);
    let end = SIZE as u64;
    let big = pattern(1, 1 << 20);
    assert_eq!(c.call(1, 5, 1 << 20, &big), Ok(vec![]));
    assert_eq!(c.call(0, 5, 1 << 20, &[]), Ok(big.clone()));
    assert_eq!(c.call(1, end - 2, 3, b"abc"), Err(ENOSPC));
    assert_eq!(c.call(0, end - 2, 3, &[]), Err(EINVAL));
    let over = vec![1; (1 << 20) + 1];
    assert_eq!(c.call(1, 0, over.len() as u32, &over), Err(EINVAL));
    assert_eq!(c.call(0, 0, over.len() as u32, &[]), Err(EINVAL));
    assert_eq!(c.call(9, 0, 1, &[]), Err(EINVAL));
    assert_eq!(c.call(0, 13, 512, &[]), Err(5), "an error of the target, without data");
    assert_eq!(c.call(3, 0, 0, &[]), Ok(vec![]));
    assert_eq!(c.call(4, 100, 50, &[]), Ok(vec![]));
    assert_eq!(c.call(6, 0, SIZE as u32 - 6000, &[]), Ok(vec![]));
    assert_eq!(c.call(0, 5, 1 << 20, &[]), Ok(vec![0; 1 << 20]));
    c.ask(2, 0, 0, 0, &[]);
    assert_eq!(c.0.read(&mut [0]).unwrap(), 0, "closed, without a reply");

    // A payload that is too long to be read away ends the connection, and that one alone.
    let mut c = Client::connect(&served.dir);
    c.ask(1, 1, 0, u32::MAX, &[0; 4096]);
    assert!(c.0.read(&mut [0]).is_ok_and(|n| n == 0) || c.0.take_error().is_ok());
    assert_eq!(Client::connect(&served.dir).call(0, 0, 1, &[]), Ok(vec![0]));
}

#[test]
fn a_read_only_export_says_so() {
    let served = serve("read-only", true);
    let mut c = Client::connect(&served.dir);
    assert_eq!(c.call(1, 0, 3, b"abc"), Err(EPERM));
    assert_eq!(c.call(6, 0, 3, &[]), Err(EPERM));
    assert_eq!(c.call(0, 0, 3, &[]), Ok(vec![0; 3]));
}

#[test]
fn who_connects_after_the_device_has_grown_is_told_its_new_size() {
    let served = serve("grown", false);
    let (mut old, told) = Client::connect_told(&served.dir);
    let (before, after) = (SIZE as u64, 2 * SIZE as u64);
    assert_eq!(told, before);
    assert_eq!(old.call(1, before, 3, b"abc"), Err(ENOSPC));
    assert_eq!(old.call(1, 0, GROW.len() as u32, GROW), Ok(vec![]));
    assert_eq!(old.call(3, 0, 0, &[]), Ok(vec![]));
    let (mut new, told) = Client::connect_told(&served.dir);
    assert_eq!(told, after);
    assert_eq!(new.call(1, before, 3, b"abc"), Ok(vec![]));
    // Whoever was told less goes on; what lies in the device is not refused.
    assert_eq!(old.call(0, before, 3, &[]), Ok(b"abc".to_vec()));
    assert_eq!(old.call(1, after - 2, 3, b"abc"), Err(ENOSPC));
    assert_eq!(old.call(0, after - 2, 3, &[]), Err(EINVAL));
    assert_eq!(old.call(0, 0, 1, &[]), Ok(GROW[..1].to_vec()));
}

#[test]
fn many_requests_of_all_sizes_are_kept_apart() {
    let served = serve("many", false);
    let threads: Vec<_> = (0..3u64)
        .map(|t| {
            let dir = served.dir.clone();
            std::thread::spawn(move || {
                let mut c = Client::connect(&dir);
                let mut rest = c.0.try_clone().unwrap();
                let region = t * (2 << 20);
                // Written all at once, split anywhere, while the replies are read.
                let sizes = [1, 100, 4096, 5000, 65536, 100_000, 300_000, 4096, 4096, 70_000];
                let place = |i: u64| region + i * 150_000 % 1_500_000 / 4096 * 4096;
                for round in 0..20 {
                    let size = |i: u64| sizes[((i + round) % 10) as usize].min(140_000);
                    let mut out = Vec::new();
                    for i in 0..10 {
                        let data = pattern(i + round, size(i));
                        out.extend(request(1, i, place(i), data.len() as u32, &data));
                    }
                    let writer = std::thread::spawn({
                        let mut s = c.0.try_clone().unwrap();
                        move || {
                            for part in out.chunks(77_777) {
                                s.write_all(part).unwrap();
                            }
                        }
                    });
                    let mut seen: Vec<u64> = (0..10).map(|_| c.reply().0).collect();
                    writer.join().unwrap();
                    seen.sort_unstable();
                    assert_eq!(seen, (0..10).collect::<Vec<_>>());
                    for i in 0..10 {
                        c.ask(0, i, place(i), size(i) as u32, &[]);
                    }
                    for _ in 0..10 {
                        let (cookie, error) = c.reply();
                        assert_eq!(error, 0);
                        assert_eq!(c.get(size(cookie)), pattern(cookie + round, size(cookie)));
                    }
                }
                rest.write_all(&request(2, 0, 0, 0, &[])).unwrap();
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
}

#[test]
fn a_client_that_takes_no_replies_stalls_itself_alone() {
    let served = serve("stalled", false);
    let stalled: Vec<_> = (0..3)
        .map(|_| {
            let mut c = Client::connect(&served.dir);
            c.0.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
            let asks: Vec<u8> = (0..4000).flat_map(|i| request(0, i, 0, 1 << 20, &[])).collect();
            let _ = c.0.write_all(&asks);
            c
        })
        .collect();
    let mut c = Client::connect(&served.dir);
    for i in 0..100 {
        assert_eq!(c.call(1, i * 4096, 3, b"abc"), Ok(vec![]));
    }
    drop(served); // closes in spite of them
    drop(stalled);
}

#[test]
fn more_clients_than_are_served_wait_for_their_turn() {
    let served = serve("turns", false);
    let mut first: Vec<_> = (0..MAX_CONNECTIONS).map(|_| Client::connect(&served.dir)).collect();
    let mut late = Client::raw(&served.dir);
    late.0.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(late.0.read(&mut [0; 18]).is_err(), "not greeted yet");
    first.pop();
    late.0.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(late.get(8), b"NBDMAGIC");
    assert_eq!(first[0].call(0, 0, 1, &[]), Ok(vec![0]));
}

#[test]
fn garbage_ends_its_own_connection() {
    let served = serve("garbage", false);
    for seed in 0..200u64 {
        let mut c =
            if seed % 2 == 0 { Client::raw(&served.dir) } else { Client::connect(&served.dir) };
        let mut bytes = pattern(seed, (seed as usize * 37) % 3000);
        if seed % 3 == 0 && bytes.len() > 4 {
            bytes[..4].copy_from_slice(&0x2560_9513u32.to_be_bytes());
        }
        let _ = c.0.write_all(&bytes);
        let _ = c.0.shutdown(std::net::Shutdown::Write);
        let _ = c.0.read_to_end(&mut Vec::new());
    }
    assert_eq!(Client::connect(&served.dir).call(0, 0, 1, &[]), Ok(vec![0]));
}

#[test]
fn haggling_by_the_oldest_way() {
    let served = serve("oldest", false);
    let mut c = Client::raw(&served.dir);
    c.get(18);
    c.put(&1u32.to_be_bytes());
    c.option(99, &[]);
    assert_eq!(c.get(20)[12..16], (1u32 << 31 | 1).to_be_bytes());
    c.get(b"This server does not know the option.".len());
    c.option(3, &vec![0; 20_000]);
    assert_eq!(c.get(20)[12..16], (1u32 << 31 | 9).to_be_bytes());
    c.get(b"The option's data is longer than 16 KiB.".len());
    c.option(1, b"ram");
    assert_eq!(c.get(134)[..8], (SIZE as u64).to_be_bytes());
    assert_eq!(c.call(0, 0, 1, &[]), Ok(vec![0]));
}

/// A client that agreed on chunks.
struct Chunked {
    client: Client,
    extended: bool,
}

impl Chunked {
    fn connect(dir: &Path, extended: bool) -> Chunked {
        let mut client = Client::raw(dir);
        client.get(18);
        client.put(&3u32.to_be_bytes());
        let allocation = b"\0\0\0\0\0\0\0\x01\0\0\0\x0fbase:allocation";
        for (option, data, replies) in
            [(if extended { 11 } else { 8 }, &b""[..], 1), (10, allocation, 2), (7, &[0; 6], 3)]
        {
            client.option(option, data);
            for _ in 0..replies {
                let head = client.get(20);
                assert_eq!(head[12], 0, "no error");
                client.get(u32::from_be_bytes(head[16..].try_into().unwrap()) as usize);
            }
        }
        Chunked { client, extended }
    }

    fn ask(&mut self, flags: u16, command: u16, at: u64, len: u64) {
        let magic = if self.extended { 0x21e4_1c71u32 } else { 0x2560_9513 };
        let mut b = magic.to_be_bytes().to_vec();
        b.extend_from_slice(&flags.to_be_bytes());
        b.extend_from_slice(&command.to_be_bytes());
        b.extend_from_slice(&at.to_be_bytes()); // the cookie
        b.extend_from_slice(&at.to_be_bytes());
        if self.extended {
            b.extend_from_slice(&len.to_be_bytes());
        } else {
            b.extend_from_slice(&(len as u32).to_be_bytes());
        }
        self.client.put(&b);
    }

    /// The chunks of one reply: type and payload.
    fn reply(&mut self, at: u64) -> Vec<(u16, Vec<u8>)> {
        let mut list = Vec::new();
        loop {
            let head = self.client.get(if self.extended { 32 } else { 20 });
            let field = |i: usize| u64::from_be_bytes(head[i..i + 8].try_into().unwrap());
            assert_eq!(field(8), at, "the cookie");
            let len = if self.extended {
                field(24)
            } else {
                u64::from(u32::from_be_bytes(head[16..].try_into().unwrap()))
            };
            let kind = u16::from_be_bytes([head[6], head[7]]);
            list.push((kind, self.client.get(len as usize)));
            if head[5] == 1 {
                return list;
            }
        }
    }

    /// A read, put together: what it holds, and its chunks as (type, first byte, bytes).
    fn read(&mut self, flags: u16, at: u64, len: u64) -> (Vec<u8>, Vec<(u16, u64, u64)>) {
        self.ask(flags, 0, at, len);
        let mut content = Vec::new();
        let mut chunks = Vec::new();
        for (kind, data) in self.reply(at) {
            let from = u64::from_be_bytes(data[..8].try_into().unwrap());
            assert_eq!(from, at + content.len() as u64, "in order");
            let before = content.len();
            match kind {
                1 => content.extend_from_slice(&data[8..]),
                2 => {
                    let n = u32::from_be_bytes(data[8..].try_into().unwrap());
                    content.resize(before + n as usize, 0);
                }
                other => panic!("type {other}"),
            }
            chunks.push((kind, from, (content.len() - before) as u64));
        }
        (content, chunks)
    }

    /// A block status: (bytes, state).
    fn status(&mut self, flags: u16, at: u64, len: u64) -> Vec<(u64, u64)> {
        self.ask(flags, 7, at, len);
        let reply = self.reply(at);
        assert_eq!((reply.len(), reply[0].0), (1, if self.extended { 6 } else { 5 }));
        let (skip, width) = if self.extended { (8, 8) } else { (4, 4) };
        let numbers: Vec<u64> = reply[0].1[skip..]
            .chunks_exact(width)
            .map(|c| c.iter().fold(0, |n, b| n << 8 | u64::from(*b)))
            .collect();
        numbers.chunks_exact(2).map(|p| (p[0], p[1])).collect()
    }
}

#[test]
fn holes_are_told_and_not_sent() {
    let served = serve("holes", false);
    let stripe = STRIPE as u64;
    let mut plain = Client::connect(&served.dir);
    for s in [1, 2, 5] {
        assert_eq!(plain.call(1, s * stripe, STRIPE as u32, &[s as u8; STRIPE]), Ok(vec![]));
    }
    // Every second one of these: too many chunks for one reply.
    for s in (100..140).step_by(2) {
        assert_eq!(plain.call(1, s * stripe, 3, b"abc"), Ok(vec![]));
    }
    let size = SIZE as u64;
    for extended in [false, true] {
        let mut c = Chunked::connect(&served.dir, extended);
        for (at, len) in
            [(0, 8 * stripe), (1, 3), (stripe - 1, 2), (5, 6 * stripe), (3 * stripe, 99)]
        {
            let (content, chunks) = c.read(0, at, len);
            assert_eq!(plain.call(0, at, len as u32, &[]), Ok(content));
            let told: Vec<_> = chunks.iter().map(|k| (k.2, if k.0 == 1 { 0 } else { 3 })).collect();
            assert_eq!(c.status(0, at, len), told);
            assert_eq!(c.status(1 << 3, at, len), told[..1]);
            let (content, chunks) = c.read(1 << 2, at, len);
            assert_eq!(plain.call(0, at, len as u32, &[]), Ok(content));
            assert_eq!(chunks.len(), 1);
        }
        let (content, chunks) = c.read(0, 0, 8 * stripe);
        assert_eq!(chunks.iter().map(|k| k.0).collect::<Vec<_>>(), [2, 1, 2, 1, 2]);
        assert_eq!(content.len() as u64, 8 * stripe);
        let (_, chunks) = c.read(0, 90 * stripe, 60 * stripe);
        assert_eq!(chunks, [(1, 90 * stripe, 60 * stripe)]);
        assert_eq!(c.status(0, 90 * stripe, 60 * stripe).len(), 41);
        // Several looks make one answer.
        let all = c.status(0, 0, size);
        assert_eq!(all.iter().map(|e| e.0).sum::<u64>(), size);
        assert_eq!(all.last(), Some(&(size - 139 * stripe, 3)));
        assert_eq!(c.status(1 << 3, 139 * stripe, size - 139 * stripe), [(size - 139 * stripe, 3)]);
        // An error is a sentence, and no content.
        c.ask(1 << 2, 0, 13, 4096 * 2);
        let failed = c.reply(13);
        assert_eq!((failed.len(), failed[0].0), (1, 1 << 15 | 1));
        assert_eq!(failed[0].1[..4], 5u32.to_be_bytes());
        assert!(failed[0].1[6..].ends_with(b"."));
    }
}

fn hasty(crowded: u64, stuck: u64) -> Patience {
    let ms = Duration::from_millis;
    Patience { haggle: Duration::from_secs(3600), crowded: ms(crowded), stuck: ms(stuck) }
}

/// Whether the server has ended the connection, or does so while this waits.
fn is_ended(c: &mut Client) -> bool {
    let mut rest = Vec::new();
    match c.0.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(e) => e.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

#[test]
fn who_never_chooses_an_export_has_to_go() {
    let patience = Patience { haggle: Duration::from_millis(200), ..hasty(3_600_000, 3_600_000) };
    let served = serve_with("silent", false, patience);
    let mut silent = Client::raw(&served.dir);
    let mut half = Client::raw(&served.dir);
    half.put(&[0, 0]);
    let mut chosen = Client::connect(&served.dir);
    assert!(is_ended(&mut silent) && is_ended(&mut half));
    assert_eq!(chosen.call(0, 0, 1, &[]), Ok(vec![0]), "after that time, too");
}

#[test]
fn a_crowd_that_says_nothing_keeps_nobody_out() {
    let served = serve_with("crowd", false, hasty(50, 3_600_000));
    let crowd: Vec<Client> = (0..2 * MAX_HAGGLING).map(|_| Client::raw(&served.dir)).collect();
    assert_eq!(Client::connect(&served.dir).call(0, 0, 1, &[]), Ok(vec![0]));
    drop(crowd);
}

#[test]
fn who_is_stuck_makes_room_for_who_waits() {
    let served = serve_with("stuck", false, hasty(3_600_000, 300));
    let mut all: Vec<Client> = (0..MAX_CONNECTIONS).map(|_| Client::connect(&served.dir)).collect();
    // One in the middle of a header, one of a payload, one takes no replies. The others are silent,
    // but between two requests.
    all[3].put(&request(0, 0, 0, 1, &[])[..5]);
    all[7].put(&request(1, 0, 0, 1 << 20, &[1; 1000]));
    all[9].0.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let asks: Vec<u8> = (0..4000).flat_map(|i| request(0, i, 0, 1 << 20, &[])).collect();
    let _ = all[9].0.write_all(&asks);
    let mut late: Vec<Client> = (0..3).map(|_| Client::connect(&served.dir)).collect();
    for c in &mut late {
        assert_eq!(c.call(0, 4096, 1, &[]), Ok(vec![0]));
    }
    for i in [3, 7, 9] {
        assert!(is_ended(&mut all[i]), "client {i}");
    }
    for (i, c) in all.iter_mut().enumerate().filter(|(i, _)| ![3, 7, 9].contains(i)) {
        assert_eq!(c.call(0, 4096, 1, &[]), Ok(vec![0]), "client {i}");
    }
}
