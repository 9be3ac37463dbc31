//! Members: block devices and files, read and written past the page cache.
//!
//! What must hold (I6, I4): the descriptor that does the I/O holds the lock, a block device is
//! opened O_EXCL besides, and a loop device's file is locked, too. The kernel keeps the open file
//! until the last operation on it has ended, so a dead daemon's lock goes only when its late writes
//! have.
//!
//! - *Flush* is fdatasync: on a block device it writes the page cache back and sends the device a
//!   FLUSH; on a file it writes data and what is needed to find them (sizes, extents, the turn of
//!   unwritten extents into written ones) and flushes the device below. Only time stamps are left
//!   out. This is a flush whether or not O_DIRECT was to be had.
//! - *Discard* is a punched hole on a file (EOPNOTSUPP and kin: `Unsupported`). On a device it is
//!   BLOCK_URING_CMD_DISCARD (Linux 6.12 on); where the kernel lacks that, fallocate's hole, which
//!   a device understands as "write zeroes, unmapping, without falling back to writing".
//! - *Results*: ENODEV and other errnos that say that nothing is behind the descriptor any more
//!   (`is_gone`), a transfer of nothing, a device's short transfer or ENOSPC, a device of size 0:
//!   `Gone`. A file's ENOSPC: `Full`. A file's short transfer before its end goes on.
//! - *A file that a server gives* (FUSE, NFS, SMB, 9p): its operations are left to the kernel's
//!   workers from the start, since to begin one may block for as long as the server is silent.
//! - *A file that was cut* while it is open is `Gone`, too. A write would make it long again, with
//!   zeros where content was, so a file's size is looked at before each write.
//! - *A disk that became larger* while it is open counts with its new size once it was measured.

use std::cell::Cell;
use std::fs::{File, Metadata, OpenOptions};
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use io_uring::{opcode, squeue, types};

use super::driver::{Driver, Op};
use super::files::{RingFile, Target};
use crate::disk::{Disk, DiskError, DiskFacts};
use crate::mem::{Buf, Segs, Slice, segs_len};
use crate::sync::join_all;

/// Most pieces of one operation (UIO_MAXIOV), and most bytes.
const PIECES_MAX: usize = 1024;
const BYTES_MAX: usize = 1 << 30;
/// Workers of the kernel that operations on served files may take together.
const WORKERS_MAX: u32 = 1024;
/// How often an interrupted operation is issued again.
const AGAIN_MAX: u32 = 16;

/// Where udev names devices by what they are.
const BY_ID: &str = "/dev/disk/by-id";
const BLKGETSIZE64: libc::c_ulong = 0x8008_1272;
const BLKSSZGET: libc::c_ulong = 0x1268;
const BLOCK_URING_CMD_DISCARD: u32 = 0x1200;

/// What a disk is opened for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// To be a member: locked against everybody.
    ReadWrite,
    /// To be read by a start that writes nothing: locked against daemons that write.
    ReadOnly,
    /// To be looked at: no lock.
    Look,
}

/// Whether an error of [`UringDisk::open`] says that somebody else holds the disk.
#[must_use]
pub fn is_held(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EBUSY | libc::EWOULDBLOCK | libc::ETXTBSY))
}

/// Two paths with the same identity are one disk, whatever they are called: links, bind mounts,
/// nodes of one device, and loop devices, which are the same as their file.
///
/// # Errors
/// If there is nothing at this path.
pub fn identity(path: &Path) -> io::Result<(u64, u64)> {
    Ok(identity_of(&std::fs::metadata(path)?))
}

fn identity_of(meta: &Metadata) -> (u64, u64) {
    if !meta.file_type().is_block_device() {
        return (meta.dev(), meta.ino());
    }
    let file = backing_file(meta).and_then(|p| std::fs::metadata(p).ok());
    file.map_or((u64::MAX, meta.rdev()), |file| identity_of(&file))
}

