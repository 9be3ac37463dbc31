//! EVENODD: two parity columns made with XOR alone.
//!
//! # The definition
//!
//! M. Blaum, J. Brady, J. Bruck and J. Menon, "EVENODD: An Efficient Scheme for Tolerating Double
//! Disk Failures in RAID Architectures", IEEE Transactions on Computers 44 (1995). Let `p` be a prime.
//! A column is `p - 1` *symbols* `a[0][j] .. a[p-2][j]`, there are at most `p` data columns
//! `j = 0 .. p-1`, absent ones are zero, and so is an imaginary symbol `a[p-1][j]` at the end of each
//! column. With all indices modulo `p` and `+` for XOR,
//!
//! ```text
//! P[r] = sum over j of a[r][j]                     the horizontal parity
//! Q[r] = S + sum over j of a[r-j][j]               the diagonal parity
//! S    = sum over j >= 1 of a[p-1-j][j]            the diagonal that would be Q[p-1]
//! ```
//!
//! for `r = 0 .. p-2`. `S`, the adjuster, is in every symbol of `Q`.
//!
//! In this module a column is a block of 4096 bytes: with up to 17 data columns `p = 17`, 16 symbols
//! of 256 bytes; with more `p = 257`, 256 symbols of 16 bytes. Symbol `r` is the bytes from
//! `r * 4096 / (p - 1)`. A longer column is so many blocks, each on its own. All this is part of the
//! format on disk.
//!
//! # As polynomials
//!
//! Read column `j` as the polynomial `a_j(x) = sum over r of a[r][j] x^r`. Times `x^j` modulo `x^p + 1`
//! is a rotation by `j` symbols, so `T = sum of x^j a_j mod (x^p + 1)` has the diagonals as its symbols:
//! `T[r] = Q[r] + S` for `r < p-1`, and `T[p-1] = S`. So `Q[r] = T[r] + T[p-1]`, and that is `T`
//! reduced modulo `M = 1 + x + .. + x^(p-1)`, since `x^(p-1)` is `1 + x + .. + x^(p-2)` there. In short,
//!
//! ```text
//! P = sum of a_j        Q = sum of x^j a_j        modulo M
//! ```
//!
//! which is linear: what changes a column by `d` changes `P` by `d` and `Q` by `x^j d`, adjuster and
//! all. `M` divides `x^p + 1 = (x + 1) M`, so everything can be summed up with `p` symbols by rotating,
//! and be reduced once in the end.
//!
//! # Rebuilding
//!
//! One data column comes from `P`, or, where that is missing too, from `Q`:
//! `a_j = x^-j (Q + the others' part)`, rotations again. Two data columns `i < j`, with `d = j - i`:
//! let `A = P + the others' part = a_i + a_j` and `B = x^-i (Q + the others' part) = a_i + x^d a_j`. Then
//!
//! ```text
//! (1 + x^d) a_j = A + B        a_i = A + a_j
//! ```
//!
//! modulo `M`. `A + B` is known up to a multiple of `M`, which adds the same to all its `p` symbols;
//! the one of these whose symbols sum up to zero is `1 + x^d` times something modulo `x^p + 1` too (a
//! multiple of `1 + x^d` has that sum at `x = 1`, and `p` is odd, so adding the sum to every symbol
//! makes it zero). Call it `C`. Comparing symbols, `a[r-d][j] = C[r] + a[r][j]`: it begins with
//! `a[p-1][j] = 0` and, as `p` is prime and `d` no multiple of it, goes through all symbols once and
//! comes back to the first. So there is exactly one solution, for every pair of columns.
//!
//! One data column left is copied into both parities: `x^0` is one.

use super::kernels::Kernel;

/// The bytes of a column of the code. Longer blocks are so many of them, one after the other.
pub(super) const UNIT: usize = 4096;

/// The largest symbol, and so the most that a column of `p` symbols is longer than one of `p - 1`.
const LARGEST_SYMBOL: usize = 256;

/// Room for `p` symbols of either size.
type Room = [u8; UNIT + LARGEST_SYMBOL];

/// The code with its prime.
#[derive(Clone)]
pub(super) struct Evenodd {
    prime: usize,
}

