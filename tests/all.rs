//! The tests on simulated disks, in one program: each would compile the whole array anew.

mod array_survives;
mod due_scrubs;
mod extents;
mod failing_members;
mod grow;
mod grow_columns;
mod journal_devices;
mod liars;
mod log_damage;
mod many_members;
mod rebuild;
mod refusals;
mod regressions;
mod resets;
mod scrub;
mod soak;
mod tests_notice;
mod thresholds;
mod transactions;
