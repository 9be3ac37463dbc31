//! What a start refuses because something would be lost, and what it gives up when it is forced
//! (P6): each time a sentence that says what, how much at most, and what is still there.
//!
//! What must hold: nothing is given up without `--force`, but the log of an array whose last stop
//! emptied it; what is kept of a damaged log is a prefix of what was committed after its tail; no
//! LSN that a map page may know is given out again; two stripes never share a slot.

use std::collections::HashMap;

use evenkeel_journal::record::Record;
use evenkeel_journal::replay::{LogContents, LogError, Survey};
use evenkeel_journal::{BLOCK, CommitNumber, Lsn, RunIdentity, Slot, Stripe};

use super::before::Plane;
use crate::checksums::{Checksums, DEFAULT_MEMORY};
use crate::codec::Code;
use crate::error::{ArrayError, ErrorKind};
use crate::geometry::Geometry;
use crate::map::{Entry, Map};
use crate::options::StartOptions;
use crate::replay::{Adopted, Recovered};
use crate::superblock::Superblock;

/// What a read-only start says of parity that may be wrong.
pub(super) const UNEVEN_READ_ONLY: &str = "Warning: parity may not fit its data, since a part of \
     the log was given up; a start that writes makes it right. Until then blocks of members that \
     are absent may be wrong.";

/// Of the memory for checksums the shape before gets, on top, one of so many parts.
const BEFORE_SHARE: u64 = 4;

/// What is said when the log begins anew on the members.
pub(super) const LOG_GOES_HOME: &str = "Warning: too few of the journal devices are here. The log \
     is on the members from now on; the journal devices are left out for good.";

/// Refuses what is not this program's or this machine's to start.
pub(super) fn check_right_to_start(
    sb: &Superblock,
    here: &RunIdentity,
    options: &StartOptions,
    notices: &mut Vec<String>,
) -> Result<(), ArrayError> {
    if let Some(why) = sb.read_only_because().filter(|_| !options.read_only) {
        return Err(ArrayError::new(
            ErrorKind::Unsupported,
            format!(
                "The array {} cannot be written by this program: {why}. Nothing was written. \
                 Start it with --read-only, or with a newer version.",
                sb.name
            ),
        ));
    }
    // A boot is of one machine alone, whatever its containers are called.
    let elsewhere = sb.ring != 0 && sb.boot != here.boot && sb.host != here.host;
    if !elsewhere || sb.host == 0 || here.host == 0 {
        return Ok(());
    }
    let held = format!(
        "The array {} was last held by another machine ({:032x}) and was not stopped there.",
        sb.name, sb.host
    );
    if options.force {
        notices.push(format!(
            "Warning: {held} It was started here by force. What was acknowledged there and not \
             flushed may be missing; if it still runs there, both destroy it: stop one at once."
        ));
        return Ok(());
    }
    Err(ArrayError::new(
        ErrorKind::Held,
        format!(
            "{held} If it still runs there, a start here would destroy it. Nothing was written. \
             Stop it there; if that machine is gone for good, start here with --force: what was \
             acknowledged there and not flushed may then be missing."
        ),
    ))
}

/// A ring that cannot be used, given up.
pub(super) fn give_up_ring(g: &Geometry, why: &ArrayError) -> String {
    let why = why.message.replace(" Nothing was written.", "");
    format!(
        "Given up by force: the ring of the last daemon. {why} With it at most {} bytes of \
         acknowledged writes are lost that were not flushed; what was flushed is in the log.",
        g.cache_blocks * BLOCK as u64
    )
}

/// What decides about a damaged log.
pub(super) struct Salvage<'a> {
    pub sb: &'a Superblock,
    pub force: bool,
    /// The log goes to the members, where nothing of it has to be.
    pub moving: bool,
}

/// What is replayed of the log.
pub(super) struct Kept {
    pub contents: LogContents,
    /// Acknowledged writes were given up with the rest of it.
    pub lossy: bool,
}

