//! A ublk device over memory that survives its daemon: the ublk front end without an array, for
//! tests on a kernel with ublk (tests/vm/boot).
//!
//!     ram RUN_DIR FILE BYTES     serve FILE (made if missing), or go on where a dead one left off
//!     ram RUN_DIR FILE BYTES stop-after SECONDS     and stop and delete the device then
//!
//! Prints the device's path once it serves.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::ExitCode;
use std::ptr::NonNull;
use std::rc::Rc;
use std::time::Duration;

use evenkeel_journal::sync::Lock;
use evenkeel_journal::uring::UringWorld;
use evenkeel_journal::{Buf, Slice, World};
use evenkeel_raid::{Ack, RequestError};
use evenkeel_ublk_target::process;
use evenkeel_ublk_target::target::BlockTarget;
use evenkeel_ublk_target::ublk::device::Found;
use evenkeel_ublk_target::ublk::record::Record;
use evenkeel_ublk_target::ublk::{self, Control, DeviceParams, Queue};

const UUID: u128 = 0x5261_6d20_7374_616e_642d_696e_2066_6f72;

/// A mapped file. Requests take a little while, so that some are in flight at any time.
#[derive(Clone)]
struct Ram {
    at: NonNull<u8>,
    bytes: u64,
    world: UringWorld,
    flushes: Lock,
    _file: Rc<File>,
}

impl Ram {
    fn open(path: &Path, bytes: u64, world: UringWorld) -> std::io::Result<Ram> {
        let file =
            File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        file.set_len(bytes)?;
        // SAFETY: a new mapping wherever the kernel likes; checked below.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes as usize,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        let at = NonNull::new(at.cast()).ok_or(std::io::ErrorKind::OutOfMemory)?;
        Ok(Ram { at, bytes, world, flushes: Lock::new(), _file: Rc::new(file) })
    }

    fn range(&self, at: u64, len: u64) -> Result<*mut u8, RequestError> {
        let fits = at.checked_add(len).is_some_and(|end| end <= self.bytes);
        if !fits {
            return Err(RequestError::Invalid);
        }
        // SAFETY: inside the mapping.
        Ok(unsafe { self.at.as_ptr().add(at as usize) })
    }
}

impl BlockTarget for Ram {
    fn size_bytes(&self) -> u64 {
        self.bytes
    }
    async fn read(&self, at: u64, mut buf: Buf) -> (Result<(), RequestError>, Buf) {
        let from = match self.range(at, buf.len() as u64) {
            Ok(from) => from,
            Err(e) => return (Err(e), buf),
        };
        // SAFETY: as long as the buffer, inside the mapping, elsewhere than the buffer.
        unsafe { std::ptr::copy_nonoverlapping(from, buf.as_mut_ptr(), buf.len()) };
        (Ok(()), buf)
    }
    async fn write(&self, at: u64, data: Slice, _fua: bool) -> Result<(), RequestError> {
        let to = self.range(at, data.len() as u64)?;
        self.world.sleep(Duration::from_micros(300)).await;
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), to, data.len()) };
        Ok(())
    }
    async fn flush(&self) -> Result<(), RequestError> {
        let _one = self.flushes.lock().await;
        self.world.sleep(Duration::from_micros(300)).await;
        Ok(())
    }
    async fn discard(&self, at: u64, len: u64, _fua: bool) -> Result<(), RequestError> {
        let to = self.range(at, len)?;
        // SAFETY: as above.
        unsafe { std::ptr::write_bytes(to, 0, len as usize) };
        Ok(())
    }
    async fn write_zeroes(&self, at: u64, len: u64, fua: bool) -> Result<(), RequestError> {
        self.discard(at, len, fua).await
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let [_, run_dir, file, bytes, rest @ ..] = &args[..] else {
        eprintln!("usage: ram RUN_DIR FILE BYTES [stop-after SECONDS]");
        return ExitCode::from(2);
    };
    let limit = rest.get(1).and_then(|s| s.parse().ok()).map(Duration::from_secs);
    match serve(Path::new(run_dir), Path::new(file), bytes.parse().unwrap_or(0), limit) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("ram: {e}");
            ExitCode::FAILURE
        }
    }
}

fn serve(run_dir: &Path, file: &Path, bytes: u64, limit: Option<Duration>) -> std::io::Result<()> {
    process::harden();
    let needed = [run_dir, file, Path::new("/proc"), Path::new("/sys"), Path::new("/dev")];
    process::isolate(&needed.map(Path::to_path_buf))?;
    let engine = ublk::engine()?;
    let world = engine.world(run_dir)?;
    let ram = Ram::open(file, bytes, world.clone())?;
    let done = engine.block_on(async {
        let control = Control::start()?;
        let known = Record::load(run_dir, "ram");
        let id = known.map_or(u32::MAX, |r| r.ublk_id);
        let device = match control.look(id, UUID).await? {
            Some(found @ Found::InUse { .. }) => {
                println!("recovering {found:?}");
                control.begin_recovery(id).await?;
                control.open_recovered().await?
            }
            _ => {
                let (size_bytes, ack) = (bytes, Ack::Cached);
                let params =
                    DeviceParams { size_bytes, chunk_bytes: 65536, data: 3, ack, read_only: false };
                control.add(UUID, params).await?
            }
        };
        Record::new(UUID, device.id).store(run_dir, "ram")?;
        let queue = Queue::start(&engine, &device, &ram)?;
        control.start_device(&device).await?;
        println!("{}", device.path().display());
        world.sleep(limit.unwrap_or(Duration::from_secs(1 << 30))).await;
        println!("in use: {}", control.is_busy(device.path()).await?);
        control.stop_device().await?;
        println!("stopped, {}", queue.is_stopping());
        queue.close(&world).await;
        drop(device);
        control.delete_device().await?;
        Record::forget(run_dir, "ram");
        println!("deleted");
        Ok(())
    });
    std::mem::forget(engine);
    done
}
