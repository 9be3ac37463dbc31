//! What can be said on the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::size::parse_size;

const AFTER_HELP: &str = "\
A first array:
  evenkeel create data --level raid6 /dev/sd[b-g]
  evenkeel start data                    prints the device, /dev/ublkbN
  evenkeel status data
  evenkeel stop data

A DISK is a block device or a file. Sizes and offsets take K, M, G and T (powers of 1024).
The run directory is /run/evenkeel, or $EVENKEEL_RUN_DIR.

Exit codes:
   0 done                     13 in use: a daemon, a mount, another program
   1 failed                   14 log damaged or missing
   2 usage                    15 too small
  10 too few members          16 something else is on the disk
  11 members disagree         17 format or feature not supported
  12 foreign, duplicate       18 ublk not available
     or cloned member";

const AFTER_START: &str = "\
The program of --hook is run on every event, one run at a time, as mdadm --monitor runs one:
  PROGRAM EVENT DEVICE [MEMBER]
with the event as a sentence in $EVENKEEL_SENTENCE and the array's name in $EVENKEEL_ARRAY. EVENT is
one of mdadm's names (NewArray, DegradedArray, DeviceDisappeared, Fail, FailSpare, SpareActive,
RebuildStarted, RebuildNN, RebuildFinished, SparesMissing) or of our own (ScrubStarted, ScrubFinished,
Mismatch, Healed, ReadError, Failing, Slow, Frozen, Thawed, Halted, Grown, Note).

/etc/evenkeel.conf ($EVENKEEL_CONF names another) is optional: a line each for disks that a start
by name looks at besides the block devices, and one line for the hook of all arrays:
  # comment
  /srv/disk0
  PROGRAM /usr/local/sbin/array-event";

const AFTER_CREATE: &str = "\
Everything is checked before the first byte is written: a disk that is in use (13), is given twice
by whatever path (12), carries something else (16, unless forced) or is too small (15) is refused.
There is no initial sync. The smallest disk counts; what the others have beyond it is not used (see grow).

Examples:
  evenkeel create data --level raid6 /dev/sd[b-g]               4 data, any 2 of 6 may be lost
  evenkeel create safe --level rs --parity 3 /dev/sd[b-k]       7 data, any 3 of 10 may be lost
  evenkeel create test --level raid5 --file-size 1G a b c       three sparse files
  evenkeel create data --level raid5 --spare /dev/sdf /dev/sd[b-e]   a spare for the one that fails
  evenkeel create data --level raid6 --dry-run /dev/sd[b-g]     only says what would be";

const AFTER_LOCATE: &str = "\
A running array is asked by its name. The disks of a stopped one are read, also after a crash: the
log is replayed in memory, and nothing is written. `dirty` says that the newest content is still
in the log or the cache; then the place named may hold the old one.

Examples:
  evenkeel locate data --byte 1G
  evenkeel locate /dev/sd[b-g] --byte 1073741824 --json";

const AFTER_SCRUB: &str = "\
It goes on in the background, pauses while requests are slow, and goes on after a restart (not where
the array has no checksums). `status` shows how far it is and what it found; `wait NAME scrub` waits
for its end. One begins by itself a month after the last one (start --scrub-every).

Examples:
  evenkeel scrub data && evenkeel wait data scrub && evenkeel status data
  evenkeel scrub data --check-only          writes nothing but its progress
  evenkeel scrub data --stop";

const AFTER_UPGRADE: &str = "\
The new daemon is this program, with the options that the old one was started with. A ublk device stays,
mounted or not: its requests wait for a moment. NBD clients connect again, to the same socket. Nothing that was
acknowledged is lost. What the new daemon could not go on with is refused (10, 17) before the old one is
asked to leave. To change options at the same time: evenkeel start NAME --takeover ...";

const AFTER_ADD: &str = "\
A disk that was a member until it failed or was pulled gets what it missed, and only that. Any other is a
spare: it takes the place of a member that is out, at once, or waits until one fails. A disk that is in
use (13), is too small (15) or carries something else, also a member of another array (16), is refused.

Examples:
  evenkeel add data /dev/sdh && evenkeel wait data rebuild
  evenkeel status data                      shows how far the rebuild is";

const AFTER_REMOVE: &str = "\
Spares can be taken out, and members that have failed or are missing. One that is in use is refused (1):
replace it by another disk, or fail it first.

Examples:
  evenkeel remove data /dev/sdh
  evenkeel fail data /dev/sdc && evenkeel remove data /dev/sdc";