impl Salvage<'_> {
    /// The part of the log that is replayed.
    ///
    /// # Errors
    /// It is damaged or missing, the last stop did not empty it, and nobody forced the start.
    pub(super) fn log(
        &self,
        survey: Result<Survey, LogError>,
        notices: &mut Vec<String>,
    ) -> Result<Kept, ArrayError> {
        let Survey { mut contents, damage } = survey.map_err(|e| {
            let what = what_is_wrong(&e);
            ArrayError::new(ErrorKind::Unsupported, format!("{what} Nothing was written."))
        })?;
        let Some(damage) = damage else { return Ok(Kept { contents, lossy: false }) };
        let what = what_is_wrong(&damage);
        if self.sb.clean {
            // What it still holds is in place, and older than what is there.
            contents.commits.clear();
            contents.anew = Some(contents.max_lsn);
            // Journal devices have other indices in a wider shape, so what they hold is another array's.
            let elsewhere = self.moving || self.sb.geometry.before.is_some();
            if !(elsewhere && damage == LogError::Missing) {
                notices.push(format!(
                    "Warning: {what} The last stop had emptied it, so nothing is lost; the log \
                     begins anew."
                ));
            }
            return Ok(Kept { contents, lossy: false });
        }
        let cost = self.cost(&contents, &damage);
        if !self.force {
            return Err(ArrayError::new(
                ErrorKind::LogDamaged,
                format!(
                    "{what} Nothing was written. Bring back members that are missing and start \
                     again. With --force the start goes on: {cost}"
                ),
            ));
        }
        notices.push(format!("Given up by force: a part of the log. {what} {cost}"));
        Ok(Kept { contents, lossy: true })
    }

    /// Checks that no page of the map is newer than the log's end: pages are written from durable
    /// commits alone.
    ///
    /// # Errors
    /// The log is older, the last stop did not empty it, and nobody forced the start.
    pub(super) fn not_older(
        &self,
        log: &mut Kept,
        map: &Map,
        notices: &mut Vec<String>,
    ) -> Result<(), ArrayError> {
        let (end, known) = (log.contents.end_lsn(), map.newest());
        if log.lossy || log.contents.anew.is_some() || known <= end {
            return Ok(());
        }
        let what = format!(
            "The log ends at record {end}, but the map knew record {known} as durable: the devices \
             that hold the log are older copies of themselves."
        );
        if self.sb.clean {
            log.contents.commits.clear();
            log.contents.anew = Some(log.contents.max_lsn);
            notices.push(format!(
                "Warning: {what} The last stop had emptied it, so nothing is lost; the log begins \
                 anew."
            ));
            return Ok(());
        }
        if !self.force {
            return Err(ArrayError::new(
                ErrorKind::LogDamaged,
                format!(
                    "{what} Nothing was written. Bring back the right ones and start again. With \
                     --force the start goes on: what was acknowledged since is lost, and blocks may \
                     hold older content."
                ),
            ));
        }
        log.lossy = true;
        notices.push(format!("Given up by force: the newest part of the log. {what}"));
        Ok(())
    }

    /// What going on without the rest of the log costs.
    fn cost(&self, contents: &LogContents, damage: &LogError) -> String {
        let g = &self.sb.geometry;
        let kept: u64 = contents.commits.iter().map(|c| u64::from(c.header.rows)).sum();
        let most = g.rows_of_log().saturating_sub(kept) * g.log_width() as u64 * BLOCK as u64;
        let last = contents.commits.last().map(|c| c.header.number);
        let known = match damage {
            LogError::Damaged { durable, .. } => *durable,
            _ => CommitNumber(0),
        };
        let to = known.max(contents.max_number);
        let which = match last {
            Some(last) => format!("the commits after {last}, up to {to},"),
            None if to.0 > 0 => format!("all commits of the log, up to {to},"),
            None => "all that the log held".into(),
        };
        format!(
            "{which} are lost ({} of them were seen, with {} bytes), at most {most} bytes of \
             acknowledged writes. Blocks that they wrote keep older content, and stripes that they \
             moved may hold content of before or of other stripes: check what is on the device. \
             Parity is made right before requests are taken.",
            contents.torn_commits, contents.torn_bytes
        )
    }
}

impl Kept {
    /// Whether new records do not simply follow those that are kept.
    pub(super) fn begins_elsewhere(&self) -> bool {
        self.lossy || self.contents.anew.is_some()
    }

    /// Pages know of records up to `lsn`: new ones come after them.
    pub(super) fn above(&mut self, lsn: Lsn) {
        let c = &mut self.contents;
        if self.lossy || c.anew.is_some() {
            c.max_lsn = c.max_lsn.max(lsn);
            c.anew = c.anew.map(|anew| anew.max(c.max_lsn));
        }
    }

