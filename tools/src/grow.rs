//! `evenkeel grow`: an array that runs becomes larger, by what larger members have to give (`--size`) or
//! by more of them (`--add`).
//!
//! What must hold: the daemon decides, and what it refuses has changed nothing.

use evenkeel_ublk_target::control::{Failure, GrownTo, Request, client};

use crate::cli::GrowArgs;
use crate::size::human;
use crate::{Outcome, call_failure, not_yet, place, print};

pub fn run(args: &GrowArgs) -> Outcome {
    place::check_name(&args.name)?;
    if args.size { by_size(args) } else { by_disks(args) }
}

/// More of every member.
fn by_size(args: &GrowArgs) -> Outcome {
    let answer = client::call(&place::run_dir(), &args.name, &Request::GrowSize)
        .map_err(|e| call_failure(&args.name, e))?;
    let another = |e| Failure::new(1, format!("The daemon speaks another version ({e})."));
    let grown: GrownTo = serde_json::from_value(answer).map_err(another)?;
    if args.json {
        let text = serde_json::to_string_pretty(&grown);
        print(&text.map_err(|e| Failure::new(1, format!("The answer cannot be shown: {e}.")))?);
    } else {
        print(&shown(&args.name, &grown));
    }
    Ok(0)
}

/// More members.
fn by_disks(_args: &GrowArgs) -> Outcome {
    Err(not_yet("To grow by more disks (--add)"))
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
