//! `evenkeel log`: the commits and records in the log, and where it ends and why.
//!
//! Reads past the page cache and takes no lock: of a running array it shows one moment, and its
//! newest commits may look torn.

use serde_json::{Value, json};
use uuid::Uuid;

use evenkeel_journal::record::Record;
use evenkeel_journal::replay::{ColumnCode, KeptCommit, LogContents, LogError, LogReader};
use evenkeel_journal::uring::{Access, UringDisk};
use evenkeel_journal::{BLOCK, Bounded, MemberIndex};
use evenkeel_raid::codec::Code;
use evenkeel_raid::geometry::LogHome;
use evenkeel_raid::superblock::Superblock;
use evenkeel_ublk_target::control::Failure;

use crate::cli::LogArgs;
use crate::progress::Shown;
use crate::size::human;
use crate::{Outcome, engine, find, print};
use evenkeel_raid::hung::IO_TIMEOUT;

pub fn run(args: &LogArgs) -> Outcome {
    let (engine, world) = engine::open()?;
    let mut newest: Option<Superblock> = None;
    let mut found: Vec<(Superblock, UringDisk, String)> = Vec::new();
    for path in &args.disks {
        let shown = path.display().to_string();
        let copies = find::superblocks(path)
            .map_err(|e| Failure::new(1, format!("{shown} cannot be read: {e}.")))?;
        let Some(s) = find::counting(&copies) else {
            return Err(Failure::new(12, format!("{shown} is no member of an array.")));
        };
        if let Some((other, _, first)) = found.first()
            && other.array != s.array
        {
            return Err(Failure::new(12, format!("{shown} and {first} are of different arrays.")));
        }
        if newest.as_ref().is_none_or(|n| n.epoch < s.epoch) {
            newest = Some(s.clone());
        }
        found.push((s.clone(), engine::open_disk(&engine, path, Access::Look)?, shown));
    }
    let Some(newest) = newest else { return Ok(0) };
    let stale: Vec<&String> =
        found.iter().filter(|(s, ..)| s.epoch < newest.epoch).map(|(.., p)| p).collect();
    for path in &stale {
        eprintln!("evenkeel: {path} is of an older epoch, so its log is left out.");
    }
    let g = &newest.geometry;
    let members: Vec<_> = found
        .iter()
        .filter(|(s, ..)| s.epoch == newest.epoch)
        .filter(|(s, ..)| g.log_devices().contains(&usize::from(s.index)))
        .map(|(s, disk, _)| (MemberIndex(s.index), Bounded::new(&world, disk, IO_TIMEOUT)))
        .collect();
    let code = Code::new(g.level, g.data, g.parity)
        .map_err(|e| Failure::new(17, format!("The array cannot be read: {e}.")))?;
    let code = Columns(code);
    let reader = LogReader { members: &members, geometry: g.log(newest.array), code: &code };
    let shown = Shown::new();
    let read = engine.block_on(reader.read(&|done, all| shown.bytes("reading the log", done, all)));
    shown.end();

    let value = describe(&newest, members.len(), read.as_ref());
    if args.json {
        print(&serde_json::to_string_pretty(&value).unwrap_or_default());
    } else {
        print(&text(&value));
    }
    Ok(if read.is_ok() { 0 } else { 14 })
}

struct Columns(Code);

impl ColumnCode for Columns {
    fn rebuild(
        &self,
        width: usize,
        shards: &[Option<&[u8]>],
        wanted: &[usize],
        out: &mut [&mut [u8]],
    ) -> bool {
        self.0.reconstruct(width, shards, wanted, out).is_ok()
    }
}

fn describe(s: &Superblock, members: usize, read: Result<&LogContents, &LogError>) -> Value {
    let g = &s.geometry;
    let mut v = json!({
        "name": s.name,
        "uuid": Uuid::from_u128(s.array).to_string(),
        "members_read": members,
        "on": if g.log_home == LogHome::Members { "members" } else { "journals" },
        "rows": g.rows_of_log(),
        "bytes_per_member": g.rows_of_log() * BLOCK as u64,
        "commits": [],
    });
    match read {
        Ok(log) => {
            let last = &log.last().header;
            v["commits"] = log.commits.iter().map(commit).collect();
            v["end"] = json!({
                "after_commit": last.number.0,
                "row": (last.row + u64::from(last.rows)) % g.rows_of_log().max(1),
                "reason": if log.torn_commits == 0 { "nothing newer" } else { "torn" },
                "torn_commits": log.torn_commits,
                "torn_bytes": log.torn_bytes,
            });
        }
        Err(LogError::Missing) => v["end"] = json!({"reason": "missing"}),
        Err(LogError::Damaged { last_whole, durable }) => {
            v["end"] = json!({
                "reason": "damaged",
                "after_commit": last_whole.0,
                "known_durable": durable.0,
            });
        }
        Err(LogError::Unknown { number, version }) => {
            v["end"] = json!({
                "reason": "unknown version",
                "commit": number.0,
                "version": version,
            });
        }
    }
    v
}

