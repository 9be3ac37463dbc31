//! Encode, update and reconstruct.

use std::fmt;

use super::kernels::{Kernel, check};
use super::matrix::{MOST_COLUMNS, Matrix, coefficient};
use super::{CodeError, Level, gf256};

/// A code of `k` data and `m` parity columns.
///
/// It never changes once made, holds no more than the matrix (`k * m` bytes), and can be cloned or
/// shared by `Rc` or `Arc` at will.
///
/// All blocks that one call is given have the same length, a multiple of
/// [`Code::GRANULE`] (64) bytes; they need no alignment. Breaking this, or giving more columns
/// than the code has, is a mistake in the calling program, and the methods panic; what depends on
/// the state of the disks is an error.
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
    /// The coefficients, column after column: that of a place is at `column * m + row`. In this
    /// order what one data column adds to all parities is one slice, and a shortened code is the
    /// head of the whole.
    coefficients: Vec<u8>,
    kernel: &'static Kernel,
}

impl Code {
    /// The length of a block is a multiple of this many bytes.
    pub const GRANULE: usize = super::kernels::GRANULE;

    /// The code of a level with `k` data and `m` parity columns, computed with the quickest kernel
    /// of this machine.
    ///
    /// `raid1` needs one data column and at least one parity column (its copies), `raid5` one
    /// parity column, `raid6` two, `rs` at least one; all need at least one data column and at most
    /// 255 columns in all.
    ///
    /// # Errors
    ///
    /// [`CodeError::Unsupported`] for every other shape, and for `evenodd`, which is not supported
    /// yet.
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
            Level::Evenodd => return refuse("evenodd is not supported yet"),
            Level::Raid1 if k != 1 => return refuse("raid1 has exactly one data column"),
            Level::Raid5 if m != 1 => return refuse("raid5 has exactly one parity column"),
            Level::Raid6 if m != 2 => return refuse("raid6 has exactly two parity columns"),
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
        let mut coefficients = Vec::with_capacity(k * m);
        for column in 0..k {
            coefficients.extend((0..m).map(|row| coefficient(row, column)));
        }
        Ok(Code { level, k, m, coefficients, kernel })
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

    /// The coefficients of one data column in all parity rows.
    fn column(&self, column: usize) -> &[u8] {
        &self.coefficients[column * self.m..][..self.m]
    }

    /// Makes parity from data: `parity[i]` becomes the sum of `coefficient(i, j) * data[j]`,
    /// whatever it held before.
    ///
    /// `data` holds the first data columns of the row, at most `k`; absent ones count as zero (none
    /// at all gives zero parity). `parity` holds the first parity rows, at most `m`; only those are
    /// made.
    ///
    /// # Panics
    ///
    /// When there are more columns than the code has, or when the blocks differ in length or
    /// are not a multiple of [`Code::GRANULE`] bytes long.
    pub fn encode(&self, data: &[&[u8]], parity: &mut [&mut [u8]]) {
        assert!(data.len() <= self.k, "{} data columns for {self:?}", data.len());
        assert!(parity.len() <= self.m, "{} parity rows for {self:?}", parity.len());
        if let Some(len) = parity.first().map(|row| row.len()) {
            check(len, data.iter().map(|block| block.len()).chain(parity.iter().map(|b| b.len())));
        }
        match (data, parity) {
            (_, []) => {}
            ([], parity) => parity.iter_mut().for_each(|row| row.fill(0)),
            // The first column's coefficients are all one.
            ([only], parity) => parity.iter_mut().for_each(|row| row.copy_from_slice(only)),
            (data, [p]) => self.kernel.xor_sum(data, p),
            (data, [p, q, rest @ ..]) => {
                self.kernel.p_and_q(data, p, q);
                if !rest.is_empty() {
                    self.kernel.combine(&self.coefficients[2..], self.m, data, rest);
                }
            }
        }
    }