/// The file or device that all of a loop device lies on, as far as its path is known here.
fn backing_file(meta: &Metadata) -> Option<PathBuf> {
    if !meta.file_type().is_block_device() {
        return None;
    }
    let (major, minor) = (libc::major(meta.rdev()), libc::minor(meta.rdev()));
    let about = PathBuf::from(format!("/sys/dev/block/{major}:{minor}/loop"));
    let offset = std::fs::read_to_string(about.join("offset")).ok()?;
    let path = std::fs::read_to_string(about.join("backing_file")).ok()?;
    // A part that begins elsewhere is another disk.
    (offset.trim() == "0").then(|| PathBuf::from(path.trim_end_matches('\n')))
}

/// The links in a folder that lead to `target`.
pub(super) fn links_to(folder: &Path, target: &Path) -> Vec<PathBuf> {
    let Ok(target) = target.canonicalize() else { return Vec::new() };
    let all = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path());
    all.filter(|link| link.canonicalize().is_ok_and(|p| p == target)).collect()
}

/// Whether the file's content is kept by a server that may be silent for long.
fn is_served(file: &File) -> bool {
    const FUSE: i64 = 0x6573_5546;
    const SMB1: i64 = 0xff53_4d42;
    const SMB2: i64 = 0xfe53_4d42;
    const P9: i64 = 0x0102_1997;
    const NFS: i64 = 0x6969;
    // SAFETY: zeros are a valid statfs, and the kernel fills it for an open descriptor.
    let kind = unsafe {
        let mut s: libc::statfs = std::mem::zeroed();
        if libc::fstatfs(file.as_raw_fd(), &raw mut s) != 0 {
            return false;
        }
        s.f_type as i64
    };
    [FUSE, SMB1, SMB2, P9, NFS].contains(&kind)
}

