//! The simulator at large: seed after seed in several processes, until its time is over. A failing
//! seed is made small, and printed with the command that replays it.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime};

use clap::Parser;
use evenkeel_tests::soak::plan::{Item, parse_ranges, ranges};
use evenkeel_tests::soak::{Plan, Tally, sail};

/// Runs the array in the simulator, by seeds: each decides the array, the requests, the schedule, the
/// faults and the crashes.
#[derive(Parser, Clone)]
#[command(about)]
struct Args {
    /// Replay this seed, and say what happens.
    #[arg(long)]
    seed: Option<u64>,
    /// Leave these parts of its plan out: numbers and ranges, as a failure prints them.
    #[arg(long, default_value = "", value_parser = parse_ranges)]
    without: BTreeSet<Item>,
    /// Print the plan of the seed as well.
    #[arg(long)]
    plan: bool,
    /// Only say whether the seed passes.
    #[arg(long)]
    quiet: bool,
    /// How long to go on with fresh seeds.
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// Seeds 1 to this come first, whatever the time.
    #[arg(long, default_value_t = 200)]
    fixed: u64,
    /// First of the fresh seeds (default: from the clock).
    #[arg(long)]
    from: Option<u64>,
    /// Processes.
    #[arg(long, default_value_t = 2)]
    jobs: u64,
    /// End after so many failures.
    #[arg(long, default_value_t = 3)]
    failures: usize,
    /// Seconds that making a failure smaller may take.
    #[arg(long, default_value_t = 60)]
    shrink: u64,
    /// Break the array on purpose (needs the feature `sabotage`).
    #[arg(long)]
    sabotage: Option<String>,
    /// Run every deliberate breakage; it is a failure if one is not noticed within the seeds.
    #[arg(long)]
    expect_red: bool,
    /// Print the tables of what was tried.
    #[arg(long)]
    tables: bool,
    /// A process of a run: seeds from, how many.
    #[arg(long, hide = true, num_args = 2)]
    worker: Option<Vec<u64>>,
}

#[cfg(feature = "sabotage")]
mod breakages {
    use evenkeel_journal::sabotage::{Sabotage, set};

    pub fn names() -> Vec<&'static str> {
        Sabotage::ALL.iter().map(|(name, _)| *name).collect()
    }

    pub fn switch_on(name: &str) {
        set(Sabotage::ALL.iter().find(|(n, _)| *n == name).map(|(_, s)| *s));
    }
}

#[cfg(not(feature = "sabotage"))]
mod breakages {
    pub fn names() -> Vec<&'static str> {
        Vec::new()
    }

    pub fn switch_on(_: &str) {}
}

/// Runs one seed in this process.
fn one(
    seed: u64,
    without: &BTreeSet<Item>,
    verbose: bool,
    tally: &mut Tally,
) -> Result<(), String> {
    sail(&Plan::new(seed).without(without), verbose, tally)
}

/// A process of a run: says which seed it is at, so that an assertion that ends it is put down to that.
fn work(first: u64, count: u64, failures: usize) {
    let mut tally = Tally::default();
    let (mut out, mut failed) = (std::io::stdout(), 0);
    for seed in first..first + count {
        let _ = writeln!(out, "at {seed}");
        let _ = out.flush();
        if let Err(e) = one(seed, &BTreeSet::new(), false, &mut tally) {
            let _ = writeln!(out, "failed {seed} {e}");
            let _ = out.flush();
            failed += 1;
            if failed >= failures {
                break;
            }
        }
    }
    let _ = write!(out, "{}", tally.lines());
}

/// This program again, quietly.
fn again(args: &Args, more: &[String]) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a running program has a path"));
    command.args(more).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(name) = &args.sabotage {
        command.args(["--sabotage", name]);
    }
    command
}

