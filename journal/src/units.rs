//! Units: the numbers that never mix are newtypes, and the one block size of the array.

/// Bytes of a block: the unit of dirty state, checksums and parity arithmetic.
pub const BLOCK: usize = 4096;

/// Numbers that only rise (records, commits, epochs, generations of pages) stay below this: at a
/// thousand million a second it takes a hundred years. What is there or above was made up.
pub const NUMBERS_END: u64 = 1 << 62;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        pub struct $name(pub $inner);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// Log sequence number of a record. It rises by one with every record; 0 is "before all".
    Lsn(u64)
}
number! {
    /// Number of a commit. It rises, may skip, and is never used twice in the life of an array.
    CommitNumber(u64)
}
number! {
    /// A logical stripe: k chunks of the device's address space.
    Stripe(u64)
}
number! {
    /// A physical stripe: the place where a stripe lies, one chunk on every member.
    Slot(u32)
}
number! {
    /// A member's index in the member table of the superblock.
    MemberIndex(u8)
}

impl Lsn {
    /// The next sequence number.
    #[must_use]
    pub fn next(self) -> Lsn {
        Lsn(self.0 + 1)
    }
}

impl MemberIndex {
    /// The index as a subscript.
    #[must_use]
    pub fn at(self) -> usize {
        usize::from(self.0)
    }
}
