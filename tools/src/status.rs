//! `evenkeel status`: one array or all that run, for people, for programs, or as an exit code.

use std::io::IsTerminal;
use std::time::Duration;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;
use serde_json::Value;

use evenkeel_raid::Status;
use evenkeel_raid::status::{GrowStatus, MemberState, MemberStatus, Role, ScrubStatus, State};
use evenkeel_ublk_target::control::client::CallError;
use evenkeel_ublk_target::control::{Failure, Request, client};

use crate::cli::StatusArgs;
use crate::size::human;
use crate::{Outcome, call_failure, place, print};

/// Exit code of `--test` where no such array runs.
const NO_ARRAY: u8 = 4;
/// Exit code of `--test` where an array cannot give all that it held, or does not answer.
const FAILED: u8 = 2;
/// Between two pictures of `--watch`.
const PAUSE: Duration = Duration::from_secs(1);

pub fn run(args: &StatusArgs) -> Outcome {
    if let Some(name) = &args.name {
        place::check_name(name)?;
    }
    if args.test {
        return Ok(test(args.name.as_deref()));
    }
    if args.watch {
        return watch(args);
    }
    print(&paint(args, false).map_err(|e| e.failure)?);
    Ok(0)
}

/// Why there is nothing to show.
struct Unpainted {
    /// No daemon serves the array.
    gone: bool,
    failure: Failure,
}

impl From<Failure> for Unpainted {
    fn from(failure: Failure) -> Unpainted {
        Unpainted { gone: false, failure }
    }
}

/// What is to be shown now; JSON on one line or on many.
fn paint(args: &StatusArgs, line: bool) -> Result<String, Unpainted> {
    let Some(name) = &args.name else { return Ok(all(args.json, line)?) };
    let value = ask(name).map_err(|e| Unpainted {
        gone: matches!(e, CallError::NoDaemon),
        failure: call_failure(name, e),
    })?;
    Ok(if args.json { json(&value, line) } else { table(&parse(name, value)?) })
}

/// Paints every second until the array that was there is gone, or the reader is.
fn watch(args: &StatusArgs) -> Outcome {
    let over = !args.json && std::io::stdout().is_terminal();
    let mut seen = false;
    loop {
        let text = match paint(args, args.json) {
            Ok(text) => text,
            Err(e) if e.gone && seen => {
                eprintln!("evenkeel: The array has stopped.");
                return Ok(0);
            }
            Err(e) => return Err(e.failure),
        };
        // Each line is cleared to its end, then what is below: nothing flickers.
        let shown = if over {
            let first = if seen { "" } else { "\x1b[2J" };
            format!("{first}\x1b[H{}\x1b[K\n\x1b[J", text.replace('\n', "\x1b[K\n"))
        } else {
            text
        };
        seen = true;
        if !print(&shown) {
            return Ok(0);
        }
        std::thread::sleep(PAUSE);
    }
}

fn ask(name: &str) -> Result<Value, CallError> {
    client::call(&place::run_dir(), name, &Request::Status)
}

fn parse(name: &str, value: Value) -> Result<Status, Failure> {
    serde_json::from_value(value).map_err(|e| {
        Failure::new(1, format!("The daemon of \"{name}\" speaks another version ({e})."))
    })
}

/// All arrays that run here. One that does not answer is named on standard error.
fn all(as_json: bool, line: bool) -> Result<String, Failure> {
    let mut values = Vec::new();
    for name in place::running() {
        match ask(&name) {
            Ok(value) => values.push((name, value)),
            Err(CallError::NoDaemon) => {}
            Err(e) => eprintln!("evenkeel: {}", call_failure(&name, e).message),
        }
    }
    if as_json {
        return Ok(json(&Value::Array(values.into_iter().map(|(_, v)| v).collect()), line));
    }
    if values.is_empty() {
        return Ok("No array runs here.".to_owned());
    }
    let tables: Result<Vec<_>, _> =
        values.into_iter().map(|(name, v)| parse(&name, v).map(|s| table(&s))).collect();
    Ok(tables?.join("\n\n"))
}

