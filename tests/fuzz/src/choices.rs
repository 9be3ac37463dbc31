//! A fuzzer's bytes read as decisions: what it changes in them changes one decision, and none is
//! invalid. Where the bytes end, every further decision is 0.

/// The decisions that are left.
#[derive(Clone)]
pub struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    /// The decisions in these bytes.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Choices<'a> {
        Choices(bytes)
    }

    /// Whether all bytes are used.
    #[must_use]
    pub fn are_over(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes that are left.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// The next `n` bytes, or as many as there are.
    pub fn bytes(&mut self, n: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        head
    }

    /// A byte.
    pub fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    /// A number below `n` (0 for `n` = 0).
    pub fn below(&mut self, n: usize) -> usize {
        let wide = if n > 256 { self.u32() as usize } else { usize::from(self.byte()) };
        if n == 0 { 0 } else { wide % n }
    }

    /// Yes, about once in `n` times.
    pub fn one_in(&mut self, n: u8) -> bool {
        self.byte() % n == n - 1
    }

    /// Four bytes.
    pub fn u32(&mut self) -> u32 {
        let mut b = [0; 4];
        let found = self.bytes(4);
        b[..found.len()].copy_from_slice(found);
        u32::from_le_bytes(b)
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> u64 {
        u64::from(self.u32()) | u64::from(self.u32()) << 32
    }

    /// A number of the kind at which code goes wrong: small, near a power of two, near the end,
    /// near `like`, or any.
    pub fn number(&mut self, like: u64) -> u64 {
        let (kind, small) = (self.byte(), u64::from(self.byte()));
        match kind % 8 {
            0 => small,
            1 => u64::MAX - small,
            2 => (1u64 << (small % 64)).wrapping_sub(u64::from(kind / 8 % 2)),
            3 => like.wrapping_add(small % 16),
            4 => like.wrapping_sub(small % 16),
            5 => u64::from(u32::MAX).wrapping_add(small).wrapping_sub(4),
            6 => like ^ 1u64 << (small % 64),
            _ => self.u64(),
        }
    }
}