fn flock(file: &File, how: i32) -> io::Result<()> {
    // SAFETY: an open descriptor.
    if how != 0 && unsafe { libc::flock(file.as_raw_fd(), how | libc::LOCK_NB) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Discard {
    Command,
    Hole,
    Unsupported,
}

struct Inner {
    file: RingFile,
    path: PathBuf,
    lasting: Vec<PathBuf>,
    access: Access,
    /// When it was opened, or measured last.
    bytes: Cell<u64>,
    is_file: bool,
    direct: bool,
    /// What addresses and lengths must be multiples of, past the page cache.
    align: usize,
    discard: Cell<Discard>,
    id: (u64, u64),
    /// A server's file: whoever begins an operation on it may have to wait.
    served: bool,
    opening: Arc<AtomicBool>,
    /// Of a loop device: its file, locked like one that is a member itself.
    _backing: Option<File>,
}

/// A member, opened and locked. Clones share it; the last one and the last operation close it.
#[derive(Clone)]
pub struct UringDisk(Rc<Inner>);

/// A member that was opened and locked, and is not yet known to a ring: another thread may do that,
/// where to open may take for ever.
pub(super) struct Opened {
    file: File,
    path: PathBuf,
    access: Access,
    bytes: u64,
    is_file: bool,
    direct: bool,
    align: usize,
    id: (u64, u64),
    served: bool,
    backing: Option<File>,
    /// Names that a device keeps when it comes back as another node.
    lasting: Vec<PathBuf>,
}

impl Opened {
    /// Opens and locks without waiting for a lock.
    pub(super) fn open(path: &Path, access: Access) -> io::Result<Opened> {
        let kind = std::fs::metadata(path)?.file_type();
        let device = kind.is_block_device();
        if !device && !kind.is_file() {
            let text = "neither a block device nor a regular file";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let open = |flags: i32| {
            let excl = if device && access == Access::ReadWrite { libc::O_EXCL } else { 0 };
            OpenOptions::new()
                .read(true)
                .write(access == Access::ReadWrite)
                .custom_flags(flags | excl | libc::O_CLOEXEC)
                .open(path)
        };
        let (file, direct) = match open(libc::O_DIRECT) {
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => (open(0)?, false),
            other => (other?, true),
        };
        let lock = match access {
            Access::ReadWrite => libc::LOCK_EX,
            Access::ReadOnly => libc::LOCK_SH,
            Access::Look => 0,
        };
        flock(&file, lock)?;
        // Of the open file, not of the path: it may be another one by now.
        let meta = file.metadata()?;
        let device = meta.file_type().is_block_device();
        let bytes = if device { device_bytes(file.as_raw_fd())? } else { meta.len() };
        let backing = backing_file(&meta).and_then(|p| File::open(p).ok());
        if let Some(file) = &backing {
            flock(file, lock)?;
        }
        let path = std::path::absolute(path)?;
        Ok(Opened {
            lasting: if device { links_to(Path::new(BY_ID), &path) } else { Vec::new() },
            path,
            access,
            bytes: bytes & !4095,
            is_file: !device,
            direct,
            align: if direct { alignment(&file, device) } else { 1 },
            id: identity_of(&meta),
            served: !device && is_served(&file),
            backing,
            file,
        })
    }
}

impl UringDisk {
    /// Opens and locks without waiting for a lock.
    ///
    /// # Errors
    /// What the kernel says; [`is_held`] tells the case of a disk in use.
    pub fn open(driver: &Driver, path: &Path, access: Access) -> io::Result<UringDisk> {
        Ok(UringDisk::new(driver, Opened::open(path, access)?))
    }

    pub(super) fn new(driver: &Driver, opened: Opened) -> UringDisk {
        let device = !opened.is_file;
        if opened.served {
            // A silent server holds a worker for every operation; the others' flushes need some,
            // too. Where the kernel does not know this (before 5.15), its own bound stays.
            let mut most = [WORKERS_MAX, 0];
            let _ = driver.with_ring(|r| r.submitter().register_iowq_max_workers(&mut most));
        }
        UringDisk(Rc::new(Inner {
            file: RingFile::new(driver, OwnedFd::from(opened.file)),
            path: opened.path,
            lasting: opened.lasting,
            access: opened.access,
            bytes: Cell::new(opened.bytes),
            is_file: opened.is_file,
            direct: opened.direct,
            align: opened.align,
            discard: Cell::new(if device { Discard::Command } else { Discard::Hole }),
            id: opened.id,
            served: opened.served,
            opening: Arc::default(),
            _backing: opened.backing,
        }))
    }

    /// Names that may lead to it, the lasting ones first, and the access that it was opened with.
    pub(super) fn opened_as(&self) -> (Vec<PathBuf>, Access) {
        let names = self.0.lasting.iter().chain([&self.0.path]);
        (names.cloned().collect(), self.0.access)
    }

    /// Set while a thread tries to open it again.
    pub(super) fn opening(&self) -> &Arc<AtomicBool> {
        &self.0.opening
    }

    /// Whether there is less behind its descriptor now than when it was opened or measured.
    pub(super) fn is_shorter(&self) -> bool {
        if self.0.is_file {
            return self.is_cut();
        }
        !device_bytes(self.0.file.fd()).is_ok_and(|bytes| bytes >= self.0.bytes.get())
    }

    /// Two disks with the same identity are one.
    #[must_use]
    pub fn id(&self) -> (u64, u64) {
        self.0.id
    }

    /// Whether I/O goes past the page cache.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.0.direct
    }

    fn issue_read(&self, at: u64, mut buf: Buf, done: usize) -> Op<(Buf, UringDisk)> {
        let len = (buf.len() - done).min(BYTES_MAX);
        let (ptr, at) = (buf[done..].as_mut_ptr(), at + done as u64);
        let driver = self.0.file.driver().clone();
        let region = driver.region_of(ptr, len);
        let build = |fd: Fd| match (region, fd) {
            (Some(r), Fd::Fixed(f)) => {
                opcode::ReadFixed::new(f, ptr, len as u32, r).offset(at).build()
            }
            (Some(r), Fd::Plain(f)) => {
                opcode::ReadFixed::new(f, ptr, len as u32, r).offset(at).build()
            }
            (None, Fd::Fixed(f)) => opcode::Read::new(f, ptr, len as u32).offset(at).build(),
            (None, Fd::Plain(f)) => opcode::Read::new(f, ptr, len as u32).offset(at).build(),
        };
        let entry = self.begun_where(build(self.fd()));
        // SAFETY: buffer and file are kept; the memory of a Buf does not move with it.
        unsafe { driver.submit(entry, (buf, self.clone())) }
    }

    /// The operation, left to a worker if to begin it may block.
    fn begun_where(&self, entry: squeue::Entry) -> squeue::Entry {
        if self.0.served { entry.flags(squeue::Flags::ASYNC) } else { entry }
    }

    fn fd(&self) -> Fd {
        match self.0.file.target() {
            Target::Plain(fd) => Fd::Plain(types::Fd(fd)),
            Target::Fixed(place) => Fd::Fixed(types::Fixed(place)),
        }
    }

    /// Issues one operation for `pieces`, which are already merged and few enough.
    fn issue_write(&self, at: u64, pieces: Pieces) -> Op<(Pieces, UringDisk)> {
        let driver = self.0.file.driver().clone();
        let entry = if let [one] = pieces.iov[..] {
            let (ptr, len) = (one.iov_base.cast::<u8>().cast_const(), one.iov_len);
            let region = driver.region_of(ptr, len);
            match (region, self.fd()) {
                (Some(r), Fd::Fixed(f)) => {
                    opcode::WriteFixed::new(f, ptr, len as u32, r).offset(at).build()
                }
                (Some(r), Fd::Plain(f)) => {
                    opcode::WriteFixed::new(f, ptr, len as u32, r).offset(at).build()
                }
                (None, Fd::Fixed(f)) => opcode::Write::new(f, ptr, len as u32).offset(at).build(),
                (None, Fd::Plain(f)) => opcode::Write::new(f, ptr, len as u32).offset(at).build(),
            }
        } else {
            let (ptr, n) = (pieces.iov.as_ptr(), pieces.iov.len() as u32);
            match self.fd() {
                Fd::Fixed(f) => opcode::Writev::new(f, ptr, n).offset(at).build(),
                Fd::Plain(f) => opcode::Writev::new(f, ptr, n).offset(at).build(),
            }
        };
        let entry = self.begun_where(entry);
        // SAFETY: the vector's heap memory and the slices are kept, and the file.
        unsafe { driver.submit(entry, (pieces, self.clone())) }
    }

    /// What an errno of this disk means.
    fn error(&self, errno: i32) -> DiskError {
        match errno {
            e if is_gone(e) => DiskError::Gone,
            libc::ENOSPC | libc::EDQUOT if self.0.is_file => DiskError::Full,
            libc::ENOSPC => DiskError::Gone,
            _ if !self.0.is_file && !matches!(device_bytes(self.0.file.fd()), Ok(1..)) => {
                DiskError::Gone
            }
            _ => DiskError::Io(errno),
        }
    }

    /// Whether this is a file that is shorter now than when it was opened or measured.
    fn is_cut(&self) -> bool {
        if !self.0.is_file {
            return false;
        }
        // What this machine knows; a server that hangs is not asked, since this must not wait.
        let how = libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC;
        statx(self.0.file.fd(), how, libc::STATX_SIZE)
            .is_some_and(|st| st.stx_size < self.0.bytes.get())
    }

    fn issue_measure(&self) -> Op<(Box<libc::statx>, UringDisk)> {
        // SAFETY: plain numbers, for which zero is a value.
        let mut st: Box<libc::statx> = Box::new(unsafe { std::mem::zeroed() });
        let entry = opcode::Statx::new(
            types::Fd(self.0.file.fd()),
            c"".as_ptr(),
            (&raw mut *st).cast::<types::statx>(),
        )
        .flags(libc::AT_EMPTY_PATH | libc::AT_STATX_FORCE_SYNC)
        .mask(libc::STATX_SIZE)
        .build();
        // SAFETY: the path is a constant; descriptor and room for the answer are kept.
        unsafe { self.0.file.driver().submit(entry, (st, self.clone())) }
    }

    fn plain(&self, entry: squeue::Entry) -> Op<UringDisk> {
        // SAFETY: the entry names only the file, which is kept.
        unsafe { self.0.file.driver().submit(entry, self.clone()) }
    }

    fn issue_discard(&self, at: u64, len: u64, how: Discard) -> Op<UringDisk> {
        const HOLE: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        self.plain(match (how, self.fd()) {
            (Discard::Command, fd) => {
                let mut cmd = [0; 16];
                cmd[..8].copy_from_slice(&len.to_ne_bytes());
                match fd {
                    Fd::Fixed(f) => opcode::UringCmd16::new(f, BLOCK_URING_CMD_DISCARD)
                        .cmd(cmd)
                        .addr(Some(at))
                        .build(),
                    Fd::Plain(f) => opcode::UringCmd16::new(f, BLOCK_URING_CMD_DISCARD)
                        .cmd(cmd)
                        .addr(Some(at))
                        .build(),
                }
            }
            (_, Fd::Fixed(f)) => opcode::Fallocate::new(f, len).offset(at).mode(HOLE).build(),
            (_, Fd::Plain(f)) => opcode::Fallocate::new(f, len).offset(at).mode(HOLE).build(),
        })
    }
}

impl Disk for UringDisk {
    fn facts(&self) -> DiskFacts {
        let d = &self.0;
        DiskFacts { path: d.path.display().to_string(), bytes: d.bytes.get(), is_file: d.is_file }
    }

    fn measure(&self) -> impl Future<Output = Result<(), DiskError>> + 'static {
        let disk = self.clone();
        // Of a device it is known without asking it; a file's server may be silent.
        let asked = self.0.is_file.then(|| self.issue_measure());
        async move {
            let bytes = match asked {
                None => device_bytes(disk.0.file.fd())
                    .map_err(|e| disk.error(e.raw_os_error().unwrap_or(libc::EIO)))?,
                Some(op) => match op.await {
                    (0.., (st, _)) if st.stx_mask & libc::STATX_SIZE != 0 => st.stx_size,
                    (0.., _) => return Err(DiskError::Unsupported),
                    (e, _) => return Err(disk.error(-e)),
                },
            } & !4095;
            if bytes < disk.0.bytes.get() {
                return Err(DiskError::Gone);
            }
            disk.0.bytes.set(bytes);
            Ok(())
        }
    }

    fn read(
        &self,
        at: u64,
        buf: Buf,
    ) -> impl Future<Output = (Result<(), DiskError>, Buf)> + 'static {
        let disk = self.clone();
        // Memory that the device cannot reach is gone around through memory that it can.
        let (buf, caller) = if (buf.as_ptr() as usize | buf.len()).is_multiple_of(disk.0.align) {
            (buf, None)
        } else {
            let len = buf.len().next_multiple_of(disk.0.align);
            (Buf::new(len), Some(buf))
        };
        let first = self.issue_read(at, buf, 0);
        async move {
            let (result, buf) = disk.finish_read(at, first).await;
            match caller {
                None => (result, buf),
                Some(mut caller) => {
                    let len = caller.len();
                    caller.copy_from_slice(&buf[..len]);
                    (result, caller)
                }
            }
        }
    }

    fn write(&self, at: u64, segs: Segs) -> impl Future<Output = Result<(), DiskError>> + 'static {
        let disk = self.clone();
        let aligned =
            |s: &Slice| (s.as_ptr() as usize | s.len()).is_multiple_of(disk.0.align.max(1));
        let segs = if segs.iter().all(aligned) { segs } else { vec![gather(&segs)] };
        let cut = self.is_cut();
        let mut ops = Vec::with_capacity(1);
        let mut start = at;
        for pieces in if cut { Vec::new() } else { Pieces::split(segs) } {
            let len = pieces.len() as u64;
            ops.push((start, self.issue_write(start, pieces)));
            start += len;
        }
        async move {
            if cut {
                return Err(DiskError::Gone);
            }
            if ops.len() == 1
                && let Some((at, op)) = ops.pop()
            {
                return disk.finish_write(at, op).await;
            }
            let all = ops.into_iter().map(|(at, op)| disk.finish_write(at, op)).collect();
            join_all(all).await.into_iter().collect()
        }
    }

    fn flush(&self) -> impl Future<Output = Result<(), DiskError>> + 'static {
        let disk = self.clone();
        let sync = types::FsyncFlags::DATASYNC;
        let op = self.plain(match self.fd() {
            Fd::Fixed(f) => opcode::Fsync::new(f).flags(sync).build(),
            Fd::Plain(f) => opcode::Fsync::new(f).flags(sync).build(),
        });
        async move {
            match op.await.0 {
                0.. => Ok(()),
                // Never tried again: a second one may succeed for data that the first one lost.
                e => Err(disk.error(-e)),
            }
        }
    }

    fn discard(&self, at: u64, len: u64) -> impl Future<Output = Result<(), DiskError>> + 'static {
        let disk = self.clone();
        let how = disk.0.discard.get();
        let first =
            (how != Discard::Unsupported && len > 0).then(|| self.issue_discard(at, len, how));
        async move {
            let Some(first) = first else {
                return if len == 0 { Ok(()) } else { Err(DiskError::Unsupported) };
            };
            let mut errno = -first.await.0;
            if how == Discard::Command && is_refusal(errno) {
                disk.0.discard.set(Discard::Hole);
                errno = -disk.issue_discard(at, len, Discard::Hole).await.0;
            }
            match errno {
                ..=0 => Ok(()),
                e if is_refusal(e) => {
                    disk.0.discard.set(Discard::Unsupported);
                    Err(DiskError::Unsupported)
                }
                e => Err(disk.error(e)),
            }
        }
    }
}

