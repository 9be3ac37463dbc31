//! The codes over a grid of shapes and losses, through the public interface alone.
//!
//! What the codes compute is compared with a derivation of its own (`reference`), which multiplies
//! bit by bit, goes through EVENODD's definition symbol by symbol, and shares nothing with the code
//! under test.

use evenkeel_raid::codec::kernels::Kernel;
use evenkeel_raid::codec::{Code, CodeError, Level};

/// Numbers that look random and are the same in every run (splitmix64).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn block(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }

    fn blocks(&mut self, count: usize, len: usize) -> Vec<Vec<u8>> {
        (0..count).map(|_| self.block(len)).collect()
    }
}

/// The codes by their definitions, in a field of its own: products bit by bit, quotients by search.
mod reference {
    use evenkeel_raid::codec::Level;

    /// All parity rows of a row of data, for a code of `k` data columns.
    pub fn parities(level: Level, k: usize, m: usize, data: &[Vec<u8>]) -> Vec<Vec<u8>> {
        match level {
            Level::Evenodd => evenodd(k, data).into(),
            _ => (0..m).map(|row| parity(row, data)).collect(),
        }
    }

    /// EVENODD as its authors define it: an array of `p - 1` rows and `p` columns of symbols with an
    /// imaginary row of zeros below, horizontal sums, diagonal sums, and the adjuster.
    fn evenodd(k: usize, data: &[Vec<u8>]) -> [Vec<u8>; 2] {
        let p = if k <= 17 { 17 } else { 257 };
        let size = 4096 / (p - 1);
        let len = data[0].len();
        let (mut horizontal, mut diagonal) = (vec![0; len], vec![0; len]);
        for block in (0..len).step_by(4096) {
            for byte in block..block + size {
                let symbol = |row: usize, column: usize| {
                    let there = row < p - 1 && column < data.len();
                    if there { data[column][byte + row * size] } else { 0 }
                };
                let mut adjuster = 0;
                for column in 1..p {
                    adjuster ^= symbol(p - 1 - column, column);
                }
                for row in 0..p - 1 {
                    let (mut across, mut down) = (0, adjuster);
                    for column in 0..p {
                        across ^= symbol(row, column);
                        down ^= symbol((row + p - column) % p, column);
                    }
                    horizontal[byte + row * size] = across;
                    diagonal[byte + row * size] = down;
                }
            }
        }
        [horizontal, diagonal]
    }

    /// `a * b` modulo x^8 + x^4 + x^3 + x^2 + 1.
    pub fn mul(a: u8, b: u8) -> u8 {
        let mut product = 0u8;
        for bit in (0..8).rev() {
            let carry = product >> 7;
            product <<= 1;
            if carry == 1 {
                product ^= 0b0001_1101;
            }
            if b >> bit & 1 == 1 {
                product ^= a;
            }
        }
        product
    }

    pub fn divide(a: u8, b: u8) -> u8 {
        (0..=255).find(|q| mul(*q, b) == a).expect("a division by zero")
    }

    pub fn power(base: u8, exponent: usize) -> u8 {
        (0..exponent).fold(1, |product, _| mul(product, base))
    }

    /// The coefficient of the format: ones, powers of two, then the scaled Cauchy matrix.
    pub fn coefficient(row: usize, column: usize) -> u8 {
        let half = divide(1, 2);
        match row {
            0 => 1,
            1 => power(2, column),
            _ => {
                let (x, y) = (power(2, row - 1), power(half, column));
                divide(x ^ 1, x ^ y)
            }
        }
    }

    /// Parity row `row` of a row of data.
    pub fn parity(row: usize, data: &[Vec<u8>]) -> Vec<u8> {
        let mut sum = vec![0; data[0].len()];
        for (column, block) in data.iter().enumerate() {
            let factor = coefficient(row, column);
            for (s, d) in sum.iter_mut().zip(block) {
                *s ^= mul(factor, *d);
            }
        }
        sum
    }
}

