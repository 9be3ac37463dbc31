//! `evenkeel examine`: what members say of themselves, with the byte ranges of every area.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::{Value, json};
use uuid::Uuid;

use evenkeel_journal::{BLOCK, MemberIndex};
use evenkeel_raid::geometry::{
    Geometry, LOG_OFFSET, LogHome, SUPERBLOCK_A, SUPERBLOCK_B, SUPERBLOCK_BYTES,
};
use evenkeel_raid::scrub::{Run, RunState, ScrubPage};
use evenkeel_raid::status::Role;
use evenkeel_raid::superblock::{BadSuperblock, Phase, Superblock};

use crate::cli::ExamineArgs;
use crate::find::{self, Copy};
use crate::size::human;
use crate::{Outcome, print};

pub fn run(args: &ExamineArgs) -> Outcome {
    let mut worst = 0;
    let mut values = Vec::new();
    for disk in &args.disks {
        let (value, code) = examine(disk);
        worst = worst.max(code);
        if !args.json {
            print(&text(&value));
        }
        values.push(value);
    }
    if args.json {
        print(&serde_json::to_string_pretty(&Value::Array(values)).unwrap_or_default());
    }
    Ok(worst)
}

/// What is on one disk, and the exit code that this alone would give.
fn examine(path: &Path) -> (Value, u8) {
    let shown = path.display().to_string();
    let copies = match find::superblocks(path) {
        Ok(copies) => copies,
        Err(e) => return (json!({"path": shown, "error": format!("It cannot be read: {e}.")}), 1),
    };
    let list: Vec<Value> = copies.iter().map(describe_copy).collect();
    let Some(s) = find::counting(&copies) else {
        let damaged = copies.iter().any(|c| c.found == Err(BadSuperblock::Damaged));
        let (error, code) = match (find::unsupported(&copies), damaged) {
            (Some(why), _) => (format!("A member that this version cannot read: {why}."), 17),
            (None, true) => ("A member whose superblocks are all damaged.".to_owned(), 1),
            (None, false) => ("No member of an array.".to_owned(), 12),
        };
        return (json!({"path": shown, "error": error, "superblocks": list}), code);
    };
    let mut value = describe(s);
    value["path"] = json!(shown);
    value["scrub"] = scrub(path, s);
    value["superblocks"] = json!(list);
    (value, 0)
}

fn describe_copy(copy: &Copy) -> Value {
    let mut v = json!({"copy": copy.name, "offset": copy.at, "bytes": SUPERBLOCK_BYTES});
    match &copy.found {
        Ok(s) => {
            v["state"] = json!(if s.phase == Phase::InForce { "in force" } else { "prepared" });
            v["epoch"] = json!(s.epoch);
        }
        Err(BadSuperblock::Absent) => v["state"] = json!("absent"),
        Err(BadSuperblock::Damaged) => v["state"] = json!("damaged"),
        Err(BadSuperblock::Unsupported(why)) => {
            v["state"] = json!("unsupported");
            v["error"] = json!(why);
        }
    }
    v
}

fn describe(s: &Superblock) -> Value {
    let g = &s.geometry;
    // An entry that a spare has left names nobody.
    let named = s.members.iter().enumerate().filter(|(_, m)| !m.is_free());
    let members: Vec<Value> = named
        .map(|(i, m)| {
            let mut v =
                json!({"index": i, "role": role(g, i), "uuid": uuid(m.uuid), "state": m.state});
            if let Some(filling) = m.filling {
                v["takes"] = json!(filling.takes);
                v["filled_stripes"] = json!(filling.next);
            }
            v
        })
        .collect();
    json!({
        "name": s.name,
        "uuid": uuid(s.array),
        "member": {
            "index": s.index, "role": role(g, s.index.into()), "uuid": uuid(s.uuid()),
        },
        "epoch": s.epoch,
        "epoch_id": uuid(s.epoch_id),
        "parent_id": uuid(s.parent),
        "clean": s.clean,
        "created": s.created,
        "level": g.level.as_str(),
        "data": g.data,
        "parity": g.parity,
        "chunk_bytes": g.chunk_bytes(),
        "size_bytes": g.shape_before().unwrap_or(*g).device_blocks() * BLOCK as u64,
        "data_before": g.before.map(|b| b.data),
        "stripes": g.stripes,
        "slots": g.slots,
        "ring": uuid(s.ring),
        "members": members,
        "journals": g.journals,
        "log_home": if g.log_home == LogHome::Members { "members" } else { "journals" },
        "areas": areas(g, MemberIndex(s.index)),
    })
}

/// What the member's copies of the scrub's page say; null if it has none, or nothing was ever written
/// there.
fn scrub(path: &Path, s: &Superblock) -> Value {
    let g = &s.geometry;
    if !g.has_checksums() {
        return Value::Null;
    }
    let own = (0..2).flat_map(|place| g.sum_page_copies(0, place));
    let pages = own.filter(|(member, _)| member.0 == s.index).filter_map(|(_, at)| {
        let mut b = vec![0; BLOCK];
        File::open(path).ok()?.read_exact_at(&mut b, at).ok()?;
        ScrubPage::decode(&b, g.pages_are_of(s.array))
    });
    let Some((_, page)) = pages.max_by_key(|(head, _)| head.generation) else {
        return Value::Null;
    };
    json!({"now": page.now.map(|run| describe_run(&run)), "last": page.last.map(|run| describe_run(&run))})
}

