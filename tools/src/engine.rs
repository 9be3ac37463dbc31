//! A ring and a world for the verbs that work without a daemon.

use std::path::Path;

use evenkeel_journal::uring::engine::why_no_ring;
use evenkeel_journal::uring::{Access, Engine, UringDisk, UringWorld, disk};
use evenkeel_ublk_target::control::Failure;

use crate::place;

/// An engine and its world in the run directory.
///
/// # Errors
/// A sentence: the kernel gives no ring, or the run directory cannot be made.
pub fn open() -> Result<(Engine, UringWorld), Failure> {
    let engine = Engine::new().map_err(|e| Failure::new(1, why_no_ring(&e)))?;
    let run_dir = place::run_dir();
    let world = engine.world(&run_dir).map_err(|e| {
        Failure::new(
            1,
            format!(
                "The run directory {} cannot be used ({e}). $EVENKEEL_RUN_DIR names another.",
                run_dir.display()
            ),
        )
    })?;
    Ok((engine, world))
}

/// Opens a disk.
///
/// # Errors
/// A sentence; code 13 if somebody else holds it.
pub fn open_disk(engine: &Engine, path: &Path, access: Access) -> Result<UringDisk, Failure> {
    UringDisk::open(engine.driver(), path, access).map_err(|e| {
        let shown = path.display();
        if disk::is_held(&e) {
            Failure::new(
                13,
                format!(
                    "{shown} is in use: a daemon, a mounted file system or another program holds \
                     it. Nothing was changed."
                ),
            )
        } else {
            Failure::new(1, format!("{shown} cannot be opened: {e}. Nothing was changed."))
        }
    })
}