/// What the kernel says when there is nothing behind a descriptor any more: a device pulled or without
/// its medium, the server of a FUSE or network file system gone, the file gone there.
fn is_gone(errno: i32) -> bool {
    matches!(
        errno,
        libc::ENODEV
            | libc::ENXIO
            | libc::ENOMEDIUM
            | libc::ESHUTDOWN
            | libc::ENOTCONN
            | libc::ECONNABORTED
            | libc::ESTALE
    )
}

fn is_refusal(errno: i32) -> bool {
    matches!(errno, libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL | libc::ENOTTY | libc::EPERM)
}

impl UringDisk {
    async fn finish_read(
        &self,
        at: u64,
        first: Op<(Buf, UringDisk)>,
    ) -> (Result<(), DiskError>, Buf) {
        let (mut op, mut done, mut again) = (first, 0, 0);
        loop {
            let (result, (buf, _)) = op.await;
            let asked = (buf.len() - done).min(BYTES_MAX);
            done += match result {
                n if n > 0 && done + n as usize >= buf.len() => return (Ok(()), buf),
                0 if buf.is_empty() => return (Ok(()), buf),
                e @ ..0 if is_interruption(-e) && again < AGAIN_MAX => 0,
                e @ ..0 => return (Err(self.error(-e)), buf),
                n => match self.whole(n as usize, asked) {
                    0 => return (Err(DiskError::Gone), buf),
                    n => n,
                },
            };
            again += u32::from(result < 0);
            op = self.issue_read(at, buf, done);
        }
    }