fn shared(blocks: &[Vec<u8>]) -> Vec<&[u8]> {
    blocks.iter().map(Vec::as_slice).collect()
}

fn exclusive(blocks: &mut [Vec<u8>]) -> Vec<&mut [u8]> {
    blocks.iter_mut().map(Vec::as_mut_slice).collect()
}

/// The first `rows` parity blocks, written over blocks that held something else.
fn encode(code: &Code, data: &[Vec<u8>], rows: usize, len: usize) -> Vec<Vec<u8>> {
    let mut parity = vec![vec![0xa5; len]; rows];
    code.encode(&shared(data), &mut exclusive(&mut parity));
    parity
}

/// Rebuilds the columns of `lost` (a bit each) and compares. `row` is data and parity together.
fn rebuild(code: &Code, data_columns: usize, row: &[Vec<u8>], lost: u64) -> Result<(), String> {
    let shards: Vec<Option<&[u8]>> = (row.iter().enumerate())
        .map(|(i, block)| (lost >> i & 1 == 0).then_some(block.as_slice()))
        .collect();
    let wanted: Vec<usize> = (0..row.len()).filter(|i| lost >> i & 1 == 1).collect();
    let mut out = vec![vec![0x5a; row[0].len()]; wanted.len()];
    code.reconstruct(data_columns, &shards, &wanted, &mut exclusive(&mut out))
        .map_err(|error| format!("{code:?} without {wanted:?}: {error}"))?;
    for (column, block) in wanted.iter().zip(&out) {
        if *block != row[*column] {
            return Err(format!("{code:?} without {wanted:?}: column {column} came out wrong"));
        }
    }
    Ok(())
}

/// Every set of at most `most` of `columns` columns, or a seeded choice where there are too many.
fn losses(columns: usize, most: usize, noise: &mut Noise) -> Vec<u64> {
    if columns <= 12 {
        return (0..1u64 << columns).filter(|lost| lost.count_ones() as usize <= most).collect();
    }
    (0..300)
        .map(|i| {
            // Every other time as many as can be.
            let count = if i % 2 == 0 { most } else { noise.below(most + 1) };
            let mut lost = 0u64;
            while (lost.count_ones() as usize) < count {
                lost |= 1 << noise.below(columns);
            }
            lost
        })
        .collect()
}

/// The levels that allow a shape.
fn codes(k: usize, m: usize) -> Vec<Code> {
    Level::ALL.into_iter().filter_map(|level| Code::new(level, k, m).ok()).collect()
}

fn shapes() -> impl Iterator<Item = (usize, usize)> {
    (1..=20).flat_map(|k| (1..=6).map(move |m| (k, m))).chain([(4, 12)])
}

#[test]
fn every_shape_rebuilds_every_loss() {
    let mut noise = Noise(1);
    let mut tried = 0u32;
    for (k, m) in shapes() {
        for code in codes(k, m) {
            let len = code.granule() * (1 + (k + m) % 3);
            let mut row = noise.blocks(k, len);
            row.append(&mut encode(&code, &row, m, len));
            for lost in losses(k + m, m, &mut noise) {
                rebuild(&code, k, &row, lost).unwrap();
                tried += 1;
            }
        }
    }
    assert!(tried > 40_000, "only {tried} losses were tried");
}

/// The course notes' shape, 4 data and 12 parity: all 64,839 losses of up to 12 of the 16.
#[test]
fn four_and_twelve_rebuilds_every_loss() {
    let code = Code::new(Level::Rs, 4, 12).unwrap();
    let mut row = Noise(2).blocks(4, 64);
    row.append(&mut encode(&code, &row, 12, 64));
    for lost in (0..1u64 << 16).filter(|lost| lost.count_ones() <= 12) {
        rebuild(&code, 4, &row, lost).unwrap();
    }
}

