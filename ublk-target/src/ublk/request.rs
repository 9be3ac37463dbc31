//! A request's descriptor, and how it becomes one `.await` on the target.

use std::cell::RefCell;

use evenkeel_journal::Slice;
use evenkeel_raid::RequestError;
use libublk::sys;

use super::buffers::{Pool, TagBuffer};
use crate::target::BlockTarget;

const SECTOR: u64 = 512;

/// What the kernel asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// Fill the buffer.
    Read {
        /// From this byte on.
        at: u64,
        /// So many bytes.
        len: usize,
    },
    /// Take the buffer's bytes.
    Write {
        /// From this byte on.
        at: u64,
        /// So many bytes.
        len: usize,
        /// Durable at the end.
        fua: bool,
    },
    /// Make all that was acknowledged durable.
    Flush,
    /// Free a range.
    Discard {
        /// From this byte on.
        at: u64,
        /// So many bytes.
        len: u64,
    },
    /// Make a range read as zeros.
    WriteZeroes {
        /// From this byte on.
        at: u64,
        /// So many bytes.
        len: u64,
        /// Durable at the end.
        fua: bool,
    },
}

impl Request {
    /// What a descriptor says; the buffer holds `room` bytes.
    ///
    /// # Errors
    /// A negative errno for what is not served here.
    pub fn decode(iod: &sys::ublksrv_io_desc, room: usize) -> Result<Request, i32> {
        // A flush has no place: the kernel says sector -1.
        if iod.op_flags & 0xff == sys::UBLK_IO_OP_FLUSH {
            return Ok(Request::Flush);
        }
        let at = iod.start_sector.checked_mul(SECTOR).ok_or(-libc::EINVAL)?;
        let len = u64::from(iod.nr_sectors) * SECTOR;
        let fits = || usize::try_from(len).ok().filter(|l| *l <= room).ok_or(-libc::EINVAL);
        let fua = iod.op_flags & sys::UBLK_IO_F_FUA != 0;
        Ok(match iod.op_flags & 0xff {
            sys::UBLK_IO_OP_READ => Request::Read { at, len: fits()? },
            sys::UBLK_IO_OP_WRITE => Request::Write { at, len: fits()?, fua },
            sys::UBLK_IO_OP_DISCARD => Request::Discard { at, len },
            sys::UBLK_IO_OP_WRITE_ZEROES => Request::WriteZeroes { at, len, fua },
            _ => return Err(-libc::EOPNOTSUPP),
        })
    }

    /// Carries the request out. The result is what ublk wants: bytes, 0, or a negative errno. If
    /// somebody holds the buffer at the end, it has become another one.
    pub async fn serve<T: BlockTarget>(
        self,
        target: &T,
        buffer: &mut TagBuffer,
        pool: &RefCell<Pool>,
    ) -> i32 {
        let done = match self {
            Request::Read { at, len } => return read(target, at, len, buffer, pool).await,
            Request::Write { at, len, fua } => {
                let Some(mut data) = buffer.source(len) else { return -libc::EINVAL };
                if pool.borrow_mut().is_crowded() {
                    data = Slice::copy_of(&data);
                }
                let done = target.write(at, data, fua).await;
                renew(buffer, pool);
                done.map(|()| len as i32)
            }
            Request::Flush => target.flush().await.map(|()| 0),
            Request::Discard { at, len } => target.discard(at, len, false).await.map(|()| 0),
            Request::WriteZeroes { at, len, fua } => {
                target.write_zeroes(at, len, fua).await.map(|()| 0)
            }
        };
        done.unwrap_or_else(errno)
    }
}

async fn read<T: BlockTarget>(
    target: &T,
    at: u64,
    len: usize,
    buffer: &mut TagBuffer,
    pool: &RefCell<Pool>,
) -> i32 {
    let Some(into) = buffer.target(len) else { return -libc::EINVAL };
    let (done, data) = target.read(at, into).await;
    if data.as_ptr().cast_const() == buffer.address() {
        drop(data);
        renew(buffer, pool);
    } else {
        // The target gave other memory back: a member that hangs may still write to ours.
        renew(buffer, pool);
        if done.is_ok() {
            buffer.fill(&data);
        }
    }
    done.map(|()| len as i32).unwrap_or_else(errno)
}

/// Takes another buffer if somebody holds this one.
fn renew(buffer: &mut TagBuffer, pool: &RefCell<Pool>) {
    if !buffer.is_free() {
        let mut pool = pool.borrow_mut();
        let fresh = pool.take();
        pool.put(std::mem::replace(buffer, fresh));
    }
}