    /// How much of a transfer of `n` of `asked` bytes counts, and where it then goes on: nothing
    /// of a device's short one, whole sectors of a file's.
    fn whole(&self, n: usize, asked: usize) -> usize {
        if n < asked && !self.0.is_file { 0 } else { n - n % self.0.align }
    }

    fn finish_write(
        &self,
        mut at: u64,
        first: Op<(Pieces, UringDisk)>,
    ) -> impl Future<Output = Result<(), DiskError>> + 'static {
        let disk = self.clone();
        async move {
            let (mut op, mut again) = (first, 0);
            loop {
                let (result, (pieces, _)) = op.await;
                let asked = pieces.len();
                let done = match result {
                    n if n >= 0 && n as usize >= asked => return Ok(()),
                    e @ ..0 if is_interruption(-e) && again < AGAIN_MAX => 0,
                    e @ ..0 => return Err(disk.error(-e)),
                    n => match disk.whole(n as usize, asked) {
                        0 => return Err(DiskError::Gone),
                        n => n,
                    },
                };
                again += u32::from(result < 0);
                at += done as u64;
                op = disk.issue_write(at, pieces.from(done));
            }
        }
    }
}

fn is_interruption(errno: i32) -> bool {
    matches!(errno, libc::EINTR | libc::EAGAIN)
}