/// What is summed up: so many rotations by one symbol of a block each.
type Terms<'a> = Vec<(usize, &'a [u8])>;

impl Evenodd {
    /// The code for `k` data columns, at most 257.
    pub(super) fn new(k: usize) -> Evenodd {
        Evenodd { prime: if k <= 17 { 17 } else { 257 } }
    }

    /// The bytes of a symbol.
    fn symbol(&self) -> usize {
        UNIT / (self.prime - 1)
    }

    /// Makes Q from the data columns.
    pub(super) fn encode_q(&self, kernel: &Kernel, data: &[&[u8]], q: &mut [u8]) {
        let terms = data.iter().copied().enumerate().collect();
        self.sum_up(kernel, &terms, q, |sum, q| self.reduce(sum, q));
    }

    /// Brings P, or P and Q, up to date after data column `column` changed by `delta`.
    pub(super) fn update(
        &self,
        kernel: &Kernel,
        column: usize,
        delta: &[u8],
        parity: &mut [&mut [u8]],
    ) {
        if let [p, ..] = parity {
            kernel.xor_into(delta, p);
        }
        if let [_, q] = parity {
            self.sum_up(kernel, &vec![(column, delta)], q, |sum, q| {
                kernel.xor_rotated(q, 0, sum);
                self.reduce(sum, q);
            });
        }
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
        let (data, parity) = shards.split_at(data_columns);
        let missing: Vec<usize> = (0..data_columns).filter(|c| data[*c].is_none()).collect();
        let len = out.first().map_or(0, |block| block.len());
        let mut made = vec![vec![0; len]; missing.len()];
        self.rebuild_data(kernel, data, parity, &missing, &mut made);

        let mut whole: Vec<&[u8]> = data.iter().map(|block| block.unwrap_or_default()).collect();
        missing.iter().zip(&made).for_each(|(column, block)| whole[*column] = block);
        for (column, block) in wanted.iter().zip(out) {
            match column.checked_sub(data_columns) {
                None => block.copy_from_slice(whole[*column]),
                Some(0) => kernel.xor_sum(&whole, block),
                Some(_) => self.encode_q(kernel, &whole, block),
            }
        }
    }

    /// Rebuilds the data columns `missing`, in rising order and all that are, into `made`.
    fn rebuild_data(
        &self,
        kernel: &Kernel,
        data: &[Option<&[u8]>],
        parity: &[Option<&[u8]>],
        missing: &[usize],
        made: &mut [Vec<u8>],
    ) {
        let p = parity.first().copied().flatten();
        let q = parity.get(1).copied().flatten();
        let others = || data.iter().enumerate().filter_map(|(c, block)| Some((c, (*block)?)));
        let others_sum = |more: &[&'_ [u8]], out: &mut [u8]| {
            let all: Vec<&[u8]> = others().map(|(_, b)| b).chain(more.iter().copied()).collect();
            kernel.xor_sum(&all, out);
        };
        match (missing, made, p, q) {
            ([], [], ..) => {}
            ([_], [out], Some(p), _) => others_sum(&[p], out),
            ([lost], [out], None, Some(q)) => {
                let terms = self.diagonals_from(*lost, others(), q);
                self.sum_up(kernel, &terms, out, |sum, out| self.reduce(sum, out));
            }
            ([i, j], [first, second], Some(p), Some(q)) => {
                let mut terms = self.diagonals_from(*i, others(), q);
                terms.extend(others().map(|(_, block)| (0, block)));
                terms.push((0, p));
                self.sum_up(kernel, &terms, second, |sum, out| self.divide(sum, j - i, out));
                others_sum(&[p, second], first);
            }
            _ => unreachable!("more data columns are missing than parities are there"),
        }
    }

