//! Devices, from the thread that gives the commands: the control thread.
//!
//! What must hold: no control command runs on the engine thread, since START_DEV scans partitions
//! and STOP_DEV writes back, and both wait for the engine. libublk's control object lives and dies
//! on the control thread, and is disowned as soon as its device serves: from then on nothing but a
//! stop deletes the device, so that a daemon's death leaves it to the next one.

use std::future::Future;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use libublk::ctrl::UblkCtrl;
use libublk::io::UblkDev;
use libublk::{UblkError, UblkFlags, sys};

use evenkeel_raid::Ack;

use super::record::tag_of;
use super::{DEPTH, REQUEST_BYTES};

const TARGET: &str = "evenkeel";
/// Largest discard that the kernel sends in one piece.
const DISCARD_SECTORS: u32 = 1 << 21;
const BLOCK_SHIFT: u8 = 12;
/// How long the kernel may wait for a moment in which it can quiesce the queue.
const QUIESCE_MS: u64 = 2000;
/// How often it is looked whether a dead daemon has let go of its device, and how often at most.
const LEFT_STEP: Duration = Duration::from_millis(5);
const LEFT_STEPS: u32 = 2000;

/// What the block layer is told of a device.
#[derive(Clone, Copy, Debug)]
pub struct DeviceParams {
    /// Bytes of the device.
    pub size_bytes: u64,
    /// Bytes of a chunk.
    pub chunk_bytes: u64,
    /// Data chunks of a stripe.
    pub data: u64,
    /// Cached: the device says that its cache is volatile, and FLUSH and FUA arrive.
    pub ack: Ack,
    /// Writes are refused by the block layer.
    pub read_only: bool,
}

impl DeviceParams {
    fn attrs(&self) -> u32 {
        let cache = match self.ack {
            Ack::Cached => sys::UBLK_ATTR_VOLATILE_CACHE | sys::UBLK_ATTR_FUA,
            Ack::Durable => 0,
        };
        cache | if self.read_only { sys::UBLK_ATTR_READ_ONLY } else { 0 }
    }

    fn to_ublk(self) -> sys::ublk_params {
        let stripe = self.chunk_bytes.saturating_mul(self.data).max(1 << BLOCK_SHIFT);
        // Shifts: only powers of two can be said.
        let (min, opt) = if stripe.is_power_of_two() && stripe <= 1 << 30 {
            (self.chunk_bytes.trailing_zeros() as u8, stripe.trailing_zeros() as u8)
        } else {
            (BLOCK_SHIFT, BLOCK_SHIFT)
        };
        let mut p = sys::ublk_params {
            types: sys::UBLK_PARAM_TYPE_BASIC | sys::UBLK_PARAM_TYPE_DISCARD,
            basic: sys::ublk_param_basic {
                attrs: self.attrs(),
                logical_bs_shift: BLOCK_SHIFT,
                physical_bs_shift: BLOCK_SHIFT,
                io_opt_shift: opt,
                io_min_shift: min.max(BLOCK_SHIFT),
                max_sectors: REQUEST_BYTES >> 9,
                dev_sectors: self.size_bytes >> 9,
                ..Default::default()
            },
            ..Default::default()
        };
        // A file system does not trim ranges shorter than the granularity: they would free no
        // stripe and be written as zeros.
        p.discard = sys::ublk_param_discard {
            discard_granularity: stripe.next_power_of_two().min(1 << 27) as u32,
            max_discard_sectors: DISCARD_SECTORS,
            max_write_zeroes_sectors: DISCARD_SECTORS,
            max_discard_segments: 1,
            ..Default::default()
        };
        p
    }
}

/// State of a device that bears an array's tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// Added and never started, or stopped and never deleted: it serves nobody.
    Dead,
    /// It serves, or waits for a daemon, with these settings.
    InUse {
        /// When its writes are acknowledged.
        ack: Ack,
        /// It refuses writes.
        read_only: bool,
        /// Its size.
        size_bytes: u64,
    },
}