#[test]
fn wide_codes_rebuild_what_they_promise() {
    let mut noise = Noise(3);
    for (level, k, m) in [
        (Level::Raid1, 1, 254),
        (Level::Raid5, 254, 1),
        (Level::Raid6, 253, 2),
        (Level::Evenodd, 17, 2),
        (Level::Evenodd, 18, 2),
        (Level::Evenodd, 64, 2),
        (Level::Evenodd, 200, 2),
        (Level::Evenodd, 253, 2),
        (Level::Rs, 254, 1),
        (Level::Rs, 251, 4),
        (Level::Rs, 128, 127),
        (Level::Rs, 1, 254),
        (Level::Rs, 17, 238),
        (Level::Rs, 235, 20),
    ] {
        let code = Code::new(level, k, m).unwrap();
        let len = code.granule();
        let mut row = noise.blocks(k, len);
        row.append(&mut encode(&code, &row, m, len));
        for _ in 0..if level == Level::Evenodd { 100 } else { 8 } {
            let mut order: Vec<usize> = (0..k + m).collect();
            for i in (1..order.len()).rev() {
                order.swap(i, noise.below(i + 1));
            }
            let lost = &order[..m];
            let mut shards: Vec<Option<&[u8]>> = row.iter().map(|b| Some(b.as_slice())).collect();
            lost.iter().for_each(|i| shards[*i] = None);
            let mut out = vec![vec![0; len]; m];
            code.reconstruct(k, &shards, lost, &mut exclusive(&mut out)).unwrap();
            assert!(lost.iter().zip(&out).all(|(i, block)| *block == row[*i]), "{code:?}");
        }
    }
}

#[test]
fn parity_is_that_of_the_reference() {
    let mut noise = Noise(4);
    for (k, m) in shapes().chain([18, 40, 99, 200, 252, 253].map(|k| (k, 2))) {
        for level in codes(k, m).iter().map(Code::level) {
            let len = if level == Level::Evenodd { 8192 } else { 128 };
            let data = noise.blocks(k, len);
            let expected = reference::parities(level, k, m, &data);
            for kernel in Kernel::available() {
                let code = Code::with_kernel(level, k, m, kernel).unwrap();
                assert_eq!(encode(&code, &data, m, len), expected, "{code:?}");
            }
        }
    }
}

/// The prime belongs to the code, not to the row: a narrow row of a wide EVENODD has the symbols of
/// the wide one.
#[test]
fn a_shortened_evenodd_keeps_its_prime() {
    let mut noise = Noise(12);
    for k in [17, 18, 30] {
        let code = Code::new(Level::Evenodd, k, 2).unwrap();
        let data = noise.blocks(5, 4096);
        assert_eq!(encode(&code, &data, 2, 4096), reference::parities(Level::Evenodd, k, 2, &data));
    }
}

/// All pairs of columns, for both primes: the widest codes of all pairs of neighbours and of the
/// farthest apart too.
#[test]
fn evenodd_rebuilds_every_pair() {
    let mut noise = Noise(13);
    for (k, narrow) in [(17, true), (19, true), (253, false)] {
        let code = Code::new(Level::Evenodd, k, 2).unwrap();
        let mut row = noise.blocks(k, 4096);
        row.append(&mut encode(&code, &row, 2, 4096));
        let n = k + 2;
        let pairs = (0..n).flat_map(|b| (0..b).map(move |a| [a, b]));
        for lost in pairs.filter(|[a, b]| narrow || b - a == 1 && a % 9 == 0 || b - a > n - 5) {
            let mut shards: Vec<Option<&[u8]>> = row.iter().map(|b| Some(b.as_slice())).collect();
            lost.iter().for_each(|i| shards[*i] = None);
            let mut out = vec![vec![0; 4096]; 2];
            code.reconstruct(k, &shards, &lost, &mut exclusive(&mut out)).unwrap();
            assert!(lost.iter().zip(&out).all(|(i, block)| *block == row[*i]), "{code:?} {lost:?}");
        }
    }
}