fn commit(c: &KeptCommit) -> Value {
    let h = &c.header;
    json!({
        "number": h.number.0,
        "incarnation": format!("{:016x}", h.incarnation),
        "epoch": h.epoch,
        "lsn_first": h.lsn_first.0,
        "lsn_last": h.lsn_last.0,
        "row": h.row,
        "rows": h.rows,
        "width": h.width,
        "columns": h.members.len(),
        "members": h.members,
        "payload_bytes": u64::from(h.payload_blocks) * BLOCK as u64,
        "durable": h.durable.0,
        "tail": h.tail.0,
        "damaged_columns": c.damaged_columns,
        "records": c.records.iter().map(|r| record(r.lsn.0, &r.record)).collect::<Value>(),
    })
}

fn record(lsn: u64, r: &Record) -> Value {
    let mut v = match r {
        Record::Write { stripe, first, count, crcs } => json!({
            "type": "Write", "stripe": stripe.0, "first": first, "blocks": count,
            "zeros": crcs.is_none(),
        }),
        Record::Place { stripe, slot, horizon, .. } => json!({
            "type": "Place", "stripe": stripe.0, "slot": slot.0, "horizon": horizon.0,
        }),
        Record::Parity { stripe, slot, base, rows } => json!({
            "type": "Parity", "stripe": stripe.0, "slot": slot.0, "place_lsn": base.0,
            "rows": rows.len(),
            "blocks": rows.iter().map(|r| r.covered.len()).sum::<usize>(),
        }),
        Record::Unmap { first, count, horizon } => json!({
            "type": "Unmap", "stripe": first.0, "stripes": count, "horizon": horizon.0,
        }),
        Record::Lost { stripe, first, count } => json!({
            "type": "Lost", "stripe": stripe.0, "first": first, "blocks": count,
        }),
        Record::Checkpoint { incarnation } => json!({
            "type": "Checkpoint", "incarnation": format!("{incarnation:016x}"),
        }),
        #[allow(unreachable_patterns, reason = "kinds of record may be added")]
        other => json!({"type": format!("{other:?}")}),
    };
    v["lsn"] = json!(lsn);
    v
}

/// The same for people: a line a commit, a line a record.
fn text(v: &Value) -> String {
    let what = if v["on"] == "journals" { "journal device" } else { "member" };
    let mut out = format!(
        "The log of \"{}\": {} on every {what}, {} {what}s read",
        v["name"].as_str().unwrap_or_default(),
        human(v["bytes_per_member"].as_u64().unwrap_or(0)),
        v["members_read"]
    );
    for c in v["commits"].as_array().into_iter().flatten() {
        out += &format!(
            "\ncommit {} at row {}: {} of {} columns carry data, {}, durable to {}, tail {}",
            c["number"],
            c["row"],
            c["width"],
            c["columns"],
            human(c["payload_bytes"].as_u64().unwrap_or(0)),
            c["durable"],
            c["tail"]
        );
        if c["damaged_columns"].as_array().is_some_and(|d| !d.is_empty()) {
            out += &format!(", damaged columns {}", c["damaged_columns"]);
        }
        for r in c["records"].as_array().into_iter().flatten() {
            out += &format!("\n  {:>8}  {}", r["lsn"], r["type"].as_str().unwrap_or_default());
            for (key, value) in r.as_object().into_iter().flatten() {
                if !["lsn", "type"].contains(&key.as_str()) {
                    let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                    out += &format!(" {key} {value}");
                }
            }
        }
    }
    let end = &v["end"];
    out += &match end["reason"].as_str().unwrap_or_default() {
        "missing" => "\nNo commit is there at all.".to_owned(),
        "damaged" => format!(
            "\nDamaged: commit {} was known as durable, but the log is whole only up to {}.",
            end["known_durable"], end["after_commit"]
        ),
        "torn" => format!(
            "\nIt ends after commit {}: what follows ({} commits, {} bytes) was cut off before \
             it was acknowledged as durable.",
            end["after_commit"], end["torn_commits"], end["torn_bytes"]
        ),
        "unknown version" => format!(
            "\nCommit {} has version {}, which this version does not know.",
            end["commit"], end["version"]
        ),
        _ => format!("\nIt ends after commit {}; nothing newer was found.", end["after_commit"]),
    };
    out
}
