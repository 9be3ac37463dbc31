//! `evenkeel wait`: until everything that is in the cache is in its place, or a scrub has ended.

use evenkeel_ublk_target::control::{Request, WaitFor, client};

use crate::cli::{WaitArgs, WaitWhat};
use crate::{Outcome, call_failure, not_yet, place};

pub fn run(args: &WaitArgs) -> Outcome {
    place::check_name(&args.name)?;
    let what = match args.what {
        WaitWhat::Destage => WaitFor::Destage,
        WaitWhat::Rebuild => return Err(not_yet("Waiting for a rebuild")),
        WaitWhat::Scrub => WaitFor::Scrub,
    };
    let request = Request::Wait { what, timeout_s: args.timeout };
    client::call(&place::run_dir(), &args.name, &request)
        .map_err(|e| call_failure(&args.name, e))?;
    Ok(0)
}
