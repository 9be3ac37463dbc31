//! The kernel for AVX2: 32 bytes in a register, 64 to 256 a step.
//!
//! A product with a constant is two byte shuffles, one for each half of the byte (see the tables in
//! `gf256.rs`). Sums stay in registers until all sources of a step are in, so every block is read
//! once for each group of four targets, and a target is written once.

use std::arch::x86_64::{
    __m256i, _mm_loadu_si128, _mm256_add_epi8, _mm256_and_si256, _mm256_broadcastsi128_si256,
    _mm256_cmpgt_epi8, _mm256_loadu_si256, _mm256_set1_epi8, _mm256_setzero_si256,
    _mm256_shuffle_epi8, _mm256_srli_epi16, _mm256_storeu_si256, _mm256_xor_si256,
};

use super::super::gf256::{NIBBLES, REDUCTION};
use super::{GRAIN, GRANULE, Kernel};

/// The table of this kernel, on machines that have AVX2.
///
/// The functions below are private and reachable by this table alone: that is what makes their
/// calls of AVX2 code sound.
pub(super) fn kernel() -> Option<&'static Kernel> {
    static KERNEL: Kernel = Kernel { name: "avx2", xor_into, xor_sum, p_and_q, mul_add, combine };
    is_x86_feature_detected!("avx2").then_some(&KERNEL)
}

fn xor_into(source: &[u8], target: &mut [u8]) {
    // SAFETY: the table that holds this function is only given out where AVX2 was detected.
    unsafe { xor_into_avx2(source, target) }
}

fn xor_sum(sources: &[&[u8]], target: &mut [u8]) {
    // SAFETY: as in `xor_into`.
    unsafe { xor_sum_avx2(sources, target) }
}

fn p_and_q(sources: &[&[u8]], p: &mut [u8], q: &mut [u8]) {
    // SAFETY: as in `xor_into`.
    unsafe { p_and_q_avx2(sources, p, q) }
}

fn mul_add(factors: &[u8], source: &[u8], targets: &mut [&mut [u8]]) {
    for (factors, targets) in factors.chunks(4).zip(targets.chunks_mut(4)) {
        // SAFETY: as in `xor_into`.
        unsafe {
            match targets {
                [a, b, c, d] => mul_add_avx2(factors, source, [a, b, c, d]),
                [a, b, c] => mul_add_avx2(factors, source, [a, b, c]),
                [a, b] => mul_add_avx2(factors, source, [a, b]),
                [a] => mul_add_avx2(factors, source, [a]),
                _ => {}
            }
        }
    }
}

fn combine(factors: &[u8], stride: usize, sources: &[&[u8]], targets: &mut [&mut [u8]]) {
    for (group, targets) in targets.chunks_mut(4).enumerate() {
        let factors = factors.get(group * 4..).unwrap_or(&[]);
        // SAFETY: as in `xor_into`.
        unsafe {
            match targets {
                [a, b, c, d] => combine_avx2(factors, stride, sources, [a, b, c, d]),
                [a, b, c] => combine_avx2(factors, stride, sources, [a, b, c]),
                [a, b] => combine_avx2(factors, stride, sources, [a, b]),
                [a] => combine_avx2(factors, stride, sources, [a]),
                _ => {}
            }
        }
    }
}

/// The bytes in a register.
const WIDTH: usize = size_of::<__m256i>();

/// The bytes of one step, in `R` registers.
type Step<const R: usize> = [__m256i; R];

/// The `R` registers' worth of bytes from `at`.
#[inline]
#[target_feature(enable = "avx2")]
fn load<const R: usize>(block: &[u8], at: usize) -> Step<R> {
    let bytes = &block[at..at + R * WIDTH];
    let mut step = zero();
    for (i, register) in step.iter_mut().enumerate() {
        // SAFETY: `bytes` is R registers long and `i` is below R, so a whole register can be read
        // there; `loadu` needs no alignment.
        *register = unsafe { _mm256_loadu_si256(bytes.as_ptr().add(i * WIDTH).cast()) };
    }
    step
}

#[inline]
#[target_feature(enable = "avx2")]
fn store<const R: usize>(value: Step<R>, block: &mut [u8], at: usize) {
    let bytes = &mut block[at..at + R * WIDTH];
    for (i, register) in value.into_iter().enumerate() {
        // SAFETY: `bytes` is R registers long and `i` is below R, so a whole register can be
        // written there; `storeu` needs no alignment.
        unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().add(i * WIDTH).cast(), register) };
    }
}

/// 16 bytes of a table, in both halves of a register.
#[inline]
#[target_feature(enable = "avx2")]
fn table(bytes: &[u8; 16]) -> __m256i {
    // SAFETY: the array is 16 readable bytes; `loadu` needs no alignment.
    _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) })
}

#[inline]
#[target_feature(enable = "avx2")]
fn zero<const R: usize>() -> Step<R> {
    [_mm256_setzero_si256(); R]
}

#[inline]
#[target_feature(enable = "avx2")]
fn xor<const R: usize>(mut a: Step<R>, b: Step<R>) -> Step<R> {
    for i in 0..R {
        a[i] = _mm256_xor_si256(a[i], b[i]);
    }
    a
}