enum Fd {
    Plain(types::Fd),
    Fixed(types::Fixed),
}

/// Pieces of one write operation, and the vector that tells the kernel of them.
struct Pieces {
    iov: Vec<libc::iovec>,
    segs: Segs,
}

impl Pieces {
    fn new(segs: Segs) -> Pieces {
        let mut iov: Vec<libc::iovec> = Vec::with_capacity(segs.len());
        for (i, s) in segs.iter().enumerate() {
            if i > 0
                && segs[i - 1].touches(s)
                && let Some(last) = iov.last_mut()
            {
                last.iov_len += s.len();
            } else if !s.is_empty() {
                iov.push(libc::iovec { iov_base: s.as_ptr().cast_mut().cast(), iov_len: s.len() });
            }
        }
        Pieces { iov, segs }
    }

    /// Operations that write `segs`, each small enough.
    fn split(mut segs: Segs) -> Vec<Pieces> {
        let mut all = Vec::with_capacity(1);
        loop {
            let (mut n, mut count, mut bytes) = (0, 0, 0);
            while n < segs.len() {
                let merged = n > 0 && segs[n - 1].touches(&segs[n]);
                if (count == PIECES_MAX && !merged) || (n > 0 && bytes + segs[n].len() > BYTES_MAX)
                {
                    break;
                }
                count += usize::from(!merged);
                bytes += segs[n].len();
                n += 1;
            }
            let rest = segs.split_off(n);
            all.push(Pieces::new(segs));
            if rest.is_empty() {
                return all;
            }
            segs = rest;
        }
    }

