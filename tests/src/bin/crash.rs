//! Crash enumeration of the array: every event of every workload, several ways to crash, lost
//! disks, and what follows. A failure prints the command that replays it.

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use evenkeel_tests::crash::case::{Sequel, Tally, check};
use evenkeel_tests::crash::run::{record, run_until};
use evenkeel_tests::crash::sweep::{Effort, Totals, command, report_panics, sweep};
use evenkeel_tests::crash::{Crash, Scenario};
use evenkeel_tests::evenkeel::{Evenkeel, in_short_run, journal_setups, setups};
use evenkeel_tests::sim::Mode;
use evenkeel_tests::workload::{WORKLOADS, script};

/// Crash enumeration of the array in the simulator.
#[derive(Parser, Clone)]
#[command(about)]
struct Args {
    /// Only this geometry (raid5-2+1, raid6-4+2, rs-3+3, evenodd-3+2, evenodd-4+2, raid1-1+1,
    /// raid1-1+2; raid5-2+1-jN and raid6-4+2-jN with N = 1, 2 or 3 journal devices); may be
    /// repeated. Default: the first three, and a few workloads on the others.
    #[arg(long)]
    geometry: Vec<String>,
    /// Only this workload; may be repeated.
    #[arg(long)]
    workload: Vec<String>,
    /// Only this acknowledgement: cached or durable.
    #[arg(long)]
    ack: Option<String>,
    /// First seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Every mode with every set of lost disks, every workload on every geometry.
    #[arg(long)]
    full: bool,
    /// Every seventh event.
    #[arg(long)]
    quick: bool,
    /// Crash at every so manieth event.
    #[arg(long)]
    stride: Option<u64>,
    /// Replay: the event at which to crash.
    #[arg(long)]
    crash: Option<u64>,
    /// Replay: how (process:SEED, power:all, power:none, power:subset:SEED, power:torn:SEED).
    #[arg(long)]
    mode: Option<Mode>,
    /// Replay: disks lost with the crash.
    #[arg(long, value_delimiter = ',')]
    lose: Vec<usize>,
    /// Replay: another choice of what follows.
    #[arg(long, default_value_t = 0)]
    salt: u64,
    /// Times that every crash is tried, each time with another choice of what follows.
    #[arg(long, default_value_t = 1)]
    salts: u64,
    /// Only this sequel (stop, crash, crash-in-start, crash-in-destage, write).
    #[arg(long)]
    sequel: Option<String>,
    /// End after so many failures.
    #[arg(long, default_value_t = 20)]
    failures: usize,
    /// Print all failures, not the first five.
    #[arg(long)]
    all: bool,
    /// Break the array on purpose (needs the feature `sabotage`).
    #[arg(long)]
    sabotage: Option<String>,
    /// Run every deliberate breakage; it is a failure if one of them is not noticed.
    #[arg(long)]
    expect_red: bool,
}

fn scenarios(args: &Args) -> Vec<Scenario> {
    let chosen = |list: &[String], name: &str| list.is_empty() || list.iter().any(|x| x == name);
    let short = !args.full && args.geometry.is_empty();
    let mut all = Vec::new();
    let all_setups: Vec<_> = setups().into_iter().chain(journal_setups()).collect();
    for seed in args.seed..args.seed + args.seeds {
        for setup in all_setups.iter().filter(|s| chosen(&args.geometry, s.name)) {
            for workload in WORKLOADS.into_iter().filter(|w| chosen(&args.workload, w)) {
                for (ack, durable) in [("cached", false), ("durable", true)] {
                    let wanted = !short || in_short_run(setup, workload, durable);
                    if wanted && args.ack.as_deref().is_none_or(|a| a == ack) {
                        let setup = setup.clone();
                        all.push(Scenario { setup, workload, seed, durable });
                    }
                }
            }
        }
    }
    all
}

#[cfg(feature = "sabotage")]
fn sabotages() -> Vec<&'static str> {
    evenkeel_journal::sabotage::Sabotage::ALL.iter().map(|(name, _)| *name).collect()
}

#[cfg(not(feature = "sabotage"))]
fn sabotages() -> Vec<&'static str> {
    Vec::new()
}

/// Switches a breakage on in this thread.
fn sabotage(name: Option<&str>) {
    #[cfg(feature = "sabotage")]
    {
        use evenkeel_journal::sabotage::{Sabotage, set};
        set(name.and_then(|n| Sabotage::ALL.iter().find(|(m, _)| *m == n)).map(|(_, s)| *s));
    }
    #[cfg(not(feature = "sabotage"))]
    let _ = name;
}

fn print_failures(totals: &Totals, sabotage: Option<&str>, most: usize) {
    let with = sabotage.map_or(String::new(), |s| format!("--sabotage {s} "));
    for failure in totals.failures.iter().take(most) {
        println!("FAILED {}", failure.message);
        println!("  replay: {}", command(&format!("{with}{}", failure.replay)));
    }
    if totals.failures.len() > most {
        println!("… and {} more", totals.failures.len() - most);
    }
}