/// Whether a seed without some of its parts fails, and how.
fn fails(args: &Args, seed: u64, without: &BTreeSet<Item>) -> Option<String> {
    let list = [
        "--quiet".to_owned(),
        "--seed".to_owned(),
        seed.to_string(),
        "--without".to_owned(),
        ranges(without),
    ];
    let output = again(args, &list).output().expect("the program runs again");
    if output.status.success() {
        return None;
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    let telling = |l: &&str| l.starts_with("FAILED");
    let panic = text.lines().skip_while(|l| !l.contains("panicked")).take(2);
    let panic = panic.collect::<Vec<_>>().join(" ");
    Some(text.lines().find(telling).map_or(panic, str::to_owned))
}

/// Leaves out what a failure does not need: halves, quarters, and so on of what is left.
fn shrink(args: &Args, seed: u64) -> (BTreeSet<Item>, usize) {
    let end = Instant::now() + Duration::from_secs(args.shrink);
    let all = Plan::new(seed).items();
    let mut without = BTreeSet::new();
    let mut part = all.len().div_ceil(2);
    loop {
        let left: Vec<Item> = all.iter().copied().filter(|i| !without.contains(i)).collect();
        let mut smaller = false;
        for piece in left.chunks(part) {
            if Instant::now() > end {
                return (without, all.len());
            }
            let mut tried: BTreeSet<Item> = without.clone();
            tried.extend(piece);
            if fails(args, seed, &tried).is_some() {
                without = tried;
                smaller = true;
            }
        }
        match (part, smaller) {
            (1, false) => return (without, all.len()),
            (_, true) if part == 1 => {}
            _ => part = (part / 2).max(1),
        }
    }
}

fn command(args: &Args, seed: u64, without: &BTreeSet<Item>) -> String {
    let mut text = "cargo run --release -p evenkeel-tests --bin evenkeel-sim".to_owned();
    if args.sabotage.is_some() {
        text += " --features sabotage";
    }
    text += &format!(" -- --seed {seed}");
    if !without.is_empty() {
        text += &format!(" --without {}", ranges(without));
    }
    args.sabotage.iter().for_each(|s| text += &format!(" --sabotage {s}"));
    text
}

/// What a worker found.
struct Batch {
    tally: Tally,
    failed: Vec<u64>,
}

fn batch(args: &Args, first: u64, count: u64) -> Batch {
    let most = args.failures.to_string();
    let list = [
        "--failures".to_owned(),
        most,
        "--worker".to_owned(),
        first.to_string(),
        count.to_string(),
    ];
    let mut child: Child =
        again(args, &list).stderr(Stdio::null()).spawn().expect("the program runs again");
    let mut found = Batch { tally: Tally::default(), failed: Vec::new() };
    let mut at = first;
    let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    for line in lines.map_while(Result::ok) {
        if let Some(seed) = line.strip_prefix("at ") {
            at = seed.parse().unwrap_or(at);
        } else if let Some(rest) = line.strip_prefix("failed ") {
            found.failed.extend(rest.split(' ').next().and_then(|s| s.parse::<u64>().ok()));
        } else {
            found.tally.read_line(&line);
        }
    }
    if !child.wait().is_ok_and(|s| s.success()) {
        found.failed.push(at);
    }
    found
}

/// Seed after seed, until the time is over; gives the first failures and how many seeds they took.
fn soak(args: &Args) -> (Tally, Vec<u64>, f64) {
    let began = Instant::now();
    let until = began + Duration::from_secs_f64(args.minutes * 60.0);
    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |d| d.as_secs());
    let fresh = args.from.unwrap_or(clock * 1_000_000);
    const BATCH: u64 = 25;
    let next = AtomicU64::new(0);
    let enough = AtomicBool::new(false);
    let (results, arrive) = mpsc::channel();
    let mut tally = Tally::default();
    let mut failed: Vec<u64> = Vec::new();
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            let (results, next, enough) = (results.clone(), &next, &enough);
            scope.spawn(move || {
                loop {
                    let nth = next.fetch_add(1, Ordering::Relaxed) * BATCH;
                    let (first, count) = if nth < args.fixed {
                        (1 + nth, BATCH.min(args.fixed - nth))
                    } else {
                        (fresh + nth, BATCH)
                    };
                    let over = nth >= args.fixed && Instant::now() >= until;
                    if over || enough.load(Ordering::Relaxed) {
                        break;
                    }
                    let found = batch(args, first, count);
                    if results.send(found).is_err() {
                        break;
                    }
                }
            });
        }
        drop(results);
        let mut told = Instant::now();
        for found in arrive {
            tally.merge(&found.tally);
            for seed in found.failed.iter().filter(|_| !args.expect_red) {
                println!("seed {seed} failed: more of it at the end");
            }
            failed.extend(found.failed);
            if failed.len() >= args.failures {
                enough.store(true, Ordering::Relaxed);
            }
            if told.elapsed() > Duration::from_secs(30) && !args.expect_red {
                told = Instant::now();
                println!("{}", line(&tally, began.elapsed(), failed.len()));
            }
        }
    });
    failed.sort_unstable();
    (tally, failed, began.elapsed().as_secs_f64())
}

