//! The tests of the tests: a store that is right passes the crash tests, and each flawed variant
//! of it is noticed.

use evenkeel_tests::crash::Scenario;
use evenkeel_tests::crash::sweep::{Effort, Totals, sweep};
use evenkeel_tests::standin::{self, StandIn};

const WORKLOADS: [&str; 9] =
    ["partial", "whole", "overlap", "unaligned", "discard", "fua", "destage", "full", "restart"];

fn run<const FLAW: u8>(failures: usize) -> Totals {
    let scenarios: Vec<Scenario> = WORKLOADS
        .iter()
        .flat_map(|workload| {
            [false, true].map(|durable| Scenario {
                setup: standin::setup(),
                workload,
                seed: 3,
                durable,
            })
        })
        .collect();
    let effort = Effort { full: false, stride: 1, jobs: 1, failures, salts: 1, sequel: None };
    sweep::<StandIn<FLAW>>(&scenarios, &effort, || {})
}

fn notices<const FLAW: u8>(word: &str) {
    let totals = run::<FLAW>(20);
    let texts: Vec<&str> = totals.failures.iter().map(|f| f.message.as_str()).collect();
    assert!(texts.iter().any(|t| t.contains(word)), "wanted `{word}` among {texts:#?}");
}

#[test]
fn a_sound_store_passes() {
    let totals = run::<{ standin::SOUND }>(5);
    assert!(totals.failures.is_empty(), "{:#?}", totals.failures);
    assert!(totals.points > 500 && totals.states > 2000, "{totals:?}");
}

#[test]
fn early_acknowledgement_is_noticed() {
    notices::<{ standin::ACK_EARLY }>("acknowledged request is lost");
}

#[test]
fn a_missing_flush_is_noticed() {
    notices::<{ standin::NO_FLUSH }>("is lost");
}

#[test]
fn torn_records_are_noticed() {
    notices::<{ standin::NO_CHECKSUM }>("no single request");
}

#[test]
fn writing_in_place_is_noticed() {
    notices::<{ standin::IN_PLACE }>("no single request");
}

#[test]
fn split_requests_are_noticed() {
    notices::<{ standin::SPLIT }>("no single request");
}

#[test]
fn old_records_that_come_back_are_noticed() {
    notices::<{ standin::OLD_EPOCH }>("");
}

#[test]
fn a_checkpoint_without_flush_is_noticed() {
    notices::<{ standin::EARLY_EPOCH }>("");
}

#[test]
fn forgotten_discards_are_noticed() {
    notices::<{ standin::LAZY_DISCARD }>("discard");
}

#[test]
fn stale_reads_are_noticed() {
    notices::<{ standin::STALE_READ }>("[without any crash]");
}