/// A device of the kernel's, shared by the engine thread (its queue) and the control thread.
#[derive(Clone)]
pub struct Device {
    /// N of `/dev/ublkbN`.
    pub id: u32,
    pub(super) dev: Arc<UblkDev>,
}

impl Device {
    /// Path of the block device.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        path_of(self.id)
    }

    /// Its size when it was added, or when its recovery began.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.dev.tgt.dev_size
    }
}

/// Path of the block device with this number.
#[must_use]
pub fn path_of(id: u32) -> PathBuf {
    PathBuf::from(format!("/dev/ublkb{id}"))
}

/// What libublk's error means as one of the system's.
#[must_use]
pub fn io_error(e: &UblkError) -> io::Error {
    match e {
        UblkError::UringIOError(n) | UblkError::OtherError(n) if *n < 0 => {
            io::Error::from_raw_os_error(-n)
        }
        UblkError::IOError(e) => match e.raw_os_error() {
            Some(n) => io::Error::from_raw_os_error(n),
            None => io::Error::new(e.kind(), e.to_string()),
        },
        other => io::Error::other(other.to_string()),
    }
}

/// EBUSY comes back as a value, not as an error.
fn outcome(result: Result<i32, UblkError>) -> io::Result<()> {
    match result {
        Ok(n) if n < 0 => Err(io::Error::from_raw_os_error(-n)),
        Ok(_) => Ok(()),
        Err(e) => Err(io_error(&e)),
    }
}

type Job = Box<dyn FnOnce(&mut Option<UblkCtrl>) + Send>;

struct CallState<T> {
    result: Option<io::Result<T>>,
    waker: Option<Waker>,
}

/// The wait for a job on the control thread. Dropping it does not end the job.
pub struct Call<T> {
    sent: bool,
    shared: Arc<Mutex<CallState<T>>>,
}