/// Linux: P is the XOR, Q the sum of 2^i times data block i, in GF(2^8) modulo 0x11d. Worked out
/// here as polynomials of unlimited degree, reduced by long division at the very end.
#[test]
fn raid6_is_that_of_linux() {
    let mut noise = Noise(5);
    for k in 1..=40 {
        let data = noise.blocks(k, 64);
        let parity = encode(&Code::new(Level::Raid6, k, 2).unwrap(), &data, 2, 64);
        for i in 0..64 {
            let mut p = 0u8;
            let mut q = 0u128;
            for (column, block) in data.iter().enumerate() {
                p ^= block[i];
                q ^= u128::from(block[i]) << column;
            }
            for degree in (8..128).rev() {
                if q >> degree & 1 == 1 {
                    q ^= 0x11d << (degree - 8);
                }
            }
            assert_eq!(parity[0][i], p);
            assert_eq!(u128::from(parity[1][i]), q);
        }
    }
}

/// Values written down once, so that neither the code nor the reference can drift: parity is on
/// disks. Data block `j` is all `j + 1`.
#[test]
fn the_parity_of_the_format_is_pinned() {
    let data: Vec<Vec<u8>> = (1..=10).map(|byte| vec![byte; 64]).collect();
    let parity = encode(&Code::new(Level::Rs, 10, 6).unwrap(), &data, 6, 64);
    let bytes: Vec<u8> = parity.iter().map(|block| block[0]).collect();
    assert_eq!(bytes, PINNED);
}

const PINNED: [u8; 6] = [11, 92, 123, 39, 19, 214];

#[test]
fn an_update_equals_a_new_encoding() {
    let mut noise = Noise(6);
    for (k, m) in shapes() {
        for code in codes(k, m) {
            for column in 0..k {
                for rows in 0..=m {
                    let len = code.granule() * (1 + rows % 3);
                    let mut data = noise.blocks(k, len);
                    let mut parity = encode(&code, &data, rows, len);
                    let delta = noise.block(len);
                    data[column].iter_mut().zip(&delta).for_each(|(d, x)| *d ^= x);
                    code.update(column, &delta, &mut exclusive(&mut parity));
                    assert_eq!(parity, encode(&code, &data, rows, len), "{code:?} {column}");
                }
            }
        }
    }
}

/// Fewer data columns are as many zeros, fewer parity rows are the first ones, and both can be
/// rebuilt as the smaller code they are.
#[test]
fn shortened_codes_are_those_with_zeros() {
    let mut noise = Noise(7);
    for (k, m) in [(3, 1), (4, 2), (5, 3), (6, 2), (19, 2), (7, 4), (4, 12), (20, 6)] {
        for code in codes(k, m) {
            let len = code.granule();
            for columns in 0..=k {
                let data = noise.blocks(columns, len);
                let mut filled = data.clone();
                filled.resize(k, vec![0; len]);
                let whole = encode(&code, &filled, m, len);
                for rows in 0..=m {
                    let parity = encode(&code, &data, rows, len);
                    assert_eq!(parity, whole[..rows], "{code:?} {columns} {rows}");
                    let row = [data.clone(), parity].concat();
                    if row.is_empty() {
                        continue;
                    }
                    for lost in losses(columns + rows, rows, &mut noise).into_iter().take(100) {
                        rebuild(&code, columns, &row, lost).unwrap();
                    }
                }
            }
        }
    }
}

#[test]
fn one_data_column_gives_copies() {
    let mut noise = Noise(8);
    let data = noise.blocks(1, 8192);
    for m in 1..=6 {
        for (k, code) in
            [1, 2, 9, 20].into_iter().flat_map(|k| codes(k, m).into_iter().map(move |c| (k, c)))
        {
            let parity = encode(&code, &data, m, 8192);
            assert!(parity.iter().all(|block| *block == data[0]), "{code:?}");
            // As if the first of k columns had been zero before.
            let mut parity = vec![vec![0; 8192]; m];
            code.update(0, &data[0], &mut exclusive(&mut parity));
            assert!(parity.iter().all(|block| *block == data[0]), "{code:?} {k}");
        }
    }
}