fn describe_run(run: &Run) -> Value {
    let state = match run.state {
        RunState::UnderWay => "under way",
        RunState::Ended => "ended",
        RunState::Stopped => "stopped",
    };
    json!({
        "state": state,
        "check_only": run.check_only,
        "started": run.started,
        "ended": if run.ended > 0 { json!(run.ended) } else { Value::Null },
        "done_bytes": run.done_bytes,
        "mismatches": run.tally.mismatches,
        "healed": run.tally.healed,
        "unrepairable": run.tally.unrepairable,
    })
}

fn role(g: &Geometry, index: usize) -> Role {
    if index < g.members() {
        Role::Data
    } else if index < g.table() {
        Role::Journal
    } else {
        Role::Spare
    }
}

/// The areas of a member or journal device of this shape, in order.
fn areas(g: &Geometry, member: MemberIndex) -> Vec<Value> {
    let journal = g.is_journal(member);
    let rows = if journal { g.journal_rows } else { g.log_rows };
    let mut all = vec![
        ("superblock a", SUPERBLOCK_A, SUPERBLOCK_BYTES),
        ("superblock b", SUPERBLOCK_B, SUPERBLOCK_BYTES),
        // Beside journal devices it is where the log goes when they are lost.
        ("log", LOG_OFFSET, rows * BLOCK as u64),
    ];
    if !journal {
        for s in g.stretches() {
            all.push(("map", s.pages_at, s.pages_bytes));
            if g.has_checksums() {
                all.push(("checksums", s.sums_at, s.sums_bytes));
            }
            all.push(("slots", s.slots_at, (s.slots.end - s.slots.start) * g.chunk_bytes()));
        }
        // While stripes are moved to more columns.
        if let Some(before) = g.shape_before() {
            all.extend(before.stretches().map(|s| ("map before", s.pages_at, s.pages_bytes)));
            if g.has_checksums() {
                let sums = before.stretches().map(|s| ("sums before", s.sums_at, s.sums_bytes));
                all.extend(sums);
            }
        }
        all.sort_by_key(|area| area.1);
    }
    all.push(("superblock c", g.superblock_c_of(member), SUPERBLOCK_BYTES));
    let area = |(name, at, bytes)| json!({"area": name, "offset": at, "bytes": bytes});
    all.into_iter().map(area).collect()
}

/// A UUID as people write it; `null` for none.
fn uuid(value: u128) -> Value {
    if value == 0 { Value::Null } else { json!(Uuid::from_u128(value).to_string()) }
}

/// The same for people.
fn text(v: &Value) -> String {
    let s = |key: &str| word(&v[key]);
    let mut out = format!("{}:", s("path"));
    if v.get("error").is_some() {
        out += &format!(" {}", s("error"));
    } else {
        out += &format!(
            " {} {} of \"{}\", {} {}+{}{}, {}\n  array {}, member {}\n  epoch {}, {}",
            match v["member"]["role"].as_str() {
                Some("journal") => "journal device",
                Some("spare") => "spare",
                _ => "member",
            },
            word(&v["member"]["index"]),
            s("name"),
            s("level"),
            s("data"),
            s("parity"),
            v["data_before"].as_u64().map_or_else(String::new, |k| format!(", growing from {k}")),
            human(v["size_bytes"].as_u64().unwrap_or(0)),
            s("uuid"),
            word(&v["member"]["uuid"]),
            s("epoch"),
            if v["clean"] == true { "stopped cleanly" } else { "not stopped cleanly, or in use" },
        );
        for m in v["members"].as_array().into_iter().flatten() {
            out += &format!(
                "\n  {:>3}  {}  {}{}{}",
                word(&m["index"]),
                word(&m["uuid"]),
                word(&m["state"]),
                if m["role"] == "journal" { ", journal device" } else { "" },
                m["takes"].as_u64().map_or_else(String::new, |t| format!(", takes member {t}")),
            );
        }
        for a in v["areas"].as_array().into_iter().flatten() {
            let (at, bytes) = (a["offset"].as_u64().unwrap_or(0), a["bytes"].as_u64().unwrap_or(0));
            out += &format!(
                "\n  {:<12} bytes {at} to {} ({})",
                word(&a["area"]),
                (at + bytes).saturating_sub(1),
                human(bytes)
            );
        }
    }
    for which in ["now", "last"] {
        let run = &v["scrub"][which];
        if run.is_object() {
            out += &format!(
                "\n  scrub{} {}: {} compared, {} wrong, {} made right, {} beyond repair",
                if run["check_only"] == true { " (check only)" } else { "" },
                word(&run["state"]),
                human(run["done_bytes"].as_u64().unwrap_or(0)),
                word(&run["mismatches"]),
                word(&run["healed"]),
                word(&run["unrepairable"]),
            );
        }
    }
    for c in v["superblocks"].as_array().into_iter().flatten() {
        // Copy a is where the next epoch is prepared: that is its place, not a flaw.
        let state = word(&c["state"]);
        if v.get("error").is_some() || !["in force", "prepared"].contains(&&*state) {
            out += &format!("\n  superblock {}: {state}", word(&c["copy"]));
        }
    }
    out
}

fn word(v: &Value) -> String {
    match v {
        Value::String(s) => s.clone(),
        Value::Null => "none".into(),
        other => other.to_string(),
    }
}
