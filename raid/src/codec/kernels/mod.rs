//! The arithmetic over whole blocks.
//!
//! A [`Kernel`] is a table of functions, one table for every way to compute. `scalar.rs` is the
//! plainest and the oracle of the others, which must give the same bytes; a kernel for an
//! instruction set stands in a file of its own and its table is given out only on machines that
//! have the instructions. Nothing outside decides the choice: no environment, no setting.
//!
//! The methods of [`Kernel`] check the shapes, so the functions of the table can rely on them:
//! all blocks of a call have one length, a multiple of [`GRANULE`], or, for `xor_into`, of [`GRAIN`].

#[cfg(target_arch = "x86_64")]
mod avx2;
mod scalar;

use std::fmt;

/// The length of every block is a multiple of this many bytes: a cache line, and the step of every
/// kernel.
pub const GRANULE: usize = 64;

/// The step of [`Kernel::xor_rotated`], in bytes.
pub const GRAIN: usize = 16;

/// One way to do the arithmetic.
///
/// All methods panic when the blocks they are given differ in length or are not a multiple of
/// [`GRANULE`] bytes long. Alignment does not matter.
pub struct Kernel {
    name: &'static str,
    xor_into: fn(&[u8], &mut [u8]),
    xor_sum: fn(&[&[u8]], &mut [u8]),
    p_and_q: fn(&[&[u8]], &mut [u8], &mut [u8]),
    mul_add: fn(&[u8], &[u8], &mut [&mut [u8]]),
    combine: Combine,
}

/// The factors, their stride, the sources, the targets.
type Combine = fn(&[u8], usize, &[&[u8]], &mut [&mut [u8]]);

impl Kernel {
    /// The plain kernel, which runs everywhere.
    pub fn scalar() -> &'static Kernel {
        &scalar::KERNEL
    }

    /// The kernels that this machine can run, the quickest first; the plain one is always the last.
    pub fn available() -> Vec<&'static Kernel> {
        #[cfg(target_arch = "x86_64")]
        let special = [avx2::kernel()];
        #[cfg(not(target_arch = "x86_64"))]
        let special: [Option<&'static Kernel>; 0] = [];
        special.into_iter().flatten().chain([Kernel::scalar()]).collect()
    }

    /// The quickest kernel of this machine.
    pub fn best() -> &'static Kernel {
        Kernel::available()[0]
    }

    /// What to call it in logs and measurements: `scalar`, `avx2`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// `target ^= source`.
    pub fn xor_into(&self, source: &[u8], target: &mut [u8]) {
        check(target.len(), [source.len()]);
        (self.xor_into)(source, target);
    }

    /// Adds a block that is rotated: `target[(i + by) % target.len()] ^= source[i]`. The target may
    /// be longer than the source; its length, the source's and `by` are multiples of [`GRAIN`] (16),
    /// and neither of the latter is more than the first. Panics if not.
    pub fn xor_rotated(&self, source: &[u8], by: usize, target: &mut [u8]) {
        assert!(source.len() <= target.len() && by <= target.len(), "the rotation does not fit");
        for bytes in [source.len(), target.len(), by] {
            assert!(bytes.is_multiple_of(GRAIN), "{bytes} bytes are not a multiple of {GRAIN}");
        }
        let (start, wrapped) = source.split_at(source.len().min(target.len() - by));
        (self.xor_into)(start, &mut target[by..][..start.len()]);
        (self.xor_into)(wrapped, &mut target[..wrapped.len()]);
    }

    /// `target` becomes the XOR of all sources, zero if there are none.
    pub fn xor_sum(&self, sources: &[&[u8]], target: &mut [u8]) {
        check(target.len(), sources.iter().map(|source| source.len()));
        (self.xor_sum)(sources, target);
    }

    /// `p` becomes the XOR of all sources and `q` the sum of `2^j * sources[j]`.
    pub fn p_and_q(&self, sources: &[&[u8]], p: &mut [u8], q: &mut [u8]) {
        check(p.len(), sources.iter().map(|source| source.len()).chain([q.len()]));
        (self.p_and_q)(sources, p, q);
    }

    /// `targets[i] ^= factors[i] * source` for every target. There are as many factors as targets
    /// (else it panics).
    pub fn mul_add(&self, factors: &[u8], source: &[u8], targets: &mut [&mut [u8]]) {
        assert_eq!(factors.len(), targets.len(), "every target has its factor");
        check(source.len(), targets.iter().map(|target| target.len()));
        let mut at = 0;
        while at < factors.len() {
            let plain = factors[at] == 1;
            let end = run(at, factors.len(), |i| (factors[i] == 1) == plain);
            if plain {
                targets[at..end].iter_mut().for_each(|target| (self.xor_into)(source, target));
            } else {
                (self.mul_add)(&factors[at..end], source, &mut targets[at..end]);
            }
            at = end;
        }
    }

    /// `targets[i]` becomes the sum of `factors[j * stride + i] * sources[j]`: the factors of one
    /// source stand together, and `stride` is the distance from one source's to the next's. Panics
    /// when there are fewer factors than that.
    pub fn combine(
        &self,
        factors: &[u8],
        stride: usize,
        sources: &[&[u8]],
        targets: &mut [&mut [u8]],
    ) {
        let [first, ..] = targets else { return };
        let len = first.len();
        let lengths = sources.iter().map(|source| source.len());
        check(len, lengths.chain(targets.iter().map(|target| target.len())));
        if let Some(last) = sources.len().checked_sub(1) {
            assert!(targets.len() <= stride, "the factors of a source overlap the next one's");
            assert!(factors.len() >= last * stride + targets.len(), "there are too few factors");
        }
        // Where all factors are one the sum is plain XOR, which is far cheaper.
        let is_xor = |i: usize| (0..sources.len()).all(|j| factors[j * stride + i] == 1);
        let mut at = 0;
        while at < targets.len() {
            let plain = is_xor(at);
            let end = run(at, targets.len(), |i| is_xor(i) == plain);
            if plain {
                targets[at..end].iter_mut().for_each(|target| (self.xor_sum)(sources, target));
            } else {
                let factors = factors.get(at..).unwrap_or(&[]);
                (self.combine)(factors, stride, sources, &mut targets[at..end]);
            }
            at = end;
        }
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Kernel").field(&self.name).finish()
    }
}