fn errno(e: RequestError) -> i32 {
    -e.errno()
}

#[cfg(test)]
mod tests {
    use super::*;
    use evenkeel_journal::Buf;
    use evenkeel_journal::uring::Engine;
    use std::cell::Cell;
    use std::rc::Rc;

    fn iod(op_flags: u32, start_sector: u64, nr_sectors: u32) -> sys::ublksrv_io_desc {
        sys::ublksrv_io_desc { op_flags, start_sector, nr_sectors, ..Default::default() }
    }

    #[test]
    fn descriptors_are_understood_or_refused() {
        let d = |f, s, n| Request::decode(&iod(f, s, n), 1 << 20);
        assert_eq!(d(0, 8, 8), Ok(Request::Read { at: 4096, len: 4096 }));
        let write = Request::Write { at: 0, len: 1 << 20, fua: true };
        assert_eq!(d(1 | sys::UBLK_IO_F_FUA, 0, 2048), Ok(write));
        assert_eq!(d(1, 0, 2049), Err(-libc::EINVAL));
        assert_eq!(d(1, u64::MAX, 8), Err(-libc::EINVAL));
        assert_eq!(d(2, u64::MAX, 0), Ok(Request::Flush));
        let len = u64::from(u32::MAX) * 512;
        assert_eq!(d(3, 0, u32::MAX), Ok(Request::Discard { at: 0, len }));
        assert_eq!(
            d(5 | sys::UBLK_IO_F_NOUNMAP, 8, 8),
            Ok(Request::WriteZeroes { at: 4096, len: 4096, fua: false })
        );
        for op in [4, 10, 13, 18, 255] {
            assert_eq!(d(op, 0, 8), Err(-libc::EOPNOTSUPP));
        }
    }

    /// Keeps what it is given, as a hung member does.
    #[derive(Clone, Default)]
    struct Holder {
        writes: Rc<RefCell<Vec<Slice>>>,
        reads: Rc<RefCell<Vec<Buf>>>,
        fail: Rc<Cell<bool>>,
    }

    impl BlockTarget for Holder {
        fn size_bytes(&self) -> u64 {
            1 << 20
        }
        async fn read(&self, _at: u64, buf: Buf) -> (Result<(), RequestError>, Buf) {
            let mut other = Buf::new(buf.len());
            other.fill(9);
            self.reads.borrow_mut().push(buf);
            (if self.fail.get() { Err(RequestError::Io) } else { Ok(()) }, other)
        }
        async fn write(&self, _: u64, data: Slice, _: bool) -> Result<(), RequestError> {
            self.writes.borrow_mut().push(data);
            Ok(())
        }
        async fn flush(&self) -> Result<(), RequestError> {
            Err(RequestError::Stopping)
        }
        async fn discard(&self, _: u64, _: u64, _: bool) -> Result<(), RequestError> {
            Err(RequestError::ReadOnly)
        }
        async fn write_zeroes(&self, _: u64, _: u64, _: bool) -> Result<(), RequestError> {
            Ok(())
        }
    }

    #[test]
    fn a_held_buffer_is_replaced_and_keeps_its_bytes() {
        let e = Engine::new().expect("a ring");
        let pool = RefCell::new(Pool::new(e.driver(), 1, 8192).expect("memory"));
        let mut buffer = pool.borrow_mut().take();
        let t = Holder::default();
        e.block_on(async {
            buffer.fill(&[1; 4096]);
            let write = Request::Write { at: 0, len: 4096, fua: false };
            assert_eq!(write.serve(&t, &mut buffer, &pool).await, 4096);
            assert!(buffer.is_free(), "another one");
            buffer.fill(&[2; 4096]);
            assert!(t.writes.borrow()[0].iter().all(|x| *x == 1));
            let read = Request::Read { at: 0, len: 4096 };
            let before = buffer.address();
            assert_eq!(read.serve(&t, &mut buffer, &pool).await, 4096);
            assert_ne!(buffer.address(), before);
            assert!(buffer.source(4096).is_some_and(|s| s.iter().all(|x| *x == 9)));
            t.fail.set(true);
            assert_eq!(read.serve(&t, &mut buffer, &pool).await, -libc::EIO);
            assert_eq!(Request::Flush.serve(&t, &mut buffer, &pool).await, -libc::ESHUTDOWN);
            let discard = Request::Discard { at: 0, len: 1 };
            assert_eq!(discard.serve(&t, &mut buffer, &pool).await, -libc::EPERM);
        });
    }
}