const AFTER_REPLACE: &str = "\
The array stays as safe as it is: OLD is read and written as long as it works, and leaves when NEW has
everything. NEW is a disk as for add, or a spare of this array.

Examples:
  evenkeel replace data /dev/sdc /dev/sdh && evenkeel wait data rebuild
  evenkeel fail data /dev/sdh               breaks it off; OLD stays";

const AFTER_GROW: &str = "\
With --size the array uses what all members have beyond what is used of them: after each was replaced by a
larger disk, or made larger where it is (a file, a logical volume). The smallest one counts, spares
included; where one has nothing to give, that is refused (15). The array has to be whole, and goes on while
it grows. On Linux 6.16 and later /dev/ublkbN shows the new size at once, mounted or not; before, after the
next stop and start. NBD clients see it when they connect again.

With --add the disks become members: stripes get as many more data chunks, and as many members may be lost as
before. A disk is looked at as for add (13, 15, 16); it may be a spare of this array. Requests wait for a moment, in
which the array is stopped and started, and NBD clients stay connected. Then the stripes are moved to the wider
shape in the background, also after a restart; when all of them are, the array has its new size, and the device
shows it as with --size. `status` shows how far it is.

Examples:
  evenkeel replace data /dev/sdb /dev/sdh && evenkeel wait data rebuild      and so on, then:
  evenkeel grow data --size && resize2fs /dev/evenkeel/data
  evenkeel grow data --add /dev/sdh && evenkeel wait data grow && resize2fs /dev/evenkeel/data";

const AFTER_DESTROY: &str = "\
What the array held is given up, though only the superblocks are wiped: afterwards the disks are no
members any more, and create takes them without --force. All disks are checked before the first one
is wiped: one that is no member (12), is in use (13) or carries something newer (16) refuses all.";

/// Evenkeel: several disks or files as one block device that never half-writes a stripe.
#[derive(Parser, Debug)]
#[command(name = "evenkeel", version, arg_required_else_help = true, after_help = AFTER_HELP)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Make an array of disks or files.
    #[command(after_help = AFTER_CREATE)]
    Create(CreateArgs),
    /// Start an array and print its device or socket once it serves.
    #[command(after_help = AFTER_START)]
    Start(StartArgs),
    /// Put this program in the place of a running array's daemon, while the device is in use.
    #[command(after_help = AFTER_UPGRADE)]
    Upgrade(UpgradeArgs),
    /// Stop an array: everything goes to its place and the members are marked clean.
    Stop(StopArgs),
    /// Show one array, or all that run.
    Status(StatusArgs),
    /// Fail a member: nothing is read from it or written to it any more.
    Fail(DiskArgs),
    /// Take a disk in: as a spare, or as the member that it was.
    #[command(after_help = AFTER_ADD)]
    Add(DiskArgs),
    /// Take out a spare, or a member that has failed.
    #[command(after_help = AFTER_REMOVE)]
    Remove(DiskArgs),
    /// Have another disk take a member's place, under load.
    #[command(after_help = AFTER_REPLACE)]
    Replace(ReplaceArgs),
    /// Make an array that runs larger.
    #[command(after_help = AFTER_GROW)]
    Grow(GrowArgs),
    /// Compare everything that the disks hold with its checksums, and make right what is wrong.
    #[command(after_help = AFTER_SCRUB)]
    Scrub(ScrubArgs),
    /// Wait until something is done.
    Wait(WaitArgs),
    /// Show what members say of themselves, with the byte ranges of every area.
    Examine(ExamineArgs),
    /// Show the commits and records in the log, and where it ends and why.
    Log(LogArgs),
    /// Say on which disks, at which bytes, a byte of the device and its parity lie.
    #[command(after_help = AFTER_LOCATE)]
    Locate(LocateArgs),
    /// Wipe the superblocks of members, so that the disks are free for something else.
    #[command(after_help = AFTER_DESTROY)]
    Destroy(DestroyArgs),
}

