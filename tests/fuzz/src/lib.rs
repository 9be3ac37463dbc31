//! Hostile bytes for everything in Evenkeel that reads bytes: disks, rings, sockets, files and
//! arguments that somebody made up, or that broke in the worst way.
//!
//! What every target checks: nothing panics, nothing goes on for ever, nothing takes memory beyond a
//! bound; and what decodes comes back the same after it was encoded again. Most structures
//! carry a CRC, so an input that is merely changed would end there; so the targets make
//! magic, position and CRCs right again, and try each input both ways.
//!
//! - [`targets`] what is fuzzed, each a function of bytes; [`choices`] bytes read as decisions;
//! - [`hostile`] images of real arrays, changed behind all CRCs;
//! - [`memory`] how much an input takes; [`mod@mutate`] inputs by chance.
//!
//! The program `fuzz` runs the saved inputs and as many by chance; the program `libfuzzer` is the
//! same targets under coverage (`tests/fuzz/run`).

pub mod choices;
pub mod hostile;
pub mod memory;
pub mod mutate;
pub mod targets;

pub use targets::{TARGETS, Target};

/// Runs one input against a target.
///
/// # Panics
/// If the target finds something, or if the input took more memory than it may.
pub fn run(target: &Target, input: &[u8]) {
    let took = memory::most_during(|| (target.run)(input));
    assert!(
        took <= target.memory,
        "an input of {} bytes took {took} bytes of memory; {} are allowed",
        input.len(),
        target.memory
    );
}
