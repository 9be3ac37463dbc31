//! Every kernel against the plain one: encode, update, reconstruct, in any shape.

use evenkeel_raid::codec::kernels::{GRANULE, Kernel};
use evenkeel_raid::codec::{Code, Level};
use evenkeel_tests::rng::Rng;

use crate::choices::Choices;

pub fn seeds() -> Vec<Vec<u8>> {
    let shapes: [[u8; 3]; 7] =
        [[0, 1, 3], [1, 5, 1], [2, 4, 2], [3, 4, 2], [3, 20, 2], [4, 4, 12], [4, 40, 7]];
    shapes.iter().map(|s| [&s[..], &[2, 1, 2, 3, 4, 5, 6, 7, 8, 9]].concat()).collect()
}

fn shared(blocks: &[Vec<u8>]) -> Vec<&[u8]> {
    blocks.iter().map(|b| &b[1..]).collect()
}

fn exclusive(blocks: &mut [Vec<u8>]) -> Vec<&mut [u8]> {
    blocks.iter_mut().map(|b| &mut b[1..]).collect()
}

pub fn differential(input: &[u8]) {
    let mut c = Choices::new(input);
    let level = Level::ALL[c.below(5)];
    let (k, m) = (usize::from(c.byte()), usize::from(c.byte()));
    // Shapes that a level does not have are bent to one that it has.
    let (k, m) = match level {
        Level::Raid1 => (1, 1 + m % 6),
        Level::Raid5 => (1 + k % 64, 1),
        Level::Raid6 | Level::Evenodd => (1 + k % 64, 2),
        Level::Rs => (1 + k % 48, 1 + m % 20),
    };
    let granule = if level == Level::Evenodd { 4096 } else { GRANULE };
    let len = granule * (1 + c.below(if level == Level::Evenodd { 2 } else { 9 }));
    // A shortened code, now and then.
    let columns = if c.one_in(4) { 1 + c.below(k) } else { k };
    let rows = if c.one_in(4) { 1 + c.below(m) } else { m };
    let mut rng = Rng::new(u64::from(c.u32()));
    let mut block = || -> Vec<u8> { (0..=len).map(|_| rng.draw() as u8).collect() };
    // Buffers begin at odd addresses: byte 0 of each is not used.
    let mut data: Vec<Vec<u8>> = (0..columns).map(|_| block()).collect();
    let rubbish = block();
    let column = c.below(columns);
    let delta = block();
    let mut lost: Vec<usize> = (0..c.below(rows + 1)).map(|_| c.below(columns + rows)).collect();
    lost.sort_unstable();
    lost.dedup();
    let also = c.below(columns + rows);

    let all: Vec<Code> = Kernel::available()
        .into_iter()
        .rev()
        .map(|kernel| Code::with_kernel(level, k, m, kernel).expect("a shape that it has"))
        .collect();
    let encoded: Vec<Vec<Vec<u8>>> = all
        .iter()
        .map(|code| {
            let mut parity = vec![rubbish.clone(); rows];
            code.encode(&shared(&data), &mut exclusive(&mut parity));
            parity
        })
        .collect();
    for (code, parity) in all.iter().zip(&encoded) {
        assert!(*parity == encoded[0], "{code:?} encodes otherwise than {:?}", all[0]);
    }
    // The parity of the change, added, is the parity of what has changed.
    let mut parity = encoded[0].clone();
    data[column].iter_mut().zip(&delta).for_each(|(d, x)| *d ^= x);
    all[0].encode(&shared(&data), &mut exclusive(&mut parity));
    for code in &all {
        let mut updated = encoded[0].clone();
        code.update(column, &delta[1..], &mut exclusive(&mut updated));
        let same = updated.iter().zip(&parity).all(|(a, b)| a[1..] == b[1..]);
        assert!(same, "{code:?} updates column {column} otherwise than it is encoded");
    }
    // Any erasure of as many columns as there are parities comes back, and what is there is copied.
    let row: Vec<Vec<u8>> = data.into_iter().chain(parity).collect();
    let mut wanted = lost.clone();
    if !wanted.contains(&also) {
        wanted.push(also);
    }
    for code in &all {
        let shards: Vec<Option<&[u8]>> =
            row.iter().enumerate().map(|(i, b)| (!lost.contains(&i)).then_some(&b[1..])).collect();
        let mut out = vec![rubbish.clone(); wanted.len()];
        let done = code.reconstruct(columns, &shards, &wanted, &mut exclusive(&mut out));
        assert!(done.is_ok(), "{code:?} without {lost:?}: {done:?}");
        for (i, b) in wanted.iter().zip(&out) {
            assert!(b[1..] == row[*i][1..], "{code:?} without {lost:?}: column {i} is wrong");
        }
    }
}
