//! The matrix that all codes but EVENODD are cut from, and inversion.
//!
//! # The matrix
//!
//! Parity row `i` of a row of data `d` is the sum over `j` of `c(i, j) * d[j]`, with
//!
//! ```text
//! c(0, j) = 1
//! c(i, j) = (x(i) + y(0)) / (x(i) + y(j))     for i >= 1
//!
//! y(j) = 2^-j        x(1) = 0        x(i) = 2^(i-1) for i >= 2
//! ```
//!
//! in the field of `gf256.rs`. A coefficient depends on its place alone, not on the shape of the
//! array: a code with fewer columns or fewer rows is a corner of the same matrix. The corner is
//!
//! * all ones in row 0: plain XOR, which is raid5's parity and raid6's P;
//! * all ones in column 0, since numerator and denominator are equal there: with one data column
//!   every parity is a copy of it;
//! * `1 / 2^-j = 2^j` in row 1: raid6's Q.
//!
//! The idea of a Cauchy matrix extended and scaled until its first rows are those of RAID-6 is that
//! of A. Mazzoleni's SnapRAID; the Cauchy matrix as a code is in J. Blömer and others, "An
//! XOR-Based Erasure-Resilient Coding Scheme".
//!
//! # Why any `k` columns are enough
//!
//! Let `e` data columns be lost and any `e` parity rows be left. They determine the lost columns if
//! the `e` by `e` matrix of those rows and columns is invertible, so it has to be shown that every
//! square submatrix is.
//!
//! All `x(i)`, `i >= 1`, and `y(j)` are different from each other: the `y(j)` are the powers of 2
//! with exponents 0, -1, .. -(k - 1), `x(1)` is zero, and the other `x(i)` are the powers with
//! exponents 1, .. m - 2. Together these are k + m - 2 neighbouring exponents, fewer than the 255
//! after which they repeat, for `k + m <= 255`. So no denominator and no numerator is zero.
//! Dividing row `i` by its numerator, which is not zero, changes no rank, and leaves
//! `1 / (x(i) + y(j))`.
//!
//! Now suppose that a sum of the `e` rows with factors `r(i)`, not all zero, is zero in all `e`
//! columns. Then
//!
//! ```text
//! f(y) = r(0) + sum of r(i) / (x(i) + y) over the rows i >= 1 that are taken
//! ```
//!
//! is zero at `e` different points (`r(0)` is zero where row 0 is not taken). Multiplied by all the
//! `x(i) + y` it is a polynomial in `y`, with the same zeros there, of degree at most `e - 1`: with row
//! 0 there are `e - 1` such factors, and without it each term lacks one of `e`. It is not the zero
//! polynomial: if `r(0)` is not zero its leading coefficient is `r(0)`, else at `y = x(i)` it is
//! `r(i)` times a product of differences that are not zero. A polynomial of degree at most `e - 1`
//! has at most `e - 1` zeros, which contradicts the `e`. So the rows are independent.

use super::gf256;

/// The most columns, data and parity together, that a code can have.
pub(super) const MOST_COLUMNS: usize = 255;

/// The coefficient of data column `column` in parity row `row`: `c(row, column)` of the head of
/// this file. It is part of the format on disk. Valid where `row + column` is below
/// [`MOST_COLUMNS`]` - 1`, which holds for every place of a code of at most [`MOST_COLUMNS`]
/// columns.
pub(super) fn coefficient(row: usize, column: usize) -> u8 {
    let x = match row {
        0 => return 1,
        1 => 0,
        _ => gf256::power_of_two(row - 1),
    };
    let y = gf256::power_of_two(gf256::ORDER - column);
    gf256::mul(x ^ 1, gf256::inverse(x ^ y))
}

/// A matrix over the field, stored row after row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Matrix {
    rows: usize,
    columns: usize,
    cells: Vec<u8>,
}

impl Matrix {
    /// The matrix with `cell(row, column)` in every place.
    pub(super) fn new(rows: usize, columns: usize, cell: impl Fn(usize, usize) -> u8) -> Matrix {
        let mut cells = Vec::with_capacity(rows * columns);
        for row in 0..rows {
            cells.extend((0..columns).map(|column| cell(row, column)));
        }
        Matrix { rows, columns, cells }
    }

    /// One row.
    pub(super) fn row(&self, row: usize) -> &[u8] {
        &self.cells[row * self.columns..][..self.columns]
    }

    fn row_mut(&mut self, row: usize) -> &mut [u8] {
        &mut self.cells[row * self.columns..][..self.columns]
    }

    /// `row(target) += factor * row(source)`; the rows must differ.
    fn add_row(&mut self, target: usize, factor: u8, source: usize) {
        if factor == 0 {
            return;
        }
        let (target, source) = {
            let (low, high) = (target.min(source), target.max(source));
            let (first, second) = self.cells.split_at_mut(high * self.columns);
            let first = &mut first[low * self.columns..][..self.columns];
            let second = &mut second[..self.columns];
            if target < source { (first, &*second) } else { (second, &*first) }
        };
        let products = &gf256::MUL[usize::from(factor)];
        for (t, s) in target.iter_mut().zip(source) {
            *t ^= products[usize::from(*s)];
        }
    }