/// The exit code of `--test`: of all arrays the worst one's, if there are any.
fn test(name: Option<&str>) -> u8 {
    let names = name.map_or_else(place::running, |n| vec![n.to_owned()]);
    let codes = names.iter().filter_map(|n| match ask(n) {
        Ok(value) => Some(code_of(&value["state"])),
        Err(CallError::NoDaemon) => None,
        // It is there, but does not answer.
        Err(_) => Some(FAILED),
    });
    codes.max().unwrap_or(NO_ARRAY)
}

fn code_of(state: &Value) -> u8 {
    match serde_json::from_value(state.clone()) {
        Ok(State::Healthy) => 0,
        Ok(State::Degraded | State::Rebuilding) => 1,
        Ok(State::Failed) | Err(_) => FAILED,
    }
}

/// For programs: for people to read, too, or a line.
fn json(value: &Value, line: bool) -> String {
    let text =
        if line { serde_json::to_string(value) } else { serde_json::to_string_pretty(value) };
    text.unwrap_or_default()
}

/// The word that stands for `value` in JSON.
fn word(value: impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(s)) => s,
        Ok(other) => other.to_string(),
        Err(_) => String::new(),
    }
}

/// State of a member, and what it is beside that.
fn state(m: &MemberStatus) -> String {
    let more = match (m.role, m.takes) {
        (_, Some(takes)) => format!(", for member {takes}"),
        (Role::Journal, None) => ", journal".to_owned(),
        // One that waits says so by its state.
        (Role::Spare, None) if m.state != MemberState::Spare => ", spare".to_owned(),
        _ => String::new(),
    };
    word(m.state) + &more
}

