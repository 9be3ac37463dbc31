//! A small part of the crash enumeration, for every run of the tests. The whole of it:
//! `cargo run --release -p evenkeel-tests --bin crash`.

use evenkeel_tests::crash::Scenario;
use evenkeel_tests::crash::sweep::{Effort, command, sweep};
use evenkeel_tests::evenkeel::{Evenkeel, setups};
use evenkeel_tests::workload::WORKLOADS;

#[test]
fn the_array_survives_crashes() {
    let mut scenarios = Vec::new();
    for (i, workload) in WORKLOADS.into_iter().enumerate() {
        let mut setups = setups();
        let setup = setups.swap_remove(i % setups.len());
        scenarios.push(Scenario { setup, workload, seed: 11, durable: i % 2 == 1 });
    }
    let effort = Effort { full: false, stride: 23, jobs: 2, failures: 3, salts: 1, sequel: None };
    let totals = sweep::<Evenkeel>(&scenarios, &effort, || {});
    for f in &totals.failures {
        println!("{}\n  {}", f.message, command(&f.replay));
    }
    assert!(totals.failures.is_empty(), "{} failures", totals.failures.len());
    assert!(totals.states > 100, "{totals:?}");
}
