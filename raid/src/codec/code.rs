//! Encode, update and reconstruct.

use std::fmt;

use super::cauchy::Cauchy;
use super::evenodd::{self, Evenodd};
use super::kernels::{GRANULE, Kernel};
use super::matrix::MOST_COLUMNS;
use super::{CodeError, Level};

/// A code of `k` data and `m` parity columns.
///
/// It never changes once made, holds no more than a matrix (`k * m` bytes), and can be cloned or
/// shared by `Rc` or `Arc` at will.
///
/// All blocks that one call is given have the same length, a multiple of [`Code::granule`]
/// bytes, of which 4096 always is one; they need no alignment. Breaking this, or giving more
/// columns than the code has, is a mistake in the calling program, and the methods panic; what
/// depends on the state of the disks is an error.
///
/// **Shortened codes.** Trailing data columns that do not exist count as zero: a row may have
/// fewer data columns than `k`, and its parity is that of the row filled up with zeros. Fewer
/// parity rows than `m` can be asked for; they are the first ones. With one data column left every
/// parity is a copy of it.
#[derive(Clone)]
pub struct Code {
    level: Level,
    k: usize,
    m: usize,
    scheme: Scheme,
    kernel: &'static Kernel,
}

/// How parity follows from data. In both schemes the first parity row is the XOR of the data, and
/// what the first data column adds to a parity row is itself.
#[derive(Clone)]
enum Scheme {
    Cauchy(Cauchy),
    Evenodd(Evenodd),
}

impl Code {
    /// The code of a level with `k` data and `m` parity columns, computed with the quickest kernel
    /// of this machine.
    ///
    /// `raid1` needs one data column and at least one parity column (its copies), `raid5` one
    /// parity column, `raid6` and `evenodd` two, `rs` at least one; all need at least one data column and at most
    /// 255 columns in all.
    ///
    /// # Errors
    ///
    /// [`CodeError::Unsupported`] for every other shape.
    pub fn new(level: Level, k: usize, m: usize) -> Result<Code, CodeError> {
        Code::with_kernel(level, k, m, Kernel::best())
    }

    /// As [`Code::new`], computed with the given kernel: for tests and measurements.
    ///
    /// # Errors
    ///
    /// As [`Code::new`].
    pub fn with_kernel(
        level: Level,
        k: usize,
        m: usize,
        kernel: &'static Kernel,
    ) -> Result<Code, CodeError> {
        let refuse = |reason| Err(CodeError::Unsupported { level, data: k, parity: m, reason });
        match level {
            Level::Raid1 if k != 1 => return refuse("raid1 has exactly one data column"),
            Level::Raid5 if m != 1 => return refuse("raid5 has exactly one parity column"),
            Level::Raid6 if m != 2 => return refuse("raid6 has exactly two parity columns"),
            Level::Evenodd if m != 2 => return refuse("evenodd has exactly two parity columns"),
            _ => {}
        }
        if k == 0 {
            return refuse("a code has at least one data column");
        }
        if m == 0 {
            return refuse("a code has at least one parity column");
        }
        if k.saturating_add(m) > MOST_COLUMNS {
            return refuse("a code has at most 255 columns, data and parity together");
        }
        let scheme = match level {
            Level::Evenodd => Scheme::Evenodd(Evenodd::new(k)),
            _ => Scheme::Cauchy(Cauchy::new(k, m)),
        };
        Ok(Code { level, k, m, scheme, kernel })
    }

    /// The level.
    pub fn level(&self) -> Level {
        self.level
    }

    /// The number of data columns, `k`.
    pub fn data(&self) -> usize {
        self.k
    }

    /// The number of parity columns, `m`.
    pub fn parity(&self) -> usize {
        self.m
    }

