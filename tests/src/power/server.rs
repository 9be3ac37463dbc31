//! All disks of a machine, served over NBD by this one process, so that a cut is one instant for
//! all of them.
//!
//! Each connection has a thread that reads requests and numbers them as they arrive, and one that
//! carries them out, in random order as far as several wait, and answers. The exports are `disk0`,
//! `disk1` and so on.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, RwLock};
use std::thread;

use super::disk::{Asked, Choice, Disk, Fate};
use crate::rng::{Rng, hash};

const FLAGS: u16 = 0b1_0110_1101; // flags, flush, FUA, trim, zeros, several connections
const FUA: u16 = 1;
const LONGEST: u32 = 32 << 20;
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const REQUEST: u32 = 0x2560_9513;
const REPLY: u32 = 0x6744_6698;
const EIO: u32 = 5;
const EINVAL: u32 = 22;

/// A disk, and how many requests for it have arrived.
struct Port {
    disk: Mutex<Disk>,
    arrived: AtomicU64,
}

/// What is known after a cut of each disk.
pub type Report = Vec<(Asked, Fate)>;

/// The disks of a machine.
pub struct Server {
    ports: Vec<Port>,
    seed: u64,
    choice: Choice,
    /// The report, once the power is cut. Whoever carries out a request holds it for reading.
    cut: RwLock<Option<Report>>,
    /// Changes and flushes until the cut; below 0 there is none to come.
    countdown: AtomicI64,
    /// Volatile changes of all disks, and with how many the cut comes.
    volatile: AtomicI64,
    enough: AtomicI64,
    connections: AtomicU64,
}

/// A request that has arrived.
struct Request {
    number: u64,
    flags: u16,
    kind: u16,
    cookie: u64,
    offset: u64,
    len: u32,
    data: Vec<u8>,
}

impl Server {
    /// A machine with these disks.
    #[must_use]
    pub fn new(disks: Vec<Disk>, seed: u64, choice: Choice) -> Arc<Server> {
        let port = |disk| Port { disk: Mutex::new(disk), arrived: AtomicU64::new(0) };
        Arc::new(Server {
            ports: disks.into_iter().map(port).collect(),
            seed,
            choice,
            cut: RwLock::new(None),
            countdown: AtomicI64::new(-1),
            volatile: AtomicI64::new(0),
            enough: AtomicI64::new(i64::MAX),
            connections: AtomicU64::new(0),
        })
    }