    fn len(&self) -> usize {
        segs_len(&self.segs)
    }

    /// What is left after the first `done` bytes.
    fn from(mut self, mut done: usize) -> Pieces {
        let whole = self.segs.iter().take_while(|s| {
            let fits = done >= s.len();
            done -= if fits { s.len() } else { 0 };
            fits
        });
        let whole = whole.count();
        self.segs.drain(..whole);
        if let Some(first) = self.segs.first_mut() {
            *first = first.part(done, first.len() - done);
        }
        Pieces::new(self.segs)
    }
}

/// A copy of all pieces in one, for memory that the device cannot reach.
fn gather(segs: &[Slice]) -> Slice {
    let mut all = Buf::new(segs_len(segs));
    let mut at = 0;
    for s in segs {
        all[at..at + s.len()].copy_from_slice(s);
        at += s.len();
    }
    all.freeze()
}

fn device_bytes(fd: RawFd) -> io::Result<u64> {
    let mut bytes = 0u64;
    // SAFETY: this ioctl writes 8 bytes to the address given.
    if unsafe { libc::ioctl(fd, BLKGETSIZE64 as _, &raw mut bytes) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(bytes)
}

/// What the kernel says of an open file, if it says all that `mask` asks for.
fn statx(fd: RawFd, how: i32, mask: libc::c_uint) -> Option<libc::statx> {
    // SAFETY: plain numbers, for which zero is a value; statx writes one such structure.
    let mut st: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: an open descriptor, an empty path, and room for the answer.
    let rc = unsafe { libc::statx(fd, c"".as_ptr(), how, mask, &raw mut st) };
    (rc == 0 && st.stx_mask & mask == mask).then_some(st)
}

/// What addresses and lengths must be multiples of for direct I/O: what the kernel says, else the
/// sector. A power of two of at most 4096.
fn alignment(file: &File, device: bool) -> usize {
    if let Some(st) = statx(file.as_raw_fd(), libc::AT_EMPTY_PATH, libc::STATX_DIOALIGN) {
        let told = st.stx_dio_mem_align.max(st.stx_dio_offset_align) as usize;
        if told > 0 {
            return told.next_power_of_two().min(4096);
        }
    }
    let mut sector: libc::c_int = 512;
    // SAFETY: this ioctl writes an int to the address given.
    if device && unsafe { libc::ioctl(file.as_raw_fd(), BLKSSZGET as _, &raw mut sector) } != 0 {
        sector = 512;
    }
    usize::try_from(sector).unwrap_or(512).next_power_of_two().clamp(512, 4096)
}
