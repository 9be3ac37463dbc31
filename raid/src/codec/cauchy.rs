//! The codes that are cut from the matrix of `matrix.rs`: raid1, raid5, raid6 and rs.
//!
//! Every parity row, and every column that is rebuilt, is one sum of products over blocks. What must
//! hold: the sources of a plan are as many as there are data columns, and are all there.

use super::gf256;
use super::kernels::Kernel;
use super::matrix::{Matrix, coefficient};

/// A corner of the matrix.
#[derive(Clone)]
pub(super) struct Cauchy {
    m: usize,
    /// The coefficients, column after column: that of a place is at `column * m + row`. In this
    /// order what one data column adds to all parities is one slice, and a shortened code is the
    /// head of the whole.
    coefficients: Vec<u8>,
}

impl Cauchy {
    /// The corner of `k` data columns and `m` parity rows, at most 255 together.
    pub(super) fn new(k: usize, m: usize) -> Cauchy {
        let mut coefficients = Vec::with_capacity(k * m);
        for column in 0..k {
            coefficients.extend((0..m).map(|row| coefficient(row, column)));
        }
        Cauchy { m, coefficients }
    }

    /// The coefficients of one data column in all parity rows.
    fn column(&self, column: usize) -> &[u8] {
        &self.coefficients[column * self.m..][..self.m]
    }

    /// Makes P, Q and the further parity rows.
    pub(super) fn encode(
        &self,
        kernel: &Kernel,
        data: &[&[u8]],
        p: &mut [u8],
        q: &mut [u8],
        rest: &mut [&mut [u8]],
    ) {
        kernel.p_and_q(data, p, q);
        if !rest.is_empty() {
            kernel.combine(&self.coefficients[2..], self.m, data, rest);
        }
    }

    /// Adds to the parity rows what a change of one data column adds to them.
    pub(super) fn update(
        &self,
        kernel: &Kernel,
        column: usize,
        delta: &[u8],
        parity: &mut [&mut [u8]],
    ) {
        kernel.mul_add(&self.column(column)[..parity.len()], delta, parity);
    }

    /// Rebuilds the columns `wanted`, which are missing, into `out`. At least as many columns are
    /// there as the row has data columns, which the caller has checked.
    pub(super) fn rebuild(
        &self,
        kernel: &Kernel,
        data_columns: usize,
        shards: &[Option<&[u8]>],
        wanted: &[usize],
        out: &mut [&mut [u8]],
    ) {
        let plan = Plan::new(self, data_columns, shards);
        let sources: Vec<&[u8]> = plan.sources.iter().filter_map(|i| shards[*i]).collect();
        let rows: Vec<Vec<u8>> = wanted.iter().map(|column| plan.row(self, *column)).collect();
        let coefficients: Vec<u8> =
            (0..sources.len()).flat_map(|j| rows.iter().map(move |row| row[j])).collect();
        kernel.combine(&coefficients, rows.len(), &sources, out);
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
    fn new(code: &Cauchy, data_columns: usize, shards: &[Option<&[u8]>]) -> Plan {
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
    fn row(&self, code: &Cauchy, column: usize) -> Vec<u8> {
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
    use super::super::{Code, Level};
    use super::*;

    fn row_of(k: usize, len: usize) -> Vec<Vec<u8>> {
        let byte = |column: usize, i: usize| ((column * 37 + i * 101 + (i >> 3) * 7) ^ 0x5a) as u8;
        (0..k).map(|column| (0..len).map(|i| byte(column, i)).collect()).collect()
    }

    fn encode(code: &Cauchy, data: &[Vec<u8>], m: usize) -> Vec<Vec<u8>> {
        let data: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
        let mut parity = vec![vec![0xee; data[0].len()]; m];
        let mut rows: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
        let [p, q, rest @ ..] = &mut rows[..] else { panic!("two rows and more") };
        code.encode(Kernel::best(), &data, p, q, rest);
        parity
    }

    /// The suite can fail: a code with one wrong bit in one coefficient makes other parity, and a
    /// row so encoded is not rebuilt by a sound code.
    #[test]
    fn one_wrong_bit_in_any_coefficient_is_noticed() {
        let (k, m) = (5, 4);
        let sound = Code::new(Level::Rs, k, m).unwrap();
        let data = row_of(k, 64);
        let good = encode(&Cauchy::new(k, m), &data, m);
        for place in 0..k * m {
            let (column, row) = (place / m, place % m);
            if row < 2 {
                continue; // P and Q are made without looking at the matrix.
            }
            for bit in 0..8 {
                let mut broken = Cauchy::new(k, m);
                broken.coefficients[place] ^= 1 << bit;
                let bad = encode(&broken, &data, m);
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
        for (k, m) in [(2, 2), (9, 2), (10, 4), (4, 12), (253, 2), (128, 127)] {
            let code = Cauchy::new(k, m);
            let data = row_of(k, 64);
            for (row, parity) in encode(&code, &data, m).iter().enumerate() {
                for (i, byte) in parity.iter().enumerate() {
                    let sum = (0..k).fold(0, |sum, column| {
                        let factor = code.column(column)[row];
                        sum ^ gf256::mul_by_definition(factor, data[column][i])
                    });
                    assert_eq!(*byte, sum, "{k}+{m}, row {row}");
                }
            }
        }
    }
}