fn line(tally: &Tally, took: Duration, failed: usize) -> String {
    let minutes = took.as_secs_f64() / 60.0;
    let rate = |what: &str| tally.number(what) as f64 / minutes;
    format!(
        "{minutes:.1} min: {} seeds ({:.0}/min), {} lives, {} crash points ({:.0}/min), {} crash states, \
         {} starts, {} contents judged, {} requests, {failed} failed",
        tally.number("seeds"),
        rate("seeds"),
        tally.number("lives"),
        tally.number("crash points"),
        rate("crash points"),
        tally.number("crash states"),
        tally.number("starts"),
        tally.number("contents judged"),
        tally.number("requests"),
    )
}

/// A run, its tables, and its failures made small.
fn run(args: &Args) -> bool {
    let (tally, failed, seconds) = soak(args);
    if args.tables {
        for (name, first) in [
            ("fault", "fault, while the array is"),
            ("outcome", "fault, and what came of it"),
            ("order", "what a person does to the members"),
            ("cut", "crash, while the array is"),
            ("refused", "what must be refused"),
            ("beyond", "beyond the promise"),
            ("level", "level"),
        ] {
            println!("\n{}", tally.table(name, first));
        }
    }
    for seed in failed.iter().take(args.failures) {
        let message = fails(args, *seed, &BTreeSet::new());
        println!("FAILED seed {seed}: {}", message.unwrap_or_else(|| "not again".to_owned()));
        println!("  replay: {}", command(args, *seed, &BTreeSet::new()));
        if args.shrink > 0 {
            let (without, parts) = shrink(args, *seed);
            let message = fails(args, *seed, &without).unwrap_or_default();
            println!("  {} of {parts} parts are enough: {message}", parts - without.len());
            println!("  replay: {}", command(args, *seed, &without));
        }
    }
    println!("{}", line(&tally, Duration::from_secs_f64(seconds), failed.len()));
    println!("sim: {} passed, {} failed", tally.number("seeds"), failed.len());
    failed.is_empty()
}

/// Every breakage on the fixed seeds, one after the other.
fn expect_red(args: &Args) -> bool {
    let all = breakages::names();
    if all.is_empty() {
        println!("Built without the feature `sabotage`: nothing to break.");
        return false;
    }
    let mut noticed = 0;
    for name in &all {
        if args.sabotage.as_deref().is_some_and(|one| one != *name) {
            continue;
        }
        let own =
            Args { sabotage: Some((*name).to_owned()), minutes: 0.0, failures: 1, ..args.clone() };
        let (_, failed, seconds) = soak(&own);
        noticed += usize::from(!failed.is_empty());
        match failed.first() {
            Some(seed) => {
                let how = fails(&own, *seed, &BTreeSet::new()).unwrap_or_default();
                println!("{name}: noticed by seed {seed} after {seconds:.0} s: {how}");
            }
            None => println!("{name}: NOT NOTICED by {} seeds, {seconds:.0} s", args.fixed),
        }
    }
    println!("sabotage: {noticed} passed, {} failed", all.len() - noticed);
    noticed == all.len()
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.expect_red {
        return ExitCode::from(u8::from(!expect_red(&args)));
    }
    if let Some(name) = &args.sabotage {
        if !breakages::names().contains(&name.as_str()) {
            println!("There is no breakage `{name}`: {}.", breakages::names().join(", "));
            return ExitCode::from(2);
        }
        breakages::switch_on(name);
    }
    let fine = match (&args.worker, args.seed) {
        (Some(range), _) => {
            work(range[0], range[1], args.failures);
            true
        }
        (None, Some(seed)) => {
            if args.plan {
                println!("{:#?}", Plan::new(seed).without(&args.without));
            }
            let mut tally = Tally::default();
            let done = one(seed, &args.without, !args.quiet, &mut tally);
            match &done {
                Ok(()) => println!("passed: seed {seed}"),
                Err(e) => println!("FAILED seed {seed}: {e}"),
            }
            done.is_ok()
        }
        (None, None) => run(&args),
    };
    ExitCode::from(u8::from(!fine))
}