    /// Brings parity up to date after a change of one data column: `parity[i]` becomes
    /// `parity[i] ^ coefficient(i, column) * delta`.
    ///
    /// `delta` is the old content of data column `column` XOR the new one. `parity` holds the first
    /// parity rows, at most `m`.
    ///
    /// # Panics
    ///
    /// When the code has no such column or fewer parity rows, or when the blocks differ in length
    /// or are not a multiple of [`Code::GRANULE`] bytes long.
    pub fn update(&self, column: usize, delta: &[u8], parity: &mut [&mut [u8]]) {
        assert!(column < self.k, "data column {column} for {self:?}");
        assert!(parity.len() <= self.m, "{} parity rows for {self:?}", parity.len());
        self.kernel.mul_add(&self.column(column)[..parity.len()], delta, parity);
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
    /// the blocks differ in length or are not a multiple of [`Code::GRANULE`] bytes long.
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

        if let Some(len) = out.first().map(|block| block.len()) {
            let lengths = shards.iter().flatten().map(|shard| shard.len());
            check(len, lengths.chain(out.iter().map(|block| block.len())));
        }

        let present = shards.iter().flatten().count();
        if present < data_columns {
            return Err(CodeError::TooManyMissing { needed: data_columns, present });
        }
        let plan = Plan::new(self, data_columns, shards);
        let sources: Vec<&[u8]> = plan.sources.iter().filter_map(|i| shards[*i]).collect();

        let mut rebuilt = Vec::with_capacity(out.len());
        let mut rows = Vec::with_capacity(out.len());
        for (column, block) in wanted.iter().zip(out) {
            match shards[*column] {
                Some(content) => block.copy_from_slice(content),
                None => {
                    rows.push(plan.row(self, *column));
                    rebuilt.push(&mut **block);
                }
            }
        }
        if sources.is_empty() {
            rebuilt.iter_mut().for_each(|block| block.fill(0));
        } else if !rebuilt.is_empty() {
            let coefficients: Vec<u8> =
                (0..sources.len()).flat_map(|j| rows.iter().map(move |row| row[j])).collect();
            self.kernel.combine(&coefficients, rows.len(), &sources, &mut rebuilt);
        }
        Ok(())
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}+{} ({})", self.level, self.k, self.m, self.kernel.name())
    }
}

/// How the missing columns of a row follow from those that are there.
///
/// With `e` data columns missing, the sources are the other data columns and the first `e` parity
/// rows that are there (so XOR comes before anything dearer). Each such parity row, less what the
/// data columns that are there add to it, is a sum of the missing columns alone: `e` equations,
/// which the inverse of their matrix solves. Everything is linear, so in the end each missing
/// column is one sum over the sources, and the blocks are read once.
struct Plan {
    data_columns: usize,
    /// The columns to read: data first, then parity, as many as there are data columns.
    sources: Vec<usize>,
    /// The data columns that are missing, in rising order.
    missing: Vec<usize>,
    /// `solutions[a]` holds the factors of `sources` that give the column `missing[a]`.
    solutions: Vec<Vec<u8>>,
}

impl Plan {
    /// The plan of a row; at least `data_columns` of the shards must be there.
    fn new(code: &Code, data_columns: usize, shards: &[Option<&[u8]>]) -> Plan {
        let (data, parity) = shards.split_at(data_columns);
        let (left, missing): (Vec<usize>, Vec<usize>) =
            (0..data_columns).partition(|column| data[*column].is_some());
        let rows: Vec<usize> =
            (0..parity.len()).filter(|row| parity[*row].is_some()).take(missing.len()).collect();

        let inverse =
            Matrix::new(missing.len(), missing.len(), |a, b| code.column(missing[b])[rows[a]])
                .inverse()
                .expect("every square submatrix of the code is invertible (see matrix.rs)");
        let solutions = (0..missing.len())
            .map(|a| {
                let factors = inverse.row(a);
                let of_data = left.iter().map(|column| {
                    let column = code.column(*column);
                    sum_of_products(factors.iter().zip(rows.iter().map(|row| &column[*row])))
                });
                of_data.chain(factors.iter().copied()).collect()
            })
            .collect();
        let sources = left.into_iter().chain(rows.iter().map(|row| data_columns + row)).collect();
        Plan { data_columns, sources, missing, solutions }
    }

