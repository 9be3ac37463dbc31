//! `evenkeel wait`: until everything that is in the cache is in its place, or a
//! scrub, rebuild or growth has ended.

use evenkeel_ublk_target::control::{Request, WaitFor, client};

use crate::cli::{WaitArgs, WaitWhat};
use crate::{Outcome, call_failure, members, place};

pub fn run(args: &WaitArgs) -> Outcome {
    place::check_name(&args.name)?;
    let what = match args.what {
        WaitWhat::Destage => WaitFor::Destage,
        WaitWhat::Grow => WaitFor::Grow,
        WaitWhat::Rebuild => WaitFor::Rebuild,
        WaitWhat::Scrub => WaitFor::Scrub,
    };
    let request = Request::Wait { what, timeout_s: args.timeout };
    client::call(&place::run_dir(), &args.name, &request)
        .map_err(|e| call_failure(&args.name, e))?;
    if what == WaitFor::Rebuild {
        members::forget_those_that_left(&args.name);
    }
    Ok(0)
}
