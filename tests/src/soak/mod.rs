//! The simulator at large: one seed decides the array, what is asked of it, the schedule, the faults,
//! the crashes, and what is lost with them.
//!
//! - [`geometry`] draws the array; [`plan`] its lives, requests and troubles;
//! - [`trouble`] does a fault of the model to a disk; `life` runs one life and keeps its crash states;
//! - `orders` does what a person does to the members, `changes` the same where it is tight; `seats` says which disk is which then; `wider` adds columns;
//! - [`voyage`] goes from life to life and looks at crash states; `probe` at what must be refused;
//! - [`tally`] counts. The command is `evenkeel-sim` (`src/bin/evenkeel-sim.rs`).
//!
//! Nothing here knows how the array works: the oracle knows requests and answers, the checkers read
//! the bytes of the disks.

mod changes;
pub mod geometry;
mod life;
mod orders;
pub mod plan;
mod probe;
mod seats;
pub mod tally;
pub mod trouble;
pub mod voyage;
mod wider;

pub use plan::Plan;
pub use tally::Tally;
pub use voyage::sail;