    /// Serves whoever comes, for ever.
    pub fn listen(self: &Arc<Server>, listener: UnixListener) {
        let server = Arc::clone(self);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                server.connect(stream);
            }
        });
    }

    /// Serves this client.
    pub fn connect(self: &Arc<Server>, stream: UnixStream) {
        let server = Arc::clone(self);
        thread::spawn(move || {
            // A client that leaves or talks nonsense is gone; the disks stay.
            let _ = server.serve(stream);
        });
    }

    /// All disks lie from now on.
    pub fn lie(&self) {
        for port in &self.ports {
            port.disk.lock().expect("no thread dies with it").lie();
        }
    }

    /// The power is cut after so many further changes and flushes.
    pub fn cut_after(&self, requests: u64) {
        self.countdown.store(requests as i64, Ordering::SeqCst);
    }

    /// The power is cut as soon as so many changes could be lost.
    pub fn cut_at(&self, volatile: u64) {
        self.enough.store(volatile as i64, Ordering::SeqCst);
    }

    /// The power is cut now: no request is carried out or answered any more, and the media get
    /// what the choice leaves.
    ///
    /// # Errors
    /// Of the media.
    ///
    /// # Panics
    /// If a thread did.
    pub fn cut(&self) -> io::Result<()> {
        let mut cut = self.cut.write().expect("no thread dies with it");
        if cut.is_some() {
            return Ok(());
        }
        let mut report = Report::new();
        for (index, port) in self.ports.iter().enumerate() {
            let mut disk = port.disk.lock().expect("no thread dies with it");
            let mut rng = Rng::new(hash(&[self.seed, index as u64]));
            report.push((disk.asked(), disk.cut(self.choice, &mut rng)?));
        }
        *cut = Some(report);
        Ok(())
    }

    /// What the cut did, if there was one.
    ///
    /// # Panics
    /// If a thread did.
    #[must_use]
    pub fn report(&self) -> Option<Report> {
        self.cut.read().expect("no thread dies with it").clone()
    }

    /// The machine is switched off in order.
    ///
    /// # Errors
    /// Of the media.
    ///
    /// # Panics
    /// If a thread did.
    pub fn close(&self) -> io::Result<()> {
        let cut = self.cut.write().expect("no thread dies with it");
        if cut.is_some() {
            return Ok(());
        }
        self.ports.iter().try_for_each(|p| p.disk.lock().expect("no thread dies with it").close())
    }

    // --- one client ----------------------------------------------------------------------------

    fn serve(self: Arc<Server>, mut stream: UnixStream) -> io::Result<()> {
        let Some(index) = self.haggle(&mut stream)? else { return Ok(()) };
        let (sender, requests) = channel();
        let worker = {
            let (server, stream) = (Arc::clone(&self), stream.try_clone()?);
            thread::spawn(move || server.work(index, &requests, stream))
        };
        let port = &self.ports[index];
        loop {
            let mut header = [0; 28];
            if stream.read_exact(&mut header).is_err() || be(&header[..4]) as u32 != REQUEST {
                break;
            }
            let mut request = Request {
                number: 0,
                flags: be(&header[4..6]) as u16,
                kind: be(&header[6..8]) as u16,
                cookie: be(&header[8..16]),
                offset: be(&header[16..24]),
                len: be(&header[24..]) as u32,
                data: Vec::new(),
            };
            if request.kind == 1 {
                if request.len > LONGEST {
                    break;
                }
                request.data = vec![0; request.len as usize];
                if stream.read_exact(&mut request.data).is_err() {
                    break;
                }
            }
            request.number = port.arrived.fetch_add(1, Ordering::SeqCst) + 1;
            if request.kind == 2 || sender.send(request).is_err() {
                break;
            }
        }
        drop(sender);
        let _ = worker.join();
        Ok(())
    }

    /// Carries out what arrives, until the client is gone or the power is.
    fn work(&self, index: usize, requests: &Receiver<Request>, mut stream: UnixStream) {
        let connection = self.connections.fetch_add(1, Ordering::SeqCst);
        let mut rng = Rng::new(hash(&[self.seed, 1 << 32, connection]));
        let mut waiting: Vec<Request> = Vec::new();
        loop {
            if waiting.is_empty() {
                let Ok(request) = requests.recv() else { return };
                waiting.push(request);
            }
            waiting.extend(requests.try_iter());
            let request = waiting.swap_remove(rng.index(waiting.len()));
            let answer = match self.carry_out(index, request) {
                Some(answer) => answer,
                // Nothing comes from a machine without power, not even the end of a connection.
                None => loop {
                    thread::park();
                },
            };
            if stream.write_all(&answer).is_err() {
                return;
            }
        }
    }

    /// The answer; none after the cut.
    fn carry_out(&self, index: usize, request: Request) -> Option<Vec<u8>> {
        let enough = self.volatile.load(Ordering::SeqCst) >= self.enough.load(Ordering::SeqCst);
        if enough || request.kind != 0 && self.countdown.fetch_sub(1, Ordering::SeqCst) == 0 {
            self.cut().expect("the media can be written");
        }
        let cut = self.cut.read().expect("no thread dies with it");
        if cut.is_some() {
            return None;
        }
        let port = &self.ports[index];
        let mut disk = port.disk.lock().expect("no thread dies with it");
        let (fua, len) = (request.flags & FUA != 0, u64::from(request.len));
        let before = disk.volatile();
        let mut read = Vec::new();
        let done = match request.kind {
            _ if !disk.has(request.offset, len) => Err(EINVAL),
            0 if request.len <= LONGEST => {
                read = vec![0; request.len as usize];
                disk.read(request.offset, &mut read).map(|()| None).map_err(|_| EIO)
            }
            1 => disk.write(request.offset, request.data, fua).map(Some).map_err(|_| EIO),
            3 => disk.flush(request.number).map(|()| None).map_err(|_| EIO),
            4 | 6 => disk.zero(request.offset, len, fua).map(Some).map_err(|_| EIO),
            _ => Err(EINVAL),
        };
        if let Ok(Some(ticket)) = done {
            disk.answered(ticket, port.arrived.load(Ordering::SeqCst));
        }
        let more = disk.volatile() as i64 - before as i64;
        self.volatile.fetch_add(more, Ordering::SeqCst);
        let error = done.err().unwrap_or(0);
        let mut answer = Vec::with_capacity(16 + read.len());
        answer.extend(REPLY.to_be_bytes());
        answer.extend(error.to_be_bytes());
        answer.extend(request.cookie.to_be_bytes());
        if error == 0 {
            answer.extend(read);
        }
        Some(answer)
    }

    /// The handshake: which disk it shall be, or none.
    fn haggle(&self, stream: &mut UnixStream) -> io::Result<Option<usize>> {
        stream.write_all(b"NBDMAGICIHAVEOPT\0\x03")?;
        let mut flags = [0; 4];
        stream.read_exact(&mut flags)?;
        let no_zeroes = flags[3] & 2 != 0;
        loop {
            let mut header = [0; 16];
            stream.read_exact(&mut header)?;
            let (option, len) = (be(&header[8..12]) as u32, be(&header[12..]) as usize);
            if &header[..8] != b"IHAVEOPT" || len > 4096 {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let mut data = vec![0; len];
            stream.read_exact(&mut data)?;
            let mut reply = |kind: u32, data: &[u8]| {
                let mut bytes = OPTION_REPLY.to_be_bytes().to_vec();
                bytes.extend(option.to_be_bytes());
                bytes.extend(kind.to_be_bytes());
                bytes.extend((data.len() as u32).to_be_bytes());
                bytes.extend(data);
                stream.write_all(&bytes)
            };
            match option {
                // EXPORT_NAME: answered by the export, or not at all.
                1 => {
                    let Some(index) = self.export(&data) else { return Ok(None) };
                    let mut bytes = self.size(index).to_be_bytes().to_vec();
                    bytes.extend(FLAGS.to_be_bytes());
                    if !no_zeroes {
                        bytes.extend([0; 124]);
                    }
                    stream.write_all(&bytes)?;
                    return Ok(Some(index));
                }
                2 => {
                    reply(1, &[])?;
                    return Ok(None);
                }
                3 => {
                    for index in 0..self.ports.len() {
                        let name = format!("disk{index}");
                        let mut entry = (name.len() as u32).to_be_bytes().to_vec();
                        entry.extend(name.as_bytes());
                        reply(2, &entry)?;
                    }
                    reply(1, &[])?;
                }
                // INFO and GO.
                6 | 7 => {
                    let name = data.get(..4).map(|n| be(n) as usize);
                    let name = name.and_then(|n| data.get(4..4usize.checked_add(n)?));
                    let Some(index) = name.and_then(|name| self.export(name)) else {
                        reply(0x8000_0006, &[])?;
                        continue;
                    };
                    let mut export = vec![0, 0];
                    export.extend(self.size(index).to_be_bytes());
                    export.extend(FLAGS.to_be_bytes());
                    reply(3, &export)?;
                    let mut blocks = vec![0, 3];
                    for bytes in [512u32, 4096, LONGEST] {
                        blocks.extend(bytes.to_be_bytes());
                    }
                    reply(3, &blocks)?;
                    reply(1, &[])?;
                    if option == 7 {
                        return Ok(Some(index));
                    }
                }
                _ => reply(0x8000_0001, &[])?,
            }
        }
    }

    fn export(&self, name: &[u8]) -> Option<usize> {
        let index = std::str::from_utf8(name).ok()?.strip_prefix("disk")?.parse().ok()?;
        (index < self.ports.len()).then_some(index)
    }

    fn size(&self, index: usize) -> u64 {
        self.ports[index].disk.lock().expect("no thread dies with it").size()
    }
}

