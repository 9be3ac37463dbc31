//! `evenkeel scrub`: begins or ends a scrub.

use evenkeel_ublk_target::control::{Request, client};

use crate::cli::ScrubArgs;
use crate::{Outcome, call_failure, place};

pub fn run(args: &ScrubArgs) -> Outcome {
    place::check_name(&args.name)?;
    let request =
        if args.stop { Request::ScrubStop } else { Request::Scrub { check_only: args.check_only } };
    client::call(&place::run_dir(), &args.name, &request)
        .map_err(|e| call_failure(&args.name, e))?;
    Ok(0)
}
