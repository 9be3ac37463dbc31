//! Opening disks where that may take for ever: in a thread of its own, which is left behind if it does
//! not end. To open, to look a path up and to ask for a size are calls that block, and a file whose
//! server is silent, or a device that is just being reset, may not answer them.

use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{TryRecvError, channel};
use std::time::Duration;

use super::disk::{Access, Opened, UringDisk, identity, is_held};
use super::driver::Driver;

/// Between two looks at the thread: at first, and at most.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LAST_LOOK: Duration = Duration::from_millis(50);
/// Memory of the thread's stack: the daemon's is locked.
const STACK: usize = 128 << 10;

/// Sets a flag for as long as it lives.
struct Flag(Arc<AtomicBool>);

impl Drop for Flag {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// What `job` gives, done by a thread of its own. None if there is no thread to be had.
pub(super) async fn aside<T: Send + 'static>(
    driver: Driver,
    job: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (tell, told) = channel();
    let thread = std::thread::Builder::new().stack_size(STACK);
    thread.spawn(move || drop(tell.send(job()))).ok()?;
    let mut look = FIRST_LOOK;
    loop {
        match told.try_recv() {
            Ok(done) => return Some(done),
            Err(TryRecvError::Disconnected) => return None,
            Err(TryRecvError::Empty) => driver.sleep(look).await,
        }
        look = LAST_LOOK.min(look * 2);
    }
}

/// As [`identity`], aside: this thread goes on meanwhile.
///
/// # Errors
/// If there is nothing at this path.
pub async fn identity_aside(driver: &Driver, path: &Path) -> io::Result<(u64, u64)> {
    let path = path.to_owned();
    let found = aside(driver.clone(), move || identity(&path)).await;
    found.unwrap_or_else(|| Err(io::Error::other("there is no thread to be had")))
}

impl UringDisk {
    /// As [`UringDisk::open`], aside: this thread goes on meanwhile. Whoever does not want to wait
    /// any longer drops the future.
    ///
    /// # Errors
    /// As for [`UringDisk::open`].
    pub async fn open_aside(driver: &Driver, path: &Path, access: Access) -> io::Result<UringDisk> {
        let path = path.to_owned();
        let open = move || Opened::open(&path, access);
        let opened = aside(driver.clone(), open).await;
        let opened = opened.ok_or_else(|| io::Error::other("there is no thread to be had"))??;
        Ok(UringDisk::new(driver, opened))
    }

    /// What its lasting names, or its path, lead to now, opened and locked like this one; this one itself, if it is that
    /// still. None if nothing is to be had, if that is shorter, or while an earlier try has not
    /// ended.
    pub(super) fn again(
        &self,
        driver: &Driver,
    ) -> impl Future<Output = Option<UringDisk>> + 'static {
        let (disk, driver) = (self.clone(), driver.clone());
        async move {
            let opening = Arc::clone(disk.opening());
            if opening.swap(true, Ordering::AcqRel) {
                return None;
            }
            let flag = Flag(opening);
            let (names, access) = disk.opened_as();
            let open = move || {
                let _flag = flag;
                names.iter().filter_map(|name| name.canonicalize().ok()).find_map(|path| {
                    match Opened::open(&path, access) {
                        Ok(opened) => Some(Ok(opened)),
                        // We hold what is there ourselves, or somebody else does.
                        Err(e) if is_held(&e) => identity(&path).ok().map(Err),
                        Err(_) => None,
                    }
                })
            };
            match aside(driver.clone(), open).await?? {
                Ok(opened) => Some(UringDisk::new(&driver, opened)),
                Err(id) => (id == disk.id() && !disk.is_shorter()).then_some(disk),
            }
        }
    }
}