#[test]
fn one_loss_too_many_is_refused_and_leaves_the_output_alone() {
    let mut noise = Noise(9);
    for (k, m) in [(1, 1), (2, 1), (4, 2), (5, 3), (4, 6)] {
        for code in codes(k, m) {
            let len = code.granule();
            for rows in 0..=m {
                let mut row = noise.blocks(k, len);
                row.append(&mut encode(&code, &row, rows, len));
                for lost in (0..1u64 << row.len()).filter(|l| l.count_ones() as usize > rows) {
                    let present = row.len() - lost.count_ones() as usize;
                    let shards: Vec<Option<&[u8]>> = (row.iter().enumerate())
                        .map(|(i, block)| (lost >> i & 1 == 0).then_some(block.as_slice()))
                        .collect();
                    let wanted = lost.trailing_zeros() as usize;
                    let mut out = vec![0x77; len];
                    assert_eq!(
                        code.reconstruct(k, &shards, &[wanted], &mut [&mut out]),
                        Err(CodeError::TooManyMissing { needed: k, present })
                    );
                    assert_eq!(out, vec![0x77; len]);
                }
            }
        }
    }
}

/// Any columns can be wanted, in any order, twice, or though they are there.
#[test]
fn wanted_columns_are_free_to_choose() {
    let mut noise = Noise(10);
    for (level, m) in [(Level::Rs, 4), (Level::Evenodd, 2)] {
        let code = Code::new(level, 6, m).unwrap();
        let (n, len) = (6 + m, 2 * code.granule());
        let mut row = noise.blocks(6, len);
        row.append(&mut encode(&code, &row, m, len));
        for lost in losses(n, m, &mut noise) {
            let shards: Vec<Option<&[u8]>> = (row.iter().enumerate())
                .map(|(i, block)| (lost >> i & 1 == 0).then_some(block.as_slice()))
                .collect();
            let wanted: Vec<usize> = (0..noise.below(6)).map(|_| noise.below(n)).collect();
            let mut out = vec![vec![0; len]; wanted.len()];
            code.reconstruct(6, &shards, &wanted, &mut exclusive(&mut out)).unwrap();
            let right = wanted.iter().zip(&out).all(|(i, block)| *block == row[*i]);
            assert!(right, "{code:?} {lost:b} {wanted:?}");
        }
    }
}

#[test]
fn unsupported_shapes_are_refused_in_sentences() {
    let refused = |level, k, m| Code::new(level, k, m).unwrap_err().to_string();
    assert_eq!(
        refused(Level::Raid5, 4, 2),
        "raid5 cannot be made of 4 data + 2 parity: raid5 has exactly one parity column"
    );
    for (level, k, m, reason) in [
        (Level::Raid1, 2, 1, "raid1 has exactly one data column"),
        (Level::Raid1, 1, 0, "a code has at least one parity column"),
        (Level::Raid5, 0, 1, "a code has at least one data column"),
        (Level::Raid6, 4, 1, "raid6 has exactly two parity columns"),
        (Level::Raid6, 254, 2, "a code has at most 255 columns, data and parity together"),
        (Level::Rs, 0, 3, "a code has at least one data column"),
        (Level::Rs, 3, 0, "a code has at least one parity column"),
        (Level::Rs, 200, 56, "a code has at most 255 columns, data and parity together"),
        (Level::Rs, usize::MAX, 2, "a code has at most 255 columns, data and parity together"),
        (Level::Evenodd, 4, 1, "evenodd has exactly two parity columns"),
        (Level::Evenodd, 4, 3, "evenodd has exactly two parity columns"),
        (Level::Evenodd, 0, 2, "a code has at least one data column"),
        (Level::Evenodd, 254, 2, "a code has at most 255 columns, data and parity together"),
    ] {
        assert!(refused(level, k, m).ends_with(reason), "{}", refused(level, k, m));
    }
}

