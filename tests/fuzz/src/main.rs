//! Runs the saved inputs of every target, then as many by chance: the same ones every time.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

use evenkeel_fuzz::memory::when_too_much;
use evenkeel_fuzz::mutate::mutate;
use evenkeel_fuzz::{TARGETS, Target, run};
use evenkeel_tests::rng::{Rng, hash, hash_text};

/// Hostile bytes for everything that reads bytes.
#[derive(Parser)]
struct Args {
    /// Targets; all if none is named.
    targets: Vec<String>,
    /// Print the targets and what they are.
    #[arg(long)]
    list: bool,
    /// Inputs by chance, for each target; its own number if it is not given.
    #[arg(long)]
    executions: Option<u32>,
    /// Where chance begins.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Run this file alone, against one target.
    #[arg(long)]
    input: Option<PathBuf>,
    /// Write what inputs begin with to this folder, for one target.
    #[arg(long)]
    seeds: Option<PathBuf>,
}

thread_local! {
    /// What is being run: target, how to have it again, and the input.
    static RUNNING: RefCell<(String, String, Vec<u8>)> = const {
        RefCell::new((String::new(), String::new(), Vec::new()))
    };
}

fn corpus(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect();
    files.sort();
    let read = |path: PathBuf| std::fs::read(&path).ok().map(|b| (path, b));
    files.into_iter().filter_map(read).collect()
}

fn try_one(target: &Target, how: String, input: &[u8]) {
    RUNNING.set((target.name.into(), how, input.to_vec()));
    run(target, input);
}

/// From now on a failure says which input it was, and keeps it.
fn tell_of_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        usual(info);
        tell();
    }));
    when_too_much(tell);
}

fn tell() {
    let (target, how, input) = RUNNING.take();
    let path = std::env::temp_dir().join(format!("fuzz-{target}-{}", std::process::id()));
    eprintln!("fuzz: {target} FAILED on {how} ({} bytes)", input.len());
    if std::fs::write(&path, &input).is_ok() {
        eprintln!(
            "fuzz: again with: cargo run --release -p evenkeel-fuzz --bin fuzz -- {target} --input {}",
            path.display()
        );
    }
}

fn by_chance(target: &Target, corpus: &[(PathBuf, Vec<u8>)], executions: u32, seed: u64) {
    let seeds = (target.seeds)();
    let known: Vec<&[u8]> =
        seeds.iter().chain(corpus.iter().map(|c| &c.1)).map(|b| &b[..]).collect();
    for n in 0..executions {
        let mut rng = Rng::new(hash(&[seed, hash_text(target.name), u64::from(n)]));
        let any: Vec<u8> = (0..rng.index(200)).map(|_| rng.draw() as u8).collect();
        let from =
            if known.is_empty() || rng.one_in(16) { &any } else { known[rng.index(known.len())] };
        let other = if known.is_empty() { &any } else { known[rng.index(known.len())] };
        let input = mutate(&mut rng, from, other);
        try_one(target, format!("case {n} of seed {seed}"), &input);
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let wanted = |t: &&Target| args.targets.is_empty() || args.targets.iter().any(|n| n == t.name);
    let chosen: Vec<&Target> = TARGETS.iter().filter(wanted).collect();
    let unknown = args.targets.iter().find(|n| TARGETS.iter().all(|t| t.name != **n));
    if let Some(name) = unknown {
        eprintln!("fuzz: there is no target {name}; --list names them");
        return ExitCode::from(2);
    }
    if args.list {
        TARGETS.iter().for_each(|t| println!("{:<12} {}", t.name, t.what));
        return ExitCode::SUCCESS;
    }
    tell_of_panics();
    if let Some(path) = &args.input {
        let Ok(input) = std::fs::read(path) else {
            eprintln!("fuzz: {} cannot be read", path.display());
            return ExitCode::from(2);
        };
        chosen.iter().for_each(|t| try_one(t, path.display().to_string(), &input));
        return ExitCode::SUCCESS;
    }
    if let Some(dir) = &args.seeds {
        for (i, input) in chosen.iter().flat_map(|t| (t.seeds)()).enumerate() {
            let written = std::fs::write(dir.join(format!("seed-{i}")), input);
            if let Err(e) = written {
                eprintln!("fuzz: {} cannot be written: {e}", dir.display());
                return ExitCode::FAILURE;
            }
        }
        return ExitCode::SUCCESS;
    }
    let mut all = 0;
    for target in chosen {
        let (corpus, seeds) = (corpus(target), (target.seeds)());
        for (path, input) in &corpus {
            try_one(target, path.display().to_string(), input);
        }
        for (i, input) in seeds.iter().enumerate() {
            try_one(target, format!("seed {i}"), input);
        }
        let executions = args.executions.unwrap_or(target.executions);
        by_chance(target, &corpus, executions, args.seed);
        let done = corpus.len() as u64 + seeds.len() as u64 + u64::from(executions);
        println!("fuzz: {:<12} {done} executions, {} of them saved", target.name, corpus.len());
        all += done;
    }
    println!("fuzz: {all} executions in all");
    ExitCode::SUCCESS
}
