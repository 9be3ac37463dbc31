//! The field GF(2^8) of Linux's raid6.
//!
//! An element is a polynomial of degree at most 7 over GF(2), bit `i` of the byte being the
//! coefficient of `x^i`. Addition is XOR; multiplication is that of polynomials, reduced modulo
//! `x^8 + x^4 + x^3 + x^2 + 1`, 0x11d. This polynomial is primitive: the element 2, which is `x`,
//! runs through all 255 non-zero elements before it comes back to 1, so every one of them is a
//! power of 2 (H. P. Anvin, "The mathematics of RAID-6").
//!
//! The tables are made by the compiler, from doubling alone:
//!
//! * `EXP[i] = 2^i`, each entry the double of the one before. 2^255 is 1 again, and the table
//!   goes on to 2^509 so that a sum of two logarithms needs no reduction.
//! * `LOG` is its inverse. Zero has no logarithm; its entry is never used.
//! * `MUL[a][b] = a * b`, by `2^i * 2^j = 2^(i + j)`. A row is what a scalar kernel needs.
//! * `NIBBLES[a]` holds `a * b` for `b` below 16, then `a * (16 * b)`. Since multiplication by a
//!   constant is linear, `a * b` is the XOR of the entry of b's low half and that of its high
//!   half: two look-ups in a register for kernels with a byte shuffle (J. S. Plank, K. M. Greenan
//!   and E. L. Miller, "Screaming Fast Galois Field Arithmetic Using Intel SIMD Instructions").

/// The reduction of `x^8`: the field's polynomial without its highest term.
pub(super) const REDUCTION: u8 = 0x1d;

/// The number of non-zero elements, which is the order of the element 2.
pub(super) const ORDER: usize = 255;

/// `2 * a`.
pub(super) const fn double(a: u8) -> u8 {
    (a << 1) ^ (if a & 0x80 != 0 { REDUCTION } else { 0 })
}

const EXP: [u8; 2 * ORDER] = {
    let mut table = [0; 2 * ORDER];
    let mut power = 1;
    let mut i = 0;
    while i < table.len() {
        table[i] = power;
        power = double(power);
        i += 1;
    }
    table
};

const LOG: [u8; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < ORDER {
        table[EXP[i] as usize] = i as u8;
        i += 1;
    }
    table
};

/// `MUL[a][b]` is `a * b`.
pub(super) static MUL: [[u8; 256]; 256] = {
    let mut table = [[0; 256]; 256];
    let mut a = 1;
    while a < 256 {
        let mut b = 1;
        while b < 256 {
            table[a][b] = EXP[LOG[a] as usize + LOG[b] as usize];
            b += 1;
        }
        a += 1;
    }
    table
};

/// The two halves of a multiplication by a constant; see the head of the file. Aligned so that no
/// entry crosses a cache line.
#[repr(C, align(32))]
#[derive(Clone, Copy)]
pub(super) struct Nibbles {
    /// The products with 0, 1, .. 15.
    pub(super) low: [u8; 16],
    /// The products with 0, 16, .. 240.
    pub(super) high: [u8; 16],
}

/// `NIBBLES[a]` is the table of the multiplication by `a`.
pub(super) static NIBBLES: [Nibbles; 256] = {
    let mut table = [Nibbles { low: [0; 16], high: [0; 16] }; 256];
    let mut a = 1;
    while a < 256 {
        let mut b = 1;
        while b < 16 {
            table[a].low[b] = EXP[LOG[a] as usize + LOG[b] as usize];
            table[a].high[b] = EXP[LOG[a] as usize + LOG[b << 4] as usize];
            b += 1;
        }
        a += 1;
    }
    table
};

/// `a * b`.
pub(super) fn mul(a: u8, b: u8) -> u8 {
    MUL[usize::from(a)][usize::from(b)]
}

/// `1 / a`. Zero has no inverse: `a` must not be 0 (asserted in debug builds; else 1).
pub(super) fn inverse(a: u8) -> u8 {
    debug_assert_ne!(a, 0, "zero has no inverse");
    EXP[ORDER - usize::from(LOG[usize::from(a)])]
}

/// `2^exponent`, for any exponent.
pub(super) fn power_of_two(exponent: usize) -> u8 {
    EXP[exponent % ORDER]
}

/// Multiplication bit by bit, straight from the definition: what the tables are tested with.
#[cfg(test)]
pub(super) fn mul_by_definition(a: u8, b: u8) -> u8 {
    let mut product: u32 = 0;
    for bit in 0..8 {
        if b >> bit & 1 == 1 {
            product ^= u32::from(a) << bit;
        }
    }
    for degree in (8..15).rev() {
        if product >> degree & 1 == 1 {
            product ^= 0x11d << (degree - 8);
        }
    }
    product as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_hold_the_products_of_the_definition() {
        for a in 0..=255u8 {
            assert_eq!(double(a), mul_by_definition(a, 2));
            for b in 0..=255u8 {
                let product = mul_by_definition(a, b);
                assert_eq!(mul(a, b), product, "{a} * {b}");
                let nibbles = &NIBBLES[usize::from(a)];
                let halves = nibbles.low[usize::from(b & 15)] ^ nibbles.high[usize::from(b >> 4)];
                assert_eq!(halves, product, "{a} * {b} by halves");
            }
        }
    }

    #[test]
    fn every_element_but_zero_has_its_inverse() {
        for a in 1..=255u8 {
            assert_eq!(mul_by_definition(a, inverse(a)), 1);
        }
    }

    #[test]
    fn two_generates_the_field() {
        let mut seen = [false; 256];
        let mut power = 1;
        for i in 0..ORDER {
            assert_eq!(power_of_two(i), power);
            assert_eq!(power_of_two(i + ORDER), power);
            assert!(!seen[usize::from(power)]);
            seen[usize::from(power)] = true;
            power = mul_by_definition(power, 2);
        }
        assert_eq!(power, 1);
    }
}
