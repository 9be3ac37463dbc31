//! `evenkeel fail`: a member is failed by order of a person, durably.

use evenkeel_ublk_target::control::{Request, client};

use crate::cli::DiskArgs;
use crate::{Outcome, call_failure, place};

pub fn run(args: &DiskArgs) -> Outcome {
    place::check_name(&args.name)?;
    let disk = place::absolute(&args.disk).to_string_lossy().into_owned();
    client::call(&place::run_dir(), &args.name, &Request::Fail { disk })
        .map_err(|e| call_failure(&args.name, e))?;
    Ok(0)
}