/// The end of the run that begins at `at`: the first index after it where `same` is false.
fn run(at: usize, len: usize, same: impl Fn(usize) -> bool) -> usize {
    (at + 1..len).find(|i| !same(*i)).unwrap_or(len)
}

/// Panics unless all blocks are `len` bytes long, and that is a multiple of [`GRANULE`].
fn check(len: usize, lengths: impl IntoIterator<Item = usize>) {
    assert!(len.is_multiple_of(GRANULE), "a block of {len} bytes is not a multiple of {GRANULE}");
    for other in lengths {
        assert_eq!(len, other, "all blocks of a row have the same length");
    }
}

#[cfg(test)]
mod tests {
    use super::super::gf256::mul_by_definition;
    use super::*;

    /// Bytes that look random (splitmix64).
    fn noise(len: usize, seed: u64) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x2545_f491_4f6c_dd1d);
        (0..len)
            .map(|_| {
                state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                (z ^ (z >> 31)) as u8
            })
            .collect()
    }

    /// `count` blocks at odd addresses within their buffers, to be cut by `[1..]`.
    fn blocks(count: usize, len: usize, seed: u64) -> Vec<Vec<u8>> {
        (0..count as u64).map(|i| noise(len + 1, seed * 1000 + i)).collect()
    }

    fn shared(blocks: &[Vec<u8>]) -> Vec<&[u8]> {
        blocks.iter().map(|block| &block[1..]).collect()
    }

    fn exclusive(blocks: &mut [Vec<u8>]) -> Vec<&mut [u8]> {
        blocks.iter_mut().map(|block| &mut block[1..]).collect()
    }

    /// The special kernels against the plain one, byte for byte, over lengths, numbers of sources
    /// and targets, and odd addresses.
    #[test]
    fn all_kernels_give_the_bytes_of_the_plain_one() {
        let plain = Kernel::scalar();
        for kernel in Kernel::available() {
            for len in [0, 64, 128, 192, 320, 1024, 4096] {
                for count in [0, 1, 2, 3, 4, 5, 8, 13, 40] {
                    let sources = blocks(count, len, 1);
                    let sources = shared(&sources);

                    let mut theirs = blocks(2, len, 2);
                    let mut ours = theirs.clone();
                    plain.xor_sum(&sources, &mut theirs[0][1..]);
                    kernel.xor_sum(&sources, &mut ours[0][1..]);
                    assert_eq!(ours, theirs, "{kernel:?} xor_sum {count} {len}");

                    for (kernel, both) in [(plain, &mut theirs), (kernel, &mut ours)] {
                        let mut both = exclusive(both);
                        let (p, q) = both.split_at_mut(1);
                        kernel.p_and_q(&sources, p[0], q[0]);
                    }
                    assert_eq!(ours, theirs, "{kernel:?} p_and_q {count} {len}");

                    for rows in [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 13] {
                        let stride = rows + count % 3;
                        let mut factors = noise(count * stride + 1, 3);
                        for (i, factor) in factors.iter_mut().enumerate() {
                            if stride > 0 && matches!(i % stride, 0 | 5) {
                                *factor = 1; // rows of plain XOR
                            }
                        }
                        let mut theirs = blocks(rows, len, 4);
                        let mut ours = theirs.clone();
                        plain.combine(&factors, stride, &sources, &mut exclusive(&mut theirs));
                        kernel.combine(&factors, stride, &sources, &mut exclusive(&mut ours));
                        assert_eq!(ours, theirs, "{kernel:?} combine {count} {rows} {len}");
                    }
                }
                for rows in 0..10 {
                    let source = &noise(len + 3, 5)[3..];
                    let mut factors = noise(rows, 6);
                    factors.iter_mut().step_by(4).for_each(|factor| *factor = 1);
                    let mut theirs = blocks(rows, len, 7);
                    let mut ours = theirs.clone();
                    plain.mul_add(&factors, source, &mut exclusive(&mut theirs));
                    kernel.mul_add(&factors, source, &mut exclusive(&mut ours));
                    assert_eq!(ours, theirs, "{kernel:?} mul_add {rows} {len}");
                }
                let mut theirs = noise(len, 8);
                let mut ours = theirs.clone();
                plain.xor_into(&noise(len, 9), &mut theirs);
                kernel.xor_into(&noise(len, 9), &mut ours);
                assert_eq!(ours, theirs, "{kernel:?} xor_into {len}");
            }
            for grains in (0..70).chain([255, 256, 257]) {
                for longer in 0..4 {
                    let target = noise((grains + longer) * GRAIN + 1, 10);
                    let source = &noise(grains * GRAIN + 3, 11)[3..];
                    for by in (0..=grains + longer).map(|grain| grain * GRAIN) {
                        let mut expected = target.clone();
                        for (i, byte) in source.iter().enumerate() {
                            expected[1 + (i + by) % (target.len() - 1)] ^= byte;
                        }
                        let mut ours = target.clone();
                        kernel.xor_rotated(source, by, &mut ours[1..]);
                        assert_eq!(ours, expected, "{kernel:?} xor_rotated {grains} {longer} {by}");
                    }
                }
            }
        }
    }

    /// Every kernel, the plain one included, against the definition: all 65,536 products.
    #[test]
    fn all_kernels_multiply_as_the_definition_says() {
        let all: Vec<u8> = (0..=255).collect();
        for kernel in Kernel::available() {
            for factor in 0..=255u8 {
                let products: Vec<u8> = all.iter().map(|b| mul_by_definition(factor, *b)).collect();
                let mut sum = vec![0xff; 256];
                kernel.combine(&[factor], 1, &[&all], &mut [&mut sum]);
                assert_eq!(sum, products, "{kernel:?} combine {factor}");
                let mut added = all.clone();
                kernel.mul_add(&[factor], &all, &mut [&mut added]);
                let expected: Vec<u8> = all.iter().zip(&products).map(|(a, b)| a ^ b).collect();
                assert_eq!(added, expected, "{kernel:?} mul_add {factor}");
            }
            let (mut p, mut q) = (vec![0; 256], vec![0; 256]);
            let zero = vec![0; 256];
            let mut power = 1;
            for column in 0..20 {
                let mut sources = vec![zero.as_slice(); 20];
                sources[column] = &all;
                kernel.p_and_q(&sources, &mut p, &mut q);
                assert_eq!(p, all);
                for (b, product) in all.iter().zip(&q) {
                    assert_eq!(mul_by_definition(power, *b), *product, "{kernel:?} q {column}");
                }
                power = mul_by_definition(power, 2);
            }
        }
    }

    #[test]
    #[should_panic(expected = "same length")]
    fn blocks_of_different_lengths_are_refused() {
        Kernel::best().xor_sum(&[&[0; 128], &[0; 64]], &mut [0; 128]);
    }

    #[test]
    #[should_panic(expected = "not a multiple of 64")]
    fn odd_lengths_are_refused() {
        Kernel::best().xor_into(&[0; 65], &mut [0; 65]);
    }

    #[test]
    #[should_panic(expected = "too few factors")]
    fn missing_factors_are_refused() {
        Kernel::best().combine(
            &[1; 5],
            2,
            &[[0u8; 64].as_slice(); 3],
            &mut [&mut [0; 64], &mut [0; 64]],
        );
    }
}