    /// The terms of `x^-origin (Q + the part of the given columns)`.
    fn diagonals_from<'a>(
        &self,
        origin: usize,
        columns: impl Iterator<Item = (usize, &'a [u8])>,
        q: &'a [u8],
    ) -> Terms<'a> {
        let back = self.prime - origin;
        let columns = columns.map(|(c, block)| ((c + back) % self.prime, block));
        columns.chain([(back % self.prime, q)]).collect()
    }

    /// For each unit of `out`: the sum of the terms, of `p` symbols, and the unit go to `finish`.
    fn sum_up(
        &self,
        kernel: &Kernel,
        terms: &Terms<'_>,
        out: &mut [u8],
        finish: impl Fn(&mut [u8], &mut [u8]),
    ) {
        let mut room: Room = [0; UNIT + LARGEST_SYMBOL];
        let sum = &mut room[..UNIT + self.symbol()];
        for (unit, out) in out.chunks_exact_mut(UNIT).enumerate() {
            sum.fill(0);
            for (rotation, block) in terms {
                let block = &block[unit * UNIT..][..UNIT];
                kernel.xor_rotated(block, rotation * self.symbol(), sum);
            }
            finish(sum, out);
        }
    }

    /// Reduces modulo `M`: the last symbol is added to all the others.
    fn reduce(&self, sum: &[u8], out: &mut [u8]) {
        let (sum, last) = sum.split_at(UNIT);
        for (out, symbol) in out.chunks_exact_mut(last.len()).zip(sum.chunks_exact(last.len())) {
            for (o, (s, l)) in out.iter_mut().zip(symbol.iter().zip(last)) {
                *o = s ^ l;
            }
        }
    }

    /// Divides by `1 + x^distance` modulo `M`.
    fn divide(&self, sum: &[u8], distance: usize, out: &mut [u8]) {
        let symbol = self.symbol();
        let mut room = [[0; LARGEST_SYMBOL]; 2];
        let [total, last] = &mut room;
        let (total, last) = (&mut total[..symbol], &mut last[..symbol]);
        for part in sum.chunks_exact(symbol) {
            add(part, total);
        }
        let mut row = self.prime - 1; // whose symbol is zero
        loop {
            // From here on `last` is the symbol of `row` in the quotient.
            add(&sum[row * symbol..][..symbol], last);
            add(total, last);
            row = (row + self.prime - distance) % self.prime;
            if row == self.prime - 1 {
                break;
            }
            out[row * symbol..][..symbol].copy_from_slice(last);
        }
    }
}

/// `target ^= source`, for a symbol.
fn add(source: &[u8], target: &mut [u8]) {
    for (t, s) in target.iter_mut().zip(source) {
        *t ^= s;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(seed: u64) -> Vec<u8> {
        let mut state = seed | 1;
        (0..UNIT)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            })
            .collect()
    }

    /// The heart of the proof above: for every distance, dividing undoes multiplying.
    #[test]
    fn every_distance_can_be_divided_by() {
        for k in [2, 18] {
            let code = Evenodd::new(k);
            let kernel = Kernel::scalar();
            for distance in 1..code.prime {
                let column = noise(distance as u64);
                let mut quotient = vec![0x5a; UNIT];
                let terms = vec![(0, &column[..]), (distance, &column[..])];
                code.sum_up(kernel, &terms, &mut quotient, |sum, out| {
                    // Whatever multiple of M is added.
                    let add = sum[7];
                    sum.iter_mut().for_each(|s| *s ^= add);
                    code.divide(sum, distance, out);
                });
                assert_eq!(quotient, column, "p = {}, distance {distance}", code.prime);
            }
        }
    }

    /// The paper's own way to the adjuster, symbol by symbol, for the largest numbers of columns.
    #[test]
    fn the_adjuster_is_in_every_symbol() {
        for k in [1, 2, 17, 18, 253] {
            let code = Evenodd::new(k);
            let (p, symbol) = (code.prime, code.symbol());
            let data: Vec<Vec<u8>> = (0..k as u64).map(|c| noise(c + 99)).collect();
            let at = |r: usize, j: usize, byte: usize| {
                if r == p - 1 { 0 } else { data[j][r * symbol + byte] }
            };
            let mut q = vec![0; UNIT];
            let views: Vec<&[u8]> = data.iter().map(|d| &d[..]).collect();
            code.encode_q(Kernel::best(), &views, &mut q);
            for byte in 0..symbol {
                let s = (1..k).fold(0, |s, j| s ^ at(p - 1 - j, j, byte));
                for r in 0..p - 1 {
                    let sum = (0..k).fold(s, |sum, j| sum ^ at((r + p - j) % p, j, byte));
                    assert_eq!(q[r * symbol + byte], sum, "{k} columns, symbol {r}");
                }
            }
        }
    }
}
