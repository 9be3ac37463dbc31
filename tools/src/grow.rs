//! `evenkeel grow`: an array that runs becomes larger, by what larger members have to give (`--size`) or
//! by more of them (`--add`).
//!
//! What must hold: the daemon decides, and what it refuses has changed nothing, but that disks may be
//! spares now. What can be seen of them from here is looked at before it is asked.

use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;

use evenkeel_ublk_target::control::{Failure, GrownTo, NewDisk, Request, WidenedTo, client};

use crate::cli::GrowArgs;
use crate::size::human;
use crate::{Outcome, call_failure, members, place, print, probe};

pub fn run(args: &GrowArgs) -> Outcome {
    place::check_name(&args.name)?;
    if args.size { by_size(args) } else { by_disks(args) }
}

/// More of every member.
fn by_size(args: &GrowArgs) -> Outcome {
    let grown: GrownTo = ask(&args.name, &Request::GrowSize)?;
    tell(args, &grown, shown(&args.name, &grown))
}

/// More members.
fn by_disks(args: &GrowArgs) -> Outcome {
    let (name, status) = (&args.name, members::status(&args.name)?);
    let mut identities = Vec::new();
    for disk in &args.add {
        let identity = probe::identify(disk).map_err(|mut e| {
            e.message.push_str(" Nothing was changed.");
            e
        })?;
        identities.push((&**disk, identity));
    }
    probe::check_distinct(identities)?;
    for disk in &args.add {
        members::check(name, &status, disk)?;
    }
    let disks: Vec<PathBuf> = args.add.iter().map(|d| place::absolute(d)).collect();
    let new = |d: &PathBuf| NewDisk { disk: members::text(d), seen: members::seen(d) };
    let request = Request::GrowAdd { disks: disks.iter().map(new).collect() };
    let wider: WidenedTo = members::with_remembered(name, &disks, || ask(name, &request))?;
    tell(args, &wider, shown_wider(name, &wider))
}

fn ask<T: DeserializeOwned>(name: &str, request: &Request) -> Result<T, Failure> {
    let answer = client::call(&place::run_dir(), name, request);
    let answer = answer.map_err(|e| call_failure(name, e))?;
    serde_json::from_value(answer)
        .map_err(|e| Failure::new(1, format!("The daemon speaks another version ({e}).")))
}

fn tell(args: &GrowArgs, what: &impl Serialize, for_people: String) -> Outcome {
    let text = if args.json {
        let text = serde_json::to_string_pretty(what);
        text.map_err(|e| Failure::new(1, format!("The answer cannot be shown: {e}.")))?
    } else {
        for_people
    };
    print(&text);
    Ok(0)
}

fn shown_wider(name: &str, wider: &WidenedTo) -> String {
    let WidenedTo { level, data_before, data, parity, .. } = wider;
    let became = match &wider.added[..] {
        [one] => format!("{one} is a member"),
        all => format!("{} are members", all.join(", ")),
    };
    format!(
        "{became} of \"{name}\" now, which is {level} {data}+{parity} and was {data_before}+{parity}. It has {} \
         and will have {}. {}",
        human(wider.before_bytes),
        human(wider.after_bytes),
        wider.note
    )
}

fn shown(name: &str, grown: &GrownTo) -> String {
    let more = grown.after_bytes.saturating_sub(grown.before_bytes);
    format!(
        "\"{name}\" has grown from {} to {}, by {more} bytes. {}",
        human(grown.before_bytes),
        human(grown.after_bytes),
        grown.note
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Verb};

    fn parsed(words: &[&str]) -> Result<GrowArgs, u8> {
        let all = ["evenkeel", "grow", "tank"].iter().chain(words);
        match Cli::try_parse_from(all).map(|cli| cli.verb) {
            Ok(Verb::Grow(args)) => Ok(args),
            Ok(other) => panic!("{other:?}"),
            Err(e) => Err(e.exit_code() as u8),
        }
    }

    #[test]
    fn it_grows_in_one_way_at_a_time() {
        let args = parsed(&["--size", "--json"]).expect("by size");
        assert!(args.size && args.json && args.add.is_empty());
        let args = parsed(&["--add", "/dev/sdx", "/dev/sdy"]).expect("by disks");
        assert!(!args.size && args.add.len() == 2);
        let wrong: [&[&str]; 5] = [
            &[],
            &["--json"],
            &["--add"],
            &["--size", "--add", "/dev/sdx"],
            &["--size", "/dev/sdx"],
        ];
        for words in wrong {
            assert_eq!(parsed(words).err(), Some(2), "{words:?}");
        }
    }

    #[test]
    fn the_wider_shape_is_said() {
        let wider = |added: &[&str]| WidenedTo {
            level: "raid5".into(),
            data_before: 2,
            data: 2 + added.len() as u32,
            parity: 1,
            added: added.iter().map(|d| (*d).to_owned()).collect(),
            before_bytes: 1 << 30,
            after_bytes: 3 << 29,
            device: "/dev/ublkb0".into(),
            via: "ublk".into(),
            waited_ms: 7,
            note: "Later.".into(),
        };
        let text = "/d is a member of \"tank\" now, which is raid5 3+1 and was 2+1. It has 1 GiB and will \
                    have 1.5 GiB. Later.";
        assert_eq!(shown_wider("tank", &wider(&["/d"])), text);
        let two = shown_wider("tank", &wider(&["/d", "/e"]));
        assert!(two.starts_with("/d, /e are members of \"tank\" now, which is raid5 4+1"), "{two}");
    }

    #[test]
    fn what_it_grew_by_is_said() {
        let grown = GrownTo {
            before_bytes: 1 << 30,
            after_bytes: (1 << 31) + 65536,
            device: "/dev/ublkb0".into(),
            via: "ublk".into(),
            device_bytes: None,
            note: "Later.".into(),
        };
        let text = "\"tank\" has grown from 1 GiB to 2 GiB, by 1073807360 bytes. Later.";
        assert_eq!(shown("tank", &grown), text);
    }
}
