//! NBD on a Unix socket: fixed newstyle; simple, structured and extended replies; block status. For
//! machines without ublk, for containers and for remote use.
//!
//! - [`protocol`] the bytes: parsing and printing, no I/O;
//! - [`socket`] sockets whose operations are entries of the engine's ring;
//! - [`server`] who is served, who waits, and who has to go;
//! - `connection` one client: options, requests, replies on their way; `inbox` what it sent;
//!   `serve` its requests, each turned into one `await` on a [`BlockTarget`].
//!
//! [`BlockTarget`]: crate::target::BlockTarget

mod connection;
mod inbox;
pub mod protocol;
mod serve;
pub mod server;
pub mod socket;
#[cfg(test)]
mod tests;

pub use server::{NbdServer, Patience, ServerConfig};