fn table(s: &Status) -> String {
    let mut out = format!(
        "{}: {}, {} {}+{}, {} on {} ({}, ack {}{})\n",
        s.name,
        word(s.state),
        s.level,
        s.data,
        s.parity,
        human(s.size_bytes),
        s.device,
        s.via,
        word(s.ack),
        if s.read_only { ", read-only" } else { "" },
    );
    out += &match (s.state, s.can_lose) {
        (State::Failed, _) => {
            "More disks are gone than the array, or its log, tolerates.\n".to_owned()
        }
        (_, 0) => "No further member may be lost.\n".to_owned(),
        (_, 1) => "One more member may be lost without loss of data.\n".to_owned(),
        (_, n) => format!("{n} more members may be lost without loss of data.\n"),
    };
    let mut t = Table::new();
    t.load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(["#", "member", "state", "read err", "write err", "sum err", "healed"]);
    for m in &s.members {
        let path = if m.path.is_empty() { &m.uuid } else { &m.path };
        t.add_row([
            m.index.to_string(),
            path.clone(),
            state(m),
            m.read_errors.to_string(),
            m.write_errors.to_string(),
            m.checksum_errors.to_string(),
            m.healed.to_string(),
        ]);
    }
    for index in [0, 3, 4, 5, 6] {
        if let Some(column) = t.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    out += &t.trim_fmt();
    out += &format!(
        "\nlog {} of {} · cache {} dirty of {} · {} of {} stripes in use · epoch {}",
        human(s.log.used_bytes),
        human(s.log.size_bytes),
        human(s.cache.dirty_bytes),
        human(s.cache.size_bytes),
        s.stripes.mapped,
        s.stripes.total,
        s.epoch,
    );
    if let Some(r) = &s.rebuild {
        out += &format!(
            "\nrebuilding member {}: {} of {}",
            r.member,
            human(r.done_bytes),
            human(r.total_bytes),
        );
        if let Some(left) = r.eta_s {
            out += &format!(", {}/s, {left} s left", human(r.bytes_per_s));
        }
    }
    if let Some(g) = &s.grow {
        out += &format!("\n{}", grow_line(g, s.data, s.parity));
    }
    if let Some(scrub) = &s.scrub {
        out += &format!("\n{}", scrub_line(scrub));
    }
    if s.replay.commits > 0 || s.replay.records > 0 {
        out += &format!(
            "\nlast start replayed {} commits and {} records ({}) in {:.2} s",
            s.replay.commits,
            s.replay.records,
            human(s.replay.bytes),
            s.replay.seconds
        );
    }
    out
}

/// How far the stripes are that are moved to more members.
fn grow_line(g: &GrowStatus, data: u32, parity: u32) -> String {
    let left = g.eta_s.map_or_else(|| "?".to_owned(), |eta| format!("{eta} s"));
    format!(
        "growing to {data}+{parity}: {} of {} moved, {}/s, {left} left",
        human(g.done_bytes),
        human(g.total_bytes),
        human(g.bytes_per_s)
    )
}

/// How far the scrub is, or what the last one found.
fn scrub_line(s: &ScrubStatus) -> String {
    let what = if s.check_only { "scrub (check only)" } else { "scrub" };
    let how = match (s.running, s.ended) {
        (true, _) => {
            let percent = s.done_bytes.saturating_mul(100) / s.total_bytes.max(1);
            let left = s.eta_s.map_or_else(|| "?".to_owned(), |eta| format!("{eta} s"));
            format!(
                "{percent} %, {} of {}, {}/s, {left} left",
                human(s.done_bytes),
                human(s.total_bytes),
                human(s.bytes_per_s)
            )
        }
        (false, Some(ended)) => {
            let seconds = ended.saturating_sub(s.started);
            let how = if s.stopped { "stopped" } else { "ended" };
            format!("{how} after {seconds} s, {} compared", human(s.done_bytes))
        }
        (false, None) => "broken off; the next start goes on with it".to_owned(),
    };
    let beyond = match s.unrepairable {
        0 => String::new(),
        n => format!(", {n} beyond repair"),
    };
    format!("{what}: {how} · {} wrong, {} made right{beyond}", s.mismatches, s.healed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use evenkeel_raid::Ack;

    #[test]
    fn a_table_says_what_matters() {
        let members = (0..5).map(|index| MemberStatus {
            takes: (index == 4).then_some(1),
            index,
            role: if index < 3 { Role::Data } else { Role::Spare },
            path: if index == 1 { String::new() } else { format!("/dev/sd{index}") },
            uuid: format!("uuid-{index}"),
            state: match index {
                1 => MemberState::Missing,
                2 => MemberState::Failing,
                3 => MemberState::Spare,
                4 => MemberState::Rebuilding,
                _ => MemberState::Active,
            },
            read_errors: 0,
            write_errors: 0,
            checksum_errors: 0,
            healed: 0,
        });
        let status = Status {
            name: "tank".into(),
            uuid: "u".into(),
            state: State::Degraded,
            read_only: false,
            level: "raid5".into(),
            data: 2,
            parity: 1,
            chunk_bytes: 65536,
            size_bytes: 1 << 30,
            device: "/run/evenkeel/tank.nbd".into(),
            via: "nbd".into(),
            ack: Ack::Cached,
            epoch: 3,
            can_lose: 0,
            members: members.collect(),
            rebuild: None,
            grow: None,
            scrub: None,
            log: Default::default(),
            cache: Default::default(),
            stripes: Default::default(),
            replay: Default::default(),
        };
        let text = table(&status);
        for part in ["tank: degraded, raid5 2+1, 1 GiB", "uuid-1", "missing", "No further member"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        let rows: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
        for row in [
            &["2", "/dev/sd2", "failing", "0"][..],
            &["3", "/dev/sd3", "spare", "0"],
            &["4", "/dev/sd4", "rebuilding,", "for", "member", "1", "0"],
        ] {
            assert!(rows.iter().any(|r| r.starts_with(row)), "{row:?} in\n{text}");
        }
        assert!(!text.contains("growing"));
        let mut status = status;
        let mut grow =
            GrowStatus { done_bytes: 1 << 20, total_bytes: 1 << 30, bytes_per_s: 0, eta_s: None };
        status.grow = Some(grow);
        let line = "\ngrowing to 2+1: 1 MiB of 1 GiB moved, 0 B/s, ? left";
        assert!(table(&status).contains(line), "{}", table(&status));
        (grow.bytes_per_s, grow.eta_s) = (1 << 20, Some(1023));
        status.grow = Some(grow);
        assert!(table(&status).contains("moved, 1 MiB/s, 1023 s left"), "{}", table(&status));
        let value = serde_json::to_value(&status).unwrap();
        assert_eq!(code_of(&value["state"]), 1);
        assert_eq!(parse("tank", value).unwrap().epoch, 3);
    }
}
