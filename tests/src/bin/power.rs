//! The disks of a virtual machine whose power is cut, and what runs in the machine meanwhile: see
//! `tests/vm/power-cuts`.

use std::fs::File;
use std::io::{self, BufRead};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use evenkeel_tests::power::acks::Acks;
use evenkeel_tests::power::disk::{Choice, Disk, nameless};
use evenkeel_tests::power::server::Server;
use evenkeel_tests::power::{blocks, log, records};

/// Power cuts of a whole machine.
#[derive(Parser)]
#[command(about)]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Serve disk images over NBD, with a volatile cache, until the power is cut.
    ///
    /// The exports are disk0, disk1, ... Says "ready", then takes a command a line from standard
    /// input: "lie" (FLUSH and FUA are answered and not done from now on), "cut N" (after N further
    /// changes and flushes), "cut-at N" (when N changes could be lost), "cut" (now), "quit" or its end (everything is written, as
    /// when a machine is switched off, unless it was cut). The images are what is left after the
    /// cut; a line a disk and one of the totals say what that was.
    Serve {
        /// The socket.
        #[arg(long)]
        socket: PathBuf,
        /// What the cut keeps follows from it.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// How much of what no flush covered a cut keeps, of 100. Default: on every disk another
        /// part, between nothing and all.
        #[arg(long, value_parser = clap::value_parser!(u64).range(..=100))]
        keep: Option<u64>,
        /// Keep everything that is kept whole; otherwise some is torn at 512 bytes.
        #[arg(long)]
        whole: bool,
        /// Lie from the beginning.
        #[arg(long)]
        lie: bool,
        /// The images, in the order of the disks.
        #[arg(required = true)]
        image: Vec<PathBuf>,
    },
    /// Make files in a directory, for `records`.
    RecordsInit { directory: PathBuf, seed: u64 },
    /// Write a log, pages and small files, and note in ACKS what was synced.
    Records {
        directory: PathBuf,
        seed: u64,
        acks: PathBuf,
        #[arg(long, default_value_t = 600)]
        seconds: u64,
    },
    /// Look for everything that was synced.
    RecordsCheck { directory: PathBuf, seed: u64, acks: PathBuf },
    /// Make the beginning of a device zeros, for `blocks`.
    BlocksInit { device: PathBuf },
    /// Write to a device, one write after the other, and note in ACKS what was synced.
    Blocks {
        device: PathBuf,
        seed: u64,
        acks: PathBuf,
        #[arg(long, default_value_t = 600)]
        seconds: u64,
    },
    /// Do what a log of dm-log-writes says again on an image, and from the first mark on run a
    /// command with the image's path at every write with FLUSH or FUA; all must succeed.
    Replay {
        /// How many such points there must be at least.
        #[arg(long, default_value_t = 1)]
        at_least: usize,
        /// Leave out one of so many writes: then some must fail, and that is a success.
        #[arg(long)]
        lose: Option<u64>,
        log: PathBuf,
        image: PathBuf,
        #[arg(required = true)]
        command: Vec<String>,
    },
    /// Is there a prefix of the writes, and all that was synced?
    BlocksCheck { device: PathBuf, seed: u64, acks: PathBuf },
}

