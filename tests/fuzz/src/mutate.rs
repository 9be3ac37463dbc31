//! Changes to an input, by chance: what a run without coverage lives on.

use evenkeel_tests::rng::Rng;

/// Longest input that is made.
const LONGEST: usize = 32 << 10;

/// Numbers at which code goes wrong.
const TELLING: [u64; 14] = [
    0,
    1,
    2,
    7,
    0x7f,
    0xff,
    0x100,
    0xfff,
    0x1000,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 40,
    u64::MAX / 2,
    u64::MAX,
];

/// Another input, made of `from`, and perhaps of a part of `other`.
pub fn mutate(rng: &mut Rng, from: &[u8], other: &[u8]) -> Vec<u8> {
    let mut b = from.to_vec();
    for _ in 0..=rng.index(6) {
        change(rng, &mut b, other);
    }
    b.truncate(LONGEST);
    b
}

fn change(rng: &mut Rng, b: &mut Vec<u8>, other: &[u8]) {
    let at = rng.index(b.len());
    match rng.below(10) {
        0 if !b.is_empty() => b[at] ^= 1 << rng.below(8),
        1 if !b.is_empty() => b[at] = rng.draw() as u8,
        2 => b.insert(at, rng.draw() as u8),
        3 if !b.is_empty() => {
            let end = (at + 1 + rng.index(16)).min(b.len());
            b.drain(at..end);
        }
        // A field: where fields are, and as wide as they are.
        4..=6 if !b.is_empty() => {
            let width = [1, 2, 4, 8][rng.index(4)];
            let at = if rng.one_in(4) { at } else { at / width * width };
            let mut value = TELLING[rng.index(TELLING.len())];
            if rng.one_in(3) {
                value = value.wrapping_add(rng.below(9)).wrapping_sub(4);
            }
            let little = value.to_le_bytes();
            let big = &value.to_be_bytes()[8 - width..];
            let bytes = if rng.one_in(4) { big } else { &little[..width] };
            let end = (at + width).min(b.len());
            b[at..end].copy_from_slice(&bytes[..end - at]);
        }
        7 if !other.is_empty() => {
            let from = rng.index(other.len());
            let part = &other[from..(from + 1 + rng.index(64)).min(other.len())];
            let end = (at + part.len()).min(b.len());
            b.splice(at..end, part.iter().copied());
        }
        8 if !b.is_empty() => {
            let part = b[at..(at + 1 + rng.index(32)).min(b.len())].to_vec();
            let to = rng.index(b.len());
            b.splice(to..to, part);
        }
        _ => b.truncate(at),
    }
}