    fn swap_rows(&mut self, a: usize, b: usize) {
        if a != b {
            for column in 0..self.columns {
                self.cells.swap(a * self.columns + column, b * self.columns + column);
            }
        }
    }

    /// The inverse of a square matrix by Gauss and Jordan's elimination, or `None` when it has
    /// none.
    pub(super) fn inverse(mut self) -> Option<Matrix> {
        assert_eq!(self.rows, self.columns, "only a square matrix has an inverse");
        let mut inverse = Matrix::new(self.rows, self.rows, |row, column| u8::from(row == column));
        for pivot in 0..self.rows {
            let found = (pivot..self.rows).find(|row| self.row(*row)[pivot] != 0)?;
            self.swap_rows(pivot, found);
            inverse.swap_rows(pivot, found);
            let scale = gf256::inverse(self.row(pivot)[pivot]);
            for cell in self.row_mut(pivot) {
                *cell = gf256::mul(*cell, scale);
            }
            for cell in inverse.row_mut(pivot) {
                *cell = gf256::mul(*cell, scale);
            }
            for row in (0..self.rows).filter(|row| *row != pivot) {
                let factor = self.row(row)[pivot];
                self.add_row(row, factor, pivot);
                inverse.add_row(row, factor, pivot);
            }
        }
        Some(inverse)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `1 / a` by trying all.
    fn inverse_by_search(a: u8) -> u8 {
        (1..=255).find(|b| gf256::mul_by_definition(a, *b) == 1).expect("the element has one")
    }

    #[test]
    fn the_first_row_and_column_are_ones_and_the_second_row_is_the_powers_of_two() {
        for k in 1..=253 {
            let m = MOST_COLUMNS - k;
            let mut power = 1;
            for column in 0..k {
                assert_eq!(coefficient(0, column), 1);
                assert_eq!(coefficient(1, column), power);
                power = gf256::mul_by_definition(power, 2);
            }
            for row in 0..m {
                assert_eq!(coefficient(row, 0), 1);
            }
        }
    }

    /// The matrix is format: these numbers were worked out from the head of the file once and must
    /// never change.
    #[test]
    fn the_coefficients_are_those_of_the_format() {
        let half = inverse_by_search(2);
        for row in 2..40 {
            let mut x = 1;
            for _ in 1..row {
                x = gf256::mul_by_definition(x, 2);
            }
            let mut y = 1;
            for column in 0..200 {
                let cell = gf256::mul_by_definition(x ^ 1, inverse_by_search(x ^ y));
                assert_eq!(coefficient(row, column), cell, "row {row}, column {column}");
                y = gf256::mul_by_definition(y, half);
            }
        }
    }

    #[test]
    fn no_place_of_the_widest_codes_is_zero_and_no_two_by_two_corner_is_singular() {
        for m in [1, 2, 3, 12, 40] {
            let k = MOST_COLUMNS - m;
            for (a, b) in (0..m).flat_map(|b| (0..b).map(move |a| (a, b))) {
                // Two columns are dependent in the rows a and b where their ratios are equal.
                let mut seen = [false; 256];
                for column in 0..k {
                    let (top, bottom) = (coefficient(a, column), coefficient(b, column));
                    assert!(top != 0 && bottom != 0);
                    let ratio = usize::from(gf256::mul(top, gf256::inverse(bottom)));
                    assert!(!seen[ratio], "rows {a} and {b}, column {column}");
                    seen[ratio] = true;
                }
            }
        }
    }

    #[test]
    fn a_matrix_times_its_inverse_is_one() {
        for size in 0..30 {
            // Rows from 1 to 30 and every seventh column: an arbitrary corner of the matrix.
            let matrix = Matrix::new(size, size, |row, column| coefficient(row + 1, column * 7));
            let inverse = matrix.clone().inverse().expect("every corner has an inverse");
            let product = Matrix::new(size, size, |row, column| {
                (0..size).fold(0, |sum, i| {
                    sum ^ gf256::mul_by_definition(matrix.row(row)[i], inverse.row(i)[column])
                })
            });
            assert_eq!(product, Matrix::new(size, size, |row, column| u8::from(row == column)));
        }
    }

    #[test]
    fn rows_are_exchanged_where_a_pivot_is_zero() {
        let swap = Matrix::new(2, 2, |row, column| u8::from(row != column));
        assert_eq!(swap.clone().inverse(), Some(swap));
    }

    #[test]
    fn a_singular_matrix_has_no_inverse() {
        assert_eq!(Matrix::new(3, 3, |row, _| row as u8).inverse(), None);
        assert_eq!(Matrix::new(2, 2, |row, column| 1 << (row + column)).inverse(), None);
    }
}
