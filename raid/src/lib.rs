//! The codes and the array ②: which disk holds what, in which order it gets there, and what is
//! still whole when some are lost. No system call is made here; see the seams in the journal.
//!
//! - [`codec`] the erasure codes: pure arithmetic;
//! - [`geometry`] where everything lies; [`superblock`] what a member says of itself; [`epoch`] which
//!   membership is in force; [`mod@locate`] where a byte of the device lies;
//! - [`mod@array`] requests, cache, destage, start and stop; [`scrub`] how far a scrub is;
//! - [`options`], [`status`], [`event`], [`error`] what goes in and what comes out.

mod advance;
pub mod array;
pub mod checksums;
pub mod codec;
pub mod epoch;
pub mod error;
pub mod event;
pub mod geometry;
pub mod hung;
pub mod locate;
pub mod map;
pub mod members;
mod news;
pub mod options;
pub mod page;
mod replay;
mod reset;
pub mod scrub;
pub mod status;
pub mod superblock;
mod unflushed;

pub use array::{
    Added, Array, Created, Extent, Grown, MAX_REQUEST, MAX_TRANSACTION, Transaction,
    TransactionBound, TransactionError, TransactionSize, assemble, create, create_with_journals,
    locate, plan, widen,
};
pub use error::{ArrayError, ErrorKind, RequestError};
pub use event::{Event, EventKind};
pub use locate::Located;
pub use options::{Ack, CreateOptions, Progress, StartOptions};
pub use status::Status;
