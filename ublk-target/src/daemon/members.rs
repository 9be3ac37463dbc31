//! Opening and locking the members.
//!
//! A lock that is not to be had at once is waited for, within a bound: a dead daemon's writes that
//! are still under way hold it. A member whose lock is not gained then is missing for this start
//! (I4); whether enough are left, the array decides. So is one that does not answer when it is looked
//! up or opened, which is done aside: the call itself cannot be ended.

use std::path::{Path, PathBuf};
use std::time::Duration;

use evenkeel_journal::sync::{join_all, within};
use evenkeel_journal::uring::disk::is_held;
use evenkeel_journal::uring::open::identity_aside;
use evenkeel_journal::uring::{Access, UringDisk, UringWorld};
use evenkeel_journal::world::World;
use evenkeel_raid::{ArrayError, ErrorKind};

use super::tell::Teller;

/// Between two tries to get a lock.
const LOCK_STEP: Duration = Duration::from_millis(50);

/// What was opened and what was not.
pub struct Members {
    /// Opened and locked.
    pub disks: Vec<UringDisk>,
    /// Held by somebody else until the end of the wait.
    pub held: Vec<PathBuf>,
}

/// Opens and locks all of `paths` that are there. A lock is waited for up to `patience`, an answer
/// up to `bound`.
///
/// # Errors
/// If a disk is named twice, if none can be opened, or if one cannot for want of files, memory or
/// permission.
pub async fn open(
    world: &UringWorld,
    paths: &[PathBuf],
    access: Access,
    patience: Duration,
    bound: Duration,
    teller: &Teller<'_>,
) -> Result<Members, ArrayError> {
    let mut ids: Vec<((u64, u64), &PathBuf)> = Vec::new();
    let mut slots: Vec<Option<UringDisk>> = vec![None; paths.len()];
    let mut missing = vec![false; paths.len()];
    let silent = |path: &PathBuf| {
        teller.note(&format!(
            "Warning: {} did not answer within {} s. It is left out.",
            path.display(),
            bound.as_secs_f64()
        ));
    };
    let asked = paths.iter().map(|p| within(world.sleep(bound), identity_aside(world.driver(), p)));
    let asked = join_all(asked.collect()).await;
    for (i, path) in paths.iter().enumerate() {
        if asked[i].is_none() {
            missing[i] = true;
            silent(path);
        }
        let Some(Ok(id)) = asked[i] else { continue };
        if let Some((_, other)) = ids.iter().find(|(known, _)| *known == id) {
            let (a, b) = (other.display(), path.display());
            let text = format!("{a} and {b} are the same disk. Name each member once.");
            return Err(ArrayError::new(ErrorKind::Foreign, text));
        }
        ids.push((id, path));
    }
    // Every start locks in the same order, and none beyond one that it waits for: of many that
    // come at once, the one that has the first gets all.
    let mut order: Vec<usize> = (0..paths.len()).collect();
    order.sort_by_key(|i| asked[*i].as_ref().and_then(|id| id.as_ref().ok().copied()));
    let (begin, mut said) = (world.now(), false);
    loop {
        let mut held = Vec::new();
        let over = world.now() - begin >= patience;
        for i in &order {
            let path = &paths[*i];
            if slots[*i].is_some() || missing[*i] {
                continue;
            }
            let opened = UringDisk::open_aside(world.driver(), path, access);
            match within(world.sleep(bound), opened).await {
                None => {
                    missing[*i] = true;
                    silent(path);
                }
                Some(Ok(disk)) => slots[*i] = Some(disk),
                Some(Err(e)) if is_held(&e) => {
                    held.push(path.clone());
                    if !over {
                        break;
                    }
                }
                Some(Err(e)) if is_ours(&e) => {
                    let text = format!(
                        "{} cannot be opened: {e}. That says nothing of the disk, so the array is \
                         not started without it. Nothing was written.",
                        path.display()
                    );
                    return Err(ArrayError::new(ErrorKind::Failed, text));
                }
                Some(Err(e)) => {
                    missing[*i] = true;
                    teller.note(&format!("Warning: {} cannot be opened: {e}.", path.display()));
                }
            }
        }
        let waited = world.now() - begin;
        if held.is_empty() || over {
            return finish(slots, held, teller);
        }
        if !said && waited >= Duration::from_secs(1) {
            said = true;
            let list: Vec<String> = held.iter().map(|p| p.display().to_string()).collect();
            teller.note(&format!(
                "Waiting up to {} s for other processes, or their last writes, to let go of {}.",
                patience.as_secs(),
                list.join(", ")
            ));
        }
        // Requests wait for that, after a takeover: mostly the last writes end within moments.
        let step = if waited < Duration::from_secs(1) { 5 } else { 50 };
        world.sleep(Duration::from_millis(step)).await;
    }
}

