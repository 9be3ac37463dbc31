//! NBD on a Unix socket: fixed newstyle, simple replies. For machines without ublk, for
//! containers and for remote use.
//!
//! - [`protocol`] the bytes: parsing and printing, no I/O;
//! - [`socket`] sockets whose operations are entries of the engine's ring;
//! - [`server`] connections, and requests turned into one `await` on a [`BlockTarget`] each.
//!
//! [`BlockTarget`]: crate::target::BlockTarget

pub mod protocol;
pub mod server;
pub mod socket;
#[cfg(test)]
mod tests;

pub use server::{NbdServer, ServerConfig};
