//! A disk whose reads are bounded, for who reads it before it is a member: a start, and those that
//! look at stopped arrays.
//!
//! What must hold: a disk that did not answer once is not asked again, so that a start waits for each
//! disk once at most. What it was asked stays behind with its own memory.

use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use crate::disk::{Disk, DiskError, DiskFacts};
use crate::mem::{Buf, Segs};
use crate::sync::within;
use crate::world::World;

/// A disk of `W`, for reading.
pub struct Bounded<W: World> {
    world: W,
    disk: W::Disk,
    bound: Duration,
    silent: Rc<Cell<bool>>,
}

impl<W: World> Clone for Bounded<W> {
    fn clone(&self) -> Self {
        Bounded {
            world: self.world.clone(),
            disk: self.disk.clone(),
            bound: self.bound,
            silent: Rc::clone(&self.silent),
        }
    }
}

impl<W: World> Bounded<W> {
    /// `disk`, each of whose reads may take that long.
    #[must_use]
    pub fn new(world: &W, disk: &W::Disk, bound: Duration) -> Bounded<W> {
        Bounded { world: world.clone(), disk: disk.clone(), bound, silent: Rc::default() }
    }
}

impl<W: World> Disk for Bounded<W> {
    fn facts(&self) -> DiskFacts {
        self.disk.facts()
    }

    fn measure(&self) -> impl Future<Output = Result<(), DiskError>> + 'static {
        let this = self.clone();
        async move {
            if this.silent.get() {
                return Err(DiskError::Silent);
            }
            let measured = within(this.world.sleep(this.bound), this.disk.measure()).await;
            this.silent.set(measured.is_none());
            measured.unwrap_or(Err(DiskError::Silent))
        }
    }

    fn read(
        &self,
        at: u64,
        buf: Buf,
    ) -> impl Future<Output = (Result<(), DiskError>, Buf)> + 'static {
        let this = self.clone();
        async move {
            let len = buf.len();
            if this.silent.get() {
                return (Err(DiskError::Silent), buf);
            }
            let read = this.disk.read(at, buf);
            within(this.world.sleep(this.bound), read).await.unwrap_or_else(|| {
                this.silent.set(true);
                (Err(DiskError::Silent), Buf::new(len))
            })
        }
    }

    fn write(&self, at: u64, segs: Segs) -> impl Future<Output = Result<(), DiskError>> + 'static {
        self.disk.write(at, segs)
    }

    fn flush(&self) -> impl Future<Output = Result<(), DiskError>> + 'static {
        self.disk.flush()
    }

    fn discard(&self, at: u64, len: u64) -> impl Future<Output = Result<(), DiskError>> + 'static {
        self.disk.discard(at, len)
    }
}
