//! Seeded random numbers: the only source of chance in the simulator.

/// Spreads the bits of `x` over 64 bits; every input has its own output ([`unmix`] inverts it).
#[must_use]
pub fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The `x` that [`mix`] made `y` of.
#[must_use]
pub fn unmix(mut y: u64) -> u64 {
    y ^= (y >> 31) ^ (y >> 62);
    y = y.wrapping_mul(0x3196_42b2_d24d_8ec3);
    y ^= (y >> 27) ^ (y >> 54);
    y = y.wrapping_mul(0x96de_1b17_3f11_9089);
    y ^ (y >> 30) ^ (y >> 60)
}

/// One number out of several: a seed for what depends on all of them.
#[must_use]
pub fn hash(parts: &[u64]) -> u64 {
    parts.iter().fold(0x9e37_79b9_7f4a_7c15, |h, p| mix(h ^ mix(p.wrapping_add(0x1234_5678_9abc))))
}

/// The same, of a text.
#[must_use]
pub fn hash_text(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| mix(h ^ u64::from(b)))
}

/// A stream of random numbers (SplitMix64).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The stream of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Rng {
        Rng(mix(seed ^ 0x5bd1_e995_97f4_a7c1))
    }

    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `n`; 0 for `n` = 0.
    pub fn below(&mut self, n: u64) -> u64 {
        if n == 0 { 0 } else { ((u128::from(self.draw()) * u128::from(n)) >> 64) as u64 }
    }

    /// An index below `n`.
    pub fn index(&mut self, n: usize) -> usize {
        self.below(n as u64) as usize
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// Shuffles a list.
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for i in (1..list.len()).rev() {
            list.swap(i, self.index(i + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixing_can_be_undone() {
        let mut r = Rng::new(1);
        for _ in 0..1000 {
            let x = r.draw();
            assert_eq!(unmix(mix(x)), x);
        }
    }

    #[test]
    fn a_seed_is_a_stream() {
        let (mut a, mut b) = (Rng::new(7), Rng::new(7));
        assert!((0..100).all(|_| a.draw() == b.draw()));
        assert!((0..1000).all(|_| a.below(10) < 10));
    }
}
