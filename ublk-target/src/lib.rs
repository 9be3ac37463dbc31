//! ① of the way of a request: the front ends, and the daemon that holds an array.
//!
//! - [`target`] what a front end asks of the thing behind it;
//! - [`ublk`] `/dev/ublkbN`; [`nbd`] the same over a Unix socket;
//! - [`control`] the daemon's control socket, both halves;
//! - [`daemon`] what `evenkeel start` runs: locks, the array, a front end, and their end;
//!   [`process`] what makes a process a daemon that its own device cannot deadlock.
//!
//! Nothing but [`ublk`] names libublk, and nothing behind the front ends knows of them.

pub mod control;
pub mod daemon;
pub mod nbd;
pub mod process;
pub mod target;
pub mod ublk;