/// The suite can fail: a wrong coefficient, in any place and by any amount, makes parity that
/// the reference disowns and from which a row is not rebuilt.
#[test]
fn a_wrong_coefficient_is_noticed() {
    let (k, m) = (4, 3);
    let code = Code::new(Level::Rs, k, m).unwrap();
    let mut noise = Noise(11);
    let data = noise.blocks(k, 64);
    let good = encode(&code, &data, m, 64);
    for (row, column, error) in (0..m)
        .flat_map(|row| (0..k).map(move |column| (row, column)))
        .flat_map(|(row, column)| [1, 2, 0x80, 0xff].map(|error| (row, column, error)))
    {
        // What an encoder whose coefficient is wrong by `error` would have made.
        let mut parity = good.clone();
        for (p, d) in parity[row].iter_mut().zip(&data[column]) {
            *p ^= reference::mul(error, *d);
        }
        assert_ne!(parity[row], reference::parity(row, &data));
        let bad = [data.clone(), parity].concat();
        let failures = (losses(k + m, m, &mut noise).into_iter())
            .filter(|lost| rebuild(&code, k, &bad, *lost).is_err())
            .count();
        assert!(failures > 0, "row {row}, column {column}: no loss noticed {error}");
    }
}

/// What a caller must never do is refused by a panic, on the short ways through the code too.
#[test]
fn mistakes_of_the_caller_panic() {
    fn panics(what: impl FnOnce() + std::panic::UnwindSafe) -> bool {
        std::panic::catch_unwind(what).is_err()
    }
    let (a, b) = ([1u8; 64], [2u8; 128]);
    let code = || Code::new(Level::Rs, 2, 2).unwrap();
    assert!(panics(|| code().encode(&[&a, &a, &a], &mut [&mut [0; 64]])));
    assert!(panics(|| code().encode(&[&a], &mut [&mut [0; 64], &mut [0; 64], &mut [0; 64]])));
    assert!(panics(|| code().encode(&[&a, &b], &mut [&mut [0; 64]])));
    assert!(panics(|| code().encode(&[&a], &mut [&mut [0; 64], &mut [0; 128]])));
    assert!(panics(|| code().encode(&[&a[..63]], &mut [&mut [0; 63]])));
    assert!(panics(|| code().encode(&[], &mut [&mut [0; 63]])));
    assert!(panics(|| code().update(2, &a, &mut [&mut [0; 64]])));
    assert!(panics(|| code().update(0, &a, &mut [&mut [0; 128]])));
    let rebuild = |columns: usize, shards: &[Option<&[u8]>], wanted: &[usize]| {
        let mut out = [0; 64];
        let _ = code().reconstruct(columns, shards, wanted, &mut [&mut out]);
    };
    assert!(!panics(|| rebuild(2, &[Some(&a), None, Some(&a)], &[1])));
    assert!(panics(|| rebuild(3, &[Some(&a), None, Some(&a)], &[1])));
    assert!(panics(|| rebuild(2, &[Some(&a)], &[0])));
    assert!(panics(|| rebuild(1, &[Some(&a), None, None, None], &[1])));
    assert!(panics(|| rebuild(2, &[Some(&a), None, Some(&a)], &[3])));
    assert!(panics(|| rebuild(2, &[Some(&a), None, Some(&a)], &[])));
    assert!(panics(|| rebuild(2, &[Some(&a), None, Some(&b)], &[1])));

    // EVENODD works on blocks of 4 KiB alone.
    let code = || Code::new(Level::Evenodd, 2, 2).unwrap();
    assert!(panics(|| code().encode(&[&a, &a], &mut [&mut [0; 64]])));
    assert!(panics(|| code().encode(&[&[0; 4160]], &mut [&mut [0; 4160], &mut [0; 4160]])));
    assert!(panics(|| code().update(0, &a, &mut [&mut [0; 64]])));
    assert!(panics(|| code().update(0, &a, &mut [&mut [0; 4096]])));
    assert!(panics(|| code().update(2, &[0; 4096], &mut [&mut [0; 4096]])));
}