/// Doubles every byte in the field. As signed numbers, the bytes whose highest bit falls out are
/// those below zero.
#[inline]
#[target_feature(enable = "avx2")]
fn double<const R: usize>(mut a: Step<R>) -> Step<R> {
    for part in &mut a {
        let falls_out = _mm256_cmpgt_epi8(_mm256_setzero_si256(), *part);
        let reduction = _mm256_and_si256(falls_out, _mm256_set1_epi8(REDUCTION as i8));
        *part = _mm256_xor_si256(_mm256_add_epi8(*part, *part), reduction);
    }
    a
}

/// The low and the high halves of all bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn split<const R: usize>(a: Step<R>) -> [Step<R>; 2] {
    let mask = _mm256_set1_epi8(0x0f);
    let (mut low, mut high) = (a, a);
    for i in 0..R {
        low[i] = _mm256_and_si256(a[i], mask);
        high[i] = _mm256_and_si256(_mm256_srli_epi16::<4>(a[i]), mask);
    }
    [low, high]
}

/// `factor` times the bytes whose halves are given.
#[inline]
#[target_feature(enable = "avx2")]
fn multiply<const R: usize>(factor: u8, [low, high]: [Step<R>; 2]) -> Step<R> {
    let nibbles = &NIBBLES[usize::from(factor)];
    let (of_low, of_high) = (table(&nibbles.low), table(&nibbles.high));
    let mut product = low;
    for i in 0..R {
        product[i] = _mm256_xor_si256(
            _mm256_shuffle_epi8(of_low, low[i]),
            _mm256_shuffle_epi8(of_high, high[i]),
        );
    }
    product
}

/// Runs the body over a block: steps of `$wide` registers, then, for what is left, of one granule.
/// In the body `$at` is the place and `$registers` the number, a constant.
macro_rules! steps {
    ($len:expr, $wide:literal, |$at:ident, $registers:ident| $body:block) => {{
        let (len, mut $at) = ($len, 0);
        {
            const $registers: usize = $wide;
            while len - $at >= $registers * WIDTH {
                $body
                $at += $registers * WIDTH;
            }
        }
        const $registers: usize = GRANULE / WIDTH;
        while $at < len {
            $body
            $at += GRANULE;
        }
    }};
}

#[target_feature(enable = "avx2")]
fn xor_into_avx2(source: &[u8], target: &mut [u8]) {
    let granules = target.len() / GRANULE * GRANULE;
    steps!(granules, 8, |at, R| {
        store(xor(load::<R>(target, at), load::<R>(source, at)), target, at);
    });
    let rest = target[granules..].as_chunks_mut::<GRAIN>().0.iter_mut();
    for (t, s) in rest.zip(source[granules..].as_chunks().0) {
        *t = (u128::from_ne_bytes(*t) ^ u128::from_ne_bytes(*s)).to_ne_bytes();
    }
}

#[target_feature(enable = "avx2")]
fn xor_sum_avx2(sources: &[&[u8]], target: &mut [u8]) {
    steps!(target.len(), 8, |at, R| {
        let mut sum = zero::<R>();
        for source in sources {
            sum = xor(sum, load(source, at));
        }
        store(sum, target, at);
    });
}

/// Q by Horner's rule: from the last source to the first, double what is there and add.
#[target_feature(enable = "avx2")]
fn p_and_q_avx2(sources: &[&[u8]], p: &mut [u8], q: &mut [u8]) {
    steps!(p.len(), 4, |at, R| {
        let (mut p_sum, mut q_sum) = (zero::<R>(), zero::<R>());
        for source in sources.iter().rev() {
            let data = load(source, at);
            p_sum = xor(p_sum, data);
            q_sum = xor(double(q_sum), data);
        }
        store(p_sum, p, at);
        store(q_sum, q, at);
    });
}

/// All targets of a step are loaded before the first is stored: blocks of a row often lie 4 KiB
/// apart, and a store would keep the loads behind it waiting.
#[target_feature(enable = "avx2")]
fn mul_add_avx2<const N: usize>(factors: &[u8], source: &[u8], targets: [&mut [u8]; N]) {
    let factors: &[u8; N] = factors.first_chunk().expect("a target has no factor");
    for at in (0..source.len()).step_by(GRANULE) {
        let halves = split::<2>(load(source, at));
        let mut sums = [zero(); N];
        for i in 0..N {
            sums[i] = xor(load(targets[i], at), multiply(factors[i], halves));
        }
        for i in 0..N {
            store(sums[i], targets[i], at);
        }
    }
}

#[target_feature(enable = "avx2")]
fn combine_avx2<const N: usize>(
    factors: &[u8],
    stride: usize,
    sources: &[&[u8]],
    targets: [&mut [u8]; N],
) {
    let len = targets.first().map_or(0, |target| target.len());
    for at in (0..len).step_by(GRANULE) {
        let mut sums = [zero(); N];
        for (j, source) in sources.iter().enumerate() {
            let factors: &[u8; N] =
                factors[j * stride..].first_chunk().expect("a source has too few factors");
            let halves = split::<2>(load(source, at));
            for i in 0..N {
                sums[i] = xor(sums[i], multiply(factors[i], halves));
            }
        }
        for i in 0..N {
            store(sums[i], targets[i], at);
        }
    }
}
