//! Power cuts of a whole machine: all disks of a virtual machine with a volatile cache that one
//! process keeps ([`disk`], [`server`]), and programs that run in the machine, say outside what
//! they were promised, and look for it after the cut ([`records`] on a file system, [`blocks`] on
//! the bare device). And another view of the same: what dm-log-writes saw ([`log`]).

pub mod acks;
pub mod blocks;
pub mod disk;
pub mod log;
pub mod records;
pub mod server;
