//! What is fuzzed.

mod arguments;
mod array;
mod codes;
mod disk;
mod epochs;
mod log;
mod nbd;
mod ring;

/// A function of hostile bytes.
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// What it is, for people.
    pub what: &'static str,
    /// Runs one input; panics if it finds something.
    pub run: fn(&[u8]),
    /// Inputs to begin with: valid encodings, or decisions that lead somewhere.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Inputs by chance in a short run.
    pub executions: u32,
    /// Most bytes that an input may take.
    pub memory: usize,
}

const MIB: usize = 1 << 20;

/// All of them.
pub const TARGETS: &[Target] = &[
    Target {
        name: "superblock",
        what: "a superblock: fields, table, shape",
        run: disk::superblock,
        seeds: disk::superblock_seeds,
        executions: 100_000,
        memory: 4 * MIB,
    },
    Target {
        name: "page",
        what: "pages: of the map, of checksums, of the scrub",
        run: disk::page,
        seeds: disk::page_seeds,
        executions: 300_000,
        memory: MIB,
    },
    Target {
        name: "column",
        what: "the header of a column of a commit",
        run: log::column,
        seeds: log::column_seeds,
        executions: 300_000,
        memory: MIB,
    },
    Target {
        name: "record",
        what: "the records of a commit",
        run: log::record,
        seeds: log::record_seeds,
        executions: 500_000,
        memory: 4 * MIB,
    },
    Target {
        name: "log",
        what: "a whole log, changed behind its CRCs: what counts, where it ends, what is mended",
        run: log::walk,
        seeds: log::walk_seeds,
        executions: 3_000,
        memory: 128 * MIB,
    },
    Target {
        name: "ring",
        what: "a ring that a dead daemon left",
        run: ring::adopt,
        seeds: ring::seeds,
        executions: 20_000,
        memory: 16 * MIB,
    },
    Target {
        name: "epoch",
        what: "superblocks of several disks: which epoch counts, who belongs to it",
        run: epochs::decide_any,
        seeds: epochs::seeds,
        executions: 50_000,
        memory: 4 * MIB,
    },
    Target {
        name: "geometry",
        what: "the shape of an array for any sizes",
        run: epochs::plan_any,
        seeds: epochs::plan_seeds,
        executions: 100_000,
        memory: 4 * MIB,
    },
    Target {
        name: "array",
        what: "a start on disks and rings changed behind their CRCs; then reads, writes, a stop",
        run: array::start,
        seeds: array::seeds,
        executions: 1_500,
        memory: 256 * MIB,
    },
    Target {
        name: "handshake",
        what: "what an NBD client sends before its requests",
        run: nbd::handshake,
        seeds: nbd::handshake_seeds,
        executions: 500_000,
        memory: 4 * MIB,
    },
    Target {
        name: "request",
        what: "the requests of an NBD client",
        run: nbd::requests,
        seeds: nbd::request_seeds,
        executions: 500_000,
        memory: MIB,
    },
    Target {
        name: "control",
        what: "lines of the control socket, both ways",
        run: arguments::control,
        seeds: arguments::control_seeds,
        executions: 400_000,
        memory: 4 * MIB,
    },
    Target {
        name: "config",
        what: "the configuration file, and lists of disks",
        run: arguments::config,
        seeds: arguments::config_seeds,
        executions: 400_000,
        memory: 4 * MIB,
    },
    Target {
        name: "size",
        what: "sizes on the command line",
        run: arguments::size,
        seeds: arguments::size_seeds,
        executions: 400_000,
        memory: MIB,
    },
    Target {
        name: "codes",
        what: "encode, update and reconstruct with every kernel against the plain one",
        run: codes::differential,
        seeds: codes::seeds,
        executions: 8_000,
        memory: 64 * MIB,
    },
];