fn main() -> ExitCode {
    match run(Args::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("power: {text}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<(), String> {
    let text = |e: io::Error| e.to_string();
    let until = |seconds| Instant::now() + Duration::from_secs(seconds);
    let said = |acks: &PathBuf| std::fs::read_to_string(acks).unwrap_or_default();
    match verb {
        Verb::Serve { socket, seed, keep, whole, lie, image } => {
            let choice = Choice { keep, tear: !whole };
            serve(&socket, seed, choice, lie, &image).map_err(text)
        }
        Verb::RecordsInit { directory, seed } => records::init(&directory, seed).map_err(text),
        Verb::Records { directory, seed, acks, seconds } => {
            let mut acks = Acks::append(&acks).map_err(text)?;
            records::write(&directory, seed, &mut acks, until(seconds)).map_err(text)
        }
        Verb::RecordsCheck { directory, seed, acks } => {
            let found = records::check(&directory, seed, &said(&acks))?;
            println!(
                "{} records of {} synced, pages to change {} of {} synced, {} small files",
                found.records, found.promised, found.changes, found.promised_changes, found.small
            );
            Ok(())
        }
        Verb::BlocksInit { device } => blocks::init(&device).map_err(text),
        Verb::Blocks { device, seed, acks, seconds } => {
            let mut acks = Acks::append(&acks).map_err(text)?;
            blocks::write(&device, seed, &mut acks, until(seconds)).map_err(text)
        }
        Verb::Replay { at_least, lose, log, image, command } => {
            replay(at_least, lose, &log, &image, &command)
        }
        Verb::BlocksCheck { device, seed, acks } => {
            let found = blocks::check(&device, seed, &said(&acks))?;
            println!("the first {} writes, of {} synced", found.there, found.promised);
            Ok(())
        }
    }
}

fn replay(
    at_least: usize,
    lose: Option<u64>,
    log: &Path,
    image: &Path,
    command: &[String],
) -> Result<(), String> {
    let text = |e: io::Error| e.to_string();
    let log = File::open(log).map_err(text)?;
    let file = File::options().write(true).open(image).map_err(text)?;
    let (mut points, mut failed, mut writes, mut marked) = (0, 0, 0, false);
    for entry in log::entries(&log).map_err(text)? {
        marked |= entry.mark;
        if marked && entry.len > 0 && entry.data.is_some() {
            writes += 1;
            if lose.is_some_and(|one_in| writes % one_in == 0) {
                continue;
            }
        }
        log::replay(&entry, &log, &file).map_err(text)?;
        if marked && entry.durable {
            points += 1;
            let status = Command::new(&command[0]).args(&command[1..]).arg(image).status();
            if !status.map_err(text)?.success() {
                failed += 1;
                if lose.is_none() {
                    return Err(format!("after {writes} writes, at point {points}, it fails"));
                }
            }
        }
    }
    println!("{points} points among {writes} writes, {failed} of them bad");
    match lose {
        None if points < at_least => Err(format!("that is less than {at_least}")),
        Some(_) if failed == 0 => Err("lost writes were not noticed".into()),
        _ => Ok(()),
    }
}

fn serve(
    socket: &PathBuf,
    seed: u64,
    choice: Choice,
    lie: bool,
    images: &[PathBuf],
) -> io::Result<()> {
    let mut disks = Vec::new();
    for image in images {
        let medium = File::options().read(true).write(true).open(image)?;
        let beside = image.parent().filter(|p| !p.as_os_str().is_empty());
        disks.push(Disk::new(medium, nameless(beside.unwrap_or(".".as_ref()))?)?);
    }
    let server = Server::new(disks, seed, choice);
    if lie {
        server.lie();
    }
    let _ = std::fs::remove_file(socket);
    server.listen(UnixListener::bind(socket)?);
    println!("ready");
    {
        // Says what the cut did as soon as there was one.
        let server = Arc::clone(&server);
        thread::spawn(move || {
            while !report(&server) {
                thread::sleep(Duration::from_millis(20));
            }
        });
    }
    for line in io::stdin().lock().lines() {
        let line = line?;
        let mut words = line.split_whitespace();
        match (words.next(), words.next().map(str::parse)) {
            (Some("lie"), None) => {
                server.lie();
                println!("lying");
            }
            (Some("cut"), None) => server.cut()?,
            (Some("cut"), Some(Ok(requests))) => server.cut_after(requests),
            (Some("cut-at"), Some(Ok(volatile))) => server.cut_at(volatile),
            (Some("quit"), None) => break,
            _ => println!("what is {line:?}?"),
        }
    }
    server.close()
}

/// Prints what the cut did, if there was one.
fn report(server: &Server) -> bool {
    let Some(report) = server.report() else { return false };
    let mut total = [0; 8];
    for (index, (asked, fate)) in report.iter().enumerate() {
        let numbers = [
            asked.writes,
            asked.zeros,
            asked.flushes,
            fate.volatile,
            fate.kept,
            fate.lost,
            fate.torn,
            fate.bytes,
        ];
        for (sum, n) in total.iter_mut().zip(numbers) {
            *sum += n;
        }
        println!("disk{index}: {}", sentence(&numbers));
    }
    println!("cut: {}", sentence(&total));
    true
}

fn sentence(n: &[u64; 8]) -> String {
    format!(
        "writes={} zeros={} flushes={} volatile={} kept={} lost={} torn={} bytes={}",
        n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7]
    )
}