    /// The factors of the sources that give a missing column, data or parity.
    fn row(&self, code: &Code, column: usize) -> Vec<u8> {
        if let Ok(a) = self.missing.binary_search(&column) {
            return self.solutions[a].clone();
        }
        // A parity row is made of the data; where a data column is missing its solution stands in.
        let row = column - self.data_columns;
        let mut factors: Vec<u8> = (0..self.sources.len())
            .map(|source| match self.sources[source] {
                data if data < self.data_columns => code.column(data)[row],
                _ => 0,
            })
            .collect();
        for (missing, solution) in self.missing.iter().zip(&self.solutions) {
            let products = &gf256::MUL[usize::from(code.column(*missing)[row])];
            for (factor, part) in factors.iter_mut().zip(solution) {
                *factor ^= products[usize::from(*part)];
            }
        }
        factors
    }
}

fn sum_of_products<'a>(pairs: impl Iterator<Item = (&'a u8, &'a u8)>) -> u8 {
    pairs.fold(0, |sum, (a, b)| sum ^ gf256::mul(*a, *b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row_of(k: usize, len: usize) -> Vec<Vec<u8>> {
        let byte = |column: usize, i: usize| ((column * 37 + i * 101 + (i >> 3) * 7) ^ 0x5a) as u8;
        (0..k).map(|column| (0..len).map(|i| byte(column, i)).collect()).collect()
    }

    fn encode(code: &Code, data: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let data: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
        let mut parity = vec![vec![0xee; data[0].len()]; code.parity()];
        code.encode(&data, &mut parity.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>());
        parity
    }

    /// The suite can fail: a code with one wrong bit in one coefficient makes other parity, and a
    /// row so encoded is not rebuilt by a sound code.
    #[test]
    fn one_wrong_bit_in_any_coefficient_is_noticed() {
        let (k, m) = (5, 4);
        let sound = Code::new(Level::Rs, k, m).unwrap();
        let data = row_of(k, 64);
        let good = encode(&sound, &data);
        for place in 0..k * m {
            let (column, row) = (place / m, place % m);
            if row < 2 {
                continue; // P and Q are made without looking at the matrix.
            }
            for bit in 0..8 {
                let mut broken = sound.clone();
                broken.coefficients[place] ^= 1 << bit;
                let bad = encode(&broken, &data);
                for other in 0..m {
                    assert_eq!(bad[other] == good[other], other != row, "place {place}");
                }

                let shards: Vec<Option<&[u8]>> = (data.iter().enumerate())
                    .map(|(i, block)| (i != column).then_some(block.as_slice()))
                    .chain(bad.iter().enumerate().map(|(i, b)| (i == row).then_some(b.as_slice())))
                    .collect();
                let mut out = vec![0; 64];
                sound.reconstruct(k, &shards, &[column], &mut [&mut out]).unwrap();
                assert_ne!(out, data[column], "place {place}");
            }
        }
    }

    /// P and Q come from kernels of their own; the matrix must say the same.
    #[test]
    fn encoding_agrees_with_the_matrix_in_every_row() {
        for (k, m) in [(2, 1), (2, 2), (9, 2), (10, 4), (4, 12), (253, 2), (128, 127)] {
            let code = Code::new(Level::Rs, k, m).unwrap();
            let data = row_of(k, 64);
            for (row, parity) in encode(&code, &data).iter().enumerate() {
                for (i, byte) in parity.iter().enumerate() {
                    let sum = (0..k).fold(0, |sum, column| {
                        let factor = code.column(column)[row];
                        sum ^ gf256::mul_by_definition(factor, data[column][i])
                    });
                    assert_eq!(*byte, sum, "{code:?}, row {row}");
                }
            }
        }
    }
}