fn sequel(name: &str) -> Option<Sequel> {
    Sequel::ALL.into_iter().find(|s| s.to_string() == name)
}

fn effort(args: &Args) -> Effort {
    let stride = args.stride.unwrap_or(if args.quick { 7 } else { 1 });
    Effort {
        full: args.full,
        stride,
        jobs: args.jobs,
        failures: args.failures,
        salts: args.salts,
        sequel: args.sequel.as_deref().and_then(sequel),
    }
}

/// All crashes of all scenarios.
fn enumerate(args: &Args) -> bool {
    let began = Instant::now();
    let list = scenarios(args);
    let name = args.sabotage.as_deref();
    let totals = sweep::<Evenkeel>(&list, &effort(args), || sabotage(name));
    print_failures(&totals, name, if args.all { usize::MAX } else { 5 });
    println!(
        "{} scenarios, {} crash points, {} crash states, {} starts, {} refused until told, {} \
         contents compared, {:.0} s",
        totals.scenarios,
        totals.points,
        totals.states,
        totals.tally.starts,
        totals.tally.refusals,
        totals.tally.comparisons,
        began.elapsed().as_secs_f64()
    );
    println!(
        "crash: {} passed, {} failed",
        totals.states - (totals.failures.len() as u64).min(totals.states),
        totals.failures.len()
    );
    totals.failures.is_empty()
}

/// One crash, in words.
fn replay(args: &Args, event: u64) -> bool {
    let list = scenarios(args);
    let [scenario] = &list[..] else {
        println!("A replay needs one geometry, one workload and one --ack.");
        return false;
    };
    sabotage(args.sabotage.as_deref());
    let recording = match record::<Evenkeel>(scenario) {
        Ok(r) => r,
        Err(e) => {
            println!("FAILED {e} [without any crash]");
            return false;
        }
    };
    let Some(shot) = recording.shots.get(event.wrapping_sub(1) as usize) else {
        println!("This run has events 1 to {}.", recording.shots.len());
        return false;
    };
    let size = recording.oracle.size();
    println!(
        "script: {:#?}",
        script(scenario.workload, &scenario.setup, size, size, scenario.seed)
    );
    println!("history up to the crash:\n{}", recording.oracle.story(shot.mark));
    let reached = run_until::<Evenkeel>(scenario, event).map(|s| s.digest());
    println!("the same state when run until there: {}", reached == Ok(shot.digest()));
    let mode = args.mode.unwrap_or(Mode::PowerNone);
    let crash = Crash { event, mode, lost: args.lose.clone(), salt: args.salt };
    let wanted: Vec<Option<Sequel>> = match &args.sequel {
        None => vec![None],
        Some(all) if all == "all" => Sequel::ALL.into_iter().map(Some).collect(),
        Some(name) => sequel(name).into_iter().map(Some).collect(),
    };
    let mut fine = true;
    for sequel in wanted {
        let mut tally = Tally::default();
        match check::<Evenkeel>(&recording, scenario, &crash, sequel, true, &mut tally) {
            Ok(()) => println!("passed: {crash} ({} starts)", tally.starts),
            Err(e) => {
                println!("FAILED {e}");
                fine = false;
            }
        }
    }
    fine
}

/// Every breakage in a process of its own, since some end in a failed assertion.
fn expect_red() -> bool {
    let program = std::env::current_exe().expect("a running program has a path");
    let mut noticed = 0;
    let all = sabotages();
    if all.is_empty() {
        println!("Built without the feature `sabotage`: nothing to break.");
        return false;
    }
    for name in &all {
        let began = Instant::now();
        let run = |stride: &str| {
            let output = std::process::Command::new(&program)
                .args(["--sabotage", name, "--failures", "1", "--stride", stride])
                .output()
                .expect("the program runs again");
            let text = String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr);
            (!output.status.success(), text)
        };
        let (mut red, mut text) = run("5");
        if !red {
            (red, text) = run("1");
        }
        noticed += usize::from(red);
        let line = text.lines().find(|l| l.starts_with("FAILED") || l.contains("panicked"));
        println!(
            "{name}: {} after {:.0} s: {}",
            if red { "noticed" } else { "NOT NOTICED" },
            began.elapsed().as_secs_f64(),
            line.unwrap_or("")
        );
    }
    println!("sabotage: {noticed} passed, {} failed", all.len() - noticed);
    noticed == all.len()
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(name) = &args.sabotage
        && !sabotages().contains(&name.as_str())
    {
        println!("There is no breakage `{name}`: {}.", sabotages().join(", "));
        return ExitCode::from(2);
    }
    report_panics();
    let fine = if args.expect_red {
        expect_red()
    } else if let Some(event) = args.crash {
        replay(&args, event)
    } else {
        enumerate(&args)
    };
    ExitCode::from(u8::from(!fine))
}
