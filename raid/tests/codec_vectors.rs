//! Known answers: parity that another program, which shares nothing with this one, worked out from the
//! definitions. Parity is on disks, so neither the code nor its tests may drift.
//!
//! Byte `i` of data column `j` is `31 i + 17 j + 5 (i / 256) + 3`, modulo 256, in blocks of 4096 bytes;
//! the answers are the CRC32Cs of the two parity blocks and the first four bytes of the second.

use evenkeel_raid::codec::kernels::Kernel;
use evenkeel_raid::codec::{Code, Level};

fn data(k: usize) -> Vec<Vec<u8>> {
    let byte = |i: usize, j: usize| (31 * i + 17 * j + 5 * (i >> 8) + 3) as u8;
    (0..k).map(|j| (0..4096).map(|i| byte(i, j)).collect()).collect()
}

type Answer = (usize, u32, u32, [u8; 4]);

fn check(level: Level, answers: &[Answer]) {
    for (k, p_crc, q_crc, q_begins) in answers {
        let data = data(*k);
        let views: Vec<&[u8]> = data.iter().map(|d| &d[..]).collect();
        for kernel in Kernel::available() {
            let code = Code::with_kernel(level, *k, 2, kernel).expect("a shape of the level");
            let (mut p, mut q) = (vec![0; 4096], vec![0; 4096]);
            code.encode(&views, &mut [&mut p, &mut q]);
            assert_eq!(crc32c::crc32c(&p), *p_crc, "P of {code:?}");
            assert_eq!(crc32c::crc32c(&q), *q_crc, "Q of {code:?}");
            assert_eq!(q[..4], *q_begins, "Q of {code:?}");
        }
    }
}

/// Linux's P and Q: GF(2^8) modulo 0x11d, generator 2.
const RAID6: [Answer; 5] = [
    (1, 0x1c36_cd6a, 0x1c36_cd6a, [3, 34, 65, 96]),
    (4, 0x5f75_d8c7, 0x4854_2de9, [18, 219, 243, 92]),
    (10, 0x7586_da02, 0xd776_f9da, [74, 41, 24, 178]),
    (40, 0x1d55_4fce, 0xe284_217b, [73, 98, 183, 121]),
    (253, 0x7de7_f63a, 0x4c7d_19fa, [182, 70, 142, 202]),
];

/// EVENODD with p = 17 for the first five and p = 257 for the others.
const EVENODD: [Answer; 8] = [
    (1, 0x1c36_cd6a, 0x1c36_cd6a, [3, 34, 65, 96]),
    (2, 0xc5d1_dad3, 0x2ac0_b9c6, [92, 92, 220, 220]),
    (4, 0x5f75_d8c7, 0x0a33_49b6, [76, 84, 212, 212]),
    (16, 0x5c6c_e2fc, 0xd5a5_6b33, [236, 100, 36, 228]),
    (17, 0x07bc_b631, 0xedac_6efe, [231, 97, 35, 225]),
    (18, 0xbfbe_3196, 0xce95_1cb0, [105, 139, 169, 71]),
    (40, 0x1d55_4fce, 0x6455_c3e8, [6, 134, 130, 2]),
    (253, 0x7de7_f63a, 0x5b7f_f151, [151, 17, 83, 209]),
];

#[test]
fn raid6_gives_the_known_answers() {
    check(Level::Raid6, &RAID6);
    check(Level::Rs, &RAID6);
}

#[test]
fn evenodd_gives_the_known_answers() {
    check(Level::Evenodd, &EVENODD);
}