/// A number, most significant byte first.
fn be(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |n, b| n << 8 | u64::from(*b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::power::disk::nameless;
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use std::time::Duration;

    fn machine(disks: usize, seed: u64, choice: Choice) -> (Arc<Server>, Vec<File>) {
        let file = || {
            let file = nameless(&std::env::temp_dir()).unwrap();
            file.set_len(1 << 20).unwrap();
            file
        };
        let media: Vec<File> = (0..disks).map(|_| file()).collect();
        let disk = |m: &File| Disk::new(m.try_clone().unwrap(), file()).unwrap();
        (Server::new(media.iter().map(disk).collect(), seed, choice), media)
    }

    struct Client(UnixStream);

    impl Client {
        fn new(server: &Arc<Server>, export: &str) -> Client {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            server.connect(theirs);
            let mut greeting = [0; 18];
            ours.read_exact(&mut greeting).unwrap();
            ours.write_all(&[0, 0, 0, 3]).unwrap();
            ours.write_all(b"IHAVEOPT\0\0\0\x01").unwrap();
            ours.write_all(&(export.len() as u32).to_be_bytes()).unwrap();
            ours.write_all(export.as_bytes()).unwrap();
            let mut answer = [0; 10];
            ours.read_exact(&mut answer).unwrap();
            assert_eq!(be(&answer[..8]), 1 << 20);
            ours.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            Client(ours)
        }
        fn send(&mut self, kind: u16, flags: u16, offset: u64, data: &[u8], len: u32) {
            let mut bytes = REQUEST.to_be_bytes().to_vec();
            bytes.extend(flags.to_be_bytes());
            bytes.extend(kind.to_be_bytes());
            bytes.extend(77u64.to_be_bytes());
            bytes.extend(offset.to_be_bytes());
            bytes.extend(len.to_be_bytes());
            bytes.extend(data);
            self.0.write_all(&bytes).unwrap();
        }
        /// The error of the answer; none if there was no answer.
        fn answer(&mut self) -> Option<u32> {
            let mut bytes = [0; 16];
            self.0.read_exact(&mut bytes).ok()?;
            assert_eq!((be(&bytes[..4]) as u32, be(&bytes[8..])), (REPLY, 77));
            Some(be(&bytes[4..8]) as u32)
        }
        fn write(&mut self, offset: u64, data: &[u8]) -> Option<u32> {
            self.send(1, 0, offset, data, data.len() as u32);
            self.answer()
        }
        fn flush(&mut self) -> Option<u32> {
            self.send(3, 0, 0, &[], 0);
            self.answer()
        }
    }

    const NONE: Choice = Choice { keep: Some(0), tear: false };

    #[test]
    fn requests_are_carried_out_and_answered() {
        let (server, media) = machine(2, 1, NONE);
        let mut client = Client::new(&server, "disk1");
        assert_eq!(client.write(4096, &[5; 4096]), Some(0));
        assert_eq!(client.write((1 << 20) - 512, &[5; 1024]), Some(EINVAL));
        client.send(0, 0, 4608, &[], 512);
        assert_eq!(client.answer(), Some(0));
        let mut read = [0; 512];
        client.0.read_exact(&mut read).unwrap();
        assert_eq!(read, [5; 512]);
        client.send(1, FUA, 0, &[6; 512], 512);
        assert_eq!(client.answer(), Some(0));
        client.send(6, 0, 4096, &[], 512);
        assert_eq!(client.answer(), Some(0));
        server.cut().unwrap();
        let mut bytes = [0; 8192];
        media[1].read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!((bytes[0], bytes[511], bytes[512], bytes[4096]), (6, 6, 0, 0));
        let report = server.report().unwrap();
        assert_eq!(report[1].0, Asked { reads: 1, writes: 2, zeros: 1, flushes: 0, fua: 1 });
        assert_eq!(report[1].1, Fate { volatile: 2, lost: 2, bytes: 4608, ..Fate::default() });
        assert_eq!(report[0].1, Fate::default());
    }

    #[test]
    fn a_flush_covers_what_other_connections_wrote() {
        let (server, media) = machine(1, 1, NONE);
        let (mut one, mut two) = (Client::new(&server, "disk0"), Client::new(&server, "disk0"));
        assert_eq!(one.write(0, &[9; 512]), Some(0));
        assert_eq!(two.flush(), Some(0));
        server.cut().unwrap();
        let mut bytes = [0; 512];
        media[0].read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes, [9; 512]);
    }

    #[test]
    fn after_the_cut_nothing_is_answered_and_nothing_is_written() {
        let (server, media) = machine(1, 1, NONE);
        let mut client = Client::new(&server, "disk0");
        assert_eq!(client.write(0, &[9; 512]), Some(0));
        server.cut().unwrap();
        assert_eq!(client.flush(), None);
        assert_eq!(client.write(0, &[9; 512]), None);
        server.close().unwrap();
        let mut bytes = [0; 512];
        media[0].read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes, [0; 512]);
    }

    /// A client writes a number to one disk, flushes, writes it to the other, flushes. Whenever the
    /// cut comes, the second disk is not ahead, and not more than one behind.
    #[test]
    fn a_cut_is_one_instant_for_all_disks() {
        for seed in 0..8 {
            let (server, media) = machine(2, seed, NONE);
            let mut clients = [Client::new(&server, "disk0"), Client::new(&server, "disk1")];
            server.cut_after(20 + seed * 3);
            'cut: for number in 1u8.. {
                for client in &mut clients {
                    if client.write(0, &[number; 512]).is_none() || client.flush().is_none() {
                        break 'cut;
                    }
                }
            }
            let first: Vec<u8> = media
                .iter()
                .map(|m| {
                    let mut byte = [0];
                    m.read_exact_at(&mut byte, 0).unwrap();
                    byte[0]
                })
                .collect();
            assert!(first[0] == first[1] || first[0] == first[1] + 1, "{first:?}");
            // Every four requests a number is through.
            assert_eq!(u64::from(first[1]), (20 + seed * 3) / 4);
        }
    }

    #[test]
    fn a_cut_can_wait_until_there_is_something_to_lose() {
        let (server, _) = machine(2, 1, NONE);
        server.cut_at(12);
        let mut clients = [Client::new(&server, "disk0"), Client::new(&server, "disk1")];
        for number in 0..10 {
            assert_eq!(clients[number % 2].write(number as u64 * 512, &[1; 512]), Some(0));
        }
        assert_eq!(clients[0].flush(), Some(0));
        for number in 0..7 {
            assert_eq!(clients[1].write(number * 512, &[2; 512]), Some(0));
        }
        assert!(server.report().is_none());
        assert_eq!(clients[1].write(0, &[2; 512]), None);
        assert_eq!(server.report().unwrap()[1].1.volatile, 12);
    }

    #[test]
    fn the_same_seed_makes_the_same_cut() {
        let outcome = |seed| {
            let (server, media) = machine(1, seed, Choice { keep: None, tear: true });
            let mut client = Client::new(&server, "disk0");
            for n in 0..64u8 {
                assert_eq!(client.write(u64::from(n) * 4096, &[n + 1; 4096]), Some(0));
            }
            server.cut().unwrap();
            let mut bytes = vec![0; 1 << 18];
            media[0].read_exact_at(&mut bytes, 0).unwrap();
            bytes
        };
        assert_eq!(outcome(3), outcome(3));
        assert_ne!(outcome(3), outcome(4));
    }
}