/// `create`
#[derive(Args, Debug)]
pub struct CreateArgs {
    /// Name of the array.
    pub name: String,
    /// Which code: raid1, raid5, raid6, evenodd or rs.
    #[arg(long)]
    pub level: String,
    /// Data chunks of a stripe. Default: the disks less the parity (raid1: 1).
    #[arg(long, value_name = "K")]
    pub data: Option<usize>,
    /// Parity chunks of a stripe: how many disks may be lost. Default: 1 for raid5, 2 for raid6
    /// and evenodd, the disks less the data for raid1 and rs.
    #[arg(long, value_name = "M")]
    pub parity: Option<usize>,
    /// Bytes of a chunk, one disk's part of a stripe.
    #[arg(long, value_name = "SIZE", default_value = "64K", value_parser = parse_size)]
    pub chunk: u64,
    /// Bytes of the log on every disk, or on every journal device. Default: chosen from their size.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub log_size: Option<u64>,
    /// Bytes of the write-back cache. Default: 64M, less for small arrays.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub cache: Option<u64>,
    /// Keep the log on this disk, which holds nothing else; may be given up to 8 times. One more
    /// than the parity makes the log as safe as the data.
    #[arg(long, value_name = "DEV")]
    pub journal: Vec<PathBuf>,
    /// Keep the log's front in persistent memory (not supported yet).
    #[arg(long, value_name = "PATH")]
    pub nvram: Option<PathBuf>,
    /// A disk that takes the place of a member that fails, by itself; may be given more than once.
    #[arg(long, value_name = "DISK")]
    pub spare: Vec<PathBuf>,
    /// Create missing files sparse, with this size.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub file_size: Option<u64>,
    /// Keep no checksums of blocks.
    #[arg(long)]
    pub no_checksums: bool,
    /// Check everything and say what would be made, but write nothing, not one byte.
    #[arg(long)]
    pub dry_run: bool,
    /// Overwrite what is on the disks; says what that is.
    #[arg(long)]
    pub force: bool,
    /// Block devices or files, in the order of the array.
    #[arg(required = true, value_name = "DISK")]
    pub disks: Vec<PathBuf>,
}

/// Front end of an array.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Via {
    /// A block device of the kernel, /dev/ublkbN.
    Ublk,
    /// NBD on a Unix socket.
    Nbd,
}

/// When a write is acknowledged.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum AckArg {
    /// When its place in the log is durable.
    Durable,
    /// When it is in memory that survives the daemon; flushes make it durable.
    Cached,
}

/// `start`
#[derive(Args, Debug)]
pub struct StartArgs {
    /// The array's name, or its disks in any order.
    #[arg(required = true, value_name = "NAME|DISK")]
    pub what: Vec<PathBuf>,
    /// Front end. Default: ublk.
    #[arg(long, value_enum)]
    pub via: Option<Via>,
    /// Where the NBD server listens. Default: NAME.nbd in the run directory.
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// When a write is acknowledged. Default: cached.
    #[arg(long, value_enum)]
    pub ack: Option<AckArg>,
    /// Write nothing at all, not even to replay the log.
    #[arg(long)]
    pub read_only: bool,
    /// Stay in the foreground instead of running as a daemon.
    #[arg(long)]
    pub foreground: bool,
    /// Also where a daemon runs: take over from it, as upgrade does; what is not said here stays as it
    /// was started. (From a dead daemon every start takes over.)
    #[arg(long)]
    pub takeover: bool,
    /// Bytes a second that a rebuild, or a growth by more disks, writes at most. Default: as many as the disks give while requests
    /// are answered within 20 ms.
    #[arg(long, value_name = "RATE", value_parser = parse_size)]
    pub rebuild_rate: Option<u64>,
    /// Start although so many members are absent that acknowledged writes may be lost.
    #[arg(long)]
    pub accept_missing: bool,
    /// Start although the log or its ring is damaged or missing, giving up what it held, or
    /// although another machine did not stop the array.
    #[arg(long)]
    pub force: bool,
    /// How long a disk may take for an operation before it counts as failed, in seconds. Default: 30.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub io_timeout: Option<u64>,
    /// Memory for checksums; all of them take about 1.02 G × (members / data) for 1 T stored.
    /// Default: 64M.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub checksum_cache: Option<u64>,
    /// Run this program on every event. Default: that of the PROGRAM line in /etc/evenkeel.conf, if
    /// there is one.
    #[arg(long, value_name = "PROGRAM")]
    pub hook: Option<PathBuf>,
    /// How long the hook may take for an event before it is killed, in seconds. Default: 60.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub hook_timeout: Option<u64>,
    /// Begin a scrub when the last one ended so many days ago; 0: never. Before the first one the
    /// array's creation counts; without checksums the start does, and the scrub only looks.
    #[arg(long, value_name = "DAYS", default_value = "30", value_parser = parse_days)]
    pub scrub_every: Days,
}

/// `--scrub-every`: None is never.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Days(pub Option<Duration>);

fn parse_days(text: &str) -> Result<Days, String> {
    let days: f64 = text.parse().map_err(|_| "a number of days is wanted".to_owned())?;
    if !(0.0..=36_500.0).contains(&days) {
        return Err("it is 0 to 36500 days".to_owned());
    }
    Ok(Days((days > 0.0).then(|| Duration::from_secs_f64(days * 86_400.0))))
}

