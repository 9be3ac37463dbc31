//! The simulator at large, in small: some seeds, and those that once failed. The command
//! `evenkeel-sim` goes on from here.

use evenkeel_tests::soak::plan::parse_ranges;
use evenkeel_tests::soak::{Plan, Tally, sail};

/// The seeds below are of a time when nothing was done to the members.
fn passes(seed: u64, without: &str) -> Tally {
    passes_plan(Plan::new(seed).without_spares(), without)
}

/// The seeds below are of a time when no array grew.
fn passes_plan(plan: Plan, without: &str) -> Tally {
    sails(plan.without_growth(), without)
}

fn sails(plan: Plan, without: &str) -> Tally {
    let mut tally = Tally::default();
    let seed = plan.seed;
    let plan = plan.without(&parse_ranges(without).expect("ranges"));
    if let Err(e) = sail(&plan, false, &mut tally) {
        panic!("seed {seed}: {e}");
    }
    tally
}

#[test]
fn some_seeds_pass() {
    let mut all = Tally::default();
    (1..=16).for_each(|seed| all.merge(&sails(Plan::new(seed), "")));
    assert!(all.number("crash points") > 10_000 && all.number("contents judged") > 300);
}

/// Without this no failure could be replayed.
#[test]
fn a_seed_is_always_the_same_run() {
    for seed in [3, 17, 40] {
        assert_eq!(sails(Plan::new(seed), ""), sails(Plan::new(seed), ""));
    }
}

/// Members of an array that had lost one more than it bears gave errors for writes and for nothing
/// else. Reopened they could be read and flushed, so they were taken back; the next write failed, and so
/// on: requests waited for ever. Who is taken back has to take a write.
#[test]
fn members_that_take_no_writes_are_not_taken_back() {
    [22, 189, 240, 257].into_iter().for_each(|seed| drop(passes(seed, "")));
}

/// Two members too many were silent. The array had halted, so nobody failed them any more, and every
/// read of every chunk waited for the bound again: minutes for one request. In the second one the silent
/// member had been asked for reads alone.
#[test]
fn a_halted_array_does_not_wait_for_silent_members_again_and_again() {
    [436, 1_795_416_879_010_505].into_iter().for_each(|seed| drop(passes(seed, "")));
}

/// A stripe was discarded; a checkpoint took it up and, since it had no checksums then, read no page for
/// it; while it read those of others the stripe was written again. The checkpoint then counted the
/// new checksums as home, though they were in no page that it wrote: all blocks of the stripe were EIO.
#[test]
fn a_stripe_placed_while_a_checkpoint_reads_pages_keeps_its_checksums() {
    passes(
        1_795_410_802_000_161,
        "1,3-29,100-102,104-129,1002-1007,1009-1010,1013,1015-1029,1100-1129,1200-1229,1600-1601,\
         2002-2029,2100-2129,2200-2229,3001,3005-3007,3011-3029,3100-3101,3103,3105-3129,3200-3201,\
         3204,3206,3208-3212,3215-3217,3219-3229,3300,3302-3303,3305-3329,3600-3604,4000-4604",
    );
}

/// Pages of checksums could not be read from a member that gave errors or did not answer, and were
/// counted as wrong there. What cannot be read is no lie, and of a member that is out nothing is expected.
#[test]
fn a_member_that_cannot_be_read_is_not_called_a_liar() {
    passes(1_795_410_802_000_465, "");
}

/// A start found an epoch that its predecessor had not marked in force on all members, and flushed them
/// first; one of twenty was gone, and its failure was recorded: the next epoch was prepared over the only
/// copy of that one which half of the members had. After a loss of power those counted as stale.
#[test]
fn a_failure_in_a_start_does_not_overtake_the_marking_of_an_epoch() {
    passes(
        1_795_411_596_001_241,
        "1-3,600-601,1001-1009,1600-1601,1603-1604,2000-2003,2101-2105,2600-2601,3000-3007,3101-3110",
    );
}

/// A power cut had left a commit of the log with just as many columns as it takes. The start that was to
/// write the others again read one of them, and that read failed, once: it went on without, and logged
/// that the commit was durable. One more lost disk, and it was gone.
#[test]
fn a_commit_that_cannot_be_read_once_is_made_whole_all_the_same() {
    passes(
        1_795_413_699_000_392,
        "6-12,16-21,102,106-109,208,304-307,312,1001-1007,1101-1107,1600-1601,2000-2002,2101,2201-2206,\
         3000-3005,3600-3603,4000-4014,4101-4106,4201-4219,4600-4603",
    );
}