    /// Case XB: in a sound log two stripes never lie in one slot. If the Place that moved one of
    /// them away was given up, the newer one keeps the slot, and the other one is unmapped.
    pub(super) fn one_stripe_a_slot(
        &mut self,
        mut recovered: Recovered,
        notices: &mut Vec<String>,
    ) -> Result<Recovered, ArrayError> {
        let mut owner: HashMap<Slot, (Lsn, Stripe)> = HashMap::new();
        let mut losers: Vec<Stripe> = Vec::new();
        for (stripe, Entry { slot, lsn }) in recovered.map.entries() {
            let Some(slot) = slot else { continue };
            let Some((other_lsn, other)) = owner.insert(slot, (lsn, stripe)) else { continue };
            if !self.lossy {
                return Err(ArrayError::new(
                    ErrorKind::LogDamaged,
                    format!(
                        "Map and log put two stripes into slot {slot}: {other} and {stripe}. \
                         Nothing was written."
                    ),
                ));
            }
            if other_lsn > lsn {
                owner.insert(slot, (other_lsn, other));
                losers.push(stripe);
            } else {
                losers.push(other);
            }
        }
        if losers.is_empty() {
            return Ok(recovered);
        }
        let names: Vec<String> = losers.iter().map(Stripe::to_string).collect();
        notices.push(format!(
            "Given up by force: the content of the stripes {}. Where they lay is in use by others; \
             they read as zeros.",
            names.join(", ")
        ));
        let all = losers.len();
        for (i, stripe) in losers.into_iter().enumerate() {
            let lsn = self.contents.max_lsn.next();
            self.contents.max_lsn = lsn;
            recovered.map.moved(stripe, None, lsn);
            recovered.sums.remove(&stripe);
            recovered.parities.retain(|p| p.stripe != stripe);
            recovered.adopted.push(Adopted {
                lsn,
                record: Record::Unmap { first: stripe, count: 1, horizon: Lsn(0) },
                data: Vec::new(),
                last: i + 1 == all,
            });
        }
        Ok(recovered)
    }
}

impl Kept {
    /// The shape before, as it is in use beside what replay found.
    ///
    /// # Errors
    /// Case VE: stripes of both shapes have one slot, and nothing of the log was given up.
    pub(super) fn plane_before(
        &self,
        g: &Geometry,
        map: Map,
        sb: &Superblock,
        options: &StartOptions,
        recovered: &Recovered,
        notices: &mut Vec<String>,
    ) -> Result<Plane, ArrayError> {
        let old = g.shape_before().expect("stripes of the shape before are in use");
        let code = Code::new(old.level, old.data, old.parity).map_err(|e| {
            ArrayError::new(ErrorKind::Unsupported, format!("The code of the shape before: {e}."))
        })?;
        let memory = options.checksum_cache.unwrap_or(DEFAULT_MEMORY) / BEFORE_SHARE;
        let sums = Checksums::new(old, sb.array, memory, std::collections::BTreeMap::new());
        let dirty: std::collections::HashSet<Stripe> =
            recovered.dirty.keys().map(|(stripe, _)| *stripe).collect();
        let now = &recovered.map;
        let in_use = |s: Stripe| now.get(s).slot.is_some() || dirty.contains(&s);
        let (plane, twice) = Plane::new(g, code, (map, sums), now, in_use);
        if twice.is_empty() {
            return Ok(plane);
        }
        let names: Vec<String> = twice.iter().map(Stripe::to_string).collect();
        let names = names.join(", ");
        if !self.lossy {
            return Err(ArrayError::new(
                ErrorKind::LogDamaged,
                format!(
                    "Map and log put stripes of the wider shape into the slots of the stripes {names} of \
                     the shape before, which are still needed. Nothing was written."
                ),
            ));
        }
        notices.push(format!(
            "Given up by force: the content of the stripes {names} of the shape before. Where they lay is \
             in use by others; they read as zeros."
        ));
        Ok(plane)
    }
}

fn what_is_wrong(e: &LogError) -> String {
    match e {
        LogError::Missing => "The log holds no commit at all: it was overwritten, or the disks \
                              are not what they say."
            .to_string(),
        LogError::Damaged { last_whole: CommitNumber(0), durable } => format!(
            "The log is damaged: no commit of it is whole together with the oldest one that it \
             still needed, and commit {durable} was durable."
        ),
        LogError::Damaged { last_whole, durable } => format!(
            "The log is damaged: commit {durable} was durable, but the last one that is whole is \
             {last_whole}."
        ),
        LogError::Unknown { number, version } => format!(
            "Commit {number} of the log has version {version}, which this program does not know."
        ),
    }
}