/// `upgrade`
#[derive(Args, Debug)]
pub struct UpgradeArgs {
    /// Name of the array.
    pub name: String,
}

/// `stop`
#[derive(Args, Debug)]
pub struct StopArgs {
    /// Name of the array.
    pub name: String,
    /// Also while the device is open.
    #[arg(long)]
    pub force: bool,
}

/// `status`
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// Name of the array. Default: all that run.
    pub name: Option<String>,
    /// Print JSON: an object for NAME, a list without.
    #[arg(long)]
    pub json: bool,
    /// Print nothing; exit with 0 healthy, 1 degraded or rebuilding, 2 failed, 4 no such array.
    #[arg(long)]
    pub test: bool,
    /// Print again every second until the array stops, or Ctrl-C. With --json: a line each.
    #[arg(long, conflicts_with = "test")]
    pub watch: bool,
}

/// `fail`, `add`, `remove`
#[derive(Args, Debug)]
pub struct DiskArgs {
    /// Name of the array.
    pub name: String,
    /// Path of the disk.
    pub disk: PathBuf,
}

/// `replace`
#[derive(Args, Debug)]
pub struct ReplaceArgs {
    /// Name of the array.
    pub name: String,
    /// Path of the member.
    pub old: PathBuf,
    /// Path of the disk that takes its place.
    pub new: PathBuf,
}

/// `grow`
#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("how").required(true).args(["size", "add"]))]
pub struct GrowArgs {
    /// Name of the array.
    pub name: String,
    /// By what all members have beyond what is used of them.
    #[arg(long)]
    pub size: bool,
    /// By these disks, which become members.
    #[arg(long, value_name = "DISK", num_args = 1..)]
    pub add: Vec<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `scrub`
#[derive(Args, Debug)]
pub struct ScrubArgs {
    /// Name of the array.
    pub name: String,
    /// Only look and count: make nothing right.
    #[arg(long)]
    pub check_only: bool,
    /// End the scrub that is under way, for good.
    #[arg(long, conflicts_with = "check_only")]
    pub stop: bool,
}

/// What to wait for.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitWhat {
    /// The end of the rebuild, if one is under way or about to begin.
    Rebuild,
    /// The end of the scrub, if one is under way.
    Scrub,
    /// Everything that is in the cache now being in its place.
    Destage,
    /// The end of a growth by more disks, if one is under way; the device shows the new size then.
    Grow,
}

/// `wait`
#[derive(Args, Debug)]
pub struct WaitArgs {
    /// Name of the array.
    pub name: String,
    /// What to wait for.
    #[arg(value_enum)]
    pub what: WaitWhat,
    /// Give up after this many seconds.
    #[arg(long, value_name = "S")]
    pub timeout: Option<f64>,
}

/// `examine`
#[derive(Args, Debug)]
pub struct ExamineArgs {
    /// Print a JSON list, one entry a disk.
    #[arg(long)]
    pub json: bool,
    /// Members; they may be in use.
    #[arg(required = true, value_name = "DISK")]
    pub disks: Vec<PathBuf>,
}

/// `log`
#[derive(Args, Debug)]
pub struct LogArgs {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Members of one array; they may be in use, but then the end is a moving one.
    #[arg(required = true, value_name = "DISK")]
    pub disks: Vec<PathBuf>,
}

/// `locate`
#[derive(Args, Debug)]
pub struct LocateArgs {
    /// Byte of the device, from 0.
    #[arg(long, value_name = "OFFSET", value_parser = parse_size)]
    pub byte: u64,
    /// Print a JSON object.
    #[arg(long)]
    pub json: bool,
    /// The array's name, or the disks of one that is stopped.
    #[arg(required = true, value_name = "NAME|DISK")]
    pub what: Vec<PathBuf>,
}

/// `destroy`
#[derive(Args, Debug)]
pub struct DestroyArgs {
    /// Check everything and say what would be wiped, but write nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Members of arrays that are stopped.
    #[arg(required = true, value_name = "DISK")]
    pub disks: Vec<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_a_number_and_0_is_never() {
        let days = |text| parse_days(text).ok().map(|d| d.0);
        assert_eq!(days("0"), Some(None));
        assert_eq!(days("30"), Some(Some(Duration::from_secs(30 * 86_400))));
        assert_eq!(days("0.5"), Some(Some(Duration::from_secs(43_200))));
        for bad in ["-1", "36501", "NaN", "inf", "a month", ""] {
            assert_eq!(days(bad), None, "{bad}");
        }
    }
}