impl<T> Future for Call<T> {
    type Output = io::Result<T>;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if !self.sent {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let mut s = self.shared.lock().unwrap_or_else(|e| e.into_inner());
        match s.result.take() {
            Some(result) => Poll::Ready(result),
            None => {
                s.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// The control thread. Clones share it; it ends with the last of them.
#[derive(Clone)]
pub struct Control {
    jobs: mpsc::Sender<Job>,
}

impl Control {
    /// Starts the thread.
    ///
    /// # Errors
    /// If there can be no more threads.
    pub fn start() -> io::Result<Control> {
        let (jobs, todo) = mpsc::channel::<Job>();
        std::thread::Builder::new().name("ublk control".into()).stack_size(256 << 10).spawn(
            move || {
                let mut ctrl = None;
                for job in todo {
                    job(&mut ctrl);
                }
            },
        )?;
        Ok(Control { jobs })
    }

    /// Runs `job` on the control thread; the future waits for it without blocking.
    fn call<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Option<UblkCtrl>) -> io::Result<T> + Send + 'static,
    ) -> Call<T> {
        let shared = Arc::new(Mutex::new(CallState { result: None, waker: None }));
        let there = Arc::clone(&shared);
        let sent = self.jobs.send(Box::new(move |ctrl| {
            let result = job(ctrl);
            let mut s = there.lock().unwrap_or_else(|e| e.into_inner());
            s.result = Some(result);
            if let Some(w) = s.waker.take() {
                w.wake();
            }
        }));
        Call { sent: sent.is_ok(), shared }
    }

    /// What the device `id` is, if it bears the tag of this array.
    pub fn look(&self, id: u32, uuid: u128) -> Call<Option<Found>> {
        self.call(move |_| Ok(look(id, uuid)))
    }

    /// All devices that bear the tag of this array.
    pub fn search(&self, uuid: u128) -> Call<Vec<(u32, Found)>> {
        self.call(move |_| {
            let names = match std::fs::read_dir("/sys/class/ublk-char") {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                other => other?,
            };
            let ids = names
                .flatten()
                .filter_map(|n| n.file_name().to_str()?.strip_prefix("ublkc")?.parse::<u32>().ok());
            Ok(ids.filter_map(|id| Some((id, look(id, uuid)?))).collect())
        })
    }

    /// Adds a device, not yet started.
    pub fn add(&self, uuid: u128, params: DeviceParams) -> Call<Device> {
        self.call(move |slot| {
            let wish = sys::UBLK_F_USER_RECOVERY
                | sys::UBLK_F_USER_RECOVERY_REISSUE
                | sys::UBLK_F_QUIESCE
                | sys::UBLK_F_UPDATE_SIZE;
            // Where the kernel does not say what it can (before 6.5), it ignores what it cannot.
            let can = UblkCtrl::get_features().unwrap_or(u64::MAX);
            let flags = u64::from(wish) & can;
            let ctrl = UblkCtrl::new(
                Some(TARGET.into()),
                -1,
                1,
                u32::from(DEPTH),
                REQUEST_BYTES,
                flags,
                tag_of(uuid),
                UblkFlags::UBLK_DEV_F_ADD_DEV,
            )
            .map_err(|e| io_error(&e))?;
            if ctrl.dev_info().flags & u64::from(sys::UBLK_F_USER_RECOVERY_REISSUE) == 0 {
                crate::process::note(
                    "Warning: this kernel's ublk cannot hold requests while a daemon restarts.",
                );
            }
            open(slot, ctrl, Some(params))
        })
    }

    /// Lets the kernel take the queue from this process, where it can: requests wait from then on,
    /// and what is under way is given again to the next daemon. Says whether it could.
    pub fn quiesce_device(&self) -> Call<bool> {
        self.call(|slot| {
            let ctrl = slot.as_ref().ok_or(io::ErrorKind::NotFound)?;
            if ctrl.dev_info().flags & u64::from(sys::UBLK_F_QUIESCE) == 0 {
                return Ok(false);
            }
            outcome(ctrl.quiesce_dev(QUIESCE_MS)).map(|()| true)
        })
    }

    /// Has the device, which is started, show so many bytes from now on, where the kernel can (Linux
    /// 6.16); what is mounted from it stays. The bytes that it shows then.
    pub fn show_size(&self, bytes: u64) -> Call<u64> {
        self.call(move |slot| {
            let ctrl = slot.as_ref().ok_or(io::ErrorKind::NotFound)?;
            // Of the kernel, not of the device: one that another kernel began lacks the flag.
            let can = UblkCtrl::get_features().unwrap_or(0);
            if can & u64::from(sys::UBLK_F_UPDATE_SIZE) != 0 {
                outcome(ctrl.update_size(bytes))?;
            }
            Ok(parameters(ctrl)?.basic.dev_sectors << 9)
        })
    }

    /// Waits until the device's dead daemon has let go of it (up to half a minute).
    pub fn begin_recovery(&self, id: u32) -> Call<()> {
        self.call(move |slot| {
            wait_until_left(id)?;
            let ctrl = UblkCtrl::new(
                Some(TARGET.into()),
                i32::try_from(id).map_err(|_| io::ErrorKind::InvalidInput)?,
                1,
                u32::from(DEPTH),
                REQUEST_BYTES,
                0,
                0,
                UblkFlags::UBLK_DEV_F_RECOVER_DEV,
            )
            .map_err(|e| io_error(&e))?;
            match outcome(ctrl.start_user_recover()) {
                // Linux 6.12 lets a recovery begin once: a start that got no further than that has
                // begun it, and this one goes on with it.
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) && is_quiesced(id) => {}
                done => done?,
            }
            *slot = Some(ctrl);
            Ok(())
        })
    }

    /// Opens the device whose recovery has begun, with the flags and the depth that it has.
    pub fn open_recovered(&self) -> Call<Device> {
        self.call(|slot| {
            let ctrl = slot.take().ok_or(io::ErrorKind::NotFound)?;
            outcome(ctrl.read_dev_info())?;
            open(slot, ctrl, None)
        })
    }

    /// Starts the device, or ends its recovery, once its queue is served. From then on it is not
    /// deleted when this process ends.
    pub fn start_device(&self, device: &Device) -> Call<()> {
        let dev = Arc::clone(&device.dev);
        self.call(move |slot| {
            let ctrl = slot.as_ref().ok_or(io::ErrorKind::NotFound)?;
            dev.notify_buffer_registration_complete(false);
            outcome(ctrl.start_dev(&dev))?;
            ctrl.disown();
            Ok(())
        })
    }

    /// Stops the device: what is dirty in the page cache is written, then nothing is taken any
    /// more, and all commands of its queue end. The engine must serve meanwhile.
    pub fn stop_device(&self) -> Call<()> {
        self.call(|slot| {
            let ctrl = slot.as_ref().ok_or(io::ErrorKind::NotFound)?;
            outcome(ctrl.kill_dev())
        })
    }

    /// Deletes the device, once it is stopped and its queue is gone. Who still has it open keeps
    /// a dead one; on kernels before 6.9 that is waited for.
    pub fn delete_device(&self) -> Call<()> {
        self.call(|slot| {
            let ctrl = slot.take().ok_or(io::ErrorKind::NotFound)?;
            outcome(ctrl.del_dev_async()).or_else(|_| outcome(ctrl.del_dev()))
        })
    }

    /// Deletes a device that nobody serves.
    pub fn delete_dead(&self, id: u32) -> Call<()> {
        self.call(move |_| {
            let ctrl = simple(id)?;
            // Without effect on one that was never started.
            let _ = ctrl.kill_dev();
            outcome(ctrl.del_dev_async()).or_else(|_| outcome(ctrl.del_dev()))
        })
    }

    /// Whether somebody has the device open, or mounted, or built something on it.
    pub fn is_busy(&self, path: PathBuf) -> Call<bool> {
        self.call(move |_| Ok(is_busy(&path)))
    }
}

/// Waits until the kernel has noticed that the device's daemon is gone. libublk would wait, too, but
/// ask only ten times a second; requests wait meanwhile.
fn wait_until_left(id: u32) -> io::Result<()> {
    for _ in 0..LEFT_STEPS {
        if u32::from(simple(id)?.dev_info().state) != sys::UBLK_S_DEV_LIVE {
            break;
        }
        std::thread::sleep(LEFT_STEP);
    }
    Ok(())
}

fn is_quiesced(id: u32) -> bool {
    simple(id).is_ok_and(|c| u32::from(c.dev_info().state) == sys::UBLK_S_DEV_QUIESCED)
}

fn simple(id: u32) -> io::Result<UblkCtrl> {
    let id = i32::try_from(id).map_err(|_| io::ErrorKind::InvalidInput)?;
    UblkCtrl::new_simple(id).map_err(|e| io_error(&e))
}

/// Opens the char device and puts the control object in its place.
fn open(
    slot: &mut Option<UblkCtrl>,
    ctrl: UblkCtrl,
    params: Option<DeviceParams>,
) -> io::Result<Device> {
    let known = match params {
        Some(p) => p.to_ublk(),
        None => parameters(&ctrl)?,
    };
    let init = |dev: &mut UblkDev| {
        dev.tgt.dev_size = known.basic.dev_sectors << 9;
        dev.tgt.params = known;
        Ok(())
    };
    let dev = UblkDev::new(TARGET.into(), init, &ctrl).map_err(|e| io_error(&e))?;
    let id = ctrl.dev_info().dev_id;
    *slot = Some(ctrl);
    Ok(Device { id, dev: Arc::new(dev) })
}

fn parameters(ctrl: &UblkCtrl) -> io::Result<sys::ublk_params> {
    let mut p = sys::ublk_params::default();
    outcome(ctrl.get_params(&mut p))?;
    Ok(p)
}

fn look(id: u32, uuid: u128) -> Option<Found> {
    // libublk complains aloud about a device without a file of its own, so look before.
    if !Path::new(&format!("/sys/class/ublk-char/ublkc{id}")).exists() {
        return None;
    }
    let ctrl = simple(id).ok()?;
    let info = ctrl.dev_info();
    if info.ublksrv_flags != tag_of(uuid) {
        return None;
    }
    if u32::from(info.state) == sys::UBLK_S_DEV_DEAD {
        return Some(Found::Dead);
    }
    let p = parameters(&ctrl).ok()?;
    let cached = p.basic.attrs & sys::UBLK_ATTR_VOLATILE_CACHE != 0;
    Some(Found::InUse {
        ack: if cached { Ack::Cached } else { Ack::Durable },
        read_only: p.basic.attrs & sys::UBLK_ATTR_READ_ONLY != 0,
        size_bytes: p.basic.dev_sectors << 9,
    })
}

/// Mounts, swap, device mapper and md hold a device exclusively; who just has it open is found by
/// looking at what everybody has open.
fn is_busy(path: &Path) -> bool {
    let probe = std::fs::File::options().read(true).custom_flags(libc::O_EXCL).open(path);
    match probe {
        Err(e) if e.raw_os_error() == Some(libc::EBUSY) => return true,
        // Gone, or not to be opened by anybody.
        Err(_) => return false,
        Ok(probe) => drop(probe),
    }
    let own = std::process::id().to_string();
    let name = path.as_os_str().as_encoded_bytes();
    let opens = |pid: std::fs::DirEntry| {
        let fds = std::fs::read_dir(pid.path().join("fd")).into_iter().flatten().flatten();
        fds.filter_map(|fd| std::fs::read_link(fd.path()).ok()).any(|to| is_part(&to, name))
    };
    std::fs::read_dir("/proc").into_iter().flatten().flatten().any(|pid| {
        let number = pid.file_name();
        let number = number.as_encoded_bytes();
        number.iter().all(u8::is_ascii_digit) && number != own.as_bytes() && opens(pid)
    })
}

/// Whether `to` is the device `name` or one of its partitions.
fn is_part(to: &Path, name: &[u8]) -> bool {
    let rest = to.as_os_str().as_encoded_bytes().strip_prefix(name);
    rest.is_some_and(|r| r.is_empty() || r[0] == b'p' && r[1..].iter().all(u8::is_ascii_digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_say_what_ack_promises() {
        let params = DeviceParams {
            size_bytes: 1 << 30,
            chunk_bytes: 65536,
            data: 4,
            ack: Ack::Cached,
            read_only: false,
        };
        let p = params.to_ublk();
        assert_eq!(p.basic.attrs, sys::UBLK_ATTR_VOLATILE_CACHE | sys::UBLK_ATTR_FUA);
        assert_eq!((p.basic.io_min_shift, p.basic.io_opt_shift), (16, 18));
        assert_eq!((p.basic.dev_sectors, p.basic.max_sectors), (1 << 21, 2048));
        assert_eq!(p.discard.discard_granularity, 262_144);
        let p = DeviceParams { data: 3, ack: Ack::Durable, read_only: true, ..params }.to_ublk();
        assert_eq!(p.basic.attrs, sys::UBLK_ATTR_READ_ONLY);
        assert_eq!((p.basic.io_min_shift, p.basic.io_opt_shift), (12, 12));
    }

    #[test]
    fn partitions_count_as_the_device() {
        let part = |s: &str| is_part(Path::new(s), b"/dev/ublkb1");
        assert!(part("/dev/ublkb1") && part("/dev/ublkb1p12"));
        assert!(!part("/dev/ublkb12") && !part("/dev/ublkb1x") && !part("/dev/ublkb"));
    }
}