/// The scrub read copies of the map's and the checksums' pages, and columns of the log, of a member
/// that had begun to give errors, and counted them as wrong there.
#[test]
fn what_a_scrub_cannot_read_is_not_called_a_lie() {
    [1_795_416_879_001_124, 1_795_416_879_002_350].into_iter().for_each(|s| drop(passes(s, "")));
}

/// More members failed than the array bears while a destage waited for room for a Place. The charge of
/// its stripe was gone; the next destage in the halted array, asked for by somebody, ended the daemon.
#[test]
fn a_destage_that_a_halt_ended_can_be_asked_for_again() {
    passes(1_795_416_879_009_212, "");
}

/// A power cut had left the last commit of the log, never durable, with just as many columns as it takes.
/// The start had read it when the disk of one of them went; it ended with exit code 14, though without that
/// disk the log simply ends before that commit.
#[test]
fn a_start_from_which_a_disk_goes_begins_anew() {
    passes(1_795_416_879_009_307, "");
}

/// A stripe was unmapped while it was read without its lock, and a checkpoint was writing the page of
/// its checksums: two copies were called wrong since they did not know of the unmapping.
#[test]
fn a_page_need_not_know_that_a_stripe_was_unmapped() {
    passes(1_795_416_879_015_512, "");
}

/// A disk gave a page of checksums for a page of the map, which has the same number and lies where such
/// a copy may lie: it was taken for the map, and the start refused.
#[test]
fn a_page_of_checksums_is_not_taken_for_one_of_the_map() {
    passes(1_795_416_879_016_065, "");
}

/// A Place is a multiple of 8 bytes long, also where an odd number of members have an odd number of
/// blocks a chunk; but 4 bytes less were reserved for it. A request of 57 whole stripes took a row more
/// than it had, and the assertion ended the daemon.
#[test]
fn requests_of_many_whole_stripes_have_the_rows_that_they_take() {
    passes(1_795_416_879_021_360, "");
}

/// A disk that hung was failed, and a spare took its place. The disk's last write never ended, and was
/// counted for whoever has the place: at the next failure the array waited for it for ever.
#[test]
fn what_hangs_on_a_disk_that_is_replaced_is_not_waited_for() {
    passes_plan(Plan::new(1_795_437_936_001_235), "");
}

/// Of a member that was out, what was written to the disk that was being filled in its place was
/// flushed with the log, and not with the members: rows in place were passed by the tail, and a loss of
/// power took them from that disk alone, which then became the member.
#[test]
fn what_is_filled_for_a_member_that_is_out_is_flushed_with_the_members() {
    [1_795_437_936_001_397, 1_795_437_936_002_380]
        .into_iter()
        .for_each(|seed| drop(passes_plan(Plan::new(seed), "")));
}

/// Stripes that had just been placed anew were filled where they lay now, and that was written down
/// before their Places were durable. A loss of power put them back into slots of which the disk
/// that was being filled had nothing; the rebuild went on behind them, and it became the member.
#[test]
fn what_is_filled_lies_there_durably() {
    passes_plan(Plan::new(1_795_440_516_001_161), "");
}

/// A disk came back while a spare was about to take its place. Each saw the place vacant, and waited for
/// its turn to record an epoch: both were filled for it, and a column that was wanted twice ended the
/// daemon by an assertion.
#[test]
fn two_disks_do_not_take_one_place() {
    passes_plan(Plan::new(1_795_440_516_000_899), "");
}

/// A controller was reset, and its disks gave errors for a while. One of them was added again meanwhile: no
/// superblock could be read on it, so it was taken for a new disk, and became a spare over the member
/// that it was.
#[test]
fn a_member_that_cannot_be_read_is_not_taken_for_a_new_disk() {
    passes_plan(Plan::new(1_795_480_000_001_105), "");
}

/// More members than may be lost were reset while the epoch was written that names a growth. Its third
/// copy lies at another place then, where nothing was yet: they were not believed to be the same disks, and
/// the array never took a write again.
#[test]
fn members_that_are_reset_while_the_array_grows_are_taken_back() {
    for seed in [1_795_449_492_000_824, 1_795_500_000_001_928] {
        sails(Plan::new(seed), "");
    }
}