    /// The arithmetic in use.
    pub fn kernel(&self) -> &'static Kernel {
        self.kernel
    }

    /// The length of every block is a multiple of this many bytes: 4096 for `evenodd`, else 64.
    pub fn granule(&self) -> usize {
        match self.scheme {
            Scheme::Cauchy(_) => GRANULE,
            Scheme::Evenodd(_) => evenodd::UNIT,
        }
    }

    /// Panics unless all blocks have one length, and that is a multiple of the granule.
    fn check<'a>(&self, blocks: impl IntoIterator<Item = &'a [u8]>) {
        let mut lengths = blocks.into_iter().map(<[u8]>::len);
        let Some(len) = lengths.next() else { return };
        let granule = self.granule();
        assert!(
            len.is_multiple_of(granule),
            "a block of {len} bytes is not a multiple of {granule}"
        );
        assert!(lengths.all(|l| l == len), "all blocks of a row have the same length");
    }

    /// Makes parity from data, whatever it held before.
    ///
    /// `data` holds the first data columns of the row, at most `k`; absent ones count as zero (none
    /// at all gives zero parity). `parity` holds the first parity rows, at most `m`; only those are
    /// made.
    ///
    /// # Panics
    ///
    /// When there are more columns than the code has, or when the blocks differ in length or
    /// are not a multiple of [`Code::granule`] bytes long.
    pub fn encode(&self, data: &[&[u8]], parity: &mut [&mut [u8]]) {
        assert!(data.len() <= self.k, "{} data columns for {self:?}", data.len());
        assert!(parity.len() <= self.m, "{} parity rows for {self:?}", parity.len());
        self.check(data.iter().copied().chain(parity.iter().map(|row| &**row)));
        match (data, parity) {
            (_, []) => {}
            ([], parity) => parity.iter_mut().for_each(|row| row.fill(0)),
            ([only], parity) => parity.iter_mut().for_each(|row| row.copy_from_slice(only)),
            (data, [p]) => self.kernel.xor_sum(data, p),
            (data, [p, q, rest @ ..]) => match &self.scheme {
                Scheme::Cauchy(cauchy) => cauchy.encode(self.kernel, data, p, q, rest),
                Scheme::Evenodd(evenodd) => {
                    self.kernel.xor_sum(data, p);
                    evenodd.encode_q(self.kernel, data, q);
                }
            },
        }
    }

    /// Brings parity up to date after a change of one data column: since every code is linear,
    /// what is added to the parity is the parity of the change.
    ///
    /// `delta` is the old content of data column `column` XOR the new one. `parity` holds the first
    /// parity rows, at most `m`.
    ///
    /// # Panics
    ///
    /// When the code has no such column or fewer parity rows, or when the blocks differ in length
    /// or are not a multiple of [`Code::granule`] bytes long.
    pub fn update(&self, column: usize, delta: &[u8], parity: &mut [&mut [u8]]) {
        assert!(column < self.k, "data column {column} for {self:?}");
        assert!(parity.len() <= self.m, "{} parity rows for {self:?}", parity.len());
        self.check([delta].into_iter().chain(parity.iter().map(|row| &**row)));
        match &self.scheme {
            Scheme::Cauchy(cauchy) => cauchy.update(self.kernel, column, delta, parity),
            Scheme::Evenodd(evenodd) => evenodd.update(self.kernel, column, delta, parity),
        }
    }

    /// Rebuilds columns of a row from those that are there.
    ///
    /// `shards` holds the row: first its `data_columns` data columns (fewer than `k` for a
    /// shortened code), then the first parity rows, at most `m` of them; `None` where a column is
    /// missing. `wanted` names columns by their index in `shards`, data and parity alike, and
    /// `out[i]` becomes the content of column `wanted[i]`, whatever it held before. A column that
    /// is wanted and there is copied; one that is missing and not wanted costs nothing but the
    /// arithmetic of the matrix.
    ///
    /// Contents are taken as they are: the code cannot tell a wrong block from a right one.
    ///
    /// # Errors
    ///
    /// [`CodeError::TooManyMissing`] when fewer than `data_columns` columns are there; `out` is
    /// then left as it was.
    ///
    /// # Panics
    ///
    /// When there are more columns than the code has, fewer shards than data columns, an index in
    /// `wanted` beyond `shards`, not as many blocks in `out` as indices in `wanted`, or when
    /// the blocks differ in length or are not a multiple of [`Code::granule`] bytes long.
    pub fn reconstruct(
        &self,
        data_columns: usize,
        shards: &[Option<&[u8]>],
        wanted: &[usize],
        out: &mut [&mut [u8]],
    ) -> Result<(), CodeError> {
        assert!(data_columns <= self.k, "{data_columns} data columns for {self:?}");
        assert!(shards.len() >= data_columns, "{} shards for {data_columns}", shards.len());
        assert!(shards.len() - data_columns <= self.m, "{} shards for {self:?}", shards.len());
        assert_eq!(wanted.len(), out.len(), "every wanted column needs its block");
        for column in wanted {
            assert!(*column < shards.len(), "column {column} of {} is wanted", shards.len());
        }

        self.check(shards.iter().flatten().copied().chain(out.iter().map(|block| &**block)));

        let present = shards.iter().flatten().count();
        if present < data_columns {
            return Err(CodeError::TooManyMissing { needed: data_columns, present });
        }
        let mut columns = Vec::with_capacity(out.len());
        let mut blocks = Vec::with_capacity(out.len());
        for (column, block) in wanted.iter().zip(out) {
            match shards[*column] {
                Some(content) => block.copy_from_slice(content),
                None => {
                    columns.push(*column);
                    blocks.push(&mut **block);
                }
            }
        }
        if data_columns == 0 {
            blocks.iter_mut().for_each(|block| block.fill(0));
        } else if !blocks.is_empty() {
            match &self.scheme {
                Scheme::Cauchy(cauchy) => {
                    cauchy.rebuild(self.kernel, data_columns, shards, &columns, &mut blocks);
                }
                Scheme::Evenodd(evenodd) => {
                    evenodd.rebuild(self.kernel, data_columns, shards, &columns, &mut blocks);
                }
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}+{} ({})", self.level, self.k, self.m, self.kernel.name())
    }
}
