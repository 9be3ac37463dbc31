//! The plain kernel: no instruction beyond what every machine has, and no `unsafe`. It is the
//! oracle of the other kernels.
//!
//! XOR and doubling work on words of eight or sixteen bytes, which the compiler widens further; multiplication
//! looks every byte up in the row of the table that belongs to the factor.

use super::super::gf256::{MUL, REDUCTION};
use super::{GRAIN, GRANULE, Kernel};

/// The table of this kernel.
pub(super) static KERNEL: Kernel =
    Kernel { name: "scalar", xor_into, xor_sum, p_and_q, mul_add, combine };

/// A step of 64 bytes, as words.
type Words = [u64; GRANULE / 8];

fn load(block: &[u8], step: usize) -> Words {
    let bytes = &block[step * GRANULE..][..GRANULE];
    let (words, _) = bytes.as_chunks::<8>();
    std::array::from_fn(|i| u64::from_ne_bytes(words[i]))
}

fn store(words: Words, block: &mut [u8], step: usize) {
    let bytes = &mut block[step * GRANULE..][..GRANULE];
    for (place, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words) {
        *place = word.to_ne_bytes();
    }
}

fn xor(a: Words, b: Words) -> Words {
    std::array::from_fn(|i| a[i] ^ b[i])
}

/// Doubles every byte in the field: shift each to the left, and where a byte's highest bit falls
/// out, add the reduction to that byte. A byte that is 0 or 1 times the reduction stays within
/// itself, so eight of them can be multiplied at once.
fn double(a: Words) -> Words {
    const HIGH: u64 = 0x8080_8080_8080_8080;
    a.map(|word| ((word & !HIGH) << 1) ^ (((word & HIGH) >> 7) * u64::from(REDUCTION)))
}

fn xor_into(source: &[u8], target: &mut [u8]) {
    for (t, s) in target.as_chunks_mut::<GRAIN>().0.iter_mut().zip(source.as_chunks().0) {
        *t = (u128::from_ne_bytes(*t) ^ u128::from_ne_bytes(*s)).to_ne_bytes();
    }
}

fn xor_sum(sources: &[&[u8]], target: &mut [u8]) {
    for step in 0..target.len() / GRANULE {
        let sum = sources.iter().fold(Words::default(), |sum, s| xor(sum, load(s, step)));
        store(sum, target, step);
    }
}

/// Q by Horner's rule: from the last source to the first, double what is there and add.
fn p_and_q(sources: &[&[u8]], p: &mut [u8], q: &mut [u8]) {
    for step in 0..p.len() / GRANULE {
        let (mut p_sum, mut q_sum) = (Words::default(), Words::default());
        for source in sources.iter().rev() {
            let data = load(source, step);
            p_sum = xor(p_sum, data);
            q_sum = xor(double(q_sum), data);
        }
        store(p_sum, p, step);
        store(q_sum, q, step);
    }
}

fn mul_add(factors: &[u8], source: &[u8], targets: &mut [&mut [u8]]) {
    for (factor, target) in factors.iter().zip(targets) {
        let products = &MUL[usize::from(*factor)];
        for (t, s) in target.iter_mut().zip(source) {
            *t ^= products[usize::from(*s)];
        }
    }
}

fn combine(factors: &[u8], stride: usize, sources: &[&[u8]], targets: &mut [&mut [u8]]) {
    targets.iter_mut().for_each(|target| target.fill(0));
    for (j, source) in sources.iter().enumerate() {
        mul_add(&factors[j * stride..][..targets.len()], source, targets);
    }
}
