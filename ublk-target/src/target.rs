//! What a front end asks of the thing behind it: an array, or memory in tests.
//!
//! Nothing else is known of the array by the way of a request, and nothing of the front ends by
//! the array.

use std::future::Future;

use evenkeel_journal::{Buf, Slice, World};
use evenkeel_raid::{Array, Extent, RequestError};

/// A device's content: requests at any byte range, each one `.await`. Clones share it.
pub trait BlockTarget: Clone + 'static {
    /// Bytes of the device. It may grow.
    fn size_bytes(&self) -> u64;
    /// Fills `buf` from byte `at` on. On an error its content must not be passed on.
    fn read(&self, at: u64, buf: Buf) -> impl Future<Output = (Result<(), RequestError>, Buf)>;
    /// Writes `data` at byte `at`, atomically up to 1 MiB; durable at the end if `fua`.
    fn write(
        &self,
        at: u64,
        data: Slice,
        fua: bool,
    ) -> impl Future<Output = Result<(), RequestError>>;
    /// Makes all that was acknowledged before durable, whichever connection it came by.
    fn flush(&self) -> impl Future<Output = Result<(), RequestError>>;
    /// Frees the range, which reads as zeros afterwards.
    fn discard(
        &self,
        at: u64,
        len: u64,
        fua: bool,
    ) -> impl Future<Output = Result<(), RequestError>>;
    /// Makes the range read as zeros.
    fn write_zeroes(
        &self,
        at: u64,
        len: u64,
        fua: bool,
    ) -> impl Future<Output = Result<(), RequestError>>;
    /// What of the range holds something and what is a hole that reads as zeros, as it is in this
    /// moment: from `at` on, kinds alternating, at most `most` extents and at least one; perhaps
    /// not up to the end of the range. A target that does not know says that all is mapped.
    ///
    /// # Errors
    /// As the array's: outside the device, or no bytes.
    fn extents(&self, at: u64, len: u64, most: usize) -> Result<Vec<Extent>, RequestError> {
        let _ = (at, most);
        Ok(vec![Extent { bytes: len, mapped: true }])
    }
}

impl<W: World> BlockTarget for Array<W> {
    fn size_bytes(&self) -> u64 {
        Array::size_bytes(self)
    }

    fn read(&self, at: u64, buf: Buf) -> impl Future<Output = (Result<(), RequestError>, Buf)> {
        Array::read(self, at, buf)
    }

    fn write(
        &self,
        at: u64,
        data: Slice,
        fua: bool,
    ) -> impl Future<Output = Result<(), RequestError>> {
        Array::write(self, at, data, fua)
    }

    fn flush(&self) -> impl Future<Output = Result<(), RequestError>> {
        Array::flush(self)
    }

    fn discard(
        &self,
        at: u64,
        len: u64,
        fua: bool,
    ) -> impl Future<Output = Result<(), RequestError>> {
        Array::discard(self, at, len, fua)
    }

    fn write_zeroes(
        &self,
        at: u64,
        len: u64,
        fua: bool,
    ) -> impl Future<Output = Result<(), RequestError>> {
        Array::write_zeroes(self, at, len, fua)
    }

    fn extents(&self, at: u64, len: u64, most: usize) -> Result<Vec<Extent>, RequestError> {
        Array::extents(self, at, len, most)
    }
}
