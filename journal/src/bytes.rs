//! Little-endian fields in fixed places, and a reader that never runs past the end of bad bytes.

/// Writes `v` at `at`.
pub fn put_u16(b: &mut [u8], at: usize, v: u16) {
    b[at..at + 2].copy_from_slice(&v.to_le_bytes());
}
/// Writes `v` at `at`.
pub fn put_u32(b: &mut [u8], at: usize, v: u32) {
    b[at..at + 4].copy_from_slice(&v.to_le_bytes());
}
/// Writes `v` at `at`.
pub fn put_u64(b: &mut [u8], at: usize, v: u64) {
    b[at..at + 8].copy_from_slice(&v.to_le_bytes());
}
/// Writes `v` at `at`.
pub fn put_u128(b: &mut [u8], at: usize, v: u128) {
    b[at..at + 16].copy_from_slice(&v.to_le_bytes());
}

fn array<const N: usize>(b: &[u8], at: usize) -> [u8; N] {
    let mut a = [0; N];
    a.copy_from_slice(&b[at..at + N]);
    a
}

/// Reads the field at `at` of a structure whose length is known to be enough.
#[must_use]
pub fn get_u16(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(b, at))
}
/// Reads the field at `at` of a structure whose length is known to be enough.
#[must_use]
pub fn get_u32(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(b, at))
}
/// Reads the field at `at` of a structure whose length is known to be enough.
#[must_use]
pub fn get_u64(b: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(b, at))
}
/// Reads the field at `at` of a structure whose length is known to be enough.
#[must_use]
pub fn get_u128(b: &[u8], at: usize) -> u128 {
    u128::from_le_bytes(array(b, at))
}

/// CRC32C of a structure with its four CRC bytes at `at` taken as zero.
#[must_use]
pub fn crc_without(b: &[u8], at: usize) -> u32 {
    let c = crc32c::crc32c(&b[..at]);
    let c = crc32c::crc32c_append(c, &[0; 4]);
    crc32c::crc32c_append(c, &b[at + 4..])
}

/// Reads fields one after the other; None as soon as the bytes end.
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// The next `n` bytes.
    pub fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }
    /// The next field.
    pub fn u32(&mut self) -> Option<u32> {
        self.take(4).map(|b| get_u32(b, 0))
    }
    /// The next field.
    pub fn u64(&mut self) -> Option<u64> {
        self.take(8).map(|b| get_u64(b, 0))
    }
    /// `n` numbers of 4 bytes.
    pub fn u32s(&mut self, n: usize) -> Option<Vec<u32>> {
        let b = self.take(n.checked_mul(4)?)?;
        Some((0..n).map(|i| get_u32(b, i * 4)).collect())
    }
}