/// Opens and locks one more disk of an array that runs, which must be the one that was seen there, if
/// somebody has looked: this process has its mounts for itself. A lock is waited for up to `patience`, an
/// answer up to `bound`.
///
/// # Errors
/// If it is held, is another one, cannot be opened, or does not answer.
pub async fn open_one(
    world: &UringWorld,
    path: &Path,
    seen: Option<(u64, u64)>,
    patience: Duration,
    bound: Duration,
) -> Result<UringDisk, ArrayError> {
    let (begin, shown) = (world.now(), path.display());
    let refuse = |kind, why: String| Err(ArrayError::new(kind, why + " Nothing was changed."));
    let another = |what: &str| {
        refuse(
            ErrorKind::Failed,
            format!(
                "The daemon finds {what} at {shown}. It sees the file systems that the disks named to it \
                 lay on when it was started: a file on another one can be taken in after a stop and a \
                 start that names it beside the members."
            ),
        )
    };
    loop {
        let opened = UringDisk::open_aside(world.driver(), path, Access::ReadWrite);
        match within(world.sleep(bound), opened).await {
            Some(Ok(disk)) if seen.is_some_and(|id| id != disk.id()) => {
                return another("something else");
            }
            Some(Ok(disk)) => return Ok(disk),
            Some(Err(e)) if is_held(&e) && world.now() - begin < patience => {
                world.sleep(LOCK_STEP).await;
            }
            Some(Err(e)) if is_held(&e) => {
                return refuse(
                    ErrorKind::Held,
                    format!("{shown} is in use: another program, or this daemon itself, holds it."),
                );
            }
            Some(Err(e)) if e.kind() == std::io::ErrorKind::NotFound => {
                return another("nothing");
            }
            Some(Err(e)) => {
                return refuse(ErrorKind::Failed, format!("{shown} cannot be opened: {e}."));
            }
            None => {
                return refuse(
                    ErrorKind::Failed,
                    format!("{shown} did not answer within {} s.", bound.as_secs_f64()),
                );
            }
        }
    }
}

/// Whether a disk could not be opened for a reason that is not the disk's: a start without it would
/// take it for lost.
fn is_ours(e: &std::io::Error) -> bool {
    let ours = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::EACCES, libc::EPERM];
    e.raw_os_error().is_some_and(|code| ours.contains(&code))
}

fn finish(
    slots: Vec<Option<UringDisk>>,
    held: Vec<PathBuf>,
    teller: &Teller<'_>,
) -> Result<Members, ArrayError> {
    let disks: Vec<UringDisk> = slots.into_iter().flatten().collect();
    match (disks.is_empty(), held.first()) {
        (true, Some(path)) => {
            let text = format!("{} is held by another process.", path.display());
            Err(ArrayError::new(ErrorKind::Held, text))
        }
        (true, None) => Err(ArrayError::new(ErrorKind::TooFew, "None of the disks can be opened.")),
        _ => {
            for path in &held {
                teller.note(&format!(
                    "Warning: {} is held by another process, so it is missing.",
                    path.display()
                ));
            }
            Ok(Members { disks, held })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evenkeel_journal::uring::Engine;

    #[test]
    fn members_are_waited_for_missing_or_refused() {
        const SECOND: Duration = Duration::from_secs(1);
        let dir = std::env::temp_dir().join(format!("evenkeel-members-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a folder");
        let paths: Vec<PathBuf> = (0..3).map(|i| dir.join(format!("d{i}"))).collect();
        for p in &paths {
            std::fs::File::create(p).and_then(|f| f.set_len(1 << 20)).expect("a file");
        }
        std::fs::hard_link(&paths[0], dir.join("again")).expect("a link");
        let engine = Engine::new().expect("a ring");
        let world = engine.world(&dir).expect("a run directory");
        let teller = Teller::direct(|_| {});
        let go = |paths: Vec<PathBuf>, ms| {
            let (world, teller) = (world.clone(), &teller);
            async move {
                let limit = Duration::from_millis(ms);
                open(&world, &paths, Access::ReadWrite, limit, limit.max(SECOND), teller).await
            }
        };
        engine.block_on(async {
            let twice = go(vec![paths[0].clone(), dir.join("again")], 0).await;
            assert!(twice.is_err_and(|e| e.kind == ErrorKind::Foreign));
            let none = go(vec![dir.join("none")], 0).await;
            assert!(none.is_err_and(|e| e.kind == ErrorKind::TooFew));
            let mut all = paths.clone();
            all.push(dir.join("none"));
            let three = go(all, 0).await.expect("three of four");
            assert_eq!((three.disks.len(), three.held.len()), (3, 0));
            let held = go(vec![paths[1].clone()], 100).await;
            assert!(held.is_err_and(|e| e.kind == ErrorKind::Held));
            let w = world.clone();
            world.spawn("let go", async move {
                w.sleep(Duration::from_millis(200)).await;
                drop(three);
            });
            let limit = Duration::from_millis(100);
            let one = |path: PathBuf, seen| {
                let world = world.clone();
                async move { open_one(&world, &path, seen, limit, SECOND).await }
            };
            let none = one(dir.join("none"), None).await;
            assert!(none.is_err_and(|e| e.message.contains("finds nothing")));
            let free = dir.join("free");
            std::fs::File::create(&free).and_then(|f| f.set_len(1 << 20)).expect("a file");
            let id = evenkeel_journal::uring::disk::identity(&free).expect("it is there");
            let another = one(free.clone(), Some((id.0, id.1 + 1))).await;
            assert!(another.is_err_and(|e| e.message.contains("something else")));
            assert!(one(free, Some(id)).await.is_ok());
            let held = one(paths[0].clone(), None).await;
            assert!(held.is_err_and(|e| e.kind == ErrorKind::Held));
            let late = go(paths.clone(), 5000).await.expect("after the wait");
            assert_eq!(late.disks.len(), 3);
        });
        let _ = std::fs::remove_dir_all(dir);
    }
}
